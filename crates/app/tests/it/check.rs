//! Checks against real listeners and commands.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use backstay_app::check::{Check, CheckKind, Checker, Health, HealthState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::Scenario;
use crate::world::{Outcome, PATIENCE, block_on, number_in, start_ticks, until};

pub const SCENARIOS: &[Scenario] = &[
    ("check::http_follows_the_answers", http_follows_the_answers),
    ("check::a_start_is_seen_long_before_the_period", a_start_is_seen_long_before_the_period),
    ("check::what_is_no_http_fails", what_is_no_http_fails),
    ("check::a_silent_server_times_out", a_silent_server_times_out),
    ("check::a_command_says_why", a_command_says_why),
    ("check::a_hung_command_is_killed_with_its_group", a_hung_command_is_killed_with_its_group),
    ("check::checks_never_overlap", checks_never_overlap),
];

fn quick(kind: CheckKind) -> Check {
    Check { kind, every: Duration::from_millis(20), timeout: PATIENCE, rise: 2, fall: 3 }
}

fn up() -> CheckKind {
    CheckKind::Http { path: "/up".into(), host: None, port: None }
}

async fn health(checker: &Checker, what: &str, fits: impl Fn(&Health) -> bool) -> Health {
    let mut seen = checker.health();
    let waited = tokio::time::timeout(PATIENCE, seen.wait_for(|h| fits(h))).await;
    match waited {
        Ok(health) => health.expect("the checker lives").clone(),
        Err(_) => panic!("{what}: still {:?}", checker.health().borrow()),
    }
}

/// Answers every connection with these bytes once a request head has come.
async fn server(answer: impl Fn() -> String + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let addr = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0_u8; 1024];
            let n = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..n]).into_owned();
            let answer = if request.starts_with("GET /up HTTP/1.1\r\nHost: ") { answer() } else { String::new() };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    addr
}

fn http_follows_the_answers(_dir: &Path) -> Outcome {
    block_on(async {
        let status = Arc::new(AtomicU16::new(204));
        let shown = Arc::clone(&status);
        // An interim answer before the final one is passed over.
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        let addr = server(move || format!("{interim}HTTP/1.1 {} X\r\n\r\n", shown.load(Ordering::SeqCst))).await;
        let checker = Checker::spawn(quick(up()), addr);
        let passing = health(&checker, "passing", |h| h.state == HealthState::Passing).await;
        assert!(passing.last_ok_boottime_ns.is_some() && passing.last_error.is_none());
        status.store(503, Ordering::SeqCst);
        let failing = health(&checker, "failing", |h| h.state == HealthState::Failing).await;
        assert!(failing.last_error.as_deref().is_some_and(|e| e.contains("503")), "{failing:?}");
        assert!(failing.since_boottime_ns > passing.since_boottime_ns);
        status.store(302, Ordering::SeqCst);
        health(&checker, "passing again", |h| h.state == HealthState::Passing).await;
        Outcome::Passed
    })
}

fn a_start_is_seen_long_before_the_period(_dir: &Path) -> Outcome {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let addr = listener.local_addr().expect("address");
        drop(listener);
        let hourly = Check { every: Duration::from_secs(3600), fall: 1, ..quick(CheckKind::Tcp) };
        let checker = Checker::spawn(hourly, addr);
        let failing = health(&checker, "failing", |h| h.state == HealthState::Failing).await;
        assert!(failing.last_error.is_some_and(|e| e.contains("cannot connect")));
        let _listener = TcpListener::bind(addr).await.expect("listen again");
        health(&checker, "passing", |h| h.state == HealthState::Passing).await;
        Outcome::Passed
    })
}

fn what_is_no_http_fails(_dir: &Path) -> Outcome {
    block_on(async {
        for (answer, why) in [("SSH-2.0-x\r\n\r\n", "HTTP"), ("HTTP/1.1 200 OK\r\n", "closed"), ("", "closed")] {
            let addr = server(move || answer.to_owned()).await;
            let checker = Checker::spawn(quick(up()), addr);
            let failing = health(&checker, why, |h| h.state == HealthState::Failing).await;
            assert!(failing.last_error.as_deref().is_some_and(|e| e.contains(why)), "{answer:?}: {failing:?}");
            assert_eq!(failing.last_ok_boottime_ns, None);
        }
        let endless = server(|| format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(200_000))).await;
        let checker = Checker::spawn(quick(up()), endless);
        let failing = health(&checker, "endless", |h| h.state == HealthState::Failing).await;
        assert!(failing.last_error.as_deref().is_some_and(|e| e.contains("65536")), "{failing:?}");
        Outcome::Passed
    })
}

fn a_silent_server_times_out(_dir: &Path) -> Outcome {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let addr = listener.local_addr().expect("address");
        let check = Check { timeout: Duration::from_millis(50), ..quick(up()) };
        let checker = Checker::spawn(check, addr);
        let failing = health(&checker, "failing", |h| h.state == HealthState::Failing).await;
        assert_eq!(failing.last_error.as_deref(), Some("no answer within 50 ms"));
        drop(listener);
        Outcome::Passed
    })
}

fn run(dir: &Path, script: &str) -> CheckKind {
    CheckKind::Run(vec!["sh".into(), "-c".into(), format!("cd {}; {script}", dir.display())])
}

fn a_command_says_why(dir: &Path) -> Outcome {
    block_on(async {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let script = "[ -e well ] && exit 0; echo thinking; echo 'replica is behind' >&2; echo; exit 4";
        let checker = Checker::spawn(quick(run(dir, script)), nowhere);
        let failing = health(&checker, "failing", |h| h.state == HealthState::Failing).await;
        assert_eq!(failing.last_error.as_deref(), Some("replica is behind"));
        fs::write(dir.join("well"), "").expect("well");
        health(&checker, "passing", |h| h.state == HealthState::Passing).await;

        let missing = Checker::spawn(quick(CheckKind::Run(vec!["/no/such/check".into()])), nowhere);
        let failing = health(&missing, "failing", |h| h.state == HealthState::Failing).await;
        assert!(failing.last_error.is_some_and(|e| e.contains("/no/such/check")));
        Outcome::Passed
    })
}

fn a_hung_command_is_killed_with_its_group(dir: &Path) -> Outcome {
    block_on(async {
        let script = "[ -e inner ] || { sleep 1000 & echo $! > inner; }; sleep 1000";
        let check = Check { timeout: Duration::from_secs(1), fall: 1, ..quick(run(dir, script)) };
        let checker = Checker::spawn(check, SocketAddr::from(([127, 0, 0, 1], 1)));
        until("inner", || number_in(&dir.join("inner")).is_ok()).await;
        let inner = number_in(&dir.join("inner")).expect("pid");
        let born = start_ticks(inner);
        health(&checker, "failing", |h| h.state == HealthState::Failing).await;
        let dead = || {
            let stat = fs::read_to_string(format!("/proc/{inner}/stat")).unwrap_or_default();
            start_ticks(inner) != born || stat.contains(") Z ")
        };
        until("the child of the command is killed", dead).await;
        Outcome::Passed
    })
}

fn checks_never_overlap(dir: &Path) -> Outcome {
    block_on(async {
        let script = "echo begin >> order; sleep 0.1; echo end >> order";
        let checker = Checker::spawn(quick(run(dir, script)), SocketAddr::from(([127, 0, 0, 1], 1)));
        let told = AtomicU32::new(0);
        let mut seen = checker.health();
        while told.fetch_add(1, Ordering::SeqCst) < 5 {
            seen.changed().await.expect("the checker lives");
        }
        drop(checker);
        let order = fs::read_to_string(dir.join("order")).expect("order");
        let lines: Vec<&str> = order.lines().collect();
        assert!(lines.len() >= 8, "{order}");
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(*line, if n % 2 == 0 { "begin" } else { "end" }, "{order}");
        }
        Outcome::Passed
    })
}
