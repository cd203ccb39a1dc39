//! Histories: seeds that once failed, that one seed is one history, and a few fresh ones. Fresh seeds for longer: `make simulate`.

use ramster_sim::{Options, Report, run};

fn passes(seed: u64, hours: Option<f64>) -> Report {
    match run(&Options { seed, hours, trace: false }) {
        Ok(report) => report,
        Err(failure) => panic!("seed {seed}: {}\n{}", failure.what, failure.last.join("\n")),
    }
}

#[test]
fn seeds_that_once_failed_pass() {
    for line in include_str!("../kept_seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().and_then(|seed| seed.parse().ok());
        passes(seed.expect("a line begins with a seed"), None);
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 1..4 {
        let (once, again) = (passes(seed, Some(0.05)), passes(seed, Some(0.05)));
        assert_eq!(once, again);
        assert_ne!(once.hash, passes(seed + 100, Some(0.05)).hash);
    }
}

#[test]
fn fresh_histories_keep_all_promises() {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
    let first = std::env::var("RAMSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(clock % 1_000_000_000);
    for seed in first..first + 3 {
        println!("RAMSTER_SEED={seed}");
        passes(seed, Some(0.1));
    }
}
