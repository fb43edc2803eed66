//! The command as people and scripts use it: the real program, its exit codes, its last line of JSON.

// A test may read a clock to bound a wait.
#![allow(clippy::disallowed_methods)]

mod demo;
mod estimate;
mod live;
mod plan;
mod verbs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// The program under test.
pub fn backstay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstay"));
    // Nothing of whoever runs the tests: no state of a real agent, no colour.
    command.env("XDG_STATE_HOME", "/nonexistent").env_remove("NO_COLOR");
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    backstay().args(args).output().expect("the program starts")
}

/// The last line of stdout as an object, and the exit code.
pub fn json(args: &[&str]) -> (Value, i32) {
    let output = run(args);
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let last = stdout.lines().last().unwrap_or_default();
    let answer: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{args:?}: {error}: {stdout:?}"));
    assert!(answer.is_object(), "{args:?}: {answer}");
    (answer, output.status.code().expect("it ended by itself"))
}

/// A directory that is removed at the end of a test.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new one.
    pub fn create() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("backstay-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file with this text in it; answers its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a new file");
        path.display().to_string()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
