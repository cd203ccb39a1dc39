//! Size classes: which slots there are and how many of them a slab of each class has. Covers the numbers only.

use super::memory::{FRAME_BYTES, SLAB_FRAMES};
use crate::page::PAGE_BYTES;

/// Slots come in multiples of this. Half of it is lost per page on average, 8 bytes of about 1500.
pub const STEP_BYTES: usize = 16;
pub const CLASS_COUNT: usize = PAGE_BYTES / STEP_BYTES;
/// Keeps a slab's bitmap at 16 words and its owners at 4 KiB, even for the smallest slots.
pub const SLOTS_MAX: usize = 1024;
/// A tail below 1/256 of the slab is not worth a larger slab: larger ones become empty more rarely.
const TAIL_SHARE: usize = 256;
/// Smaller slabs would cost more bookkeeping and address room per page than they give back sooner.
const SLAB_FRAMES_MIN: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    pub slot_bytes: usize,
    pub slots: usize,
}

/// The class whose slots fit `length_bytes`, which must be 1 to [`PAGE_BYTES`].
pub const fn class_of(length_bytes: usize) -> usize {
    length_bytes.div_ceil(STEP_BYTES) - 1
}

/// The smallest slab with hardly any tail; failing that the one with the smallest.
pub fn class(index: usize) -> Class {
    let slot_bytes = (index + 1) * STEP_BYTES;
    let mut best = (usize::MAX, 1);
    let fewest = SLAB_FRAMES_MIN.min(SLOTS_MAX * slot_bytes / FRAME_BYTES);
    for frames in fewest..=SLAB_FRAMES {
        let slots = frames * FRAME_BYTES / slot_bytes;
        if slots > SLOTS_MAX {
            break;
        }
        let tail_bytes = frames * FRAME_BYTES - slots * slot_bytes;
        // The share of the slab that is tail, as a number that can be compared.
        let share = tail_bytes * SLAB_FRAMES / frames;
        if share < best.0 {
            best = (share, slots);
        }
        if tail_bytes * TAIL_SHARE <= frames * FRAME_BYTES {
            break;
        }
    }
    Class { slot_bytes, slots: best.1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_wastes_more_than_an_eightieth_of_its_slabs() {
        for index in 0..CLASS_COUNT {
            let class = class(index);
            let frames = (class.slots * class.slot_bytes).div_ceil(FRAME_BYTES);
            let tail = frames * FRAME_BYTES - class.slots * class.slot_bytes;
            assert!(frames <= SLAB_FRAMES && class.slots <= SLOTS_MAX && class.slots > 0, "{class:?}");
            assert!(tail * 80 < frames * FRAME_BYTES, "{class:?} loses {tail} of {} bytes", frames * FRAME_BYTES);
        }
    }

    #[test]
    fn every_length_fits_its_class_and_no_smaller_one() {
        for length in 1..=PAGE_BYTES {
            let index = class_of(length);
            assert!(class(index).slot_bytes >= length && class(index).slot_bytes < length + STEP_BYTES);
        }
    }
}
