//! Promise 9 end to end: whoever sits at the holder's end of a link sees nothing of a page, and what it changes, swaps or replays is found out. A relay
//! between an engine and a real holder reads and alters what passes.

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use common::relay::{Mood, Relay};
use common::{handle, page, server, wait_at_limit};
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Engine, Options, PeerAddr, Stat};

const COUNT: u32 = 400;
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
