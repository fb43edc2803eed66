//! `[backup.NAME]`.

use backstay_model::{NodeName, ServiceId, ServiceKind};

use super::{Check, place_of};
use crate::secret::{has_inline_login, inline_secret};
use crate::table::{Named, Word};
use crate::types::BackupSpec;

impl Check<'_, '_> {
    pub(super) fn backups(&mut self) {
        let (root, spec) = (self.root, self.spec);
        for named in root.named("backup") {
            let Some(backup) = spec.backups.get(&named.name.text) else { continue };
            self.backup_of(named, backup);
            self.backup_to(named, backup);
            let words = named.table.words("on");
            self.twice("on", words);
            let known = self.node_names();
            for word in words.iter().filter(|word| !spec.nodes.contains_key(&NodeName(word.text.clone()))) {
                self.dangling(word, "node", &known);
            }
            if backup.keep < backup.every {
                let message = format!("[backup.{}] would drop each copy before the next one is taken", named.name.text);
                self.error(
                    place_of(named, &["keep", "every"]),
                    "impossible-number",
                    message,
                    "`keep` is at least `every`",
                );
            }
            self.encryption(named, backup);
        }
    }

    fn backup_of(&mut self, named: &Named, backup: &BackupSpec) {
        let Some(span) = named.table.span("of").filter(|_| !backup.of.is_empty()) else { return };
        let word = Word { text: backup.of.clone(), span };
        if let Some(path) = word.text.strip_prefix("files:") {
            if !path.starts_with('/') {
                self.error(
                    word.span,
                    "wrong-path",
                    format!("`of` wants a whole path, found \"{path}\""),
                    "like \"files:/srv/data\"",
                );
            }
            return;
        }
        let databases = self.spec.services.keys().filter(|id| id.kind == ServiceKind::Postgres);
        let known: Vec<String> = databases.map(ToString::to_string).collect();
        match word.text.parse::<ServiceId>() {
            Ok(id) if id.kind == ServiceKind::Postgres => {
                if !self.spec.services.contains_key(&id) {
                    self.dangling(&word, "database", &known);
                }
            }
            _ => {
                let message = format!("`{}` is not something to copy", word.text);
                self.error(word.span, "wrong-value", message, "`postgres.NAME` or `files:/path`");
            }
        }
    }

    fn backup_to(&mut self, named: &Named, backup: &BackupSpec) {
        let Some(span) = named.table.span("to").filter(|_| !backup.to.is_empty()) else { return };
        let to = backup.to.as_str();
        if has_inline_login(to) {
            return inline_secret(self.sink, span, "an address with a password in it");
        }
        let bucket = to
            .strip_prefix("s3://")
            .is_some_and(|rest| rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()));
        let path = to.strip_prefix("file:").is_some_and(|path| path.starts_with('/'));
        if !bucket && !path {
            let help = match to.starts_with('/') {
                true => format!("write \"file:{to}\""),
                false => "\"file:/path\" or \"s3://bucket/prefix\"".to_owned(),
            };
            self.error(span, "wrong-value", format!("\"{to}\" is not a place for copies"), help);
        }
    }

    fn encryption(&mut self, named: &Named, backup: &BackupSpec) {
        for word in named.table.words("encrypt_to") {
            if word.text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY") {
                let message = "`encrypt_to` holds a private key".to_owned();
                self.error(
                    word.span.clone(),
                    "inline-secret",
                    message,
                    "only the public one belongs here: it begins with `age1`",
                );
            } else if !word.text.starts_with("age1") {
                let message = format!("\"{}\" is not a public key", word.text);
                self.error(word.span.clone(), "wrong-value", message, "it begins with `age1`; `age-keygen` makes one");
            }
        }
        if backup.prove.is_some() && !backup.encrypt_to.is_empty() && backup.key.is_none() {
            let message =
                format!("[backup.{}] can't be proven: nothing says where the private key is", named.name.text);
            self.warning(place_of(named, &["prove"]), "missing-private-key", message, "add `key = \"file:…\"`");
        }
    }
}
