//! Page frames that the pager holds: where pages taken out of the program stay until they are compressed or taken back. Slots are in groups of 16, the size of
//! an extent, so that one call moves a whole extent. An empty slot has no page behind it: reading one would fault into ourselves, so callers read only slots that
//! a move has filled.

use ramster_core::page::{PAGE_BYTES, Page};
use rustix::io::Errno;

use crate::mapping;

pub struct Frames {
    base: usize,
    slots: usize,
}

impl Frames {
    /// Addresses for `slots` pages, none of them there yet.
    pub fn new(slots: usize) -> Result<Self, Errno> {
        let base = mapping::map_table(slots * PAGE_BYTES)?;
        // Never huge pages here: a slot is filled and given back one page at a time. Refused by kernels without huge pages, which is as good.
        let _ = mapping::advise(base, slots * PAGE_BYTES, libc::MADV_NOHUGEPAGE);
        Ok(Self { base, slots })
    }

    pub fn base(&self) -> usize {
        self.base
    }

    pub fn bytes(&self) -> usize {
        self.slots * PAGE_BYTES
    }

    pub fn addr(&self, slot: usize) -> usize {
        assert!(slot < self.slots, "frame slot out of range");
        self.base + slot * PAGE_BYTES
    }

    /// The page in a filled slot. Only for slots that a move has filled and nobody has given back since.
    pub fn page(&self, slot: usize) -> &Page {
        let addr = self.addr(slot);
        // SAFETY: in range and page aligned; filled by the caller's promise; the program no longer maps this frame, and nobody writes a filled slot.
        unsafe { &*(addr as *const Page) }
    }

    pub fn discard(&self, slot: usize, count: usize) {
        assert!(slot + count <= self.slots, "frame slots out of range");
        // A failure leaves the frames in place; the next move into them says so (EEXIST).
        let _ = mapping::discard(self.base + slot * PAGE_BYTES, count * PAGE_BYTES);
    }
}

/// The page at a managed address that is known to be present and, until the caller is done, write-protected: the way out for pages that cannot be moved.
pub fn copy_present(addr: usize, page: &mut Page) {
    // SAFETY: the caller holds the extent and has seen the page present in its own page table; managed memory is mapped readable there.
    unsafe { std::ptr::copy_nonoverlapping(addr as *const u8, page.as_mut_ptr(), PAGE_BYTES) }
}
