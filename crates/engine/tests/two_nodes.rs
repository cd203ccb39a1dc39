//! The engine with real servers on loopback: pages go out, come back byte for byte, are flushed, and are lost with their holder, never otherwise.

mod common;

use std::sync::Arc;

use common::{DEADLINE, Random, engine, handle, name_of, page, peers, server, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Arrival, Directives, Engine, Lane, LaneGet, Stat, now_ms};
use ramster_peer::server::Server;

const STORE_BYTES: u64 = 1 << 20;

/// Puts pages 0 to `count` in version 0 and waits until the store is at its limit again.
fn fill(engine: &Arc<Engine>, pool: PoolId, count: u32) {
    let mut putter = engine.putter();
    for index in 0..count {
        assert_eq!(putter.put(&handle(pool, index), &page(index, 0)), Put::Stored);
    }
    wait_at_limit(engine);
}

fn held(server: &Server) -> u64 {
    server.stats().pages()
}

/// Gets one page over a lane, waiting for it if it is remote.
fn get(lane: &mut Lane, pool: PoolId, index: u32, keep: Keep) -> Result<Option<(u32, u32)>, Loss> {
    let mut page = [0; PAGE_BYTES];
    match lane.get(&handle(pool, index), keep, &mut page) {
        LaneGet::Hit => Ok(Some(checked(&page))),
        LaneGet::Miss => Ok(None),
        LaneGet::Lost(lost) => Err(lost.why),
        LaneGet::Pending(token) => {
            let mut outcome = None;
            let start = std::time::Instant::now();
            while outcome.is_none() {
                assert!(start.elapsed() < DEADLINE, "page {index} never came");
                lane.ready(now_ms(), &mut |arrived, at, arrival| {
                    assert_eq!((arrived, *at), (token, handle(pool, index)));
                    outcome = Some(match arrival {
                        Arrival::Page(page) => Ok(Some(checked(page))),
                        Arrival::Miss => Ok(None),
                        Arrival::Lost(lost) => Err(lost.why),
                    });
                });
            }
            outcome.expect("an outcome")
        }
    }
}

fn checked(found: &ramster_core::page::Page) -> (u32, u32) {
    let (index, version) = name_of(found);
    assert!(*found == page(index, version), "page {index}, version {version} has other bytes");
    (index, version)
}

#[test]
fn over_its_share_of_what_peers_lend_a_program_sends_nothing_more_and_keeps_what_is_there() {
    let holder = server(1, 64 << 20);
    let engine = engine(64 << 10, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 300);
    let there = engine.snapshot().pages_remote;
    assert!(there > 200);
    engine.set_directives(&Directives { remote_bytes: Some(1), ..Directives::default() }).expect("directives");
    // The flushes of what is put anew are heard, and nothing else goes there.
    let before = engine.stats().get(Stat::RemotifyOverShare);
    for index in 300..400 {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored);
    }
    wait_until("it was to send something", || engine.stats().get(Stat::RemotifyOverShare) > before);
    assert_eq!((engine.snapshot().pages_remote, held(&holder)), (there, there));
    engine.set_directives(&Directives { remote_bytes: Some(u64::MAX), ..Directives::default() }).expect("directives");
    wait_at_limit(&engine);
    assert!(engine.snapshot().pages_remote > there);
}

#[test]
fn pages_come_home_by_themselves_when_there_is_room_and_leave_no_copy_behind() {
    let holder = server(1, 64 << 20);
    let start = |directives: &Directives| {
        let engine = engine(64 << 10, peers(&[&holder]));
        let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
        for index in 0..300 {
            assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored);
        }
        wait_at_limit(&engine);
        assert!(engine.snapshot().pages_remote > 200);
        engine.set_directives(directives).expect("directives");
        (engine, pool)
    };
    let room = Directives { store_bytes: Some(16 << 20), ..Directives::default() };
    let (stays, other_pool) = start(&Directives { repatriate: Some(false), ..room.clone() });
    let there = stays.snapshot().pages_remote;
    let (engine, pool) = start(&room);
    wait_until("all pages are home", || engine.snapshot().pages_remote == 0);
    wait_until("their copies are gone", || holder.stats().pages() == there);
    assert_eq!(stays.snapshot().pages_remote, there);
    assert!(engine.stats().get(Stat::PagesRepatriated) > 200);
    assert_eq!(engine.stats().get(Stat::PagesLocalified), 0, "nobody asked for them");
    let mut found = [0; PAGE_BYTES];
    for index in 0..300 {
        for (engine, pool) in [(&engine, pool), (&stays, other_pool)] {
            assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
            assert!(found == page(index, 0));
        }
    }
}

#[test]
fn pages_over_the_limit_go_to_the_peer_and_come_back_byte_for_byte() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    assert!(held(&holder) > 1000, "the peer has {} pages", held(&holder));
    let mut lane = engine.lane();
    for index in (0..2000).rev() {
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 0))), "page {index}");
    }
    assert!(engine.stats().get(Stat::PagesLocalified) > 1000);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

#[test]
fn read_ahead_of_many_remote_pages_delivers_each_once() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    let mut lane = engine.lane();
    let mut seen = vec![0; 2000];
    for first in (0..2000).step_by(50) {
        let handles: Vec<_> = (first..first + 50).map(|index| handle(pool, index)).collect();
        let mut pages = vec![[0; PAGE_BYTES]; 50];
        let mut places: Vec<_> = pages.iter_mut().collect();
        let mut outcomes = Vec::new();
        lane.get_run(&handles, Keep::KeepRemote, &mut places, &mut outcomes);
        for (offset, outcome) in outcomes.iter().enumerate() {
            match outcome {
                LaneGet::Hit => {
                    assert_eq!(checked(&pages[offset]), (first + offset as u32, 0));
                    seen[first as usize + offset] += 1;
                }
                LaneGet::Pending(_) => {}
                other => panic!("page {}: {other:?}", first as usize + offset),
            }
        }
    }
    let start = std::time::Instant::now();
    while lane.pending() > 0 {
        assert!(start.elapsed() < DEADLINE);
        lane.ready(now_ms(), &mut |_, at, arrival| match arrival {
            Arrival::Page(page) => {
                assert_eq!(checked(page), (at.index, 0));
                seen[at.index as usize] += 1;
            }
            other => panic!("{at:?}: {other:?}"),
        });
    }
    assert!(seen.iter().all(|times| *times == 1));
}

#[test]
fn freed_and_flushed_pages_leave_the_peer_too() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    let mut lane = engine.lane();
    for index in 0..500 {
        assert_eq!(get(&mut lane, pool, index, Keep::Free), Ok(Some((index, 0))));
        assert_eq!(get(&mut lane, pool, index, Keep::Free), Ok(None));
    }
    engine.flush_range(&handle(pool, 500), 500);
    (1000..1500).for_each(|index| engine.flush_page(&handle(pool, index)));
    wait_until("flushes heard", || held(&holder) <= 500);
    for index in 1500..2000 {
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 0))));
    }
    engine.destroy_pool(pool);
    wait_until("nothing at the peer", || held(&holder) == 0);
    assert_eq!(engine.snapshot().pages_remote, 0);
}

#[test]
fn an_unchanged_page_put_again_does_not_travel_again() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    let (mut lane, mut putter) = (engine.lane(), engine.putter());
    let (mut unchanged, mut remote) = (0, 0);
    for index in 0..200 {
        let before = engine.stats().get(Stat::PagesLocalified);
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 0))));
        remote += engine.stats().get(Stat::PagesLocalified) - before;
        let before = engine.stats().get(Stat::PutsUnchanged);
        assert_eq!(putter.put(&handle(pool, index), &page(index, 0)), Put::Stored);
        unchanged += engine.stats().get(Stat::PutsUnchanged) - before;
    }
    assert!(remote > 0 && unchanged >= remote, "{remote} remote, {unchanged} unchanged");
    for index in 0..200 {
        assert_eq!(putter.put(&handle(pool, index), &page(index, 1)), Put::Stored);
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 1))));
    }
}

#[test]
fn what_a_full_holder_refuses_goes_elsewhere() {
    let (small, large) = (server(1, 300 << 10), server(2, 64 << 20));
    let engine = engine(STORE_BYTES, peers(&[&small, &large]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 3000);
    let stats = small.stats();
    assert!(stats.used_bytes <= stats.offer_bytes);
    assert!(held(&large) > 1500, "the large one has {}", held(&large));
    let mut lane = engine.lane();
    for index in 0..3000 {
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 0))));
    }
}

#[test]
fn pages_of_a_dead_holder_are_lost_and_not_zeroes_and_all_others_stay() {
    let (dying, living) = (server(1, 64 << 20), server(2, 64 << 20));
    let engine = engine(STORE_BYTES, peers(&[&dying, &living]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 3000);
    let at_dying = held(&dying);
    assert!(at_dying > 0 && held(&living) > 0);
    drop(dying);
    let mut lane = engine.lane();
    let mut lost = 0;
    for index in 0..3000 {
        match get(&mut lane, pool, index, Keep::KeepRemote) {
            Ok(found) => assert_eq!(found, Some((index, 0))),
            Err(why) => {
                assert_eq!(why, Loss::HolderDied);
                lost += 1;
            }
        }
    }
    assert_eq!(lost, at_dying);
    // A lost page can be put again, and is whole after that.
    for index in 0..3000 {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 1)), Put::Stored);
    }
    for index in 0..3000 {
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 1))));
    }
}

#[test]
fn pages_on_their_way_to_a_holder_that_dies_survive_at_home() {
    let mut random = Random::new("dying holder");
    for round in 0..10 {
        let holder = server(1, 64 << 20);
        let engine = engine(64 << 10, peers(&[&holder]));
        let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
        let mut putter = engine.putter();
        let dies_at = random.below(1500);
        let mut holder = Some(holder);
        let mut acknowledged = 0;
        for index in 0..1500 {
            if index == dies_at {
                acknowledged = engine.stats().get(Stat::PagesRemotified);
                holder = None;
            }
            assert_eq!(putter.put(&handle(pool, index), &page(index, 0)), Put::Stored);
        }
        drop(holder);
        let mut lane = engine.lane();
        let mut lost = 0;
        for index in 0..1500 {
            match get(&mut lane, pool, index, Keep::KeepRemote) {
                Ok(found) => assert_eq!(found, Some((index, 0)), "round {round}"),
                Err(why) => {
                    assert!(matches!(why, Loss::HolderDied | Loss::HolderForgot), "{why:?}");
                    lost += 1;
                }
            }
        }
        // What was acknowledged between the look and the death may be lost too; what was only on its way may not.
        let remotified = engine.stats().get(Stat::PagesRemotified);
        assert!(lost >= acknowledged.min(1) && lost <= remotified, "{lost} lost, {acknowledged} to {remotified} acknowledged");
    }
}

#[test]
fn a_put_or_flush_during_a_fetch_never_lets_older_bytes_through() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    let mut lane = engine.lane();
    let (mut waiting, mut scratch) = (Vec::new(), [0; PAGE_BYTES]);
    for index in 0..300 {
        if let LaneGet::Pending(token) = lane.get(&handle(pool, index), Keep::KeepRemote, &mut scratch) {
            waiting.push((token, index));
        }
    }
    assert!(waiting.len() > 100);
    // The answers may be here already, but nothing is delivered before `ready`.
    for (_, index) in &waiting {
        match index % 3 {
            0 => assert_eq!(engine.put(&handle(pool, *index), &page(*index, 1)), Put::Stored),
            1 => engine.flush_page(&handle(pool, *index)),
            _ => {}
        }
    }
    let start = std::time::Instant::now();
    let mut delivered = 0;
    while lane.pending() > 0 {
        assert!(start.elapsed() < DEADLINE);
        delivered += lane.ready(now_ms(), &mut |_, at, arrival| match (at.index % 3, arrival) {
            (0, Arrival::Page(page)) => assert_eq!(checked(page), (at.index, 1)),
            (1, Arrival::Miss) => {}
            (2, Arrival::Page(page)) => assert_eq!(checked(page), (at.index, 0)),
            (_, other) => panic!("{at:?}: {other:?}"),
        });
    }
    assert_eq!(delivered, waiting.len());
}

#[test]
fn several_lanes_may_fetch_one_page() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 1500);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut lane = engine.lane();
                for index in 0..1500 {
                    assert_eq!(get(&mut lane, pool, index, Keep::Keep), Ok(Some((index, 0))));
                }
            });
        }
    });
}

#[test]
fn goodbye_frees_everything_at_the_peer() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    assert!(held(&holder) > 0);
    engine.close();
    wait_until("nothing at the peer", || held(&holder) == 0);
}

#[test]
fn a_peer_that_comes_later_is_used_from_then_on() {
    let holder = server(1, 64 << 20);
    let engine = engine(STORE_BYTES, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for index in 0..2000 {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored);
    }
    assert!(engine.store_bytes() > STORE_BYTES);
    assert!(!engine.wait_for_room(10));
    engine
        .set_directives(&ramster_engine::Directives { peers: Some(peers(&[&holder])), ..Default::default() })
        .expect("directives");
    wait_at_limit(&engine);
    assert!(held(&holder) > 1000);
}

#[test]
fn what_travels_may_be_packed_anew() {
    let holder = server(1, 64 << 20);
    let options = ramster_engine::Options {
        store_bytes: Some(STORE_BYTES),
        peers: peers(&[&holder]),
        remote_codec: Some(ramster_engine::CodecName::Zstd),
        ..Default::default()
    };
    let engine = Engine::start(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    fill(&engine, pool, 2000);
    let mut lane = engine.lane();
    for index in 0..2000 {
        assert_eq!(get(&mut lane, pool, index, Keep::KeepRemote), Ok(Some((index, 0))));
    }
}

#[test]
fn threads_of_a_door_put_get_and_flush_at_random_and_always_see_their_last_put() {
    let mut random = Random::new("random load");
    let (one, two) = (server(1, 64 << 20), server(2, 64 << 20));
    let engine = engine(256 << 10, peers(&[&one, &two]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (mut random, engine) = (random.fork(), &engine);
            scope.spawn(move || one_thread(engine, pool, thread, &mut random));
        }
    });
    let stats = engine.stats();
    assert!(stats.get(Stat::PagesRemotified) > 1000 && stats.get(Stat::PagesLocalified) > 100, "{:?}", engine.snapshot());
    assert_eq!(stats.get(Stat::PagesLost), 0);
}

/// Owns the indexes that are its number modulo 4, so it knows what each must hold.
fn one_thread(engine: &Arc<Engine>, pool: PoolId, thread: u32, random: &mut Random) {
    let mut versions = vec![None; 500];
    let mut lane = engine.lane();
    for step in 1..8000 {
        let slot = random.below(500);
        let index = slot * 4 + thread;
        let at = handle(pool, index);
        match random.below(8) {
            0..4 => {
                assert_eq!(engine.put(&at, &page(index, step)), Put::Stored);
                versions[slot as usize] = Some(step);
            }
            4 | 5 => {
                let keep = [Keep::Keep, Keep::KeepRemote, Keep::Free][random.below(3) as usize];
                let mut found = [0; PAGE_BYTES];
                let got = engine.get(&at, keep, &mut found).expect("not lost");
                let expected = versions[slot as usize];
                assert_eq!((got == Get::Hit).then(|| checked(&found)), expected.map(|version| (index, version)), "step {step}");
                forget(&mut versions[slot as usize], keep, engine, &at);
            }
            6 => {
                let keep = [Keep::Keep, Keep::KeepRemote, Keep::Free][random.below(3) as usize];
                let expected = versions[slot as usize].map(|version| (index, version));
                assert_eq!(get(&mut lane, pool, index, keep), Ok(expected), "step {step}");
                forget(&mut versions[slot as usize], keep, engine, &at);
            }
            _ => {
                engine.flush_page(&at);
                versions[slot as usize] = None;
            }
        }
    }
}

/// After a get with KeepRemote nobody knows whether the page is still kept: it is flushed, so that the next get is a miss.
fn forget(version: &mut Option<u32>, keep: Keep, engine: &Arc<Engine>, at: &ramster_core::handle::Handle) {
    if keep == Keep::KeepRemote {
        engine.flush_page(at);
    }
    if keep != Keep::Keep {
        *version = None;
    }
}
