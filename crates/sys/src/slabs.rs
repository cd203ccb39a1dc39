//! The store's memory: one reserved range of the address space, of which only written frames cost anything. Covers reserving and giving back.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use ramster_core::store::{FRAME_BYTES, SLAB_BYTES, SlabMemory};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Private to the process and copied on write by a fork, which is what makes a forked store a snapshot for free.
pub struct ArenaSlabs {
    base: NonNull<u8>,
    count: u32,
}

// SAFETY: the range belongs to this value alone; references into it follow the borrow rules of `slab` and `slab_mut`.
unsafe impl Send for ArenaSlabs {}

impl ArenaSlabs {
    /// Reserves address room for `bytes`, rounded up to slabs. Takes no memory.
    pub fn reserve(bytes: u64) -> io::Result<Self> {
        let count = bytes.div_ceil(SLAB_BYTES as u64).max(1);
        let (Ok(count), Ok(length)) = (u32::try_from(count), usize::try_from(count * SLAB_BYTES as u64)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE | MapFlags::NORESERVE)?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let arena = ArenaSlabs { base, count };
        // A huge page under one packed page would cost 512 times what the store thinks it does. Fails where there are no huge pages anyway.
        // SAFETY: advice about our own mapping, whose contents it does not change.
        let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), length, Advice::LinuxNoHugepage) };
        Ok(arena)
    }

    fn at(&self, slab: u32, frame: usize) -> *mut u8 {
        assert!(slab < self.count, "slab {slab} of {}", self.count);
        // SAFETY: inside the mapping: the slab was checked, and a slab's frames end where the next slab starts.
        unsafe { self.base.as_ptr().add(slab as usize * SLAB_BYTES + frame * FRAME_BYTES) }
    }
}

impl SlabMemory for ArenaSlabs {
    fn slab_count(&self) -> u32 {
        self.count
    }

    fn slab(&self, slab: u32) -> &[u8] {
        // SAFETY: mapped, initialised (zeroes at first), and borrowed as `self` is.
        unsafe { std::slice::from_raw_parts(self.at(slab, 0), SLAB_BYTES) }
    }

    fn slab_mut(&mut self, slab: u32) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at(slab, 0), SLAB_BYTES) }
    }

    fn release(&mut self, slab: u32, frames: Range<usize>) {
        if frames.is_empty() {
            return;
        }
        assert!(frames.end * FRAME_BYTES <= SLAB_BYTES, "frames {frames:?}");
        // SAFETY: our own mapping, borrowed mutably; the frames read as zeroes from now on.
        let _ =
            unsafe { rustix::mm::madvise(self.at(slab, frames.start).cast(), frames.len() * FRAME_BYTES, Advice::LinuxDontNeed) };
    }
}

impl Drop for ArenaSlabs {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.count as usize * SLAB_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_frames_are_given_back_and_their_neighbours_stay() {
        let mut arena = ArenaSlabs::reserve(1 << 40).expect("reserve");
        let last = arena.slab_count() - 1;
        arena.slab_mut(last).fill(7);
        arena.release(last, 1..3);
        assert_eq!([0, 1, 2, 3].map(|frame| arena.slab(last)[frame * FRAME_BYTES]), [7, 0, 0, 7]);
    }
}
