//! A buffer that begins at a page: what a disk reads and writes past the page cache. Covers its memory alone.

use std::ops::{Deref, DerefMut};

use rustix::io::Errno;

/// Anonymous memory of its own, given back with the value. Zero at first, and free until it is touched.
pub struct Aligned {
    base: usize,
    bytes: usize,
}

impl Aligned {
    pub fn new(bytes: usize) -> Result<Aligned, Errno> {
        Ok(Aligned { base: crate::mapping::map_table(bytes)?, bytes })
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: a private mapping of this value's own, initialised by the kernel, borrowed as `self` is.
        unsafe { std::slice::from_raw_parts(self.base as *const u8, self.bytes) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base as *mut u8, self.bytes) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing borrows it any more.
        let _ = unsafe { rustix::mm::munmap(self.base as *mut core::ffi::c_void, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_a_page_and_keeps_what_is_written() {
        let mut buffer = Aligned::new(3 * 4096).expect("memory");
        assert!((buffer.as_ptr() as usize).is_multiple_of(4096) && buffer.iter().all(|byte| *byte == 0));
        buffer[3 * 4096 - 1] = 7;
        assert_eq!((buffer.len(), buffer[3 * 4096 - 1]), (3 * 4096, 7));
    }
}
