//! The rules on text: each looks at one file and names its breaches. The tables say what; this file says how it is seen.

use super::source::Source;
use super::tables::{self, Rule};

/// One place where a rule is broken.
#[derive(Debug)]
pub struct Breach {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Which rule.
    pub rule: &'static Rule,
    /// What was seen.
    pub what: String,
}

/// All breaches of one Rust file.
pub fn check_source(source: &Source) -> Vec<Breach> {
    let mut found = Findings { source, breaches: Vec::new() };
    found.purity();
    found.unsafe_code();
    found.clock();
    found.goal();
    found.postgres();
    found.reuseport();
    found.words();
    found.getters();
    found.unfinished();
    found.breaches
}

/// Breaches of a page of documentation.
pub fn check_page(path: &str, text: &str) -> Vec<Breach> {
    if tables::WORD_LISTS.contains(&path) {
        return Vec::new();
    }
    let lines = text.lines().enumerate();
    lines
        .flat_map(|(n, line)| forbidden_words(line).into_iter().map(move |what| (n + 1, what)))
        .map(|(line, what)| Breach { path: path.to_owned(), line, rule: &tables::WORDS, what })
        .collect()
}

/// Paths of one machine, in any text file.
pub fn check_machine_paths(path: &str, text: &str) -> Vec<Breach> {
    // Split, so that this file does not breach its own rule.
    let needles = [concat!("/wo", "rk/"), concat!("/ho", "me/")];
    let starts_path = |line: &str, at: usize| {
        line[..at]
            .chars()
            .next_back()
            .is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | '~')))
    };
    let found = |line: &&str| {
        needles.into_iter().find(|needle| line.match_indices(needle).any(|(at, _)| starts_path(line, at)))
    };
    let lines = text.lines().enumerate().filter_map(|(n, line)| Some((n + 1, found(&line)?)));
    let breach = |(line, needle): (usize, &str)| Breach {
        path: path.to_owned(),
        line,
        rule: &tables::MACHINE_PATH,
        what: format!("a path under {}", needle.trim_end_matches('/')),
    };
    lines.map(breach).collect()
}

/// How many calls in production code end the process when they meet the unexpected.
pub fn panics(source: &Source) -> usize {
    let lines = source.code.iter().zip(&source.test).filter(|(_, test)| !**test);
    lines.map(|(line, _)| line.matches(".unwrap()").count() + line.matches(".expect(").count()).sum()
}

/// A warning, when the file is long.
pub fn long_file(source: &Source) -> Option<Breach> {
    let lines = source.production_lines();
    (lines > tables::FILE_LINES_MAX).then(|| Breach {
        path: source.path.clone(),
        line: 0,
        rule: &tables::LONG_FILE,
        what: format!("{lines} lines of production code, more than {}", tables::FILE_LINES_MAX),
    })
}

struct Findings<'a> {
    source: &'a Source,
    breaches: Vec<Breach>,
}

impl<'a> Findings<'a> {
    fn add(&mut self, index: usize, rule: &'static Rule, what: String) {
        self.breaches.push(Breach { path: self.source.path.clone(), line: index + 1, rule, what });
    }

    /// Lines of production code, with their index.
    fn production(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        let source = self.source;
        source.code.iter().enumerate().filter(|(n, _)| !source.test[*n]).map(|(n, line)| (n, line.as_str()))
    }

    fn purity(&mut self) {
        let dir = self.source.crate_dir();
        let pure = tables::CRATES.iter().any(|c| c.pure && c.dir == dir);
        let path = &self.source.path;
        if !pure || path.contains("/examples/") || path.contains("/benches/") {
            return;
        }
        for (index, line) in self.source.code.iter().enumerate() {
            let banned = |(name, tests): &&(&str, bool)| !(*tests && self.source.test[index]) && names(line, name);
            if let Some((name, _)) = tables::IMPURE.iter().find(banned) {
                self.add(index, &tables::PURITY, format!("`{name}` in the pure crate `{dir}`"));
            }
        }
    }

    fn unsafe_code(&mut self) {
        let path = &self.source.path;
        let named = tables::UNSAFE_MODULES.iter().any(|m| path == m || (m.ends_with('/') && path.starts_with(m)));
        for (index, line) in self.source.code.iter().enumerate() {
            let lifted = names(line, "unsafe_code") && (names(line, "allow") || names(line, "expect"));
            if !named && (names(line, "unsafe") || lifted) {
                self.add(index, &tables::UNSAFE, "unsafe code outside the named modules".to_owned());
            }
            let needs_reason = line.contains("unsafe {") || line.contains("unsafe impl");
            if named && needs_reason && !has_reason(&self.source.comments, index) {
                self.add(index, &tables::SAFETY, "an unsafe block without its reason".to_owned());
            }
        }
    }

    fn clock(&mut self) {
        let dir = self.source.crate_dir();
        let home = format!("crates/{dir}/src/clock.rs");
        if self.source.path == home || tables::CLOCK_FREE.contains(&dir) {
            return;
        }
        for (index, line) in self.production() {
            if let Some(name) = tables::CLOCK_READS.iter().find(|name| names(line, name)) {
                self.add(index, &tables::CLOCK, format!("`{name}` outside {home}"));
            }
        }
    }

    fn goal(&mut self) {
        if tables::GOAL_MAKERS.contains(&self.source.crate_dir()) {
            return;
        }
        for (index, line) in self.production() {
            if makes_goal(line) {
                self.add(index, &tables::GOAL, "a `Goal` is made outside `failover`".to_owned());
            }
        }
    }

    fn postgres(&mut self) {
        let dir = self.source.crate_dir();
        if tables::POSTGRES_SPEAKERS.contains(&dir) {
            return;
        }
        for (index, line) in self.source.strings.iter().enumerate() {
            let seen = tables::POSTGRES_TEXTS.iter().find(|text| line.contains(*text));
            if let (Some(text), false) = (seen, self.source.test[index]) {
                self.add(index, &tables::POSTGRES, format!("`{}` in a string of `{dir}`", text.trim()));
            }
        }
    }

    fn reuseport(&mut self) {
        if self.source.crate_dir() != "balancer" {
            return;
        }
        for (index, line) in self.production() {
            let flat = line.to_ascii_lowercase().replace('_', "");
            if flat.contains("reuseport") {
                self.add(
                    index,
                    &tables::REUSEPORT,
                    "the socket option that lets two processes share a port".to_owned(),
                );
            }
        }
    }

    fn words(&mut self) {
        if tables::WORD_LISTS.contains(&self.source.path.as_str()) {
            return;
        }
        for (index, (code, comment)) in self.source.code.iter().zip(&self.source.comments).enumerate() {
            for what in forbidden_words(code).into_iter().chain(forbidden_words(comment)) {
                self.add(index, &tables::WORDS, what);
            }
        }
    }

    /// Only what is `pub` is ours to name: the methods of a foreign trait are not.
    fn getters(&mut self) {
        for (index, line) in self.production() {
            let name = line.split_once("fn get_").map(|(before, _)| before.trim_start());
            if name.is_some_and(|before| before.starts_with("pub")) {
                self.add(index, &tables::GETTERS, "a public function begins with `get_`".to_owned());
            }
        }
    }

    fn unfinished(&mut self) {
        for (index, line) in self.source.code.iter().enumerate() {
            if let Some(name) = ["todo!", "unimplemented!"].iter().find(|name| names(line, name)) {
                self.add(index, &tables::UNFINISHED, format!("`{name}`"));
            }
            let squeezed = line.replace(' ', "");
            if squeezed.contains("#[ignore]") || squeezed.contains("#[ignore=") {
                self.add(index, &tables::IGNORED, "a test that never runs".to_owned());
            }
        }
    }
}

/// How far above a block its reason may begin: a paragraph, not a page.
const REASON_LINES_MAX: usize = 8;

fn has_reason(comments: &[String], index: usize) -> bool {
    comments[index.saturating_sub(REASON_LINES_MAX)..=index].iter().any(|line| line.contains("SAFETY"))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `line` names `name` as whole words, written out or inside an import group (`std::time::{Duration, Instant}`).
fn names(line: &str, name: &str) -> bool {
    if has_word(line, name) {
        return true;
    }
    let Some((parent, leaf)) = name.rsplit_once("::") else { return false };
    let group = format!("{parent}::{{");
    let inside = line.split_once(&group).map(|(_, rest)| rest.split_once('}').map_or(rest, |(inside, _)| inside));
    inside.is_some_and(|inside| has_word(inside, leaf))
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !(before.is_some_and(is_word) || after.is_some_and(is_word) && word.ends_with(is_word))
    })
}

/// A literal `Goal { … }`, not a type, a reference to one or a pattern.
fn makes_goal(line: &str) -> bool {
    let of_a_type = ["struct", "impl", "for", "->", "let", "&"];
    line.match_indices("Goal {").any(|(at, _)| {
        let before = line[..at].trim_end_matches("backstay_model::goal::").trim_end_matches("goal::");
        let after = line[at..].split_once('}').map_or("", |(_, rest)| rest.trim_start_matches([')', ' ']));
        let inner_word = before.ends_with(is_word);
        let typed = of_a_type.iter().any(|word| before.trim_end().ends_with(word));
        let pattern = after.starts_with("=>") || (after.starts_with('=') && !after.starts_with("=="));
        !inner_word && !typed && !pattern
    })
}

/// Each forbidden word in the text, with the word to use instead.
fn forbidden_words(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase();
    if !tables::FORBIDDEN_WORDS.iter().any(|(word, _)| lower.contains(word)) {
        return Vec::new();
    }
    let own = without_foreign_terms(text);
    let parts = own.split(|c: char| !c.is_alphanumeric()).flat_map(camel_parts);
    let hit = |part: String| tables::FORBIDDEN_WORDS.iter().find(|(word, _)| *word == part);
    parts.filter_map(hit).map(|(word, instead)| format!("`{word}`; say {instead}")).collect()
}

fn without_foreign_terms(text: &str) -> String {
    let mut own = text.to_owned();
    for term in tables::FOREIGN_TERMS {
        while let Some(at) = own.to_ascii_lowercase().find(term) {
            own.replace_range(at..at + term.len(), &" ".repeat(term.len()));
        }
    }
    own
}

/// `LeaseHolder` → `lease`, `holder`; `HTTP` → `http`.
fn camel_parts(word: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut after_lower = false;
    for c in word.chars() {
        if c.is_uppercase() && after_lower {
            parts.push(String::new());
        }
        after_lower = c.is_lowercase() || c.is_numeric();
        if let Some(last) = parts.last_mut() {
            last.extend(c.to_lowercase());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the rules that fire on `text`, once each, in order.
    fn fired(path: &str, text: &str) -> Vec<&'static str> {
        let mut names: Vec<_> = check_source(&Source::new(path, text)).iter().map(|b| b.rule.name).collect();
        names.dedup();
        names
    }

    #[test]
    fn pure_crates_touch_nothing() {
        let path = "crates/failover/src/x.rs";
        for bad in [
            "use std::time::Instant;",
            "use std::time::{Duration, Instant};",
            "use std::collections::HashMap;",
            "std::fs::read(a)",
            "use std::{fs, io};",
            "tokio::spawn(a)",
            "println!(\"\");",
            "use std::net::{IpAddr, UdpSocket};",
        ] {
            assert_eq!(fired(path, bad), ["purity"], "{bad}");
            assert!(fired("crates/agent/src/x.rs", bad).is_empty(), "{bad}");
        }
        for good in
            ["use std::time::Duration;", "use backstay_model::Instant;", "let operand = 1;", "// HashMap", "\"tokio\""]
        {
            assert!(fired(path, good).is_empty(), "{good}");
        }
    }

    #[test]
    fn tests_of_pure_crates_may_read_files_but_not_clocks() {
        assert!(fired("crates/failover/tests/it.rs", "std::fs::read(a); println!();").is_empty());
        assert_eq!(fired("crates/failover/tests/it.rs", "std::thread::sleep(a)"), ["purity"]);
        assert!(fired("crates/failover/examples/bench.rs", "Instant::now()").is_empty());
    }

    #[test]
    fn unsafe_stands_in_named_modules_with_its_reason() {
        assert_eq!(fired("crates/agent/src/x.rs", "unsafe { a() }"), ["unsafe"]);
        assert_eq!(fired("crates/agent/src/x.rs", "#![allow(unsafe_code)]"), ["unsafe"]);
        assert_eq!(fired("crates/app/src/sys.rs", "unsafe { a() }"), ["safety-comment"]);
        assert!(fired("crates/app/src/sys.rs", "// SAFETY: a is sound.\nunsafe { a() }").is_empty());
        assert!(fired("crates/address/src/arp.rs", "// SAFETY: a is sound.\nunsafe { a() }").is_empty());
        assert!(fired("crates/agent/src/x.rs", "// unsafe\nlet a = \"unsafe\";").is_empty());
    }

    #[test]
    fn the_clock_is_read_in_one_place() {
        assert_eq!(fired("crates/agent/src/x.rs", "let a = Instant::now();"), ["clock"]);
        assert_eq!(fired("crates/agent/src/x.rs", "rustix::time::clock_gettime(b)"), ["clock"]);
        assert!(fired("crates/agent/src/clock.rs", "rustix::time::clock_gettime(b)").is_empty());
        assert!(fired("crates/agent/tests/it.rs", "let a = Instant::now();").is_empty());
        assert!(fired("crates/agent/src/x.rs", "tokio::time::sleep(a).await").is_empty());
    }

    #[test]
    fn only_failover_makes_a_goal() {
        for bad in ["let g = Goal {", "store(Goal { generation, ..a })", "let g = model::Goal { a };", "Ok(Goal { a })"]
        {
            assert_eq!(fired("crates/agent/src/x.rs", bad), ["goal"], "{bad}");
            assert!(fired("crates/failover/src/x.rs", bad).is_empty());
        }
        for good in [
            "fn a() -> Goal {",
            "impl Goal {",
            "impl From<A> for Goal {",
            "let Goal { a, .. } = g;",
            "if let Some(Goal { a, .. }) = g {",
            "Goal { a, .. } => b,",
            "let s = ServiceGoal { a };",
            "fn a() -> &Goal {",
        ] {
            assert!(fired("crates/agent/src/x.rs", good).is_empty(), "{good}");
        }
    }

    #[test]
    fn only_postgres_speaks_sql() {
        assert_eq!(fired("crates/agent/src/x.rs", "query(\"SELECT 1\")"), ["postgres-names"]);
        assert_eq!(fired("crates/backup/src/x.rs", "dir.join(\"standby.signal\")"), ["postgres-names"]);
        assert!(fired("crates/postgres/src/x.rs", "query(\"SELECT 1\")").is_empty());
        assert!(fired("crates/agent/src/x.rs", "// SELECT 1").is_empty());
    }

    #[test]
    fn a_port_is_held_alone() {
        assert_eq!(fired("crates/balancer/src/x.rs", "set_socket_reuseport(a, true)"), ["reuseport"]);
        assert_eq!(fired("crates/balancer/src/x.rs", "libc::SO_REUSEPORT"), ["reuseport"]);
        assert!(fired("crates/balancer/src/x.rs", "// never SO_REUSEPORT").is_empty());
        assert!(fired("crates/balancer/src/x.rs", "set_socket_reuseaddr(a, true)").is_empty());
    }

    #[test]
    fn forbidden_words_are_seen_as_words() {
        for bad in
            ["struct LeaseManager;", "mod util;", "/// The master.", "let slave_node = 1;", "fn helpers() {}", "EPOCH"]
        {
            assert_eq!(fired("crates/agent/src/x.rs", bad), ["words"], "{bad}");
        }
        for good in ["postmaster", "UNIX_EPOCH", "hyper_util::rt", "utilization", "\"the master\"", "manage()"] {
            assert!(fired("crates/agent/src/x.rs", good).is_empty(), "{good}");
        }
        assert_eq!(check_page("docs/a.md", "fine\nThe Master node").len(), 1);
    }

    #[test]
    fn unfinished_and_ignored_code_is_refused() {
        assert_eq!(fired("crates/agent/src/x.rs", "todo!()"), ["unfinished"]);
        assert_eq!(fired("crates/agent/tests/it.rs", "#[ignore = \"slow\"]"), ["ignored-test"]);
        assert_eq!(fired("crates/agent/src/x.rs", "pub fn get_lease() {}"), ["getters"]);
        assert!(fired("crates/agent/src/x.rs", "async fn get_log_state() {}").is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_refused() {
        let path = concat!("see /wo", "rk/main");
        assert_eq!(check_machine_paths("a.md", path).len(), 1);
        assert!(check_machine_paths("a.md", concat!("/srv/wo", "rk/main")).is_empty());
    }

    #[test]
    fn panics_are_counted_outside_tests() {
        let text = "a.unwrap(); b.expect(\"c\");\n// d.unwrap()\n#[cfg(test)]\nmod t { fn e() { f.unwrap(); } }";
        assert_eq!(panics(&Source::new("crates/agent/src/x.rs", text)), 2);
    }

    #[test]
    fn long_files_are_named() {
        let text = "fn a() {}\n".repeat(tables::FILE_LINES_MAX + 1);
        assert!(long_file(&Source::new("crates/agent/src/x.rs", &text)).is_some());
        assert!(long_file(&Source::new("crates/agent/src/x.rs", "fn a() {}")).is_none());
    }
}
