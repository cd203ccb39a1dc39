//! The victim buffer: pages just taken out, uncompressed in frames of ours, in groups of one extent each. Covers groups and their order; what happens to the
//! pages is `reclaim.rs` and `fault.rs`.
//!
//! | group   | holds                          | leaves by                                  |
//! |---------|--------------------------------|--------------------------------------------|
//! | free    | nothing                        | `take`                                     |
//! | waiting | pages of one extent            | `oldest` -> in work                        |
//! | in work | pages being put by one thread  | `give_back` -> spent; fork -> waiting again |
//! | spent   | pages that nobody needs        | enough of them -> all free                 |

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicUsize};

use ramster_sys::frames::Frames;
use ramster_sys::lock::Lock;
use rustix::io::Errno;

use crate::states::EXTENT_PAGES;

/// Frames are discarded so many groups at a time: each call interrupts every core that runs the program. Twice as many would save little more, and
/// hold twice the memory for nothing.
const SPENT_GROUPS: usize = 16;

pub struct Victims {
    pub frames: Frames,
    extents: Vec<AtomicU32>,
    /// Low half: which slots of a group still count; a bit is cleared when a fault took the page back. High half: which were filled. Changed under the
    /// extent's lock.
    masks: Vec<AtomicU32>,
    lists: Lock<Lists>,
    /// Frames that hold a page, valid or not, until they are discarded.
    held_pages: AtomicUsize,
    spent_most: usize,
}

struct Lists {
    /// First in, first out, so that groups that are spent together lie together.
    free: VecDeque<u32>,
    waiting: VecDeque<u32>,
    in_work: Vec<u32>,
    spent: Vec<u32>,
}

impl Victims {
    pub fn new(groups: usize) -> Result<Self, Errno> {
        let zeroes = || (0..groups).map(|_| AtomicU32::new(0)).collect();
        Ok(Self {
            frames: Frames::new(groups * EXTENT_PAGES)?,
            extents: zeroes(),
            masks: zeroes(),
            lists: Lock::new(Lists {
                free: (0..groups as u32).collect(),
                waiting: VecDeque::with_capacity(groups),
                in_work: Vec::with_capacity(groups),
                spent: Vec::with_capacity(SPENT_GROUPS),
            }),
            held_pages: AtomicUsize::new(0),
            // Of a small buffer a small part.
            spent_most: (groups / 16).clamp(1, SPENT_GROUPS),
        })
    }

    pub fn take(&self) -> Option<u32> {
        self.lists.lock().free.pop_front()
    }

    /// The group now holds the extent's pages in `mask`. An empty mask gives the group back at once.
    pub fn fill(&self, group: u32, extent: usize, mask: u16) {
        self.extents[group as usize].store(extent as u32, Relaxed);
        self.masks[group as usize].store(u32::from(mask) * 0x1_0001, Release);
        let mut lists = self.lists.lock();
        if mask == 0 {
            lists.free.push_back(group);
        } else {
            self.held_pages.fetch_add(mask.count_ones() as usize, Relaxed);
            lists.waiting.push_back(group);
        }
    }

    /// The group that has waited longest goes to work.
    pub fn oldest(&self) -> Option<u32> {
        let mut lists = self.lists.lock();
        let group = lists.waiting.pop_front()?;
        lists.in_work.push(group);
        Some(group)
    }

    /// The pages of a group in work are needed no more.
    pub fn give_back(&self, group: u32) {
        let mut together = [0; SPENT_GROUPS];
        let together = {
            let mut lists = self.lists.lock();
            lists.in_work.retain(|other| *other != group);
            lists.spent.push(group);
            if lists.spent.len() < self.spent_most {
                return;
            }
            let together = &mut together[..lists.spent.len()];
            together.copy_from_slice(&lists.spent);
            lists.spent.clear();
            together
        };
        together.sort_unstable();
        for run in together.chunk_by(|group, next| group + 1 == *next) {
            self.frames.discard(self.first_slot(run[0]), run.len() * EXTENT_PAGES);
        }
        let filled = |group: &u32| (self.masks[*group as usize].swap(0, Release) >> 16).count_ones() as usize;
        self.held_pages.fetch_sub(together.iter().map(filled).sum(), Relaxed);
        self.lists.lock().free.extend(together.iter());
    }

    pub fn extent(&self, group: u32) -> usize {
        self.extents[group as usize].load(Relaxed) as usize
    }

    pub fn first_slot(&self, group: u32) -> usize {
        group as usize * EXTENT_PAGES
    }

    /// The frame of a page: its slot in the group is its place in the extent.
    pub fn slot(&self, group: u32, page: usize) -> usize {
        self.first_slot(group) + page % EXTENT_PAGES
    }

    /// Pages of the group that nobody took back.
    pub fn mask(&self, group: u32) -> u16 {
        self.masks[group as usize].load(Acquire) as u16
    }

    pub fn took_back(&self, group: u32, page: usize) {
        self.masks[group as usize].fetch_and(!(1 << (page % EXTENT_PAGES)), Release);
    }

    pub fn held_pages(&self) -> usize {
        self.held_pages.load(Relaxed)
    }

    pub fn capacity_pages(&self) -> usize {
        self.extents.len() * EXTENT_PAGES
    }

    pub fn freeze(&self) {
        self.lists.freeze();
    }

    pub fn thaw(&self) {
        self.lists.thaw();
    }

    /// In a forked child: the threads that worked on groups are not here.
    pub fn after_fork_child(&self) {
        let mut lists = self.lists.lock();
        let orphans = std::mem::take(&mut lists.in_work);
        for group in orphans {
            lists.waiting.push_front(group);
        }
    }
}
