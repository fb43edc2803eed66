//! Slips of the hand: whatever is done to a good file, it is told at its line and never brings the parser down.

use backstay_spec::{fmt, not_in_this_build, parse, render};
use proptest::prelude::*;

use crate::whole::{DEMO, SHOP};

/// Keys of ours on a line (not names that the operator chose), as byte ranges of it.
fn keys(line: &str, section: &str) -> Vec<std::ops::Range<usize>> {
    let code = line.split('#').next().unwrap_or_default();
    let mut found = Vec::new();
    let mut start = 0;
    let mut quoted = false;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b',' => start = at + 1,
            b'=' => {
                let key = code[start..at].trim();
                let from = start + code[start..at].len() - code[start..at].trim_start().len();
                let free =
                    start == 0 && (section.starts_with("nodes") || (section.starts_with("listen.") && key != "vip"));
                if !free && !key.is_empty() {
                    found.push(from..from + key.len());
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// Every key of a file with its line, counted from 0.
fn all_keys(text: &str) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().to_owned();
            continue;
        }
        found.extend(keys(line, &section).into_iter().map(|range| (at, range)));
    }
    found
}

fn with_line(text: &str, at: usize, new: &[&str]) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.splice(at..=at, new.iter().copied());
    lines.join("\n") + "\n"
}

fn tell(text: &str) -> backstay_spec::Parsed {
    let parsed = parse("slip.toml", text);
    assert_eq!(
        parsed.spec.is_none(),
        parsed.errors().next().is_some(),
        "a Spec exactly when there is no error:\n{text}"
    );
    let _ = render("slip.toml", text, &parsed.diagnostics);
    if let Some(spec) = &parsed.spec {
        let _ = not_in_this_build("slip.toml", text, spec);
    }
    let _ = fmt(text);
    parsed
}

#[test]
fn a_slip_in_any_key_is_told_on_its_line() {
    for text in [SHOP, DEMO] {
        let keys = all_keys(text);
        assert!(keys.len() > 20, "the test found the keys");
        for (at, range) in keys {
            let line = text.lines().nth(at).unwrap();
            let key = &line[range.clone()];
            for slip in slips(key) {
                let slipped = format!("{}{slip}{}", &line[..range.start], &line[range.end..]);
                let parsed = tell(&with_line(text, at, &[&slipped]));
                let told: Vec<_> = parsed.errors().map(|d| (d.line, d.code.as_str())).collect();
                assert!(told.contains(&(at + 1, "unknown-key")), "{key} → {slip} on line {}: {told:?}", at + 1);
                let help =
                    parsed.errors().find(|d| d.code == "unknown-key").and_then(|d| d.help.clone()).unwrap_or_default();
                assert!(help.contains(&format!("`{key}`")), "{key} → {slip}: {help}");
            }
        }
    }
}

/// Neighbouring letters swapped, and the last one doubled.
fn slips(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let swapped = (1..letters.len()).filter(|at| letters[at - 1] != letters[*at]).map(|at| {
        let mut letters = letters.clone();
        letters.swap(at - 1, at);
        letters.into_iter().collect()
    });
    let doubled = format!("{key}{}", letters[letters.len() - 1]);
    swapped.chain([doubled]).collect()
}

#[test]
fn lines_may_go_or_come_twice_without_harm() {
    for text in [SHOP, DEMO] {
        for (at, line) in text.lines().enumerate() {
            tell(&with_line(text, at, &[]));
            let twice = tell(&with_line(text, at, &[line, line]));
            if line.contains(" = ") && !line.starts_with('#') {
                assert!(twice.errors().any(|d| d.code == "duplicate-key" && d.line == at + 2), "{line}");
            }
        }
    }
}

#[test]
fn a_text_cut_anywhere_is_told_or_taken() {
    for text in [SHOP, DEMO] {
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            tell(&text[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        tell(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_pieces_of_files_do_no_harm(pieces in prop::collection::vec(piece(), 0..60)) {
        tell(&pieces.concat());
    }

    #[test]
    fn random_bytes_in_a_good_file_do_no_harm(at in 0..SHOP.len(), with in "\\PC{0,4}") {
        let at = SHOP.floor_char_boundary(at);
        tell(&format!("{}{with}{}", &SHOP[..at], &SHOP[at..]));
    }
}

fn piece() -> impl Strategy<Value = String> {
    let words = [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        " ",
        "\"",
        "'",
        "\"\"\"",
        "#",
        "\r\n",
        "\u{feff}",
        "é",
        "app",
        "nodes",
        "listen",
        "postgres",
        "backup",
        "goal",
        "web",
        "addr",
        "run",
        "check",
        "to",
        "port",
        "vip",
        "prefer",
        "env",
        "true",
        "0",
        "-1",
        "99999999999999999999",
        "1.5",
        "1979-05-27",
        "\"10.0.0.1\"",
        "\"10.0.0.1/24\"",
        "\"app.web\"",
        "\"30s\"",
        "\"N+1\"",
        "\"GET /\"",
        "[\"a\"]",
        "{ run = [] }",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}
