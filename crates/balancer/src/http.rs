//! stub
use crate::session::{Session, Step};
use crate::worker::Worker;
pub(crate) const HEAD_TIMEOUT_MS: u64 = 10_000;
impl Worker {
    pub(crate) fn step_http(&mut self, _s: &mut Session) -> Step {
        Step::Reset
    }
    pub(crate) fn http_timeout(&mut self, _s: &mut Session) -> Step {
        Step::Reset
    }
    pub(crate) fn lose_backend(&mut self, _s: &mut Session) -> Step {
        Step::Reset
    }
}
