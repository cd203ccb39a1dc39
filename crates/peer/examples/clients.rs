//! Many clients of one holder: each puts some pages, then all get pages one at a time, as faulting threads do, for some seconds. Says how many pages came and how
//! long one took. `clients ADDRESS CLIENTS SECONDS`; plain links, so the holder is on this machine. What the holder spends is for the caller to look at.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind};
use ramster_core::seal::Tag;
use ramster_core::wire::message::{Blob, Found, PutPage, Role};
use ramster_peer::client::{Event, Link};

const PAGES: u32 = 256;
/// What a page of text or a heap is packed to.
const PAGE: [u8; 1500] = [7; 1500];
const DEADLINE_MS: u64 = 10_000;

fn handle(index: u32) -> Handle {
    Handle { pool: PoolId(1), object: ObjectId([1, 2, 3]), index }
}

/// Waits for one request to end; the number of pages that were there.
fn finish(link: &mut Link) -> u64 {
    let (mut hits, mut ended) = (0, false);
    while !ended {
        let in_time = link.wait(DEADLINE_MS, &mut |event| match event {
            Event::Page { found: Found::Hit { .. }, .. } => hits += 1,
            Event::Page { .. } | Event::Put { .. } => {}
            Event::Done { .. } => ended = true,
        });
        assert!(in_time.expect("link"), "not answered in time");
    }
    hits
}

fn client(address: SocketAddr, number: u128, seconds: u64, start: &Barrier) -> u64 {
    let me = OwnerId { node: 7, client: number, incarnation: 1 };
    let mut link = Link::connect(&address, &me, Role::Bulk, DEADLINE_MS).expect("link");
    let blob = Blob { kind: 3, tag: Tag([1; 16]), bytes: &PAGE };
    let pages: Vec<_> = (0..PAGES).map(|index| PutPage { handle: handle(index), version: 1, blob }).collect();
    link.send_put(0, PoolKind::Persistent, &pages).expect("put");
    finish(&mut link);
    start.wait();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut found = 0;
    while Instant::now() < end {
        link.send_get(found, &[(handle(found as u32 * 7 % PAGES), 1)]).expect("get");
        assert_eq!(finish(&mut link), 1, "a page is missing");
        found += 1;
    }
    link.send_goodbye(u64::MAX).expect("goodbye");
    let _ = link.wait(DEADLINE_MS, &mut |_| {});
    found
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, clients, seconds] = arguments.as_slice() else {
        eprintln!("usage: clients ADDRESS CLIENTS SECONDS");
        return ExitCode::from(2);
    };
    let (Ok(address), Ok(clients), Ok(seconds)) = (address.parse(), clients.parse::<u32>(), seconds.parse::<u64>()) else {
        eprintln!("clients: ADDRESS is IP:port, CLIENTS and SECONDS are numbers");
        return ExitCode::from(2);
    };
    let start = Barrier::new(clients as usize);
    let pages: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn({
                    let start = &start;
                    move || client(address, u128::from(number) + 1, seconds, start)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("client")).sum()
    });
    let page_us = 1e6 * seconds as f64 * f64::from(clients) / pages.max(1) as f64;
    println!(r#"{{"clients": {clients}, "pages": {pages}, "pages_per_s": {}, "page_us": {page_us:.2}}}"#, pages / seconds.max(1));
    ExitCode::SUCCESS
}
