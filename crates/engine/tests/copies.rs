//! Several copies of a page: on different nodes or on disk, none of them missed while another is left, and made anew after a death.

mod common;

use std::sync::atomic::Ordering;

use common::pages::*;
use common::{Proxy, Random, server, wait_at_limit, wait_until};
use ramster_core::backend::Backend;
use ramster_core::handle::PoolKind;
use ramster_engine::{Durability, Engine, Options, PeerAddr, Stat};
use ramster_peer::server::Server;

#[test]
fn with_two_copies_the_death_of_either_holder_loses_nothing() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES)];
    let engine = engine(Durability::Copies(2), peers(&[&servers[0], &servers[1]]));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    assert!(remote(&engine) > 500);
    wait_until("every page at both", || [held(&servers[0]), held(&servers[1])] == [remote(&engine); 2]);
    let [dying, living] = servers;
    drop(dying);
    assert_all(&engine, pool, 0);
    assert_eq!((engine.stats().get(Stat::PagesLost), held(&living) > 0), (0, true));
    assert!(engine.stats().get(Stat::CopiesLost) > 500);
}

#[test]
fn lost_copies_are_made_anew_on_another_node_and_then_the_next_death_loses_nothing_either() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES), server(3, OFFER_BYTES)];
    let engine = engine(Durability::Copies(2), peers(&[&servers[0], &servers[1], &servers[2]]));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let [first, second, third] = servers;
    for dying in [first, second] {
        let before = engine.stats().get(Stat::CopiesLost);
        let had = held(&dying);
        assert!(had > 0);
        drop(dying);
        wait_until("its death noticed", || engine.stats().get(Stat::CopiesLost) >= before + had);
        if before == 0 {
            wait_until("copies made anew", || engine.stats().get(Stat::CopiesRebuilt) == engine.stats().get(Stat::CopiesLost));
        }
    }
    wait_until("all at the one that is left", || held(&third) == remote(&engine));
    assert_all(&engine, pool, 0);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

#[test]
fn two_copies_are_never_on_one_node_and_without_a_second_node_pages_stay_at_home() {
    // Two ways to one node.
    let one = server(7, OFFER_BYTES);
    let proxy = Proxy::start(one.address());
    let engine = engine(Durability::Copies(2), vec![peer(1, one.address()), peer(2, proxy.address)]);
    let pool = fill(&engine, 0);
    wait_until("the remotifier stuck", || engine.has_nowhere());
    assert_eq!((held(&one), remote(&engine)), (0, 0));
    assert_all(&engine, pool, 0);
    // Another node comes: now they can leave.
    let other = server(8, OFFER_BYTES);
    let peers = vec![peer(1, one.address()), peer(2, proxy.address), peer(3, other.address())];
    engine.set_directives(&ramster_engine::Directives { peers: Some(peers), ..Default::default() }).expect("directives");
    wait_at_limit(&engine);
    assert!(remote(&engine) > 500);
    wait_until("every page at both", || [held(&one), held(&other)] == [remote(&engine); 2]);
    assert_all(&engine, pool, 0);
}

#[test]
fn automatic_durability_makes_two_copies_where_two_peers_are_listed() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES), server(3, OFFER_BYTES)];
    let engine = engine(Durability::Auto, peers(&[&servers[0], &servers[1], &servers[2]]));
    fill(&engine, 0);
    wait_at_limit(&engine);
    assert_eq!(servers.iter().map(held).sum::<u64>(), 2 * remote(&engine));
    assert!(servers.iter().all(|server| held(server) > 0));
}

/// Stopped, not dead: nobody says so, and its pages come from elsewhere all the same.
#[test]
fn a_page_whose_first_holder_does_not_answer_comes_from_the_other() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES)];
    let proxies = [Proxy::start(servers[0].address()), Proxy::start(servers[1].address())];
    let engine = engine(Durability::Copies(2), vec![peer(1, proxies[0].address), peer(2, proxies[1].address)]);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    for proxy in &proxies {
        proxy.stalled.store(true, Ordering::SeqCst);
        assert_all(&engine, pool, 0);
        proxy.stalled.store(false, Ordering::SeqCst);
    }
    assert!(engine.stats().get(Stat::GetsElsewhere) > 0);
    let stats = engine.stats();
    assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::GetsDeadline)), (0, 0));
}

#[test]
fn with_a_copy_on_disk_pages_come_from_the_peer_while_it_lives_and_from_the_disk_after_that() {
    let dir = std::env::temp_dir();
    let holder = server(1, OFFER_BYTES);
    let engine = start(Options { durability: Durability::Disk, peers: peers(&[&holder]), spill_dir: Some(dir), ..options() });
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let away = remote(&engine);
    assert!(away > 500);
    assert_eq!((held(&holder), engine.stats().get(Stat::PagesSpilled)), (away, away));
    assert_all(&engine, pool, 0);
    // A busy machine may keep the peer from answering in time now and then, and then the disk is asked.
    assert!(engine.stats().get(Stat::PagesLocalified) > 0);
    drop(holder);
    assert_all(&engine, pool, 0);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    assert!(engine.stats().get(Stat::PagesUnspilled) > 500);
    // And new pages, with no peer left.
    put_all(&engine, pool, 1);
    wait_at_limit(&engine);
    assert_all(&engine, pool, 1);
}

#[test]
fn a_disk_stands_in_for_the_copies_that_no_peer_takes() {
    let holder = server(1, OFFER_BYTES);
    let spill_dir = Some(std::env::temp_dir());
    let engine = start(Options { durability: Durability::Copies(2), peers: peers(&[&holder]), spill_dir, ..options() });
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    assert_eq!((held(&holder), engine.stats().get(Stat::PagesSpilled)), (remote(&engine), remote(&engine)));
    drop(holder);
    assert_all(&engine, pool, 0);
}

#[test]
fn durability_that_cannot_be_is_named_at_the_start() {
    for (durability, word) in
        [(Durability::Copies(4), "copies=4"), (Durability::Copies(0), "copies=0"), (Durability::Disk, "disk")]
    {
        let error = Engine::start(&Options { durability, ..options() }).err().expect("an error").to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// Deaths and returns, one at a time and each seen to before the next, under puts, gets and flushes: nothing is lost, ever.
#[test]
fn any_single_death_at_a_time_loses_nothing_whatever_happens_meanwhile() {
    let mut random = Random::new("single deaths");
    let mut servers: Vec<Option<Server>> = (1..=4).map(|node| Some(server(node, OFFER_BYTES))).collect();
    let listed = |servers: &[Option<Server>]| -> Vec<PeerAddr> {
        let up = servers.iter().flatten();
        up.enumerate().map(|(index, server)| peer(index as u64 + 1, server.address())).collect()
    };
    let engine = engine(Durability::Copies(2), listed(&servers));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    let mut versions = vec![None; COUNT as usize];
    for _ in 0..6 {
        for _ in 0..3000 {
            one_step(&engine, pool, &mut versions, &mut random);
        }
        let dying = random.below(4) as usize;
        servers[dying] = None;
        for _ in 0..1500 {
            one_step(&engine, pool, &mut versions, &mut random);
        }
        servers[dying] = Some(server(dying as u64 + 1, OFFER_BYTES));
        engine
            .set_directives(&ramster_engine::Directives { peers: Some(listed(&servers)), ..Default::default() })
            .expect("directives");
        // Its death is noticed by whoever asks it first; all pages are asked for here.
        check_all(&engine, pool, &versions);
        wait_until("every page with two copies again", || {
            let copies: u64 = servers.iter().flatten().map(held).sum();
            copies == 2 * remote(&engine) && engine.snapshot().flushes_waiting == 0
        });
    }
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    assert!(engine.stats().get(Stat::CopiesRebuilt) > 100);
}

/// Also the way in which a node goes: it offers nothing any more, and waits until it holds nothing.
#[test]
fn what_a_holder_recalls_goes_to_another_and_nothing_is_lost() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES)];
    let engine = engine(Durability::None, peers(&[&servers[0], &servers[1]]));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    assert!(servers.iter().all(|server| held(server) > 100));
    servers[0].set_offer(0);
    wait_until("the first holder empty", || held(&servers[0]) == 0);
    wait_at_limit(&engine);
    assert_eq!(held(&servers[1]), remote(&engine));
    assert_all(&engine, pool, 0);
    assert_eq!((engine.stats().get(Stat::PagesLost), engine.stats().get(Stat::PutsRefused)), (0, 0));
}

#[test]
fn what_a_holder_recalls_comes_home_when_nobody_else_takes_it() {
    let holder = server(1, OFFER_BYTES);
    let engine = engine(Durability::None, peers(&[&holder]));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    holder.set_offer(0);
    wait_until("the holder empty", || held(&holder) == 0);
    assert_eq!(remote(&engine), 0);
    drop(holder);
    assert_all(&engine, pool, 0);
}

#[test]
fn a_holder_that_recalls_a_part_keeps_the_rest() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES)];
    let engine = engine(Durability::Copies(2), peers(&[&servers[0], &servers[1]]));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let used = servers[0].stats().used_bytes;
    servers[0].set_offer(used / 2);
    wait_until("half of it", || servers[0].stats().used_bytes <= used / 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(servers[0].stats().used_bytes > used / 4, "it recalled half, not all");
    assert_all(&engine, pool, 0);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

#[test]
fn what_is_on_disk_too_goes_from_a_recalling_holder_without_coming_home() {
    let holder = server(1, OFFER_BYTES);
    let spill_dir = Some(std::env::temp_dir());
    let engine = start(Options { durability: Durability::Disk, peers: peers(&[&holder]), spill_dir, ..options() });
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let away = remote(&engine);
    holder.set_offer(0);
    wait_until("the holder empty", || held(&holder) == 0);
    assert_eq!(remote(&engine), away);
    assert_all(&engine, pool, 0);
}

#[test]
fn two_holders_that_recall_everything_one_after_the_other_lose_nothing() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES), server(3, OFFER_BYTES)];
    let engine = engine(Durability::Copies(2), peers(&[&servers[0], &servers[1], &servers[2]]));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    servers[0].set_offer(0);
    wait_until("the first empty", || held(&servers[0]) == 0);
    wait_at_limit(&engine);
    assert_eq!([held(&servers[1]), held(&servers[2])], [remote(&engine); 2], "two copies again");
    servers[1].set_offer(0);
    wait_until("the second empty", || held(&servers[1]) == 0);
    assert_all(&engine, pool, 0);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

/// Suspended, or cut off: it may come back, so what only it has waits; what others have too gets a new copy and is forgotten there when it returns.
#[test]
fn what_others_have_too_does_without_a_silent_node_and_the_rest_waits_for_it() {
    let servers = [server(1, OFFER_BYTES), server(2, OFFER_BYTES), server(3, OFFER_BYTES)];
    let proxy = Proxy::start(servers[0].address());
    let listed = vec![peer(1, proxy.address), peer(2, servers[1].address()), peer(3, servers[2].address())];
    let engine = engine(Durability::Copies(2), listed);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let had = held(&servers[0]);
    assert!(had > 100);
    proxy.stalled.store(true, Ordering::SeqCst);
    let silent = |nodes: &[u64]| ramster_engine::Directives { silent: Some(nodes.to_vec()), ..Default::default() };
    engine.set_directives(&silent(&[1])).expect("directives");
    wait_until("new copies", || [held(&servers[1]), held(&servers[2])] == [remote(&engine); 2]);
    assert_all(&engine, pool, 0);
    assert_eq!(held(&servers[0]), had, "it has heard nothing");
    proxy.stalled.store(false, Ordering::SeqCst);
    engine.set_directives(&silent(&[])).expect("directives");
    wait_until("the old copies forgotten", || held(&servers[0]) == 0);
    assert_all(&engine, pool, 0);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    drop(engine);

    // One copy only: it is still there when the node is heard again.
    let lone = start(Options { durability: Durability::None, peers: vec![peer(1, proxy.address)], ..options() });
    let pool = fill(&lone, 1);
    wait_at_limit(&lone);
    lone.set_directives(&silent(&[1])).expect("directives");
    assert_all(&lone, pool, 1);
    assert_eq!(lone.stats().get(Stat::PagesLost), 0);
}
