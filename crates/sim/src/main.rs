//! `ramster-sim`: one seed, or fresh seeds for a time. Covers the command line; exit code 1 means that a promise was broken, 2 that the flags are wrong.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ramster_sim::{Failure, Options, Report, run};

const USAGE: &str =
    "usage: ramster-sim --seed N [--hours H] [--trace] | --seconds S [--first-seed N] | --seeds COUNT [--first-seed N]";

struct Wanted {
    seed: Option<u64>,
    hours: Option<f64>,
    trace: bool,
    seconds: Option<u64>,
    seeds: Option<u64>,
    first: Option<u64>,
}

fn main() -> ExitCode {
    let wanted = match read_flags() {
        Ok(wanted) => wanted,
        Err(wrong) => {
            eprintln!("ramster-sim: {wrong}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A broken promise is told by `run`'s result, not as a defect of the simulator.
    std::panic::set_hook(Box::new(|_| {}));
    match wanted.seed {
        Some(seed) => one(&Options { seed, hours: wanted.hours, trace: wanted.trace }),
        None => many(&wanted),
    }
}

fn read_flags() -> Result<Wanted, String> {
    let mut wanted = Wanted { seed: None, hours: None, trace: false, seconds: None, seeds: None, first: None };
    let mut flags = std::env::args().skip(1);
    while let Some(flag) = flags.next() {
        if flag == "--trace" {
            wanted.trace = true;
            continue;
        }
        let value = flags.next().ok_or(format!("{flag} needs a value"))?;
        let whole = || value.parse::<u64>().map_err(|_| format!("{flag} {value}: not a whole number"));
        match flag.as_str() {
            "--seed" => wanted.seed = Some(whole()?),
            "--seconds" => wanted.seconds = Some(whole()?),
            "--seeds" => wanted.seeds = Some(whole()?),
            "--first-seed" => wanted.first = Some(whole()?),
            "--hours" => wanted.hours = Some(value.parse().map_err(|_| format!("{flag} {value}: not a number"))?),
            _ => return Err(format!("{flag}: unknown flag")),
        }
    }
    if wanted.seed.is_none() && wanted.seconds.is_none() && wanted.seeds.is_none() {
        return Err("nothing to do".to_owned());
    }
    Ok(wanted)
}

fn one(options: &Options) -> ExitCode {
    match run(options) {
        Ok(report) => {
            println!("{report:#?}");
            ExitCode::SUCCESS
        }
        Err(failure) => fail(options.seed, &failure),
    }
}

/// Seeds one after the other, from the clock's on, until the time or the count is over.
fn many(wanted: &Wanted) -> ExitCode {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
    let first = wanted.first.unwrap_or(clock % 1_000_000_000_000);
    let end = wanted.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let start = Instant::now();
    println!("seeds from {first} on");
    let (mut sum, mut count) = (Report::default(), 0u64);
    while end.is_none_or(|end| Instant::now() < end) && wanted.seeds.is_none_or(|seeds| count < seeds) {
        let seed = first + count;
        match run(&Options { seed, hours: wanted.hours, trace: false }) {
            Ok(report) => add(&mut sum, &report),
            Err(failure) => return fail(seed, &failure),
        }
        count += 1;
    }
    let took_s = start.elapsed().as_secs_f64();
    println!(
        "{count} histories, {:.1} simulated hours in {took_s:.0} s, {:.0} an hour; {} steps, {} hits, {} misses, {} lost for a cause, {} failures, {} forks",
        sum.hours,
        sum.hours / took_s * 3600.0,
        sum.steps,
        sum.hits,
        sum.misses,
        sum.lost,
        sum.failures,
        sum.forks
    );
    println!(
        "longest get {:.1} s, longest with too few copies and nothing in the way {:.0} s",
        sum.get_longest_s, sum.thin_longest_s
    );
    ExitCode::SUCCESS
}

fn add(sum: &mut Report, report: &Report) {
    sum.hours += report.hours;
    sum.steps += report.steps;
    sum.hits += report.hits;
    sum.misses += report.misses;
    sum.lost += report.lost;
    sum.failures += report.failures;
    sum.forks += report.forks;
    sum.get_longest_s = sum.get_longest_s.max(report.get_longest_s);
    sum.thin_longest_s = sum.thin_longest_s.max(report.thin_longest_s);
}

fn fail(seed: u64, failure: &Failure) -> ExitCode {
    println!("the last steps:");
    failure.last.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}, step {}, after {:.3} simulated hours: {}", failure.step, failure.hours, failure.what);
    println!("again: cargo run --release -p ramster-sim -- --seed {seed}");
    ExitCode::FAILURE
}
