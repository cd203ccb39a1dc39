//! Big blocks: each a managed mapping of its own, so that growing one moves pages instead of bytes and freeing a large one gives its pages back at once.
//! Sizes are kept apart from the blocks, in unmanaged memory. Covers the table, the mappings and a few spare ones; which sizes are big is `malloc`'s.

use std::collections::{BTreeMap, VecDeque};

use ramster_sys::lock::Lock;
use ramster_sys::next::{self, PAGE_BYTES};

use crate::start::{State, with_pager};

/// Threads that allocate big blocks at once meet in the pager anyway; 16 keeps the table out of their way.
const SHARDS: usize = 16;

/// A freed mapping up to this size may be kept for the next block of its size, as glibc keeps such blocks in its heap. Without: a program that copies a
/// 4 MiB array again and again (any NumPy expression) takes 20 times as long, all of it page faults.
const MOST_SPARE_BYTES: usize = 32 << 20;
/// All spare mappings together, or an eighth of the local limit where that is less: they are resident for nothing.
const SPARE_BYTES: usize = 64 << 20;
/// Looking through them must stay cheaper than mapping.
const SPARES: usize = 32;

/// Address to length, both whole pages.
static BLOCKS: [Lock<BTreeMap<usize, usize>>; SHARDS] = [const { Lock::new(BTreeMap::new()) }; SHARDS];

static SPARE: Lock<Spare> = Lock::new(Spare { mappings: VecDeque::new(), bytes: 0 });

/// Freed mappings, the oldest first.
struct Spare {
    mappings: VecDeque<(usize, usize)>,
    bytes: usize,
}

impl Spare {
    /// A mapping of at least `len` bytes, and not an eighth more.
    fn take(&mut self, len: usize) -> Option<(usize, usize)> {
        let fits = |(_, spare_len): &(usize, usize)| (len..=len + len / 8).contains(spare_len);
        let index = self.mappings.iter().rposition(fits)?;
        let (block, len) = self.mappings.remove(index)?;
        self.bytes -= len;
        Some((block, len))
    }

    fn take_oldest_over(&mut self, limit_bytes: usize) -> Option<(usize, usize)> {
        if self.bytes <= limit_bytes && self.mappings.len() <= SPARES {
            return None;
        }
        let (block, len) = self.mappings.pop_front()?;
        self.bytes -= len;
        Some((block, len))
    }
}

/// What the local limit allows to lie idle.
pub fn spare_limit(local_bytes: u64) -> usize {
    usize::try_from(local_bytes / 8).unwrap_or(SPARE_BYTES).min(SPARE_BYTES)
}

fn shard(block: usize) -> &'static Lock<BTreeMap<usize, usize>> {
    &BLOCKS[(block / PAGE_BYTES) % SHARDS]
}

fn whole_pages(size: usize) -> Option<usize> {
    Some(size.checked_add(PAGE_BYTES - 1)? & !(PAGE_BYTES - 1))
}

/// A block of at least `size` bytes at a multiple of `alignment`, a power of two; zeroed if so wanted. None: errno says why.
pub fn alloc(state: &State, size: usize, alignment: usize, zeroed: bool) -> Option<usize> {
    let len = whole_pages(size)?;
    if len <= MOST_SPARE_BYTES && alignment <= PAGE_BYTES {
        let spare = SPARE.lock().take(len);
        if let Some((block, len)) = spare {
            shard(block).lock().insert(block, len);
            if zeroed {
                next::zero(block, size);
            }
            return Some(block);
        }
    }
    map(state, len, alignment)
}

fn map(state: &State, len: usize, alignment: usize) -> Option<usize> {
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
    block.is_multiple_of(PAGE_BYTES) && free_page_aligned(state, block)
}

#[cold]
fn free_page_aligned(state: &State, block: usize) -> bool {
    let removed = shard(block).lock().remove(&block);
    let Some(len) = removed else { return false };
    if len > MOST_SPARE_BYTES.min(state.spare_limit_bytes) {
        unmap(state, block, len);
        return true;
    }
    {
        let mut spare = SPARE.lock();
        spare.mappings.push_back((block, len));
        spare.bytes += len;
    }
    loop {
        let oldest = SPARE.lock().take_oldest_over(state.spare_limit_bytes);
        let Some((block, len)) = oldest else { return true };
        unmap(state, block, len);
    }
}

/// A failure (the kernel has no room to split a mapping) leaves memory behind, as it does in libc's free.
fn unmap(state: &State, block: usize, len: usize) {
    with_pager(state, |pager| pager.unmap(block, len));
}

/// For a fork: the tables are whole, and stay so until [`thaw`].
pub fn freeze() {
    BLOCKS.iter().for_each(Lock::freeze);
    SPARE.freeze();
}

pub fn thaw() {
    SPARE.thaw();
    BLOCKS.iter().for_each(Lock::thaw);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_mapping_serves_its_own_size_and_the_oldest_go_first() {
        let mut spare = Spare { mappings: VecDeque::from([(0x10_0000, 1 << 20), (0x40_0000, 2 << 20)]), bytes: 3 << 20 };
        assert_eq!(spare.take(3 << 20), None);
        assert_eq!(spare.take(1 << 19), None, "twice the size is too much");
        assert_eq!(spare.take((1 << 20) - PAGE_BYTES), Some((0x10_0000, 1 << 20)));
        assert_eq!(spare.take_oldest_over(2 << 20), None);
        assert_eq!(spare.take_oldest_over(1 << 20), Some((0x40_0000, 2 << 20)));
        assert_eq!(spare.bytes, 0);
    }

    #[test]
    fn spare_mappings_stay_below_an_eighth_of_the_local_limit() {
        assert_eq!(spare_limit(16 << 20), 2 << 20);
        assert_eq!(spare_limit(u64::MAX), SPARE_BYTES);
    }
}
