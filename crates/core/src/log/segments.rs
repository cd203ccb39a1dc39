//! The segments of the file that is written: which is filled, which is cleaned, which is free. Covers one file's table and the choice of a victim; which
//! records are where is `mod.rs`'s.

use std::collections::{BTreeSet, VecDeque};

use super::{Choice, Purpose};

/// Sealed segments looked at for one victim: with a gigabyte of segments all, in a larger file so many from where the last look ended. Some 10 us.
const LOOK_SEGMENTS: usize = 1024;
/// Free segments with room on the disk that only the cleaner may take: it needs one to empty two others.
pub const RESERVE_SEGMENTS: usize = 1;
/// Free segments that keep their room on the disk: a steady stream of pages reuses them and asks the file system for nothing.
pub const KEEP_SEGMENTS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentState {
    /// Nothing of it is wanted. Whether it has room on the disk, `free` or `holes` tells.
    Free,
    /// Being filled.
    Head,
    Sealed,
    /// A victim: not free before the cleaner is done, however little is left of it.
    Cleaning,
    /// Something in it cannot be read: neither cleaned nor used again.
    Bad,
}

#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub state: SegmentState,
    pub live_bytes: u32,
    /// Written so far, padding among it.
    pub end_bytes: u32,
    /// When its youngest record was put, in records of this log.
    stamp: u64,
}

#[derive(Clone, Debug)]
pub struct Segments {
    list: Vec<Segment>,
    /// Free, and the file system has room set aside for them. First in, first out: what failed is not tried again at once.
    free: VecDeque<u32>,
    /// Free, without room on the disk.
    holes: BTreeSet<u32>,
    pub heads: [Option<u32>; 2],
    limit: u32,
    segment_bytes: u32,
    cursor: usize,
    clock: u64,
    /// Sealed or being filled or cleaned, and what of them is wanted.
    pub used: u32,
    pub live_bytes: u64,
}

impl Segments {
    pub fn new(segment_bytes: u32, limit: u32) -> Segments {
        Segments {
            list: Vec::new(),
            free: VecDeque::new(),
            holes: BTreeSet::new(),
            heads: [None; 2],
            limit,
            segment_bytes,
            cursor: 0,
            clock: 0,
            used: 0,
            live_bytes: 0,
        }
    }

    pub fn get(&self, index: u32) -> Option<&Segment> {
        self.list.get(index as usize)
    }

    #[cfg(test)]
    pub fn all(&self) -> &[Segment] {
        &self.list
    }

    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// The head for that purpose, and whether it has no room on the disk yet. None: no segment may be taken.
    pub fn head(&mut self, purpose: Purpose, least_bytes: u32) -> Option<(u32, bool)> {
        if let Some(index) = self.heads[purpose as usize] {
            if self.segment_bytes - self.list[index as usize].end_bytes >= least_bytes {
                return Some((index, false));
            }
            self.seal(purpose);
        }
        let reserved = if purpose == Purpose::Put { RESERVE_SEGMENTS } else { 0 };
        // Under the limit there must be one for the cleaner too, whether it has one now or not.
        let needed = if self.heads[Purpose::Clean as usize].is_none() { reserved * 2 } else { reserved };
        if self.limit as usize - self.list.len() + self.holes.len() + self.free.len() <= needed {
            return None;
        }
        let (index, fresh) = match self.free.len() > reserved {
            true => (self.free.pop_front()?, false),
            false => (self.new_segment()?, true),
        };
        let stamp = if purpose == Purpose::Put { self.clock } else { 0 };
        self.list[index as usize] = Segment { state: SegmentState::Head, live_bytes: 0, end_bytes: 0, stamp };
        self.heads[purpose as usize] = Some(index);
        self.used += 1;
        Some((index, fresh))
    }

    /// The head of that purpose takes nothing more.
    pub fn seal(&mut self, purpose: Purpose) {
        if let Some(index) = self.heads[purpose as usize].take() {
            self.list[index as usize].state = SegmentState::Sealed;
            self.free_if_empty(index);
        }
    }

    /// A fresh head that has got no room: as if it had never been taken.
    pub fn untake(&mut self, purpose: Purpose) {
        if let Some(index) = self.heads[purpose as usize].take() {
            self.list[index as usize].state = SegmentState::Free;
            self.holes.insert(index);
            self.used -= 1;
        }
    }

    /// So much of a head has been written.
    pub fn grow(&mut self, index: u32, bytes: u32, stamp: Option<u64>) {
        let segment = &mut self.list[index as usize];
        segment.end_bytes += bytes;
        match stamp {
            Some(stamp) => segment.stamp = segment.stamp.max(stamp),
            None => segment.stamp = self.clock,
        }
    }

    pub fn add_live(&mut self, index: u32, bytes: u32) {
        self.clock += 1;
        self.list[index as usize].live_bytes += bytes;
        self.live_bytes += u64::from(bytes);
    }

    pub fn remove_live(&mut self, index: u32, bytes: u32) {
        self.list[index as usize].live_bytes -= bytes;
        self.live_bytes -= u64::from(bytes);
        self.free_if_empty(index);
    }

    pub fn stamp(&self, index: u32) -> u64 {
        self.list[index as usize].stamp
    }

    /// Bytes of segments that are in use and not wanted.
    pub fn dead_bytes(&self) -> u64 {
        u64::from(self.used) * u64::from(self.segment_bytes) - self.live_bytes
    }

    /// What the cleaner can write. `refused`: the file system gives no room, so only what there is counts.
    pub fn clean_room_bytes(&self, refused: bool) -> u64 {
        let more = if refused { 0 } else { self.limit as usize - self.list.len() + self.holes.len() };
        let head =
            self.heads[Purpose::Clean as usize].map_or(0, |index| self.segment_bytes - self.list[index as usize].end_bytes);
        u64::from(head) + (self.free.len() + more) as u64 * u64::from(self.segment_bytes)
    }

    /// The sealed segment that is best cleaned, of those with so many dead bytes at least and so many live ones at most; it is being cleaned from now on.
    pub fn begin_clean(&mut self, choice: Choice, (dead_min_bytes, live_max_bytes): (u32, u64)) -> Option<u32> {
        let (count, size) = (self.list.len(), self.segment_bytes);
        let look = count.min(LOOK_SEGMENTS);
        let mut best: Option<(u128, usize)> = None;
        for index in (0..look).map(|step| (self.cursor + step) % count) {
            let segment = &self.list[index];
            let dead = size - segment.live_bytes;
            if segment.state != SegmentState::Sealed || dead < dead_min_bytes || u64::from(segment.live_bytes) > live_max_bytes {
                continue;
            }
            let score = match choice {
                Choice::Greedy => u128::from(dead),
                // Free space won, times how long it is likely to last, over the cost: reading all of it and writing what lives.
                Choice::CostBenefit => {
                    let age = u128::from(self.clock.saturating_sub(segment.stamp)) + 1;
                    (u128::from(dead) << 16) * age / u128::from(size + segment.live_bytes)
                }
            };
            if best.is_none_or(|(most, _)| score > most) {
                best = Some((score, index));
            }
        }
        if count > look {
            self.cursor = (self.cursor + look) % count;
        }
        let index = best?.1;
        self.list[index].state = SegmentState::Cleaning;
        Some(index as u32)
    }

    /// `readable`: every record in it could be read.
    pub fn end_clean(&mut self, index: u32, readable: bool) {
        let segment = &mut self.list[index as usize];
        if segment.state == SegmentState::Cleaning {
            segment.state = if readable { SegmentState::Sealed } else { SegmentState::Bad };
            self.free_if_empty(index);
        }
    }

    /// A free segment whose room on the disk is to be given back; it has none from now on.
    pub fn give_back(&mut self) -> Option<u32> {
        if self.free.len() <= KEEP_SEGMENTS {
            return None;
        }
        let index = self.free.pop_back()?;
        self.holes.insert(index);
        Some(index)
    }

    /// The room could not be given back: it has it still.
    pub fn not_given_back(&mut self, index: u32) {
        if self.holes.remove(&index) {
            self.free.push_back(index);
        }
    }

    fn new_segment(&mut self) -> Option<u32> {
        if let Some(index) = self.holes.pop_first() {
            return Some(index);
        }
        let index = self.list.len() as u32;
        if index >= self.limit {
            return None;
        }
        self.list.push(Segment { state: SegmentState::Free, live_bytes: 0, end_bytes: 0, stamp: 0 });
        Some(index)
    }

    fn free_if_empty(&mut self, index: u32) {
        let segment = &mut self.list[index as usize];
        if segment.state == SegmentState::Sealed && segment.live_bytes == 0 {
            segment.state = SegmentState::Free;
            self.free.push_back(index);
            self.used -= 1;
        }
    }
}
