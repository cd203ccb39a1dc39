//! What one lane reads of the spill file by itself: no reader is woken, and no thread waits for the disk. A read takes a window of the file, what is wanted and a little
//! behind it, since pages that left together lie together; a later get that finds its record in a window is answered from it. Covers the windows and how far
//! they reach; whatever does not work at once is a reader's (`reader.rs`).
//!
//! A window is never told that the file has changed, and need not be: the log says where that copy of the page is now, and the record there says which copy it
//! is. Bytes from before the segment was used again are another record, and then the disk is read.

use std::sync::Arc;

use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, Version};
use ramster_core::log::{Spot, check};
use ramster_sys::aio::Aio;
use ramster_sys::quiet::{Inherited, move_high};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::file::{File, Progress, blocks};
use super::reader::{GAP_BYTES, Heard, Job};
use crate::clock::now_ms;

/// As many reads at once as the pages of a read-ahead lie apart; more are the readers'. With these 512 KiB a lane, touched when used.
const WINDOWS: usize = 8;
/// A random read of 64 KiB takes twice as long as one of a block (a virtual disk on flash; docs/performance.md) and has 30 pages. Of 128 KiB it takes three times as long.
const WINDOW_BYTES: usize = 64 << 10;
/// Read behind what is wanted, as long as nobody knows whether it pays: an eighth of the time more for the next 5 pages.
const FIRST_BEYOND_BYTES: usize = 12 << 10;
/// While it does not pay, it is tried again with one read in so many.
const TRY_AGAIN_READS: u32 = 8;
/// Older windows answer nobody. Long enough for a scan; so short that no version can come round meanwhile (2^32 copies).
const FRESH_MS: u64 = 1000;

pub struct Windows {
    aio: Aio<WINDOWS>,
    told: OwnedFd,
    inherited: Arc<Inherited>,
    list: [Window; WINDOWS],
    reads: u32,
    /// Reads whose end `told` has not been heard to tell. Not the same as those under way: an end may be seen before it is told.
    untold: u64,
    /// Told of each read that began and ended.
    progress: Option<Arc<Progress>>,
    /// How much is read behind what is wanted, at most.
    beyond_bytes: usize,
    /// Kept for the next call.
    rest: Vec<Job>,
}

#[derive(Default)]
struct Window {
    file: u8,
    offset: u64,
    /// While it is read, what is asked for; then, what has come. 0: nothing is in it.
    bytes: usize,
    /// When the read began, by its number and by the clock.
    number: u32,
    began_ms: u64,
    /// Whether it has more than what was wanted, and somebody has found that useful.
    reaches_beyond: bool,
    was_useful: bool,
    /// Who waits for it.
    jobs: Vec<Job>,
}

impl Window {
    /// Where in it the spot is.
    fn at(&self, spot: &Spot) -> Option<usize> {
        let at = spot.offset.checked_sub(self.offset)? as usize;
        (self.file == spot.file && at + spot.bytes as usize <= self.bytes).then_some(at)
    }
}

impl Windows {
    /// An error: the system does not let us, or too many are in use.
    pub fn new(inherited: &Arc<Inherited>) -> Result<Windows, rustix::io::Errno> {
        let aio = Aio::new(WINDOW_BYTES)?;
        let told = move_high(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        inherited.note(told.as_fd());
        Ok(Windows {
            aio,
            told,
            inherited: Arc::clone(inherited),
            list: std::array::from_fn(|_| Window::default()),
            reads: 0,
            untold: 0,
            progress: None,
            beyond_bytes: FIRST_BEYOND_BYTES,
            rest: Vec::new(),
        })
    }

    /// Readable when a read has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }

    /// Whether any window may answer; if not, nobody need ask the log.
    pub fn may_have(&self) -> bool {
        (0..WINDOWS).any(|index| self.list[index].bytes > 0 && !self.aio.is_busy(index))
    }

    /// That copy of the page, which the log says is at `spot` now.
    pub fn find(&mut self, seed: u64, handle: &Handle, version: Version, spot: &Spot) -> Option<(Kind, &[u8])> {
        let oldest_ms = now_ms().saturating_sub(FRESH_MS);
        let is_fresh = |index: &usize| !self.aio.is_busy(*index) && self.list[*index].began_ms >= oldest_ms;
        let found = (0..WINDOWS).filter(is_fresh).find_map(|index| Some((index, self.list[index].at(spot)?)));
        let (index, at) = found?;
        self.list[index].was_useful = true;
        packed(seed, handle, version, &self.aio.bytes(index)[at..at + spot.bytes as usize])
    }

    /// Begins to read what `jobs` want, in their order, and takes along those that it will answer. What stays is a reader's.
    pub(super) fn begin(&mut self, jobs: &mut Vec<Job>, files: &[(u8, Arc<File>)]) {
        let mut rest = std::mem::take(&mut self.rest);
        let mut left = jobs.drain(..).peekable();
        while let Some(job) = left.next() {
            if let Some(window) = self.under_way(&job.spot) {
                self.list[window].jobs.push(job);
                continue;
            }
            let number = job.spot.file;
            let file = files.iter().find(|(other, file)| *other == number && file.is_direct());
            let (Some((_, file)), Some(window)) = (file, self.oldest_idle()) else {
                rest.push(job);
                continue;
            };
            self.learn(window);
            let (offset, least, _) = blocks(&job.spot);
            let mut end = offset + least as u64;
            let wanted = &mut self.list[window].jobs;
            wanted.push(job);
            // Neighbours that are wanted too.
            let fits = |next: &Job, end: u64| {
                let is_near = next.spot.file == number && next.spot.offset >= offset && next.spot.offset <= end + GAP_BYTES;
                is_near && end_of(&next.spot) <= offset + WINDOW_BYTES as u64
            };
            while let Some(next) = left.next_if(|next| fits(next, end)) {
                end = end.max(end_of(&next.spot));
                wanted.push(next);
            }
            if !self.read(window, file, (number, offset, (end - offset) as usize)) {
                rest.append(&mut self.list[window].jobs);
            }
        }
        drop(left);
        std::mem::swap(jobs, &mut rest);
        self.rest = rest;
    }

    /// Answers with what has been read. `rest`: what has moved meanwhile, is damaged, or could not be read without waiting. A reader finds out.
    pub(super) fn take(&mut self, seed: u64, answer: &mut dyn FnMut(Heard<'_>), rest: &mut Vec<Job>) {
        let mut told = [0; 8];
        // What is not heard would keep this lane awake.
        if self.untold == 0 || rustix::io::read(&self.told, &mut told).is_err() {
            return;
        }
        self.untold = self.untold.saturating_sub(u64::from_ne_bytes(told));
        let (mut ended, list) = ([false; WINDOWS], &mut self.list);
        self.aio.take(|index, read| {
            list[index].bytes = read.unwrap_or(0).min(list[index].bytes);
            ended[index] = true;
        });
        self.note_ended(ended.iter().filter(|ended| **ended).count());
        for index in (0..WINDOWS).filter(|index| ended[*index]) {
            let mut jobs = std::mem::take(&mut self.list[index].jobs);
            for job in jobs.drain(..) {
                let at = self.list[index].at(&job.spot);
                let bytes = at.map(|at| &self.aio.bytes(index)[at..at + job.spot.bytes as usize]);
                match bytes.and_then(|bytes| packed(seed, &job.wanted.handle, job.wanted.version, bytes)) {
                    Some(packed) => answer(Heard { request: job.request, index: job.wanted.index, what: Ok(packed) }),
                    None => rest.push(job),
                }
            }
            self.list[index].jobs = jobs;
        }
    }

    fn note_ended(&self, reads: usize) {
        let progress = self.progress.iter();
        progress.for_each(|progress| (0..reads).for_each(|_| progress.end()));
    }

    fn under_way(&self, spot: &Spot) -> Option<usize> {
        (0..WINDOWS).find(|index| self.aio.is_busy(*index) && self.list[*index].at(spot).is_some())
    }

    fn oldest_idle(&self) -> Option<usize> {
        let age = |index: &usize| self.reads.wrapping_sub(self.list[*index].number);
        (0..WINDOWS).filter(|index| !self.aio.is_busy(*index)).max_by_key(age)
    }

    /// From a window that goes: whether it paid to read more than was wanted.
    fn learn(&mut self, index: usize) {
        let Window { reaches_beyond, was_useful, .. } = self.list[index];
        if was_useful {
            self.beyond_bytes = (self.beyond_bytes * 2).clamp(FIRST_BEYOND_BYTES, WINDOW_BYTES);
        } else if reaches_beyond {
            self.beyond_bytes = if self.beyond_bytes > FIRST_BEYOND_BYTES { self.beyond_bytes / 2 } else { 0 };
        }
    }

    /// False: it could not be begun.
    fn read(&mut self, index: usize, file: &File, (number, offset, wanted): (u8, u64, usize)) -> bool {
        self.reads = self.reads.wrapping_add(1);
        let tries = self.beyond_bytes == 0 && self.reads.is_multiple_of(TRY_AGAIN_READS);
        let beyond = if tries { FIRST_BEYOND_BYTES } else { self.beyond_bytes };
        let bytes = (wanted + beyond).min(WINDOW_BYTES);
        let begun = self.aio.read(index, file.fd(), offset, bytes, self.told.as_fd()).is_ok();
        self.untold += u64::from(begun);
        if begun {
            self.progress.get_or_insert_with(|| Arc::clone(file.progress())).begin();
        }
        let window = &mut self.list[index];
        (window.file, window.offset, window.bytes) = (number, offset, if begun { bytes } else { 0 });
        (window.number, window.began_ms) = (self.reads, now_ms());
        (window.reaches_beyond, window.was_useful) = (begun && bytes > wanted, false);
        begun
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        self.note_ended((0..WINDOWS).filter(|index| self.aio.is_busy(*index)).count());
        self.inherited.forget(self.told.as_fd());
    }
}

fn end_of(spot: &Spot) -> u64 {
    let (start, bytes, _) = blocks(spot);
    start + bytes as u64
}

fn packed<'a>(seed: u64, handle: &Handle, version: Version, bytes: &'a [u8]) -> Option<(Kind, &'a [u8])> {
    let record = check(seed, handle, version, bytes)?;
    Some((Kind::from_tag(record.kind)?, record.bytes))
}

#[cfg(test)]
mod tests {
    use super::super::reader::{Mailbox, Wanted};
    use super::*;
    use ramster_core::handle::{ObjectId, PoolId};
    use ramster_core::log::record::Record;
    use ramster_core::log::{BLOCK_BYTES, Config, Log, Purpose};
    use ramster_core::tmem::Flush;
    use ramster_sys::aligned::Aligned;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const SEED: u64 = 7;
    const DEADLINE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
    const PAGES: u32 = 8;

    fn handle(index: u32) -> Handle {
        Handle { pool: PoolId(1), object: ObjectId([1, 2, 3]), index }
    }

    fn bytes(index: u32, version: Version) -> Vec<u8> {
        vec![(index * 31 + version) as u8; 1500]
    }

    /// Writes one version of all pages, as the writer does.
    fn write(log: &mut Log, file: &File, version: Version) {
        let mut buffer = Aligned::new(16 << 10).expect("memory");
        let mut write = log.begin_write(Purpose::Put, 0).expect("room");
        for index in 0..PAGES {
            let page = bytes(index, version);
            let record = Record { handle: handle(index), version, kind: Kind::Raw.tag(), bytes: &page };
            assert!(write.push(&record, None, &mut buffer));
        }
        let offset = write.spot().offset;
        file.write(offset, write.finish(&mut buffer)).expect("write");
        log.written(write);
    }

    fn job(log: &Log, mailbox: &Arc<Mailbox>, index: u32, version: Version) -> Job {
        let place = log.find(&handle(index), version).expect("it is there");
        let wanted = Wanted { handle: handle(index), version, index: index as u16 };
        Job { mailbox: Arc::clone(mailbox), request: 1, wanted, place, spot: log.spot(&place) }
    }

    /// What is read for one page, and nothing handed to readers.
    fn read(windows: &mut Windows, job: Job, file: &Arc<File>) {
        let expected = bytes(job.wanted.handle.index, job.wanted.version);
        let mut jobs = vec![job];
        windows.begin(&mut jobs, &[(0, Arc::clone(file))]);
        assert!(jobs.is_empty());
        let mut answers = 0;
        while answers == 0 {
            assert_eq!(poll(&mut [PollFd::new(&windows.told, PollFlags::IN)], Some(&DEADLINE)), Ok(1), "told in time");
            let mut answer = |heard: Heard<'_>| {
                assert!(heard.what.is_ok_and(|(_, found)| found == expected));
                answers += 1;
            };
            windows.take(SEED, &mut answer, &mut jobs);
            assert!(jobs.is_empty(), "nothing was left to a reader");
        }
    }

    #[test]
    fn a_window_answers_for_neighbours_until_their_segment_is_used_again_and_then_never_with_what_was_there() {
        let file = Arc::new(File::make(&std::env::temp_dir(), &Arc::default()).expect("file"));
        if !file.is_direct() {
            eprintln!("skipped: the file system of {:?} has no O_DIRECT", std::env::temp_dir());
            return;
        }
        let inherited = Arc::new(Inherited::new());
        let mailbox = Arc::new(Mailbox::new(&inherited).expect("mailbox"));
        let mut windows = Windows::new(&inherited).expect("windows");
        let mut log = Log::new(Config { segment_bytes: 4 * BLOCK_BYTES, ..Config::new(SEED) });
        log.begin_file().expect("a file");
        write(&mut log, &file, 1);
        let before: Vec<Spot> = (0..PAGES).map(|index| job(&log, &mailbox, index, 1).spot).collect();
        read(&mut windows, job(&log, &mailbox, 0, 1), &file);
        for (index, spot) in (0..PAGES).zip(&before).skip(1) {
            windows.list.iter_mut().for_each(|window| window.began_ms = now_ms());
            let (_, found) = windows.find(SEED, &handle(index), 1, spot).expect("it came along");
            assert!(found == bytes(index, 1), "page {index}");
        }
        // The log comes round: other copies of the same pages lie in the very same spots.
        let mut version = 1;
        loop {
            version += 1;
            assert!(version < 100, "the segment is used again");
            write(&mut log, &file, version);
            if job(&log, &mailbox, 1, version).spot == before[1] {
                break;
            }
        }
        windows.list.iter_mut().for_each(|window| window.began_ms = now_ms());
        for (index, spot) in (0..PAGES).zip(&before) {
            assert_eq!(job(&log, &mailbox, index, version).spot, *spot);
            assert!(windows.find(SEED, &handle(index), version, spot).is_none(), "page {index} of before");
        }
        // The disk has the right ones. A window that is old answers nobody.
        read(&mut windows, job(&log, &mailbox, 1, version), &file);
        assert!(windows.find(SEED, &handle(2), version, &before[2]).is_some());
        windows.list.iter_mut().for_each(|window| window.began_ms = now_ms().saturating_sub(FRESH_MS + 1));
        assert!(windows.find(SEED, &handle(2), version, &before[2]).is_none());
        log.flush(&Flush::Pool(PoolId(1)));
        // At rest: nothing is left to be heard.
        assert_eq!(
            (windows.untold, poll(&mut [PollFd::new(&windows.told, PollFlags::IN)], Some(&Timespec::default()))),
            (0, Ok(0))
        );
    }
}
