//! The bound on resident managed memory: how many bytes count, when to start taking pages out and when to stop. Covers arithmetic on counters only;
//! how much is allowed is the engine's directive.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use ramster_core::page::PAGE_BYTES;

/// Room kept free so that a fault need not wait for a page to leave: 1/32 of the limit within these bounds. Less and faults wait; more is memory
/// that the program does not get.
const RESERVE_MIN_BYTES: usize = 512 << 10;
const RESERVE_MAX_BYTES: usize = 16 << 20;
/// The victim buffer's share of the limit.
const VICTIM_SHARE: usize = 32;
const VICTIM_MIN_BYTES: usize = 512 << 10;
const VICTIM_MAX_BYTES: usize = 32 << 20;

#[derive(Default)]
pub struct Limit {
    home_pages: AtomicUsize,
    limit_bytes: AtomicUsize,
    /// Above zero while pages had nowhere to go: what the limit is exceeded by, on purpose.
    overdraft_bytes: AtomicUsize,
}

impl Limit {
    pub fn set_bytes(&self, bytes: usize) {
        self.limit_bytes.store(bytes, Relaxed);
    }

    pub fn bytes(&self) -> usize {
        self.limit_bytes.load(Relaxed) + self.overdraft_bytes.load(Relaxed)
    }

    pub fn home_bytes(&self) -> usize {
        self.home_pages.load(Relaxed) * PAGE_BYTES
    }

    pub fn came_home(&self, pages: usize) {
        self.home_pages.fetch_add(pages, Relaxed);
    }

    /// Never below zero: a page that the program threw away behind our back was counted once only.
    pub fn left_home(&self, pages: usize) {
        let _ = self.home_pages.fetch_update(Relaxed, Relaxed, |home| Some(home.saturating_sub(pages)));
    }

    pub fn set_home_bytes(&self, bytes: usize) {
        self.home_pages.store(bytes / PAGE_BYTES, Relaxed);
    }

    /// Nothing can leave: let the program go on, over its limit.
    pub fn overdraw(&self, bytes: usize) {
        self.overdraft_bytes.fetch_add(bytes, Relaxed);
    }

    pub fn repay(&self) {
        self.overdraft_bytes.store(0, Relaxed);
    }

    pub fn overdrawn(&self) -> bool {
        self.overdraft_bytes.load(Relaxed) > 0
    }

    pub fn reserve_bytes(&self) -> usize {
        (self.bytes() / 32).clamp(RESERVE_MIN_BYTES, RESERVE_MAX_BYTES)
    }

    /// Pages at home and in the victim buffer that start a fault's own reclaim: the limit itself.
    pub fn is_over(&self, victim_bytes: usize, more_bytes: usize) -> bool {
        self.home_bytes() + victim_bytes + more_bytes > self.bytes()
    }

    /// Wake the reclaimer.
    pub fn is_short(&self, victim_bytes: usize) -> bool {
        self.home_bytes() + victim_bytes + self.reserve_bytes() / 2 > self.bytes()
    }

    /// The reclaimer goes on until there is a reserve again.
    pub fn lacks_reserve(&self, victim_bytes: usize) -> bool {
        self.home_bytes() + victim_bytes + self.reserve_bytes() > self.bytes()
    }
}

/// How many bytes the victim buffer may hold under a limit.
pub fn victim_bytes(limit_bytes: usize) -> usize {
    (limit_bytes / VICTIM_SHARE).clamp(VICTIM_MIN_BYTES, VICTIM_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reclaim_starts_before_a_fault_has_to_wait_and_stops_with_a_reserve() {
        let limit = Limit::default();
        limit.set_bytes(64 << 20);
        limit.came_home((62 << 20) / PAGE_BYTES);
        assert!(!limit.is_short(0) && !limit.is_over(0, PAGE_BYTES));
        limit.came_home((1 << 20) / PAGE_BYTES + 1);
        assert!(limit.is_short(0) && !limit.is_over(0, PAGE_BYTES));
        limit.came_home((1 << 20) / PAGE_BYTES);
        assert!(limit.is_over(0, PAGE_BYTES));
        limit.left_home(3 << 20);
        assert_eq!(limit.home_bytes(), 0);
    }
}
