//! Whole clusters in one process under a simulated clock, network and disk: core's page tables, foreign stores and wire, and around them what the engine and
//! the holder's server do, call by call. One seed is one history. Covers running one; the binary is `main.rs`.
//!
//! What a violation of a promise does: it panics, and [`run`] returns it with the last steps of the same history, told.
#![forbid(unsafe_code)]

mod answer;
mod check;
mod clock;
mod ctx;
mod faults;
mod holder;
mod model;
mod net;
mod owner;
mod pages;
mod random;
mod settings;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use clock::HOUR;
use world::World;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    /// None: as long as the seed says.
    pub hours: Option<f64>,
    /// Print every step.
    pub trace: bool,
}

/// What a history came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub kind: String,
    pub hours: f64,
    pub steps: u64,
    /// Two runs of one seed have the same.
    pub hash: u64,
    pub hits: u64,
    pub misses: u64,
    pub lost: u64,
    pub failures: u64,
    pub forks: u64,
    pub wire_bytes: u64,
    pub get_longest_s: f64,
    /// The longest that pages had too few copies with nothing in the way.
    pub thin_longest_s: f64,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    pub what: String,
    pub step: u64,
    pub hours: f64,
    /// The last of the history, in words.
    pub last: Vec<String>,
}

/// One history, twice if it fails: the second time told.
pub fn run(options: &Options) -> Result<Report, Failure> {
    match attempt(options, options.trace) {
        Ok(report) => Ok(report),
        Err(failure) if options.trace => Err(failure),
        Err(failure) => match attempt(options, true) {
            Err(told) if told.what == failure.what => Err(told),
            again => Err(Failure { what: format!("{}; and again, of the same seed: {again:?}", failure.what), ..failure }),
        },
    }
}

fn attempt(options: &Options, told: bool) -> Result<Report, Failure> {
    let mut world = World::new(options.seed, options.hours, told, options.trace);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        while world.ctx.clock.now_us < world.settings.length_us && world.step() {}
        world.finish();
    }));
    let hours = world.ctx.clock.now_us as f64 / HOUR as f64;
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let what = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        return Err(Failure { what, step: world.steps, hours, last: world.ctx.lines() });
    }
    let mut report = Report {
        kind: format!("{:?}", world.settings.kind),
        hours,
        steps: world.steps,
        hash: world.ctx.hash(),
        failures: world.script.failures,
        forks: world.forks,
        wire_bytes: world.ctx.net.bytes,
        get_longest_s: world.ctx.get_longest_us as f64 / 1e6,
        thin_longest_s: world.most_sick_us as f64 / 1e6,
        ..Report::default()
    };
    (report.hits, report.misses, report.lost) = world.ctx.outcomes;
    Ok(report)
}
