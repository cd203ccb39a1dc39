//! Room in a full store: ephemeral pages go, oldest first, and sparse slabs are emptied. Covers making room here; remotify makes it elsewhere.

use super::Tmem;
use super::objects::At;
use super::states::Event;
use crate::handle::Class;
use crate::store::{Compacted, SlabMemory, SlotRef};

/// A put makes room this often before it is refused; each time costs some microseconds under the lock.
const TRIES: usize = 8;
/// Ephemeral pages evicted at a time: their slots are of many classes, so one alone hardly ever makes room.
const EVICT_PAGES: usize = 16;
/// What a put may move to win a frame: about 20 us of copying.
const COMPACT_BYTES: usize = 128 << 10;

impl<M: SlabMemory> Tmem<M> {
    /// One bounded step of compaction: moves at most `budget_bytes` under the lock. Nothing freed and nothing moved: there is nothing to do.
    pub fn compact(&mut self, budget_bytes: usize) -> Compacted {
        let Tmem { store, objects, .. } = self;
        store.compact(budget_bytes, &mut |moved| {
            let entry = objects.entry_mut(At::from_owner(moved.owner));
            entry.slot = entry.slot.at(moved);
        })
    }

    /// Bytes that compaction could give back.
    pub fn bytes_wasted(&self) -> u64 {
        self.store.wasted_bytes()
    }

    pub(super) fn put_making_room(&mut self, bytes: &[u8], at: At) -> Option<SlotRef> {
        for _ in 0..TRIES {
            let evicted = self.evict();
            let compacted = self.compact(COMPACT_BYTES);
            if let Some(slot) = self.store.put(bytes, at.owner()) {
                return Some(slot);
            }
            if evicted == 0 && compacted.moved_bytes == 0 && compacted.freed_bytes == 0 {
                break;
            }
        }
        None
    }

    fn evict(&mut self) -> usize {
        let mut old = Vec::with_capacity(EVICT_PAGES);
        self.objects.old_pages(Class::EPHEMERAL, self.age, &mut |at, _| {
            old.push(at);
            old.len() < EVICT_PAGES
        });
        for at in &old {
            self.drop_page(*at, Event::Evict, None);
        }
        old.len()
    }
}
