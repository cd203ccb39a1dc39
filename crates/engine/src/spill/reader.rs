//! Reading the spill file for getters that do not wait for it: they leave requests and take answers from their mailbox, readers do the waiting, for what a lane's
//! windows (`windows.rs`) do not read themselves. Covers the queue, reading neighbours together, and telling a record that has moved from a damaged one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use ramster_core::backend::Loss;
use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, Version};
use ramster_core::log::record::RECORD_MAX_BYTES;
use ramster_core::log::{BLOCK_BYTES, Place, Spot, Trouble, check};
use ramster_sys::aligned::Aligned;
use ramster_sys::lock::Lock;
use ramster_sys::quiet::{Inherited, move_high};
use ramster_sys::say::say;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::Disk;
use super::file::{File, blocks};
use crate::clock::now_ms;

/// Lines about damaged records in a process: enough to see what kind of damage it is. A disk that dies has thousands.
const COMPLAINTS_MAX: u64 = 8;
static COMPLAINTS: AtomicU64 = AtomicU64::new(0);
/// As many reads at once as a fault's read-ahead makes where its pages lie apart. Each costs a thread and a buffer, and a disk with a head gains nothing by more.
pub const READERS: usize = 4;
/// Read by one call: a read-ahead of raw pages.
const SPAN_BYTES: usize = 160 << 10;
/// Records this near to each other are read together: what is between them costs less than another read.
pub(super) const GAP_BYTES: u64 = 16 << 10;
/// A record that is somewhere else each time it is read: the cleaner moves a segment in tens of milliseconds, so twice is rare.
const CHASES: u8 = 16;
/// A reader sleeps for good; the bell wants a time.
const SLEEP_MS: u64 = 60_000;

/// One page that is wanted from the file.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub handle: Handle,
    pub version: Version,
    /// The getter's own, with the request's number.
    pub index: u16,
}

pub struct Job {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) request: u64,
    pub(super) wanted: Wanted,
    pub(super) place: Place,
    pub(super) spot: Spot,
}

/// A getter's buffers for what it asks.
#[derive(Default)]
pub struct Reading {
    pub(super) jobs: Vec<Job>,
    /// Those that the jobs are about.
    pub(super) files: Vec<(u8, Arc<File>)>,
}

/// Where a getter finds its answers.
pub struct Mailbox {
    answers: Lock<Answers>,
    rung: AtomicBool,
    eventfd: OwnedFd,
    inherited: Arc<Inherited>,
}

#[derive(Default)]
pub struct Answers {
    list: Vec<Answer>,
    bytes: Vec<u8>,
}

struct Answer {
    request: u64,
    index: u16,
    /// Its kind, and where in `bytes` the packed page is.
    what: Result<(Kind, usize, usize), Loss>,
}

impl Mailbox {
    pub fn new(inherited: &Arc<Inherited>) -> Result<Mailbox, rustix::io::Errno> {
        let eventfd = move_high(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        inherited.note(eventfd.as_fd());
        Ok(Mailbox {
            answers: Lock::new(Answers::default()),
            rung: AtomicBool::new(false),
            eventfd,
            inherited: Arc::clone(inherited),
        })
    }

    /// Readable when answers have come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// All that have come, in the place of what was in `answers`.
    pub fn take(&self, answers: &mut Answers) {
        answers.list.clear();
        answers.bytes.clear();
        // A load, for a lane that waits for peers alone.
        if self.rung.load(SeqCst) && self.rung.swap(false, SeqCst) {
            let _ = rustix::io::read(&self.eventfd, &mut [0; 8]);
            std::mem::swap(&mut *self.answers.lock(), answers);
        }
    }

    fn deliver(&self, request: u64, index: u16, what: Result<(Kind, &[u8]), Loss>) {
        {
            let mut answers = self.answers.lock();
            let start = answers.bytes.len();
            let what = what.map(|(kind, bytes)| {
                answers.bytes.extend_from_slice(bytes);
                (kind, start, start + bytes.len())
            });
            answers.list.push(Answer { request, index, what });
        }
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
        // In this order: otherwise the descriptor could stay readable with nobody knowing why, and its lane would never sleep again.
        self.rung.store(true, SeqCst);
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.inherited.forget(self.eventfd.as_fd());
    }
}

/// An answer as its getter hears it: the packed page, or why not.
pub struct Heard<'a> {
    pub request: u64,
    pub index: u16,
    pub what: Result<(Kind, &'a [u8]), Loss>,
}

impl Answers {
    pub fn iter(&self) -> impl Iterator<Item = Heard<'_>> {
        self.list.iter().map(|answer| {
            let what = answer.what.map(|(kind, start, end)| (kind, &self.bytes[start..end]));
            Heard { request: answer.request, index: answer.index, what }
        })
    }
}

impl Disk {
    /// Where the pages are that one getter wants, the most urgent first, which stays so; the others in the order in which they lie. What is not here is answered.
    pub(super) fn look_up(&self, mailbox: &Arc<Mailbox>, request: u64, wanted: &[Wanted], reading: &mut Reading) {
        let Reading { jobs, files } = reading;
        let mut gone = false;
        {
            let books = self.books.lock();
            for one in wanted {
                match books.log.find(&one.handle, one.version) {
                    Some(place) if !self.is_stopping() => {
                        let (mailbox, spot) = (Arc::clone(mailbox), books.log.spot(&place));
                        if files.iter().all(|(number, _)| *number != spot.file) {
                            files.extend(books.file(spot.file).map(|file| (spot.file, file)));
                        }
                        jobs.push(Job { mailbox, request, wanted: *one, place, spot });
                    }
                    // Flushed, and tmem knows; or it should be here, and tmem will say that it is lost.
                    _ => {
                        gone = true;
                        mailbox.deliver(request, one.index, Err(Loss::HolderForgot));
                    }
                }
            }
        }
        if gone {
            mailbox.ring();
        }
        let first = jobs.first().map(|job| job.place);
        jobs.sort_unstable_by_key(|job| job.place);
        let urgent = jobs.iter().position(|job| Some(job.place) == first).unwrap_or(0);
        jobs.rotate_left(urgent);
    }

    /// False: there was nothing to read.
    pub(super) fn queue_reads(&self, jobs: &mut Vec<Job>) -> bool {
        if jobs.is_empty() {
            return false;
        }
        self.jobs.lock().extend(jobs.drain(..));
        self.to_read.ring_one();
        true
    }

    /// What a reader takes at once: neighbours that one getter wants.
    fn take_jobs(&self, taken: &mut Vec<Job>) -> bool {
        let mut jobs = self.jobs.lock();
        let Some(first) = jobs.pop_front() else { return false };
        let start = blocks(&first.spot).0;
        taken.push(first);
        while let (Some(next), Some(last)) = (jobs.front(), taken.last()) {
            let is_near = next.spot.file == last.spot.file
                && next.spot.offset >= last.spot.offset
                && next.spot.offset <= last.spot.offset + u64::from(last.spot.bytes) + GAP_BYTES
                && next.spot.offset + (RECORD_MAX_BYTES as u64) + u64::from(BLOCK_BYTES) <= start + SPAN_BYTES as u64;
            if !is_near || next.request != last.request || !Arc::ptr_eq(&next.mailbox, &last.mailbox) {
                break;
            }
            taken.extend(jobs.pop_front());
        }
        if !jobs.is_empty() {
            self.to_read.ring_one();
        }
        true
    }

    /// A reader's life.
    pub(super) fn read_for_ever(&self) {
        let mut buffer = match Aligned::new(SPAN_BYTES) {
            Ok(buffer) => buffer,
            Err(errno) => return say(format_args!("no memory to read the spill file with: {errno}")),
        };
        let mut taken = Vec::with_capacity(64);
        loop {
            let heard = self.to_read.listen();
            if self.is_stopping() {
                return;
            }
            if self.take_jobs(&mut taken) {
                self.read_together(&mut taken, &mut buffer);
            } else {
                self.idle_readers.fetch_add(1, SeqCst);
                self.to_read.wait(heard, SLEEP_MS);
                self.idle_readers.fetch_sub(1, SeqCst);
            }
        }
    }

    fn read_together(&self, taken: &mut Vec<Job>, buffer: &mut [u8]) {
        let (Some(first), Some(last)) = (taken.first(), taken.last()) else { return };
        let (start, end) = (first.spot.offset, last.spot.offset + u64::from(last.spot.bytes));
        let span = Spot { bytes: (end - start) as u32, ..first.spot };
        let mailbox = Arc::clone(&first.mailbox);
        let read = self.read_spot(&span, buffer);
        for job in taken.drain(..) {
            let at = read.as_ref().ok().map(|skip| skip + (job.spot.offset - start) as usize);
            let bytes = at.map(|at| &buffer[at..at + job.spot.bytes as usize]);
            match bytes.and_then(|bytes| self.packed(&job, bytes)) {
                Some(packed) => mailbox.deliver(job.request, job.wanted.index, Ok(packed)),
                None => self.look_again(job),
            }
        }
        mailbox.ring();
    }

    fn packed<'a>(&self, job: &Job, bytes: &'a [u8]) -> Option<(Kind, &'a [u8])> {
        let record = check(self.seed, &job.wanted.handle, job.wanted.version, bytes)?;
        Some((Kind::from_tag(record.kind)?, record.bytes))
    }

    /// The bytes were not that record, or could not be read. It may have moved meanwhile, any number of times; where it has not, it is read once more, alone, and
    /// then it is gone for good.
    fn look_again(&self, job: Job) {
        let Wanted { handle, version, index } = job.wanted;
        let (mut last, mut same, mut read) = (job.place, 0, Ok(()));
        let buffer = Aligned::new(RECORD_MAX_BYTES.next_multiple_of(BLOCK_BYTES as usize) + BLOCK_BYTES as usize);
        let Ok(mut buffer) = buffer else { return job.mailbox.deliver(job.request, index, Err(Loss::Deadline)) };
        for _ in 0..CHASES {
            let found = {
                let books = self.books.lock();
                books.log.find(&handle, version).map(|place| (place, books.log.spot(&place)))
            };
            let Some((place, spot)) = found else {
                return job.mailbox.deliver(job.request, index, Err(Loss::HolderForgot));
            };
            (last, same) = (place, if place == last { same + 1 } else { 0 });
            if same > 1 {
                break;
            }
            match self.read_spot(&spot, &mut buffer) {
                Ok(skip) => match self.packed(&job, &buffer[skip..skip + spot.bytes as usize]) {
                    Some(packed) => return job.mailbox.deliver(job.request, index, Ok(packed)),
                    None => read = Ok(()),
                },
                Err(error) => read = Err(error),
            }
        }
        self.complain_of_read(&job, read);
        job.mailbox.deliver(job.request, index, Err(Loss::SpillFailed));
    }

    fn complain_of_read(&self, job: &Job, read: std::io::Result<()>) {
        let Wanted { handle, version, .. } = job.wanted;
        let why = match read {
            Ok(()) => "its bytes were changed on the disk".to_owned(),
            Err(error) => error.to_string(),
        };
        let directory = self.dir.display();
        match COMPLAINTS.fetch_add(1, SeqCst) {
            0..COMPLAINTS_MAX => say(format_args!(
                "spill directory {directory}: page {:?} index {} version {version}: {why}; that copy is given up",
                handle.object.0, handle.index
            )),
            COMPLAINTS_MAX => say(format_args!("spill directory {directory}: further damage is counted alone (disk_unreadable)")),
            _ => {}
        }
        self.books.lock().log.trouble(Trouble::Failed, now_ms());
        self.note_condition(None);
    }

    /// The blocks around it; returns where in `buffer` it begins.
    pub(super) fn read_spot(&self, spot: &Spot, buffer: &mut [u8]) -> std::io::Result<usize> {
        let file: Option<Arc<File>> = self.books.lock().file(spot.file);
        let (start, bytes, skip) = blocks(spot);
        let Some(file) = file else { return Err(std::io::ErrorKind::NotFound.into()) };
        file.read(start, &mut buffer[..bytes])?;
        Ok(skip)
    }
}
