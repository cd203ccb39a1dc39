//! Step 7 for a disk: a log-structured store of packed or sealed pages. Covers the book-keeping: where each page's record is, what is written next, which segment
//! is cleaned, when the disk is full. The caller does all input and output and brings the time; `record.rs` has the bytes, `segments.rs` the table.
//!
//! A file is a row of segments. Pages are appended to one of two heads (new pages; pages that the cleaner moves, which are older and stay longer), many in one
//! write, aligned to blocks. A page put again or flushed leaves a dead record. A segment without a live one is used again, or its room is given back; the cleaner
//! empties others: it reads a victim whole, writes what lives of it to its head, and only then is the victim free.
//!
//! - A page is found here MUST NOT be said before its write has returned.
//! - Who reads takes no part in the book-keeping: a place may be cleaned and used again while it is read. The record says what it is; when it is not what was
//!   wanted, the reader looks again, and only the same place twice is damage.
//! - Nothing is kept for the time after this process: the file has no name, and dies with the last descriptor.

mod clean;
pub mod record;
mod segments;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use self::record::{RECORD_MAX_BYTES, Record};
use self::segments::Segments;
use crate::handle::{Handle, ObjectId, PoolId, Version};
use crate::tmem::Flush;

pub use self::clean::{Victim, record_at, records_in};
pub use self::segments::SegmentState;
pub use self::write::Write;

/// What is aligned to it may be written and read past the page cache on every disk there is.
pub const BLOCK_BYTES: u32 = 4096;
/// Long enough that a disk with a head moves rarely, short enough that the cleaner's two buffers and its reserve cost nobody anything.
pub const SEGMENT_BYTES: u32 = 1 << 20;
/// Each fork with pages on disk leaves one file that is never written again. Twice as many would do no harm but open descriptors.
pub const FILES_MAX: usize = 32;
/// A stretch of a head: a record fits into an empty one, whichever it is.
const STRETCH_MIN_BYTES: u32 = (RECORD_MAX_BYTES as u32).next_multiple_of(BLOCK_BYTES);
/// A full disk is asked again after this, or at once when the log has room of its own again.
const FULL_RETRY_MS: u64 = 1000;
/// A broken one, which may keep whoever asks it waiting.
const FAILED_RETRY_MS: u64 = 10_000;
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Keys the checksums.
    pub seed: u64,
    /// A multiple of [`BLOCK_BYTES`], four blocks at least.
    pub segment_bytes: u32,
    /// Of one file.
    pub segments_max: u32,
    pub choice: Choice,
}

/// Which segment is cleaned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The emptiest.
    Greedy,
    /// The one whose room costs least for the time it is likely to last (Rosenblum and Ousterhout, 1992).
    CostBenefit,
}

impl Config {
    pub fn new(seed: u64) -> Config {
        Config { seed, segment_bytes: SEGMENT_BYTES, segments_max: u32::MAX, choice: Choice::CostBenefit }
    }
}

/// What the disk lets us do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    Ok,
    /// No room, on the disk or under the limit: what is there stays readable.
    Full {
        since_ms: u64,
    },
    /// It cannot be written (an error of the device, read-only): what is there is readable as far as it is.
    Failed {
        since_ms: u64,
    },
}

/// Why a write did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    Full,
    Failed,
}

/// What is written: pages that are put, or those that the cleaner moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Put = 0,
    Clean = 1,
}

/// Bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spot {
    pub file: u8,
    pub offset: u64,
    pub bytes: u32,
}

/// Where a page's record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    file: u8,
    segment: u32,
    offset: u32,
    /// The record's, with its header.
    bytes: u16,
    pub version: Version,
}

#[derive(Clone, Debug)]
pub struct Log {
    config: Config,
    places: BTreeMap<Handle, Place>,
    /// By number: a file keeps it as long as there is a page in it.
    files: Vec<Option<FileUse>>,
    /// The one that is written.
    current: Option<u8>,
    segments: Segments,
    condition: Condition,
    tried_ms: u64,
    /// The file system gave no room when it was last asked.
    refused: bool,
    ended: Vec<u8>,
    live_bytes: u64,
    pub counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct FileUse {
    records: u64,
    /// Begun and not ended: a file that is no longer written may have one left.
    writes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub records_put: u64,
    pub bytes_put: u64,
    /// By the cleaner.
    pub records_moved: u64,
    pub bytes_moved: u64,
    pub segments_cleaned: u64,
    /// Something in it could not be read.
    pub segments_bad: u64,
}

impl Log {
    pub fn new(config: Config) -> Log {
        Log {
            config,
            places: BTreeMap::new(),
            files: Vec::new(),
            current: None,
            segments: Segments::new(config.segment_bytes, config.segments_max),
            condition: Condition::Ok,
            tried_ms: 0,
            refused: false,
            ended: Vec::new(),
            live_bytes: 0,
            counters: Counters::default(),
        }
    }

    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Whether a put may be tried now.
    pub fn takes_puts(&self, now_ms: u64) -> bool {
        match self.condition {
            Condition::Ok => true,
            Condition::Full { .. } => {
                self.segments.free_count() > segments::RESERVE_SEGMENTS || self.tried_ms + FULL_RETRY_MS <= now_ms
            }
            Condition::Failed { .. } => self.tried_ms + FAILED_RETRY_MS <= now_ms,
        }
    }

    /// The file that is written. None: [`Log::begin_file`] comes first.
    pub fn current(&self) -> Option<u8> {
        self.current
    }

    /// The caller has made an empty file: its number from now on, as long as it is written or a page is in it. None: too many files. What [`Log::take_ended`] has
    /// MUST be closed before: its numbers are used again.
    pub fn begin_file(&mut self) -> Option<u8> {
        let index = match self.files.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.files.len() < FILES_MAX => {
                self.files.push(None);
                self.files.len() - 1
            }
            None => return None,
        };
        self.files[index] = Some(FileUse::default());
        self.segments = Segments::new(self.config.segment_bytes, self.config.segments_max);
        self.current = Some(index as u8);
        self.current
    }

    /// A stretch of the head to put records into, then to be written, then to be told of by `written` or `not_written`: one at a time for each purpose, or two
    /// would be the same stretch. None: no room under the limit, or there is no file.
    pub fn begin_write(&mut self, purpose: Purpose, now_ms: u64) -> Option<Write> {
        let file = self.current?;
        let Some((segment, fresh)) = self.segments.head(purpose, STRETCH_MIN_BYTES) else {
            self.trouble_with(purpose, Trouble::Full, now_ms);
            return None;
        };
        let start = self.segments.get(segment)?.end_bytes;
        self.files[usize::from(file)].as_mut()?.writes += 1;
        let Config { seed, segment_bytes, .. } = self.config;
        Some(Write {
            purpose,
            seed,
            file,
            segment,
            segment_bytes,
            start,
            used: 0,
            fresh,
            stamp: None,
            records: Vec::new(),
            landed: 0,
        })
    }

    /// It is on the disk: its pages are found from now on, older copies of them no more.
    pub fn written(&mut self, mut write: Write) {
        while self.written_some(&mut write, usize::MAX) {}
    }

    /// The same for `max` of its records, for who must not hold the log for long. True: there are more.
    pub fn written_some(&mut self, write: &mut Write, max: usize) -> bool {
        let is_current = self.current == Some(write.file);
        if is_current && write.landed == 0 {
            self.segments.grow(write.segment, write.spot().bytes, write.stamp);
        }
        let end = write.records.len().min(write.landed.saturating_add(max));
        for (handle, place, from) in &write.records[write.landed..end] {
            // Moved, but flushed or put again meanwhile: the new record is dead.
            if from.is_none() || self.places.get(handle) == from.as_ref() {
                self.insert(handle, place, write.purpose);
            }
        }
        write.landed = end;
        if end < write.records.len() {
            return true;
        }
        self.end_write(write.file);
        self.refused &= !write.fresh;
        if write.purpose == Purpose::Put {
            self.condition = Condition::Ok;
        }
        false
    }

    /// Nothing of it is on the disk, as far as we care. A full disk is asked for the same stretch again, a broken one for another.
    pub fn not_written(&mut self, write: Write, why: Trouble, now_ms: u64) {
        if self.current == Some(write.file) {
            match why {
                Trouble::Full if write.fresh => self.segments.untake(write.purpose),
                Trouble::Full => {}
                Trouble::Failed => self.segments.seal(write.purpose),
            }
        }
        self.end_write(write.file);
        self.refused |= why == Trouble::Full;
        self.trouble_with(write.purpose, why, now_ms);
    }

    /// A put could not even be begun, or a read failed.
    pub fn trouble(&mut self, why: Trouble, now_ms: u64) {
        self.tried_ms = now_ms;
        self.condition = match (why, self.condition) {
            (Trouble::Full, Condition::Full { since_ms }) => Condition::Full { since_ms },
            (Trouble::Failed, Condition::Failed { since_ms }) => Condition::Failed { since_ms },
            (Trouble::Full, _) => Condition::Full { since_ms: now_ms },
            (Trouble::Failed, _) => Condition::Failed { since_ms: now_ms },
        };
    }

    /// Where that copy of the page is. None: it is not here (any more).
    pub fn find(&self, handle: &Handle, version: Version) -> Option<Place> {
        self.places.get(handle).filter(|place| place.version == version).copied()
    }

    pub fn spot(&self, place: &Place) -> Spot {
        let offset = u64::from(place.segment) * u64::from(self.config.segment_bytes) + u64::from(place.offset);
        Spot { file: place.file, offset, bytes: u32::from(place.bytes) }
    }

    /// What was read from that copy's spot. None: the bytes are not that record. Then look where it is: elsewhere, nowhere, or here and damaged.
    pub fn check<'a>(&self, handle: &Handle, version: Version, bytes: &'a [u8]) -> Option<Record<'a>> {
        check(self.config.seed, handle, version, bytes)
    }

    pub fn seed(&self) -> u64 {
        self.config.seed
    }

    pub fn flush(&mut self, what: &Flush) {
        while self.flush_some(what, usize::MAX) {}
    }

    /// The same for `max` pages, for who must not hold the log for long. True: there may be more.
    pub fn flush_some(&mut self, what: &Flush, max: usize) -> bool {
        match *what {
            Flush::Copy { handle, version } => {
                if self.find(&handle, version).is_some() {
                    self.remove(&handle);
                }
                false
            }
            Flush::Range { handle, count } => {
                let end = u64::from(handle.index) + u64::from(count);
                let last = Handle { index: u32::try_from(end.saturating_sub(1)).unwrap_or(u32::MAX), ..handle };
                count > 0 && self.remove_between(handle, last, max)
            }
            Flush::Object { pool, object } => {
                self.remove_between(Handle { pool, object, index: 0 }, Handle { pool, object, index: u32::MAX }, max)
            }
            Flush::Pool(pool) => self.remove_between(first_of(pool), last_of(pool), max),
        }
    }

    /// Room on the disk that is not needed any more: it MUST be given back before anything else is written.
    pub fn give_back(&mut self) -> Option<Spot> {
        let file = self.current?;
        let segment = self.segments.give_back()?;
        let size = self.config.segment_bytes;
        Some(Spot { file, offset: u64::from(segment) * u64::from(size), bytes: size })
    }

    /// The file system does not do that: the room stays the log's.
    pub fn not_given_back(&mut self, spot: Spot) {
        if self.current == Some(spot.file) {
            self.segments.not_given_back((spot.offset / u64::from(self.config.segment_bytes)) as u32);
        }
    }

    /// After a fork, on both sides: a file with pages belongs to both now, so neither ever begins a write to it again. New pages go to a new file, and the old one
    /// ends when nothing is left in it. An empty one stays the parent's. What is being written in the parent goes on: the child does not know of it.
    pub fn part_with_fork(&mut self, is_child: bool) {
        if is_child {
            self.files.iter_mut().flatten().for_each(|file| file.writes = 0);
        }
        if let Some(current) = self.current
            && (is_child || !self.places.is_empty())
        {
            self.current = None;
            self.segments = Segments::new(self.config.segment_bytes, self.config.segments_max);
            self.end_if_empty(current);
        }
        if is_child {
            self.condition = Condition::Ok;
        }
    }

    /// Files that have ended since the last call: to be closed.
    pub fn take_ended(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ended)
    }

    /// Bytes of records that are wanted, in all files.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// What segments in use take of the file that is written.
    pub fn used_bytes(&self) -> u64 {
        u64::from(self.segments.used) * u64::from(self.config.segment_bytes)
    }

    pub fn pages(&self) -> usize {
        self.places.len()
    }

    fn insert(&mut self, handle: &Handle, place: &Place, purpose: Purpose) {
        self.remove(handle);
        self.places.insert(*handle, *place);
        let bytes = u64::from(place.bytes);
        self.live_bytes += bytes;
        if let Some(used) = self.files[usize::from(place.file)].as_mut() {
            used.records += 1;
        }
        if self.current == Some(place.file) {
            self.segments.add_live(place.segment, u32::from(place.bytes));
        }
        let (records, total) = match purpose {
            Purpose::Put => (&mut self.counters.records_put, &mut self.counters.bytes_put),
            Purpose::Clean => (&mut self.counters.records_moved, &mut self.counters.bytes_moved),
        };
        (*records, *total) = (*records + 1, *total + bytes);
    }

    /// That the cleaner has no room says nothing about puts.
    fn trouble_with(&mut self, purpose: Purpose, why: Trouble, now_ms: u64) {
        if purpose == Purpose::Put || why == Trouble::Failed {
            self.trouble(why, now_ms);
        }
    }

    fn end_write(&mut self, file: u8) {
        if let Some(used) = self.files[usize::from(file)].as_mut() {
            used.writes = used.writes.saturating_sub(1);
        }
        self.end_if_empty(file);
    }

    fn remove(&mut self, handle: &Handle) {
        let Some(place) = self.places.remove(handle) else { return };
        self.live_bytes -= u64::from(place.bytes);
        if self.current == Some(place.file) {
            self.segments.remove_live(place.segment, u32::from(place.bytes));
        }
        if let Some(used) = self.files[usize::from(place.file)].as_mut() {
            used.records -= 1;
        }
        self.end_if_empty(place.file);
    }

    fn remove_between(&mut self, first: Handle, last: Handle, max: usize) -> bool {
        let gone: Vec<Handle> = self.places.range(first..=last).take(max).map(|(handle, _)| *handle).collect();
        gone.iter().for_each(|handle| self.remove(handle));
        gone.len() == max
    }

    fn end_if_empty(&mut self, file: u8) {
        let slot = &mut self.files[usize::from(file)];
        if self.current != Some(file) && slot.is_some_and(|used| used.records == 0 && used.writes == 0) {
            *slot = None;
            self.ended.push(file);
        }
    }
}

/// As [`Log::check`], for who does not hold the log.
pub fn check<'a>(seed: u64, handle: &Handle, version: Version, bytes: &'a [u8]) -> Option<Record<'a>> {
    Record::decode(seed, bytes).filter(|record| record.handle == *handle && record.version == version)
}

fn first_of(pool: PoolId) -> Handle {
    Handle { pool, object: ObjectId([0; 3]), index: 0 }
}

fn last_of(pool: PoolId) -> Handle {
    Handle { pool, object: ObjectId([u64::MAX; 3]), index: u32::MAX }
}
