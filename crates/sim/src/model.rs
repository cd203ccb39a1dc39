//! What is right: a plain map of one owner's pages. Covers what a get may say (promise 1) and when a loss has a cause; it knows nothing of holders.

use std::collections::BTreeMap;

use ramster_core::backend::{Keep, Loss, Lost};
use ramster_core::handle::{Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::Page;

use crate::pages::page_of;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truth {
    pub content: u32,
    pub put_us: u64,
    /// This content or a miss: a get took the local copy away and left a remote one, if there was any.
    pub perhaps: bool,
}

/// How long a get waits.
const DEADLINE_US: u64 = 20_000_000;

/// What this owner was promised, and what befell it: from these follows whether a page may be lost.
#[derive(Clone, Default)]
pub struct Model {
    pub pages: BTreeMap<Handle, Truth>,
    pub pools: BTreeMap<PoolId, PoolKind>,
    /// No page may be lost, whatever happens: one failure at a time, and durability for it.
    pub never_lost: bool,
}

impl Model {
    pub fn kind_of(&self, handle: &Handle) -> PoolKind {
        self.pools.get(&handle.pool).copied().unwrap_or(PoolKind::Persistent)
    }

    pub fn put(&mut self, handle: Handle, content: u32, now_us: u64) {
        self.pages.insert(handle, Truth { content, put_us: now_us, perhaps: false });
    }

    /// Refused, flushed, or taken out.
    pub fn forget(&mut self, handle: &Handle) {
        self.pages.remove(handle);
    }

    pub fn forget_range(&mut self, first: &Handle, count: u32) {
        let end = u64::from(first.index) + u64::from(count);
        let inside = |other: &Handle| (other.pool, other.object) == (first.pool, first.object) && other.index >= first.index;
        self.pages.retain(|other, _| !(inside(other) && u64::from(other.index) < end));
    }

    pub fn forget_object(&mut self, pool: PoolId, object: ObjectId) {
        self.pages.retain(|other, _| (other.pool, other.object) != (pool, object));
    }

    pub fn forget_pool(&mut self, pool: PoolId) {
        self.pages.retain(|other, _| other.pool != pool);
        self.pools.remove(&pool);
    }

    /// Promise 1: those bytes, never older ones, never zeroes.
    pub fn check_hit(&self, handle: &Handle, page: &Page) {
        match self.pages.get(handle) {
            None => panic!("P1: a get of {handle:?} hits, and nothing should be there"),
            Some(truth) if *page != page_of(truth.content) => {
                panic!("P1: a get of {handle:?} gives other bytes than those of content {} that were put last", truth.content)
            }
            Some(_) => {}
        }
    }

    /// What a hit leaves behind. `exact`: nothing came between, so a page that was to be freed is gone.
    pub fn hit(&mut self, handle: &Handle, keep: Keep, exact: bool) {
        if self.kind_of(handle) == PoolKind::Ephemeral || (keep == Keep::Free && exact) {
            self.pages.remove(handle);
        } else if keep != Keep::Keep
            && let Some(truth) = self.pages.get_mut(handle)
        {
            truth.perhaps = true;
        }
    }

    pub fn missed(&mut self, handle: &Handle) {
        let truth = self.pages.remove(handle);
        let may = self.kind_of(handle) == PoolKind::Ephemeral || truth.is_none_or(|truth| truth.perhaps);
        assert!(may, "P1: a get of {handle:?} misses, and should find {truth:?}");
    }

    /// Promise 3, and that a loss is exact: `cause_us` is when a failure last touched this owner and that holder, and that was since the page was put.
    pub fn lost(&mut self, handle: &Handle, lost: &Lost, now_us: u64, cause_us: Option<u64>) {
        assert_eq!(lost.handle, *handle, "a loss of another page");
        let Some(truth) = self.pages.get(handle) else { panic!("P1: {lost:?}, and nothing should be there") };
        assert!(!self.never_lost, "P3: {lost:?} although there was one failure at a time");
        // A deadline is missed because of what lasted until a moment ago.
        let since_us = if lost.why == Loss::Deadline { now_us.saturating_sub(DEADLINE_US) } else { truth.put_us };
        let has_cause = cause_us.is_some_and(|cause_us| cause_us >= since_us);
        assert!(has_cause, "P1: {lost:?} of {truth:?} without a cause: the last failure there was at {cause_us:?}");
    }
}
