//! A few pages of a thread's own, page aligned, where pages are inflated before they go into the program.

use ramster_core::page::{PAGE_BYTES, Page};
use rustix::io::Errno;

pub struct Staging {
    base: usize,
    pages: usize,
}

impl Staging {
    /// Lives as long as the process: a staging area belongs to a thread that never ends.
    pub fn new(pages: usize) -> Result<Self, Errno> {
        Ok(Self { base: crate::mapping::map_table(pages * PAGE_BYTES)?, pages })
    }

    pub fn pages(&mut self) -> &mut [Page] {
        // SAFETY: mapped for ever, page aligned, zero-initialised by the kernel, and borrowed through `&mut self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.base as *mut Page, self.pages) }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.base as *const u8, self.pages * PAGE_BYTES) }
    }
}
