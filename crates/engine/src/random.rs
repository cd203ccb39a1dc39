//! Random numbers from the kernel, asked for at the start and at a fork. Covers seeds and names; draws in between are `Draws`.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

pub fn random_u64s<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        let count = getrandom(&mut bytes, GetRandomFlags::empty())?;
        // Requests of up to 256 bytes are answered whole.
        debug_assert_eq!(count, bytes.len());
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

/// xorshift64*: for placing batches, where nobody gains by guessing.
pub struct Draws(u64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Draws(seed | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
