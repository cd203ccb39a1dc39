//! What a fault waits for a page on disk, without the fault: gets by a lane, as a handler makes them. Prints medians; run two versions by turns.
//! `cargo run --release -p ramster-engine --example disk -- DIRECTORY`

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use ramster_core::backend::{Backend, Keep, Put};
use ramster_core::handle::{Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_engine::{Arrival, Engine, Lane, LaneGet, Options, now_ms};
use rustix::event::{PollFd, PollFlags, poll};

const PAGES: u32 = 30_000;
const ROUNDS: u32 = 600;

fn main() {
    let dir = PathBuf::from(std::env::args().nth(1).expect("a directory"));
    let options = Options { store_bytes: Some(256 << 10), spill_dir: Some(dir.clone()), ..Options::default() };
    let engine = Engine::start(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    let start = Instant::now();
    for index in 0..PAGES {
        assert_eq!(engine.put(&handle(pool, index), &page(index)), Put::Stored);
        if index % 256 == 0 {
            engine.wait_for_room(1000);
        }
    }
    while engine.store_bytes() > 256 << 10 {
        engine.wait_for_room(1000);
    }
    eprintln!("written at {:.0} MB/s", f64::from(PAGES) * 2.1 / 1024.0 / start.elapsed().as_secs_f64());
    let mut lane = engine.lane();
    for cold in [true, false] {
        for run in [1, 16] {
            let mut us = Vec::new();
            for round in 0..ROUNDS {
                if cold && round % 50 == 0 {
                    forget_cache(&dir);
                }
                let first = (u64::from(round) * 2_654_435_761 % u64::from(PAGES - 1000)) as u32;
                let start = Instant::now();
                get(&mut lane, pool, first, run);
                us.push(start.elapsed().as_micros() as u64);
            }
            us.sort_unstable();
            let name = if cold { "not in the page cache" } else { "perhaps in the page cache" };
            println!("{name}, {run} pages: median {} us, 90 % {} us", us[us.len() / 2], us[us.len() * 9 / 10]);
        }
    }
}

fn get(lane: &mut Lane, pool: PoolId, first: u32, run: u32) {
    let handles: Vec<Handle> = (first..first + run).map(|index| handle(pool, index)).collect();
    let mut pages: Vec<Page> = vec![[0; PAGE_BYTES]; run as usize];
    let mut outcomes = Vec::new();
    lane.get_run(&handles, Keep::KeepRemote, &mut pages.iter_mut().collect::<Vec<_>>(), &mut outcomes);
    let mut left = outcomes.iter().filter(|outcome| matches!(outcome, LaneGet::Pending(_))).count();
    while left > 0 {
        if let Some(fd) = lane.fd() {
            let _ = poll(&mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)], None);
        }
        lane.ready(now_ms(), &mut |_, _, arrival| {
            assert!(matches!(arrival, Arrival::Page(_)));
            left -= 1;
        });
    }
}

fn forget_cache(dir: &PathBuf) {
    for entry in std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(dir)) {
            let file = std::fs::File::open(entry.path()).expect("open");
            file.sync_all().expect("sync");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        }
    }
}

fn handle(pool: PoolId, index: u32) -> Handle {
    Handle { pool, object: ObjectId([1, 2, 3]), index }
}

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
