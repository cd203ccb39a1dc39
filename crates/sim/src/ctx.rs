//! What every step has at hand: clock, chance, network and the trace. Covers handing them out and the record of what happened; no decision is made here.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;

use ramster_core::handle::{Handle, OwnerId, Version};
use ramster_core::wire::frame::Side;

use crate::clock::{Clock, Event, SECOND, Who};
use crate::net::{Net, Received, Weather, WireId};
use crate::random::Random;

/// What a failure prints.
pub const TRACE_STEPS: usize = 50;

/// A page whose last local copy went in this step: whoever sees everything checks that its holders have it.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    pub owner: usize,
    pub handle: Handle,
    pub version: Version,
    /// A further copy was made of a page that was remote before.
    pub rebuilt: bool,
}

/// How long after a failure its consequences are still found: links seen dead, holders given up.
const AFTERMATH_US: u64 = 60 * SECOND;

/// Which failures touched which owner and holder: what may excuse a loss.
#[derive(Default)]
pub struct Faults {
    pairs: BTreeMap<(usize, usize), (u64, u32)>,
    pub someone_lies: bool,
    pub disks_rot: bool,
    /// The weather alone makes answers come too late.
    pub late_is_excused: bool,
}

impl Faults {
    /// A failure that is over at once.
    pub fn note(&mut self, owner: usize, holder: usize, now_us: u64) {
        self.pairs.entry((owner, holder)).or_default().0 = now_us + AFTERMATH_US;
    }

    /// A forked child's pages have their parent's past; what lasts now is counted as lasting for it.
    pub fn inherit(&mut self, parent: usize, child: usize, holder: usize) {
        if let Some((last_us, lasting)) = self.pairs.get(&(parent, holder)).copied() {
            // The child may have one of its own already: a holder that did not share in time.
            let known = self.pairs.entry((child, holder)).or_default();
            *known = (known.0.max(last_us), lasting);
        }
    }

    pub fn begin(&mut self, owner: usize, holder: usize) {
        self.pairs.entry((owner, holder)).or_default().1 += 1;
    }

    pub fn end(&mut self, owner: usize, holder: usize, now_us: u64) {
        let (last_us, lasting) = self.pairs.entry((owner, holder)).or_default();
        (*last_us, *lasting) = (now_us + AFTERMATH_US, lasting.saturating_sub(1));
    }

    pub fn last_us(&self, owner: usize, holder: usize, now_us: u64) -> Option<u64> {
        let (last_us, lasting) = self.pairs.get(&(owner, holder))?;
        Some(if *lasting > 0 { now_us } else { (*last_us).min(now_us) }).filter(|last_us| *last_us > 0)
    }
}

pub struct Ctx {
    pub clock: Clock,
    pub random: Random,
    pub net: Net,
    /// The life of each holder's process that listens, and whether its machine would say that none does.
    pub listening: Vec<Option<u32>>,
    pub machine_up: Vec<bool>,
    pub gone: Vec<Gone>,
    pub faults: Faults,
    /// The last names given to clients.
    pub last_client: u64,
    pub get_longest_us: u64,
    /// Hits, misses, losses.
    pub outcomes: (u64, u64, u64),
    hash: u64,
    lines: Option<VecDeque<String>>,
    print: bool,
}

impl Ctx {
    pub fn new(random: Random, weather: Weather, holders: usize, told: bool, print: bool) -> Self {
        Ctx {
            clock: Clock::default(),
            random,
            net: Net::new(weather),
            listening: vec![None; holders],
            machine_up: vec![true; holders],
            gone: Vec::new(),
            faults: Faults::default(),
            last_client: 0,
            get_longest_us: 0,
            outcomes: (0, 0, 0),
            hash: 0xcbf2_9ce4_8422_2325,
            lines: told.then(VecDeque::new),
            print,
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.clock.now_us / 1000
    }

    /// Becomes part of what two runs of one seed must agree on.
    pub fn mark(&mut self, words: &[u64]) {
        for word in words {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A line of the story. Costs nothing unless somebody reads it.
    pub fn tell<T: Display>(&mut self, line: impl FnOnce() -> T) {
        let Some(lines) = &mut self.lines else { return };
        let text = format!("{:>14.6} s  {}", self.clock.now_us as f64 / 1e6, line());
        if self.print {
            println!("{text}");
        }
        if lines.len() == TRACE_STEPS {
            lines.pop_front();
        }
        lines.push_back(text);
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().flatten().cloned().collect()
    }

    /// The connect of an owner, and whether it will be told that nobody listens there.
    pub fn connect(&mut self, owner: Who, place: usize) -> (WireId, bool) {
        let life = self.listening[place];
        let wire = self.net.connect(owner, Who { place, life: life.unwrap_or(u32::MAX) });
        let refused = life.is_none() && self.machine_up[place] && !self.net.is_cut(owner.place, place);
        if refused {
            let delay_us = 2 * self.net.weather.latency_us + self.random.below(self.net.weather.jitter_us + 1);
            self.clock.after(delay_us, Event::Broken(wire, Side::Client));
        }
        (wire, refused)
    }

    pub fn send(&mut self, wire: WireId, side: Side, bytes: &[u8]) -> usize {
        self.net.send(&mut self.clock, &mut self.random, wire, side, bytes)
    }

    pub fn receive(&mut self, wire: WireId, side: Side, space: &mut [u8]) -> Received {
        self.net.receive(&mut self.clock, &mut self.random, wire, side, space)
    }

    pub fn close(&mut self, wire: WireId, side: Side, abruptly: bool) {
        self.net.close(&mut self.clock, &mut self.random, wire, side, abruptly);
    }
}

/// As holders and traces name an owner.
pub fn name(owner: &OwnerId) -> String {
    format!("{}.{:x}.{}", owner.node, owner.client, owner.incarnation)
}
