//! The heap of our own code in a preloaded process: dlmalloc over raw system calls. It asks nothing of the libc around it, is never managed, and a
//! fork can hold it still. Not fast under contention: nothing on the fault path allocates.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::null_mut;

use dlmalloc::Dlmalloc;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};

use crate::lock::Lock;

pub struct OwnHeap {
    heap: Lock<Dlmalloc<Kernel>>,
}

impl OwnHeap {
    pub const fn new() -> Self {
        OwnHeap { heap: Lock::new(Dlmalloc::new_with_allocator(Kernel)) }
    }

    /// Holds the heap still for a fork; this thread must not allocate until [`OwnHeap::thaw`].
    pub fn freeze(&self) {
        self.heap.freeze();
    }

    /// In the parent and in the child.
    pub fn thaw(&self) {
        self.heap.thaw();
    }
}

impl Default for OwnHeap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: dlmalloc keeps GlobalAlloc's promises, and the lock lets one thread at a time in.
unsafe impl GlobalAlloc for OwnHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout, as the trait asks.
        unsafe { self.heap.lock().malloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; the block came from here.
        unsafe { self.heap.lock().free(block, layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.heap.lock().calloc(layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.heap.lock().realloc(block, layout.size(), layout.align(), new_size) }
    }
}

struct Kernel;

// SAFETY: fresh private mappings, resized and given back only as dlmalloc says.
unsafe impl dlmalloc::Allocator for Kernel {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        match unsafe { rustix::mm::mmap_anonymous(null_mut(), size, protection, MapFlags::PRIVATE) } {
            Ok(base) => (base.cast(), size, 0),
            Err(_) => (null_mut(), 0, 0),
        }
    }

    fn remap(&self, base: *mut u8, old_size: usize, new_size: usize, may_move: bool) -> *mut u8 {
        let flags = if may_move { MremapFlags::MAYMOVE } else { MremapFlags::empty() };
        // SAFETY: dlmalloc's own mapping, and nothing points into it but what dlmalloc will move.
        unsafe { rustix::mm::mremap(base.cast(), old_size, new_size, flags) }.map_or(null_mut(), |new| new.cast())
    }

    fn free_part(&self, base: *mut u8, old_size: usize, new_size: usize) -> bool {
        // SAFETY: dlmalloc's own mapping, whose tail it no longer uses.
        unsafe { rustix::mm::munmap(base.add(new_size).cast(), old_size - new_size) }.is_ok()
    }

    fn free(&self, base: *mut u8, size: usize) -> bool {
        // SAFETY: dlmalloc's own mapping, which it no longer uses.
        unsafe { rustix::mm::munmap(base.cast(), size) }.is_ok()
    }

    fn can_release_part(&self, _flags: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        4096
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_bytes_through_growth_and_large_blocks_start_as_zeroes() {
        let heap = OwnHeap::new();
        let small = Layout::from_size_align(100, 16).expect("layout");
        let large = Layout::from_size_align(4 << 20, 4096).expect("layout");
        // SAFETY: blocks of this heap, used within their layouts.
        unsafe {
            let block = heap.alloc(small);
            block.write_bytes(0xa5, 100);
            let block = heap.realloc(block, small, 300_000);
            assert!((0..100).all(|index| *block.add(index) == 0xa5));
            let zeroes = heap.alloc_zeroed(large);
            assert_eq!(zeroes as usize % 4096, 0);
            assert!((0..large.size()).step_by(4096).all(|index| *zeroes.add(index) == 0));
            heap.dealloc(zeroes, large);
            heap.dealloc(block, Layout::from_size_align(300_000, 16).expect("layout"));
        }
    }
}
