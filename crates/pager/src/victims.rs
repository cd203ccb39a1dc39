//! The victim buffer: pages just taken out, uncompressed in frames of ours, in groups of one extent each. Covers groups and their order; what happens to the
//! pages is `reclaim.rs` and `fault.rs`.
//!
//! | group   | holds                          | leaves by                                  |
//! |---------|--------------------------------|--------------------------------------------|
//! | free    | nothing                        | `take`                                     |
//! | waiting | pages of one extent            | `oldest` -> in work                        |
//! | in work | pages being put by one thread  | `give_back` -> free; fork -> waiting again |

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicUsize};

use ramster_sys::frames::Frames;
use ramster_sys::lock::Lock;
use rustix::io::Errno;

use crate::states::EXTENT_PAGES;

pub struct Victims {
    pub frames: Frames,
    extents: Vec<AtomicU32>,
    /// Low half: which slots of a group still count; a bit is cleared when a fault took the page back. High half: which were filled. Changed under the
    /// extent's lock.
    masks: Vec<AtomicU32>,
    lists: Lock<Lists>,
    /// Frames that hold a page, valid or taken back, until the group is given back.
    held_pages: AtomicUsize,
}

struct Lists {
    free: Vec<u32>,
    waiting: VecDeque<u32>,
    in_work: Vec<u32>,
}

impl Victims {
    pub fn new(groups: usize) -> Result<Self, Errno> {
        let zeroes = || (0..groups).map(|_| AtomicU32::new(0)).collect();
        Ok(Self {
            frames: Frames::new(groups * EXTENT_PAGES)?,
            extents: zeroes(),
            masks: zeroes(),
            lists: Lock::new(Lists {
                free: (0..groups as u32).rev().collect(),
                waiting: VecDeque::with_capacity(groups),
                in_work: Vec::with_capacity(groups),
            }),
            held_pages: AtomicUsize::new(0),
        })
    }

    pub fn take(&self) -> Option<u32> {
        self.lists.lock().free.pop()
    }

    /// The group now holds the extent's pages in `mask`. An empty mask gives the group back at once.
    pub fn fill(&self, group: u32, extent: usize, mask: u16) {
        self.extents[group as usize].store(extent as u32, Relaxed);
        self.masks[group as usize].store(u32::from(mask) * 0x1_0001, Release);
        let mut lists = self.lists.lock();
        if mask == 0 {
            lists.free.push(group);
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

    /// Frees the frames of a group in work.
    pub fn give_back(&self, group: u32) {
        self.frames.discard(self.first_slot(group), EXTENT_PAGES);
        let pages = (self.masks[group as usize].swap(0, Release) >> 16).count_ones() as usize;
        self.held_pages.fetch_sub(pages, Relaxed);
        let mut lists = self.lists.lock();
        lists.in_work.retain(|other| *other != group);
        lists.free.push(group);
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
