//! The engine as plain data, for the brain, `ramster status` and tests. Covers this process only; the tree's sums are in the stat block.

use serde::Serialize;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    pub pages_same: u64,
    pub pages_local: u64,
    pub pages_in_transit: u64,
    /// At holders, the spill file among them.
    pub pages_remote: u64,
    pub pages_lost: u64,
    /// What the store takes of this machine's memory, in whole frames.
    pub store_bytes: u64,
    /// The limit in force: over it pages are remotified.
    pub store_limit_bytes: u64,
    /// What tmem's own tables take besides.
    pub metadata_bytes: u64,
    pub resident_bytes: u64,
    /// Packed bytes at holders, the spill file among them.
    pub remote_bytes: u64,
    /// Records of pages in spill files.
    pub spill_bytes: u64,
    /// What the one that is written takes of the disk.
    pub spill_used_bytes: u64,
    /// Written by its cleaner, and segments that it could not read.
    pub spill_moved_bytes: u64,
    pub spill_bad_segments: u64,
    /// none, ok, full or failed.
    pub disk: &'static str,
    /// It is written and read past the page cache.
    pub disk_direct: bool,
    pub flushes_waiting: u64,
    pub holders: Vec<HolderSnapshot>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HolderSnapshot {
    pub node: u64,
    pub address: String,
    /// In the present list of peers.
    pub listed: bool,
    /// Connected, or as good as.
    pub up: bool,
    /// What the holder last said it has left.
    pub free_bytes: u64,
}
