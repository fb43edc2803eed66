//! The nearest known word to one that is not known.

/// The word most like this one, if any is like enough to be meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= slips_allowed(candidate))
        .min_by_key(|(distance, candidate)| {
            (*distance, letters(candidate) != letters(&lower), candidate.len().abs_diff(word.len()))
        })
        .map(|(_, candidate)| candidate)
}

/// Swapped letters are likelier than other ones.
fn letters(word: &str) -> Vec<char> {
    let mut letters: Vec<char> = word.to_lowercase().chars().collect();
    letters.sort_unstable();
    letters
}

/// One slip in a short word, and one more for every third letter of a longer one.
fn slips_allowed(word: &str) -> usize {
    match word.chars().count() {
        0..=1 => 0,
        count => (count / 3).clamp(1, 4),
    }
}

/// The suggestion as a sentence.
pub(crate) fn did_you_mean(word: Option<&str>) -> Option<String> {
    word.map(|word| format!("did you mean `{word}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_likely_words_are_suggested() {
        let known = ["redundancy", "need", "run", "check"];
        assert_eq!(nearest("redundency", known), Some("redundancy"));
        assert_eq!(nearest("ned", known), Some("need"));
        assert_eq!(nearest("runs", known), Some("run"));
        assert_eq!(nearest("Check", known), Some("check"));
        assert_eq!(nearest("zebra", known), None);
    }
}
