//! A Rust file split into layers: code, comments and the contents of strings, line by line, with test code marked.
//!
//! Rules look for words, and a word means another thing in a comment than in code. A whole parser would say more and cost
//! the two seconds that `tidy` may take; this scanner knows just enough of the language not to be fooled by quotes, nested
//! comments and lifetimes.

/// One file, in layers. Line `n` of the file is index `n - 1` of each layer.
pub struct Source {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// Code, with comments and the contents of strings blanked.
    pub code: Vec<String>,
    /// Comments, with everything else blanked.
    pub comments: Vec<String>,
    /// Contents of string literals, with everything else blanked.
    pub strings: Vec<String>,
    /// Whether the line belongs to a test.
    pub test: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Layer {
    Code,
    Comment,
    Text,
}

impl Source {
    /// Splits `text`. Files of tests, examples and benches are test code as a whole.
    pub fn new(path: &str, text: &str) -> Source {
        let chars: Vec<char> = text.chars().collect();
        let layers = classify(&chars);
        let render = |wanted: Layer| -> Vec<String> {
            let only: String = chars
                .iter()
                .zip(&layers)
                .map(|(&c, &layer)| if c == '\n' || layer == wanted { c } else { ' ' })
                .collect();
            only.split('\n').map(str::to_owned).collect()
        };
        let code = render(Layer::Code);
        let test = if is_test_path(path) { vec![true; code.len()] } else { test_lines(&code) };
        Source { path: path.to_owned(), comments: render(Layer::Comment), strings: render(Layer::Text), code, test }
    }

    /// The directory of `crates/` that the file lies in, or `xtask`.
    pub fn crate_dir(&self) -> &str {
        let mut parts = self.path.split('/');
        match parts.next() {
            Some("crates") => parts.next().unwrap_or(""),
            Some(first) => first,
            None => "",
        }
    }

    /// Lines of code that ship: neither blank, nor only a comment, nor of a test.
    pub fn production_lines(&self) -> usize {
        self.code.iter().zip(&self.test).filter(|(line, test)| !**test && !line.trim().is_empty()).count()
    }
}

fn is_test_path(path: &str) -> bool {
    ["/tests/", "/examples/", "/benches/"].iter().any(|dir| path.contains(dir))
        || path.starts_with("crates/e2e/")
        || path.ends_with("/tests.rs")
        // A suite that several implementations run in their tests, behind a feature that only tests turn on.
        || path.ends_with("/conformance.rs")
        || path.ends_with("_tests.rs")
}

/// The layer of every character. The quotes of a string stay code, so that `.expect("…")` keeps its shape.
fn classify(chars: &[char]) -> Vec<Layer> {
    let mut layers = vec![Layer::Code; chars.len()];
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => fill(&mut layers, at, line_end(chars, at), Layer::Comment),
            ('/', Some('*')) => fill(&mut layers, at, block_end(chars, at), Layer::Comment),
            ('"', _) => {
                let end = string_end(chars, at + 1);
                fill(&mut layers, at + 1, end, Layer::Text);
                end + 1
            }
            ('r', Some('"' | '#')) if !continues_word(chars, at) => match raw_string(chars, at) {
                Some((start, end, after)) => {
                    fill(&mut layers, start, end, Layer::Text);
                    after
                }
                None => at + 1,
            },
            ('\'', _) => char_literal_end(chars, at),
            _ => at + 1,
        };
        at = end;
    }
    layers
}

fn fill(layers: &mut [Layer], from: usize, to: usize, layer: Layer) -> usize {
    let to = to.min(layers.len());
    if from < to {
        layers[from..to].fill(layer);
    }
    to
}

fn line_end(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|&c| c == '\n').map_or(chars.len(), |n| from + n)
}

fn block_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut at) = (0_usize, from);
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at.min(chars.len())
}

/// A letter right before means that `r` ends a word; only `b` and `c` may stand before a raw string.
fn continues_word(chars: &[char], at: usize) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    match at.checked_sub(1).map(|before| chars[before]) {
        Some('b' | 'c') => at.checked_sub(2).is_some_and(|n| is_word(chars[n])),
        Some(c) => is_word(c),
        None => false,
    }
}

/// `(start of contents, end of contents, after)` of a raw string that begins at `at`; `r#name` is none.
fn raw_string(chars: &[char], at: usize) -> Option<(usize, usize, usize)> {
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    let start = at + 1 + hashes;
    if chars.get(start) != Some(&'"') {
        return None;
    }
    let closes =
        |n: usize| chars[n] == '"' && chars[n + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    let end = (start + 1..chars.len()).find(|&n| closes(n)).unwrap_or(chars.len());
    Some((start + 1, end, (end + 1 + hashes).min(chars.len())))
}

/// The end of a character literal; one past the quote when it is a lifetime.
fn char_literal_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let from = at + 3;
            let close = chars.iter().skip(from).take(10).position(|&c| c == '\'');
            close.map_or(at + 1, |n| from + n + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Marks the items under `#[cfg(test)]`, `#[cfg(all(test…` and `#[test]`.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    let mut line = 0;
    while line < code.len() {
        let starts =
            ["#[cfg(test)]", "#[cfg(all(test", "#[test]", "#[tokio::test"].iter().any(|a| code[line].contains(a));
        if !starts {
            line += 1;
            continue;
        }
        let end = item_end(code, line);
        test[line..=end].fill(true);
        line = end + 1;
    }
    test
}

/// The last line of the item whose first attribute stands on line `from`.
fn item_end(code: &[String], from: usize) -> usize {
    let (mut braces, mut others) = (0_i32, 0_i32);
    for (number, line) in code.iter().enumerate().skip(from) {
        for c in line.chars() {
            match c {
                '{' => braces += 1,
                '}' => braces -= 1,
                '(' | '[' => others += 1,
                ')' | ']' => others -= 1,
                _ => {}
            }
            let ends = (c == '}' && braces == 0) || (c == ';' && braces == 0 && others == 0);
            if ends {
                return number;
            }
        }
    }
    code.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("crates/x/src/lib.rs", text)
    }

    #[test]
    fn comments_and_strings_leave_the_code_layer() {
        let s = source("let a = \"b // c\"; // d \"e\"\nlet f = 'g'; /* h /* i */ j */ k");
        assert_eq!(s.code[0].trim(), "let a = \"      \";");
        assert_eq!(s.comments[0].trim(), "// d \"e\"");
        assert_eq!(s.strings[0].trim(), "b // c");
        assert_eq!(s.code[1].replace(' ', ""), "letf='g';k");
    }

    #[test]
    fn raw_strings_escapes_quotes_and_lifetimes_do_not_confuse() {
        let s =
            source("let a = r#\"b \" c\"#; d('\"', '\\'', 'e');\nfn f<'a>(g: &'a str) {} // h\nlet r#i = br\"j\\\"; k");
        assert_eq!(s.strings[0].trim(), "b \" c");
        assert!(s.code[0].contains("d('\"', '\\'', 'e');"), "{}", s.code[0]);
        assert!(s.code[1].contains("&'a str"));
        assert_eq!(s.comments[1].trim(), "// h");
        assert!(s.code[2].trim().ends_with("; k"), "{}", s.code[2]);
    }

    #[test]
    fn a_test_module_is_marked_to_its_closing_brace() {
        let s = source(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b(c: [u8; 4]) {}\n}\nfn d() {}\n#[cfg(test)]\nuse e;\nfn f() {}",
        );
        assert_eq!(s.test, [false, true, true, true, true, false, true, true, false]);
        assert_eq!(s.production_lines(), 3);
    }

    #[test]
    fn files_of_tests_are_tests_as_a_whole() {
        assert!(Source::new("crates/x/tests/it.rs", "fn a() {}").test[0]);
        assert!(Source::new("crates/x/src/y/tests.rs", "fn a() {}").test[0]);
        assert!(!Source::new("crates/x/src/y.rs", "fn a() {}").test[0]);
    }
}
