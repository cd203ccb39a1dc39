//! Engines for pools: a hard limit, ephemeral pages that make room, getters that share a fetch; and the link to the node.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use common::{handle, page, peers, server, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Put, Refusal};
use ramster_core::handle::PoolKind;
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Directives, Engine, Options, Stat};

#[test]
fn a_put_into_a_full_store_is_refused_and_leaves_no_older_copy() {
    let engine = Engine::start_for_pools(&Options { local_bytes: 1 << 20, ..Options::default() }).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    let mut refused = Vec::new();
    for version in 0..2 {
        for index in 0..1000 {
            match engine.put(&handle(pool, index), &page(index, version)) {
                Put::Stored => refused.retain(|other| *other != index),
                Put::Rejected(why) => {
                    assert_eq!(why, Refusal::StoreFull);
                    refused.push(index);
                }
            }
        }
    }
    assert!(engine.store_bytes() <= 1 << 20 && refused.len() > 100);
    for index in 0..1000 {
        let mut found = [0; PAGE_BYTES];
        let got = engine.get(&handle(pool, index), Keep::Keep, &mut found);
        assert_eq!(got, Ok(if refused.contains(&index) { Get::Miss } else { Get::Hit }), "page {index}");
        assert!(got != Ok(Get::Hit) || found == page(index, 1) || found == page(index, 0));
    }
}

#[test]
fn ephemeral_pages_make_room_for_newer_ones() {
    let engine = Engine::start_for_pools(&Options { local_bytes: 1 << 20, ..Options::default() }).expect("engine");
    let pool = engine.new_pool(PoolKind::Ephemeral).expect("pool");
    for index in 0..3000 {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored, "page {index}");
    }
    assert!(engine.store_bytes() <= 1 << 20 && engine.stats().get(Stat::PagesEvicted) > 1000);
    let mut found = [0; PAGE_BYTES];
    assert_eq!(engine.get(&handle(pool, 2999), Keep::Keep, &mut found), Ok(Get::Hit));
    assert_eq!(engine.get(&handle(pool, 2999), Keep::Keep, &mut found), Ok(Get::Miss), "ephemeral gets are exclusive");
    assert_eq!(engine.get(&handle(pool, 0), Keep::Keep, &mut found), Ok(Get::Miss));
}

#[test]
fn puts_into_a_full_store_wait_for_room_at_a_peer() {
    let holder = server(1, 64 << 20);
    let options = Options {
        local_bytes: 1 << 20,
        peers: peers(&[&holder]),
        get_deadline_ms: common::GET_DEADLINE_MS,
        ..Options::default()
    };
    let engine = Engine::start_for_pools(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for index in 0..3000 {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored, "page {index}");
        assert!(engine.store_bytes() <= 1 << 20);
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for index in 0..3000 {
                    let mut found = [0; PAGE_BYTES];
                    assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
                    assert!(found == page(index, 0));
                }
            });
        }
    });
    assert!(engine.stats().get(Stat::GetsJoined) > 0, "four threads in step share fetches");
}

#[test]
fn the_node_hears_of_a_client_and_its_directives_are_obeyed() {
    let socket = std::env::temp_dir().join(format!("ramster-node-{}", std::process::id()));
    let listener = UnixListener::bind(&socket).expect("bind");
    let options = Options { node_socket: Some(socket.clone()), program: "test".to_owned(), ..Options::default() };
    let engine = Engine::start(&options).expect("engine");
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(common::DEADLINE)).expect("timeout");
    let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().expect("a line").expect("in time")).expect("JSON") };
    let hello = next();
    assert_eq!((&hello["type"], &hello["program"]), (&"register".into(), &"test".into()));
    assert_eq!(hello["pid"], std::process::id());
    let stats = next();
    assert_eq!(stats["type"], "stats");
    assert!(ramster_engine::STAT_FIELDS.iter().all(|field| stats[*field].is_u64()));
    let view = r#"{"type":"later"}
{"type":"view","peers":[{"node":7,"address":"127.0.0.1:1"}],"directives":{"resident_bytes":12345,"store_bytes":67890}}
"#;
    (&stream).write_all(view.as_bytes()).expect("write");
    wait_until("directives obeyed", || engine.resident_limit_bytes() == Some(12345));
    let snapshot = engine.snapshot();
    assert_eq!((snapshot.store_limit_bytes, snapshot.holders[0].node), (67890, 7));
    // The node goes, comes back, and hears of the client again; in between the directives stay.
    drop((stream, lines));
    assert_eq!(engine.resident_limit_bytes(), Some(12345));
    let (stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(common::DEADLINE)).expect("timeout");
    assert!(BufReader::new(stream).lines().next().expect("a line").expect("in time").contains("register"));
    engine.close();
    std::fs::remove_file(&socket).expect("remove");
}

/// Persistent and ephemeral pages apart: what may not go to peers stays, or makes room, and what may goes.
#[test]
fn an_operator_says_which_kind_of_pages_may_go_to_peers() {
    for (persistent, ephemeral) in [(true, false), (false, true), (false, false)] {
        let holder = server(1, 64 << 20);
        let options = Options { local_bytes: 1 << 20, peers: peers(&[&holder]), ..Options::default() };
        let engine = Engine::start_for_pools(&options).expect("engine");
        let directives =
            Directives { remotify_persistent: Some(persistent), remotify_ephemeral: Some(ephemeral), ..Directives::default() };
        engine.set_directives(&directives).expect("directives");
        let (kept, cached) =
            (engine.new_pool(PoolKind::Persistent).expect("pool"), engine.new_pool(PoolKind::Ephemeral).expect("pool"));
        for (pool, may) in [(kept, persistent), (cached, ephemeral)] {
            let before = engine.stats().get(Stat::PagesRemotified);
            let put_all = || {
                for index in 0..600 {
                    engine.put(&handle(pool, index), &page(index, 0));
                }
            };
            let left = || engine.stats().get(Stat::PagesRemotified) - before;
            put_all();
            if may {
                // The remotifier found nothing that may leave a moment ago, and looks again within a second.
                wait_until("pages that may leave have left", || {
                    put_all();
                    left() > 100
                });
            }
            assert!(may || left() == 0, "{persistent} {ephemeral}: {} pages of {pool:?} left", left());
            engine.destroy_pool(pool);
        }
        let timed: u64 =
            engine.stats().histograms().filter(|(name, _)| *name == "put").flat_map(|(_, words)| words).take(24).sum();
        assert!(timed > 0 && timed < engine.stats().get(Stat::Puts) / 20, "{timed} puts were timed");
    }
}

/// The disk takes what may not go to a peer, while pages of the other kind go there.
#[test]
fn persistent_pages_that_may_not_go_to_peers_go_to_the_spill_file() {
    let holder = server(1, 64 << 20);
    let dir = std::env::temp_dir().join(format!("ramster-kinds-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("directory");
    let options = Options { local_bytes: 1 << 20, peers: peers(&[&holder]), spill_dir: Some(dir.clone()), ..Options::default() };
    let engine = Engine::start_for_pools(&options).expect("engine");
    engine.set_directives(&Directives { remotify_persistent: Some(false), ..Directives::default() }).expect("directives");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for index in 0..1000 {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 0)), Put::Stored, "page {index}");
    }
    assert_eq!(engine.stats().get(Stat::PagesRemotified), 0);
    assert!(engine.stats().get(Stat::PagesSpilled) > 500);
    let mut found = [0; PAGE_BYTES];
    for index in 0..1000 {
        assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, 0));
    }
    drop(engine);
    std::fs::remove_dir_all(&dir).expect("remove");
}
