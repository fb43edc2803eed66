//! The guard's disk thread: the program's log with rotation, and the exit report.
//!
//! Everything that touches a disk after the start is here, in a thread of its own, because a hung disk holds whoever
//! writes to it and the guard's loop must be free to kill at a deadline. The loop hands work over a bounded queue and
//! never waits for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Chunks of output that may wait for the disk; with [`CHUNK_BYTES_MAX`] this bounds memory to 1 MiB.
const QUEUE_CHUNKS_MAX: usize = 64;
/// Largest chunk of output.
pub(super) const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Stack of the disk thread: small, because an exclusive guard locks it in memory.
const STACK_BYTES: usize = 256 * 1024;

/// Work for the disk thread.
#[derive(Debug)]
pub(super) enum DiskJob {
    /// Output of the program.
    Output(Vec<u8>),
    /// Write this file whole, durably.
    Report(PathBuf, Vec<u8>),
}

/// The loop's end of the disk thread.
pub(super) struct Disk {
    jobs: Option<SyncSender<DiskJob>>,
    ended: Receiver<()>,
    dropped: Arc<AtomicU64>,
}

impl Disk {
    /// Starts the thread. The log's directory is made if it is missing.
    pub fn start(log: Log, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (jobs, todo) = sync_channel(QUEUE_CHUNKS_MAX);
        let (end, ended) = sync_channel(1);
        std::thread::Builder::new().name("guard-disk".into()).stack_size(STACK_BYTES).spawn(move || {
            run(log, &todo);
            // Nobody may be waiting any more.
            let _ = end.try_send(());
        })?;
        Ok(Self { jobs: Some(jobs), ended, dropped })
    }

    /// Hands work over, or gives it back if the disk is behind.
    pub fn offer(&self, job: DiskJob) -> Result<(), DiskJob> {
        match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Err(TrySendError::Full(job) | TrySendError::Disconnected(job))) => Err(job),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Counts output that is given up.
    pub fn drop_output(&self, chunk: &[u8]) {
        self.dropped.fetch_add(lines_in(chunk), Ordering::Relaxed);
    }

    /// Lines dropped so far.
    pub fn lines_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lets the thread finish what waits, for at most `wait`; false if the disk did not.
    pub fn finish(&mut self, wait: Duration) -> bool {
        self.jobs = None;
        self.ended.recv_timeout(wait).is_ok()
    }
}

fn run(mut log: Log, todo: &Receiver<DiskJob>) {
    while let Ok(job) = todo.recv() {
        match job {
            DiskJob::Output(chunk) => log.append(&chunk),
            // A report that cannot be written is still on the socket until an agent takes it.
            DiskJob::Report(path, bytes) => drop(write_whole(&path, &bytes)),
        }
    }
}

/// Replaces a file by one with these bytes; after a crash there is the old one or the new one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("next");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn lines_in(chunk: &[u8]) -> u64 {
    let ends = chunk.iter().filter(|b| **b == b'\n').count();
    let cut = usize::from(chunk.last().is_some_and(|b| *b != b'\n'));
    u64::try_from(ends + cut).unwrap_or(u64::MAX)
}

/// A log of bounded size: `path`, `path.1`, … with `path` the newest.
pub(super) struct Log {
    path: PathBuf,
    bytes_max: u64,
    files_max: u32,
    file: Option<File>,
    bytes: u64,
    dropped: Arc<AtomicU64>,
    dropped_untold: u64,
}

impl Log {
    pub fn new(path: PathBuf, bytes_max: u64, files_max: u32, dropped: Arc<AtomicU64>) -> Self {
        Self { path, bytes_max, files_max, file: None, bytes: 0, dropped, dropped_untold: 0 }
    }

    /// Appends output, rotating at the ends of lines; what the disk refuses is dropped and counted.
    pub fn append(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            match self.append_some(rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(_) => {
                    let lines = lines_in(rest);
                    self.dropped.fetch_add(lines, Ordering::Relaxed);
                    self.dropped_untold += lines;
                    // Opened anew for the next chunk: the file may be gone or the disk may have room again.
                    self.file = None;
                    return;
                }
            }
        }
    }

    /// Writes as much as belongs into the present file and returns how much that was, at least one byte.
    fn append_some(&mut self, chunk: &[u8]) -> io::Result<usize> {
        self.open()?;
        let room = usize::try_from(self.bytes_max.saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        if chunk.len() <= room {
            self.write(chunk)?;
            return Ok(chunk.len());
        }
        let fits = chunk.get(..room).unwrap_or_default();
        let whole_lines = fits.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        // A line that fits into no file is cut; any other starts the next file.
        let taken = if whole_lines == 0 && self.bytes == 0 { fits.len() } else { whole_lines };
        self.write(chunk.get(..taken).unwrap_or_default())?;
        self.rotate()?;
        Ok(taken)
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        if self.bytes >= self.bytes_max {
            self.rotate()?;
            return self.open();
        }
        if self.dropped_untold > 0 {
            let note = format!("backstay: {} lines of output were dropped, the disk took none\n", self.dropped_untold);
            self.write(note.as_bytes())?;
            self.dropped_untold = 0;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.bytes += bytes.len() as u64;
        }
        Ok(())
    }

    /// Moves every file one number up and drops the oldest; the next write opens a new one.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        self.bytes = 0;
        let kept = self.files_max.saturating_sub(1);
        if kept == 0 {
            return ignore_missing(fs::remove_file(&self.path));
        }
        for number in (1..kept).rev() {
            ignore_missing(fs::rename(self.numbered(number), self.numbered(number + 1)))?;
        }
        ignore_missing(fs::rename(&self.path, self.numbered(1)))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("backstay-log-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("scratch");
        dir
    }

    #[test]
    fn rotation_bounds_size_and_count_and_keeps_lines_whole() {
        let dir = scratch("rotate");
        let path = dir.join("web.log");
        let mut log = Log::new(path.clone(), 100, 3, Arc::default());
        for n in 0..200 {
            log.append(format!("line {n:04}\n").as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(&dir).expect("dir").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["web.log", "web.log.1", "web.log.2"]);
        for name in &names {
            let text = fs::read_to_string(dir.join(name)).expect("log");
            assert!(text.len() <= 100, "{name:?} has {} bytes", text.len());
            assert!(text.lines().all(|l| l.len() == 9), "{name:?} holds a cut line");
        }
        let older = fs::read_to_string(dir.join("web.log.1")).expect("log");
        let newest = fs::read_to_string(&path).expect("log");
        assert!(newest.is_empty() || newest.ends_with("line 0199\n"), "{newest:?}");
        assert!(older.as_str() < newest.as_str() || newest.is_empty());
        fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn a_line_longer_than_a_file_is_cut_and_a_single_file_is_allowed() {
        let dir = scratch("cut");
        let path = dir.join("web.log");
        let mut log = Log::new(path.clone(), 10, 1, Arc::default());
        log.append(&[b'x'; 35]);
        assert_eq!(fs::read(&path).expect("log").len(), 5);
        assert_eq!(fs::read_dir(&dir).expect("dir").count(), 1);
        fs::remove_dir_all(dir).expect("clean");
    }

    #[test]
    fn what_the_disk_refuses_is_counted_and_told_later() {
        let dir = scratch("full");
        let path = dir.join("web.log");
        fs::create_dir(&path).expect("a directory in the way");
        let dropped = Arc::<AtomicU64>::default();
        let mut log = Log::new(path.clone(), 1000, 2, Arc::clone(&dropped));
        log.append(b"a\nb\nc");
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        fs::remove_dir(&path).expect("out of the way");
        log.append(b"d\n");
        let text = fs::read_to_string(&path).expect("log");
        assert!(text.contains("3 lines of output were dropped") && text.ends_with("d\n"), "{text:?}");
        fs::remove_dir_all(dir).expect("clean");
    }
}
