//! Secrets never stand in the file; it only says where they are.

use crate::diagnostic::Sink;
use crate::table::Span;

/// `file:…` or `env:…`.
pub(crate) fn is_secret_reference(text: &str) -> bool {
    ["file:", "env:"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
}

/// An address that carries a password: `scheme://user:password@host`.
pub(crate) fn has_inline_login(text: &str) -> bool {
    text.match_indices("://").any(|(at, _)| {
        let authority = text[at + 3..].split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority
            .rsplit_once('@')
            .and_then(|(login, _)| login.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    })
}

/// Refuses a secret in the file.
pub(crate) fn inline_secret(sink: &mut Sink<'_>, span: Span, what: &str) {
    let help = "say where it is: \"file:/etc/backstay/secret\" or \"env:NAME\"".to_owned();
    sink.error(
        span,
        "inline-secret",
        format!("{what} would put a secret into this file, which every machine and every diff shows"),
        Some(help),
    );
}
