//! The worker's log: `STATE/log/agent.log`, bounded in size and number, and standard error when somebody watches.
//!
//! One thread writes. The others hand lines over through a bounded queue and never wait: a hung disk or a full pipe costs
//! lines of log, and says how many, but no lease.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A log file that would grow beyond this is put aside.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Files that were put aside; the oldest goes first.
const MAX_OLD_FILES: u32 = 4;
/// Lines that wait to be written; further ones are dropped and counted.
const MAX_WAITING_LINES: usize = 4096;
/// How long the end of the worker waits for its last lines.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// The log's name within its directory.
const FILE_NAME: &str = "agent.log";
/// What is logged unless [`FILTER_VARIABLE`] says otherwise: the consensus library tells its life story at `info`.
const FILTER: &str = "info,openraft=error";
/// Chooses what is logged, as `tracing_subscriber::EnvFilter` reads it.
const FILTER_VARIABLE: &str = "BACKSTAY_LOG";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot write the log {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the log's thread: {0}")]
    Thread(io::Error),
    /// Logging was started before.
    #[error("logging was started twice in one process")]
    Twice,
}

/// Writes the last lines when it is dropped; keep it until the process ends.
#[must_use]
pub struct LogKeeper {
    lines: SyncSender<Line>,
}

/// Starts logging to `dir`, for the whole process; also to standard error when that is a terminal or `to_stderr` asks for it.
pub fn start(dir: &Path, to_stderr: bool) -> Result<LogKeeper, LogError> {
    let path = dir.join(FILE_NAME);
    let file = RotatingFile::open(&path, MAX_FILE_BYTES).map_err(|source| LogError::File { path, source })?;
    let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
    let dropped = Arc::new(AtomicU64::new(0));
    let sink = Sink { file, stderr: to_stderr || io::stderr().is_terminal(), dropped: dropped.clone() };
    std::thread::Builder::new().name("log".into()).spawn(move || sink.drain(&waiting)).map_err(LogError::Thread)?;

    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(FILTER));
    let queue = Queue { lines: lines.clone(), dropped };
    let subscriber = tracing_subscriber::fmt().with_writer(queue).with_ansi(false).with_env_filter(filter).finish();
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    log_panics();
    Ok(LogKeeper { lines })
}

/// How long a panic waits for its line to reach the log.
const LAST_LINES: Duration = Duration::from_millis(100);

fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        before(panic);
        // One dead task would leave an agent that renews its session and does nothing else. The parent starts it anew.
        std::thread::sleep(LAST_LINES);
        std::process::abort();
    }));
}

enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Drop for LogKeeper {
    fn drop(&mut self) {
        let (done, flushed) = sync_channel(1);
        // With a full queue or a hung disk the last lines are lost; the end of the process matters more.
        if self.lines.try_send(Line::Flush(done)).is_ok() {
            let _ = flushed.recv_timeout(FLUSH_WITHIN);
        }
    }
}

/// Where lines are handed over.
#[derive(Clone)]
struct Queue {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The formatter writes each event with one call.
impl Write for Queue {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Line::Text(bytes.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread writes to.
struct Sink {
    file: RotatingFile,
    stderr: bool,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    fn drain(mut self, waiting: &Receiver<Line>) {
        while let Ok(line) = waiting.recv() {
            match line {
                Line::Text(text) => self.write(&text),
                Line::Flush(done) => {
                    let _ = done.try_send(());
                }
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.write(
                    format!("{dropped} lines of log were dropped: the disk or the terminal is too slow\n").as_bytes(),
                );
            }
        }
    }

    /// An error leaves nowhere to report it to; the agent goes on without this line.
    fn write(&mut self, text: &[u8]) {
        let _ = self.file.write(text);
        if self.stderr {
            let _ = io::stderr().write_all(text);
        }
    }
}

/// A file that is put aside when it is full: `agent.log` → `agent.log.1` → …
struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl RotatingFile {
    fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, max_bytes })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let length = text.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(text)?;
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..MAX_OLD_FILES).rev() {
            match std::fs::rename(self.old(number), self.old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.old(1))?;
        *self = Self::open(&self.path, self.max_bytes)?;
        Ok(())
    }

    fn old(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::TempDir;

    #[test]
    fn files_are_bounded_in_size_and_number() {
        let temp = TempDir::new();
        let path = temp.0.join(FILE_NAME);
        let mut file = RotatingFile::open(&path, 100).unwrap();
        for number in 0..100 {
            file.write(format!("line {number:03} {}\n", "x".repeat(30)).as_bytes()).unwrap();
        }
        let mut sizes: Vec<_> =
            std::fs::read_dir(&temp.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes.len() as u32, MAX_OLD_FILES + 1);
        assert!(sizes.iter().all(|bytes| *bytes <= 100), "{sizes:?}");
        assert!(std::fs::read_to_string(&path).unwrap().contains("line 099"));
        assert!(std::fs::read_to_string(file.old(1)).unwrap().contains("line 097"));
        // An agent that starts again goes on in the same file.
        let again = RotatingFile::open(&path, 100).unwrap();
        assert_eq!(again.bytes, file.bytes);
    }

    #[test]
    fn a_full_queue_drops_lines_and_says_how_many() {
        let temp = TempDir::new();
        let path = temp.0.join(FILE_NAME);
        let (lines, waiting) = sync_channel(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut queue = Queue { lines, dropped: dropped.clone() };
        for number in 0..5 {
            queue.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        drop(queue);
        let sink = Sink { file: RotatingFile::open(&path, MAX_FILE_BYTES).unwrap(), stderr: false, dropped };
        sink.drain(&waiting);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("line 0\n3 lines of log were dropped") && text.ends_with("line 1\n"), "{text}");
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let temp = TempDir::new();
        let path = temp.0.join(FILE_NAME);
        let (lines, waiting) = sync_channel(MAX_WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let sink =
            Sink { file: RotatingFile::open(&path, MAX_FILE_BYTES).unwrap(), stderr: false, dropped: dropped.clone() };
        let mut queue = Queue { lines: lines.clone(), dropped };
        for number in 0..1000 {
            queue.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        let thread = std::thread::spawn(move || sink.drain(&waiting));
        drop(LogKeeper { lines });
        drop(queue);
        thread.join().unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("line 999\n"));
    }
}
