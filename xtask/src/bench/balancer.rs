//! The balancer against HAProxy: the same backend, the same load, one processor for each proxy, in rounds A B A B.
//!
//! A shared machine is noisy, so single rates say little: read the processor time per request, and the ratios, which pair
//! the two runs of a round that stood next to each other. The load generator and the backend share the other processor and
//! saturate first in some cases; the rate is theirs then, the processor time still the proxy's.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::{Answer, backend};
use crate::process::{self, Background, Runner};
use crate::test;

const ROUNDS: usize = 5;
const ROUND_SECONDS: u64 = 2;
const CONNECTIONS: &str = "64";
/// How often, and how many times, a starting proxy is asked whether it is there.
const POLL: Duration = Duration::from_millis(20);
const POLLS_MAX: usize = 500;
/// A kernel's tick in /proc is a hundredth of a second wherever we run.
const TICK_US: f64 = 10_000.0;

/// One kind of load.
struct Case {
    name: &'static str,
    port: Port,
    close: bool,
}

#[derive(Clone, Copy)]
enum Port {
    L4,
    L7,
}

const CASES: &[Case] = &[
    Case { name: "L4, 1 KB, keep-alive", port: Port::L4, close: false },
    Case { name: "L7, 1 KB, keep-alive", port: Port::L7, close: false },
    Case { name: "L7, 1 KB, close", port: Port::L7, close: true },
];

/// A proxy that runs, and where it listens.
struct Proxy {
    name: &'static str,
    process: Background,
    l4: SocketAddr,
    l7: SocketAddr,
}

/// One round of one proxy.
#[derive(Clone, Copy)]
struct Sample {
    rate: f64,
    cpu_us: f64,
    errors: u64,
}

/// Runs the bench.
pub fn run(root: &Path, runner: &Runner) -> Result<Answer, String> {
    if let Some(why) = what_is_missing(root, runner)? {
        return Ok(Answer::Skipped(why));
    }
    let dir = std::env::temp_dir().join(format!("backstay-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let measured = measure_all(root, runner, &dir);
    // Its sockets and files say nothing once the proxies are gone.
    let _ = std::fs::remove_dir_all(&dir);
    measured.map(|()| Answer::Measured)
}

fn what_is_missing(root: &Path, runner: &Runner) -> Result<Option<String>, String> {
    let missing: Vec<&str> = ["haproxy", "wrk"].into_iter().filter(|name| process::program(name).is_none()).collect();
    if !missing.is_empty()
        && let Err(why) = test::install(runner, &missing)
    {
        return Ok(Some(format!("without {}: {why}", missing.join(" and "))));
    }
    if !runner.run(process::cargo(root).args(["build", "--release", "-p", "backstay"]))?.success {
        return Err("the release build failed".to_owned());
    }
    let help = process::output(Command::new(binary(root)).args(["balancer", "--help"])).unwrap_or_default();
    Ok((!help.contains("--socket")).then(|| "this build has no `backstay balancer --socket`".to_owned()))
}

fn binary(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from).join("release/backstay")
}

fn measure_all(root: &Path, runner: &Runner, dir: &Path) -> Result<(), String> {
    let me = std::env::current_exe().map_err(|error| format!("cannot tell this program's path: {error}"))?;
    let mut command = pinned(Side::Load, me.as_os_str());
    let (_backend, address) = runner.background_with_line(command.arg(backend::VERB))?;
    let backend: SocketAddr =
        address.parse().map_err(|error| format!("the backend gave no address ({address}): {error}"))?;

    let proxies = [haproxy(runner, dir, backend)?, ours(root, runner, dir, backend)?];
    println!(
        "{:<22} {:<9} {:>9} {:>12} {:>10} {:>10} {:>7}",
        "load", "proxy", "requests/s", "cpu us/req", "rate vs", "cpu vs", "errors"
    );
    for case in CASES {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push((sample(&proxies[0], case)?, sample(&proxies[1], case)?));
        }
        print!("{}", render(case, &proxies, &rounds));
    }
    Ok(())
}

fn render(case: &Case, proxies: &[Proxy; 2], rounds: &[(Sample, Sample)]) -> String {
    let mut text = String::new();
    for (n, proxy) in proxies.iter().enumerate() {
        let own = |round: &(Sample, Sample)| if n == 0 { round.0 } else { round.1 };
        let median_of = |value: &dyn Fn(&(Sample, Sample)) -> f64| median(rounds.iter().map(value).collect());
        let rate = median_of(&|r| own(r).rate);
        let cpu = median_of(&|r| own(r).cpu_us);
        let rate_ratio = median_of(&|r| own(r).rate / r.0.rate);
        let cpu_ratio = median_of(&|r| own(r).cpu_us / r.0.cpu_us);
        let errors: u64 = rounds.iter().map(|r| own(r).errors).sum();
        let name = proxy.name;
        let _ = writeln!(
            text,
            "{:<22} {name:<9} {rate:>10.0} {cpu:>12.1} {rate_ratio:>10.2} {cpu_ratio:>10.2} {errors:>7}",
            case.name
        );
    }
    text
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn sample(proxy: &Proxy, case: &Case) -> Result<Sample, String> {
    let before = cpu_us(proxy.process.id())?;
    let target = match case.port {
        Port::L4 => proxy.l4,
        Port::L7 => proxy.l7,
    };
    let mut command = pinned(Side::Load, "wrk".as_ref());
    command.args(["-t1", "-c", CONNECTIONS, "-d", &format!("{ROUND_SECONDS}s")]);
    if case.close {
        command.args(["-H", "Connection: close"]);
    }
    let said = process::output(command.arg(format!("http://{target}/")))?;
    if !is_alive(proxy) {
        return Err(format!("{} died under load", proxy.name));
    }
    let spent = cpu_us(proxy.process.id())? - before;
    let (requests, rate, errors) =
        read_wrk(&said).ok_or_else(|| format!("wrk said nothing that can be read: {said}"))?;
    Ok(Sample { rate, cpu_us: spent / requests.max(1.0), errors })
}

fn is_alive(proxy: &Proxy) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", proxy.process.id())).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Requests, requests a second, and errors of any kind.
fn read_wrk(said: &str) -> Option<(f64, f64, u64)> {
    let (mut requests, mut rate, mut errors) = (None, None, 0);
    for line in said.lines().map(str::trim) {
        if let Some((count, _)) = line.split_once(" requests in ") {
            requests = count.parse().ok();
        } else if let Some(count) = line.strip_prefix("Requests/sec:") {
            rate = count.trim().parse().ok();
        } else if line.starts_with("Socket errors:") || line.starts_with("Non-2xx") {
            errors += line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Some((requests?, rate?, errors))
}

/// Processor time of a process and its threads so far, in microseconds (proc(5): utime and stime are fields 14 and 15).
fn cpu_us(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    // The name may hold anything, so the fields are counted from its closing parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: Option<f64> = fields.get(11..13).map(|two| two.iter().filter_map(|n| n.parse::<f64>().ok()).sum());
    ticks.map(|ticks| ticks * TICK_US).ok_or_else(|| format!("{path} has too few fields"))
}

/// Which processor something runs on.
#[derive(Clone, Copy)]
enum Side {
    Proxy,
    Load,
}

/// A command on its side's processor; unpinned where there is but one.
fn pinned(side: Side, program: &std::ffi::OsStr) -> Command {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 || process::program("taskset").is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", if matches!(side, Side::Proxy) { "0" } else { "1" }]).arg(program);
    command
}

/// A port that was free a moment ago; the proxy says so when it no longer is.
fn free_address() -> Result<SocketAddr, String> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("cannot find a free port: {error}"))
}

fn wait_for(name: &str, address: SocketAddr) -> Result<(), String> {
    for _ in 0..POLLS_MAX {
        if TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    Err(format!("{name} does not listen on {address}"))
}

fn haproxy(runner: &Runner, dir: &Path, backend: SocketAddr) -> Result<Proxy, String> {
    let (l4, l7) = (free_address()?, free_address()?);
    let file = dir.join("haproxy.cfg");
    // As fast as its manual knows: one thread as ours has one worker, connections reused, splicing where it pays, no log.
    let text = format!(
        "global\n  nbthread 1\n  maxconn 1024\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         option splice-auto\n\
         listen l4\n  mode tcp\n  bind {l4}\n  server b {backend}\n\
         listen l7\n  mode http\n  bind {l7}\n  option forwardfor\n  http-reuse always\n  server b {backend} pool-max-conn -1\n"
    );
    std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    // In the foreground and without a parent of its own, so that the id we have is the one that forwards.
    let found = process::program("haproxy").ok_or("haproxy is not installed")?;
    let process = runner.background(pinned(Side::Proxy, found.as_os_str()).arg("-db").arg("-f").arg(&file))?;
    wait_for("haproxy", l4)?;
    wait_for("haproxy", l7)?;
    Ok(Proxy { name: "haproxy", process, l4, l7 })
}

fn ours(root: &Path, runner: &Runner, dir: &Path, backend: SocketAddr) -> Result<Proxy, String> {
    let (l4, l7) = (free_address()?, free_address()?);
    let socket = dir.join("balancer.sock");
    let mut command = pinned(Side::Proxy, binary(root).as_os_str());
    let process = runner.background(command.args(["balancer", "--workers", "1", "--socket"]).arg(&socket))?;
    hand_table(&socket, &table(l4, l7, backend))?;
    wait_for("backstay balancer", l4)?;
    wait_for("backstay balancer", l7)?;
    Ok(Proxy { name: "backstay", process, l4, l7 })
}

/// The routing table: one listener of each kind on one upstream of one backend.
fn table(l4: SocketAddr, l7: SocketAddr, backend: SocketAddr) -> serde_json::Value {
    let listener = |name: &str, bind: SocketAddr, proto: &str| serde_json::json!({ "name": name, "bind": bind.to_string(), "proto": proto, "upstream": "b", "valid_until": null });
    serde_json::json!({ "table": {
        "generation": 1,
        "serial": 1,
        "listeners": [listener("l4", l4, "tcp"), listener("l7", l7, "http")],
        "upstreams": [{
            "name": "b", "hold_ms": 0, "valid_until": null, "token": 0, "check": null, "exclusive": false,
            "backends": [{ "id": "b1", "addr": backend.to_string(), "state": "active" }],
        }],
    }})
}

fn hand_table(socket: &Path, table: &serde_json::Value) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot speak to the balancer on {}: {error}", socket.display());
    let mut tries = 0;
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if tries == POLLS_MAX => return Err(cannot(error)),
            Err(_) => {
                tries += 1;
                thread::sleep(POLL);
            }
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(cannot)?;
    stream.write_all(format!("{table}\n").as_bytes()).map_err(cannot)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(cannot)?;
    let parsed: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    if !parsed.is_object() || parsed["error"].is_string() {
        return Err(format!("the balancer refused the table: {}", answer.trim()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_read() {
        let said = "Running 2s test\n  81234 requests in 2.00s, 92.11MB read\n  Socket errors: connect 1, read 2, write 0, timeout 3\n\
                    Requests/sec:  40617.12\n";
        assert_eq!(read_wrk(said), Some((81234.0, 40617.12, 6)));
        assert_eq!(read_wrk("nothing"), None);
    }

    #[test]
    fn processor_time_of_this_process_can_be_read() {
        assert!(cpu_us(std::process::id()).unwrap() >= 0.0);
    }

    #[test]
    fn the_middle_is_found() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
