//! One write: records gathered in a buffer until a stretch of a head is full. Covers their bytes and places; where the stretch is and what becomes of it is
//! `mod.rs`'s.

use super::record::Record;
use super::{BLOCK_BYTES, Place, Purpose, Spot, Victim};
use crate::handle::Handle;

/// Records on their way to the disk, in one stretch of one head. One at a time for each purpose.
#[derive(Debug)]
pub struct Write {
    pub(super) purpose: Purpose,
    pub(super) seed: u64,
    pub(super) file: u8,
    pub(super) segment: u32,
    pub(super) segment_bytes: u32,
    pub(super) start: u32,
    pub(super) used: u32,
    /// The segment has no room on the disk yet: to be had before it is written to ([`Write::segment_spot`]).
    pub fresh: bool,
    /// Of the victims.
    pub(super) stamp: Option<u64>,
    pub(super) records: Vec<(Handle, Place, Option<Place>)>,
    /// Of them, those that the log knows to be written.
    pub(super) landed: usize,
}

impl Write {
    /// Adds a record to what is in `buffer`, the bytes of this stretch. False: it does not fit, and nothing was added. `from`: whence the cleaner moves it.
    pub fn push(&mut self, record: &Record<'_>, from: Option<(&Victim, Place)>, buffer: &mut [u8]) -> bool {
        let total = record.total_bytes();
        let room = (self.segment_bytes - self.start).min(buffer.len() as u32 / BLOCK_BYTES * BLOCK_BYTES) as usize;
        let used = self.used as usize;
        if used + total > room || !record.encode(self.seed, &mut buffer[used..used + total]) {
            return false;
        }
        let (file, segment, offset) = (self.file, self.segment, self.start + self.used);
        let place = Place { file, segment, offset, bytes: total as u16, version: record.version };
        self.used += total as u32;
        self.records.push((record.handle, place, from.map(|(_, place)| place)));
        if let Some((victim, _)) = from {
            self.stamp = Some(self.stamp.map_or(victim.stamp, |stamp| stamp.max(victim.stamp)));
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Zeroes behind the last record, up to the block's end, and how much of `buffer` is to be written.
    pub fn finish<'a>(&self, buffer: &'a mut [u8]) -> &'a [u8] {
        let (used, end) = (self.used as usize, self.spot().bytes as usize);
        buffer[used..end].fill(0);
        &buffer[..end]
    }

    pub fn spot(&self) -> Spot {
        Spot {
            offset: self.segment_spot().offset + u64::from(self.start),
            bytes: self.used.next_multiple_of(BLOCK_BYTES),
            file: self.file,
        }
    }

    /// The whole segment.
    pub fn segment_spot(&self) -> Spot {
        let offset = u64::from(self.segment) * u64::from(self.segment_bytes);
        Spot { file: self.file, offset, bytes: self.segment_bytes }
    }
}
