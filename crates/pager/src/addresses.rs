//! Free addresses of the arena: best fit, aligned, whole ranges put back together. Pure arithmetic; nothing is mapped here.

use std::collections::{BTreeMap, BTreeSet};

pub struct Addresses {
    by_start: BTreeMap<usize, usize>,
    by_len: BTreeSet<(usize, usize)>,
}

impl Addresses {
    pub fn new(start: usize, len: usize) -> Self {
        let mut addresses = Self { by_start: BTreeMap::new(), by_len: BTreeSet::new() };
        addresses.insert(start, len);
        addresses
    }

    /// The smallest free range that has `len` bytes at a multiple of `align`; the rest of it stays free.
    pub fn take(&mut self, len: usize, align: usize) -> Option<usize> {
        let (whole, start) = *self.by_len.range((len, 0)..).find(|(whole, start)| {
            let at = start.next_multiple_of(align);
            at - start + len <= *whole
        })?;
        let at = start.next_multiple_of(align);
        self.remove(start, whole);
        self.insert(start, at - start);
        self.insert(at + len, start + whole - at - len);
        Some(at)
    }

    /// Exactly this range, if all of it is free.
    pub fn take_at(&mut self, at: usize, len: usize) -> bool {
        let Some((start, whole)) = self.by_start.range(..=at).next_back().map(|(start, whole)| (*start, *whole)) else {
            return false;
        };
        if start + whole < at + len {
            return false;
        }
        self.remove(start, whole);
        self.insert(start, at - start);
        self.insert(at + len, start + whole - at - len);
        true
    }

    /// Whatever of this range is free is taken.
    pub fn take_overlap(&mut self, at: usize, len: usize) {
        let end = at + len;
        while let Some((start, whole)) = self
            .by_start
            .range(..end)
            .next_back()
            .map(|(start, whole)| (*start, *whole))
            .filter(|(start, whole)| start + whole > at)
        {
            self.remove(start, whole);
            self.insert(start, at.saturating_sub(start));
            self.insert(end.max(start), (start + whole).saturating_sub(end));
        }
    }

    pub fn give(&mut self, at: usize, len: usize) {
        let (mut start, mut whole) = (at, len);
        if let Some((before, size)) = self.by_start.range(..at).next_back().map(|(start, len)| (*start, *len))
            && before + size == at
        {
            self.remove(before, size);
            start = before;
            whole += size;
        }
        if let Some(size) = self.by_start.get(&(at + len)).copied() {
            self.remove(at + len, size);
            whole += size;
        }
        self.insert(start, whole);
    }

    fn insert(&mut self, start: usize, len: usize) {
        if len > 0 {
            self.by_start.insert(start, len);
            self.by_len.insert((len, start));
        }
    }

    fn remove(&mut self, start: usize, len: usize) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_range_given_back_joins_its_neighbours() {
        let mut addresses = Addresses::new(0, 1 << 20);
        let taken: Vec<_> = (0..16).map(|_| addresses.take(1 << 16, 1 << 16).expect("room")).collect();
        assert_eq!(addresses.take(4096, 4096), None);
        for at in [1, 3, 2, 0].map(|index| taken[index]) {
            addresses.give(at, 1 << 16);
        }
        assert_eq!(addresses.take(4 << 16, 1 << 16), Some(0));
    }

    proptest! {
        #[test]
        fn no_byte_is_ever_given_out_twice(steps in prop::collection::vec((0usize..4, 1usize..40, 0usize..200), 1..200)) {
            let total = 256;
            let mut addresses = Addresses::new(0, total);
            let mut used = vec![false; total];
            for (what, len, at) in steps {
                let at = at.min(total - 1);
                let len = len.min(total - at);
                match what {
                    0 => if let Some(got) = addresses.take(len, 4) {
                        prop_assert_eq!(got % 4, 0);
                        prop_assert!(used[got..got + len].iter().all(|used| !used));
                        used[got..got + len].fill(true);
                    },
                    1 => {
                        let free = used[at..at + len].iter().all(|used| !used);
                        prop_assert_eq!(addresses.take_at(at, len), free);
                        if free { used[at..at + len].fill(true); }
                    }
                    2 => {
                        addresses.take_overlap(at, len);
                        used[at..at + len].fill(true);
                    }
                    _ => if used[at..at + len].iter().all(|used| *used) {
                        addresses.give(at, len);
                        used[at..at + len].fill(false);
                    },
                }
            }
        }
    }
}
