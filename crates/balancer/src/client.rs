//! A small blocking client of the control socket, for the agent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::table::Table;
use crate::wire::{Answer, Command, Extend, LINE_MAX};

/// How long the balancer may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a balancer.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// Why a command has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers on the socket, or the connection broke.
    #[error("the balancer at {path} does not answer: {source} (connect again; start one if that fails)")]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The balancer said something that is no answer.
    #[error("the balancer at {path} gave no proper answer: {source} (retrying does not help; the versions may differ)")]
    Garbled {
        /// The control socket.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The command was refused and changed nothing.
    #[error("the balancer refused: {0}")]
    Refused(String),
}

impl Control {
    /// Connects to the balancer that serves `path`. Fails at once if there is none.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ControlError> {
        let path = path.as_ref().to_owned();
        let connected = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(source) => Err(ControlError::Unreachable { path, source }),
        }
    }

    /// Puts a table in force. When it returns, the workers follow it (within half a second) and what it forbids is cut.
    pub fn set_table(&mut self, table: &Table) -> Result<Answer, ControlError> {
        self.ask(&Command::Table(table.clone()))
    }

    /// Moves `valid_until` of listeners and upstreams into the future.
    pub fn extend(&mut self, extend: &Extend) -> Result<Answer, ControlError> {
        self.ask(&Command::Extend(extend.clone()))
    }

    /// Reports what is bound and counted.
    pub fn stats(&mut self) -> Result<Answer, ControlError> {
        self.ask(&Command::Stats {})
    }

    /// Asks the balancer to drain and exit; the answer comes before it does.
    pub fn shutdown(&mut self) -> Result<Answer, ControlError> {
        self.ask(&Command::Shutdown {})
    }

    fn ask(&mut self, command: &Command) -> Result<Answer, ControlError> {
        let mut line = serde_json::to_vec(command).map_err(|source| self.garbled(source))?;
        line.push(b'\n');
        let mut answer = Vec::new();
        self.stream
            .get_mut()
            .write_all(&line)
            .and_then(|()| {
                let mut bounded = (&mut self.stream).take(LINE_MAX as u64);
                bounded.read_until(b'\n', &mut answer)
            })
            .and_then(|_| match answer.last() {
                Some(b'\n') => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            })
            .map_err(|source| ControlError::Unreachable { path: self.path.clone(), source })?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|source| self.garbled(source))?;
        match answer.error {
            Some(error) => Err(ControlError::Refused(error)),
            None => Ok(answer),
        }
    }

    fn garbled(&self, source: serde_json::Error) -> ControlError {
        ControlError::Garbled { path: self.path.clone(), source }
    }
}
