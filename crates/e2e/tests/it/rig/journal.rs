//! What the exclusive program wrote: who ran, under which token, when.

use std::path::{Path, PathBuf};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The node.
    pub node: String,
    /// The grant's token.
    pub token: u64,
    /// CLOCK_BOOTTIME when it was written, in nanoseconds.
    pub at_ns: u64,
}

/// A run of lines of one holder.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// The node.
    pub node: String,
    /// The token.
    pub token: u64,
    /// Its first and last line, as they stand in the file.
    pub first: usize,
    /// See `first`.
    pub last: usize,
    /// When they were written.
    pub first_ns: u64,
    /// See `first_ns`.
    pub last_ns: u64,
}

/// The file.
pub struct Journal(pub PathBuf);

impl Journal {
    /// All whole lines.
    pub fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let [_, node, token, at] = words[..] else { panic!("{line:?} is no line of a journal") };
                Line { node: node.to_owned(), token: token.parse().unwrap_or(0), at_ns: at.parse().expect("a number") }
            })
            .collect()
    }

    /// One entry per token, in the order of the first lines.
    pub fn tenures(&self) -> Vec<Tenure> {
        let mut tenures: Vec<Tenure> = Vec::new();
        for (at, line) in self.lines().into_iter().enumerate() {
            match tenures.iter_mut().find(|tenure| tenure.token == line.token && tenure.node == line.node) {
                Some(tenure) => {
                    tenure.last = at;
                    tenure.last_ns = tenure.last_ns.max(line.at_ns);
                }
                None => tenures.push(Tenure {
                    node: line.node,
                    token: line.token,
                    first: at,
                    last: at,
                    first_ns: line.at_ns,
                    last_ns: line.at_ns,
                }),
            }
        }
        tenures
    }

    /// S1: nobody wrote a line after the next holder's first, and tokens only rise.
    pub fn assert_one_at_a_time(&self) {
        let tenures = self.tenures();
        for pair in tenures.windows(2) {
            let [before, after] = pair else { unreachable!("windows of two") };
            assert!(before.last < after.first, "two at a time: {before:?} and {after:?} in {}", self.0.display());
            assert!(before.last_ns < after.first_ns, "two at a time: {before:?} and {after:?}");
            assert!(before.token < after.token, "tokens went back: {before:?} then {after:?}");
        }
    }

    /// The newest line.
    pub fn newest(&self) -> Option<Line> {
        self.lines().pop()
    }

    /// Longest time without a line between the two instants.
    pub fn longest_gap_ms(&self, from_ns: u64) -> u64 {
        let mut instants: Vec<_> = self.lines().into_iter().map(|line| line.at_ns).collect();
        instants.sort_unstable();
        let gaps = instants.windows(2).filter(|pair| pair[1] >= from_ns);
        gaps.map(|pair| (pair[1] - pair[0]) / 1_000_000).max().unwrap_or(0)
    }
}

impl AsRef<Path> for Journal {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}
