//! Step 1: which extents are cold. There is no accessed bit to read, so extents queue in the order in which their pages came home. Faults tell two things more:
//!
//! - A page that is back soon after it left is in use, and its extent is passed over a few times. "Soon" is a refault distance: how many pages left
//!   since it did (as the kernel's mm/workingset.c has it).
//! - What a scan brings in is often used once. Most of it waits in a queue of its own (bimodal insertion: Qureshi et al., ISCA 2007), so that a sweep over
//!   more memory than there is does not push out what it will need next. How long that queue may be follows which of the two lost pages that were
//!   wanted again (the balance of ARC: Megiddo and Modha, FAST 2003): a sort scans its newest memory again at once, a sum never does.
//!
//! The other half of the second chance is the victim buffer. Only what is cold is decided here; taking it out is `reclaim.rs`.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicUsize};

use ramster_sys::lock::Lock;
use ramster_sys::table::Table;
use rustix::io::Errno;

use crate::states::NUMBER_MASK;

const QUEUED: u32 = 1;
/// The passes that an extent has left, a number of two bits.
const PASS: u32 = 2;
const PASSES: u32 = 3 * PASS;
/// Left, the last time, from the queue of what was scanned.
const WAS_SCANNED: u32 = 8;

/// A page is back soon when fewer pages left meanwhile than this part of those at home: it would have stayed had there been an eighth more memory. A
/// quarter did as well in a dict of tuples, a sixteenth too.
const SOON_SHARE: usize = 8;
/// How many extents in use one search passes over. Unlimited, a program that uses everything would make each search walk the whole queue.
const MOST_PASSED: usize = 8;
/// A page that is back before this part of those at home has left shows that its queue was too short.
const TOO_SHORT_SHARE: usize = 2;
/// By so many extents the bound between the queues moves for each such page.
const STEP: usize = 2;
/// The scanned are at least this part of all.
const LEAST_SCANNED_SHARE: usize = 11;
/// Of a sweep over more than fits the main queue gets one extent in so many, and those are still there when it comes round.
const SWEEP_KEEPS: u32 = 8;

pub struct Cold {
    marks: Table,
    queues: Lock<Queues>,
    /// Pages that ever left: the clock.
    left: AtomicU32,
    scanned: AtomicU32,
    /// How many of the queued extents may be scanned ones before those leave first.
    scanned_most: AtomicUsize,
}

#[derive(Default)]
struct Queues {
    main: VecDeque<u32>,
    scanned: VecDeque<u32>,
}

impl Cold {
    pub fn new(extents: usize) -> Result<Self, Errno> {
        let (left, scanned, scanned_most) = (AtomicU32::new(0), AtomicU32::new(0), AtomicUsize::new(0));
        Ok(Self { marks: Table::new(extents)?, queues: Lock::new(Queues::default()), left, scanned, scanned_most })
    }

    /// The time, in pages that left.
    pub fn now(&self) -> u32 {
        self.left.load(Relaxed) & NUMBER_MASK
    }

    pub fn left(&self, pages: usize) {
        self.left.fetch_add(pages as u32, Relaxed);
    }

    /// A page of the extent, which had left at `since`, is wanted again.
    pub fn is_back(&self, extent: usize, since: u32, pages_at_home: usize) {
        let away = (self.now().wrapping_sub(since) & NUMBER_MASK) as usize;
        if away < pages_at_home / TOO_SHORT_SHARE {
            self.lengthen(self.marks.at(extent).load(Relaxed) & WAS_SCANNED != 0);
        }
        if away < pages_at_home / SOON_SHARE {
            self.is_in_use(extent);
        }
    }

    /// Two at once may undo each other's step, which matters to nobody.
    fn lengthen(&self, scanned: bool) {
        let most = self.scanned_most.load(Relaxed);
        self.scanned_most.store(if scanned { most + STEP } else { most.saturating_sub(STEP) }, Relaxed);
    }

    pub fn is_in_use(&self, extent: usize) {
        self.marks.at(extent).fetch_or(PASSES, Relaxed);
    }

    /// A page of the extent came home.
    pub fn came_home(&self, extent: usize) {
        if self.joins(extent) {
            self.queues.lock().main.push_back(extent as u32);
        }
    }

    /// Pages of the extent came home because a scan passes there.
    pub fn came_with_scan(&self, extent: usize) {
        if !self.joins(extent) {
            return;
        }
        let in_use = self.marks.at(extent).load(Relaxed) & PASSES != 0;
        let kept = in_use || self.scanned.fetch_add(1, Relaxed).is_multiple_of(SWEEP_KEEPS);
        let mut queues = self.queues.lock();
        let queue = if kept { &mut queues.main } else { &mut queues.scanned };
        queue.push_back(extent as u32);
    }

    /// It was in no queue, and is as good as queued now.
    fn joins(&self, extent: usize) -> bool {
        let mark = self.marks.at(extent);
        mark.load(Relaxed) & QUEUED == 0 && mark.fetch_or(QUEUED, Relaxed) & QUEUED == 0
    }

    /// The coldest extent, which is no longer queued then.
    pub fn next(&self) -> Option<usize> {
        let mut queues = self.queues.lock();
        let Queues { main, scanned } = &mut *queues;
        let all = main.len() + scanned.len();
        let most = self.scanned_most.load(Relaxed).clamp(all / LEAST_SCANNED_SHARE, all - all / LEAST_SCANNED_SHARE);
        self.scanned_most.store(most, Relaxed);
        if scanned.len() > most {
            return self.leaves(scanned, WAS_SCANNED);
        }
        // Passes are spent here only, under the lock.
        for _ in 0..MOST_PASSED.min(main.len()) {
            let mark = self.marks.at(*main.front()? as usize);
            if mark.load(Relaxed) & PASSES == 0 {
                break;
            }
            mark.fetch_sub(PASS, Relaxed);
            main.rotate_left(1);
        }
        self.leaves(main, 0).or_else(|| self.leaves(scanned, WAS_SCANNED))
    }

    fn leaves(&self, queue: &mut VecDeque<u32>, mark: u32) -> Option<usize> {
        let extent = queue.pop_front()? as usize;
        self.marks.at(extent).store(mark, Relaxed);
        Some(extent)
    }

    pub fn freeze(&self) {
        self.queues.freeze();
    }

    pub fn thaw(&self) {
        self.queues.thaw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cold() -> Cold {
        Cold::new(4096).expect("table")
    }

    #[test]
    fn the_extent_that_came_first_leaves_first_unless_it_is_in_use() {
        let cold = cold();
        (0..4).for_each(|extent| cold.came_home(extent));
        cold.is_in_use(0);
        assert_eq!([cold.next(), cold.next(), cold.next(), cold.next(), cold.next()], [Some(1), Some(2), Some(3), Some(0), None]);
    }

    #[test]
    fn an_extent_in_use_is_passed_over_three_times() {
        let cold = cold();
        cold.is_in_use(0);
        cold.came_home(0);
        let rounds = (1..).take_while(|extent| {
            cold.came_home(*extent);
            cold.next() != Some(0)
        });
        assert_eq!(rounds.count(), 3);
    }

    #[test]
    fn a_queue_of_nothing_but_extents_in_use_still_yields_them_all() {
        let cold = cold();
        (0..32).for_each(|extent| cold.came_home(extent));
        (0..32).for_each(|extent| cold.is_in_use(extent));
        assert_eq!(std::iter::from_fn(|| cold.next()).count(), 32);
    }

    #[test]
    fn soon_is_measured_in_pages_that_left_meanwhile() {
        let cold = cold();
        (0..2).for_each(|extent| cold.came_home(extent));
        let since = cold.now();
        cold.left(100);
        cold.is_back(0, since, 800);
        assert_eq!(cold.next(), Some(0), "a hundred of eight hundred is not soon");
        cold.is_back(1, since, 808);
        cold.came_home(0);
        assert_eq!(cold.next(), Some(0), "the other is in use");
    }

    #[test]
    fn the_clock_may_wrap() {
        let cold = cold();
        cold.left(NUMBER_MASK as usize);
        let since = cold.now();
        cold.left(10);
        (0..2).for_each(|extent| cold.came_home(extent));
        cold.is_back(0, since, 800);
        assert_eq!(cold.next(), Some(1));
    }

    #[test]
    fn a_sweep_over_more_than_fits_finds_a_part_of_it_still_at_home() {
        let cold = cold();
        let (fits, swept) = (1000, 2000);
        let mut at_home = std::collections::HashSet::new();
        let mut hits = [0; 8];
        for hits in &mut hits {
            for extent in 0..swept {
                if at_home.contains(&extent) {
                    *hits += 1;
                    continue;
                }
                if at_home.len() == fits {
                    at_home.remove(&cold.next().expect("a queued extent"));
                }
                cold.came_with_scan(extent);
                at_home.insert(extent);
            }
        }
        // In the order of arrival alone there would be none.
        assert!(hits[7] > 500, "hits of each sweep: {hits:?}");
    }

    #[test]
    fn scanned_pages_that_are_wanted_again_at_once_are_given_more_room() {
        let cold = cold();
        let scans_left = |cold: &Cold| {
            (0..100).for_each(|extent| cold.came_home(extent));
            (100..200).for_each(|extent| cold.came_with_scan(extent));
            (0..50).filter(|_| cold.next().is_some_and(|extent| extent >= 100)).count()
        };
        assert!(scans_left(&cold) >= 49, "at first what was scanned leaves first");
        while cold.next().is_some() {}
        let since = cold.now();
        cold.left(300);
        (100..150).for_each(|extent| cold.is_back(extent, since, 1000));
        assert!(scans_left(&cold) < 20);
    }

    #[test]
    fn who_is_queued_is_queued_once() {
        let cold = cold();
        (0..3).for_each(|_| cold.came_home(7));
        cold.came_with_scan(7);
        assert_eq!([cold.next(), cold.next()], [Some(7), None]);
    }
}
