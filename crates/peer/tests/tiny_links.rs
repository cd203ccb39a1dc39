//! Links that come, say a little that is wrong or nothing, and go: by the thousand here, by the million when `RAMSTER_TINY_LINKS` says so. Memory and descriptors
//! stay bounded, and whoever behaves is served meanwhile.

mod common;
#[path = "common/pki.rs"]
mod pki;
#[path = "common/tls.rs"]
mod tls;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use common::*;
use pki::client_number;
use ramster_core::wire::message::PutStatus;
use ramster_peer::client::Link;
use ramster_peer::server::Server;
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, connect as connect_to, send, socket, sockopt};

/// Enough to see what one costs.
const LINKS: u32 = 10_000;
/// The first of them make the buffers, tables and threads' stacks that all later ones use again.
const WARM_LINKS: u32 = 1_000;
/// What may stay of all the others together: an allocator keeps some of what was freed.
const LEFT_LIMIT_BYTES: u64 = 4 << 20;
/// Somebody asks for a page so often meanwhile.
const ASKS_EVERY: u32 = 500;

fn links() -> u32 {
    std::env::var("RAMSTER_TINY_LINKS").map_or(LINKS, |count| count.parse().expect("RAMSTER_TINY_LINKS is a number"))
}

/// Opens a link from an address of its own (all of 127/8 is this machine), says that, and goes.
fn come_and_go(server: &Server, number: u32, words: &[u8]) {
    let SocketAddr::V4(to) = server.address() else { panic!("an address of IPv4") };
    let from = SocketAddrV4::new(Ipv4Addr::from(0x7f01_0000 | (number % 0xffff + 1)), 0);
    let stream = socket(AddressFamily::INET, SocketType::STREAM, None).expect("socket");
    bind(&stream, &from).expect("bind");
    connect_to(&stream, &to).expect("connect");
    // The server may have closed already: that is its right. Every other link ends with a reset.
    let _ = send(&stream, words, SendFlags::NOSIGNAL);
    if number.is_multiple_of(2) {
        sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).expect("linger");
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("descriptors").count()
}

fn any_number_of_tiny_links_leaves_nothing(server: Server, mut polite: Link, client: u128, words: &[Vec<u8>]) {
    assert_eq!(put(&mut polite, client, 0..20, 1), vec![PutStatus::Stored; 20]);
    let flood = |from: u32, to: u32, polite: &mut Link| {
        for number in from..to {
            come_and_go(&server, number, &words[number as usize % words.len()]);
            if number.is_multiple_of(ASKS_EVERY) {
                assert_eq!(get(polite, 19, 1), Ok((1, bytes_of(client, 19, 1, 1000))));
            }
        }
        // With the polite one. The last ones may still wait to be accepted when all before them have ended.
        let all = u64::from(to) + 1;
        wait_until(&server, "they have all come and ended", |stats| stats.links_accepted == all && stats.links == 1);
    };
    flood(0, WARM_LINKS, &mut polite);
    let (before_bytes, before) = (resident_bytes(), descriptors());
    let count = links();
    flood(WARM_LINKS, WARM_LINKS + count, &mut polite);
    let left_bytes = resident_bytes().saturating_sub(before_bytes);
    println!("{count} tiny links: {left_bytes} bytes and {} descriptors left", descriptors().saturating_sub(before));
    assert_eq!(descriptors(), before);
    assert!(left_bytes < LEFT_LIMIT_BYTES, "{left_bytes} bytes left of {count} links");
    let stats = server.stats();
    assert_eq!(stats.links_accepted, u64::from(WARM_LINKS + count) + 1);
    assert_eq!((stats.clients.len(), stats.pages()), (1, 20));
    drop(polite);
    assert_nothing_leaks(server);
}

/// One test: descriptors and memory are the process's.
#[test]
fn tiny_links_leave_nothing_and_the_polite_are_served_meanwhile() {
    let server = start(PLENTY_BYTES);
    let polite = connect(&server, 77);
    let hello = tls::hello(&owner(5));
    let words = [vec![], vec![0; 3], b"GET / HTTP/1.1\r\n\r\n".to_vec(), hello[..20].to_vec(), hello];
    any_number_of_tiny_links_leaves_nothing(server, polite, 77, &words);

    let cluster = pki::Cluster::new();
    let server = tls::start_tls(&cluster);
    let client = client_number(tls::FAMILY, 77);
    let polite = tls::link(&server, &cluster.family(tls::NODE, tls::FAMILY), &tls::of(tls::NODE, client));
    // The beginning of a handshake: a record, a ClientHello of 508 bytes that does not come.
    let half = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let words = [vec![], vec![0; 3], b"GET / HTTP/1.1\r\n\r\n".to_vec(), half.to_vec(), tls::hello(&owner(5))];
    any_number_of_tiny_links_leaves_nothing(server, polite, client, &words);
}
