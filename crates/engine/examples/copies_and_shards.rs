//! What shards cost against whole copies, in turns: bytes at the holders, a get of a page that is away, the same with a holder dead, and making anew what
//! died with it. Holders are threads of this process on loopback; gets sleep while they wait. Prints one line for each durability.
//!
//! `cargo run --release -p ramster-engine --example copies_and_shards -- [ROUNDS]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use ramster_core::backend::{Backend, Get, Keep, Put};
use ramster_core::handle::{Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_engine::{Durability, Engine, Options, PeerAddr, Stat};
use ramster_peer::server::{Server, ServerConfig};

const PAGES: u32 = 6000;
/// Those that leave first, and are away for certain.
const AWAY: u32 = 4000;
const GETS: u32 = 1000;
/// One more than the largest code needs.
const HOLDERS: u64 = 7;
const PATIENCE: Duration = Duration::from_secs(120);

const DURABILITIES: [(&str, Durability); 5] = [
    ("none", Durability::None),
    ("copies=2", Durability::Copies(2)),
    ("copies=3", Durability::Copies(3)),
    ("ec=2+1", Durability::Ec(2, 1)),
    ("ec=4+2", Durability::Ec(4, 2)),
];

struct Side {
    name: &'static str,
    servers: Vec<Server>,
    engine: Arc<Engine>,
    pool: PoolId,
    gets_us: Vec<f64>,
    random: u64,
}

/// Half of it random, different for every index: 2 KiB packed.
fn page(index: u32) -> Page {
    let mut page = [b'r'; PAGE_BYTES];
    let mut x = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in page[..PAGE_BYTES / 2].as_chunks_mut::<8>().0 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x.to_le_bytes();
    }
    page
}

fn handle(pool: PoolId, index: u32) -> Handle {
    Handle { pool, object: ObjectId([1, 2, 3]), index }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Side {
    fn start(name: &'static str, durability: Durability) -> Side {
        let config =
            |node| ServerConfig { threads: 1, ..ServerConfig::new("127.0.0.1:0".parse().expect("address"), node, 1 << 30) };
        let servers: Vec<Server> = (1..=HOLDERS).map(|node| Server::start(config(node)).expect("server")).collect();
        let peers =
            servers.iter().zip(1..).map(|(server, node)| PeerAddr { node, address: server.address().to_string() }).collect();
        let options = Options { local_bytes: 64 << 20, store_bytes: Some(1 << 20), durability, peers, ..Options::default() };
        let engine = Engine::start(&options).expect("engine");
        let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
        for index in 0..PAGES {
            assert_eq!(engine.put(&handle(pool, index), &page(index)), Put::Stored);
        }
        wait("pages away", || {
            let snapshot = engine.snapshot();
            snapshot.store_bytes <= snapshot.store_limit_bytes && snapshot.pages_in_transit == 0
        });
        Side { name, servers, engine, pool, gets_us: Vec::new(), random: 88172645463325252 }
    }

    fn get_some(&mut self, count: u32) -> Vec<f64> {
        let mut found = [0; PAGE_BYTES];
        let mut times_us = Vec::new();
        for _ in 0..count {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let index = (self.random >> 32) as u32 % AWAY;
            let start = Instant::now();
            let got = self.engine.get(&handle(self.pool, index), Keep::KeepRemote, &mut found);
            times_us.push(start.elapsed().as_secs_f64() * 1e6);
            assert!(got == Ok(Get::Hit) && found == page(index), "page {index}: {got:?}");
        }
        times_us
    }

    /// At holders: of the packed bytes of pages that are away.
    fn share(&self) -> (f64, f64) {
        let used: u64 = self.servers.iter().map(|server| server.stats().used_bytes).sum();
        let snapshot = self.engine.snapshot();
        (used as f64 / snapshot.remote_bytes as f64, snapshot.remote_bytes as f64 / snapshot.pages_remote as f64)
    }

    /// A holder dies; gets at once after it, and how long until all is made anew, for each page that lost something.
    fn lose_one(&mut self) -> (f64, f64) {
        drop(self.servers.remove(0));
        let start = Instant::now();
        let gets_us = self.get_some(GETS);
        let stats = self.engine.stats();
        let stat = |stat| stats.get(stat);
        wait("made anew", || stat(Stat::CopiesRebuilt) == stat(Stat::CopiesLost) && stat(Stat::Rebuilding) == 0);
        (median(gets_us), start.elapsed().as_secs_f64() * 1e6 / stat(Stat::CopiesRebuilt).max(1) as f64)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(9, |text| text.parse().expect("a number of rounds"));
    let mut sides: Vec<Side> = DURABILITIES.iter().map(|(name, durability)| Side::start(name, *durability)).collect();
    for _ in 0..rounds {
        for side in &mut sides {
            let times_us = side.get_some(GETS);
            side.gets_us.push(median(times_us));
        }
    }
    let base: Vec<f64> = sides[1].gets_us.clone();
    for side in &mut sides {
        let ratios = side.gets_us.iter().zip(&base).map(|(one, other)| one / other).collect();
        let (share, packed) = side.share();
        let (name, gets_us, ratio) = (side.name, median(side.gets_us.clone()), median(ratios));
        print!(
            "{name:9} at holders {share:.2} x the packed {packed:.0} bytes a page; a get {gets_us:.0} us, {ratio:.2} x copies=2"
        );
        if name == "none" {
            println!();
            side.engine.close();
            continue;
        }
        let (dead_us, rebuild_us) = side.lose_one();
        println!("; a holder dead {dead_us:.0} us; made anew {rebuild_us:.0} us a page");
        side.engine.close();
    }
}
