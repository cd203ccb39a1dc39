//! How many bytes the cleaner makes of each byte that is put, by the share of the room in use and the choice of victims.

use super::*;

/// Of 250 bytes: they fill two blocks.
const BATCH: u64 = 27;

/// Bytes written for each byte put, with `share` percent of the room in use and pages overwritten at random; `hot`: nine writes of ten go to one page of ten.
fn write_amplification(choice: Choice, share: u64, hot: bool) -> f64 {
    let segments = 30;
    let mut world = World::new(Config { segment_bytes: 32 * BLOCK_BYTES, segments_max: segments, choice, seed: 1 });
    // Without the heads and the cleaner's reserve.
    let room = u64::from(segments - 4) * u64::from(32 * BLOCK_BYTES);
    let bytes = vec![5; 250];
    let pages = room * share / 100 / (bytes.len() + HEADER_BYTES) as u64;
    let mut random = Random::new("overwrites", share);
    let put = |world: &mut World, page: &mut dyn FnMut(u64) -> u64| {
        for at in 0..pages / BATCH {
            let batch: Vec<(Handle, Vec<u8>)> =
                (0..BATCH).map(|one| (handle(1, page(at * BATCH + one) as u32), bytes.clone())).collect();
            for _ in 0..200 {
                if world.put(&batch) {
                    break;
                }
                world.clean(&mut |_| {});
            }
            world.clean(&mut |_| {});
        }
    };
    put(&mut world, &mut |at| at);
    for _ in 0..4 {
        put(&mut world, &mut |_| match hot && random.below(10) < 9 {
            true => random.below(pages / 10),
            false => random.below(pages),
        });
    }
    let counters = world.log.counters;
    world.check_all();
    (counters.bytes_put + counters.bytes_moved) as f64 / counters.bytes_put as f64
}

/// `cargo test -p ramster-core --release what_cleaning_costs -- --nocapture` prints the table of docs/decisions/disk-as-a-log.md.
#[test]
fn what_cleaning_costs() {
    eprintln!("in use  uniform: greedy  cost-benefit   hot: greedy  cost-benefit");
    // Unoptimised the first of them takes too long.
    let shares = [(66, 2.3), (80, 4.0)];
    for (share, most) in shares.into_iter().skip(usize::from(cfg!(debug_assertions))) {
        let of = |choice, hot| write_amplification(choice, share, hot);
        let [greedy, benefit, hot_greedy, hot_benefit] =
            [of(Choice::Greedy, false), of(Choice::CostBenefit, false), of(Choice::Greedy, true), of(Choice::CostBenefit, true)];
        eprintln!("{share:5} %  {greedy:15.2}  {benefit:12.2}  {hot_greedy:12.2}  {hot_benefit:12.2}");
        assert!(benefit < most && hot_benefit < hot_greedy * 1.1, "the cleaner does more than it must");
    }
}
