//! The engine: what a door talks to. Covers the verbs, the limits and the fork; fetching is `lane.rs`, storing `putter.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ramster_core::backend::{Backend, Get, Keep, Lost, Put, Refusal};
use ramster_core::handle::{Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::Page;
use ramster_sys::lock::Lock;

use crate::lane::Lane;
use crate::options::{Directives, Options, StartError};
use crate::putter::Putter;
use crate::snapshot::Snapshot;
use crate::statblock::StatBlock;

pub struct Engine {
    stats: StatBlock,
    resident_bytes: AtomicU64,
    /// u64::MAX: none given.
    resident_limit_bytes: AtomicU64,
    pub(crate) pages: Lock<HashMap<Handle, Box<Page>>>,
    pools: AtomicU64,
}

impl Engine {
    pub fn start(options: &Options) -> Result<Arc<Engine>, StartError> {
        let stats = StatBlock::open(options.stat_block.as_deref()).map_err(|error| StartError(format!("stat block: {error}")))?;
        Ok(Arc::new(Engine {
            stats,
            resident_bytes: AtomicU64::new(0),
            resident_limit_bytes: AtomicU64::new(options.resident_bytes.unwrap_or(u64::MAX)),
            pages: Lock::new(HashMap::new()),
            pools: AtomicU64::new(0),
        }))
    }

    /// One for each thread that fetches pages for faults.
    pub fn lane(self: &Arc<Self>) -> Lane {
        Lane::new(Arc::clone(self))
    }

    /// One for each thread that puts many pages.
    pub fn putter(self: &Arc<Self>) -> Putter {
        Putter::new(Arc::clone(self))
    }

    pub fn set_directives(&self, directives: &Directives) {
        if let Some(bytes) = directives.resident_bytes {
            self.resident_limit_bytes.store(bytes, Relaxed);
        }
    }

    /// What the last directive, or the options, say that may stay resident. None: the pager decides.
    pub fn resident_limit_bytes(&self) -> Option<u64> {
        Some(self.resident_limit_bytes.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// The pager's word on how much managed memory is resident: the store gets what the local limit leaves.
    pub fn note_resident(&self, bytes: u64) {
        self.resident_bytes.store(bytes, Relaxed);
    }

    /// For the thread that takes pages out, between batches, never for a fault: waits until the store is about at its limit, at most `timeout_ms`.
    /// Returns at once when it is, or when there is nowhere to put pages. True: there is room.
    pub fn wait_for_room(&self, timeout_ms: u64) -> bool {
        let _ = timeout_ms;
        true
    }

    /// What the store takes of this machine's memory. One load.
    pub fn store_bytes(&self) -> u64 {
        self.pages.lock().len() as u64 * 4096
    }

    pub fn stats(&self) -> &StatBlock {
        &self.stats
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            pages_local: self.pages.lock().len() as u64,
            resident_bytes: self.resident_bytes.load(Relaxed),
            ..Snapshot::default()
        }
    }

    /// Before fork(2), in the thread that forks: everything is whole and held until `after_fork_*`. Gives holders the one message that shares the
    /// pages with the child. The caller must have stopped its own lanes and putters (none is inside a call).
    pub fn before_fork(&self) {
        self.pages.freeze();
    }

    pub fn after_fork_parent(&self) {
        self.pages.thaw();
    }

    /// In the child: lanes and putters of the parent are dead, make new ones. Starts no thread until something needs one.
    pub fn after_fork_child(&self) {
        self.pages.thaw();
        self.stats.after_fork_child();
    }

    /// Says goodbye to holders (they free the pages) and stops the threads. Pages are gone after it.
    pub fn close(&self) {
        self.stats.withdraw();
    }
}

impl Backend for Engine {
    fn new_pool(&self, _kind: PoolKind) -> Result<PoolId, Refusal> {
        Ok(PoolId(self.pools.fetch_add(1, Relaxed) as u32))
    }

    fn put(&self, handle: &Handle, page: &Page) -> Put {
        self.pages.lock().insert(*handle, Box::new(*page));
        Put::Stored
    }

    fn get(&self, handle: &Handle, keep: Keep, page: &mut Page) -> Result<Get, Lost> {
        let mut pages = self.pages.lock();
        let Some(stored) = pages.get(handle) else { return Ok(Get::Miss) };
        *page = **stored;
        if keep != Keep::Keep {
            pages.remove(handle);
        }
        Ok(Get::Hit)
    }

    fn flush_page(&self, handle: &Handle) {
        self.pages.lock().remove(handle);
    }

    fn flush_range(&self, handle: &Handle, count: u32) {
        let mut pages = self.pages.lock();
        for index in 0..count {
            pages.remove(&Handle { index: handle.index + index, ..*handle });
        }
    }

    fn flush_object(&self, pool: PoolId, object: ObjectId) {
        self.pages.lock().retain(|handle, _| handle.pool != pool || handle.object != object);
    }

    fn destroy_pool(&self, pool: PoolId) {
        self.pages.lock().retain(|handle, _| handle.pool != pool);
    }
}
