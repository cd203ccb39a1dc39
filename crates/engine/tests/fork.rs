//! A process with an engine forks: parent and child each have all pages as they were at the fork, wherever they lay, and go their own ways from there.

mod common;
#[path = "../../peer/tests/common/pki.rs"]
mod pki;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{DEADLINE, engine, handle, page, peers, server, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{CredentialsPem, Durability, Engine, Options, Stat};
use ramster_peer::server::{Server, ServerConfig};
use ramster_sys::lock::Lock;
use ramster_sys::{next, quiet};
use rustix::process::{Pid, WaitOptions, kill_process, waitpid};

/// One test at a time: a child must not inherit another test's half-open sockets.
static ONE_AT_A_TIME: Lock<()> = Lock::new(());

/// Forks; the child runs `child` and must not fail. Returns a waiter for it.
fn fork(engine: &Engine, child: impl FnOnce()) -> impl FnOnce() {
    engine.before_fork();
    let pid = quiet::fork();
    if pid == 0 {
        let ran = catch_unwind(AssertUnwindSafe(|| {
            engine.after_fork_child();
            child();
        }));
        next::exit_now(if ran.is_ok() { 0 } else { 1 });
    }
    engine.after_fork_parent();
    let pid = Pid::from_raw(pid).expect("fork");
    move || {
        let start = Instant::now();
        loop {
            match waitpid(Some(pid), WaitOptions::NOHANG).expect("waitpid") {
                Some((_, status)) => return assert_eq!(status.exit_status(), Some(0), "the child failed"),
                None if start.elapsed() > DEADLINE => {
                    kill_process(pid, rustix::process::Signal::KILL).expect("kill");
                    panic!("the child did not end");
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

fn assert_pages(engine: &Engine, pool: PoolId, versions: impl Fn(u32) -> Option<u32>, count: u32) {
    for index in 0..count {
        let mut found = [0; PAGE_BYTES];
        match (engine.get(&handle(pool, index), Keep::KeepRemote, &mut found), versions(index)) {
            (Ok(Get::Hit), Some(version)) => assert!(found == page(index, version), "page {index} is not version {version}"),
            (Ok(Get::Miss), None) => {}
            (got, expected) => panic!("page {index}: {got:?}, expected {expected:?}"),
        }
    }
}

fn put_all(engine: &Engine, pool: PoolId, count: u32, version: u32) {
    for index in 0..count {
        assert_eq!(engine.put(&handle(pool, index), &page(index, version)), Put::Stored);
    }
}

#[test]
fn parent_and_child_both_have_all_pages_local_on_their_way_and_remote() {
    let _one = ONE_AT_A_TIME.lock();
    let holder = server(1, 256 << 20);
    let engine = engine(1 << 20, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for round in 0..5 {
        // No waiting: some pages are on their way at the fork.
        put_all(&engine, pool, 2000, round);
        let child = fork(&engine, || {
            // The child changes every third page, and nobody but itself sees it.
            for index in (0..2000).step_by(3) {
                assert_eq!(engine.put(&handle(pool, index), &page(index, 1000 + round)), Put::Stored);
            }
            assert_pages(&engine, pool, |index| Some(if index % 3 == 0 { 1000 + round } else { round }), 2000);
        });
        for index in (0..2000).step_by(5) {
            engine.flush_page(&handle(pool, index));
        }
        assert_pages(&engine, pool, |index| (index % 5 != 0).then_some(round), 2000);
        child();
    }
    assert!(engine.stats().get(Stat::PagesRemotified) > 1000);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

/// Each is a client of its own at every holder, and makes lost shards anew for itself.
#[test]
fn parent_and_child_both_have_all_coded_pages_and_both_outlive_a_holder() {
    const PAGES: u32 = 600;
    let _one = ONE_AT_A_TIME.lock();
    let mut holders: Vec<Server> = (1..=4).map(|node| server(node, 256 << 20)).collect();
    let listed = peers(&holders.iter().collect::<Vec<_>>());
    let options = Options { store_bytes: Some(64 << 10), peers: listed, durability: Durability::Ec(2, 1), ..Options::default() };
    let engine = Engine::start(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for round in 0..3 {
        put_all(&engine, pool, PAGES, round);
        let child = fork(&engine, || {
            for index in (0..PAGES).step_by(3) {
                assert_eq!(engine.put(&handle(pool, index), &page(index, 1000 + round)), Put::Stored);
            }
            // More than once: the death of a holder comes at any moment.
            for index in (0..PAGES).chain(0..PAGES) {
                let mut found = [0; PAGE_BYTES];
                assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit), "page {index}");
                assert!(found == page(index, if index % 3 == 0 { 1000 + round } else { round }), "page {index}");
            }
        });
        if round == 1 {
            drop(holders.remove(0));
        }
        assert_pages(&engine, pool, |_| Some(round), PAGES);
        child();
        put_all(&engine, pool, PAGES, round);
    }
    assert!(engine.stats().get(Stat::PagesRemotified) > 600);
    // While its child lives the dead one's listener does, so the parent may find it silent and no more.
    let stats = engine.stats();
    assert!(stats.get(Stat::GetsDecoded) + stats.get(Stat::GetsElsewhere) + stats.get(Stat::CopiesLost) > 0);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    engine.close();
    wait_until("nothing at the holders", || holders.iter().all(|holder| holder.stats().pages() == 0));
}

/// Over TLS, where the holder lets nobody but its family speak for a child, and the child goes on with the link that its parent opened.
#[test]
fn a_child_of_the_same_family_has_its_parents_pages_over_tls() {
    let _one = ONE_AT_A_TIME.lock();
    let cluster = pki::Cluster::new();
    let config = ServerConfig::new("127.0.0.1:0".parse().expect("address"), 1, 256 << 20);
    let holder = Server::start(ServerConfig { threads: 1, credentials: Some(cluster.node(1)), ..config }).expect("server");
    let mine = cluster.family(1, 0xabc);
    let family = Some(format!("{:016x}", 0xabc));
    let credentials = Some(CredentialsPem {
        roots: mine.roots_pem,
        chain: mine.chain_pem,
        key: mine.key_pem,
        client: None,
        family,
        node: None,
    });
    let options = Options { store_bytes: Some(1 << 20), peers: peers(&[&holder]), node: 1, credentials, ..Options::default() };
    let engine = Engine::start(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for round in 0..3 {
        put_all(&engine, pool, 2000, round);
        let child = fork(&engine, || {
            for index in (0..2000).step_by(3) {
                assert_eq!(engine.put(&handle(pool, index), &page(index, 1000 + round)), Put::Stored);
            }
            let versions = |index| Some(if index % 3 == 0 { 1000 + round } else { round });
            let grandchild = fork(&engine, || assert_pages(&engine, pool, versions, 2000));
            assert_pages(&engine, pool, versions, 2000);
            grandchild();
        });
        assert_pages(&engine, pool, |_| Some(round), 2000);
        child();
    }
    assert!(holder.stats().foreign.shares >= 3, "{:?}", holder.stats().foreign);
    assert_eq!((engine.stats().get(Stat::PagesLost), holder.stats().foreign.shares_refused), (0, 0));
}

#[test]
fn a_child_keeps_its_pages_when_its_parent_says_goodbye() {
    let _one = ONE_AT_A_TIME.lock();
    let holder = server(1, 256 << 20);
    let engine = engine(64 << 10, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 1000, 0);
    wait_at_limit(&engine);
    let child = fork(&engine, || {
        // Until the parent's account is gone.
        std::thread::sleep(Duration::from_millis(300));
        assert_pages(&engine, pool, |_| Some(0), 1000);
    });
    engine.close();
    child();
    wait_until("nothing at the peer", || holder.stats().pages() == 0);
}

#[test]
fn the_holder_sees_a_parent_end_although_its_child_lives_on() {
    let _one = ONE_AT_A_TIME.lock();
    let holder = server(1, 256 << 20);
    let engine = engine(64 << 10, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 1000, 0);
    wait_at_limit(&engine);
    // The child becomes a parent itself and ends abruptly; the grandchild has everything.
    let child = fork(&engine, || {
        let grandchild = fork(&engine, || {
            std::thread::sleep(Duration::from_millis(100));
            assert_pages(&engine, pool, |_| Some(0), 1000);
        });
        assert_pages(&engine, pool, |_| Some(0), 1000);
        grandchild();
    });
    child();
    wait_until("only the parent's pages at the peer", || holder.stats().clients.len() == 1);
    assert_pages(&engine, pool, |_| Some(0), 1000);
}

#[test]
fn spilled_pages_are_there_for_both_sides_of_many_forks() {
    let _one = ONE_AT_A_TIME.lock();
    let options = Options { store_bytes: Some(64 << 10), spill_dir: Some(std::env::temp_dir()), ..Options::default() };
    let engine = Engine::start(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for round in 0..8 {
        put_all(&engine, pool, 500, round);
        let child = fork(&engine, || {
            put_all(&engine, pool, 250, 1000 + round);
            wait_at_limit(&engine);
            assert_pages(&engine, pool, |index| Some(if index < 250 { 1000 + round } else { round }), 500);
        });
        put_all(&engine, pool, 100, 2000 + round);
        wait_at_limit(&engine);
        assert_pages(&engine, pool, |index| Some(if index < 100 { 2000 + round } else { round }), 500);
        child();
    }
    assert!(engine.stats().get(Stat::PagesSpilled) > 1000);
}

/// The run's is none: without the pool's own nothing of it would be written to the disk.
#[test]
fn a_childs_pools_keep_their_durability() {
    let _one = ONE_AT_A_TIME.lock();
    let holder = server(1, 256 << 20);
    let spill_dir = Some(std::env::temp_dir());
    let options = Options { store_bytes: Some(64 << 10), peers: peers(&[&holder]), spill_dir, ..Options::default() };
    let engine = Engine::start(&options).expect("engine");
    let own = engine.new_pool_of(engine.class_of(Durability::Disk).expect("a class")).expect("pool");
    let runs = engine.new_pool(PoolKind::Persistent).expect("pool");
    let spilled = || engine.stats().get(Stat::PagesSpilled);
    let child = fork(&engine, || {
        put_all(&engine, runs, 600, 0);
        wait_at_limit(&engine);
        assert_eq!(spilled(), 0);
        put_all(&engine, own, 600, 0);
        wait_at_limit(&engine);
        assert!(spilled() > 400);
        assert_pages(&engine, own, |_| Some(0), 600);
        assert_pages(&engine, runs, |_| Some(0), 600);
    });
    child();
}

#[test]
fn a_child_that_only_ends_costs_its_parent_nothing() {
    let _one = ONE_AT_A_TIME.lock();
    let engine: Arc<Engine> = engine(1 << 20, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 100, 0);
    for _ in 0..20 {
        fork(&engine, || {})();
    }
    assert_pages(&engine, pool, |_| Some(0), 100);
    assert_eq!(engine.stats().get(Stat::Processes), 1);
}
