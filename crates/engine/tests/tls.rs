//! Engines and holders over TLS: pages and shards out and back, credentials that come late, are of another family or are no good, and what an engine does without.

mod common;
#[path = "../../peer/tests/common/pki.rs"]
mod pki;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use common::{engine, handle, page, peers, server, wait_at_limit, wait_until};
use pki::Cluster;
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{CredentialsPem, Directives, Durability, Engine, Options, PeerAddr, Stat};
use ramster_peer::server::{EndReason, Server, ServerConfig};
use ramster_peer::tls::Credentials;

const FAMILY: u64 = 0xabc;
const OFFER_BYTES: u64 = 256 << 20;

fn holder_at(address: SocketAddr, cluster: &Cluster, node: u64) -> Server {
    let credentials = Some(cluster.node(node));
    Server::start(ServerConfig { threads: 1, credentials, ..ServerConfig::new(address, node, OFFER_BYTES) }).expect("server")
}

fn holder(cluster: &Cluster, node: u64) -> Server {
    holder_at("127.0.0.1:0".parse().expect("address"), cluster, node)
}

fn pem(credentials: &Credentials, family: Option<u64>) -> CredentialsPem {
    CredentialsPem {
        roots: credentials.roots_pem.clone(),
        chain: credentials.chain_pem.clone(),
        key: credentials.key_pem.clone(),
        client: None,
        family: family.map(|family| format!("{family:016x}")),
        node: None,
    }
}

fn options(peers: Vec<PeerAddr>) -> Options {
    Options { local_bytes: 64 << 20, store_bytes: Some(1 << 20), peers, node: 1, ..Options::default() }
}

fn start(cluster: &Cluster, peers: Vec<PeerAddr>) -> Arc<Engine> {
    start_with(cluster, options(peers))
}

fn start_with(cluster: &Cluster, options: Options) -> Arc<Engine> {
    let credentials = Some(pem(&cluster.family(1, FAMILY), None));
    Engine::start(&Options { credentials, family: Some(format!("{FAMILY:016x}")), ..options }).expect("engine")
}

fn put_all(engine: &Engine, pool: PoolId, count: u32, version: u32) {
    for index in 0..count {
        assert_eq!(engine.put(&handle(pool, index), &page(index, version)), Put::Stored);
    }
}

fn assert_all(engine: &Engine, pool: PoolId, count: u32, version: u32) {
    assert_all_of(engine, pool, count, version, Keep::KeepRemote);
}

fn assert_all_of(engine: &Engine, pool: PoolId, count: u32, version: u32, keep: Keep) {
    let mut found = [0; PAGE_BYTES];
    for index in 0..count {
        assert_eq!(engine.get(&handle(pool, index), keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, version), "page {index}");
    }
}

fn credentials(pem: CredentialsPem) -> Directives {
    Directives { credentials: Some(pem), ..Directives::default() }
}

#[test]
fn pages_go_to_two_nodes_over_tls_and_come_back() {
    let cluster = Cluster::new();
    let holders = [holder(&cluster, 1), holder(&cluster, 2)];
    let engine = start(&cluster, peers(&[&holders[0], &holders[1]]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 4000, 1);
    wait_at_limit(&engine);
    assert!(holders.iter().all(|holder| holder.stats().pages() > 500));
    assert!(holders.iter().all(|holder| holder.stats().clients[0].owner.client >> 64 == u128::from(FAMILY)));
    assert_all(&engine, pool, 4000, 1);
    put_all(&engine, pool, 4000, 2);
    wait_at_limit(&engine);
    assert_all(&engine, pool, 4000, 2);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
    engine.close();
    wait_until("nothing at the holders", || holders.iter().all(|holder| holder.stats().pages() == 0));
}

/// Each has a certificate of its own, and a shard of every page; any three of the five are the page, and two are not.
#[test]
fn shards_go_to_five_nodes_over_tls_and_any_three_of_them_give_every_page() {
    let cluster = Cluster::new();
    let mut living: Vec<Server> = (1..=5).map(|node| holder(&cluster, node)).collect();
    let listed = peers(&living.iter().collect::<Vec<_>>());
    let get_deadline_ms = common::GET_DEADLINE_MS;
    let engine = start_with(&cluster, Options { durability: Durability::Ec(3, 2), get_deadline_ms, ..options(listed) });
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 4000, 1);
    wait_at_limit(&engine);
    let away = engine.snapshot().pages_remote;
    assert!(away > 1000 && living.iter().all(|holder| holder.stats().pages() == away));
    for index in [3, 0] {
        drop(living.remove(index));
        assert_all_of(&engine, pool, 4000, 1, Keep::Keep);
    }
    let stats = engine.stats();
    assert!(stats.get(Stat::GetsDecoded) > 0);
    assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::ShardsForged), stats.get(Stat::GetsDeadline)), (0, 0, 0));
    let away = engine.snapshot().pages_remote;
    drop(living.pop());
    let mut found = [0; PAGE_BYTES];
    let of_lost = |index| engine.get(&handle(pool, index), Keep::Keep, &mut found).err().map(|lost| lost.why);
    let losses: Vec<Loss> = (0..4000).filter_map(of_lost).collect();
    assert_eq!((losses.len() as u64, losses.iter().all(|why| *why == Loss::HolderDied)), (away, true));
    engine.close();
    wait_until("nothing at the holders", || living.iter().all(|holder| holder.stats().pages() == 0));
}

#[test]
fn credentials_that_come_late_are_used_at_once_and_their_family_is_taken_on() {
    let cluster = Cluster::new();
    let holder = holder(&cluster, 1);
    let engine = Engine::start(&options(peers(&[&holder]))).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    let family = cluster.family(1, FAMILY);
    // Its own number is random: the certificate is not for it, unless the credentials say whose it is.
    let error = engine.set_directives(&credentials(pem(&family, None))).expect_err("another family").to_string();
    assert!(error.starts_with("credentials: the certificate is for neither node-1.ramster nor c"), "{error}");
    engine.set_directives(&credentials(pem(&family, Some(FAMILY)))).expect("credentials");
    put_all(&engine, pool, 2000, 1);
    wait_at_limit(&engine);
    assert_eq!(holder.stats().clients[0].owner.client >> 64, u128::from(FAMILY));
    // From the first link on the family stays; new credentials of the same one are taken, and open links go on.
    let other = cluster.family(1, FAMILY + 1);
    let error = engine.set_directives(&credentials(pem(&other, Some(FAMILY + 1)))).expect_err("too late").to_string();
    assert!(error.starts_with("credentials: they are for the family 0000000000000abd"), "{error}");
    engine.set_directives(&credentials(pem(&cluster.family(1, FAMILY), Some(FAMILY)))).expect("credentials");
    assert_all(&engine, pool, 2000, 1);
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

/// A program that finds its node by the socket learns which node that is with its credentials.
#[test]
fn an_engine_that_does_not_know_its_node_takes_it_from_its_credentials_before_the_first_link() {
    let cluster = Cluster::new();
    let holder = holder(&cluster, 1);
    let engine = Engine::start(&Options { node: 0, ..options(peers(&[&holder])) }).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    let of_node = |node| CredentialsPem { node: Some(node), ..pem(&cluster.family(node, FAMILY), Some(FAMILY)) };
    engine.set_directives(&credentials(of_node(1))).expect("credentials");
    put_all(&engine, pool, 2000, 1);
    wait_at_limit(&engine);
    assert_eq!(holder.stats().clients[0].owner.node, 1);
    let error = engine.set_directives(&credentials(of_node(2))).expect_err("too late").to_string();
    assert!(error.starts_with("credentials: they are of node 2"), "{error}");
    assert_all(&engine, pool, 2000, 1);
}

#[test]
fn an_engine_without_credentials_gives_a_tls_holder_nothing_and_loses_nothing() {
    let cluster = Cluster::new();
    let holder = holder(&cluster, 1);
    let engine = Engine::start(&options(peers(&[&holder]))).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 2000, 1);
    wait_until("it was tried", || holder.stats().ended(EndReason::TlsFailed) > 0);
    assert_all(&engine, pool, 2000, 1);
    assert_eq!(holder.stats().pages(), 0);
    // The node's word comes: the holder is tried again at once, not after the pause of one that is down.
    engine.set_directives(&credentials(pem(&cluster.family(1, FAMILY), Some(FAMILY)))).expect("no link was opened yet");
    // The node's own are good for any of its clients.
    engine.set_directives(&credentials(pem(&cluster.node(1), None))).expect("credentials");
    put_all(&engine, pool, 2000, 2);
    wait_at_limit(&engine);
    assert!(holder.stats().pages() > 500);
    assert_all(&engine, pool, 2000, 2);
}

#[test]
fn a_holder_that_is_another_node_than_it_should_be_gets_no_page() {
    let cluster = Cluster::new();
    let holder = holder(&cluster, 2);
    // The list says that node 1 is there.
    let engine = start(&cluster, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 2000, 1);
    wait_until("it was tried", || holder.stats().links_accepted > 2);
    assert_eq!((holder.stats().pages(), holder.stats().foreign.puts_stored), (0, 0));
    assert_all(&engine, pool, 2000, 1);
}

/// An address of this machine that others could reach too.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

#[test]
fn plain_links_never_leave_the_machine_and_tls_ones_do() {
    let Some(outer) = outer_address() else {
        println!("skipped: this machine has no address but loopback");
        return;
    };
    let plain = Server::start(ServerConfig { threads: 1, ..ServerConfig::new(SocketAddr::new(outer, 0), 1, OFFER_BYTES) });
    let plain = plain.expect("server");
    let engine = Engine::start(&options(peers(&[&plain]))).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 2000, 1);
    wait_until("it has nowhere to put pages", || engine.has_nowhere());
    assert_eq!(plain.stats().links_accepted, 0);
    assert_all(&engine, pool, 2000, 1);

    let cluster = Cluster::new();
    let secured = holder_at(SocketAddr::new(outer, 0), &cluster, 1);
    let engine = start(&cluster, peers(&[&secured]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 2000, 1);
    wait_at_limit(&engine);
    assert!(secured.stats().pages() > 500);
}

#[test]
fn options_that_make_no_sense_are_one_line_that_names_them() {
    let cluster = Cluster::new();
    let family = cluster.family(1, FAMILY);
    let good = pem(&family, Some(FAMILY));
    for (credentials, family, what) in [
        (None, Some("abc"), "family: \"abc\" is not a number of 16 hex digits"),
        (Some(CredentialsPem { key: String::new(), ..good.clone() }), None, "credentials: key: it has no private key"),
        (Some(CredentialsPem { family: Some("+00000000000000f".to_owned()), ..good.clone() }), None, "credentials: family: "),
        (
            Some(CredentialsPem { client: Some("1".repeat(32)), ..good.clone() }),
            None,
            "credentials: client is not of that family",
        ),
    ] {
        let options = Options { credentials, family: family.map(str::to_owned), ..options(Vec::new()) };
        let error = Engine::start(&options).err().expect("an error").to_string();
        assert!(error.starts_with(what) && !error.contains('\n'), "{error}");
        assert!(!format!("{options:?}").contains("PRIVATE KEY"));
    }
    let numbered = CredentialsPem { client: Some(format!("{FAMILY:016x}{:016x}", 5)), family: None, ..good };
    Engine::start(&Options { credentials: Some(numbered), ..options(Vec::new()) }).expect("engine");
}

/// What a server without credentials does is as before.
#[test]
fn plain_engines_and_holders_on_one_machine_go_on_without_certificates() {
    let holder = server(1, OFFER_BYTES);
    let engine = engine(1 << 20, peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 2000, 1);
    wait_at_limit(&engine);
    assert_all(&engine, pool, 2000, 1);
}
