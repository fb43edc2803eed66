//! The guard's socket: agents that connect, their requests, and what is sent to them. Never blocks: a client that does
//! not read loses its connection, nothing else.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags};

use crate::wire::{Lines, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Request};

/// Clients at one time; an agent needs one, a person looking needs one more.
const CLIENTS_MAX: usize = 16;
/// Connections that may wait to be accepted in one turn of the loop.
const ACCEPTS_PER_TURN_MAX: usize = 16;

/// One connected client.
pub(super) struct Client {
    stream: UnixStream,
    lines: Lines,
    out: Vec<u8>,
    /// To be removed at the end of this turn.
    gone: bool,
}

/// All of them, with the socket they come in through.
pub(super) struct Clients {
    listener: UnixListener,
    connected: Vec<Client>,
}

impl Clients {
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, connected: Vec::new() })
    }

    /// What to wait for: the listener first, then each client in order.
    pub fn poll_fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN);
        let clients = self.connected.iter().map(|client| {
            let out = if client.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN | out)
        });
        std::iter::once(listener).chain(clients)
    }

    /// Takes new connections from this machine's root or the guard's own user; anybody else is turned away, should the
    /// file modes ever be loosened.
    pub fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            let own = rustix::process::geteuid();
            let known =
                rustix::net::sockopt::socket_peercred(&stream).is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
            if known && self.connected.len() < CLIENTS_MAX && stream.set_nonblocking(true).is_ok() {
                let lines = Lines::new(REQUEST_BYTES_MAX);
                self.connected.push(Client { stream, lines, out: Vec::new(), gone: false });
            }
        }
    }

    /// Reads from every client and returns its requests, with the number of the client to answer.
    pub fn requests(&mut self) -> Vec<(usize, Result<Request, String>)> {
        let mut all = Vec::new();
        for (number, client) in self.connected.iter_mut().enumerate() {
            client.read();
            while let Some(line) = client.lines.next_line() {
                all.push((number, serde_json::from_slice(&line).map_err(|e| format!("not a request: {e}"))));
            }
        }
        all
    }

    /// Queues a line for one client.
    pub fn send(&mut self, number: usize, line: &[u8]) {
        if let Some(client) = self.connected.get_mut(number) {
            client.queue(line);
        }
    }

    /// Queues a line for every client.
    pub fn send_all(&mut self, line: &[u8]) {
        for client in &mut self.connected {
            client.queue(line);
        }
    }

    /// Sends what the sockets take and forgets clients that are gone. Numbers change here and only here.
    pub fn flush(&mut self) {
        for client in &mut self.connected {
            client.write();
        }
        self.connected.retain(|client| !client.gone);
    }
}

impl Client {
    fn read(&mut self) {
        let mut buffer = [0_u8; REQUEST_BYTES_MAX];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(n) => self.gone |= !self.lines.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    fn queue(&mut self, line: &[u8]) {
        if self.out.len() + line.len() > REPLY_BYTES_MAX {
            self.gone = true;
        } else {
            self.out.extend_from_slice(line);
        }
        self.write();
    }

    fn write(&mut self) {
        while !self.out.is_empty() && !self.gone {
            match self.stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }
}
