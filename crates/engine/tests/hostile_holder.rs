//! Promise 9 end to end: whoever sits at the holder's end of a link sees nothing of a page, and what it changes, swaps or replays is found out. A relay
//! between an engine and a real holder reads and alters what passes.

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use common::{handle, page, server, wait_at_limit};
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Engine, Options, PeerAddr, Stat};

const COUNT: u32 = 400;
/// Frame header 24, get status 1, version 4: then the blob (docs/protocol.md).
const BLOB_AT: usize = 29;

/// What the holder's end does with the answers to gets of one page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Honest,
    /// Flips the last bit.
    Changes,
    /// Gives the blob that it gave before, as the one that is asked for.
    Repeats,
}

struct Relay {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    mood: Mood,
    /// All that went to the holder.
    sent: Vec<u8>,
    /// The blob of the last honest answer.
    blob: Vec<u8>,
    meddled: u32,
}

impl Relay {
    fn start(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let seen = Arc::new(Mutex::new(Seen { mood: Mood::Honest, sent: Vec::new(), blob: Vec::new(), meddled: 0 }));
        let relay = Relay { address, seen: Arc::clone(&seen) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(holder) = TcpStream::connect(target) else { continue };
                let (client_too, holder_too) = (client.try_clone().expect("clone"), holder.try_clone().expect("clone"));
                let (out, back) = (Arc::clone(&seen), Arc::clone(&seen));
                std::thread::spawn(move || {
                    pass_on(client, holder, |bytes| out.lock().expect("seen").sent.extend_from_slice(bytes))
                });
                std::thread::spawn(move || pass_on(holder_too, client_too, |bytes| back.lock().expect("seen").meddle(bytes)));
            }
        });
        relay
    }

    fn set(&self, mood: Mood) {
        self.seen.lock().expect("seen").mood = mood;
    }

    fn meddled(&self) -> u32 {
        self.seen.lock().expect("seen").meddled
    }
}

impl Seen {
    /// Gets are asked one at a time here, so one read gives one frame with one answer.
    fn meddle(&mut self, bytes: &mut [u8]) {
        let is_pages = bytes.len() > BLOB_AT && bytes[..4] == *b"RAMs" && bytes[5] == 7;
        if !is_pages || u32::from_le_bytes(bytes[16..20].try_into().expect("length")) as usize + 24 != bytes.len() {
            return;
        }
        match self.mood {
            Mood::Honest => self.blob = bytes[BLOB_AT..].to_vec(),
            Mood::Changes => *bytes.last_mut().expect("a last byte") ^= 1,
            Mood::Repeats => {
                assert_eq!(self.blob.len() + BLOB_AT, bytes.len(), "these pages all pack to one length");
                assert_ne!(self.blob, bytes[BLOB_AT..]);
                bytes[BLOB_AT..].copy_from_slice(&self.blob);
            }
        }
        self.meddled += u32::from(self.mood != Mood::Honest);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&mut [u8])) {
    let mut bytes = [0; 65536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        look(&mut bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn engine(relay: &Relay) -> Arc<Engine> {
    let peers = vec![PeerAddr { node: 1, address: relay.address.to_string() }];
    let options = Options { store_bytes: Some(64 << 10), get_deadline_ms: common::GET_DEADLINE_MS, peers, ..Options::default() };
    Engine::start(&options).expect("engine")
}

fn put(engine: &Engine, pool: PoolId, indexes: std::ops::Range<u32>, version: u32) {
    for index in indexes {
        assert_eq!(engine.put(&handle(pool, index), &page(index, version)), Put::Stored);
    }
    wait_at_limit(engine);
}

/// Errors are those of the page; a page that comes is checked whole.
fn get(engine: &Engine, pool: PoolId, index: u32, version: u32) -> Result<(), Loss> {
    let mut found = [0; PAGE_BYTES];
    match engine.get(&handle(pool, index), Keep::KeepRemote, &mut found) {
        Ok(Get::Hit) => {
            assert!(found == page(index, version), "page {index} came with other bytes");
            Ok(())
        }
        Ok(Get::Miss) => panic!("page {index} is missed"),
        Err(lost) => Err(lost.why),
    }
}

#[test]
fn nothing_of_a_page_is_seen_on_its_way_to_the_holder() {
    let holder = server(1, 64 << 20);
    let relay = Relay::start(holder.address());
    let engine = engine(&relay);
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put(&engine, pool, 0..COUNT, 0);
    let sent = std::mem::take(&mut relay.seen.lock().expect("seen").sent);
    let remotified = engine.stats().get(Stat::PagesRemotified);
    assert!(remotified > 100 && sent.len() as u64 > remotified * 2048, "{remotified} pages, {} bytes", sent.len());
    // lz4 leaves what does not repeat as it is: the random half of a page would be there word for word.
    let words = |index| page(index, 0)[..PAGE_BYTES / 2].chunks(8).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let secrets: HashSet<Vec<u8>> = (0..COUNT).flat_map(words).collect();
    let shown = sent.windows(8).filter(|window| secrets.contains(*window)).count();
    assert_eq!(shown, 0);
}

#[test]
fn what_a_holder_changes_swaps_or_replays_is_lost_and_never_delivered() {
    let holder = server(1, 64 << 20);
    let relay = Relay::start(holder.address());
    let engine = engine(&relay);
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put(&engine, pool, 0..COUNT, 0);
    assert_eq!(get(&engine, pool, 0, 0), Ok(()));

    relay.set(Mood::Changes);
    assert_eq!(get(&engine, pool, 1, 0), Err(Loss::Corrupt));
    relay.set(Mood::Repeats);
    assert_eq!(get(&engine, pool, 2, 0), Err(Loss::Corrupt), "page 0 in the place of page 2");

    // Page 0 again, which pushes nothing older out; then others, until it has left once more.
    relay.set(Mood::Honest);
    put(&engine, pool, 0..1, 1);
    put(&engine, pool, COUNT..2 * COUNT, 0);
    relay.set(Mood::Repeats);
    assert_eq!(get(&engine, pool, 0, 1), Err(Loss::Corrupt), "an older copy of page 0");
    assert_eq!(relay.meddled(), 3);
    // Once found out, it stays lost; all others are untouched.
    relay.set(Mood::Honest);
    assert_eq!(get(&engine, pool, 1, 0), Err(Loss::Corrupt));
    assert_eq!(get(&engine, pool, 3, 0), Ok(()));
}
