//! Random numbers from the kernel, asked for at the start and at a fork. Covers seeds and names; draws in between are `Draws`.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

pub fn random_u64s<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        *word = u64::from_le_bytes(random_bytes()?);
    }
    Ok(words)
}

/// At most 256, which the kernel gives whole.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let count = getrandom(&mut bytes, GetRandomFlags::empty())?;
    debug_assert_eq!(count, N);
    Ok(bytes)
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
