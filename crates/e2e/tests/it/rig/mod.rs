//! The rig: a cluster of real processes, clients that count, journals that tell who ran when.

pub mod cluster;
pub mod journal;
pub mod load;
pub mod processes;
pub mod sampler;

use std::io::Write as _;
use std::time::Duration;

pub use cluster::{Cluster, standard};
pub use journal::Journal;
pub use load::Load;
pub use sampler::Sampler;

/// The longest that anything which should happen within seconds may take on a busy machine.
pub const GENEROUS: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Milliseconds between two instants of CLOCK_BOOTTIME in nanoseconds.
pub fn ms_between(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1_000_000
}

/// Looks until there is an answer, or the time is over.
pub fn wait_for<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = backstay_e2e::boottime_ns();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Duration::from_nanos(backstay_e2e::boottime_ns() - start) >= within {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks until there is an answer; says what was waited for when there is none in time.
pub fn wait<T>(what: &str, within: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait_for(within, look).unwrap_or_else(|| panic!("waited {} s in vain: {what}", within.as_secs()))
}

/// Prints a measured number for whoever collects them; nothing is asserted with it.
pub fn figure(name: &str, value: impl std::fmt::Display) {
    println!("figure: {name} = {value}");
}

/// Says that a test cannot run here, and why, where skipped tests are counted.
pub fn skip(name: &str, reason: &str) {
    println!("skipped: {name}: {reason}");
    if let Some(file) = std::env::var_os("BACKSTAY_SKIPS") {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        opened.and_then(|mut file| writeln!(file, "{name}: {reason}")).expect("the list of skipped tests is writable");
    }
}

/// Whether this runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
