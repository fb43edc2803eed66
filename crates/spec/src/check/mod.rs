//! The tables against each other: dangling names, clashes, numbers that can't hold together.

mod backups;
mod listeners;
mod nodes;
mod services;

use crate::diagnostic::Sink;
use crate::suggest::nearest;
use crate::table::{Named, Span, Table, Word};
use crate::types::Spec;

/// Names that a help lists at most.
const NAMES_LISTED_MAX: usize = 20;

/// Reports everything that is wrong between the tables of a file whose tables are right by themselves.
pub(crate) fn check(sink: &mut Sink<'_>, root: &Table, spec: &Spec) {
    let mut check = Check { sink, root, spec };
    check.nodes();
    check.goal();
    check.services();
    check.listeners();
    check.backups();
    check.rates();
}

struct Check<'a, 't> {
    sink: &'a mut Sink<'t>,
    root: &'a Table,
    spec: &'a Spec,
}

impl Check<'_, '_> {
    fn error(&mut self, span: Span, code: &str, message: String, help: impl Into<String>) {
        self.sink.error(span, code, message, Some(help.into()));
    }

    fn warning(&mut self, span: Span, code: &str, message: String, help: impl Into<String>) {
        self.sink.warning(span, code, message, Some(help.into()));
    }

    /// A name that nothing is declared under.
    fn dangling(&mut self, word: &Word, what: &str, known: &[String]) {
        let help = match nearest(&word.text, known.iter().map(String::as_str)) {
            Some(meant) if known.len() > 1 => format!("did you mean `{meant}`? ({})", listed(known)),
            Some(meant) => format!("did you mean `{meant}`?"),
            None if known.is_empty() => format!("the file declares no {what}"),
            None => format!("there are {}", listed(known)),
        };
        self.error(word.span.clone(), "dangling-name", format!("there is no {what} `{}`", word.text), help);
    }

    /// Each word of a list once.
    fn twice(&mut self, key: &str, words: &[Word]) {
        for (at, word) in words.iter().enumerate() {
            if words[..at].iter().any(|earlier| earlier.text == word.text) {
                let message = format!("`{key}` names `{}` twice", word.text);
                self.error(word.span.clone(), "duplicate-name", message, "name it once");
            }
        }
    }

    fn node_names(&self) -> Vec<String> {
        self.spec.nodes.keys().map(ToString::to_string).collect()
    }

    /// `[rates]`: numbers that only make sense together.
    fn rates(&mut self) {
        let Some(table) = self.root.table("rates") else { return };
        let rates = self.spec.rates;
        if let Some(span) = table.span("drills_failed")
            && rates.drills_failed > rates.drills
        {
            let message = format!("{} of {} drills can't have failed", rates.drills_failed, rates.drills);
            self.error(span, "impossible-number", message, "`drills` counts all of them, also those that failed");
        }
    }

    /// A path that must not depend on where the agent was started.
    fn absolute(&mut self, table: &Table, key: &str) {
        if let (Some(span), Some(path)) = (table.span(key), table.text(key))
            && !path.starts_with('/')
        {
            self.error(
                span,
                "wrong-path",
                format!("`{key}` wants a whole path, found \"{path}\""),
                "start it with `/`",
            );
        }
    }
}

/// The place of the first of these keys that the file states; else of the name.
fn place_of(named: &Named, keys: &[&str]) -> Span {
    keys.iter().find_map(|key| named.table.span(key)).unwrap_or_else(|| named.name.span.clone())
}

fn listed(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(NAMES_LISTED_MAX).map(|name| format!("`{name}`")).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
