//! `cargo xtask mutants [NAME]`: every wrong product must be caught by the simulator's checkers, from wherever seeds begin.

use std::path::Path;

use crate::process::{self, Runner};

/// Runs them; false when one survived. The simulator's own example prints the table and the count.
pub fn run(root: &Path, name: Option<&str>) -> Result<bool, String> {
    let mut command = process::cargo(root);
    command.args(["run", "--release", "--quiet", "-p", "backstay-sim", "--example", "mutants"]);
    if let Some(name) = name {
        command.args(["--", name]);
    }
    Ok(Runner::new()?.run(&mut command)?.success)
}
