//! A simulated disk. Covers bytes that are written and read back, or not: it can be full, slow, fail half way through a write, and rot.

use crate::clock::MS;
use crate::random::Random;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    Full,
    /// A write that failed may have changed a part of what it was to write.
    Failed,
}

/// What an owner's spill file stands on.
pub trait Disk {
    /// All of it, or an error: then any prefix may be there.
    fn write(&mut self, random: &mut Random, at: u64, bytes: &[u8]) -> Result<(), DiskError>;
    fn read(&mut self, random: &mut Random, at: u64, bytes: &mut [u8]) -> Result<(), DiskError>;
    /// How long a write of so many bytes takes now.
    fn delay_us(&self, random: &mut Random, bytes: usize) -> u64;
}

#[derive(Clone)]
pub struct SimDisk {
    bytes: Vec<u8>,
    pub room_bytes: u64,
    /// One write in so many fails, torn. 0: none.
    pub fails_one_in: u64,
    /// One read in so many finds a bit changed. 0: none.
    pub rots_one_in: u64,
    pub slow: bool,
}

impl SimDisk {
    pub fn new(room_bytes: u64) -> Self {
        SimDisk { bytes: Vec::new(), room_bytes, fails_one_in: 0, rots_one_in: 0, slow: false }
    }
}

impl Disk for SimDisk {
    fn write(&mut self, random: &mut Random, at: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let end = at as usize + bytes.len();
        if end as u64 > self.room_bytes && end > self.bytes.len() {
            return Err(DiskError::Full);
        }
        let fails = self.fails_one_in > 0 && random.one_in(self.fails_one_in);
        let count = if fails { random.below(bytes.len() as u64) as usize } else { bytes.len() };
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at as usize..at as usize + count].copy_from_slice(&bytes[..count]);
        if fails { Err(DiskError::Failed) } else { Ok(()) }
    }

    fn read(&mut self, random: &mut Random, at: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        let from = at as usize;
        let Some(there) = self.bytes.get_mut(from..from + bytes.len()) else { return Err(DiskError::Failed) };
        if self.rots_one_in > 0 && random.one_in(self.rots_one_in) && !there.is_empty() {
            let bit = random.below(there.len() as u64 * 8);
            there[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
        bytes.copy_from_slice(there);
        Ok(())
    }

    fn delay_us(&self, random: &mut Random, bytes: usize) -> u64 {
        let seek_us = if self.slow { 400 * MS } else { 200 };
        random.below(seek_us) + bytes as u64 / 100
    }
}
