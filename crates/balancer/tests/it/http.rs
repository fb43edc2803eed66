//! HTTP: framing, pooling, retries, holding, draining.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use backstay_balancer::table::Proto;

use crate::it::rig::*;

fn front(servers: &[&Server]) -> (Balancer, Wire) {
    let backends: Vec<_> = servers.iter().map(|server| server.backend()).collect();
    let mut balancer = Balancer::route(Proto::Http, &backends);
    let wire = Wire::new(balancer.connect());
    (balancer, wire)
}

#[test]
fn connections_to_backends_are_reused() {
    let server = Server::http("a");
    let (mut balancer, mut wire) = front(&[&server]);
    for _ in 0..50 {
        let reply = wire.ask("GET", "/").unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "a"));
    }
    // The last answer may arrive before it is counted.
    until("it is counted", || (balancer.backend_stats("a").active == 0).then_some(()));
    let stats = balancer.backend_stats("a");
    assert_eq!((stats.requests, stats.errors), (50, 0));
    assert_eq!(stats.connects, 1);
}

#[test]
fn what_is_passed_on_says_for_whom() {
    let server = Server::http("a");
    let (_balancer, mut wire) = front(&[&server]);
    wire.send(b"GET /head HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n");
    let seen = wire.reply("GET").unwrap().text();
    assert!(seen.contains("Host: shop.example\r\n"), "{seen}");
    assert!(seen.contains("X-Forwarded-For: 9.9.9.9, 127.0.0.1\r\n"), "{seen}");
    assert!(seen.contains("X-Forwarded-Proto: http\r\n"), "{seen}");
    assert!(!seen.contains("X-Mine") && !seen.contains("Connection"), "{seen}");
}

#[test]
fn bodies_are_exact_both_ways() {
    let server = Server::http("a");
    let (mut balancer, mut wire) = front(&[&server]);
    let body = pattern(1 << 20);
    for method in ["POST", "PUT"] {
        assert!(wire.ask_with(method, "/echo", &body).unwrap().body == body, "{method}");
    }
    for _ in 0..3 {
        assert!(wire.ask("GET", "/big").unwrap().body == body);
        assert!(wire.ask("GET", "/chunked").unwrap().body == pattern(300_000));
    }
    let mut chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(9_999) {
        chunked.extend(format!("{:X};name=value\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\nTrailer: yes\r\n\r\n");
    for _ in 0..2 {
        wire.send(&chunked);
        assert!(wire.reply("POST").unwrap().body == body);
    }
    assert_eq!(wire.ask("GET", "/dribble").unwrap().text(), "slowly");
    assert!(wire.ask("GET", "/endless").unwrap().body == pattern(200_000));
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn messages_without_a_body_do_not_shift_the_next() {
    let server = Server::http("a");
    let (_balancer, mut wire) = front(&[&server]);
    for (method, path, status) in
        [("HEAD", "/big", 200), ("GET", "/nothing", 204), ("GET", "/cached", 304), ("HEAD", "/", 200)]
    {
        assert_eq!(wire.ask(method, path).unwrap().status, status, "{method} {path}");
        assert_eq!(wire.ask("GET", "/").unwrap().text(), "a", "after {method} {path}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::http("a");
    let (_balancer, mut wire) = front(&[&server]);
    let mut all = Vec::new();
    for at in 0..20 {
        let body = format!("number {at}");
        all.extend(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).bytes());
    }
    all.extend(b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    for piece in all.chunks(37) {
        wire.send(piece);
    }
    for at in 0..20 {
        assert_eq!(wire.reply("POST").unwrap().text(), format!("number {at}"));
    }
    let last = wire.reply("GET").unwrap();
    assert!(last.head.contains("Connection: close\r\n") && last.body == pattern(1 << 20));
    assert!(wire.rest().unwrap().is_empty());
}

#[test]
fn an_old_client_gets_what_it_understands() {
    let server = Server::http("a");
    let (mut balancer, mut wire) = front(&[&server]);
    wire.send(b"GET /chunked HTTP/1.0\r\n\r\n");
    let reply = wire.reply("GET").unwrap();
    assert!(!reply.head.contains("Transfer-Encoding"), "{}", reply.head);
    assert!(reply.body == pattern(300_000));
    let mut wire = Wire::new(balancer.connect());
    for _ in 0..2 {
        wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let reply = wire.reply("GET").unwrap();
        assert!(reply.head.contains("Connection: keep-alive\r\n") && reply.text() == "a");
    }
}

#[test]
fn a_client_that_asks_before_it_sends_is_told() {
    let server = Server::http("a");
    let (_balancer, mut wire) = front(&[&server]);
    wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(wire.reply("POST").unwrap().status, 100);
    wire.send(b"hello");
    assert_eq!(wire.reply("POST").unwrap().text(), "hello");
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    let server = Server::http("a");
    let (_balancer, mut wire) = front(&[&server]);
    wire.send(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    let reply = wire.reply("GET").unwrap();
    assert_eq!(reply.status, 101);
    assert!(reply.head.contains("Upgrade: echo\r\n"), "{}", reply.head);
    wire.send(b"no longer \x00 HTTP\n");
    wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(wire.rest().unwrap(), b"welcome no longer \x00 HTTP\n");
}

#[test]
fn hostile_framing_is_refused_and_the_backend_never_sees_it() {
    let server = Server::http("a");
    let (mut balancer, _) = front(&[&server]);
    let hostile: [(&[u8], u16); 5] = [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ];
    for (bytes, status) in hostile {
        let mut wire = Wire::new(balancer.connect());
        wire.send(bytes);
        let reply = wire.reply("GET").unwrap();
        assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(bytes));
        assert!(wire.rest().unwrap().is_empty(), "the connection ends");
    }
    assert!(server.seen.lock().unwrap().is_empty());
    let mut wire = Wire::new(balancer.connect());
    wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n");
    assert_eq!(wire.reply("POST").unwrap().status, 400);
    assert_eq!(balancer.listener_stats().refused, 6);
}

#[test]
fn a_backend_that_closed_a_resting_connection_is_simply_connected_to_again() {
    let mut first = Server::http("a");
    let (mut balancer, mut wire) = front(&[&first]);
    balancer.table.upstreams[0].hold_ms = 20_000;
    balancer.push();
    let addr = first.addr;
    for round in 0..5 {
        assert_eq!(wire.ask_with("POST", "/echo", b"x").unwrap().text(), "x", "round {round}");
        first.kill();
        first = until("the address is free again", || Server::http_at("a", addr));
    }
    assert_eq!(wire.ask("GET", "/").unwrap().text(), "a");
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn malformed_answers_become_502() {
    let server = Server::http("a");
    let (mut balancer, _) = front(&[&server]);
    for path in ["/garbage", "/two-lengths"] {
        let mut wire = Wire::new(balancer.connect());
        assert_eq!(wire.ask("GET", path).unwrap().status, 502, "{path}");
    }
}

#[test]
fn a_truncated_body_is_never_shown_as_whole() {
    let server = Server::http("a");
    let (mut balancer, _) = front(&[&server]);
    for path in ["/truncated", "/truncated-chunk"] {
        let mut wire = Wire::new(balancer.connect());
        assert!(wire.ask("GET", path).is_err(), "{path}");
    }
    assert_eq!(balancer.listener_stats().failed, 2);
    // An HTTP/1.0 client has nothing but the end of the connection to go by.
    let mut wire = Wire::new(balancer.connect());
    wire.send(b"GET /truncated-chunk HTTP/1.0\r\n\r\n");
    assert!(wire.reply("GET").is_err(), "a reset, not an end");
}

#[test]
fn a_post_is_not_sent_twice_and_a_get_is() {
    let (a, b) = (Server::http("a"), Server::http("b"));
    let (mut balancer, _) = front(&[&a, &b]);
    let mut wire = Wire::new(balancer.connect());
    assert_eq!(wire.ask_with("POST", "/die", b"money").unwrap().status, 502);
    assert_eq!(a.count("POST /die") + b.count("POST /die"), 1);
    let mut wire = Wire::new(balancer.connect());
    assert_eq!(wire.ask_with("PUT", "/die", &pattern(200_000)).unwrap().status, 502);
    assert_eq!(a.count("PUT /die") + b.count("PUT /die"), 1, "too large to be kept for another try");
    for _ in 0..2 {
        // One of the two always dies on it: here both do, so it is sent to each, and then answered for.
        let mut wire = Wire::new(balancer.connect());
        assert_eq!(wire.ask("GET", "/die").unwrap().status, 502);
    }
    assert!(a.count("GET /die") >= 1 && b.count("GET /die") >= 1);
    assert!(balancer.listener_stats().retried >= 2);
}

#[test]
fn requests_in_flight_survive_the_death_of_their_backend() {
    let (mut a, b) = (Server::http("a"), Server::http("b"));
    let (mut balancer, _) = front(&[&a, &b]);
    let addr = balancer.addr();
    let asking: Vec<_> = (0..8)
        .map(|at| {
            std::thread::spawn(move || {
                let mut wire = Wire::new(client(addr));
                let reply = if at % 2 == 0 {
                    wire.ask("GET", "/gate")
                } else {
                    wire.ask_with("PUT", "/gate", &pattern(10_000))
                };
                reply.unwrap().text()
            })
        })
        .collect();
    until("all have arrived", || (a.count("") + b.count("") == 8).then_some(()));
    assert!(a.count("") > 0);
    b.gate.store(true, SeqCst);
    a.kill();
    for asked in asking {
        assert_eq!(asked.join().unwrap(), "b");
    }
    let stats = balancer.listener_stats();
    assert_eq!(stats.failed, 0);
    assert!(stats.retried >= 1);
}

/// Asks for `/` on several connections until told to stop; gives how often it was answered and how often not.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(balancer: &mut Balancer) -> Self {
        let addr = balancer.addr();
        let mut load = Self { stop: Arc::default(), done: Arc::default(), failed: Arc::default(), threads: Vec::new() };
        for at in 0..4 {
            let (stop, done, failed) = (load.stop.clone(), load.done.clone(), load.failed.clone());
            load.threads.push(std::thread::spawn(move || {
                let mut wire = Wire::new(client(addr));
                while !stop.load(SeqCst) {
                    if at == 0 {
                        wire = Wire::new(client(addr));
                    }
                    match wire.ask("GET", "/") {
                        Ok(reply) if reply.status == 200 => done.fetch_add(1, SeqCst),
                        _ => failed.fetch_add(1, SeqCst),
                    };
                }
            }));
        }
        load
    }

    /// Waits until so many more requests were answered.
    fn go_on(&self, more: usize) {
        let goal = self.done.load(SeqCst) + more;
        until("more requests were answered", || {
            (self.done.load(SeqCst) >= goal || self.failed.load(SeqCst) > 0).then_some(())
        });
    }

    fn finish(self) -> usize {
        self.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.failed.load(SeqCst)
    }
}

#[test]
fn swapping_tables_under_load_fails_nothing() {
    let (a, b, c) = (Server::http("a"), Server::http("b"), Server::http("c"));
    let (mut balancer, _) = front(&[&a, &b]);
    let load = Load::start(&mut balancer);
    for round in 0..20 {
        load.go_on(50);
        match round % 4 {
            0 => balancer.set_backends(&[b.backend(), c.backend()]),
            1 => balancer.set_backends(&[c.backend(), a.draining()]),
            2 => balancer.set_backends(&[a.backend()]),
            _ => balancer.set_backends(&[a.backend(), b.backend(), c.backend()]),
        }
    }
    assert_eq!(load.finish(), 0);
    assert!(c.count("GET") > 0);
}

#[test]
fn killing_a_backend_under_load_fails_no_idempotent_request() {
    let (mut a, b, mut c) = (Server::http("a"), Server::http("b"), Server::http("c"));
    let (mut balancer, _) = front(&[&a, &b, &c]);
    let load = Load::start(&mut balancer);
    load.go_on(200);
    a.kill();
    load.go_on(200);
    c.kill();
    load.go_on(200);
    assert_eq!(load.finish(), 0);
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn requests_wait_for_a_backend_and_no_longer_than_they_may() {
    let server = Server::http("a");
    let (mut balancer, mut wire) = front(&[]);
    let refused = wire.ask("GET", "/").unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("Retry-After: 1\r\n"), "{}", refused.head);
    balancer.table.upstreams[0].hold_ms = 20_000;
    balancer.table.upstreams[0].exclusive = true;
    balancer.push();
    let mut wire = Wire::new(balancer.connect());
    let asking = std::thread::spawn(move || wire.ask_with("POST", "/echo", b"kept").unwrap().text());
    until("it is held", || (balancer.listener_stats().held == 1).then_some(()));
    balancer.set_backends(&[server.backend()]);
    assert_eq!(asking.join().unwrap(), "kept");
}

#[test]
fn requests_wait_for_a_backend_that_starts_again() {
    let (mut balancer, _) = front(&[]);
    let gone = nobody();
    balancer.table.upstreams[0].hold_ms = 20_000;
    balancer.set_backends(std::slice::from_ref(&gone));
    let mut wire = Wire::new(balancer.connect());
    let asking = std::thread::spawn(move || wire.ask("GET", "/").unwrap());
    until("it is held", || (balancer.listener_stats().held == 1).then_some(()));
    let socket = std::net::TcpListener::bind(gone.addr).unwrap();
    let (stream, _) = socket.accept().unwrap();
    let mut backend = Wire::new(stream);
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback");
    assert_eq!(asking.join().unwrap().text(), "back");
}

#[test]
fn many_held_requests_all_go_when_the_backend_is_back() {
    let mut server = Server::http("a");
    let (mut balancer, _) = front(&[&server]);
    balancer.table.upstreams[0].hold_ms = 20_000;
    balancer.push();
    let (front, back) = (balancer.addr(), server.addr);
    server.kill();
    let mut wires: Vec<Wire> = (0..100).map(|_| Wire::new(client(front))).collect();
    for wire in &mut wires {
        wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nkept");
    }
    until("all are held", || (balancer.listener_stats().held == 100).then_some(()));
    let _server = until("the address is free again", || Server::http_at("a", back));
    for wire in &mut wires {
        assert_eq!(wire.reply("POST").unwrap().text(), "kept");
    }
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn a_request_cut_with_its_role_goes_to_the_next_holder() {
    let (old, new) = (Server::http("a"), Server::http("b"));
    let (mut balancer, mut wire) = front(&[&old]);
    balancer.table.upstreams[0].exclusive = true;
    balancer.table.upstreams[0].hold_ms = 20_000;
    balancer.push();
    let asking = std::thread::spawn(move || wire.ask("GET", "/gate").unwrap().text());
    until("it is under way", || (old.count("GET /gate") == 1).then_some(()));
    new.gate.store(true, SeqCst);
    balancer.set_backends(&[]);
    until("it is held", || (balancer.listener_stats().held == 1).then_some(()));
    balancer.table.upstreams[0].token = 2;
    balancer.set_backends(&[new.backend()]);
    assert_eq!(asking.join().unwrap(), "b");
}

#[test]
fn a_draining_or_removed_backend_finishes_what_it_has() {
    let (a, b) = (Server::http("a"), Server::http("b"));
    let (mut balancer, mut wire) = front(&[&a]);
    let asking = std::thread::spawn(move || {
        let first = wire.ask("GET", "/gate").unwrap().text();
        (first, wire)
    });
    until("it is under way", || (a.count("GET /gate") == 1).then_some(()));
    balancer.set_backends(&[a.draining(), b.backend()]);
    let mut other = Wire::new(balancer.connect());
    for _ in 0..4 {
        assert_eq!(other.ask("GET", "/").unwrap().text(), "b");
    }
    balancer.set_backends(&[b.backend()]);
    a.gate.store(true, SeqCst);
    let (first, _) = asking.join().unwrap();
    assert_eq!(first, "a");
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn shutdown_lets_a_request_finish() {
    let server = Server::http("a");
    let (mut balancer, mut wire) = front(&[&server]);
    let asking = std::thread::spawn(move || wire.ask("GET", "/gate").unwrap());
    until("it is under way", || (server.count("GET /gate") == 1).then_some(()));
    let gate = server.gate.clone();
    let addr = balancer.addr();
    let opener = std::thread::spawn(move || {
        until("the listener is closed", || std::net::TcpStream::connect(addr).is_err().then_some(()));
        gate.store(true, SeqCst);
    });
    balancer.stop();
    opener.join().unwrap();
    let reply = asking.join().unwrap();
    assert_eq!(reply.text(), "a");
    assert!(reply.head.contains("Connection: close\r\n"), "{}", reply.head);
}
