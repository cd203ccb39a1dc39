//! Step 2: the one interface of all doors. Covers the verbs and their outcomes; not how a page is kept.

use crate::handle::{Handle, HolderId, ObjectId, PoolId, PoolKind};
use crate::page::Page;

/// What every door stands on. Outcomes are values; loss is an error.
///
/// Promises (docs/design.md has the numbers): a get after an acknowledged put returns those bytes, or a miss (ephemeral
/// pools only), or [`Lost`]; never older bytes, never zeroes. A refused put leaves no older copy of that handle anywhere.
pub trait Backend: Send + Sync {
    fn new_pool(&self, kind: PoolKind) -> Result<PoolId, Refusal>;
    fn put(&self, handle: &Handle, page: &Page) -> Put;
    /// Blocks while the page is fetched from a peer, at most the engine's get deadline.
    fn get(&self, handle: &Handle, keep: Keep, page: &mut Page) -> Result<Get, Lost>;
    fn flush_page(&self, handle: &Handle);
    /// Flushes `count` pages from `handle` on: what an unmap of a range needs.
    fn flush_range(&self, handle: &Handle, count: u32);
    fn flush_object(&self, pool: PoolId, object: ObjectId);
    fn destroy_pool(&self, pool: PoolId);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    Stored,
    /// Nothing is kept under this handle any more, neither the new page nor an older one.
    Rejected(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Get {
    Hit,
    Miss,
}

/// What a get leaves behind. Ephemeral pools ignore it: their gets are exclusive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Keep the stored copy, wherever it is.
    Keep,
    /// Free it everywhere.
    Free,
    /// Free a local copy (its memory is wanted), keep one at a peer (so that an unchanged page need not travel again).
    KeepRemote,
}

/// One counter per reason; the names are those of the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    StoreFull,
    PoolFull,
    NoSuchPool,
    TooManyPools,
}

/// A persistent page that cannot be brought back. Loud by design: the pager turns it into SIGBUS at that address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lost {
    pub handle: Handle,
    pub holder: Option<HolderId>,
    pub why: Loss,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Loss {
    HolderDied,
    HolderForgot,
    Corrupt,
    Deadline,
    SpillFailed,
}
