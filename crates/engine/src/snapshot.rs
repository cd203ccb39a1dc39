//! The engine as plain data, for the brain, `ramster status` and tests. Covers this process only; the tree's sums are in the stat block.

use serde::Serialize;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Snapshot {
    pub pages_local: u64,
    pub pages_in_transit: u64,
    pub pages_remote: u64,
    /// What the store takes of this machine's memory, its own overhead included.
    pub store_bytes: u64,
    /// The limit in force: over it pages are remotified.
    pub store_limit_bytes: u64,
    pub resident_bytes: u64,
    /// Packed bytes that peers hold.
    pub remote_bytes: u64,
    pub spill_bytes: u64,
    pub holders: Vec<HolderSnapshot>,
}

#[derive(Clone, Debug, Serialize)]
pub struct HolderSnapshot {
    pub node: u64,
    pub address: String,
    pub up: bool,
    /// What the holder last said it has left.
    pub free_bytes: u64,
    pub pages: u64,
}
