//! `cargo xtask VERB`: what the project does to itself: `tidy`, `test`, `mutants` and `bench`. The program itself is `backstay`.

mod bench;
mod mutants;
mod process;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask VERB
  tidy [--ratchet]   check the architecture and the house rules; --ratchet commits lower numbers
  test [--fast]      the one test command; --fast leaves out the lab and the long simulations
  mutants [NAME]     run every wrong product in the simulator; each must be caught
  bench [NAME]       measure and print; without a name, all of them
  bench --list       name the benches";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(arguments: &[&str]) -> Result<bool, String> {
    match arguments {
        ["tidy"] => Ok(tidy::run(&root()?, false)?.failed == 0),
        ["tidy", "--ratchet"] => Ok(tidy::run(&root()?, true)?.failed == 0),
        ["test"] => test::run(&root()?, false),
        ["test", "--fast"] => test::run(&root()?, true),
        ["mutants"] => mutants::run(&root()?, None),
        ["mutants", name] => mutants::run(&root()?, Some(name)),
        ["bench"] => bench::run(&root()?, None),
        ["bench", "--list"] => Ok(bench::list()),
        ["bench", name] => bench::run(&root()?, Some(name)),
        // Not for people: the benches start it as a process of its own, so that it can be pinned and measured apart.
        [bench::backend::VERB] => bench::backend::serve(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => Err(USAGE.to_owned()),
    }
}

/// The root of the repository: the nearest directory above that holds this crate.
fn root() -> Result<PathBuf, String> {
    let here = std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
    let found = here.ancestors().find(|dir| dir.join("xtask/Cargo.toml").is_file()).map(Path::to_owned);
    found.ok_or_else(|| format!("{} is not inside the repository; go there and run it again", here.display()))
}
