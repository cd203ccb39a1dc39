//! What is mapped where in the arena, and under which names its pages are put. Pure bookkeeping: splitting, carving, walking; no system calls.

use std::collections::BTreeMap;

use ramster_core::handle::{Handle, ObjectId, PoolId};
use ramster_core::page::PAGE_SHIFT;

/// One stretch of the arena whose pages are treated alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    pub start: usize,
    pub end: usize,
    pub prot: i32,
    /// Names the pages: page n of the object is at `start + (n - first_index) * 4096`. Kept when the mapping moves, so stored pages need no new name.
    pub object: u64,
    pub first_index: u32,
    /// Locked into memory by the program: never taken out.
    pub pinned: bool,
    /// Somebody mapped a file or shared memory over the addresses: never ours to touch.
    pub foreign: bool,
    /// The program asked that a child does not get it.
    pub dont_fork: bool,
    /// The program asked that a child finds it zeroed.
    pub wipe_on_fork: bool,
}

impl Region {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn handle(&self, pool: PoolId, addr: usize) -> Handle {
        let index = self.first_index + ((addr - self.start) >> PAGE_SHIFT) as u32;
        Handle { pool, object: ObjectId([self.object, 0, 0]), index }
    }

    /// May pages be taken out? Only from mappings that the program can write: a MOVE demands it, and who cannot write rarely keeps much.
    pub fn evictable(&self) -> bool {
        !self.pinned && !self.foreign && self.prot & libc::PROT_WRITE != 0
    }

    fn usable_bytes(&self) -> usize {
        if self.prot == libc::PROT_NONE { 0 } else { self.len() }
    }

    fn clip(&self, start: usize, end: usize) -> Region {
        let from = self.start.max(start);
        Region {
            start: from,
            end: self.end.min(end),
            first_index: self.first_index + ((from - self.start) >> PAGE_SHIFT) as u32,
            ..*self
        }
    }
}

#[derive(Default)]
pub struct Regions {
    by_start: BTreeMap<usize, Region>,
    next_object: u64,
    mapped_bytes: usize,
}

impl Regions {
    pub fn find(&self, addr: usize) -> Option<&Region> {
        self.by_start.range(..=addr).next_back().map(|(_, region)| region).filter(|region| addr < region.end)
    }

    /// The parts of regions that lie in the range, in order.
    pub fn pieces(&self, start: usize, end: usize) -> impl Iterator<Item = Region> + '_ {
        let first = self.find(start).map_or(start, |region| region.start);
        self.by_start.range(first..end).map(move |(_, region)| region.clip(start, end)).filter(|piece| piece.start < piece.end)
    }

    /// How far the range is mapped without a hole.
    pub fn covered_to(&self, start: usize, end: usize) -> usize {
        let mut at = start;
        for piece in self.pieces(start, end) {
            if piece.start != at {
                break;
            }
            at = piece.end;
        }
        at
    }

    /// A new region with pages of a new name.
    pub fn add(&mut self, start: usize, len: usize, prot: i32) -> Region {
        self.next_object += 1;
        let object = self.next_object;
        let (pinned, foreign, dont_fork, wipe_on_fork) = (false, false, false, false);
        let region = Region { start, end: start + len, prot, object, first_index: 0, pinned, foreign, dont_fork, wipe_on_fork };
        self.insert(region);
        region
    }

    pub fn insert(&mut self, region: Region) {
        self.mapped_bytes += region.usable_bytes();
        self.by_start.insert(region.start, region);
    }

    /// Takes the range out and returns what was there; regions that reach over its borders keep their other part.
    pub fn carve(&mut self, start: usize, end: usize) -> Vec<Region> {
        self.split(start);
        self.split(end);
        let keys: Vec<usize> = self.by_start.range(start..end).map(|(key, _)| *key).collect();
        keys.iter()
            .filter_map(|key| self.by_start.remove(key))
            .inspect(|region| self.mapped_bytes -= region.usable_bytes())
            .collect()
    }

    /// Changes every part of the range.
    pub fn change(&mut self, start: usize, end: usize, mut change: impl FnMut(&mut Region)) {
        self.split(start);
        self.split(end);
        for (_, region) in self.by_start.range_mut(start..end) {
            self.mapped_bytes -= region.usable_bytes();
            change(region);
            self.mapped_bytes += region.usable_bytes();
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &Region> {
        self.by_start.values()
    }

    /// Sum of all regions that the program can touch: no more than this becomes resident.
    pub fn mapped_bytes(&self) -> usize {
        self.mapped_bytes
    }

    fn split(&mut self, at: usize) {
        let Some(region) = self.find(at).copied() else { return };
        if region.start == at {
            return;
        }
        self.by_start.insert(region.start, region.clip(region.start, at));
        self.by_start.insert(at, region.clip(at, region.end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

    #[test]
    fn a_page_keeps_its_name_through_splits() {
        let mut regions = Regions::default();
        let whole = regions.add(0x10000, 0x10000, RW);
        let name = whole.handle(PoolId(1), 0x18000);
        regions.change(0x14000, 0x1a000, |region| region.prot = libc::PROT_READ);
        assert_eq!(regions.all().count(), 3);
        assert_eq!(regions.find(0x18000).map(|region| region.handle(PoolId(1), 0x18000)), Some(name));
        let gone = regions.carve(0x18000, 0x19000);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].handle(PoolId(1), 0x18000), name);
        assert_eq!(regions.mapped_bytes(), 0xf000);
        assert_eq!(regions.covered_to(0x10000, 0x20000), 0x18000);
    }

    #[test]
    fn two_mappings_at_one_address_have_different_names() {
        let mut regions = Regions::default();
        let before = regions.add(0x10000, 0x1000, RW).handle(PoolId(1), 0x10000);
        regions.carve(0x10000, 0x11000);
        let after = regions.add(0x10000, 0x1000, RW).handle(PoolId(1), 0x10000);
        assert_ne!(before, after);
    }

    #[test]
    fn pieces_are_clipped_at_both_ends() {
        let mut regions = Regions::default();
        regions.add(0x1000, 0x4000, RW);
        regions.add(0x8000, 0x4000, RW);
        let pieces: Vec<_> = regions.pieces(0x3000, 0x9000).map(|piece| (piece.start, piece.end, piece.first_index)).collect();
        assert_eq!(pieces, [(0x3000, 0x5000, 2), (0x8000, 0x9000, 0)]);
    }
}
