//! The engine as every door's `Backend`: any thread may call these. Covers put and the flushes; the blocking get is `blocking.rs`.

use ramster_core::backend::{Backend, Get, Keep, Lost, Put, Refusal};
use ramster_core::compress::Packer;
use ramster_core::handle::{Class, Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::Page;

use crate::clock::now_ns;
use crate::engine::Engine;
use crate::histograms::{SAMPLE, Timed};
use crate::options::{Durability, StartError};
use crate::putter::put_one;
use crate::statblock::Stat;

/// How long a put into a full store waits for the remotifier before it is refused: some batches to a slow holder.
const PUT_PATIENCE_MS: u64 = 2000;
/// Room may come by a flush, which rings no bell.
const LOOK_AGAIN_MS: u64 = 100;
/// Packers kept for the next caller; each is some 10 KiB, with zstd some 500.
const SPARE_PACKERS: usize = 8;

impl Engine {
    /// For pools with a durability of their own, which stays when the run's changes. An error: this engine cannot have it.
    pub fn class_of(&self, durability: Durability) -> Result<Class, StartError> {
        durability.check(self.spill().is_some())?;
        durability.class().ok_or_else(|| StartError(format!("durability: {durability:?} is not known")))
    }

    pub fn new_pool_of(&self, class: Class) -> Result<PoolId, Refusal> {
        self.with_tmem(|tmem| tmem.new_pool(class))
    }

    fn with_packer<T>(&self, work: impl FnOnce(&mut Packer) -> T) -> T {
        let spare = self.packers.lock().pop();
        let mut packer = spare.unwrap_or_else(|| self.new_packer());
        let result = work(&mut packer);
        let mut spares = self.packers.lock();
        if spares.len() < SPARE_PACKERS {
            spares.push(packer);
        }
        result
    }

    /// Does `work` on tmem, then sees to the flushes that it may have left.
    fn flush_with(&self, work: impl FnOnce(&mut crate::engine::Pages)) {
        self.with_tmem(work);
        self.note_flushes();
    }
}

impl Backend for Engine {
    fn new_pool(&self, kind: PoolKind) -> Result<PoolId, Refusal> {
        self.with_tmem(|tmem| tmem.new_pool(kind))
    }

    fn put(&self, handle: &Handle, page: &Page) -> Put {
        let begun_ns = now_ns();
        let deadline_ms = begun_ns / 1_000_000 + PUT_PATIENCE_MS;
        let mut is_last = false;
        loop {
            let heard = self.limits.room.listen();
            let outcome = self.with_packer(|packer| put_one(self, packer, handle, page));
            let full = outcome == Put::Rejected(Refusal::StoreFull);
            let left_ms = deadline_ms.saturating_sub(crate::now_ms());
            if full && left_ms > 0 && self.is_making_room() {
                // Pages are leaving. Nothing is kept under the handle meanwhile.
                is_last = false;
                self.limits.room.wait(heard, left_ms.min(LOOK_AGAIN_MS));
                continue;
            }
            if full && left_ms > 0 && !is_last && self.has_somewhere() {
                // The last page that made room may have gone between the put and the look.
                is_last = true;
                continue;
            }
            if outcome == Put::Stored && self.stats().get(Stat::Puts).is_multiple_of(SAMPLE) {
                self.stats().time(Timed::Put, now_ns().saturating_sub(begun_ns));
            }
            return outcome;
        }
    }

    fn get(&self, handle: &Handle, keep: Keep, page: &mut Page) -> Result<Get, Lost> {
        self.get_blocking(handle, keep, page)
    }

    fn flush_page(&self, handle: &Handle) {
        self.flush_with(|tmem| tmem.flush_page(handle));
    }

    fn flush_range(&self, handle: &Handle, count: u32) {
        self.flush_with(|tmem| tmem.flush_range(handle, count));
    }

    fn flush_object(&self, pool: PoolId, object: ObjectId) {
        self.flush_with(|tmem| tmem.flush_object(pool, object));
    }

    fn destroy_pool(&self, pool: PoolId) {
        self.flush_with(|tmem| tmem.destroy_pool(pool));
    }
}
