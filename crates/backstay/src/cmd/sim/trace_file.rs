//! A trace as a file: one line of JSON that says which run it is, then one line for everything that happened in it.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use backstay_sim::{Options, RunReport, TRACE_LINES_MAX};
use serde::{Deserialize, Serialize};

use super::{WorldId, mutant_named};
use crate::cli::Without;
use crate::output::Failure;

/// No trace file is larger; what does not fit is left out, and the header says how many lines are there.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Names this form of file.
const FORMAT: &str = "backstay.sim-trace/1";

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    /// Which build wrote it: another one may run the same seed differently.
    pub version: String,
    seed: u64,
    mutant: Option<String>,
    without: String,
    /// The digest of the run.
    pub hash: String,
    /// How many lines follow.
    lines: usize,
}

/// A trace that was read.
pub struct Recorded {
    pub header: Header,
    pub world: WorldId,
    pub lines: Vec<String>,
}

/// Runs a world and keeps everything that happens in it.
pub fn record(world: &WorldId) -> RunReport {
    let options = Options { trace_lines: TRACE_LINES_MAX, every_event: true, ..world.options() };
    backstay_sim::run(world.seed, &options)
}

/// The build that runs now.
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// Runs a world and writes its trace.
pub fn write(path: &Path, world: &WorldId) -> Result<(), Failure> {
    let report = record(world);
    let mut bytes = 0;
    let fits = report.trace.iter().take_while(|line| {
        bytes += line.len() as u64 + 1;
        bytes <= FILE_BYTES_MAX / 2
    });
    let lines: Vec<&String> = fits.collect();
    let header = Header {
        format: FORMAT.to_owned(),
        version: version(),
        seed: world.seed,
        mutant: world.mutant.map(|mutant| mutant.name().to_owned()),
        without: world.without.to_string(),
        hash: format!("{:016x}", report.hash),
        lines: lines.len(),
    };
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        writeln!(file, "{}", serde_json::to_string(&header)?)?;
        lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
        file.flush()
    };
    write().map_err(|why| Failure::unexpected("unwritable", format!("cannot write {}: {why}", path.display())))
}

/// Reads a trace.
pub fn read(path: &Path) -> Result<Recorded, Failure> {
    let name = path.display();
    let unreadable = |why: std::io::Error| Failure::usage("unreadable", format!("cannot read {name}: {why}"));
    let file = File::open(path).map_err(unreadable)?;
    let mut lines = BufReader::new(file.take(FILE_BYTES_MAX)).lines();
    let not_ours = || {
        Failure::usage("not-a-trace", format!("{name} is not a trace of this program"))
            .with_help("write one with: backstay sim --seed 7 --trace FILE")
    };
    let first = lines.next().ok_or_else(not_ours)?.map_err(|_| not_ours())?;
    let header: Header = serde_json::from_str(&first).map_err(|_| not_ours())?;
    if header.format != FORMAT {
        return Err(not_ours());
    }
    let without = if header.without.is_empty() { Ok(Without::default()) } else { header.without.parse() };
    let without = without.map_err(|why| Failure::usage("not-a-trace", format!("{name}: {why}")))?;
    let mutant = header.mutant.as_deref().map(mutant_named).transpose()?;
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(unreadable)?;
    Ok(Recorded { world: WorldId { seed: header.seed, mutant, without }, header, lines })
}

impl Recorded {
    /// The lines that the header promises, or fewer.
    pub fn promised(&self) -> usize {
        self.header.lines
    }
}
