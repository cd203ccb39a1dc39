//! One slab's bookkeeping: which slots are taken and by whom. Covers no bytes and no lists of slabs.

use super::classes::Class;
use super::memory::FRAME_BYTES;

pub const NOBODY: u32 = u32::MAX;

/// Slabs of a class are kept in this many groups by fullness; the fullest are filled first, so that the others can become empty.
pub const GROUPS: usize = 4;
/// In no group: the slab is full, spare or vacant.
pub const FULL: u8 = GROUPS as u8;

#[derive(Clone)]
pub struct Slab {
    pub class: u16,
    /// Slots in use.
    pub used: u16,
    /// Frames written to since the slab was last released: what it costs.
    pub touched: u16,
    pub group: u8,
    pub prev: u32,
    pub next: u32,
    /// Bit set: the slot is taken.
    taken: Box<[u64]>,
    /// Whose each slot is; as long as the highest slot in use.
    owners: Vec<u32>,
}

impl Slab {
    pub fn new(class_index: usize, class: Class, touched: u16) -> Slab {
        Slab {
            class: class_index as u16,
            used: 0,
            touched,
            group: FULL,
            prev: NOBODY,
            next: NOBODY,
            taken: vec![0; class.slots.div_ceil(64)].into_boxed_slice(),
            owners: Vec::with_capacity(class.slots),
        }
    }

    /// The lowest free slot, so that a slab's tail stays untouched as long as it can.
    pub fn lowest_free(&self, class: Class) -> Option<usize> {
        if usize::from(self.used) == class.slots {
            return None;
        }
        let word = self.taken.iter().position(|word| *word != u64::MAX)?;
        Some(word * 64 + self.taken[word].trailing_ones() as usize)
    }

    pub fn highest_taken(&self) -> Option<usize> {
        self.owners.len().checked_sub(1)
    }

    pub fn take(&mut self, slot: usize, owner: u32) {
        self.taken[slot / 64] |= 1 << (slot % 64);
        if slot >= self.owners.len() {
            self.owners.resize(slot + 1, NOBODY);
        }
        self.owners[slot] = owner;
        self.used += 1;
    }

    /// False if the slot was free already.
    pub fn give(&mut self, slot: usize) -> bool {
        if !self.is_taken(slot) {
            return false;
        }
        self.taken[slot / 64] &= !(1 << (slot % 64));
        self.owners[slot] = NOBODY;
        while self.owners.last() == Some(&NOBODY) {
            self.owners.pop();
        }
        self.used -= 1;
        true
    }

    pub fn is_taken(&self, slot: usize) -> bool {
        self.taken.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    pub fn owner(&self, slot: usize) -> u32 {
        self.owners.get(slot).copied().unwrap_or(NOBODY)
    }

    /// Frames up to the end of the highest slot in use.
    pub fn needed_frames(&self, class: Class) -> usize {
        (self.owners.len() * class.slot_bytes).div_ceil(FRAME_BYTES)
    }

    pub fn metadata_bytes(&self) -> usize {
        size_of::<Slab>() + self.taken.len() * 8 + self.owners.capacity() * 4
    }
}

/// Which group a slab belongs to; None when it is full.
pub fn group_of(used: usize, class: Class) -> Option<usize> {
    (used < class.slots).then(|| used * GROUPS / class.slots)
}
