//! The hash of the maps: two multiplications and a key. Covers hashing only. Keys come from the program (offsets, inodes), so the hash is keyed;
//! std's SipHash would cost more than the rest of a get's critical section.

use std::hash::{BuildHasher, Hasher};

#[derive(Clone, Copy)]
pub struct Keyed(pub u64);

pub struct Folded {
    state: u64,
    key: u64,
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.0, key: self.0.rotate_left(32) | 1 }
    }
}

impl Folded {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ 0x9e37_79b9_7f4a_7c15);
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        // The map takes its bucket from the low bits and its tag from the high ones: both must depend on everything.
        let product = u128::from(self.state) * u128::from(self.key ^ 0xd1b5_4a32_d192_ed03);
        (product as u64) ^ ((product >> 64) as u64)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u32(&mut self, word: u32) {
        self.fold(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }
}
