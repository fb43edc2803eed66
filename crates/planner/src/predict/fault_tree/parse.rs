//! From text to gates: `dns or 2 of (a, b, c) and (x or y)`, every mistake at its column.
//!
//! `and` binds tighter than `or`. `k of (…)`, also `at least k of {…}`, is true when k of the list are. A name that a
//! gate has stands for it; other names are events, the same name the same event. A number between 0 and 1 is an event of
//! its own with that probability.

use std::collections::BTreeMap;

use super::{EVENTS_MAX, FaultTreeError};

/// How deep parentheses and gates may stand in each other.
const DEPTH_MAX: u32 = 128;

/// One gate; the numbers are those of gates that come before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Gate {
    Event(usize),
    AtLeast(u32, Vec<usize>),
}

/// Gates in an order in which each comes after those it names; the last is the top.
#[derive(Clone, Debug, Default)]
pub(super) struct Formula {
    pub gates: Vec<Gate>,
    /// Names and probabilities of the events, in the order in which they are first met from the top.
    pub events: Vec<(String, f64)>,
}

/// Reads the top and, where it names them, the gates.
pub(super) fn parse(
    top: &str,
    gates: &BTreeMap<String, String>,
    p: &BTreeMap<String, f64>,
) -> Result<Formula, FaultTreeError> {
    let mut reading = Reading {
        texts: gates,
        probabilities: p,
        formula: Formula::default(),
        events: BTreeMap::new(),
        named: BTreeMap::new(),
        depth: 0,
    };
    reading.text("top", top)?;
    Ok(reading.formula)
}

struct Reading<'a> {
    texts: &'a BTreeMap<String, String>,
    probabilities: &'a BTreeMap<String, f64>,
    formula: Formula,
    events: BTreeMap<String, usize>,
    /// Gates that were read, and none while they are being read.
    named: BTreeMap<String, Option<usize>>,
    depth: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Open,
    Close,
    Comma,
    End,
}

/// The tokens of one text, with the column of each.
struct Text<'a> {
    gate: &'a str,
    tokens: Vec<(usize, Token)>,
    at: usize,
}

impl Text<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(column, _)| *column)
    }

    fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.tokens.get(self.at + ahead), Some((_, Token::Word(found))) if found.eq_ignore_ascii_case(word))
    }

    fn takes(&mut self, token: &Token) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        self.at += usize::from(found);
        found
    }

    fn error(&self, column: usize, message: impl Into<String>) -> FaultTreeError {
        FaultTreeError::Syntax { gate: self.gate.to_owned(), column, message: message.into() }
    }

    fn expected(&self, what: &str) -> FaultTreeError {
        let found = match self.peek() {
            Token::Word(word) => format!("`{word}`"),
            Token::Open => "an opening parenthesis".to_owned(),
            Token::Close => "a closing parenthesis".to_owned(),
            Token::Comma => "a comma".to_owned(),
            Token::End => "the end".to_owned(),
        };
        self.error(self.column(), format!("expected {what}, found {found}"))
    }
}

fn tokens<'a>(gate: &'a str, text: &str) -> Result<Text<'a>, FaultTreeError> {
    let mut read = Text { gate, tokens: Vec::new(), at: 0 };
    let mut letters = text.chars().enumerate().peekable();
    while let Some((index, letter)) = letters.next() {
        let token = match letter {
            '(' | '{' => Token::Open,
            ')' | '}' => Token::Close,
            ',' => Token::Comma,
            _ if letter.is_whitespace() => continue,
            _ if is_of_word(letter) => {
                let mut word = letter.to_string();
                while let Some((_, letter)) = letters.next_if(|(_, letter)| is_of_word(*letter)) {
                    word.push(letter);
                }
                Token::Word(word)
            }
            _ => return Err(read.error(index + 1, format!("`{letter}` means nothing here"))),
        };
        read.tokens.push((index + 1, token));
    }
    read.tokens.push((text.chars().count() + 1, Token::End));
    Ok(read)
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | ':' | '/' | '#' | '@')
}

impl Reading<'_> {
    fn text(&mut self, gate: &str, text: &str) -> Result<usize, FaultTreeError> {
        let mut text = tokens(gate, text)?;
        let number = self.any(&mut text)?;
        if text.takes(&Token::End) { Ok(number) } else { Err(text.expected("`and`, `or` or the end")) }
    }

    fn any(&mut self, text: &mut Text<'_>) -> Result<usize, FaultTreeError> {
        self.chain(text, "or", Self::all, |_| 1)
    }

    fn all(&mut self, text: &mut Text<'_>) -> Result<usize, FaultTreeError> {
        self.chain(text, "and", Self::one, |inputs| inputs)
    }

    /// `a WORD b WORD c …` as one gate.
    fn chain(
        &mut self,
        text: &mut Text<'_>,
        word: &str,
        part: fn(&mut Self, &mut Text<'_>) -> Result<usize, FaultTreeError>,
        needed: fn(u32) -> u32,
    ) -> Result<usize, FaultTreeError> {
        let first = part(self, text)?;
        let mut inputs = vec![first];
        while text.takes_word(word) {
            inputs.push(part(self, text)?);
        }
        let needed = needed(inputs.len() as u32);
        Ok(if inputs.len() == 1 { first } else { self.add(Gate::AtLeast(needed, inputs)) })
    }

    fn one(&mut self, text: &mut Text<'_>) -> Result<usize, FaultTreeError> {
        let column = text.column();
        if text.takes(&Token::Open) {
            let inside = self.deeper(text, column, Self::any)?;
            return if text.takes(&Token::Close) { Ok(inside) } else { Err(text.expected("`)`")) };
        }
        if text.is_word(0, "at") && text.is_word(1, "least") {
            text.at += 2;
            return self.at_least(text);
        }
        if text.is_word(1, "of") {
            return self.at_least(text);
        }
        let Token::Word(word) = text.peek().clone() else {
            return Err(text.expected("an event, `k of (…)` or a parenthesis"));
        };
        match word.to_ascii_lowercase().as_str() {
            "and" | "or" | "of" => return Err(text.expected("an event, `k of (…)` or a parenthesis")),
            "not" => return Err(text.error(column, "`not` is not supported: a failure that helps is no failure")),
            _ => text.at += 1,
        }
        if self.texts.contains_key(&word) { self.gate(text, column, &word) } else { self.event(text, column, word) }
    }

    fn at_least(&mut self, text: &mut Text<'_>) -> Result<usize, FaultTreeError> {
        let column = text.column();
        let Token::Word(word) = text.peek().clone() else { return Err(text.expected("how many")) };
        let Ok(needed) = word.parse::<u32>() else { return Err(text.expected("a whole number")) };
        text.at += 1;
        if !text.takes_word("of") {
            return Err(text.expected("`of`"));
        }
        if !text.takes(&Token::Open) {
            return Err(text.expected("`(`"));
        }
        let mut inputs = vec![self.deeper(text, column, Self::any)?];
        while text.takes(&Token::Comma) {
            inputs.push(self.deeper(text, column, Self::any)?);
        }
        if !text.takes(&Token::Close) {
            return Err(text.expected("`,` or `)`"));
        }
        if needed == 0 || needed as usize > inputs.len() {
            return Err(text.error(column, format!("{needed} of {}: must be from 1 to {0}", inputs.len())));
        }
        Ok(self.add(Gate::AtLeast(needed, inputs)))
    }

    fn deeper(
        &mut self,
        text: &mut Text<'_>,
        column: usize,
        part: fn(&mut Self, &mut Text<'_>) -> Result<usize, FaultTreeError>,
    ) -> Result<usize, FaultTreeError> {
        if self.depth >= DEPTH_MAX {
            return Err(text.error(column, format!("more than {DEPTH_MAX} parentheses and gates one in another")));
        }
        self.depth += 1;
        let number = part(self, text);
        self.depth -= 1;
        number
    }

    /// A gate by name, read where it is first named.
    fn gate(&mut self, text: &mut Text<'_>, column: usize, name: &str) -> Result<usize, FaultTreeError> {
        match self.named.get(name) {
            Some(Some(number)) => return Ok(*number),
            Some(None) => return Err(text.error(column, format!("gate `{name}` is part of itself"))),
            None => {}
        }
        if self.depth >= DEPTH_MAX {
            return Err(text.error(column, format!("more than {DEPTH_MAX} parentheses and gates one in another")));
        }
        self.named.insert(name.to_owned(), None);
        self.depth += 1;
        let texts = self.texts;
        let inside = texts.get(name).map_or("", String::as_str);
        let number = self.text(name, inside)?;
        self.depth -= 1;
        self.named.insert(name.to_owned(), Some(number));
        Ok(number)
    }

    fn event(&mut self, text: &Text<'_>, column: usize, name: String) -> Result<usize, FaultTreeError> {
        let literal = name.starts_with(|letter: char| letter.is_ascii_digit()).then(|| name.parse::<f64>().ok());
        let (name, probability) = match (self.probabilities.get(&name), literal.flatten()) {
            (Some(&probability), _) => (name, probability),
            // Each an event of its own, so its place is part of its name.
            (None, Some(probability)) => (format!("{name}@{}:{column}", text.gate), probability),
            (None, None) => return Err(text.error(column, format!("`{name}` has no probability in `p`"))),
        };
        if !(0.0..=1.0).contains(&probability) {
            return Err(FaultTreeError::Probability { event: name, probability });
        }
        if let Some(&number) = self.events.get(&name) {
            return Ok(number);
        }
        let event = self.formula.events.len();
        if event >= EVENTS_MAX {
            return Err(FaultTreeError::TooLarge { what: "events", most: EVENTS_MAX });
        }
        self.formula.events.push((name.clone(), probability));
        let number = self.add(Gate::Event(event));
        self.events.insert(name, number);
        Ok(number)
    }

    fn add(&mut self, gate: Gate) -> usize {
        self.formula.gates.push(gate);
        self.formula.gates.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(top: &str) -> Result<Formula, String> {
        let p = ["a", "b", "c", "d", "db-1.x"].map(|name| (name.to_owned(), 0.1)).into();
        let gates = [("left", "a and b"), ("loop", "c or loop2"), ("loop2", "loop"), ("bad", "a &"), ("empty", "")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into();
        parse(top, &gates, &p).map_err(|error| error.to_string())
    }

    #[test]
    fn and_binds_tighter_than_or() {
        let formula = read("a or b and c OR d").unwrap();
        let and = formula.gates.iter().position(|gate| *gate == Gate::AtLeast(2, vec![1, 2])).unwrap();
        assert_eq!(formula.gates.last(), Some(&Gate::AtLeast(1, vec![0, and, and + 1])), "{formula:?}");
    }

    #[test]
    fn shared_names_are_one_event_and_numbers_each_their_own() {
        assert_eq!(read("(a and b) or (a and c)").unwrap().events.len(), 3);
        let numbers = read("at least 2 of {0.1,0.2, 0.1}").unwrap();
        assert_eq!(numbers.events.len(), 3);
        assert_eq!((numbers.events[0].0.as_str(), numbers.events[2].1), ("0.1@top:16", 0.1));
        assert_eq!(read("left or left and db-1.x").unwrap().events.len(), 3);
    }

    #[test]
    fn every_mistake_has_its_column() {
        for (text, error) in [
            ("", "top, column 1: expected an event, `k of (…)` or a parenthesis, found the end"),
            ("a or", "top, column 5: expected an event, `k of (…)` or a parenthesis, found the end"),
            ("a b", "top, column 3: expected `and`, `or` or the end, found `b`"),
            ("(a or b", "top, column 8: expected `)`, found the end"),
            ("a or b)", "top, column 7: expected `and`, `or` or the end, found a closing parenthesis"),
            ("a & b", "top, column 3: `&` means nothing here"),
            ("a or x", "top, column 6: `x` has no probability in `p`"),
            ("not a", "top, column 1: `not` is not supported: a failure that helps is no failure"),
            ("4 of (a, b)", "top, column 1: 4 of 2: must be from 1 to 2"),
            ("0 of (a, b)", "top, column 1: 0 of 2: must be from 1 to 2"),
            ("x of (a, b)", "top, column 1: expected a whole number, found `x`"),
            ("2 of a, b", "top, column 6: expected `(`, found `a`"),
            ("2 of (a b)", "top, column 9: expected `,` or `)`, found `b`"),
            ("2 of (a, b", "top, column 11: expected `,` or `)`, found the end"),
            ("a, b", "top, column 2: expected `and`, `or` or the end, found a comma"),
            ("é and a", "top, column 1: `é` has no probability in `p`"),
            ("a or loop", "loop2, column 1: gate `loop` is part of itself"),
            ("a or bad", "bad, column 3: `&` means nothing here"),
            ("empty", "empty, column 1: expected an event, `k of (…)` or a parenthesis, found the end"),
            ("1.5", "event 1.5@top:1 has probability 1.5, which must be from 0 to 1"),
        ] {
            assert_eq!(read(text).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn depth_is_bounded_and_length_is_not() {
        let deep = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
        assert!(read(&deep(128)).is_ok());
        assert!(read(&deep(129)).unwrap_err().contains("more than 128 parentheses"));
        assert!(read(&deep(100_000)).is_err());
        assert!(read(&vec!["a"; 100_000].join(" or ")).is_ok());
    }
}
