//! Coded pages: a shard on each of several nodes, none of them missed while enough are left, found out when they lie, and made anew after a death.

mod common;

use std::sync::atomic::Ordering;

use common::pages::*;
use common::relay::{Mood, Relay};
use common::{Proxy, Random, handle, page, server, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Keep, Loss};
use ramster_core::handle::PoolKind;
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Directives, Durability, Engine, Options, PeerAddr, Stat};
use ramster_peer::server::Server;

const TWO_AND_ONE: Durability = Durability::Ec(2, 1);

fn servers(count: u64) -> Vec<Server> {
    (1..=count).map(|node| server(node, OFFER_BYTES)).collect()
}

fn listed(servers: &[Server]) -> Vec<PeerAddr> {
    peers(&servers.iter().collect::<Vec<_>>())
}

fn directives(peers: Vec<PeerAddr>) -> Directives {
    Directives { peers: Some(peers), ..Directives::default() }
}

fn held_by(servers: &[Server]) -> Vec<u64> {
    servers.iter().map(held).collect()
}

/// For pages that nobody puts or flushes meanwhile.
fn wait_until_rebuilt(engine: &Engine, servers: &[Server], shards: u64) {
    let get = |stat| engine.stats().get(stat);
    let is_whole = || {
        // Some came home instead, since they were asked for.
        let rebuilt = get(Stat::CopiesRebuilt) + get(Stat::PagesRepatriated) >= get(Stat::CopiesLost);
        let quiet = get(Stat::Rebuilding) + engine.snapshot().flushes_waiting == 0;
        rebuilt && quiet && held_by(servers).iter().sum::<u64>() == shards * remote(engine)
    };
    wait_until("all shards of each page again", || {
        let still = || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            is_whole()
        };
        is_whole() && still() && still()
    });
}

/// None of this has happened.
fn assert_nothing_lost(engine: &Engine) {
    let stats = engine.stats();
    assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::GetsDeadline)), (0, 0));
}

#[test]
fn each_node_has_one_shard_of_every_page_and_all_together_half_as_much_again_as_the_pages() {
    let servers = servers(3);
    let engine = engine(TWO_AND_ONE, listed(&servers));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let away = remote(&engine);
    assert!(away > 500);
    assert_eq!(held_by(&servers), [away; 3]);
    let bytes: u64 = servers.iter().flat_map(|server| server.stats().clients).map(|client| client.bytes).sum();
    let packed = engine.snapshot().remote_bytes;
    assert!(bytes >= packed * 3 / 2 && bytes < packed * 3 / 2 + 3 * away, "{bytes} bytes for {packed}");
    assert_all(&engine, pool, 0);
    assert_eq!(engine.stats().get(Stat::ShardsForged), 0);
    assert_nothing_lost(&engine);
}

/// For every code: as many deaths as there are parity shards cost nothing, whichever they are; one more, and all is lost and says so.
#[test]
fn a_page_outlives_the_death_of_as_many_holders_as_it_has_parity_shards_and_not_one_more() {
    let mut random = Random::new("deaths");
    for (data, parity) in [(2, 1), (3, 1), (2, 2), (4, 2)] {
        let mut living = servers(u64::from(data + parity));
        let engine = engine(Durability::Ec(data, parity), listed(&living));
        let pool = fill(&engine, 0);
        wait_at_limit(&engine);
        let away = remote(&engine);
        assert_eq!(held_by(&living), vec![away; usize::from(data + parity)]);
        for _ in 0..parity {
            drop(living.swap_remove(random.below(living.len() as u32) as usize));
            assert_all(&engine, pool, 0);
        }
        assert_nothing_lost(&engine);
        let away = remote(&engine);
        assert!(away > 300 && engine.stats().get(Stat::GetsDecoded) > 0, "{away}");
        drop(living.pop());
        let mut losses = 0;
        for index in 0..COUNT {
            match get(&engine, pool, index, 0) {
                Ok(()) => {}
                Err(why) => {
                    assert_eq!(why, Loss::HolderDied);
                    losses += 1;
                }
            }
        }
        assert_eq!((losses, engine.stats().get(Stat::PagesLost), remote(&engine)), (away, away, 0));
        wait_until("what is left of them flushed", || living.iter().all(|server| held(server) == 0));
    }
}

#[test]
fn shards_are_never_two_on_one_node_and_without_enough_nodes_pages_stay_at_home() {
    let some = servers(2);
    // Another way to the first.
    let proxy = Proxy::start(some[0].address());
    let mut peers = listed(&some);
    peers.push(peer(9, proxy.address));
    let engine = engine(TWO_AND_ONE, peers.clone());
    let pool = fill(&engine, 0);
    wait_until("the remotifier stuck", || engine.has_nowhere());
    assert_eq!((held_by(&some), remote(&engine)), (vec![0, 0], 0));
    assert_all(&engine, pool, 0);
    let third = server(3, OFFER_BYTES);
    peers.push(peer(3, third.address()));
    engine.set_directives(&directives(peers)).expect("directives");
    wait_at_limit(&engine);
    let away = remote(&engine);
    assert!(away > 500);
    wait_until("a shard each", || [held(&some[0]), held(&some[1]), held(&third)] == [away; 3]);
    assert_all(&engine, pool, 0);
}

#[test]
fn whole_pages_go_to_the_disk_where_shards_have_too_few_nodes() {
    let some = servers(2);
    let spill_dir = Some(std::env::temp_dir());
    let engine = start(Options { durability: TWO_AND_ONE, peers: listed(&some), spill_dir, ..options() });
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    assert_eq!((held_by(&some), engine.stats().get(Stat::PagesSpilled)), (vec![0, 0], remote(&engine)));
    drop(some);
    assert_all(&engine, pool, 0);
}

#[test]
fn lost_shards_are_made_anew_on_another_node_and_then_the_next_death_loses_nothing_either() {
    let mut living = servers(5);
    let engine = engine(TWO_AND_ONE, listed(&living));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    for _ in 0..2 {
        let before = engine.stats().get(Stat::CopiesLost);
        let dying = living.remove(0);
        let had = held(&dying);
        assert!(had > 100);
        drop(dying);
        assert_all(&engine, pool, 0);
        wait_until("its death noticed", || engine.stats().get(Stat::CopiesLost) >= before + had / 2);
        wait_until_rebuilt(&engine, &living, 3);
    }
    assert!(engine.stats().get(Stat::CopiesRebuilt) > 200);
    assert_all(&engine, pool, 0);
    assert_nothing_lost(&engine);
}

/// Stopped, not dead: nobody says so, and its pages come from the others all the same.
#[test]
fn a_page_one_of_whose_holders_does_not_answer_comes_from_the_others() {
    let three = servers(3);
    let proxies: Vec<_> = three.iter().map(|server| Proxy::start(server.address())).collect();
    let listed = proxies.iter().zip(1..).map(|(proxy, node)| peer(node, proxy.address)).collect();
    let engine = engine(TWO_AND_ONE, listed);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    for proxy in &proxies {
        proxy.stalled.store(true, Ordering::SeqCst);
        assert_all(&engine, pool, 0);
        proxy.stalled.store(false, Ordering::SeqCst);
    }
    assert!(engine.stats().get(Stat::GetsElsewhere) > 0 && engine.stats().get(Stat::GetsDecoded) > 0);
    assert_eq!(engine.stats().get(Stat::CopiesLost), 0, "slow is not dead");
    assert_nothing_lost(&engine);
}

#[test]
fn with_too_few_answers_a_get_ends_at_its_deadline_and_the_page_is_there_later() {
    let three = servers(3);
    let proxies: Vec<_> = three.iter().map(|server| Proxy::start(server.address())).collect();
    let peers = proxies.iter().zip(1..).map(|(proxy, node)| peer(node, proxy.address)).collect();
    let engine = start(Options { durability: TWO_AND_ONE, peers, get_deadline_ms: 1500, ..options() });
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    // Links are open, and a page is away.
    assert_all(&engine, pool, 0);
    let stall = |stalled| proxies[..2].iter().for_each(|proxy| proxy.stalled.store(stalled, Ordering::SeqCst));
    stall(true);
    let late = (0..COUNT).find(|index| get(&engine, pool, *index, 0) == Err(Loss::Deadline)).expect("a page that is away");
    stall(false);
    wait_until("the page again", || get(&engine, pool, late, 0) == Ok(()));
    assert_eq!((engine.stats().get(Stat::PagesLost), engine.stats().get(Stat::GetsDeadline) > 0), (0, true));
}

/// One holder of three lies about every shard that it is asked for, and is believed never.
#[test]
fn a_holder_that_gives_other_bytes_is_found_out_and_the_page_comes_from_the_others() {
    let three = servers(3);
    let relays: Vec<_> = three.iter().map(|server| Relay::start(server.address())).collect();
    let listed = relays.iter().zip(1..).map(|(relay, node)| peer(node, relay.address)).collect();
    let engine = engine(TWO_AND_ONE, listed);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    relays[0].set(Mood::Changes);
    assert_all(&engine, pool, 0);
    let (lied, found_out) = (u64::from(relays[0].meddled()), engine.stats().get(Stat::ShardsForged));
    assert!(found_out > 100 && found_out <= lied, "{found_out} of {lied}");
    // Some of those pages were home before it was known who had lied.
    let given_up = engine.stats().get(Stat::CopiesLost);
    assert!(given_up > 100 && given_up <= found_out, "{given_up} of {found_out}");
    relays[0].set(Mood::Honest);
    wait_until("and flushed", || held(&three[0]) == remote(&engine) || engine.stats().get(Stat::CopiesRebuilt) > 0);
    assert_all(&engine, pool, 0);
    assert_nothing_lost(&engine);
}

#[test]
fn of_six_shards_two_may_be_lies() {
    let six = servers(6);
    let relays: Vec<_> = six.iter().map(|server| Relay::start(server.address())).collect();
    let listed = relays.iter().zip(1..).map(|(relay, node)| peer(node, relay.address)).collect();
    let engine = engine(Durability::Ec(4, 2), listed);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let mut found = [0; PAGE_BYTES];
    for (index, liars) in [(0, [0, 1]), (1, [2, 5]), (2, [4, 3])] {
        liars.iter().for_each(|liar| relays[*liar].set(Mood::Changes));
        // Not kept at home, so that nothing else is asked meanwhile.
        engine.get(&handle(pool, index), Keep::KeepRemote, &mut found).expect("the page");
        assert!(found == page(index, 0));
        liars.iter().for_each(|liar| relays[*liar].set(Mood::Honest));
        wait_until_rebuilt(&engine, &six, 6);
    }
    assert!(engine.stats().get(Stat::ShardsForged) > 0);
    // Three are too many.
    (0..3).for_each(|liar| relays[liar].set(Mood::Changes));
    assert_eq!(get(&engine, pool, 3, 0), Err(Loss::Corrupt));
    (0..3).for_each(|liar| relays[liar].set(Mood::Honest));
    assert_eq!((get(&engine, pool, 3, 0), get(&engine, pool, 4, 0)), (Err(Loss::Corrupt), Ok(())), "it stays lost, and no other");
    assert_eq!(engine.stats().get(Stat::PagesLost), 1);
}

/// What is made anew from a lie would be one lie more.
#[test]
fn a_lie_is_not_passed_on_when_a_shard_is_made_anew() {
    let mut five = servers(5);
    let relays: Vec<_> = five.iter().map(|server| Relay::start(server.address())).collect();
    let listed = relays.iter().zip(1..).map(|(relay, node)| peer(node, relay.address)).collect();
    let engine = engine(Durability::Ec(2, 2), listed);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    relays[1].set(Mood::Changes);
    // The first dies: noticed by whoever asks, and every missing shard is made of those of the others, the liar among them.
    drop(five.remove(0));
    assert_eq!(get(&engine, pool, 0, 0), Ok(()));
    wait_until("shards made anew", || {
        engine.stats().get(Stat::CopiesRebuilt) > 100 && engine.stats().get(Stat::ShardsForged) > 0
    });
    relays[1].set(Mood::Honest);
    wait_until_rebuilt(&engine, &five, 4);
    // Any two of those that are there now are the page.
    drop(five.remove(0));
    drop(five.remove(1));
    assert_all(&engine, pool, 0);
    assert_nothing_lost(&engine);
}

#[test]
fn what_a_holder_recalls_comes_home_whole_and_goes_to_others() {
    let four = servers(4);
    let engine = engine(TWO_AND_ONE, listed(&four));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    assert!(held(&four[0]) > 100);
    four[0].set_offer(0);
    wait_until("the first holder empty", || held(&four[0]) == 0);
    wait_at_limit(&engine);
    wait_until("all at the others", || held_by(&four) == [0, remote(&engine), remote(&engine), remote(&engine)]);
    assert_all(&engine, pool, 0);
    // Now they are too few.
    four[1].set_offer(0);
    wait_until("nothing away", || held_by(&four) == [0; 4]);
    assert_all(&engine, pool, 0);
    assert_eq!((engine.stats().get(Stat::CopiesLost), engine.stats().get(Stat::PutsRefused)), (0, 0));
    assert_nothing_lost(&engine);
}

#[test]
fn pages_do_without_a_silent_node_as_long_as_the_others_suffice() {
    let four = servers(4);
    let proxy = Proxy::start(four[0].address());
    let mut peers = listed(&four);
    peers[0] = peer(1, proxy.address);
    let engine = engine(TWO_AND_ONE, peers);
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let had = held(&four[0]);
    assert!(had > 100);
    proxy.stalled.store(true, Ordering::SeqCst);
    let silent = |nodes: &[u64]| Directives { silent: Some(nodes.to_vec()), ..Directives::default() };
    engine.set_directives(&silent(&[1])).expect("directives");
    wait_until("new shards", || held_by(&four[1..]) == [remote(&engine); 3]);
    assert_all(&engine, pool, 0);
    assert_eq!(held(&four[0]), had, "it has heard nothing");
    proxy.stalled.store(false, Ordering::SeqCst);
    engine.set_directives(&silent(&[])).expect("directives");
    wait_until("the old ones forgotten", || held(&four[0]) == 0);
    assert_all(&engine, pool, 0);
    assert_nothing_lost(&engine);
}

/// Its answer came when the shards had been made of the others', and nobody took it. The link counted as busy from then on, for ever: what was over the limit
/// waited for it.
#[test]
fn a_holder_whose_shards_came_too_late_to_be_of_use_is_not_waited_for_ever_after() {
    let mut four = servers(4);
    let proxy = Proxy::start(four[2].address());
    let mut peers = listed(&four);
    peers[2] = peer(3, proxy.address);
    let engine = engine(Durability::Ec(2, 2), peers.clone());
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    let away = remote(&engine);
    assert!(away > 500 && held_by(&four) == [away; 4]);
    // The fourth dies; of the three that are left two suffice, and the third says nothing until all shards are made anew at the fifth, the only one to take them.
    let fifth = server(5, OFFER_BYTES);
    peers[3] = peer(5, fifth.address());
    proxy.stalled.store(true, Ordering::SeqCst);
    drop(four.pop());
    engine.set_directives(&directives(peers)).expect("directives");
    let get = |stat| engine.stats().get(stat);
    wait_until("new shards at the fifth", || {
        held(&fifth) == away && get(Stat::CopiesRebuilt) == away && get(Stat::Rebuilding) == 0
    });
    proxy.stalled.store(false, Ordering::SeqCst);
    // All pages leave, and what remains is an empty slab kept in reserve: it goes when no answer is outstanding.
    engine.set_directives(&Directives { store_bytes: Some(4096), ..Directives::default() }).expect("directives");
    wait_until("all away and the reserve given back", || {
        remote(&engine) == u64::from(COUNT) && engine.snapshot().store_bytes == 0
    });
    engine.set_directives(&Directives { store_bytes: Some(256 << 10), ..Directives::default() }).expect("directives");
    assert_all(&engine, pool, 0);
    assert_nothing_lost(&engine);
}

#[test]
fn durability_changes_at_run_time_and_pages_of_all_kinds_come_back() {
    let four = servers(4);
    let engine = engine(Durability::Copies(2), listed(&four));
    let pool = fill(&engine, 0);
    wait_at_limit(&engine);
    for (durability, version) in [(TWO_AND_ONE, 1), (Durability::Ec(3, 1), 2), (Durability::None, 3), (TWO_AND_ONE, 4)] {
        engine.set_directives(&Directives { durability: Some(durability), ..Directives::default() }).expect("directives");
        // Every second page: the others stay as they are.
        for index in (version % 2..COUNT).step_by(2) {
            engine.put(&handle(pool, index), &page(index, version));
        }
        wait_at_limit(&engine);
        for index in 0..COUNT {
            let newest = if index % 2 == version % 2 { version } else { version - 1 };
            assert_eq!(get(&engine, pool, index, newest), Ok(()), "page {index}, {durability:?}");
        }
    }
    assert_nothing_lost(&engine);
}

#[test]
fn goodbye_leaves_nothing_at_any_holder() {
    let four = servers(4);
    let engine = engine(Durability::Ec(2, 2), listed(&four));
    fill(&engine, 0);
    wait_at_limit(&engine);
    assert!(held_by(&four).iter().all(|held| *held > 100));
    engine.close();
    wait_until("all gone", || four.iter().all(|server| server.stats().clients.is_empty() && server.stats().used_bytes == 0));
}

#[test]
fn a_code_that_cannot_be_is_named_at_the_start() {
    for (data, parity) in [(1, 1), (2, 0), (0, 3), (5, 2), (6, 1)] {
        let error = Engine::start(&Options { durability: Durability::Ec(data, parity), ..options() }).err().expect("an error");
        let error = error.to_string();
        assert!(error.contains(&format!("ec={data}+{parity}")) && error.contains("ec=2+1"), "{error}");
    }
}

/// Deaths and returns, as many at a time as there are parity shards and each time seen to before the next, under puts, gets and flushes: nothing is lost,
/// ever, and nothing is left behind.
#[test]
fn any_single_death_at_a_time_loses_nothing_whatever_happens_meanwhile() {
    live_through_deaths(TWO_AND_ONE, 1, 3);
}

#[test]
fn any_two_deaths_at_a_time_lose_nothing_with_two_parity_shards() {
    live_through_deaths(Durability::Ec(2, 2), 2, 4);
}

fn live_through_deaths(durability: Durability, deaths: u32, shards: u64) {
    let mut random = Random::new("deaths under way");
    let mut servers: Vec<Option<Server>> = (1..=6).map(|node| Some(server(node, OFFER_BYTES))).collect();
    let listed = |servers: &[Option<Server>]| -> Vec<PeerAddr> {
        let up = servers.iter().flatten();
        up.enumerate().map(|(index, server)| peer(index as u64 + 1, server.address())).collect()
    };
    let engine = engine(durability, listed(&servers));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    let mut versions = vec![None; COUNT as usize];
    for _ in 0..6 {
        for _ in 0..3000 {
            one_step(&engine, pool, &mut versions, &mut random);
        }
        for _ in 0..deaths {
            servers[random.below(6) as usize] = None;
            for _ in 0..random.below(1000) {
                one_step(&engine, pool, &mut versions, &mut random);
            }
        }
        for (server, node) in servers.iter_mut().zip(1..) {
            server.get_or_insert_with(|| common::server(node, OFFER_BYTES));
        }
        engine.set_directives(&directives(listed(&servers))).expect("directives");
        // A death is noticed by whoever asks first; all pages are asked for here.
        check_all(&engine, pool, &versions);
        wait_until("every page with all its shards again", || {
            let held: u64 = servers.iter().flatten().map(held).sum();
            held == shards * remote(&engine) && engine.snapshot().flushes_waiting == 0
        });
    }
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    assert!(engine.stats().get(Stat::CopiesRebuilt) > 100);
    engine.close();
    wait_until("all gone", || servers.iter().flatten().all(|server| server.stats().used_bytes == 0));
}
