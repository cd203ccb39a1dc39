//! What a remote page costs beside a bare TCP request-response of the same size: 24 bytes out, 4 KiB back, interleaved rounds, medians. Also
//! batches of 256 pages, pipelined. Both sides of each pair run on the cores given: `pingpong [CLIENT_CORE HOLDER_CORE]`, default 0 0.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId};
use ramster_core::seal::Tag;
use ramster_core::wire::message::{Blob, Found, PutPage, Role};
use ramster_peer::client::{Event, Link, LinkError};
use ramster_peer::server::{Server, ServerConfig};
use rustix::thread::{CpuSet, sched_setaffinity};

const ROUNDS: usize = 21;
const GETS: usize = 2000;
const BATCHES: usize = 60;
const PAGES: u32 = 4096;

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).expect("affinity");
}

fn handle(index: u32) -> Handle {
    Handle { pool: PoolId(1), object: ObjectId([1, 2, 3]), index }
}

fn start_bare_server(core: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        pin(core);
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_nodelay(true).expect("nodelay");
        let (mut request, answer) = ([0; 24], [7; 4096]);
        while stream.read_exact(&mut request).is_ok() {
            stream.write_all(&answer).expect("answer");
        }
    });
    address
}

/// One after another: microseconds a page.
fn bare_round(stream: &mut TcpStream) -> f64 {
    let mut answer = [0; 4096];
    let start = Instant::now();
    for _ in 0..GETS {
        stream.write_all(&[1; 24]).expect("request");
        stream.read_exact(&mut answer).expect("answer");
    }
    start.elapsed().as_secs_f64() * 1e6 / GETS as f64
}

fn link_round(link: &mut Link) -> f64 {
    let start = Instant::now();
    for request in 0..GETS as u64 {
        link.send_get(request, &[(handle(request as u32 * 7 % PAGES), 1)]).expect("get");
        wait_done(link, 1);
    }
    start.elapsed().as_secs_f64() * 1e6 / GETS as f64
}

fn wait_done(link: &mut Link, mut requests: usize) {
    let mut hits = 0u64;
    while requests > 0 {
        let in_time = link.wait(10_000, &mut |event| match event {
            Event::Page { found: Found::Hit { blob, .. }, .. } => hits += u64::from(blob.bytes[0]),
            Event::Page { .. } => panic!("a page is missing"),
            Event::Done { .. } => requests = requests.saturating_sub(1),
            Event::Put { .. } => {}
        });
        assert!(in_time.expect("link"), "not answered: {requests}, {} in flight", link.in_flight_count());
    }
    std::hint::black_box(hits);
}

fn get_batches(link: &mut Link) -> f64 {
    let start = Instant::now();
    for batch in 0..BATCHES as u64 {
        let first = batch as u32 * 256 % PAGES;
        let pages: Vec<_> = (first..first + 256).map(|index| (handle(index), 1)).collect();
        link.send_get(batch, &pages).expect("get");
        if link.in_flight_count() >= 4 {
            wait_done(link, 1);
        }
    }
    let left = link.in_flight_count();
    wait_done(link, left);
    start.elapsed().as_secs_f64() * 1e6 / (BATCHES * 256) as f64
}

fn put_batches(link: &mut Link, bytes: &[u8]) -> f64 {
    let start = Instant::now();
    for batch in 0..BATCHES as u64 {
        let first = batch as u32 * 256 % PAGES;
        let blob = Blob { kind: 3, tag: Tag([1; 16]), bytes };
        let pages: Vec<_> = (first..first + 256).map(|index| PutPage { handle: handle(index), version: 1, blob }).collect();
        while let Err(error) = link.send_put(batch, &pages) {
            assert!(matches!(error, LinkError::Local(_)), "{error}");
            wait_done(link, 1);
        }
    }
    let left = link.in_flight_count();
    wait_done(link, left);
    start.elapsed().as_secs_f64() * 1e6 / (BATCHES * 256) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let cores: Vec<usize> = std::env::args().skip(1).filter_map(|core| core.parse().ok()).collect();
    let (client_core, holder_core) = (cores.first().copied().unwrap_or(0), cores.get(1).copied().unwrap_or(0));
    // The server's threads inherit the core of the thread that starts them.
    pin(holder_core);
    let config = ServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), 1, 64 << 20);
    let server = Server::start(ServerConfig { threads: 1, ..config }).expect("server");
    let bare = start_bare_server(holder_core);
    pin(client_core);
    let mut stream = TcpStream::connect(bare).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    let me = OwnerId { node: 1, client: 1, incarnation: 1 };
    let mut link = Link::connect(&server.address(), &me, Role::Get, 5000).expect("link");
    let page = [7u8; 4096];
    put_batches(&mut link, &page);
    let (mut bare_us, mut link_us, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut gets_us, mut puts_us) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (bare, ours) = (bare_round(&mut stream), link_round(&mut link));
        bare_us.push(bare);
        link_us.push(ours);
        ratios.push(ours / bare);
        gets_us.push(get_batches(&mut link));
        puts_us.push(put_batches(&mut link, &page));
    }
    println!("cores {client_core} and {holder_core}, {ROUNDS} interleaved rounds, medians");
    println!("bare TCP, 24 B out, 4 KiB back: {:.2} us", median(bare_us));
    println!("get of one raw page over a link: {:.2} us, {:.3} x", median(link_us), median(ratios));
    println!("get, 256 pages a message, 4 in flight: {:.3} us a page", median(gets_us));
    println!("put, 256 pages a message, pipelined: {:.3} us a page", median(puts_us));
}
