//! What a remote page costs beside a bare TCP request-response of the same size: 24 bytes out, 4 KiB back, interleaved rounds, medians. Also
//! batches of 256 pages, pipelined. With `--tls` each round is done over TLS too, and what that costs is a ratio of the same round. Both sides of each pair
//! run on the cores given: `pingpong [--tls] [CLIENT_CORE HOLDER_CORE]`, default 0 0.

#[path = "../tests/common/pki.rs"]
mod pki;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind};
use ramster_core::seal::Tag;
use ramster_core::wire::message::{Blob, Found, PutPage, Role};
use ramster_peer::client::{Event, Link, LinkError};
use ramster_peer::server::{Server, ServerConfig};
use ramster_peer::tls::Secured;
use rustix::thread::{CpuSet, sched_setaffinity};

const ROUNDS: usize = 21;
const GETS: usize = 2000;
const BATCHES: usize = 60;
const PAGES: u32 = 4096;
const OPENINGS: u32 = 20;

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
        while let Err(error) = link.send_put(batch, PoolKind::Persistent, &pages) {
            assert!(matches!(error, LinkError::Local(_)), "{error}");
            wait_done(link, 1);
        }
    }
    let left = link.in_flight_count();
    wait_done(link, left);
    start.elapsed().as_secs_f64() * 1e6 / (BATCHES * 256) as f64
}

fn open_links(server: &Server, secured: Option<Secured<'_>>, me: &OwnerId) -> f64 {
    let start = Instant::now();
    for _ in 0..OPENINGS {
        drop(Link::connect_by(secured, &server.address(), me, Role::Get, 5000).expect("link"));
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(OPENINGS)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians of what one kind of link does, in microseconds.
#[derive(Default)]
struct Timings {
    one_us: Vec<f64>,
    gets_us: Vec<f64>,
    puts_us: Vec<f64>,
}

impl Timings {
    fn round(&mut self, link: &mut Link) {
        self.one_us.push(link_round(link));
        self.gets_us.push(get_batches(link));
        self.puts_us.push(put_batches(link, &PAGE));
    }

    fn print(&self, what: &str, bare_us: &[f64]) {
        let Timings { one_us, gets_us, puts_us } = self;
        println!("get of one raw page over {what}: {:.2} us, {:.3} x bare TCP", median(one_us.clone()), ratio(one_us, bare_us));
        println!("get, 256 pages a message, 4 in flight: {:.3} us a page", median(gets_us.clone()));
        println!("put, 256 pages a message, pipelined: {:.3} us a page", median(puts_us.clone()));
    }
}

/// Round by round, then the median.
fn ratio(ours: &[f64], others: &[f64]) -> f64 {
    median(ours.iter().zip(others).map(|(ours, others)| ours / others).collect())
}

const PAGE: [u8; 4096] = [7; 4096];
const NODE: u64 = 1;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_tls = arguments.iter().any(|argument| argument == "--tls");
    let cores: Vec<usize> = arguments.iter().filter_map(|core| core.parse().ok()).collect();
    let (client_core, holder_core) = (cores.first().copied().unwrap_or(0), cores.get(1).copied().unwrap_or(0));
    // The server's threads inherit the core of the thread that starts them.
    pin(holder_core);
    let config = ServerConfig { threads: 1, ..ServerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), NODE, 64 << 20) };
    let server = Server::start(config.clone()).expect("server");
    let credentials = pki::Cluster::new().node(NODE);
    let tls_server = Server::start(ServerConfig { credentials: Some(credentials.clone()), ..config }).expect("server");
    let bare = start_bare_server(holder_core);
    pin(client_core);
    let mut stream = TcpStream::connect(bare).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    let me = OwnerId { node: NODE, client: 1, incarnation: 1 };
    let context = credentials.client_context().expect("credentials");
    let secured = Some(Secured { context: &context, node: NODE });
    let mut plain = Link::connect(&server.address(), &me, Role::Bulk, 5000).expect("link");
    let mut tls = Link::connect_by(secured, &tls_server.address(), &me, Role::Bulk, 5000).expect("link");
    put_batches(&mut plain, &PAGE);
    put_batches(&mut tls, &PAGE);
    let mut opened_us = [Vec::new(), Vec::new()];
    let (mut bare_us, mut over_plain, mut over_tls) = (Vec::new(), Timings::default(), Timings::default());
    for _ in 0..ROUNDS {
        bare_us.push(bare_round(&mut stream));
        over_plain.round(&mut plain);
        if is_tls {
            over_tls.round(&mut tls);
            opened_us[0].push(open_links(&server, None, &me));
            opened_us[1].push(open_links(&tls_server, secured, &me));
        }
    }
    println!("cores {client_core} and {holder_core}, {ROUNDS} interleaved rounds, medians");
    println!("bare TCP, 24 B out, 4 KiB back: {:.2} us", median(bare_us.clone()));
    over_plain.print("a link", &bare_us);
    if is_tls {
        over_tls.print("a TLS link", &bare_us);
        let (one, gets, puts) = (&over_tls.one_us, &over_tls.gets_us, &over_tls.puts_us);
        let (plain_one, plain_gets, plain_puts) = (&over_plain.one_us, &over_plain.gets_us, &over_plain.puts_us);
        let ratios = [ratio(one, plain_one), ratio(gets, plain_gets), ratio(puts, plain_puts)];
        let [plain, tls] = opened_us.map(median);
        println!("opening a link: plain {plain:.0} us, TLS {tls:.0} us, both ends");
        println!("TLS by plain: one page {:.3} x, gets {:.3} x, puts {:.3} x", ratios[0], ratios[1], ratios[2]);
    }
}
