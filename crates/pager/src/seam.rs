//! Named points where a test forces a race: it registers what is to happen when a page passes there. Compiled out without the feature `seams`. Covers
//! the points and a hand that evicts when told; what is raced is the tests' (tests/races.rs).

#[cfg(feature = "seams")]
pub use on::{Hand, call_second_handler, off, on, place};

/// Where a page passes. What a callback may do depends on what is held there: it MUST NOT touch managed memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    /// A fault was read, nothing is held.
    FaultRead,
    /// A fault on a stored page, its extent let go before the page is got. The layout is open.
    BeforeLocalify,
    /// The page's frame has left the program and no state says so yet. The extent is held.
    AfterMoveOut,
    /// The page is being packed; a fault takes it back. The layout is open.
    BeforePut,
    /// The put is done and no state says so yet. The layout is open.
    AfterPut,
    /// A page's bytes are there and go in next. The extent is held.
    BeforeFill,
    /// The page has been asked for at a peer. The extent is held.
    AfterFetch,
    /// The page has come from a peer; nothing is held.
    Arrival,
}

#[cfg(not(feature = "seams"))]
#[inline(always)]
pub(crate) fn pass(_: Point, _: usize) {}

#[cfg(feature = "seams")]
pub(crate) use on::pass;

#[cfg(feature = "seams")]
mod on {
    use std::sync::Arc;

    use ramster_sys::lock::Lock;

    use super::Point;
    use crate::Pager;
    use crate::reclaim::Reclaimer;
    use crate::states::{EXTENT_PAGES, Place};

    type Callback = Arc<dyn Fn(usize) + Send + Sync>;

    static CALLBACKS: Lock<Vec<(Point, Callback)>> = Lock::new(Vec::new());

    /// From now on `callback` gets the address of every page that passes here, in the thread that brings it along.
    pub fn on(point: Point, callback: impl Fn(usize) + Send + Sync + 'static) {
        CALLBACKS.lock().push((point, Arc::new(callback)));
    }

    pub fn off() {
        CALLBACKS.lock().clear();
    }

    pub(crate) fn pass(point: Point, addr: usize) {
        let callbacks: Vec<Callback> =
            CALLBACKS.lock().iter().filter(|(at, _)| *at == point).map(|(_, callback)| Arc::clone(callback)).collect();
        callbacks.iter().for_each(|callback| callback(addr));
    }

    /// The state of the page, as the table in `states.rs` names it.
    pub fn place(pager: &Pager, addr: usize) -> &'static str {
        match pager.states.place(pager.page_of(addr)) {
            Place::Home => "Home",
            Place::Victim(_) => "Victim",
            Place::Packing(_) => "Packing",
            Place::TakenBack(_) => "TakenBack",
            Place::Stored(_) => "Stored",
            Place::Fetching(_) => "Fetching",
            Place::Lost => "Lost",
        }
    }

    /// Two handlers are on duty, whatever the cores say. Only once the pager manages.
    pub fn call_second_handler(pager: &'static Pager) -> std::io::Result<()> {
        let managing = pager.layout.read().managing.clone();
        match managing.filter(|_| pager.crew.on_duty() < 2) {
            Some(managing) => pager.crew.start(pager, &managing.uffd, 0),
            None => Ok(()),
        }
    }

    /// Evicts what the test says, in the thread of the test.
    pub struct Hand {
        pager: &'static Pager,
        reclaimer: Reclaimer,
    }

    impl Hand {
        pub fn new(pager: &'static Pager) -> Self {
            Hand { pager, reclaimer: Reclaimer::new(pager) }
        }

        /// The extents of the range, out of the program into the victim buffer. Returns how many pages left.
        pub fn take_out(&mut self, addr: usize, len: usize) -> usize {
            let pager = self.pager;
            // Answers under way end first, and with them their read-ahead, which would bring pages of the test back unasked.
            drop(pager.layout.write());
            let layout = pager.layout.read();
            let Some(managing) = layout.managing.clone() else { return 0 };
            let (first, last) = (pager.page_of(addr) / EXTENT_PAGES, pager.page_of(addr + len - 1) / EXTENT_PAGES);
            (first..=last).map(|extent| self.reclaimer.take_out(&layout, &managing, extent)).sum()
        }

        /// The victim buffer is empty afterwards.
        pub fn put_all(&mut self) {
            while self.reclaimer.put_oldest() {}
        }
    }
}
