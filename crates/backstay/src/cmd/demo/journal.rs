//! Whether two holders of the exclusive role ever acted at once, by what the programs themselves wrote down.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// One run of the program: who, and from its first line to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    first_ns: u64,
    last_ns: u64,
}

/// Reads the journal and adds up how long any two runs acted at once, as far as it falls between two instants of
/// CLOCK_BOOTTIME.
pub fn overlap(journal: &Path, from: Duration, to: Duration) -> io::Result<Duration> {
    let text = fs::read_to_string(journal)?;
    let bound = |instant: Duration| u64::try_from(instant.as_nanos()).unwrap_or(u64::MAX);
    Ok(Duration::from_nanos(overlap_ns(&runs(&text), bound(from), bound(to))))
}

/// A run is one process under one token: a grant is never given twice, so between its first and its last line nobody else
/// may act.
fn runs(text: &str) -> Vec<Run> {
    let mut runs: BTreeMap<(&str, &str, &str), Run> = BTreeMap::new();
    for line in text.lines() {
        // `pid node token boottime_ns`; the last line may be half written.
        let mut words = line.split(' ');
        let (Some(pid), Some(node), Some(token), Some(at)) = (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(at_ns) = at.parse::<u64>() else { continue };
        let run = runs.entry((pid, node, token)).or_insert(Run { first_ns: at_ns, last_ns: at_ns });
        run.first_ns = run.first_ns.min(at_ns);
        run.last_ns = run.last_ns.max(at_ns);
    }
    runs.into_values().collect()
}

fn overlap_ns(runs: &[Run], from_ns: u64, to_ns: u64) -> u64 {
    let mut total = 0;
    for (at, one) in runs.iter().enumerate() {
        for other in &runs[at + 1..] {
            let start = one.first_ns.max(other.first_ns).max(from_ns);
            let end = one.last_ns.min(other.last_ns).min(to_ns);
            total += end.saturating_sub(start);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_one_after_the_other_do_not_overlap() {
        let runs = runs("2 n1 7 100\n2 n1 7 200\n2 n2 9 300\n2 n2 9 400\n2 n1 12 500\n2 n1");
        assert_eq!(runs.len(), 3);
        assert_eq!(overlap_ns(&runs, 0, u64::MAX), 0);
    }

    #[test]
    fn what_two_runs_share_is_counted_within_the_bounds() {
        let runs = runs("2 n1 7 100\n2 n2 9 250\n2 n1 7 300\n2 n2 9 400");
        assert_eq!(overlap_ns(&runs, 0, u64::MAX), 50);
        assert_eq!(overlap_ns(&runs, 280, 290), 10);
        assert_eq!(overlap_ns(&runs, 310, 400), 0);
    }

    #[test]
    fn a_run_that_comes_back_after_its_successor_overlaps_it() {
        let runs = runs("2 n1 7 100\n2 n2 9 200\n2 n2 9 300\n2 n1 7 350");
        assert_eq!(overlap_ns(&runs, 0, u64::MAX), 100);
    }
}
