//! The cleaner's part of the log: which segment is worth it and when, and which of its records are wanted. Covers the decisions; the caller reads the victim and
//! writes what lives of it, as fast as it sees fit.

use super::record::Record;
use super::{BLOCK_BYTES, Condition, Log, Place, STRETCH_MIN_BYTES, Spot, segments};
use crate::handle::Handle;

/// The cleaner rests while dead bytes are less than half of the live ones and this many segments: with two thirds of a file in use each byte is written 1.3 times (some
/// pages hot) to 1.7 times (all alike; `what_cleaning_costs`). At four fifths it would be 1.9 to 2.8.
const DEAD_SEGMENTS: u64 = 8;
/// When there is no other room, a victim must win back this share of a segment at least.
const WORTH_SHARE: u32 = 16;

/// A segment that is being cleaned.
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    pub(super) file: u8,
    pub(super) segment: u32,
    pub(super) stamp: u64,
    /// To be read, and given to [`Log::records_of`].
    pub spot: Spot,
}

impl Log {
    /// A segment to be cleaned, if that is due: too much of the file is dead, or there is no other room. One at a time.
    pub fn begin_clean(&mut self) -> Option<Victim> {
        let file = self.current?;
        let size = self.config.segment_bytes;
        let is_pressed =
            matches!(self.condition, Condition::Full { .. }) && self.segments.free_count() <= segments::RESERVE_SEGMENTS;
        // Begun and not ended for want of room, it would have used up what room there was, and won none.
        let room = self.segments.clean_room_bytes(self.refused).saturating_sub(2 * u64::from(STRETCH_MIN_BYTES));
        let bounds = if is_pressed { (size / WORTH_SHARE, room) } else { (size / 4, u64::MAX) };
        let allowed = self.segments.live_bytes / 2 + DEAD_SEGMENTS * u64::from(size);
        if !is_pressed && self.segments.dead_bytes() <= allowed {
            return None;
        }
        let segment = self.segments.begin_clean(self.config.choice, bounds)?;
        let bytes = self.segments.get(segment)?.end_bytes;
        let spot = Spot { file, offset: u64::from(segment) * u64::from(size), bytes };
        Some(Victim { file, segment, stamp: self.segments.stamp(segment), spot })
    }

    /// Those of a victim's records that are wanted; `found` is from [`records_in`]. A hundred at a time cost some 10 us.
    pub fn retain_live(&self, victim: &Victim, found: &mut Vec<(Handle, Place)>) {
        found.retain_mut(|(handle, place)| {
            (place.file, place.segment) = (victim.file, victim.segment);
            self.places.get(handle) == Some(place)
        });
    }

    /// All of a victim that is wanted has been written elsewhere; or, not `finished`, it could not be. What is left of it then could not be read, or is tried
    /// again later.
    pub fn end_clean(&mut self, victim: Victim, finished: bool) {
        if self.current != Some(victim.file) {
            return;
        }
        let left = self.segments.get(victim.segment).map_or(0, |segment| segment.live_bytes);
        let bad = finished && left > 0;
        self.segments.end_clean(victim.segment, !bad);
        self.counters.segments_cleaned += u64::from(finished && !bad);
        self.counters.segments_bad += u64::from(bad);
    }
}

/// All records in a segment's bytes that can be read. After one that cannot the next is looked for at the next block, where every write begins.
pub fn records_in(seed: u64, bytes: &[u8]) -> Vec<(Handle, Place)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match Record::decode(seed, &bytes[at..]) {
            Some(record) => {
                let total = record.total_bytes();
                let place = Place { file: 0, segment: 0, offset: at as u32, bytes: total as u16, version: record.version };
                found.push((record.handle, place));
                at += total;
            }
            None => at = (at + 1).next_multiple_of(BLOCK_BYTES as usize),
        }
    }
    found
}

/// The record at a place that [`records_in`] found.
pub fn record_at<'a>(seed: u64, bytes: &'a [u8], place: &Place) -> Option<Record<'a>> {
    Record::decode(seed, bytes.get(place.offset as usize..)?)
}
