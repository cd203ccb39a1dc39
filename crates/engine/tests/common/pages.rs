//! Engines whose pages leave for several holders, and what tests ask of all their pages. Covers the asking; the tests are `copies.rs` and `ec.rs`.

use std::sync::Arc;

use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Durability, Engine, Options, PeerAddr};
use ramster_peer::server::Server;

use super::{DEADLINE, GET_DEADLINE_MS, Random, handle, page};

pub const COUNT: u32 = 1500;
pub const OFFER_BYTES: u64 = 64 << 20;

pub fn peer(node: u64, address: impl ToString) -> PeerAddr {
    PeerAddr { node, address: address.to_string() }
}

pub fn peers(servers: &[&Server]) -> Vec<PeerAddr> {
    servers.iter().enumerate().map(|(index, server)| peer(index as u64 + 1, server.address())).collect()
}

pub fn engine(durability: Durability, peers: Vec<PeerAddr>) -> Arc<Engine> {
    start(Options { durability, peers, ..options() })
}

pub fn options() -> Options {
    Options { local_bytes: 64 << 20, store_bytes: Some(256 << 10), get_deadline_ms: GET_DEADLINE_MS, ..Options::default() }
}

pub fn start(options: Options) -> Arc<Engine> {
    Engine::start(&options).expect("engine")
}

pub fn fill(engine: &Engine, version: u32) -> PoolId {
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(engine, pool, version);
    pool
}

pub fn put_all(engine: &Engine, pool: PoolId, version: u32) {
    for index in 0..COUNT {
        assert_eq!(engine.put(&handle(pool, index), &page(index, version)), Put::Stored);
    }
}

pub fn get(engine: &Engine, pool: PoolId, index: u32, version: u32) -> Result<(), Loss> {
    let mut found = [0; PAGE_BYTES];
    match engine.get(&handle(pool, index), Keep::Keep, &mut found) {
        Ok(Get::Hit) => {
            assert!(found == page(index, version), "page {index} came with other bytes");
            Ok(())
        }
        Ok(Get::Miss) => panic!("page {index} is missed"),
        Err(lost) => Err(lost.why),
    }
}

pub fn assert_all(engine: &Engine, pool: PoolId, version: u32) {
    for index in 0..COUNT {
        assert_eq!(get(engine, pool, index, version), Ok(()), "page {index}");
    }
}

pub fn held(server: &Server) -> u64 {
    server.stats().clients.iter().map(|client| client.pages).sum()
}

pub fn remote(engine: &Engine) -> u64 {
    engine.snapshot().pages_remote
}

pub fn one_step(engine: &Engine, pool: PoolId, versions: &mut [Option<u32>], random: &mut Random) {
    let index = random.below(COUNT);
    let version = &mut versions[index as usize];
    match random.below(10) {
        0..5 => {
            let next = random.below(u32::MAX);
            assert_eq!(engine.put(&handle(pool, index), &page(index, next)), Put::Stored);
            *version = Some(next);
        }
        5 => {
            engine.flush_page(&handle(pool, index));
            *version = None;
        }
        _ => check(engine, pool, index, *version),
    }
}

pub fn check(engine: &Engine, pool: PoolId, index: u32, version: Option<u32>) {
    let mut found = [0; PAGE_BYTES];
    match (engine.get(&handle(pool, index), Keep::Keep, &mut found), version) {
        (Ok(Get::Hit), Some(version)) => assert!(found == page(index, version), "page {index} is not version {version}"),
        (Ok(Get::Miss), None) => {}
        (got, expected) => panic!("page {index}: {got:?}, expected {expected:?}"),
    }
}

pub fn check_all(engine: &Engine, pool: PoolId, versions: &[Option<u32>]) {
    let start = std::time::Instant::now();
    for (index, version) in versions.iter().enumerate() {
        check(engine, pool, index as u32, *version);
        assert!(start.elapsed() < DEADLINE);
    }
}
