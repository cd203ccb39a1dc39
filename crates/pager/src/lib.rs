//! The pager: makes a program's cold pages leave and come back without the program knowing. Covers mapping, reclaim and faults of managed memory;
//! where pages go is the engine's. Files are steps of the journey: `reclaim` (out), `fault` (back), `mapping` (what the program asks for).
//!
//! Lock order: `layout` (read by every fault and every step of reclaim, closed by changes of mappings and by fork), then one extent, then the engine's own.

mod addresses;
mod ahead;
mod cold;
mod crew;
mod fault;
mod fork;
mod limit;
mod mapping;
mod probe;
mod reclaim;
mod regions;
mod remap;
pub mod seam;
mod start;
mod states;
mod victims;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};

use ramster_core::handle::PoolId;
use ramster_core::page::PAGE_SHIFT;
use ramster_engine::Engine;
use ramster_sys::gate::Gate;
use ramster_sys::lock::{Bell, Lock};
use ramster_sys::residency::Pagemap;
use ramster_sys::uffd::Uffd;
pub use rustix::io::Errno;

pub use probe::{Probe, probe};
pub use start::PagerStats;

/// The pager of this process. There is one, and it lives as long as the process.
pub struct Pager {
    arena: Range<usize>,
    layout: Gate<Layout>,
    states: states::States,
    cold: cold::Cold,
    /// Held with the layout open only, so never while a process forks.
    ahead: Lock<ahead::Ahead>,
    victims: victims::Victims,
    limit: limit::Limit,
    local_bytes: usize,
    /// The limit on resident pages that the user gave; without it what the store takes is subtracted from `local_bytes`.
    resident_bytes: Option<usize>,
    engine: Arc<Engine>,
    pool: PoolId,
    /// Rung when pages should leave.
    short: Bell,
    /// Numbers fetches, so that an answer to an older one is told apart.
    fetches: AtomicU32,
    crew: crew::Crew,
    reclaimer_started: AtomicBool,
    said_soft_limit: AtomicBool,
}

/// What changes when mappings change.
struct Layout {
    regions: regions::Regions,
    addresses: addresses::Addresses,
    /// None until the first page has to leave: until then memory is the kernel's alone and costs nothing.
    managing: Option<Managing>,
    /// mlockall(MCL_FUTURE) is in force.
    pin_new: bool,
}

#[derive(Clone)]
struct Managing {
    uffd: Arc<Uffd>,
    pagemap: Arc<Pagemap>,
}

impl Pager {
    pub fn arena(&self) -> Range<usize> {
        self.arena.clone()
    }

    /// Is this address inside the arena? Everything managed lives there, and nothing else does.
    pub fn owns(&self, addr: usize) -> bool {
        self.arena.contains(&addr)
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    fn page_of(&self, addr: usize) -> usize {
        (addr - self.arena.start) >> PAGE_SHIFT
    }

    fn addr_of(&self, page: usize) -> usize {
        self.arena.start + (page << PAGE_SHIFT)
    }
}
