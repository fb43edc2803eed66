//! The hidden verb `balancer`: the process that forwards traffic, started by the agent.

use backstay_balancer::{Error, Options};

use crate::cli::BalancerArgs;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure};

/// Forwards until it is told to stop.
pub fn run(args: BalancerArgs) -> Answer {
    let options = Options { socket: args.socket, workers: args.workers, log: args.log };
    match backstay_balancer::run(options) {
        Ok(()) => Ok(Exit::Done),
        Err(error @ Error::AlreadyServed(_)) => Err(Failure::new(Exit::Refused, "already-served", error.to_string())),
        Err(error @ Error::PathTooLong { .. }) => Err(Failure::usage("path-too-long", error.to_string())),
        Err(error) => Err(Failure::unexpected("balancer", error.to_string())),
    }
}
