//! What the engine's tests share: pages that say what they are, servers on loopback, waits with a deadline.
#![allow(dead_code)] // each test file uses a part of it

pub mod pages;
pub mod relay;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ramster_core::handle::{Handle, ObjectId, PoolId};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_engine::{Engine, Options, PeerAddr};
use ramster_peer::server::{Server, ServerConfig, Timeouts};

/// Generous: a machine under load may starve a test for many seconds, and only a wait for ever is a failure.
pub const DEADLINE: Duration = Duration::from_secs(120);
pub const GET_DEADLINE_MS: u64 = 60_000;

/// A page of about half random bytes, different for every (index, version).
pub fn page(index: u32, version: u32) -> Page {
    let mut page = [b'r'; PAGE_BYTES];
    let mut x = (u64::from(index) << 32 | u64::from(version)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in page[..PAGE_BYTES / 2].as_chunks_mut::<8>().0 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x.to_le_bytes();
    }
    page[PAGE_BYTES - 8..PAGE_BYTES - 4].copy_from_slice(&index.to_le_bytes());
    page[PAGE_BYTES - 4..].copy_from_slice(&version.to_le_bytes());
    page
}

/// What a page made by [`page`] says it is.
pub fn name_of(page: &Page) -> (u32, u32) {
    let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    (word(PAGE_BYTES - 8), word(PAGE_BYTES - 4))
}

pub fn handle(pool: PoolId, index: u32) -> Handle {
    Handle { pool, object: ObjectId([7, 8, 9]), index }
}

pub fn server(node: u64, offer_bytes: u64) -> Server {
    let address = "127.0.0.1:0".parse().expect("address");
    Server::start(ServerConfig { threads: 1, ..ServerConfig::new(address, node, offer_bytes) }).expect("server")
}

/// Lets go of the pages of an owner without a link at once.
pub fn server_without_grace(node: u64, offer_bytes: u64) -> Server {
    let address = "127.0.0.1:0".parse().expect("address");
    let timeouts = Timeouts { closed_grace_ms: 0, silent_grace_ms: 0, ..Timeouts::default() };
    Server::start(ServerConfig { threads: 1, timeouts, ..ServerConfig::new(address, node, offer_bytes) }).expect("server")
}

pub fn peers(servers: &[&Server]) -> Vec<PeerAddr> {
    let peer = |(index, server): (usize, &&Server)| PeerAddr { node: index as u64 + 1, address: server.address().to_string() };
    servers.iter().enumerate().map(peer).collect()
}

/// An engine whose store is to stay below `store_bytes`.
pub fn engine(store_bytes: u64, peers: Vec<PeerAddr>) -> Arc<Engine> {
    Engine::start(&Options { local_bytes: 64 << 20, store_bytes: Some(store_bytes), peers, ..Options::default() })
        .expect("engine")
}

/// Waits until the store is below its limit and nothing is on its way, nor was a moment before: pages go on leaving to a little below the limit.
pub fn wait_at_limit(engine: &Engine) {
    let start = Instant::now();
    let mut before = None;
    loop {
        let snapshot = engine.snapshot();
        let at_limit = snapshot.store_bytes <= snapshot.store_limit_bytes && snapshot.pages_in_transit == 0;
        let now = at_limit.then_some(snapshot.pages_remote);
        if now.is_some() && now == before {
            return;
        }
        before = now;
        assert!(start.elapsed() < DEADLINE, "not at its limit in time: {snapshot:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// xorshift: the seed is printed, so that a failure can be run again.
pub struct Random(u64);

impl Random {
    pub fn new(test: &str) -> Self {
        let seed = std::env::var("RAMSTER_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed =
            seed.unwrap_or_else(|| Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 20 ^ now_ns());
        eprintln!("{test}: RAMSTER_TEST_SEED={seed}");
        Random(seed | 1)
    }

    pub fn fork(&mut self) -> Random {
        Random(self.next() | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u32) -> u32 {
        (self.next() >> 32) as u32 % end
    }
}

fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Passes bytes on, unless told otherwise.
pub struct Proxy {
    pub address: SocketAddr,
    target: SocketAddr,
    pub stalled: Arc<AtomicBool>,
    /// New links are closed as they come.
    pub refusing: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    pub links: Arc<Mutex<Vec<TcpStream>>>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

impl Proxy {
    pub fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let flag = || Arc::new(AtomicBool::new(false));
        let proxy = Proxy {
            address: listener.local_addr().expect("address"),
            target,
            stalled: flag(),
            refusing: flag(),
            closing: flag(),
            links: Arc::default(),
            listener: Mutex::new(None),
        };
        proxy.listen(listener);
        proxy
    }

    fn listen(&self, listener: TcpListener) {
        let (stalled, refusing, closing) = (Arc::clone(&self.stalled), Arc::clone(&self.refusing), Arc::clone(&self.closing));
        let (links, target) = (Arc::clone(&self.links), self.target);
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if closing.load(Ordering::SeqCst) {
                    return;
                }
                if refusing.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(holder) = TcpStream::connect(target) else { continue };
                let mut kept = links.lock().expect("links");
                for stream in [&client, &holder] {
                    stream.set_nodelay(true).expect("nodelay");
                    kept.push(stream.try_clone().expect("clone"));
                }
                for (from, to) in [(&client, &holder), (&holder, &client)] {
                    let (from, to) = (from.try_clone().expect("clone"), to.try_clone().expect("clone"));
                    let stalled = Arc::clone(&stalled);
                    std::thread::spawn(move || pass_on(from, to, &stalled));
                }
            }
        });
        *self.listener.lock().expect("listener") = Some(thread);
    }

    /// From now on connecting is refused by the kernel, as if nobody were there.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.listener.lock().expect("listener").take() {
            thread.join().expect("listener");
        }
    }

    pub fn reopen(&self) {
        self.closing.store(false, Ordering::SeqCst);
        self.listen(TcpListener::bind(self.address).expect("bind"));
    }

    /// Ends the links from the `first` on, in the order in which they were opened.
    pub fn cut(&self, first: usize) {
        self.end(2 * first..);
    }

    /// Ends that link alone.
    pub fn cut_one(&self, index: usize) {
        self.end(2 * index..2 * index + 2);
    }

    fn end(&self, links: impl std::ops::RangeBounds<usize>) {
        for stream in self.links.lock().expect("links").drain(links) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, stalled: &AtomicBool) {
    let mut bytes = [0; 16384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        while stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
