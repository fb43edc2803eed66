//! Tables, binds, and what ends when its permission ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use backstay_balancer::client::{Control, ControlError};
use backstay_balancer::table::{Check, CheckKind, Proto};
use backstay_balancer::wire::Extend;
use backstay_balancer::{Error, Options, run};

use crate::it::rig::*;

fn extend_listener(until: u64) -> Extend {
    Extend { listeners: [("front".to_owned(), until)].into(), ..Extend::default() }
}

fn extend_upstream(until: u64) -> Extend {
    Extend { upstreams: [("app".to_owned(), until)].into(), ..Extend::default() }
}

/// The connection is over: reset, or ended without another byte.
fn is_cut(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn a_second_balancer_on_the_socket_and_an_older_table_are_refused() {
    let mut balancer = Balancer::start();
    let socket = balancer.dir.join("c.sock");
    let second = run(Options { socket: socket.clone(), workers: 1, log: false });
    assert!(matches!(second, Err(Error::AlreadyServed(path)) if path == socket));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    balancer.table.generation = 7;
    let answer = balancer.push();
    assert_eq!((answer.generation, answer.serial, answer.pid), (7, 1, std::process::id()));
    balancer.table.generation = 6;
    let refused = balancer.control.set_table(&balancer.table);
    assert!(matches!(&refused, Err(ControlError::Refused(why)) if why.contains("older")), "{refused:?}");
    balancer.table.generation = 8;
    balancer.table.listeners.push(listener("front", Proto::Tcp, "nobody"));
    assert!(matches!(balancer.control.set_table(&balancer.table), Err(ControlError::Refused(_))));
    assert_eq!(balancer.control.stats().unwrap().generation, 7, "the old table stays in force");

    balancer.stop();
    assert!(matches!(Control::connect(&socket), Err(ControlError::Unreachable { .. })));
    assert!(!socket.exists());
}

#[test]
fn a_malformed_command_is_answered_and_changes_nothing() {
    let balancer = Balancer::start();
    let mut stream = std::os::unix::net::UnixStream::connect(balancer.dir.join("c.sock")).unwrap();
    stream.write_all(b"{\"reboot\":{}}\n{\"stats\":{}}\n").unwrap();
    let mut got = String::new();
    while got.matches('\n').count() < 2 {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).unwrap();
        got.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    assert!(got.lines().next().unwrap().contains("\"error\":\"not a command"), "{got}");
    assert!(got.lines().nth(1).unwrap().contains("\"stats\":"), "{got}");
}

#[test]
fn a_busy_address_is_taken_over_when_it_is_freed() {
    let server = Server::echo("a");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut balancer = Balancer::start();
    let mut front = listener("front", Proto::Tcp, "app");
    front.bind = holder.local_addr().unwrap();
    balancer.table.listeners = vec![front, listener("other", Proto::Tcp, "app")];
    balancer.table.upstreams = vec![upstream("app", &[server.backend()])];
    let answer = balancer.push();
    assert_eq!(answer.bound.len(), 1, "the other listener does not wait: {answer:?}");
    assert_eq!(answer.failed.len(), 1);
    assert_eq!(answer.failed[0].bind, holder.local_addr().unwrap());
    let by = answer.failed[0].holder.clone().expect("our own process can be seen");
    assert!(by.contains(&format!("pid {}", std::process::id())), "{by}");
    drop(holder);
    until("the address is taken over", || balancer.control.stats().unwrap().failed.is_empty().then_some(()));
    let bind = balancer.table.listeners[0].bind;
    assert!(TcpListener::bind(bind).is_err(), "it is held exclusively");
    let mut stream = client(bind);
    stream.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn an_unchanged_listener_keeps_its_socket_and_a_changed_one_is_bound_anew() {
    let server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Tcp, &[server.backend()]);
    let addr = balancer.addr();
    let mut stream = client(addr);
    stream.read_exact(&mut [0; 1]).unwrap();
    balancer.table.listeners.push(listener("more", Proto::Tcp, "app"));
    balancer.push();
    assert_eq!(balancer.addr(), addr);
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    balancer.table.listeners[0].bind = addr;
    balancer.push();
    assert_eq!(balancer.addr(), addr, "freed and taken again within one table");
}

#[test]
fn an_address_closes_with_its_sessions_when_its_permission_passes_and_reopens_when_extended() {
    let server = Server::echo("a");
    let mut balancer = Balancer::start();
    let mut front = listener("front", Proto::Tcp, "app");
    front.bind = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    front.valid_until = Some(in_ms(600_000));
    let bind = front.bind;
    balancer.table.listeners = vec![front];
    balancer.table.upstreams = vec![upstream("app", &[server.backend()])];
    balancer.push();
    let mut stream = client(bind);
    stream.read_exact(&mut [0; 1]).unwrap();

    balancer.table.listeners[0].valid_until = Some(in_ms(300));
    balancer.push();
    assert!(is_cut(&mut stream));
    until("nobody listens", || TcpStream::connect(bind).is_err().then_some(()));
    let failed = balancer.control.stats().unwrap().failed;
    assert!(failed[0].error.contains("valid_until"), "{failed:?}");

    balancer.control.extend(&extend_listener(in_ms(600_000))).unwrap();
    let mut stream = client(bind);
    stream.read_exact(&mut [0; 1]).unwrap();
    // The address leaves the table: its sessions go with it.
    balancer.table.listeners.clear();
    balancer.push();
    assert!(is_cut(&mut stream));
}

#[test]
fn an_extension_never_moves_back() {
    let server = Server::echo("a");
    let mut balancer = Balancer::start();
    let mut front = listener("front", Proto::Tcp, "app");
    front.valid_until = Some(in_ms(600_000));
    balancer.table.listeners = vec![front];
    balancer.table.upstreams = vec![upstream("app", &[server.backend()])];
    balancer.push();
    let answer = balancer.control.extend(&extend_listener(1)).unwrap();
    assert_eq!(answer.bound.len(), 1);
    balancer.connect().read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn a_new_token_cuts_sessions_of_the_old_holder() {
    let (old, new) = (Server::echo("a"), Server::echo("b"));
    let mut balancer = Balancer::route(Proto::Tcp, &[old.backend()]);
    balancer.table.upstreams[0].exclusive = true;
    balancer.table.upstreams[0].token = 4;
    balancer.table.upstreams[0].valid_until = Some(in_ms(600_000));
    balancer.push();
    let mut stream = balancer.connect();
    stream.read_exact(&mut [0; 1]).unwrap();
    // The same token again, with another serial: nothing happens.
    balancer.push();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    balancer.table.upstreams[0].token = 9;
    balancer.set_backends(&[new.backend()]);
    assert!(is_cut(&mut stream));
    let mut id = [0; 1];
    balancer.connect().read_exact(&mut id).unwrap();
    assert_eq!(&id, b"b");
    assert_eq!(balancer.listener_stats().cut, 1);
}

#[test]
fn a_role_without_permission_cuts_holds_and_refuses() {
    let server = Server::echo("a");
    let mut balancer = Balancer::route(Proto::Tcp, &[server.backend()]);
    let role = &mut balancer.table.upstreams[0];
    role.exclusive = true;
    role.hold_ms = 20_000;
    role.valid_until = Some(in_ms(300));
    balancer.push();
    let mut stream = balancer.connect();
    stream.read_exact(&mut [0; 1]).unwrap();
    assert!(is_cut(&mut stream), "the deadline acts without anyone's help");
    let mut held = balancer.connect();
    until("it is held", || (balancer.listener_stats().held >= 1).then_some(()));
    balancer.control.extend(&extend_upstream(in_ms(600_000))).unwrap();
    held.read_exact(&mut [0; 1]).unwrap();

    balancer.table.upstreams[0].hold_ms = 50;
    balancer.table.upstreams[0].valid_until = Some(in_ms(0));
    balancer.push();
    assert!(is_cut(&mut held));
    assert!(is_cut(&mut balancer.connect()), "refused after the hold");
}

#[test]
fn a_failed_check_takes_a_backend_out_and_a_passed_one_brings_it_back() {
    let (a, b) = (Server::http("a"), Server::http("b"));
    let mut balancer = Balancer::route(Proto::Http, &[a.backend(), b.backend()]);
    balancer.table.upstreams[0].check =
        Some(Check { kind: CheckKind::Http("/up".into()), every_ms: 20, timeout_ms: 5_000, rise: 2, fall: 2 });
    balancer.push();
    a.healthy.store(false, std::sync::atomic::Ordering::SeqCst);
    until("a is down", || (!balancer.backend_stats("a").up).then_some(()));
    let mut wire = Wire::new(balancer.connect());
    for _ in 0..6 {
        assert_eq!(wire.ask("GET", "/").unwrap().text(), "b");
    }
    a.healthy.store(true, std::sync::atomic::Ordering::SeqCst);
    until("a is up", || balancer.backend_stats("a").up.then_some(()));
    let ids: Vec<String> = (0..6).map(|_| wire.ask("GET", "/").unwrap().text()).collect();
    assert!(ids.contains(&"a".to_owned()), "{ids:?}");
}
