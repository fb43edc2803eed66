//! The ratchet: numbers that may only fall. A rule that nobody could keep at once is kept a little better each time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::rules::Breach;
use super::tables;

/// Calls that may end the process, by crate.
pub type Counts = BTreeMap<String, usize>;

const TABLE: &str = "unwrap-or-expect";

/// The committed numbers.
pub fn parse(text: &str) -> Result<Counts, String> {
    let parsed: toml::Table = text.parse().map_err(|error| format!("{}: {error}", tables::RATCHET_FILE))?;
    let table = parsed.get(TABLE).and_then(toml::Value::as_table);
    let entries = table.into_iter().flatten();
    entries
        .map(|(name, value)| {
            let count = value.as_integer().and_then(|n| usize::try_from(n).ok());
            count.map(|n| (name.clone(), n)).ok_or_else(|| format!("{}: `{name}` is no count", tables::RATCHET_FILE))
        })
        .collect()
}

/// Crates that have more than was committed. One without a number is new: its first commit sets it.
pub fn check(committed: &Counts, now: &Counts) -> Vec<Breach> {
    now.iter()
        .filter_map(|(name, count)| {
            let most = committed.get(name)?;
            (count > most).then(|| Breach {
                path: tables::RATCHET_FILE.to_owned(),
                line: 0,
                rule: &tables::PANICS,
                what: format!(
                    "`{name}` has {count} calls of .unwrap() or .expect( outside tests, {most} are committed"
                ),
            })
        })
        .collect()
}

/// The numbers to commit now: lower ones and new ones are taken over, higher ones are not.
pub fn lowered(committed: &Counts, now: &Counts) -> Counts {
    now.iter()
        .map(|(name, &count)| (name.clone(), committed.get(name).map_or(count, |&most| most.min(count))))
        .collect()
}

/// The file's text.
pub fn render(counts: &Counts) -> String {
    let mut text = String::from(
        "# Calls of .unwrap() and .expect( outside tests, by crate. The numbers may only fall.\n\
         # Written by `cargo xtask tidy --ratchet`, which lowers them and adds new crates; raising one is a decision for review.\n\n",
    );
    let _ = writeln!(text, "[{TABLE}]");
    for (name, count) in counts {
        let _ = writeln!(text, "{name} = {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, usize)]) -> Counts {
        list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn numbers_may_only_fall() {
        let committed = counts(&[("a", 2), ("b", 2)]);
        assert_eq!(check(&committed, &counts(&[("a", 3), ("b", 2), ("c", 9)])).len(), 1);
        assert_eq!(
            lowered(&committed, &counts(&[("a", 3), ("b", 1), ("c", 9)])),
            counts(&[("a", 2), ("b", 1), ("c", 9)])
        );
    }

    #[test]
    fn what_is_rendered_is_parsed() {
        let numbers = counts(&[("a", 2), ("b", 0)]);
        assert_eq!(parse(&render(&numbers)), Ok(numbers));
        assert!(parse("[unwrap-or-expect]\na = -1").is_err());
    }
}
