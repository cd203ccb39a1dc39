//! Step 8, the holder's side: one server for thousands of links. Covers starting, stopping, the offer and what is counted; not the links
//! themselves (`server/connection`), who runs them (`server/worker`) or how pages are kept (`core::foreign`).

mod answer;
mod connection;
mod counters;
mod worker;

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use ramster_core::foreign::{ClientCount, Foreign, ForeignCounts};
use ramster_sys::lock::Lock;
use ramster_sys::slabs::ArenaSlabs;
use rustix::fd::OwnedFd;

use crate::tls::{Credentials, CredentialsError};
use connection::Connection;
use counters::Counters;
pub use counters::EndReason;
use worker::{Mailbox, Worker};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    pub listen: SocketAddr,
    pub node: u64,
    /// Which life of this holder; grows from start to start.
    pub incarnation: u64,
    /// Memory for foreign pages, what it takes to find them included.
    pub offer_bytes: u64,
    pub max_links: usize,
    pub threads: usize,
    pub timeouts: Timeouts,
    /// None: plain TCP, and anybody may say anything.
    pub credentials: Option<Credentials>,
}

impl ServerConfig {
    /// With the usual limits: 4096 links, 2 threads. Without credentials.
    pub fn new(listen: SocketAddr, node: u64, offer_bytes: u64) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let incarnation = since_epoch.as_nanos() as u64;
        let timeouts = Timeouts::default();
        ServerConfig { listen, node, incarnation, offer_bytes, max_links: 4096, threads: 2, timeouts, credentials: None }
    }
}

/// A client that is silent between frames is never timed out: keepalive tells whether its machine lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// From being accepted to the whole hello, TLS included.
    pub hello_ms: u64,
    /// From the first byte of a frame to its last: 64 KiB, so this is not about speed but about half frames.
    pub half_frame_ms: u64,
    /// Without the client taking any byte of its answers.
    pub not_taking_ms: u64,
    /// How long the pages of a client stay whose last link was closed without goodbye: it died, or it is about to open another one.
    pub closed_grace_ms: u64,
    /// The same after a link that fell silent: its network may come back.
    pub silent_grace_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            hello_ms: 5_000,
            half_frame_ms: 10_000,
            not_taking_ms: 30_000,
            // An owner whose link broke opens another one within 4 s.
            closed_grace_ms: 10_000,
            // Keepalive has taken 25 s before; an owner gives a silent holder up after 90.
            silent_grace_ms: 75_000,
        }
    }
}

impl Timeouts {
    fn grace_ms(&self, ended: EndReason) -> u64 {
        match ended {
            // It cannot come back.
            EndReason::RefusedRevoked => 0,
            EndReason::Unreachable | EndReason::NotTakingTimeout | EndReason::HalfFrameTimeout => self.silent_grace_ms,
            _ => self.closed_grace_ms,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerStats {
    pub offer_bytes: u64,
    pub used_bytes: u64,
    /// Memory that the pages' bytes really take, holes included.
    pub resident_bytes: u64,
    pub links: usize,
    pub links_accepted: u64,
    /// Why links ended, by the names in docs/protocol.md; reasons that never occurred are there with 0.
    pub links_ended: Vec<(&'static str, u64)>,
    /// Times that accepting paused because the process had no descriptors or memory left.
    pub accepts_paused: u64,
    pub foreign: ForeignCounts,
    pub clients: Vec<ClientCount>,
}

impl ServerStats {
    pub fn pages(&self) -> u64 {
        self.clients.iter().map(|client| client.pages).sum()
    }

    pub fn ended(&self, reason: EndReason) -> u64 {
        self.links_ended.iter().find(|(name, _)| *name == reason.name()).map_or(0, |(_, count)| *count)
    }
}

/// What the threads of a server share.
struct Shared {
    config: ServerConfig,
    /// For the next link. None: plain.
    tls: Lock<Option<Arc<rustls::ServerConfig>>>,
    /// Nodes whose certificates are no longer good, with all that speak for them.
    revoked: Lock<HashSet<u64>>,
    /// Held for one page or one slice of pages at a time, never over a system call.
    foreign: Lock<Foreign<ArenaSlabs>>,
    counters: Counters,
    links: AtomicUsize,
    start: Instant,
    /// By `now_ms`: when pages of an owner without a link go. u64::MAX: every owner has one.
    expire_at_ms: AtomicU64,
    stopping: AtomicBool,
    /// Grows with every change of the offer, and of who is revoked: links tell their clients, or end.
    offer_changes: AtomicU64,
    mailboxes: Vec<Mailbox>,
}

pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<ramster_sys::quiet::Thread>,
}

/// Address room for any offer that may come later; where the process may not have so much, for this one and what its holes can waste.
const RESERVED_BYTES: u64 = 1 << 40;

fn reserve(offer_bytes: u64) -> io::Result<ArenaSlabs> {
    ArenaSlabs::reserve(RESERVED_BYTES.max(offer_bytes)).or_else(|_| ArenaSlabs::reserve(offer_bytes * 2))
}

fn bad_credentials(error: CredentialsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

impl Server {
    /// Credentials that cannot be used are `InvalidInput`.
    pub fn start(config: ServerConfig) -> io::Result<Server> {
        let tls = match &config.credentials {
            Some(credentials) => Some(credentials.server_config(config.node).map_err(bad_credentials)?),
            None => None,
        };
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mailboxes = (0..config.threads.max(1)).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            foreign: Lock::new(Foreign::new(config.offer_bytes, reserve(config.offer_bytes)?)),
            config,
            tls: Lock::new(tls),
            revoked: Lock::new(HashSet::new()),
            counters: Counters::default(),
            links: AtomicUsize::new(0),
            start: Instant::now(),
            expire_at_ms: AtomicU64::new(u64::MAX),
            stopping: AtomicBool::new(false),
            offer_changes: AtomicU64::new(0),
            mailboxes,
        });
        let mut server = Server { shared, address, threads: Vec::new() };
        let mut listener = Some(OwnedFd::from(listener));
        for index in 0..server.shared.mailboxes.len() {
            let worker = Worker::new(index, Arc::clone(&server.shared), listener.take())?;
            server.threads.push(ramster_sys::quiet::spawn("ramster-holder", move || worker.run())?);
        }
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Less than is used already: nothing more is taken, ephemeral pages are dropped, and each client is told how much of the others to take away. 0:
    /// everything.
    pub fn set_offer(&self, offer_bytes: u64) {
        self.shared.foreign.lock().set_offer(offer_bytes);
        while self.shared.foreign.lock().shed(answer::SLICE_PAGES) {}
        self.shared.offer_changes.fetch_add(1, Ordering::SeqCst);
        self.shared.wake_all();
    }

    /// For all links from now on; those that are open go on, also when their authority is no longer among the roots. Bad ones change nothing.
    pub fn set_credentials(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        let tls = credentials.server_config(self.shared.config.node)?;
        *self.shared.tls.lock() = Some(tls);
        Ok(())
    }

    /// Whoever has a certificate of one of these nodes is turned away from now on, its client processes too, and links that they have open end. Plain
    /// links show no certificate and are not affected.
    pub fn set_revoked(&self, nodes: &[u64]) {
        *self.shared.revoked.lock() = nodes.iter().copied().collect();
        self.shared.offer_changes.fetch_add(1, Ordering::SeqCst);
        self.shared.wake_all();
    }

    pub fn stats(&self) -> ServerStats {
        let foreign = self.shared.foreign.lock();
        let (counts, clients) = (foreign.counts, foreign.clients());
        ServerStats {
            offer_bytes: foreign.offer_bytes(),
            used_bytes: foreign.used_bytes(),
            resident_bytes: foreign.resident_bytes(),
            links: self.shared.links.load(Ordering::Relaxed),
            links_accepted: self.shared.counters.accepted.load(Ordering::Relaxed),
            links_ended: self.shared.counters.ended(),
            accepts_paused: self.shared.counters.accepts_paused.load(Ordering::Relaxed),
            foreign: counts,
            clients,
        }
    }

    /// Counts every foreign page again; for tests and `ramster doctor`.
    pub fn check(&self) -> Result<(), String> {
        self.shared.foreign.lock().check()
    }

    /// Ends every link and frees every page. The same as dropping the server.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for thread in self.threads.drain(..) {
            // A worker that panicked has nothing left to stop; its message is on standard error.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_revoked(&self, link: &Connection) -> bool {
        link.node.is_some_and(|node| self.revoked.lock().contains(&node))
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn wake_all(&self) {
        self.mailboxes.iter().for_each(Mailbox::wake);
    }
}
