//! Step 1: which extents are cold. There is no accessed bit to read, so extents queue in the order in which pages came home, and one that faulted again while
//! it waited gets a second chance. The other half of the second chance is the victim buffer.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use ramster_sys::lock::Lock;
use ramster_sys::table::Table;
use rustix::io::Errno;

const QUEUED: u32 = 1;
const REFERENCED: u32 = 2;

/// How many referenced extents one search passes over. Unlimited, a program that touches everything would make each search walk the whole queue;
/// with twice as many, hot extents under a Zipf-like load stay a little longer.
const SECOND_CHANCES: usize = 8;

pub struct Cold {
    marks: Table,
    queue: Lock<VecDeque<u32>>,
}

impl Cold {
    pub fn new(extents: usize) -> Result<Self, Errno> {
        Ok(Self { marks: Table::new(extents)?, queue: Lock::new(VecDeque::new()) })
    }

    /// A page of the extent came home.
    pub fn came_home(&self, extent: usize) {
        let mark = self.marks.at(extent);
        if mark.load(Relaxed) & QUEUED != 0 {
            mark.fetch_or(REFERENCED, Relaxed);
        } else if mark.fetch_or(QUEUED, Relaxed) & QUEUED == 0 {
            self.queue.lock().push_back(extent as u32);
        }
    }

    /// The coldest extent, which is no longer queued then.
    pub fn next(&self) -> Option<usize> {
        let mut queue = self.queue.lock();
        for _ in 0..SECOND_CHANCES {
            let extent = queue.pop_front()?;
            let mark = self.marks.at(extent as usize);
            if mark.load(Relaxed) & REFERENCED == 0 {
                mark.store(0, Relaxed);
                return Some(extent as usize);
            }
            mark.store(QUEUED, Relaxed);
            queue.push_back(extent);
        }
        let extent = queue.pop_front()? as usize;
        self.marks.at(extent).store(0, Relaxed);
        Some(extent)
    }

    pub fn freeze(&self) {
        self.queue.freeze();
    }

    pub fn thaw(&self) {
        self.queue.thaw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_extent_that_did_not_fault_again_is_the_coldest() {
        let cold = Cold::new(64).expect("table");
        (0..4).for_each(|extent| cold.came_home(extent));
        cold.came_home(0);
        assert_eq!([cold.next(), cold.next(), cold.next(), cold.next(), cold.next()], [Some(1), Some(2), Some(3), Some(0), None]);
    }

    #[test]
    fn a_queue_of_nothing_but_hot_extents_still_yields_one() {
        let cold = Cold::new(64).expect("table");
        (0..32).for_each(|extent| cold.came_home(extent));
        (0..32).for_each(|extent| cold.came_home(extent));
        assert!(cold.next().is_some());
        assert_eq!(std::iter::from_fn(|| cold.next()).count(), 31);
    }
}
