//! A few pages of a thread's own, page aligned, where pages are inflated before they go into the program.

use ramster_core::page::{PAGE_BYTES, Page};
use rustix::io::Errno;

pub struct Staging<const PAGES: usize> {
    base: usize,
}

impl<const PAGES: usize> Staging<PAGES> {
    /// Lives as long as the process: a staging area belongs to a thread that never ends.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self { base: crate::mapping::map_table(PAGES * PAGE_BYTES)? })
    }

    pub fn pages(&mut self) -> &mut [Page; PAGES] {
        // SAFETY: mapped for ever, page aligned, zero-initialised by the kernel, and borrowed through `&mut self` alone.
        unsafe { &mut *(self.base as *mut [Page; PAGES]) }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.base as *const u8, PAGES * PAGE_BYTES) }
    }
}
