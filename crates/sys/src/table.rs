//! A flat array of atomic words over untouched memory: entry n for page n of the arena, no tree, no lock. Pages of the table that nobody wrote cost nothing.

use std::sync::atomic::AtomicU32;

use rustix::io::Errno;

pub struct Table {
    base: *const AtomicU32,
    len: usize,
}

// SAFETY: the memory is never unmapped and holds nothing but atomics.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// `len` words, all zero.
    pub fn new(len: usize) -> Result<Self, Errno> {
        let base = crate::mapping::map_table(len * size_of::<AtomicU32>())?;
        Ok(Self { base: base as *const AtomicU32, len })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Panics beyond the table's end: a page number outside the arena is our bug.
    pub fn at(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.len, "page table index out of range");
        // SAFETY: in range, aligned (mmap gives whole pages), mapped for ever, and zero is a valid value.
        unsafe { &*self.base.add(index) }
    }
}
