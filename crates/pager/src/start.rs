//! Starting the pager of a process, and its numbers. Covers sizes of the tables; threads start later, when memory no longer fits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32};

use ramster_core::backend::Backend;
use ramster_core::handle::PoolKind;
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Engine, Options, StartError};
use ramster_sys::gate::Gate;
use ramster_sys::lock::{Bell, Lock};
use ramster_sys::mapping;
use ramster_sys::uffd::Uffd;

use crate::ahead::Ahead;
use crate::states::EXTENT_PAGES;
use crate::{Layout, Pager, addresses, cold, crew, limit, probe, regions, states, victims};

/// Addresses, not memory. The first that the kernel grants (an address-space limit may refuse the larger ones). 1 TiB has room for every mapping of a
/// program on the biggest machines; its page table takes 1 GiB of addresses, touched only where pages are.
const ARENA_BYTES: [usize; 4] = [1 << 40, 1 << 38, 1 << 36, 1 << 34];

static PAGER: OnceLock<Pager> = OnceLock::new();
static STARTING: Lock<()> = Lock::new(());

/// Numbers of this process's pager, in bytes and pages, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct PagerStats {
    /// What the program may touch of managed memory.
    pub mapped_bytes: u64,
    /// Managed memory in the program's page tables, and pages in the victim buffer.
    pub resident_bytes: u64,
    pub victim_bytes: u64,
    pub limit_bytes: u64,
    /// Pages have begun to leave.
    pub is_managing: bool,
}

impl Pager {
    /// Starts the pager of this process, with its engine; a second call returns the same one and ignores its options.
    pub fn start(options: &Options) -> Result<&'static Pager, StartError> {
        let _one = STARTING.lock();
        if let Some(pager) = PAGER.get() {
            return Ok(pager);
        }
        if options.local_bytes < MIN_LOCAL_BYTES {
            return Err(StartError(format!(
                "local limit {} is too small: at least {MIN_LOCAL_BYTES} bytes (4M)",
                options.local_bytes
            )));
        }
        // Better to say so now than when the first page has to leave.
        Uffd::open().map_err(|errno| StartError(probe::why_not(errno)))?;
        let engine = Engine::start(options)?;
        let pool = engine.new_pool(PoolKind::Persistent).map_err(|why| StartError(format!("no pool for the pager: {why:?}")))?;
        let no_memory = |errno| StartError(format!("no address space for the pager ({errno}); raise the limit (ulimit -v)"));
        let (start, len) = reserve().map_err(no_memory)?;
        let resident_bytes = options.resident_bytes.map(|bytes| bytes as usize);
        let limit = limit::Limit::default();
        limit.set_bytes(resident_bytes.unwrap_or(options.local_bytes as usize));
        let groups = limit::victim_bytes(limit.bytes()) / PAGE_BYTES / EXTENT_PAGES * 2 + SPARE_GROUPS;
        let pager = Pager {
            arena: start..start + len,
            layout: Gate::new(Layout {
                regions: regions::Regions::default(),
                addresses: addresses::Addresses::new(start, len),
                managing: None,
                pin_new: false,
            }),
            states: states::States::new(len / PAGE_BYTES).map_err(no_memory)?,
            ahead: Lock::new(Ahead::default()),
            cold: cold::Cold::new(len / PAGE_BYTES / EXTENT_PAGES).map_err(no_memory)?,
            victims: victims::Victims::new(groups).map_err(no_memory)?,
            limit,
            local_bytes: options.local_bytes as usize,
            resident_bytes,
            engine,
            pool,
            short: Bell::new(),
            fetches: AtomicU32::new(0),
            crew: crew::Crew::new(),
            reclaimer_started: AtomicBool::new(false),
            said_soft_limit: AtomicBool::new(false),
        };
        Ok(PAGER.get_or_init(|| pager))
    }

    /// The pager of this process, if it has been started.
    pub fn get() -> Option<&'static Pager> {
        PAGER.get()
    }

    pub fn stats(&self) -> PagerStats {
        let layout = self.layout.read();
        PagerStats {
            mapped_bytes: layout.regions.mapped_bytes() as u64,
            resident_bytes: (self.limit.home_bytes() + self.victim_held_bytes()) as u64,
            victim_bytes: self.victim_held_bytes() as u64,
            limit_bytes: self.limit.bytes() as u64,
            is_managing: layout.managing.is_some(),
        }
    }
}

/// Below this the reserves of the pager itself would be most of it.
const MIN_LOCAL_BYTES: u64 = 4 << 20;
/// Groups for steps under way in several threads, beyond what waits in the buffer.
const SPARE_GROUPS: usize = 32;

/// The arena's first address is a multiple of 2 MiB.
fn reserve() -> Result<(usize, usize), rustix::io::Errno> {
    const ALIGN: usize = 2 << 20;
    let mut last = rustix::io::Errno::NOMEM;
    for bytes in ARENA_BYTES {
        match mapping::reserve(bytes + ALIGN) {
            Ok(base) => return Ok((base.next_multiple_of(ALIGN), bytes)),
            Err(errno) => last = errno,
        }
    }
    Err(last)
}
