//! Big blocks: each a managed mapping of its own, so that growing one moves pages instead of bytes and freeing one gives its pages back at once.
//! Sizes are kept apart from the blocks, in unmanaged memory. Covers the table and the mappings; which sizes are big is `malloc`'s.

use std::collections::BTreeMap;

use ramster_sys::lock::Lock;
use ramster_sys::next::PAGE_BYTES;

use crate::start::{State, with_pager};

/// Threads that allocate big blocks at once meet in the pager anyway; 16 keeps the table out of their way.
const SHARDS: usize = 16;

/// Address to length, both whole pages.
static BLOCKS: [Lock<BTreeMap<usize, usize>>; SHARDS] = [const { Lock::new(BTreeMap::new()) }; SHARDS];

fn shard(block: usize) -> &'static Lock<BTreeMap<usize, usize>> {
    &BLOCKS[(block / PAGE_BYTES) % SHARDS]
}

fn whole_pages(size: usize) -> Option<usize> {
    Some(size.checked_add(PAGE_BYTES - 1)? & !(PAGE_BYTES - 1))
}

/// A zeroed block of at least `size` bytes, or None: then errno says why.
pub fn alloc(state: &State, size: usize, alignment: usize) -> Option<usize> {
    let len = whole_pages(size)?;
    let slack = if alignment > PAGE_BYTES { alignment } else { 0 };
    let mapped = len.checked_add(slack)?;
    let block = with_pager(state, |pager| {
        let base = pager.map(mapped, libc::PROT_READ | libc::PROT_WRITE, None)?;
        if slack == 0 {
            return Ok(base);
        }
        let block = base.next_multiple_of(alignment);
        let (before, behind) = (block - base, base + mapped - (block + len));
        if before > 0 {
            pager.unmap(base, before)?;
        }
        if behind > 0 {
            pager.unmap(block + len, behind)?;
        }
        Ok(block)
    })?;
    shard(block).lock().insert(block, len);
    Some(block)
}

/// The usable length of a big block; None when the block is not a big one.
#[inline]
pub fn len(block: usize) -> Option<usize> {
    if !block.is_multiple_of(PAGE_BYTES) {
        return None; // almost every small block, told without looking
    }
    shard(block).lock().get(&block).copied()
}

/// Grows or shrinks a big block of `old_len` bytes by moving its pages. None: it is as it was, errno says why.
pub fn resize(state: &State, block: usize, old_len: usize, size: usize) -> Option<usize> {
    let len = whole_pages(size)?;
    if len == old_len {
        return Some(block);
    }
    // Out of the table first: once its pages have moved, another thread may get a block at the old address.
    shard(block).lock().remove(&block);
    let moved = with_pager(state, |pager| pager.remap(block, old_len, len, true, None));
    let (now, now_len) = moved.map_or((block, old_len), |new| (new, len));
    shard(now).lock().insert(now, now_len);
    moved
}

/// False when the block is not a big one.
#[inline]
pub fn free(state: &State, block: usize) -> bool {
    if !block.is_multiple_of(PAGE_BYTES) {
        return false;
    }
    let removed = shard(block).lock().remove(&block);
    let Some(len) = removed else { return false };
    // A failure (the kernel has no room to split a mapping) leaves memory behind, as it does in libc's free.
    with_pager(state, |pager| pager.unmap(block, len));
    true
}

/// For a fork: the tables are whole, and stay so until [`thaw`].
pub fn freeze() {
    BLOCKS.iter().for_each(Lock::freeze);
}

pub fn thaw() {
    BLOCKS.iter().for_each(Lock::thaw);
}
