//! One server, thousands of links: all served, none slowed by those that are silent, everything freed at the end.

mod common;

use std::time::Instant;

use common::*;
use ramster_core::wire::message::{PutStatus, Role};
use ramster_peer::client::Link;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LINKS: u128 = 2000;

/// Both ends of every link are in this process.
fn allow_descriptors(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    assert!(maximum >= wanted, "this test needs {wanted} descriptors and may have {maximum}: raise `ulimit -Hn`");
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).expect("setrlimit");
}

#[test]
fn two_thousand_links_are_served_and_the_silent_ones_slow_nobody() {
    allow_descriptors(2 * LINKS as u64 + 600);
    let server = start(PLENTY_BYTES);
    let start = Instant::now();
    let mut links: Vec<Link> = (0..LINKS)
        .map(|client| Link::connect(&server.address(), &owner(client), Role::Bulk, DEADLINE_MS).expect("link"))
        .collect();
    assert_eq!(server.stats().links, LINKS as usize);
    for (client, link) in links.iter_mut().enumerate() {
        assert_eq!(put(link, client as u128, 0..4, 1), vec![PutStatus::Stored; 4]);
    }
    // All ask before anyone listens; then all are answered.
    for link in &mut links {
        link.send_get(0, &handles(4)).expect("get");
    }
    for (client, link) in links.iter_mut().enumerate() {
        let pages = one(link).pages;
        let expected: Vec<_> = (0..4).map(|index| Ok((1, bytes_of(client as u128, index, 1, 1000)))).collect();
        assert_eq!(pages, expected, "client {client}");
    }
    let stats = server.stats();
    assert_eq!((stats.clients.len(), stats.pages()), (LINKS as usize, 4 * LINKS as u64));
    // One talks, 1999 are silent.
    for round in 0..500 {
        assert!(get(&mut links[1234], round % 4, 1).is_ok());
    }
    println!("2000 links in {:?}", start.elapsed());
    let goodbyes = links.len() / 2;
    for link in &mut links[..goodbyes] {
        link.send_goodbye(0).expect("goodbye");
    }
    for link in &mut links[..goodbyes] {
        one(link);
    }
    assert_eq!(server.stats().pages(), 4 * (LINKS as u64 - goodbyes as u64));
    drop(links);
    assert_nothing_leaks(server);
}
