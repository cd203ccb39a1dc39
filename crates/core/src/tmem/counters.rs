//! What tmem counts. One name in code, metric and document. Covers names; exporting them is the engine's.

/// Only ever grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    pub puts: u64,
    pub puts_unchanged: u64,
    pub puts_same: u64,
    pub puts_raw: u64,
    pub puts_refused_store_full: u64,
    pub puts_refused_no_such_pool: u64,
    pub pools_refused: u64,
    pub gets: u64,
    pub gets_local: u64,
    pub gets_same: u64,
    pub gets_remote: u64,
    pub gets_missed: u64,
    pub gets_lost: u64,
    pub pages_flushed: u64,
    pub pages_evicted: u64,
    pub pages_sent: u64,
    pub pages_remotified: u64,
    pub pages_localified: u64,
    pub pages_repatriated: u64,
    pub pages_refused_by_holder: u64,
    pub pages_lost: u64,
    /// Copies of pages of which another copy was left.
    pub copies_lost: u64,
    pub copies_rebuilt: u64,
    /// Batches that were not begun because too many sets of holders are in use.
    pub sites_refused: u64,
    /// Acknowledgements and answers for a copy that is no longer wanted.
    pub answers_stale: u64,
    pub transitions_forbidden: u64,
}

/// How things are now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Gauges {
    pub pages_same: u64,
    pub pages_local: u64,
    pub pages_in_transit: u64,
    pub pages_remote: u64,
    pub pages_lost: u64,
    /// What the store takes of the machine's memory.
    pub bytes_used: u64,
    /// The packed bytes in it.
    pub bytes_stored: u64,
    pub bytes_in_transit: u64,
    /// Packed bytes at holders.
    pub bytes_remote: u64,
    pub bytes_metadata: u64,
    pub flushes_waiting: u64,
}
