//! A thousand TLS links at once: all served, and what each costs in memory, idle and after traffic, is bounded.

mod common;
#[path = "common/pki.rs"]
mod pki;

use common::*;
use ramster_core::handle::OwnerId;
use ramster_core::wire::message::{PutStatus, Role};
use ramster_peer::client::Link;
use ramster_peer::server::{Server, ServerConfig};
use ramster_peer::tls::Secured;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LINKS: u64 = 1000;
const FAMILY: u64 = 7;
/// Both ends of a link together, with all that TLS and its certificates keep: docs/protocol.md has what was measured.
const LINK_LIMIT_BYTES: u64 = 64 << 10;

fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    assert!(maximum >= wanted, "this test needs {wanted} descriptors and may have {maximum}: raise `ulimit -Hn`");
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).expect("setrlimit");
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    statm.split(' ').nth(1).expect("resident").parse::<u64>().expect("pages") * 4096
}

#[test]
fn a_thousand_tls_links_are_served_with_bounded_memory_each() {
    allow_descriptors(2 * LINKS + 600);
    let cluster = pki::Cluster::new();
    let server = Server::start(ServerConfig { credentials: Some(cluster.node(9)), ..config(PLENTY_BYTES) }).expect("server");
    let context = cluster.family(1, FAMILY).client_context().expect("credentials");
    let before = resident_bytes();
    let mut links: Vec<Link> = (0..LINKS)
        .map(|process| {
            let me = OwnerId { node: 1, client: pki::client_number(FAMILY, process), incarnation: 1 };
            let secured = Some(Secured { context: &context, node: 9 });
            Link::connect_by(secured, &server.address(), &me, Role::Bulk, DEADLINE_MS).expect("link")
        })
        .collect();
    assert_eq!(server.stats().links, LINKS as usize);
    let idle_bytes = (resident_bytes() - before) / LINKS;
    for (client, link) in links.iter_mut().enumerate() {
        assert_eq!(put(link, client as u128, 0..4, 1), vec![PutStatus::Stored; 4]);
    }
    for link in &mut links {
        link.send_get(0, &handles(4)).expect("get");
    }
    for (client, link) in links.iter_mut().enumerate() {
        let expected: Vec<_> = (0..4).map(|index| Ok((1, bytes_of(client as u128, index, 1, 1000)))).collect();
        assert_eq!(one(link).pages, expected, "client {client}");
    }
    let pages_bytes = server.stats().resident_bytes;
    let used_bytes = (resident_bytes() - before - pages_bytes) / LINKS;
    println!("{LINKS} links: {idle_bytes} bytes each when opened, {used_bytes} after traffic (both ends)");
    assert!(idle_bytes < LINK_LIMIT_BYTES && used_bytes < LINK_LIMIT_BYTES);
    drop(links);
    assert_nothing_leaks(server);
}
