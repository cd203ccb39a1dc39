//! Where each page of the arena is, one word a page. The table of states is the pager's contract with itself; docs/design.md draws it.
//!
//! | state     | the page's bytes are                        | leaves by                                            |
//! |-----------|---------------------------------------------|------------------------------------------------------|
//! | Home      | where the kernel has them (or never written)| taken out -> Victim                                  |
//! | Victim    | in our frame, uncompressed                  | fault -> Home; packing begins -> Packing             |
//! | Packing   | in our frame, being put                     | put done -> Stored; fault -> TakenBack               |
//! | TakenBack | home again while the put still runs         | put done -> Home, and that put is flushed            |
//! | Stored    | with the engine, here or at a peer          | fault: hit -> Home; on its way -> Fetching           |
//! | Fetching  | with the engine, and on its way here        | arrival -> Home; lost -> Lost; remap -> Stored       |
//! | Lost      | nowhere: every access gets SIGBUS           | unmapped or discarded -> Home                        |
//!
//! A discard or unmap takes any state to Home. Every change happens under the lock of the page's extent with the layout open, or with the layout closed.

use std::sync::atomic::Ordering::{Acquire, Release};

use ramster_sys::lock::{Guard, Lock};
use ramster_sys::table::Table;
use rustix::io::Errno;

/// Pages of an extent: what one call moves out, and the unit of "cold". 16 neighbours cost a MOVE what one page costs.
pub const EXTENT_PAGES: usize = 16;
pub const EXTENT_SHIFT: u32 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Home,
    /// In this group of frames, at the slot with the page's number in its extent.
    Victim(u32),
    Packing(u32),
    TakenBack(u32),
    /// Since this time on the clock of `cold.rs`.
    Stored(u32),
    /// The number tells this fetch from an earlier one of the same page.
    Fetching(u32),
    Lost,
}

/// Numbers in a place are this wide; frame groups, fetch numbers and times wrap below it.
pub const NUMBER_MASK: u32 = (1 << 29) - 1;

impl Place {
    fn word(self) -> u32 {
        match self {
            Place::Home => 0,
            Place::Victim(group) => 1 | group << 3,
            Place::Packing(group) => 2 | group << 3,
            Place::TakenBack(group) => 3 | group << 3,
            Place::Stored(when) => 4 | when << 3,
            Place::Fetching(number) => 5 | number << 3,
            Place::Lost => 6,
        }
    }

    fn from_word(word: u32) -> Self {
        let number = word >> 3;
        match word & 7 {
            1 => Place::Victim(number),
            2 => Place::Packing(number),
            3 => Place::TakenBack(number),
            4 => Place::Stored(number),
            5 => Place::Fetching(number),
            6 => Place::Lost,
            _ => Place::Home,
        }
    }
}

/// How many locks the extents share: two faults collide one time in so many, and a lock is a cache line at most.
const EXTENT_LOCKS: usize = 1024;

pub struct States {
    pages: Table,
    locks: Vec<Lock<()>>,
}

impl States {
    pub fn new(pages: usize) -> Result<Self, Errno> {
        Ok(Self { pages: Table::new(pages)?, locks: (0..EXTENT_LOCKS).map(|_| Lock::new(())).collect() })
    }

    pub fn place(&self, page: usize) -> Place {
        Place::from_word(self.pages.at(page).load(Acquire))
    }

    pub fn set(&self, page: usize, place: Place) {
        self.pages.at(page).store(place.word(), Release);
    }

    /// Holds still every page of the extent. One at a time: nobody holds two.
    pub fn lock_extent(&self, extent: usize) -> Guard<'_, ()> {
        self.locks[extent % EXTENT_LOCKS].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_being_a_word() {
        for place in [
            Place::Home,
            Place::Victim(NUMBER_MASK),
            Place::Packing(7),
            Place::TakenBack(0),
            Place::Stored(NUMBER_MASK),
            Place::Fetching(NUMBER_MASK),
            Place::Lost,
        ] {
            assert_eq!(Place::from_word(place.word()), place);
        }
        assert_eq!(Place::from_word(0), Place::Home, "an untouched table says that every page is home");
    }
}
