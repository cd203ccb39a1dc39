//! What the store stands on: memory in slabs of fixed stride. Covers the interface and a plain one for tests; not how the kernel gives it.

use std::ops::Range;

/// What the store counts in and gives back: the machine's page, not ours, though both are 4 KiB here.
pub const FRAME_BYTES: usize = 4096;
/// Frames from one slab to the next. Only the frames that were written to cost memory, so a slab may use fewer. 64 frames make the
/// unused tail of a slab at most 1/64 of it even for the largest slots; twice that would only make whole slabs become empty more rarely.
pub const SLAB_FRAMES: usize = 64;
pub const SLAB_BYTES: usize = SLAB_FRAMES * FRAME_BYTES;

/// A row of slabs of [`SLAB_BYTES`]. A frame costs memory from its first write until it is released.
pub trait SlabMemory {
    /// How many slabs there is address room for.
    fn slab_count(&self) -> u32;
    fn slab(&self, slab: u32) -> &[u8];
    fn slab_mut(&mut self, slab: u32) -> &mut [u8];
    /// Gives the memory of these frames back; what they held is gone, and they can be written to again.
    fn release(&mut self, slab: u32, frames: Range<usize>);
}

/// Ordinary memory from the allocator, never given back: for tests and models.
#[derive(Clone, Default)]
pub struct HeapSlabs {
    slabs: Vec<Box<[u8]>>,
    count: u32,
}

impl HeapSlabs {
    pub fn new(count: u32) -> Self {
        HeapSlabs { slabs: Vec::new(), count }
    }
}

impl SlabMemory for HeapSlabs {
    fn slab_count(&self) -> u32 {
        self.count
    }

    fn slab(&self, slab: u32) -> &[u8] {
        &self.slabs[slab as usize]
    }

    fn slab_mut(&mut self, slab: u32) -> &mut [u8] {
        let wanted = slab as usize;
        while wanted >= self.slabs.len() {
            self.slabs.push(vec![0; SLAB_BYTES].into_boxed_slice());
        }
        &mut self.slabs[wanted]
    }

    /// Overwritten, so that a test sees who reads what was given back.
    fn release(&mut self, slab: u32, frames: Range<usize>) {
        self.slabs[slab as usize][frames.start * FRAME_BYTES..frames.end * FRAME_BYTES].fill(0xdb);
    }
}
