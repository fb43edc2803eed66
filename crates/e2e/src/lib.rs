//! What the tests of the whole product and their small web server share. The tests are in `tests/it`.

use std::io;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Between two lines of a journal.
const JOURNAL_EVERY: Duration = Duration::from_millis(2);

/// Now on CLOCK_BOOTTIME, in nanoseconds: one clock for all processes of this machine.
pub fn boottime_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Appends `PID NODE TOKEN BOOTTIME_NS` every few milliseconds until the end of the process: proof of who ran when.
///
/// # Errors
/// The file cannot be opened or written.
pub fn keep_journal(file: &Path) -> io::Result<()> {
    let told = |name: &str| std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let (node, token) = (told("BACKSTAY_NODE"), told("BACKSTAY_TOKEN"));
    let mut journal = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    loop {
        // One write per line, so that lines of two processes never mix.
        let line = format!("{} {node} {token} {}\n", std::process::id(), boottime_ns());
        journal.write_all(line.as_bytes())?;
        std::thread::sleep(JOURNAL_EVERY);
    }
}
