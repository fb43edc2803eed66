//! The command line: its verbs, options and help texts. What a verb does is in `cmd`.

pub mod estimate;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgAction, Args, Command, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

/// Verbs that the design names and this build does not have. They are refused by name, so that nobody who read the
/// documents is told that they do not exist.
pub const NOT_IN_THIS_BUILD: [&str; 13] = [
    "failover", "pause", "resume", "drill", "backup", "restore", "prove", "top", "join", "token", "node", "store",
    "psql",
];

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "backstay",
    version,
    about = "Keeps services up when machines, programs, disks and networks fail",
    after_help = "Exit codes: 0 done or healthy · 1 unexpected failure · 2 usage or config, nothing changed · 3 goal not met\n\
                  4 outage · 5 refused for safety · 6 result unknown · 7 proof failed",
    max_term_width = 100
)]
pub struct Cli {
    /// Answer with one JSON object as the last line of stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check, format, describe, compare or apply the config file
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Make the cluster's identities from a file, or print a first file for some addresses
    Init(InitArgs),
    /// Run this machine's agent
    Agent(AgentArgs),
    /// Show how the cluster is; the exit code says it too
    Status(StateArgs),
    /// Show what was decided lately, and why
    Events(EventsArgs),
    /// Say why a node, service or listener is as it is
    Explain(ExplainArgs),
    /// Move a role to another node, planned
    Switchover(SwitchoverArgs),
    /// Move everything off a node before work on it
    Drain(DrainArgs),
    /// Watch nodes on this machine survive failures under load, one redundancy model after the other
    Demo(DemoArgs),
    /// Run the decisions in a simulated world under faults
    Sim(SimArgs),
    /// Say what may fail, what must not, and what would follow from a change
    Plan(PlanArgs),
    /// Compare the redundancy models for one service
    Models(ModelsArgs),
    /// Say how available something would be, from a few numbers
    #[command(subcommand)]
    Estimate(estimate::EstimateKind),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// The worker of an agent, started by its parent
    #[command(hide = true, name = backstay_agent::parent::WORKER_VERB)]
    AgentWorker(AgentArgs),
    /// The parent of one instance, started by the agent
    #[command(hide = true)]
    Guard {
        /// The guard's directory
        dir: PathBuf,
    },
    /// The first process inside a guard, started by it
    #[command(hide = true)]
    GuardInit,
    /// The process that forwards traffic, started by the agent
    #[command(hide = true)]
    Balancer(BalancerArgs),
    /// The small web server of the demo
    #[command(hide = true)]
    DemoApp(DemoAppArgs),
    /// What clears up after the demo
    #[command(hide = true, name = crate::cmd::demo::watchdog::VERB)]
    DemoWatchdog {
        /// The demo's directory
        dir: PathBuf,
    },
}

/// `config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Say everything that is wrong with a file; nothing is changed
    Check(FileArgs),
    /// Lay a file out evenly; comments stay
    Fmt {
        /// Which file.
        #[command(flatten)]
        file: FileArgs,
        /// Change nothing; exit with 3 when the file would change
        #[arg(long)]
        check: bool,
    },
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Show how a file differs from the adopted one
    Diff {
        /// Which file.
        #[command(flatten)]
        file: FileArgs,
        /// Which agent.
        #[command(flatten)]
        state: StateArgs,
    },
    /// Have the cluster adopt a file; asks first on a terminal
    Apply {
        /// Which file.
        #[command(flatten)]
        file: FileArgs,
        /// Which agent.
        #[command(flatten)]
        state: StateArgs,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
}

/// Which agent is asked.
#[derive(Debug, Args)]
pub struct StateArgs {
    /// The agent's state directory [default: the only one on this machine]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    state: Option<PathBuf>,
}

impl StateArgs {
    /// The directory that was named.
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }
}

/// `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The config file
    #[arg(short = 'c', long = "config", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Which node of the file this machine is [default: the one with an address of this machine]
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Where it keeps its state [default: /var/lib/backstay/CLUSTER/NODE as root, else under $XDG_STATE_HOME/backstay]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// Write the log to stderr as well
    #[arg(long)]
    pub log_stderr: bool,
    /// Bring this node's lost or damaged store back under a new id
    #[arg(long)]
    pub rejoin: bool,
}

/// `balancer`.
#[derive(Debug, Args)]
pub struct BalancerArgs {
    /// Its control socket
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Threads that forward; 0: one per core, at most 4
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub workers: usize,
    /// Say on stderr what changes
    #[arg(long)]
    pub log: bool,
}

/// `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Which agent.
    #[command(flatten)]
    pub state: StateArgs,
    /// Show so many, the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub last: usize,
}

/// `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A node (db1), a service (app.web) or a listener (listen.front)
    #[arg(value_name = "NODE|SERVICE|LISTENER")]
    pub subject: String,
    /// Which agent.
    #[command(flatten)]
    pub state: StateArgs,
}

/// `switchover`.
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// A service (app.jobs) or a listener's address (listen.front)
    #[arg(value_name = "SERVICE|LISTENER")]
    pub subject: String,
    /// Where to
    #[arg(long, value_name = "NODE")]
    pub to: String,
    /// Which agent.
    #[command(flatten)]
    pub state: StateArgs,
}

/// `drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The node to empty
    #[arg(value_name = "NODE")]
    pub node: String,
    /// Let it hold roles again
    #[arg(long)]
    pub undo: bool,
    /// Which agent.
    #[command(flatten)]
    pub state: StateArgs,
}

/// Which file is meant.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The config file [default: /etc/backstay/backstay.toml, then ./backstay.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "file")]
    config: Option<PathBuf>,
    /// The same, without the flag
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

impl FileArgs {
    /// The file that was named, either way.
    pub fn named(&self) -> Option<&Path> {
        self.config.as_deref().or(self.file.as_deref())
    }
}

/// `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Make the identities of this file's nodes
    #[arg(short = 'c', long = "config", value_name = "FILE", requires = "out", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Where the identities go; must not be there yet
    #[arg(long, value_name = "DIR", requires = "config", value_hint = ValueHint::DirPath)]
    pub out: Option<PathBuf>,
    /// Print a commented config for machines with these addresses
    #[arg(value_name = "ADDR", conflicts_with = "config", required_unless_present = "config", action = ArgAction::Append)]
    pub addresses: Vec<IpAddr>,
    /// Name of the cluster in that config
    #[arg(long, value_name = "NAME", default_value = "shop", conflicts_with = "config")]
    pub cluster: String,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which file.
    #[command(flatten)]
    pub file: FileArgs,
    /// What if: `node db1 lost`, `+ node db4 rack=d`, `app.web.redundancy=2N`; may be given several times
    #[arg(long, value_name = "QUESTION", allow_hyphen_values = true)]
    pub what_if: Vec<String>,
    /// From how the cluster stands now, with the file it has adopted
    #[arg(long, conflicts_with_all = ["config", "file"])]
    pub live: bool,
    /// Which agent.
    #[command(flatten)]
    pub state: StateArgs,
    /// Show every failure, reason, derived value and assumption
    #[arg(long)]
    pub all: bool,
}

/// `models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// A service (app.web)
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// The config file [default: /etc/backstay/backstay.toml, then ./backstay.toml]
    #[arg(short = 'c', long = "config", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Draw the comparison into this file as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub svg: Option<PathBuf>,
}

/// `sim`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct SimArgs {
    /// What to do instead of running worlds.
    #[command(subcommand)]
    pub verb: Option<SimVerb>,
    /// One world
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "mutants"])]
    pub seed: Option<u64>,
    /// Many worlds, both ends included
    #[arg(long, value_name = "A..B")]
    pub seeds: Option<Seeds>,
    /// Run deliberately wrong products; each must be caught
    #[arg(long)]
    pub mutants: bool,
    /// Run one deliberately wrong product
    #[arg(long, value_name = "NAME", conflicts_with = "mutants")]
    pub mutant: Option<String>,
    /// Leave these faults of the world out (3,5,9..12)
    #[arg(long, value_name = "LIST", requires = "seed", conflicts_with_all = ["seeds", "mutants"])]
    pub without: Option<Without>,
    /// Write everything that happens in the world into this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "seed", conflicts_with_all = ["seeds", "mutants"])]
    pub trace: Option<PathBuf>,
}

/// `sim …`.
#[derive(Debug, Subcommand)]
pub enum SimVerb {
    /// Run the world of a trace again and compare, line by line
    Replay {
        /// What `sim --trace` wrote
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Show one line at a time: Enter goes on, a number goes there, q ends
        #[arg(long)]
        step: bool,
    },
}

/// `A..B`, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not a range of seeds such as 1..1000");
        let (first, last) = text.split_once("..").ok_or_else(wanted)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| wanted());
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{first} is behind {last}"));
        }
        Ok(Self { first, last })
    }
}

/// Faults that are left out: `3,5,9..12`, both ends of a range included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Without(pub BTreeSet<u32>);

impl FromStr for Without {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("`{text}` is not a list of faults such as 3,5,9..12");
        let number = |text: &str| text.parse::<u32>().map_err(|_| wanted());
        let mut all = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = match part.split_once("..") {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("{first} is behind {last}"));
            }
            if last >= backstay_sim::STRIKES_MAX {
                return Err(format!(
                    "no world has a fault {last}; they are numbered below {}",
                    backstay_sim::STRIKES_MAX
                ));
            }
            all.extend(first..=last);
        }
        Ok(Self(all))
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut parts = Vec::new();
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            parts.push(if first == last { first.to_string() } else { format!("{first}..{last}") });
        }
        f.write_str(&parts.join(","))
    }
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave the nodes of the first act running, and play no other
    #[arg(long)]
    pub keep: bool,
    /// End a demo that was left running
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with_all = ["keep", "command"])]
    pub stop: Option<PathBuf>,
    /// Your own web server instead of the built-in one; {port} becomes its port
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `demo-app`.
#[derive(Debug, Args)]
pub struct DemoAppArgs {
    /// Where it listens
    #[arg(long, value_name = "ADDR")]
    pub addr: IpAddr,
    /// Where it listens
    #[arg(long, value_name = "PORT")]
    pub port: u16,
    /// Write a line there every few milliseconds
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
}

/// The command with the verbs that are refused by name.
pub fn command() -> Command {
    Cli::command().subcommands(NOT_IN_THIS_BUILD.map(|verb| {
        Command::new(verb)
            .hide(true)
            .disable_help_flag(true)
            .arg(clap::Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn faults_left_out_are_written_as_they_are_read() {
        for text in ["3", "3,5,9..12", "0..255", "1,3"] {
            assert_eq!(text.parse::<Without>().map(|without| without.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("12,9..11,3,5".parse::<Without>().map(|without| without.to_string()), Ok("3,5,9..12".to_owned()));
        for bad in ["", "3,", "5..3", "256", "x", "-1", "1..=2"] {
            assert!(bad.parse::<Without>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_of_seeds_has_two_ends() {
        assert_eq!("1..20000".parse(), Ok(Seeds { first: 1, last: 20_000 }));
        for bad in ["", "1", "1..", "..2", "2..1", "a..b", "1..=2", "-1..2"] {
            assert!(bad.parse::<Seeds>().is_err(), "{bad}");
        }
    }
}
