//! Pools with a durability of their own in one engine: each has the copies that it asked for, is rebuilt to them, and loses what it may and no more.

mod common;

use std::sync::Arc;

use common::pages::*;
use common::{handle, page, server, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Directives, Durability, Engine, Options, PeerAddr, Stat};
use ramster_peer::server::Server;

fn servers(count: u64) -> Vec<Server> {
    (1..=count).map(|node| server(node, OFFER_BYTES)).collect()
}

fn listed(servers: &[Server]) -> Vec<PeerAddr> {
    peers(&servers.iter().collect::<Vec<_>>())
}

fn held_by_all(servers: &[Server]) -> u64 {
    servers.iter().map(held).sum()
}

fn durable(engine: &Engine, durability: Durability) -> PoolId {
    engine.new_pool_of(engine.class_of(durability).expect("a class")).expect("pool")
}

/// Two pools, filled by turns, so that their pages leave together as far as they may.
fn fill_both(engine: &Engine, pools: [PoolId; 2]) {
    for index in 0..COUNT {
        for pool in pools {
            assert_eq!(engine.put(&handle(pool, index), &page(index, pool.0)), Put::Stored);
        }
    }
    wait_at_limit(engine);
}

fn losses(engine: &Engine, pool: PoolId) -> u64 {
    let got = (0..COUNT).filter_map(|index| get(engine, pool, index, pool.0).err());
    got.inspect(|why| assert_eq!(*why, Loss::HolderDied)).count() as u64
}

fn stat(engine: &Engine, stat: Stat) -> u64 {
    engine.stats().get(stat)
}

/// What they have at holders when all have `factor` copies or shards, and the rest of what is away one: how many of the first are away.
fn away_of_first(engine: &Engine, servers: &[Server], factor: u64) -> u64 {
    let extra = held_by_all(servers) - remote(engine);
    assert_eq!(extra % (factor - 1), 0, "each of them has {factor}, none fewer");
    extra / (factor - 1)
}

#[test]
fn a_dead_holder_costs_a_pool_with_two_copies_nothing_and_one_with_a_single_copy_exactly_what_it_held() {
    let mut living = servers(4);
    let engine = engine(Durability::None, listed(&living));
    let pools = [durable(&engine, Durability::Copies(2)), durable(&engine, Durability::None)];
    fill_both(&engine, pools);
    let (double, away) = (away_of_first(&engine, &living, 2), remote(&engine));
    assert!(double > 500 && away - double > 500, "{double} pages with two copies of {away}");
    let dying = living.remove(1);
    let had = held(&dying);
    drop(dying);
    assert_eq!(losses(&engine, pools[0]), 0);
    wait_until("its death noticed", || stat(&engine, Stat::CopiesLost) + stat(&engine, Stat::PagesLost) == had);
    let lost = losses(&engine, pools[1]);
    assert!(lost > 0);
    // Some came home instead, since they were asked for while there was room.
    let home = || stat(&engine, Stat::PagesRepatriated);
    assert_eq!((stat(&engine, Stat::PagesLost), remote(&engine) + home()), (lost, away - lost));
    wait_until("copies anew", || stat(&engine, Stat::Rebuilding) + engine.snapshot().flushes_waiting == 0);
    let rebuilt = stat(&engine, Stat::CopiesRebuilt);
    assert!(rebuilt <= had - lost && rebuilt + home() >= had - lost, "one for each that died, none for pages that want one");
    // The next one, too.
    drop(living.pop());
    assert_eq!(losses(&engine, pools[0]), 0);
    assert!(losses(&engine, pools[1]) > lost);
    (0..COUNT).for_each(|index| engine.flush_page(&handle(pools[1], index)));
    wait_until("two copies of the one, and none of the other", || held_by_all(&living) == 2 * remote(&engine));
    assert!(remote(&engine) > 500);
}

#[test]
fn pages_on_disk_too_outlive_all_peers_and_those_with_two_copies_beside_them_do_not() {
    let servers = servers(2);
    let options = Options { peers: listed(&servers), spill_dir: Some(std::env::temp_dir()), ..options() };
    let engine = start(options);
    let pools = [durable(&engine, Durability::Copies(2)), durable(&engine, Durability::Disk)];
    fill_both(&engine, pools);
    let (double, away) = (away_of_first(&engine, &servers, 2), remote(&engine));
    let on_disk = away - double;
    assert!(double > 500 && on_disk > 500);
    assert_eq!(stat(&engine, Stat::PagesSpilled), on_disk, "those, and no others");
    drop(servers);
    assert_eq!(losses(&engine, pools[1]), 0);
    assert_eq!((losses(&engine, pools[0]), stat(&engine, Stat::PagesLost)), (double, double));
}

#[test]
fn a_coded_pool_beside_a_plain_one_is_whole_again_after_a_death() {
    let mut living = servers(4);
    let engine = engine(Durability::None, listed(&living));
    let pools = [durable(&engine, Durability::Ec(2, 1)), durable(&engine, Durability::None)];
    fill_both(&engine, pools);
    let (coded, away) = (away_of_first(&engine, &living, 3), remote(&engine));
    let plain = away - coded;
    assert!(coded > 500 && plain > 500);
    let dying = living.remove(0);
    let had = held(&dying);
    drop(dying);
    assert_eq!(losses(&engine, pools[0]), 0);
    let lost = losses(&engine, pools[1]);
    assert!(lost > 0);
    wait_until("its death noticed", || stat(&engine, Stat::CopiesLost) + lost >= had);
    wait_until("all shards again", || {
        // Some came home instead, since they were asked for.
        let mended = stat(&engine, Stat::CopiesRebuilt) + stat(&engine, Stat::PagesRepatriated);
        let quiet = stat(&engine, Stat::Rebuilding) + engine.snapshot().flushes_waiting == 0;
        quiet && mended >= stat(&engine, Stat::CopiesLost) && (held_by_all(&living) - remote(&engine)).is_multiple_of(2)
    });
    drop(living.pop());
    assert_eq!(losses(&engine, pools[0]), 0);
    assert!(losses(&engine, pools[1]) > lost);
}

/// Each pool alone, so that all that holders have is its.
#[test]
fn a_new_durability_of_the_run_is_for_pools_that_follow_it() {
    let servers = servers(3);
    let engine = engine(Durability::None, listed(&servers));
    let own = [None, Some(Durability::None), Some(Durability::Copies(2)), Some(Durability::Copies(3))];
    let new_pool = |own: Option<Durability>| {
        own.map_or_else(|| engine.new_pool(PoolKind::Persistent).expect("pool"), |own| durable(&engine, own))
    };
    let pools = own.map(new_pool);
    for (run, copies) in [(Durability::None, [1, 1, 2, 3]), (Durability::Copies(3), [3, 1, 2, 3])] {
        engine.set_directives(&Directives { durability: Some(run), ..Directives::default() }).expect("directives");
        for (pool, copies) in pools.into_iter().zip(copies) {
            put_all(&engine, pool, pool.0);
            wait_at_limit(&engine);
            assert!(remote(&engine) > 500);
            wait_until("answers heard", || engine.snapshot().flushes_waiting == 0);
            assert_eq!(held_by_all(&servers), copies * remote(&engine), "{pool:?} under {run:?}");
            (0..COUNT).for_each(|index| engine.flush_page(&handle(pool, index)));
            wait_until("all flushed", || held_by_all(&servers) == 0);
        }
    }
}

#[test]
fn a_durability_that_this_engine_cannot_have_is_refused_in_one_line() {
    let engine = engine(Durability::None, Vec::new());
    for (durability, word) in [
        (Durability::Copies(4), "copies=4"),
        (Durability::Copies(0), "copies=0"),
        (Durability::Ec(5, 2), "ec=5+2"),
        (Durability::Disk, "spill"),
    ] {
        let error = engine.class_of(durability).expect_err("an error").to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
    }
}

/// Three copies on two nodes cannot be: those pages stay. The other pool's go on leaving, and its puts find room.
#[test]
fn pages_that_have_nowhere_to_go_hold_up_no_others() {
    let servers = servers(2);
    let options =
        Options { local_bytes: 1 << 20, peers: listed(&servers), get_deadline_ms: common::GET_DEADLINE_MS, ..Options::default() };
    let engine: Arc<Engine> = Engine::start_for_pools(&options).expect("engine");
    let (stuck, moving) = (durable(&engine, Durability::Copies(3)), durable(&engine, Durability::None));
    // Some 2 KiB each: just above what may stay before pages leave.
    let mut kept = 0;
    while engine.store_bytes() <= (1 << 20) / 16 * 15 {
        assert_eq!(engine.put(&handle(stuck, kept), &page(kept, 0)), Put::Stored);
        kept += 1;
    }
    wait_until("the remotifier stuck", || engine.has_nowhere());
    for index in 0..2000 {
        assert_eq!(engine.put(&handle(moving, index), &page(index, 1)), Put::Stored, "page {index}");
    }
    assert!(held_by_all(&servers) > 1800 && kept > 300);
    let mut found = [0; PAGE_BYTES];
    for index in 0..2000 {
        assert_eq!(engine.get(&handle(moving, index), Keep::Keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, 1));
    }
    for index in 0..kept {
        assert_eq!(engine.get(&handle(stuck, index), Keep::Keep, &mut found), Ok(Get::Hit));
    }
}

/// One copy at a peer, whatever the run's durability is, and where that has nowhere to go, too.
#[test]
fn pages_that_may_vanish_have_one_copy_whatever_the_durability_of_the_run() {
    for (durability, count) in [(Durability::Copies(2), 3), (Durability::Copies(3), 2), (Durability::Disk, 2)] {
        let servers = servers(count);
        let spill_dir = (durability == Durability::Disk).then(std::env::temp_dir);
        let engine = start(Options { durability, peers: listed(&servers), spill_dir, ..options() });
        let pool = engine.new_pool(PoolKind::Ephemeral).expect("pool");
        put_all(&engine, pool, 0);
        wait_at_limit(&engine);
        assert!(remote(&engine) > 500);
        assert_eq!((held_by_all(&servers), stat(&engine, Stat::PagesSpilled)), (remote(&engine), 0));
    }
}
