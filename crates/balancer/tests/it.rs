//! The balancer against real sockets: clients, backends that behave and backends that do not.
#![allow(clippy::unwrap_used)]

mod it {
    pub mod rig;

    mod http;
    mod permission;
    mod process;
    mod tcp;
}
