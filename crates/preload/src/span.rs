//! A range of addresses in a C call, cut where the arena begins and ends. Pure.

use std::ops::Range;

use ramster_sys::next::PAGE_BYTES;

/// No user address lies above; a call that reaches further is refused by the kernel as a whole.
#[cfg(target_arch = "x86_64")]
pub const HIGHEST: usize = 1 << 47;
#[cfg(target_arch = "aarch64")]
pub const HIGHEST: usize = 1 << 48;

/// Part of a range, and whether it lies in the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub range: Range<usize>,
    pub managed: bool,
}

impl Part {
    pub fn len(&self) -> usize {
        self.range.end - self.range.start
    }
}

/// The pages that a call names: `len` is rounded up as the kernel does. None where the kernel must say what is wrong with it.
pub fn pages(addr: usize, len: usize) -> Option<Range<usize>> {
    let len = len.checked_add(PAGE_BYTES - 1)? & !(PAGE_BYTES - 1);
    let end = addr.checked_add(len)?;
    (addr.is_multiple_of(PAGE_BYTES) && len != 0 && end <= HIGHEST).then_some(addr..end)
}

pub fn touches(range: &Range<usize>, arena: &Range<usize>) -> bool {
    range.start < arena.end && arena.start < range.end
}

/// Before the arena, in it, behind it; empty parts are left out.
pub fn cut(range: Range<usize>, arena: &Range<usize>) -> impl Iterator<Item = Part> {
    let first = arena.start.clamp(range.start, range.end);
    let second = arena.end.clamp(range.start, range.end);
    [(range.start..first, false), (first..second, true), (second..range.end, false)]
        .into_iter()
        .filter(|(range, _)| !range.is_empty())
        .map(|(range, managed)| Part { range, managed })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARENA: Range<usize> = 0x10000..0x20000;

    fn cut_all(range: Range<usize>) -> Vec<(Range<usize>, bool)> {
        cut(range, &ARENA).map(|part| (part.range, part.managed)).collect()
    }

    #[test]
    fn a_range_is_cut_where_the_arena_begins_and_ends() {
        assert_eq!(cut_all(0x0..0x1000), [(0x0..0x1000, false)]);
        assert_eq!(cut_all(0x30000..0x31000), [(0x30000..0x31000, false)]);
        assert_eq!(cut_all(0x11000..0x12000), [(0x11000..0x12000, true)]);
        assert_eq!(cut_all(0xf000..0x11000), [(0xf000..0x10000, false), (0x10000..0x11000, true)]);
        assert_eq!(cut_all(0x1f000..0x21000), [(0x1f000..0x20000, true), (0x20000..0x21000, false)]);
        assert_eq!(cut_all(0x0..0x30000), [(0x0..0x10000, false), (0x10000..0x20000, true), (0x20000..0x30000, false)]);
        assert_eq!(cut_all(0x10000..0x20000), [(0x10000..0x20000, true)]);
    }

    #[test]
    fn what_the_kernel_refuses_is_left_to_the_kernel() {
        assert_eq!(pages(0x1001, 4096), None);
        assert_eq!(pages(0x1000, 0), None);
        assert_eq!(pages(0x1000, usize::MAX), None);
        assert_eq!(pages(usize::MAX & !4095, 8192), None);
        assert_eq!(pages(0x1000, HIGHEST), None);
        assert_eq!(pages(0x1000, 1), Some(0x1000..0x2000));
    }

    #[test]
    fn touching_means_sharing_a_byte() {
        assert!(touches(&(0xf000..0x10001), &ARENA));
        assert!(!touches(&(0xf000..0x10000), &ARENA));
        assert!(!touches(&(0x20000..0x21000), &ARENA));
    }
}
