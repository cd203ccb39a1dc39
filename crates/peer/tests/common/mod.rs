//! What the server's tests share: owners, pages with telling bytes, requests that wait with a deadline, and the check that nothing leaks.
#![allow(dead_code)] // Each test file is a crate of its own and uses its part.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind};
use ramster_core::seal::Tag;
use ramster_core::wire::message::{Blob, DoneStatus, Found, PutPage, PutStatus, Role};
use ramster_peer::client::{Event, Link, LinkError};
use ramster_peer::server::{Server, ServerConfig, ServerStats, Timeouts};

pub const DEADLINE_MS: u64 = 20_000;
pub const PLENTY_BYTES: u64 = 256 << 20;

pub fn owner(client: u128) -> OwnerId {
    OwnerId { node: 1, client, incarnation: 100 }
}

pub fn handle(index: u32) -> Handle {
    Handle { pool: PoolId(1), object: ObjectId([7, 8, 9]), index }
}

pub fn handles(count: u32) -> Vec<(Handle, u32)> {
    (0..count).map(|index| (handle(index), 1)).collect()
}

/// Bytes that tell which page, version and owner they are of.
pub fn bytes_of(client: u128, index: u32, version: u32, length: usize) -> Vec<u8> {
    (0..length).map(|at| (client as usize * 31 + index as usize * 7 + version as usize * 3 + at) as u8).collect()
}

/// The usual ones, but for the grace time: tests wait for its end.
pub fn timeouts() -> Timeouts {
    Timeouts { closed_grace_ms: 50, silent_grace_ms: 500, ..Timeouts::default() }
}

pub fn config(offer_bytes: u64) -> ServerConfig {
    ServerConfig { timeouts: timeouts(), ..ServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), 9, offer_bytes) }
}

pub fn start(offer_bytes: u64) -> Server {
    Server::start(config(offer_bytes)).expect("server")
}

pub fn start_impatient() -> Server {
    let timeouts = Timeouts { hello_ms: 200, half_frame_ms: 200, not_taking_ms: 300, ..timeouts() };
    Server::start(ServerConfig { timeouts, ..config(PLENTY_BYTES) }).expect("server")
}

pub fn connect(server: &Server, client: u128) -> Link {
    Link::connect(&server.address(), &owner(client), Role::Bulk, DEADLINE_MS).expect("link")
}

/// A socket that speaks no protocol of its own.
pub fn raw(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).expect("connect");
    stream.set_read_timeout(Some(Duration::from_millis(DEADLINE_MS))).expect("timeout");
    stream.set_write_timeout(Some(Duration::from_millis(DEADLINE_MS))).expect("timeout");
    stream
}

/// What was answered to one request, page by page.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub puts: Vec<PutStatus>,
    pub pages: Vec<Result<(u32, Vec<u8>), &'static str>>,
    pub done: Option<(DoneStatus, u64)>,
}

impl Outcome {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Put { index, status, .. } => {
                assert_eq!(index, self.puts.len());
                self.puts.push(status);
            }
            Event::Page { index, found, .. } => {
                assert_eq!(index, self.pages.len());
                self.pages.push(match found {
                    Found::Hit { version, blob } => Ok((version, blob.bytes.to_vec())),
                    Found::Miss => Err("miss"),
                    Found::Gone => Err("gone"),
                    Found::Stale => Err("stale"),
                    Found::Refused => Err("refused"),
                });
            }
            Event::Done { status, pages, .. } => self.done = Some((status, pages)),
        }
    }
}

/// Waits until every request in flight is answered; request ids are the positions in the result.
pub fn finish(link: &mut Link, requests: usize) -> Result<Vec<Outcome>, LinkError> {
    let mut outcomes: Vec<Outcome> = (0..requests).map(|_| Outcome::default()).collect();
    let deadline = Instant::now() + Duration::from_millis(DEADLINE_MS);
    while outcomes.iter().any(|outcome| outcome.done.is_none()) {
        assert!(Instant::now() < deadline, "not answered in time");
        link.wait(DEADLINE_MS, &mut |event| {
            let (Event::Page { request, .. } | Event::Put { request, .. } | Event::Done { request, .. }) = event;
            outcomes[request as usize].take(event);
        })?;
    }
    Ok(outcomes)
}

pub fn one(link: &mut Link) -> Outcome {
    finish(link, 1).expect("answer").remove(0)
}

pub fn put_sized(link: &mut Link, client: u128, indices: std::ops::Range<u32>, version: u32, length: usize) -> Vec<PutStatus> {
    let mut statuses = Vec::new();
    let indices: Vec<u32> = indices.collect();
    for chunk in indices.chunks(256) {
        let bytes: Vec<Vec<u8>> = chunk.iter().map(|index| bytes_of(client, *index, version, length)).collect();
        let pages: Vec<PutPage> = (chunk.iter().zip(&bytes))
            .map(|(index, bytes)| PutPage { handle: handle(*index), version, blob: Blob { kind: 2, tag: Tag([5; 16]), bytes } })
            .collect();
        link.send_put(0, PoolKind::Persistent, &pages).expect("put");
        let outcome = one(link);
        assert_eq!(outcome.done, Some((DoneStatus::Done, 0)));
        statuses.extend(outcome.puts);
    }
    statuses
}

pub fn put(link: &mut Link, client: u128, indices: std::ops::Range<u32>, version: u32) -> Vec<PutStatus> {
    put_sized(link, client, indices, version, 1000)
}

pub fn get(link: &mut Link, index: u32, version: u32) -> Result<(u32, Vec<u8>), &'static str> {
    link.send_get(0, &[(handle(index), version)]).expect("get");
    one(link).pages.remove(0)
}

pub fn wait_until(server: &Server, what: &str, mut is_so: impl FnMut(&ServerStats) -> bool) -> ServerStats {
    let deadline = Instant::now() + Duration::from_millis(DEADLINE_MS);
    loop {
        let stats = server.stats();
        if is_so(&stats) {
            return stats;
        }
        assert!(Instant::now() < deadline, "not in time: {what}; {stats:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The end of every server test: when all clients have gone and their grace time is over, so has every page and every byte.
pub fn assert_nothing_leaks(server: Server) {
    let stats = wait_until(&server, "all links closed", |stats| stats.links == 0 && stats.used_bytes == 0);
    assert_eq!((stats.used_bytes, stats.resident_bytes, stats.pages(), stats.clients.len()), (0, 0, 0, 0));
    server.check().expect("counted right");
    let ended: u64 = stats.links_ended.iter().map(|(_, count)| count).sum();
    assert_eq!(ended, stats.links_accepted);
    assert_eq!(stats.ended(ramster_peer::server::EndReason::OwnError), 0);
}
