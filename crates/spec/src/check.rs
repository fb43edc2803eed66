//! The tables against each other.
use crate::diagnostic::Sink;
use crate::read::Table;
use crate::types::Spec;

pub(crate) fn check(_sink: &mut Sink<'_>, _root: &Table, _spec: &Spec) {}
