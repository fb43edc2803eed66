//! What the file may say and this build can't do yet: refused by name, at its place, rather than done half.

use backstay_model::{ListenerName, ServiceId};

use crate::diagnostic::{Diagnostic, Sink};
use crate::table::{Named, Span};
use crate::types::*;

/// Everything in a good file that this build does not run, each as an error with the code `not-in-this-build`.
///
/// A command that only looks at the file shows them with [`Diagnostic::into_warning`]; one that would act on it refuses.
pub fn not_in_this_build(file_name: &str, text: &str, spec: &Spec) -> Vec<Diagnostic> {
    let Some(root) = crate::read_root(&mut Sink::new(file_name, text)) else { return Vec::new() };
    let mut sink = Sink::new(file_name, text);
    let mut refuse = |span: Span, what: String| {
        let help = "the file is right; leave this out to run the rest".to_owned();
        sink.error(span, "not-in-this-build", format!("this build does not run {what} yet"), Some(help));
    };
    if let (StoreSpec::Etcd(_), Some(span)) = (&spec.store, root.span("store")) {
        refuse(span, "on etcd".to_owned());
    }
    for named in root.named("postgres") {
        refuse(named.name.span.clone(), format!("databases (`postgres.{}`)", named.name.text));
    }
    for named in root.named("app") {
        let Some(service) = spec.services.get(&ServiceId::app(&named.name.text)) else { continue };
        if let Workload::App(AppSpec { run: RunSpec::Unit(unit), .. }) = &service.workload {
            refuse(key_place(named, "unit"), format!("systemd units (`{unit}`)"));
        }
    }
    for named in root.named("listen") {
        let Some(listener) = spec.listeners.get(&ListenerName(named.name.text.clone())) else { continue };
        if let Some(vip) = listener.vip.filter(|vip| !vip.addr.is_loopback() || !vip.addr.is_ipv4()) {
            refuse(key_place(named, "vip"), format!("floating addresses outside 127.0.0.0/8 (`{vip}`)"));
        }
        for entry in &named.table.free {
            let Some(entry_spec) = listener.entries.get(&entry.name.text) else { continue };
            if entry_spec.tls {
                refuse(key_place(entry, "tls"), format!("TLS (`{}` of [listen.{}])", entry.name.text, named.name.text));
            }
            if entry_spec.max_lag.is_some() {
                refuse(key_place(entry, "max_lag"), "`max_lag`".to_owned());
            }
        }
    }
    for named in root.named("backup") {
        refuse(named.name.span.clone(), format!("backups (`backup.{}`)", named.name.text));
    }
    sink.finish()
}

fn key_place(named: &Named, key: &str) -> Span {
    named.table.entry(key).map_or_else(|| named.name.span.clone(), |entry| entry.key_span.clone())
}
