//! Compaction: sparse slabs of a class are emptied into fuller ones and given back. Covers choosing and moving; the owner learns where to.

use super::memory::{FRAME_BYTES, SlabMemory};
use super::slab::NOBODY;
use super::{Moved, Store};
use crate::page::PAGE_BYTES;

/// Frames that a class must waste before it is worth moving pages: fewer are the normal unfilled end of its last slab.
const WORTH_FRAMES: usize = 4;

impl<M: SlabMemory> Store<M> {
    /// Moves pages, at most `budget_bytes` of them, out of the sparsest slab of the class that wastes most; tells each move. Returns the bytes
    /// of memory given back. Nothing moved and nothing given back: the store is as dense as it gets.
    pub fn compact(&mut self, budget_bytes: usize, moved: &mut dyn FnMut(Moved)) -> Compacted {
        let before = self.used_frames;
        let mut moved_bytes = 0;
        if self.spare != NOBODY {
            let spare = std::mem::replace(&mut self.spare, NOBODY);
            self.give_back(spare);
        }
        'classes: while let Some(class_index) = self.most_wasteful() {
            while self.lists[class_index].wasted_frames() >= WORTH_FRAMES {
                let step = if moved_bytes < budget_bytes { self.move_one(class_index, moved) } else { None };
                let Some(step) = step else { break 'classes };
                moved_bytes += step;
            }
        }
        Compacted { moved_bytes, freed_bytes: (before - self.used_frames.min(before)) * FRAME_BYTES }
    }

    /// Bytes that compaction could give back, a little more or less.
    pub fn wasted_bytes(&self) -> u64 {
        self.lists.iter().map(|lists| lists.wasted_frames()).filter(|frames| *frames >= WORTH_FRAMES).sum::<usize>() as u64
            * FRAME_BYTES as u64
    }

    fn most_wasteful(&self) -> Option<usize> {
        let (frames, index) = self
            .lists
            .iter()
            .enumerate()
            .map(|(index, lists)| (lists.wasted_frames(), index))
            .max_by_key(|(frames, _)| *frames)?;
        (frames >= WORTH_FRAMES).then_some(index)
    }

    /// The last page of the sparsest slab goes into a hole of a fuller one, or into a hole of its own; a slab without holes gives its tail back.
    /// Returns the bytes moved, None if there was nothing to do.
    fn move_one(&mut self, class_index: usize, moved: &mut dyn FnMut(Moved)) -> Option<usize> {
        let class = self.lists[class_index].class;
        let heads = self.lists[class_index].heads;
        let from = *heads.iter().find(|head| **head != NOBODY)?;
        let source = self.slabs[from as usize].highest_taken()?;
        let fullest = heads.iter().rev().copied().find(|head| *head != NOBODY && *head != from);
        let other = fullest.or(Some(self.slabs[from as usize].next)).filter(|slab| *slab != NOBODY);
        let far = other.and_then(|to| self.slabs[to as usize].lowest_free(class).map(|slot| (to, slot)));
        let near = self.slabs[from as usize].lowest_free(class).filter(|slot| *slot < source).map(|slot| (from, slot));
        // A move that touches a new frame comes last: it must not be what breaks the limit while there are holes.
        let hole =
            far.filter(|(to, slot)| (slot + 1) * class.slot_bytes <= usize::from(self.slabs[*to as usize].touched) * FRAME_BYTES);
        let Some((to, target)) = hole.or(near) else {
            return self.trim(from).or_else(|| far.and_then(|to| self.move_slot((from, source), to, moved)));
        };
        self.move_slot((from, source), (to, target), moved)
    }

    fn move_slot(&mut self, from: (u32, usize), to: (u32, usize), moved: &mut dyn FnMut(Moved)) -> Option<usize> {
        let class_index = usize::from(self.slabs[from.0 as usize].class);
        let class = self.lists[class_index].class;
        if !self.touch(to.0, to.1, class) {
            return None;
        }
        let owner = self.slabs[from.0 as usize].owner(from.1);
        self.copy_slot(from, to, class.slot_bytes);
        self.slabs[to.0 as usize].take(to.1, owner);
        self.lists[class_index].used_slots += 1;
        self.regroup(to.0);
        moved(Moved { owner, slab: to.0, slot: to.1 as u16 });
        self.vacate(from.0, from.1);
        if self.slabs[from.0 as usize].used == 0 {
            self.unlink(from.0);
            self.lists[class_index].touched_frames -= usize::from(self.slabs[from.0 as usize].touched);
            self.give_back(from.0);
        }
        Some(class.slot_bytes)
    }

    /// A slab without holes gives back the frames after its last page. None if there are none.
    fn trim(&mut self, slab: u32) -> Option<usize> {
        let entry = &self.slabs[slab as usize];
        let class_index = usize::from(entry.class);
        let (needed, touched) = (entry.needed_frames(self.lists[class_index].class), usize::from(entry.touched));
        if needed >= touched {
            return None;
        }
        self.memory.release(slab, needed..touched);
        self.slabs[slab as usize].touched = needed as u16;
        self.used_frames -= touched - needed;
        self.lists[class_index].touched_frames -= touched - needed;
        Some(0)
    }

    fn copy_slot(&mut self, from: (u32, usize), to: (u32, usize), slot_bytes: usize) {
        let mut bytes = [0; PAGE_BYTES];
        let (source, target) = (from.1 * slot_bytes, to.1 * slot_bytes);
        bytes[..slot_bytes].copy_from_slice(&self.memory.slab(from.0)[source..source + slot_bytes]);
        self.memory.slab_mut(to.0)[target..target + slot_bytes].copy_from_slice(&bytes[..slot_bytes]);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted {
    pub moved_bytes: usize,
    pub freed_bytes: usize,
}

impl super::ClassLists {
    /// Frames that the class has beyond what its pages need, without the tails of its full slabs.
    fn wasted_frames(&self) -> usize {
        let slab_frames = (self.class.slots * self.class.slot_bytes).div_ceil(FRAME_BYTES);
        let (whole, rest) = (self.used_slots / self.class.slots, self.used_slots % self.class.slots);
        let needed = whole * slab_frames + (rest * self.class.slot_bytes).div_ceil(FRAME_BYTES);
        self.touched_frames.saturating_sub(needed)
    }
}
