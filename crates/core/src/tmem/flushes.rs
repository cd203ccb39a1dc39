//! Flushes that holders have yet to hear of. Covers the queue; sending is the remotifier's.
//!
//! The orders of one holder MUST reach it in the order of the queue, and before any batch that was begun after them, or a range flushed long
//! ago takes a page with it that was put since.

use crate::handle::{Handle, HolderId, ObjectId, PoolId, Version};
use std::collections::VecDeque;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// That one copy: a holder that has another version under the handle keeps it.
    Copy {
        handle: Handle,
        version: Version,
    },
    /// `count` indexes from the handle's on, whatever their versions.
    Range {
        handle: Handle,
        count: u32,
    },
    Object {
        pool: PoolId,
        object: ObjectId,
    },
    Pool(PoolId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushOrder {
    pub holder: HolderId,
    pub what: Flush,
}

/// At most one order for each copy that a holder has: bounded by what was sent.
#[derive(Clone, Default)]
pub struct Flushes {
    queue: VecDeque<FlushOrder>,
}

impl Flushes {
    pub fn copy(&mut self, holder: HolderId, handle: Handle, version: Version) {
        self.queue.push_back(FlushOrder { holder, what: Flush::Copy { handle, version } });
    }

    pub fn all(&mut self, holders: &Holders, what: Flush) {
        self.queue.extend(holders.0.iter().map(|holder| FlushOrder { holder: *holder, what }));
    }

    pub fn take(&mut self, max: usize, out: &mut Vec<FlushOrder>) {
        let count = max.min(self.queue.len());
        out.extend(self.queue.drain(..count));
        if self.queue.is_empty() && self.queue.capacity() > 4096 {
            self.queue = VecDeque::new();
        }
    }

    /// A dead holder need not hear anything.
    pub fn forget(&mut self, holder: HolderId) {
        self.queue.retain(|order| order.holder != holder);
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }
}

/// Holders that had something of what is being flushed: few.
#[derive(Default)]
pub struct Holders(Vec<HolderId>);

impl Holders {
    pub fn add(&mut self, holder: HolderId) {
        if !self.0.contains(&holder) {
            self.0.push(holder);
        }
    }
}
