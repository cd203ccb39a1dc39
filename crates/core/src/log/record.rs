//! One record of the log as it lies on the disk: a header, then the page's bytes. Covers the bytes and their checksum; where records lie is `mod.rs`'s.
//!
//! ```text
//!  0  checksum  u64   XXH3-64, keyed, of all that follows: header and page
//!  8  pool      u32
//! 12  object    3 x u64
//! 36  index     u32
//! 40  version   u32
//! 44  length    u16   of the page's bytes, 1 to PAYLOAD_MAX_BYTES
//! 46  kind      u8    how they are to be read: the caller's
//! 47  format    u8    1
//! 48  the page's bytes
//! ```
//!
//! Numbers are little endian. Records follow each other without a gap; what one write leaves of its last block is zero.
//!
//! XXH3-64: as fast as memory (a page in 0.3 us), in this crate already, and 64 bits leave one damaged record in 2^64 unnoticed. A CRC would be certain about
//! bursts, and needs a dependency or a table for the same speed. The page's own 128-bit digest is checked after unpacking besides; this one is for those who do
//! not unpack (the cleaner), and keeps damaged bytes from the codecs. Keyed, since the name in a record must tell it from what another log left at that place.

use crate::handle::{Handle, ObjectId, PoolId, Version};
use crate::page::PAGE_BYTES;
use crate::seal::TAG_BYTES;

pub const HEADER_BYTES: usize = 48;
/// A raw page, sealed.
pub const PAYLOAD_MAX_BYTES: usize = PAGE_BYTES + TAG_BYTES;
pub const RECORD_MAX_BYTES: usize = HEADER_BYTES + PAYLOAD_MAX_BYTES;
const FORMAT: u8 = 1;

/// A page as it is to be written, or as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub handle: Handle,
    pub version: Version,
    pub kind: u8,
    pub bytes: &'a [u8],
}

impl<'a> Record<'a> {
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.bytes.len()
    }

    /// Into the beginning of `out`. False, and nothing written: too little room, or not a length that a record may have.
    pub fn encode(&self, seed: u64, out: &mut [u8]) -> bool {
        let total = self.total_bytes();
        if out.len() < total || self.bytes.is_empty() || self.bytes.len() > PAYLOAD_MAX_BYTES {
            return false;
        }
        let out = &mut out[..total];
        out[8..12].copy_from_slice(&self.handle.pool.0.to_le_bytes());
        for (word, at) in self.handle.object.0.iter().zip([12, 20, 28]) {
            out[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        out[36..40].copy_from_slice(&self.handle.index.to_le_bytes());
        out[40..44].copy_from_slice(&self.version.to_le_bytes());
        out[44..46].copy_from_slice(&(self.bytes.len() as u16).to_le_bytes());
        (out[46], out[47]) = (self.kind, FORMAT);
        out[HEADER_BYTES..].copy_from_slice(self.bytes);
        let checksum = checksum(&out[8..], seed);
        out[..8].copy_from_slice(&checksum.to_le_bytes());
        true
    }

    /// The record at the beginning of `bytes`. None: there is none, or it is torn, changed or of another log.
    pub fn decode(seed: u64, bytes: &'a [u8]) -> Option<Record<'a>> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let length = usize::from(u16::from_le_bytes([header[44], header[45]]));
        if header[47] != FORMAT || length == 0 || length > PAYLOAD_MAX_BYTES || length > rest.len() {
            return None;
        }
        if u64_at(header, 0) != checksum(&bytes[8..HEADER_BYTES + length], seed) {
            return None;
        }
        let handle = Handle {
            pool: PoolId(u32_at(header, 8)),
            object: ObjectId([u64_at(header, 12), u64_at(header, 20), u64_at(header, 28)]),
            index: u32_at(header, 36),
        };
        Some(Record { handle, version: u32_at(header, 40), kind: header[46], bytes: &rest[..length] })
    }
}

fn checksum(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
