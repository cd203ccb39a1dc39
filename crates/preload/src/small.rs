//! Small blocks: mimalloc's, behind the gate that a fork can close. A thread that is inside already gets libc's memory instead: mimalloc is not
//! reentrant, and its owner is told by the address.

use ramster_sys::{next, small_blocks};

use crate::quiesce::enter;

/// malloc promises the alignment of the largest basic type; mimalloc gives blocks of 8 bytes an alignment of 8.
const SMALLEST_BYTES: usize = 16;

#[inline]
pub fn alloc(size: usize) -> usize {
    enter(|| small_blocks::alloc(size.max(SMALLEST_BYTES))).unwrap_or_else(|| next::libc_malloc(size))
}

#[inline]
pub fn alloc_zeroed(size: usize) -> usize {
    enter(|| small_blocks::alloc_zeroed(size.max(SMALLEST_BYTES))).unwrap_or_else(|| next::libc_calloc(1, size))
}

pub fn alloc_aligned(size: usize, alignment: usize) -> usize {
    enter(|| small_blocks::alloc_aligned(size.max(SMALLEST_BYTES), alignment))
        .unwrap_or_else(|| next::libc_memalign(alignment, size))
}

pub fn realloc(block: usize, size: usize) -> usize {
    enter(|| small_blocks::realloc(block, size.max(SMALLEST_BYTES))).unwrap_or_else(|| {
        let new = next::libc_malloc(size);
        if new != 0 {
            next::copy(block, new, small_blocks::usable_size(block).min(size));
            // The old block stays: freeing it here would be the reentry that this avoids.
        }
        new
    })
}

#[inline]
pub fn free(block: usize) {
    // Inside already: only a signal handler frees then, which no malloc allows; the block stays.
    enter(|| small_blocks::free(block));
}

pub fn usable_size(block: usize) -> usize {
    small_blocks::usable_size(block)
}
