//! Step 5: packed bytes into slots of many size classes, so tightly that little but the bytes is kept. Covers slots, limits and what memory is
//! given back (`compact.rs` moves pages for that); does not know whose the bytes are, only a number that the owner gave.

mod classes;
mod compact;
mod memory;
mod slab;

pub use classes::{CLASS_COUNT, STEP_BYTES};
pub use compact::Compacted;
pub use memory::{FRAME_BYTES, HeapSlabs, SLAB_BYTES, SLAB_FRAMES, SlabMemory};

use crate::page::PAGE_BYTES;
use classes::{Class, class, class_of};
use slab::{FULL, GROUPS, NOBODY, Slab, group_of};

/// Where bytes are, and how many. Valid until they are freed or compaction says that they moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotRef {
    pub(crate) slab: u32,
    pub(crate) slot: u16,
    pub(crate) len: u16,
}

impl SlotRef {
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Where compaction moved the bytes of an owner to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    pub owner: u32,
    pub slab: u32,
    pub slot: u16,
}

impl SlotRef {
    pub fn at(self, moved: Moved) -> SlotRef {
        SlotRef { slab: moved.slab, slot: moved.slot, len: self.len }
    }
}

/// Slabs that are not full, by fullness; and what the class costs.
#[derive(Clone)]
struct ClassLists {
    class: Class,
    heads: [u32; GROUPS],
    used_slots: usize,
    touched_frames: usize,
}

#[derive(Clone)]
pub struct Store<M> {
    memory: M,
    lists: Box<[ClassLists]>,
    slabs: Vec<Slab>,
    /// Slabs without any frame, to be used again before the memory is asked for more.
    vacant: Vec<u32>,
    /// One empty slab that still has its frames: a page freed and put again at a slab's edge must not cost system calls.
    spare: u32,
    limit_frames: usize,
    used_frames: usize,
    stored_bytes: u64,
}

impl<M: SlabMemory> Store<M> {
    pub fn new(memory: M, limit_bytes: u64) -> Self {
        let lists = (0..CLASS_COUNT)
            .map(|index| ClassLists { class: class(index), heads: [NOBODY; GROUPS], used_slots: 0, touched_frames: 0 })
            .collect();
        let mut store = Store {
            memory,
            lists,
            slabs: Vec::new(),
            vacant: Vec::new(),
            spare: NOBODY,
            limit_frames: 0,
            used_frames: 0,
            stored_bytes: 0,
        };
        store.set_limit_bytes(limit_bytes);
        store
    }

    /// Never gives anything back by itself: a store over its new limit takes no new frames.
    pub fn set_limit_bytes(&mut self, limit_bytes: u64) {
        self.limit_frames = usize::try_from(limit_bytes / FRAME_BYTES as u64).unwrap_or(usize::MAX);
    }

    /// None when the store is full, or the bytes are no page's: 1 to 4096 of them. `owner` is what compaction reports.
    pub fn put(&mut self, bytes: &[u8], owner: u32) -> Option<SlotRef> {
        if bytes.is_empty() || bytes.len() > PAGE_BYTES {
            return None;
        }
        let class_index = class_of(bytes.len());
        let (slab, slot) = self.reserve(class_index, owner)?;
        let start = slot * self.lists[class_index].class.slot_bytes;
        self.memory.slab_mut(slab)[start..start + bytes.len()].copy_from_slice(bytes);
        self.stored_bytes += bytes.len() as u64;
        Some(SlotRef { slab, slot: slot as u16, len: bytes.len() as u16 })
    }

    pub fn bytes(&self, at: SlotRef) -> &[u8] {
        let slab = &self.slabs[at.slab as usize];
        debug_assert!(slab.is_taken(usize::from(at.slot)), "read of a free slot {at:?}");
        let start = usize::from(at.slot) * self.lists[usize::from(slab.class)].class.slot_bytes;
        &self.memory.slab(at.slab)[start..start + at.len()]
    }

    pub fn free(&mut self, at: SlotRef) {
        if self.vacate(at.slab, usize::from(at.slot)) {
            self.stored_bytes -= at.len() as u64;
        }
        if self.slabs[at.slab as usize].used == 0 {
            self.retire(at.slab);
        }
    }

    /// What the store costs of the machine's memory, in whole frames. [`Store::metadata_bytes`] comes on top.
    pub fn used_bytes(&self) -> u64 {
        (self.used_frames * FRAME_BYTES) as u64
    }

    /// The sum of the lengths of all that is kept.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    pub fn limit_bytes(&self) -> u64 {
        (self.limit_frames as u64).saturating_mul(FRAME_BYTES as u64)
    }

    pub fn metadata_bytes(&self) -> u64 {
        let slabs: usize = self.slabs.iter().map(Slab::metadata_bytes).sum();
        let spare_room = (self.slabs.capacity() - self.slabs.len()) * size_of::<Slab>();
        (slabs + spare_room + self.vacant.capacity() * 4 + self.lists.len() * size_of::<ClassLists>()) as u64
    }

    pub fn memory(&self) -> &M {
        &self.memory
    }

    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    /// A slot of the class, taken for `owner`: a hole in the fullest slab that has one.
    fn reserve(&mut self, class_index: usize, owner: u32) -> Option<(u32, usize)> {
        let class = self.lists[class_index].class;
        let slab = match self.lists[class_index].heads.iter().rev().find(|head| **head != NOBODY) {
            Some(head) => *head,
            None => self.open_slab(class_index)?,
        };
        let Some(slot) = self.slabs[slab as usize].lowest_free(class).filter(|slot| self.touch(slab, *slot, class)) else {
            if self.slabs[slab as usize].used == 0 {
                self.retire(slab);
            }
            return None;
        };
        self.slabs[slab as usize].take(slot, owner);
        self.lists[class_index].used_slots += 1;
        self.regroup(slab);
        Some((slab, slot))
    }

    /// Counts the frames that a write to this slot would touch for the first time; false when the limit does not allow them.
    fn touch(&mut self, slab: u32, slot: usize, class: Class) -> bool {
        let end = ((slot + 1) * class.slot_bytes).div_ceil(FRAME_BYTES);
        let touched = usize::from(self.slabs[slab as usize].touched);
        let more = end.saturating_sub(touched);
        if more > 0 {
            if self.used_frames + more > self.limit_frames {
                return false;
            }
            self.slabs[slab as usize].touched = end as u16;
            self.used_frames += more;
            self.lists[usize::from(self.slabs[slab as usize].class)].touched_frames += more;
        }
        true
    }

    /// Frees the slot; true if it was taken. The slab may be empty after.
    fn vacate(&mut self, slab: u32, slot: usize) -> bool {
        let given = self.slabs[slab as usize].give(slot);
        debug_assert!(given, "slot {slot} of slab {slab} freed twice");
        if given {
            self.lists[usize::from(self.slabs[slab as usize].class)].used_slots -= 1;
            self.regroup(slab);
        }
        given
    }

    /// An empty slab, linked into its class.
    fn open_slab(&mut self, class_index: usize) -> Option<u32> {
        let class = self.lists[class_index].class;
        let (slab, touched) = if self.spare != NOBODY {
            let slab = std::mem::replace(&mut self.spare, NOBODY);
            (slab, self.trimmed_spare(slab, class))
        } else if let Some(slab) = self.vacant.pop() {
            (slab, 0)
        } else if (self.slabs.len() as u64) < u64::from(self.memory.slab_count()) {
            (self.slabs.len() as u32, 0)
        } else {
            return None;
        };
        let fresh = Slab::new(class_index, class, touched);
        if slab as usize == self.slabs.len() {
            self.slabs.push(fresh);
        } else {
            self.slabs[slab as usize] = fresh;
        }
        self.lists[class_index].touched_frames += usize::from(touched);
        self.link(slab, 0);
        Some(slab)
    }

    /// A spare slab may have more frames than the new class uses: those go back.
    fn trimmed_spare(&mut self, slab: u32, class: Class) -> u16 {
        let touched = usize::from(self.slabs[slab as usize].touched);
        let wanted = touched.min((class.slots * class.slot_bytes).div_ceil(FRAME_BYTES));
        if wanted < touched {
            self.memory.release(slab, wanted..touched);
            self.used_frames -= touched - wanted;
        }
        wanted as u16
    }

    /// An empty slab leaves its class: kept as the spare one, or given back whole.
    fn retire(&mut self, slab: u32) {
        self.unlink(slab);
        let entry = &self.slabs[slab as usize];
        let touched = usize::from(entry.touched);
        self.lists[usize::from(entry.class)].touched_frames -= touched;
        if self.spare == NOBODY && touched > 0 {
            self.spare = slab;
        } else {
            self.give_back(slab);
        }
    }

    fn give_back(&mut self, slab: u32) {
        let touched = usize::from(self.slabs[slab as usize].touched);
        if touched > 0 {
            self.memory.release(slab, 0..touched);
        }
        self.used_frames -= touched;
        self.slabs[slab as usize] = Slab::new(0, Class { slot_bytes: STEP_BYTES, slots: 0 }, 0);
        self.vacant.push(slab);
    }

    /// Puts a slab that gained or lost a slot into the group it now belongs to.
    fn regroup(&mut self, slab: u32) {
        let entry = &self.slabs[slab as usize];
        let group = group_of(usize::from(entry.used), self.lists[usize::from(entry.class)].class);
        let now = (entry.group != FULL).then_some(usize::from(entry.group));
        if now != group {
            self.unlink(slab);
            if let Some(group) = group {
                self.link(slab, group);
            }
        }
    }

    fn link(&mut self, slab: u32, group: usize) {
        let class_index = usize::from(self.slabs[slab as usize].class);
        let head = std::mem::replace(&mut self.lists[class_index].heads[group], slab);
        let entry = &mut self.slabs[slab as usize];
        (entry.group, entry.prev, entry.next) = (group as u8, NOBODY, head);
        if head != NOBODY {
            self.slabs[head as usize].prev = slab;
        }
    }

    fn unlink(&mut self, slab: u32) {
        let entry = &mut self.slabs[slab as usize];
        if entry.group == FULL {
            return;
        }
        let (prev, next, group, class_index) = (entry.prev, entry.next, usize::from(entry.group), usize::from(entry.class));
        entry.group = FULL;
        if prev == NOBODY {
            self.lists[class_index].heads[group] = next;
        } else {
            self.slabs[prev as usize].next = next;
        }
        if next != NOBODY {
            self.slabs[next as usize].prev = prev;
        }
    }
}
