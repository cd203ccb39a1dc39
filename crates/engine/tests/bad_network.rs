//! A network that stalls and breaks: a proxy between engine and holder stops, cuts and goes on. No wait is for ever, no cut link loses a page.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{Proxy, handle, page, server, server_without_grace, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Engine, Options, PeerAddr, Stat};

const COUNT: u32 = 600;
/// Longer than any machine under load needs to open a link.
const PATIENCE_MS: u64 = common::GET_DEADLINE_MS;

fn engine(proxy: &Proxy, get_deadline_ms: u64) -> Arc<Engine> {
    let peers = vec![PeerAddr { node: 1, address: proxy.address.to_string() }];
    let options = Options { store_bytes: Some(64 << 10), get_deadline_ms, peers, ..Options::default() };
    Engine::start(&options).expect("engine")
}

fn fill(engine: &Engine) -> PoolId {
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for index in 0..COUNT {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored);
    }
    wait_at_limit(engine);
    pool
}

fn get(engine: &Engine, pool: PoolId, index: u32) -> Result<(), Loss> {
    let mut found = [0; PAGE_BYTES];
    let got = engine.get(&handle(pool, index), Keep::Keep, &mut found).map_err(|lost| lost.why)?;
    assert_eq!(got, Get::Hit);
    assert!(found == page(index, 0));
    Ok(())
}

/// A deadline says nothing about the page: it may be asked for again.
fn get_in_the_end(engine: &Engine, pool: PoolId, index: u32) -> Result<(), Loss> {
    let start = Instant::now();
    loop {
        let got = get(engine, pool, index);
        if got != Err(Loss::Deadline) || start.elapsed() > common::DEADLINE {
            return got;
        }
    }
}

#[test]
fn a_silent_holder_ends_in_a_deadline_and_its_pages_are_there_when_it_speaks_again() {
    let holder = server(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let engine = engine(&proxy, 400);
    let pool = fill(&engine);
    assert_eq!(get_in_the_end(&engine, pool, 0), Ok(()));
    proxy.stalled.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let silent: Vec<u32> =
        (0..COUNT).filter(|index| index % 60 == 0 && get(&engine, pool, *index) == Err(Loss::Deadline)).collect();
    assert!(silent.len() >= 5, "{silent:?}");
    assert!(start.elapsed() >= Duration::from_millis(400 * silent.len() as u64));
    proxy.stalled.store(false, Ordering::SeqCst);
    for index in 0..COUNT {
        assert_eq!(get_in_the_end(&engine, pool, index), Ok(()), "page {index}");
    }
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

#[test]
fn a_cut_link_of_a_living_holder_loses_nothing() {
    let holder = server(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let engine = engine(&proxy, PATIENCE_MS);
    let pool = fill(&engine);
    for index in 0..COUNT {
        if index % 100 == 0 {
            // Sometimes all of them, sometimes all but the first, which is the remotifier's.
            proxy.cut(index as usize / 100 % 2);
        }
        assert_eq!(get(&engine, pool, index), Ok(()), "page {index}");
    }
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

#[test]
fn a_holder_that_forgot_us_is_noticed_and_its_pages_are_lost_not_zeroes() {
    let holder = server_without_grace(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let engine = engine(&proxy, PATIENCE_MS);
    let pool = fill(&engine);
    // Every link goes, so the holder frees our pages; then it answers again.
    proxy.refusing.store(true, Ordering::SeqCst);
    proxy.cut(0);
    wait_until("the holder has freed our pages", || holder.stats().pages() == 0);
    proxy.refusing.store(false, Ordering::SeqCst);
    let lost = (0..COUNT).filter(|index| match get(&engine, pool, *index) {
        Ok(()) => false,
        Err(why) => {
            assert!(matches!(why, Loss::HolderDied | Loss::HolderForgot), "{why:?}");
            true
        }
    });
    let lost = lost.count() as u64;
    assert!(lost > 500 && engine.stats().get(Stat::PagesLost) == lost, "{lost} lost");
    // And it is used again.
    for index in 0..COUNT {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored);
    }
    wait_at_limit(&engine);
    for index in 0..COUNT {
        assert_eq!(get(&engine, pool, index), Ok(()), "page {index}");
    }
}

/// It lived, and its grace time is not over: what tmem has given up there must not stay.
#[test]
fn a_holder_that_was_given_up_for_dead_keeps_nothing_of_before_when_it_is_used_again() {
    let holder = server(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let engine = engine(&proxy, PATIENCE_MS);
    let pool = fill(&engine);
    proxy.close();
    proxy.cut(0);
    wait_until("its pages are given up", || engine.stats().get(Stat::PagesLost) > 500);
    assert!(holder.stats().pages() > 500);
    proxy.reopen();
    let other = engine.new_pool(PoolKind::Persistent).expect("pool");
    for index in 0..COUNT {
        assert_eq!(engine.put(&handle(other, index), &page(index, 0)), Put::Stored);
    }
    wait_at_limit(&engine);
    for index in 0..COUNT {
        assert_eq!(get(&engine, other, index), Ok(()), "page {index}");
        assert!(matches!(get(&engine, pool, index), Ok(()) | Err(Loss::HolderDied)), "page {index}");
    }
    wait_until("only what the engine knows of is there", || holder.stats().pages() == engine.snapshot().pages_remote);
}

/// A lane's link that was never cut belongs to the stay there that was given up, and knows nothing of pages that came in the next one.
#[test]
fn a_link_from_before_its_holder_was_given_up_for_dead_is_not_asked_for_pages_of_the_next_stay() {
    let holder = server(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let engine = engine(&proxy, PATIENCE_MS);
    let pool = fill(&engine);
    for index in 0..8 {
        assert_eq!(get(&engine, pool, index), Ok(()), "page {index}");
    }
    assert!(proxy.links.lock().expect("links").len() >= 4, "the remotifier's link and a lane's");
    proxy.close();
    proxy.cut_one(0);
    wait_until("its pages are given up", || engine.stats().get(Stat::PagesLost) > 500);
    proxy.reopen();
    let other = engine.new_pool(PoolKind::Persistent).expect("pool");
    for index in 0..COUNT {
        assert_eq!(engine.put(&handle(other, index), &page(index, 0)), Put::Stored);
    }
    wait_at_limit(&engine);
    for index in 0..COUNT {
        assert_eq!(get(&engine, other, index), Ok(()), "page {index}");
    }
}

#[test]
fn links_cut_at_any_moment_of_remotifying_lose_nothing() {
    let holder = server(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let engine = engine(&proxy, PATIENCE_MS);
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for round in 0..30 {
        for index in 0..COUNT {
            assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored);
            engine.flush_page(&handle(pool, (index * 7 + round) % COUNT));
            assert_eq!(
                engine.put(&handle(pool, (index * 7 + round) % COUNT), &page((index * 7 + round) % COUNT, 0)),
                Put::Stored
            );
            if index == round * 20 {
                proxy.cut(0);
            }
        }
    }
    wait_at_limit(&engine);
    for index in 0..COUNT {
        assert_eq!(get(&engine, pool, index), Ok(()), "page {index}");
    }
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    holder.check().expect("the holder's books");
}
