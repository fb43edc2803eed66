//! `agent`: this machine's agent. A tiny parent (here until it ends) and its worker (the hidden verb `agent-worker`).

use std::ffi::OsString;
use std::process;

use backstay_agent::{local, parent, worker};

use crate::cli::AgentArgs;
use crate::cmd::config;
use crate::config_file::ConfigFile;
use crate::exit_code::Exit;
use crate::output::{Answer, Failure, Output};

/// Checks what can be checked without touching anything, then keeps a worker alive until it is stopped.
pub fn run(args: &AgentArgs, output: Output) -> Answer {
    let file = ConfigFile::read(args.config.as_deref())?;
    let spec = file.spec()?;
    config::refuse_what_cannot_run(&file, spec)?;
    let node = local::choose_node(spec, args.node.as_deref())
        .map_err(|error| Failure::usage("which-node", error.to_string()))?;
    output.progress(format_args!("backstay: agent of {node} in cluster {}, file {}", spec.cluster, file.name));

    let mut passed_on: Vec<OsString> = vec!["-c".into(), file.path.into(), "--node".into(), node.to_string().into()];
    if let Some(state) = &args.state {
        passed_on.extend(["--state".into(), state.into()]);
    }
    for (flag, is_set) in [("--log-stderr", args.log_stderr), ("--rejoin", args.rejoin)] {
        passed_on.extend(is_set.then(|| flag.into()));
    }
    let status = parent::run(passed_on)
        .map_err(|error| Failure::unexpected("parent", format!("the agent's parent cannot go on: {error}")))?;
    process::exit(status.into());
}

/// The worker. The parent reads its exit code: some ends are final, after others it starts the next one.
pub fn run_worker(args: AgentArgs) -> Answer {
    let Some(file) = args.config else {
        return Err(Failure::usage("usage", "the worker needs `-c FILE`"));
    };
    let AgentArgs { node, state, log_stderr, rejoin, .. } = args;
    let options = worker::Options { file, node, state, rejoin, log_stderr };
    match worker::run(&options) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(
            match error {
                worker::WorkerError::Refused(_) => Exit::Usage,
                worker::WorkerError::Unsafe(_) => Exit::Refused,
                worker::WorkerError::Failed(_) => Exit::Unexpected,
            },
            "worker",
            error.to_string(),
        )),
    }
}
