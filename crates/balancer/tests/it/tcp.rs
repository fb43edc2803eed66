//! TCP sessions.

use std::io::{Read, Write};
use std::net::Shutdown;

use backstay_balancer::table::Proto;

use crate::it::rig::*;

fn greeting(stream: &mut std::net::TcpStream) -> String {
    let mut id = [0; 1];
    stream.read_exact(&mut id).unwrap();
    String::from_utf8_lossy(&id).into_owned()
}

#[test]
fn bulk_is_exact_both_ways_and_an_end_is_passed_on() {
    let server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Tcp, &[server.backend()]);
    let mut stream = balancer.connect();
    assert_eq!(greeting(&mut stream), "a", "the server speaks first");
    let sent = pattern(16 << 20);
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent, "{} of {} bytes came back, or others", got.len(), sent.len());
    until("the session has ended", || (balancer.listener_stats().active == 0).then_some(()));
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn backends_take_turns_and_a_dead_one_is_passed_over() {
    let (a, b) = (Server::echo("a"), Server::echo("b"));
    let mut balancer = Balancer::route(Proto::Tcp, &[a.backend(), nobody(), b.backend()]);
    let mut ids: Vec<String> = (0..12).map(|_| greeting(&mut balancer.connect())).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids, ["a", "b"]);
    let dead = balancer.backend_stats("nobody");
    assert!(dead.errors > 0, "{dead:?}");
    assert_eq!(balancer.listener_stats().failed, 0);
}

#[test]
fn a_connection_waits_for_a_backend_and_no_longer_than_it_may() {
    let server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Tcp, &[]);
    let mut refused = balancer.connect();
    assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0, "nothing may be held without hold_ms");
    balancer.table.upstreams[0].hold_ms = 20_000;
    balancer.push();
    let mut held = balancer.connect();
    until("it is held", || (balancer.listener_stats().held == 1).then_some(()));
    balancer.set_backends(&[server.backend()]);
    assert_eq!(greeting(&mut held), "a");
}

#[test]
fn a_listener_changes_what_it_speaks_without_a_new_socket() {
    let server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Http, &[server.backend()]);
    let addr = balancer.addr();
    balancer.table.listeners[0].proto = Proto::Tcp;
    balancer.push();
    assert_eq!(balancer.addr(), addr);
    assert_eq!(greeting(&mut client(addr)), "a", "the server speaks first, so a silent client must be let in");
}

#[test]
fn a_slow_reader_costs_bounded_memory_and_gets_all() {
    let server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Tcp, &[server.backend()]);
    let mut stream = balancer.connect();
    greeting(&mut stream);
    let sent = pattern(4 << 20);
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut got = vec![0; sent.len()];
    for piece in got.chunks_mut(50_000) {
        stream.read_exact(piece).unwrap();
        std::thread::yield_now();
    }
    writing.join().unwrap();
    assert!(got == sent);
}

#[test]
fn the_end_of_a_killed_backend_is_passed_on() {
    let mut server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Tcp, &[server.backend()]);
    let mut stream = balancer.connect();
    greeting(&mut stream);
    server.kill();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
    drop(stream);
    until("the session has ended", || (balancer.listener_stats().active == 0).then_some(()));
}
