//! `backstay.toml` on disk: which one is meant, and what it says.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use backstay_spec::{FILE_BYTES_MAX, Parsed, Spec};
use serde_json::{Value, json};

use crate::output::Failure;

/// Where the file is looked for when none is named, in this order.
pub const PLACES: [&str; 2] = ["/etc/backstay/backstay.toml", "backstay.toml"];

/// A file that was read, whether or not it makes sense.
#[derive(Debug)]
pub struct ConfigFile {
    /// Its name as it was given, for diagnostics.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it means.
    pub parsed: Parsed,
}

impl ConfigFile {
    /// Reads the file named, or the first of [`PLACES`] that is there.
    pub fn read(named: Option<&Path>) -> Result<Self, Failure> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => PLACES.iter().map(PathBuf::from).find(|place| place.exists()).ok_or_else(|| {
                Failure::usage("no-file", format!("no config file: neither {} nor {} is there", PLACES[0], PLACES[1]))
                    .with_help("name one with `-c FILE`, or print a first one with `backstay init ADDR…`")
            })?,
        };
        let name = path.display().to_string();
        let text = read_bounded(&path)?;
        let parsed = backstay_spec::parse(&name, &text);
        Ok(Self { name, path, text, parsed })
    }

    /// What the file means; or a failure that shows everything wrong with it.
    pub fn spec(&self) -> Result<&Spec, Failure> {
        self.parsed.spec.as_ref().ok_or_else(|| {
            let errors: Vec<_> = self.parsed.errors().cloned().collect();
            let rendered = backstay_spec::render(&self.name, &self.text, &errors);
            let mut failure =
                Failure::usage("bad-file", format!("{} cannot be used\n{}", self.name, rendered.trim_end()));
            failure.fields.insert("errors".to_owned(), json!(errors));
            failure
        })
    }
}

fn read_bounded(path: &Path) -> Result<String, Failure> {
    let unreadable = |why: String| {
        let mut failure = Failure::usage("unreadable", format!("cannot read {}: {why}", path.display()));
        failure.fields.insert("errors".to_owned(), Value::Array(vec![unreadable_json(path, &why)]));
        failure
    };
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too large and says so.
    let limit = FILE_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    String::from_utf8(bytes)
        .map_err(|error| unreadable(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to())))
}

fn unreadable_json(path: &Path, why: &str) -> Value {
    json!({
        "file": path.display().to_string(),
        "line": 1,
        "column": 1,
        "code": "unreadable",
        "message": format!("cannot be read: {why}"),
        "help": null,
    })
}
