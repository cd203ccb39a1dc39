//! Random operations on tmem against a plain map: long seeded runs, and short ones that proptest shrinks. Set RAMSTER_SEED to repeat one run.

use crate::world::{HOLDERS, World};
use proptest::prelude::*;
use ramster_core::backend::Keep;
use ramster_core::compress::Codec;

#[derive(Clone, Copy, Debug)]
enum Op {
    Put { page: Page, content: u32 },
    PutAskingFirst { page: Page, content: u32 },
    Get { page: Page, keep: Keep },
    FlushPage(Page),
    FlushRange { page: Page, count: u32 },
    FlushObject(Page),
    DestroyPool(usize),
    SendBatch { pool: usize, holder: u16, copies: u16, pages: usize },
    SendFlushes,
    Deliver { holder: u16, stores: bool, answers: bool, count: usize },
    Hear { which: usize, count: usize },
    LandGet(usize),
    Kill(u16),
    GiveUp(u16),
    Repatriate(u16),
    Rebuild { pool: usize, holder: u16, wanted: usize },
    Compact,
    SetLimit(u64),
    Fork,
}

/// Pool, object, index; few of each, so that they meet.
type Page = (usize, u64, u32);

/// Indexes near the edges of chunks and of the whole range.
const INDEXES: [u32; 12] = [0, 1, 2, 62, 63, 64, 65, 127, 128, 1000, u32::MAX - 1, u32::MAX];

fn apply(world: &mut World, op: Op) {
    let handle = |page: Page| world.handle(page.0, page.1, INDEXES[page.2 as usize % INDEXES.len()]);
    match op {
        Op::Put { page, content } => {
            let handle = handle(page);
            world.put(handle, content);
        }
        Op::PutAskingFirst { page, content } => {
            let handle = handle(page);
            world.put_asking_first(handle, content);
        }
        Op::Get { page, keep } => {
            let handle = handle(page);
            world.get(handle, keep);
        }
        Op::FlushPage(page) => {
            let handle = handle(page);
            world.flush_page(handle);
        }
        Op::FlushRange { page, count } => {
            let handle = handle(page);
            world.flush_range(handle, count);
        }
        Op::FlushObject(page) => {
            let handle = handle(page);
            world.flush_object(handle);
        }
        Op::DestroyPool(which) => world.destroy_pool(which),
        Op::SendBatch { pool, holder, copies, pages } => {
            // No copies: three shards.
            world.send_batch(pool, &site_of(holder, if copies == 0 { 3 } else { copies }), copies == 0, pages);
        }
        Op::SendFlushes => world.send_flushes(),
        Op::Deliver { holder, stores, answers, count } => {
            for _ in 0..count {
                world.deliver(holder, stores, answers);
            }
        }
        Op::Hear { which, count } => {
            for _ in 0..count.min(world.answers_in_flight()) {
                world.hear(which);
            }
        }
        Op::LandGet(which) if world.gets_in_flight() > 0 => world.land_get(which),
        Op::LandGet(_) => {}
        Op::Kill(holder) => world.kill(holder),
        Op::GiveUp(holder) => world.give_up(holder),
        Op::Repatriate(holder) => {
            world.repatriate(holder);
        }
        Op::Rebuild { pool, holder, wanted } => world.rebuild(pool, holder, wanted),
        Op::Compact => world.compact(),
        Op::SetLimit(limit_bytes) => world.tmem.set_limit_bytes(limit_bytes),
        Op::Fork => world.tmem.reset_in_transit(),
    }
}

/// `copies` holders from this one on.
fn site_of(holder: u16, copies: u16) -> Vec<u16> {
    (0..copies).map(|step| (holder + step) % HOLDERS).collect()
}

fn keeps() -> impl Strategy<Value = Keep> {
    prop_oneof![Just(Keep::Keep), Just(Keep::Free), Just(Keep::KeepRemote)]
}

fn ops() -> impl Strategy<Value = Op> {
    let page = || (0..3_usize, 0..2_u64, 0..INDEXES.len() as u32);
    let holder = || 0..HOLDERS;
    prop_oneof![
        30 => (page(), 0..24_u32).prop_map(|(page, content)| Op::Put { page, content }),
        8 => (page(), 0..24_u32).prop_map(|(page, content)| Op::PutAskingFirst { page, content }),
        20 => (page(), keeps()).prop_map(|(page, keep)| Op::Get { page, keep }),
        5 => page().prop_map(Op::FlushPage),
        2 => (page(), prop_oneof![0..200_u32, Just(u32::MAX)]).prop_map(|(page, count)| Op::FlushRange { page, count }),
        1 => page().prop_map(Op::FlushObject),
        1 => (0..3_usize).prop_map(Op::DestroyPool),
        12 => (0..3_usize, holder(), 0..=3_u16, 1..20_usize)
            .prop_map(|(pool, holder, copies, pages)| Op::SendBatch { pool, holder, copies, pages }),
        4 => (0..3_usize, holder(), 2..=3_usize).prop_map(|(pool, holder, wanted)| Op::Rebuild { pool, holder, wanted }),
        4 => Just(Op::SendFlushes),
        30 => (holder(), prop::bool::weighted(0.9), prop::bool::weighted(0.95), 1..12_usize)
            .prop_map(|(holder, stores, answers, count)| Op::Deliver { holder, stores, answers, count }),
        20 => (any::<usize>(), 1..12_usize).prop_map(|(which, count)| Op::Hear { which, count }),
        15 => any::<usize>().prop_map(Op::LandGet),
        1 => holder().prop_map(Op::Kill),
        1 => holder().prop_map(Op::GiveUp),
        3 => holder().prop_map(Op::Repatriate),
        3 => Just(Op::Compact),
        1 => (0..40_u64).prop_map(|frames| Op::SetLimit(frames * 4096)),
        1 => Just(Op::Fork),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_short_history_ends_with_the_right_bytes_and_no_leak(history in prop::collection::vec(ops(), 0..150), frames in 2..60_u64) {
        let mut world = World::new(frames * 4096, Codec::Lz4);
        for op in history {
            apply(&mut world, op);
        }
        world.end();
    }
}

/// splitmix64: the same run from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn random_op(random: &mut Random) -> Op {
    let page = (random.below(3) as usize, random.below(2), random.below(12) as u32);
    let holder = random.below(u64::from(HOLDERS)) as u16;
    match random.below(200) {
        0..40 => Op::Put { page, content: random.below(24) as u32 },
        40..50 => Op::PutAskingFirst { page, content: random.below(24) as u32 },
        50..75 => Op::Get { page, keep: [Keep::Keep, Keep::Free, Keep::KeepRemote][random.below(3) as usize] },
        75..80 => Op::FlushPage(page),
        80..82 => Op::FlushRange { page, count: random.below(200) as u32 },
        82..83 if random.below(4) == 0 => Op::FlushObject(page),
        83..95 => {
            let copies = random.below(4) as u16;
            Op::SendBatch { pool: random.below(3) as usize, holder, copies, pages: 1 + random.below(20) as usize }
        }
        95..97 => Op::SendFlushes,
        97..100 => Op::Rebuild { pool: page.0, holder, wanted: 2 + random.below(2) as usize },
        100..145 => {
            let (stores, answers) = (random.below(8) > 0, random.below(16) > 0);
            Op::Deliver { holder, stores, answers, count: 1 + random.below(12) as usize }
        }
        145..175 => Op::Hear { which: random.next() as usize, count: 1 + random.below(12) as usize },
        175..190 => Op::LandGet(random.next() as usize),
        190..193 => Op::Repatriate(holder),
        193..196 => Op::Compact,
        196..197 => Op::SetLimit(random.below(60) * 4096),
        197..198 => Op::Fork,
        198..199 if random.below(4) == 0 => Op::DestroyPool(random.below(3) as usize),
        _ if random.below(4) == 0 => Op::Kill(holder),
        _ if random.below(4) == 0 => Op::GiveUp(holder),
        _ => Op::SendFlushes,
    }
}

#[test]
fn long_random_histories_end_with_the_right_bytes_and_no_leak() {
    let (first, runs) = match std::env::var("RAMSTER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => (seed, 1),
        None => (std::process::id().into(), 12),
    };
    for seed in first..first + runs {
        println!("RAMSTER_SEED={seed}");
        let mut random = Random(seed);
        let codec = if seed % 3 == 0 { Codec::Zstd(1) } else { Codec::Lz4 };
        let mut world = World::new((5 + random.below(100)) * 4096, codec);
        for _ in 0..6000 {
            let op = random_op(&mut random);
            apply(&mut world, op);
        }
        world.end();
    }
}
