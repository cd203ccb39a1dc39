//! The one thread that writes the spill file: pages that the remotifier hands over, many in one write, and between them what the cleaner moves. Covers the order and
//! the rate; who waits for a page never waits here.

use std::io;

use ramster_core::log::record::Record;
use ramster_core::log::{BLOCK_BYTES, Condition, Purpose, SEGMENT_BYTES, Spot, Trouble, Victim, Write, record_at, records_in};
use ramster_core::tmem::Batch;
use ramster_sys::aligned::Aligned;
use ramster_sys::say::say;

use super::file::{File, trouble};
use super::{Disk, Done};
use crate::clock::now_ms;

/// What the cleaner reads and writes at most, so that a disk has most of its time for faults: half of what a slow SSD does.
const CLEAN_BYTES_PER_MS: u64 = 64 << 10;
/// Records told to the log under one lock: some 20 us, which a fault's look for its page may have to wait for.
const LOCKED_RECORDS: usize = 32;
/// Nothing to do: the bell wants a time. With something to give back or to clean later, soon enough.
const SLEEP_MS: u64 = 60_000;
/// A victim that could not be cleaned, for want of room or for an error.
const CLEAN_AGAIN_MS: u64 = 1000;

pub struct Writer<'a> {
    disk: &'a Disk,
    buffer: Aligned,
    victim: Aligned,
    /// The cleaner's next turn.
    clean_at_ms: u64,
}

impl Disk {
    /// The writer's life.
    pub(super) fn write_for_ever(&self) {
        let buffers = Aligned::new(SEGMENT_BYTES as usize).and_then(|one| Ok((one, Aligned::new(SEGMENT_BYTES as usize)?)));
        match buffers {
            Ok((buffer, victim)) => Writer { disk: self, buffer, victim, clean_at_ms: 0 }.run(),
            Err(errno) => {
                say(format_args!("no memory to write the spill file with: {errno}"));
                while !self.is_stopping() {
                    let heard = self.to_write.listen();
                    self.refuse_batches();
                    self.to_write.wait(heard, SLEEP_MS);
                }
            }
        }
    }
}

impl Writer<'_> {
    fn run(mut self) {
        loop {
            let heard = self.disk.to_write.listen();
            if self.disk.is_stopping() {
                return;
            }
            if self.write_batches() {
                continue;
            }
            let now = now_ms();
            let mut wait_ms = SLEEP_MS;
            if self.clean_at_ms > now {
                wait_ms = self.clean_at_ms - now;
            } else if self.clean() {
                continue;
            }
            if !self.give_back() {
                self.disk.to_write.wait(heard, wait_ms);
            }
        }
    }

    /// All that has been handed over. False: nothing has.
    fn write_batches(&mut self) -> bool {
        let batches: Vec<(Batch, bool)> = {
            let mut queue = self.disk.queue.lock();
            queue.in_work = queue.batches.len();
            queue.batches.drain(..).collect()
        };
        if batches.is_empty() {
            return false;
        }
        let mut pages =
            batches.iter().flat_map(|(batch, with_peers)| batch.iter().map(move |page| (page, *with_peers))).peekable();
        let mut done = Vec::new();
        let mut ok = self.disk.be_ready();
        while pages.peek().is_some() {
            let first = done.len();
            let mut write = if ok { self.disk.begin(Purpose::Put) } else { None };
            while let Some(((handle, version, packed), with_peers)) = pages.peek().copied() {
                let record = Record { handle, version, kind: packed.kind.tag(), bytes: packed.bytes };
                let taken = write.as_mut().map(|write| write.push(&record, None, &mut self.buffer));
                // The next stretch takes it; but what an empty one does not take none will.
                if taken == Some(false) && done.len() > first {
                    break;
                }
                done.push(Done { handle, version, stored: taken == Some(true), with_peers });
                pages.next();
            }
            ok = write.is_some_and(|write| self.disk.write(write, &mut self.buffer).is_ok());
            done[first..].iter_mut().for_each(|done| done.stored &= ok);
        }
        drop(pages);
        self.disk.note_condition(None);
        let mut queue = self.disk.queue.lock();
        queue.done.append(&mut done);
        queue.in_work = 0;
        queue.spare.extend(batches.into_iter().map(|(batch, _)| batch));
        if let Some(wake) = &queue.wake {
            wake.ring();
        }
        true
    }

    /// One victim, if cleaning is due. False: it is not, or did not work.
    fn clean(&mut self) -> bool {
        let Some(victim) = self.disk.books.lock().log.begin_clean() else { return false };
        let moved = self.empty(&victim);
        self.disk.books.lock().log.end_clean(victim, moved.is_some());
        let rest_ms = moved.map_or(CLEAN_AGAIN_MS, |bytes| (bytes + u64::from(victim.spot.bytes)) / CLEAN_BYTES_PER_MS);
        self.clean_at_ms = now_ms() + rest_ms;
        let mut queue = self.disk.queue.lock();
        if queue.wants_room && moved.is_some() {
            // There may be room for pages again.
            queue.wants_room = false;
            if let Some(wake) = &queue.wake {
                wake.ring();
            }
        }
        moved.is_some()
    }

    /// Writes what lives of the victim to the cleaner's head. Returns how many bytes; None: not all could be written.
    fn empty(&mut self, victim: &Victim) -> Option<u64> {
        let Self { disk, buffer, victim: bytes, .. } = self;
        let bytes = &mut bytes[..victim.spot.bytes as usize];
        if disk.read_spot(&victim.spot, bytes).is_err() {
            disk.salvage(victim, bytes);
        }
        let mut live = Vec::new();
        let mut found = records_in(disk.seed, bytes);
        while !found.is_empty() {
            let mut some = found.split_off(found.len().saturating_sub(LOCKED_RECORDS));
            disk.books.lock().log.retain_live(victim, &mut some);
            live.append(&mut some);
        }
        let (mut moved, mut next) = (0, 0);
        while next < live.len() && !disk.is_stopping() {
            let mut write = disk.begin(Purpose::Clean)?;
            while let Some((_, place)) = live.get(next) {
                let record = record_at(disk.seed, bytes, place)?;
                if !write.push(&record, Some((victim, *place)), buffer) {
                    break;
                }
                moved += record.total_bytes() as u64;
                next += 1;
            }
            disk.write(write, buffer).ok()?;
        }
        (next == live.len()).then_some(moved)
    }

    /// True: a segment's room went back to the file system.
    fn give_back(&self) -> bool {
        let mut books = self.disk.books.lock();
        let Some(spot) = books.log.give_back() else { return false };
        let Some(file) = books.file(spot.file) else { return false };
        drop(books);
        let given = file.give_back(&spot);
        if !given {
            self.disk.books.lock().log.not_given_back(spot);
        }
        given
    }
}

impl Disk {
    /// A file to write to, and room in it for the cleaner: on a full disk it could not win any otherwise.
    fn be_ready(&self) -> bool {
        if self.books.lock().log.current().is_none() {
            let made = File::make(&self.dir, &self.progress);
            let mut books = self.books.lock();
            let error = match made {
                Ok(file) => {
                    let begun = books.begin_file(file);
                    (!begun).then(|| io::Error::other("too many forks have left files there"))
                }
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                let why = if error.raw_os_error().is_some() { trouble(&error) } else { Trouble::Full };
                books.log.trouble(why, now_ms());
                drop(books);
                self.note_condition(Some(&error));
                return false;
            }
        }
        if self.books.lock().has_reserve {
            return true;
        }
        let reserved = self.begin(Purpose::Clean).is_some_and(|write| {
            self.land(write);
            true
        });
        let mut books = self.books.lock();
        books.has_reserve = reserved;
        if !reserved {
            books.log.trouble(Trouble::Full, now_ms());
        }
        reserved
    }

    /// A stretch with room on the disk.
    fn begin(&self, purpose: Purpose) -> Option<Write> {
        let (write, file) = {
            let mut books = self.books.lock();
            let write = books.log.begin_write(purpose, now_ms())?;
            let file = books.file(write.spot().file)?;
            (write, file)
        };
        if !write.fresh {
            return Some(write);
        }
        match file.allocate(&write.segment_spot()) {
            Ok(()) => Some(write),
            Err(error) => {
                self.give_up(write, &error);
                None
            }
        }
    }

    fn write(&self, write: Write, buffer: &mut [u8]) -> Result<(), ()> {
        let spot = write.spot();
        let file = self.books.lock().file(spot.file).ok_or(())?;
        let written = if write.is_empty() { Ok(()) } else { file.write(spot.offset, write.finish(buffer)) };
        match written {
            Ok(()) => {
                self.land(write);
                Ok(())
            }
            Err(error) => {
                self.give_up(write, &error);
                Err(())
            }
        }
    }

    fn give_up(&self, write: Write, error: &io::Error) {
        self.books.lock().log.not_written(write, trouble(error), now_ms());
        self.note_condition(Some(error));
    }

    /// Block by block: what is readable is saved, the rest is zeroes and never taken for a record.
    fn salvage(&self, victim: &Victim, bytes: &mut [u8]) {
        for (block, at) in bytes.chunks_mut(BLOCK_BYTES as usize).zip((victim.spot.offset..).step_by(BLOCK_BYTES as usize)) {
            let spot = Spot { offset: at, bytes: BLOCK_BYTES, ..victim.spot };
            if self.read_spot(&spot, block).is_err() {
                block.fill(0);
            }
        }
    }

    /// Told to the log, a few records under one lock.
    fn land(&self, mut write: Write) {
        loop {
            let mut books = self.books.lock();
            let more = books.log.written_some(&mut write, LOCKED_RECORDS);
            books.close_ended();
            if !more {
                break;
            }
        }
    }

    /// Says once what the disk's condition is, when it has changed.
    pub(super) fn note_condition(&self, error: Option<&io::Error>) {
        let mut books = self.books.lock();
        let condition = books.log.condition();
        let (now, word) = (now_ms(), super::word(condition));
        if matches!(condition, Condition::Full { .. } | Condition::Failed { .. }) {
            self.queue.lock().wants_room = true;
        }
        if word == books.said || now < books.say_at_ms {
            return;
        }
        let (before, dir) = (std::mem::replace(&mut books.said, word), self.dir.display());
        books.say_at_ms = now + super::SAY_AGAIN_MS;
        drop(books);
        let why = error.map_or(String::new(), |error| format!(": {error}"));
        match word {
            "ok" => say(format_args!("spill directory {dir}: takes pages again (it was {before})")),
            _ => say(format_args!("spill directory {dir} is {word}{why}; pages stay here or go to peers, and it is tried again")),
        }
    }
}
