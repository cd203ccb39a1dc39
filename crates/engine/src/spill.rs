//! The last holder: a log-structured file without a name in a directory of the user's choice. Covers who is asked for what: batches handed over by the remotifier and
//! written behind its back, pages read for getters that do not wait here, flushes, the fork. What lies where is `core::log`'s; `spill/` has the threads, and what lanes read themselves. Holder
//! number 0 in tmem is always this one, configured or not.
//!
//! Locks: `books`, and then nothing but `queue`; `queue`, `jobs`, `running` and a mailbox alone. No lock is held over input or output.

mod file;
mod reader;
mod windows;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, Version};
use ramster_core::log::{Condition, Config, Counters, Log, Trouble};
use ramster_core::tmem::{Batch, Flush};
use ramster_sys::lock::{Bell, Lock};
use ramster_sys::quiet::{self, Thread};
use ramster_sys::say::say;

use self::file::{File, Progress};
use self::reader::{Job, READERS};
use crate::clock::now_ms;
use crate::threads::Wake;

pub use self::reader::{Answers, Heard, Mailbox, Reading, Wanted};
pub use self::windows::Windows;

/// Batches handed over and not written: with eight of an eighth of a MiB each, one write fills a segment.
const BATCHES: usize = 8;
/// Pages flushed under one lock: some 20 us.
const LOCKED_FLUSHES: usize = 64;
/// A disk that goes back and forth is complained of this often at most.
const SAY_AGAIN_MS: u64 = 5000;
/// When nothing that is under way has ended for so long, it is told: a disk that is only busy takes seconds at worst.
const HANGS_MS: u64 = 5000;
/// How soon it is seen.
pub const LOOK_MS: u64 = 1000;

pub struct Spill {
    disk: Arc<Disk>,
    running: Lock<Running>,
}

#[derive(Default)]
struct Running {
    writer: Option<Thread>,
    readers: Vec<Thread>,
    failed: bool,
}

/// What the threads share.
struct Disk {
    dir: PathBuf,
    seed: u64,
    books: Lock<Books>,
    queue: Lock<Queue>,
    jobs: Lock<VecDeque<Job>>,
    to_write: Bell,
    to_read: Bell,
    idle_readers: AtomicU32,
    progress: Arc<Progress>,
    stopping: AtomicBool,
}

struct Books {
    log: Log,
    /// By the log's numbers.
    files: Vec<Option<Arc<File>>>,
    /// The cleaner has a segment in the file that is written.
    has_reserve: bool,
    said: &'static str,
    say_at_ms: u64,
}

#[derive(Default)]
struct Queue {
    /// With whether peers get the pages too.
    batches: Vec<(Batch, bool)>,
    /// Taken by the writer.
    in_work: usize,
    spare: Vec<Batch>,
    done: Vec<Done>,
    /// Whom to wake when something is done ...
    wake: Option<Arc<Wake>>,
    /// ... or when there may be room again.
    wants_room: bool,
}

/// A page whose write has ended.
#[derive(Clone, Copy)]
pub struct Done {
    pub handle: Handle,
    pub version: Version,
    pub stored: bool,
    pub with_peers: bool,
}

impl Spill {
    /// Makes the first file at once, so that a directory that cannot be written is found at the start.
    pub fn open(dir: &Path, seed: u64) -> io::Result<Spill> {
        let mut books =
            Books { log: Log::new(Config::new(seed)), files: Vec::new(), has_reserve: false, said: "ok", say_at_ms: 0 };
        let progress = Arc::default();
        books.begin_file(File::make(dir, &progress)?);
        let disk = Disk {
            dir: dir.to_owned(),
            seed,
            books: Lock::new(books),
            queue: Lock::new(Queue::default()),
            jobs: Lock::new(VecDeque::new()),
            to_write: Bell::new(),
            to_read: Bell::new(),
            idle_readers: AtomicU32::new(0),
            progress,
            stopping: AtomicBool::new(false),
        };
        Ok(Spill { disk: Arc::new(disk), running: Lock::new(Running::default()) })
    }

    /// Whether it is worth handing pages over now: the disk is neither full nor broken, or it is time to try it again.
    pub fn takes_pages(&self) -> bool {
        self.disk.books.lock().log.takes_puts(now_ms())
    }

    /// Whether one more batch may be handed over. Only the remotifier does that.
    pub fn has_room_for_batch(&self) -> bool {
        let queue = self.disk.queue.lock();
        queue.batches.len() + queue.in_work < BATCHES
    }

    pub fn is_busy(&self) -> bool {
        let queue = self.disk.queue.lock();
        queue.batches.len() + queue.in_work > 0
    }

    /// Takes the batch and gives another one for the next. `wake` is rung when `take_done` has something to say of it.
    pub fn submit(&self, batch: Batch, with_peers: bool, wake: &Arc<Wake>) -> Batch {
        let spare = {
            let mut queue = self.disk.queue.lock();
            queue.batches.push((batch, with_peers));
            queue.wake.get_or_insert_with(|| Arc::clone(wake));
            queue.spare.pop().unwrap_or_default()
        };
        if self.be_running(true) {
            self.disk.to_write.ring_one();
        } else {
            self.disk.refuse_batches();
        }
        spare
    }

    /// A page MUST count as stored here from now on, and not before.
    pub fn take_done(&self, done: &mut Vec<Done>) {
        std::mem::swap(done, &mut self.disk.queue.lock().done);
    }

    /// Each of these is answered once, in any order: by `windows` or to `mailbox`.
    pub fn read(
        &self,
        mailbox: &Arc<Mailbox>,
        request: u64,
        wanted: &[Wanted],
        reading: &mut Reading,
        windows: Option<&mut Windows>,
    ) {
        self.disk.look_up(mailbox, request, wanted, reading);
        if let Some(windows) = windows {
            windows.begin(&mut reading.jobs, &reading.files);
        }
        reading.files.clear();
        if self.disk.queue_reads(&mut reading.jobs) {
            self.be_running(false);
        }
    }

    /// Answers with what the windows have read; what they could not goes to readers.
    pub fn take_read(&self, windows: &mut Windows, reading: &mut Reading, answer: &mut dyn FnMut(Heard<'_>)) {
        windows.take(self.disk.seed, answer, &mut reading.jobs);
        if self.disk.queue_reads(&mut reading.jobs) {
            self.be_running(false);
        }
    }

    /// That copy of a page, if one of the windows has it.
    pub fn find_read<'a>(&self, windows: &'a mut Windows, handle: &Handle, version: Version) -> Option<(Kind, &'a [u8])> {
        if !windows.may_have() {
            return None;
        }
        let spot = {
            let books = self.disk.books.lock();
            books.log.spot(&books.log.find(handle, version)?)
        };
        windows.find(self.disk.seed, handle, version, &spot)
    }

    /// Whatever else wants the books waits some microseconds at most, however much goes.
    pub fn flush(&self, what: &Flush) {
        loop {
            let mut books = self.disk.books.lock();
            let more = books.log.flush_some(what, LOCKED_FLUSHES);
            books.close_ended();
            if !more {
                break;
            }
        }
        self.disk.to_write.ring_one();
    }

    /// Bytes of pages that are wanted.
    pub fn live_bytes(&self) -> u64 {
        self.disk.books.lock().log.live_bytes()
    }

    /// What the file that is written takes of the disk.
    pub fn used_bytes(&self) -> u64 {
        self.disk.books.lock().log.used_bytes()
    }

    pub fn counters(&self) -> Counters {
        self.disk.books.lock().log.counters
    }

    /// ok, hangs, full or failed.
    pub fn word(&self) -> &'static str {
        let word = word(self.disk.books.lock().log.condition());
        let hangs = self.disk.progress.stands_still_ms() >= HANGS_MS;
        if word == "ok" && hangs { "hangs" } else { word }
    }

    pub fn dir(&self) -> &Path {
        &self.disk.dir
    }

    pub fn is_direct(&self) -> bool {
        self.disk.books.lock().files.iter().flatten().all(|file| file.is_direct())
    }

    /// Ends the threads. What has not been written is not stored, and nobody asks any more.
    pub fn stop(&self) {
        self.disk.stopping.store(true, SeqCst);
        self.disk.to_write.ring();
        self.disk.to_read.ring();
        let Running { writer, readers, .. } = std::mem::take(&mut *self.running.lock());
        for thread in writer.into_iter().chain(readers) {
            let _ = thread.join();
        }
    }

    /// Before a fork, and the parent's part of it: no write to a file that the child will have is begun any more, not even between the fork and the next
    /// instruction, or room that the child still needs would be used again.
    pub fn freeze(&self) {
        self.running.freeze();
        self.disk.jobs.freeze();
        let mut books = self.disk.books.lock();
        books.part_with_fork(false);
        books.freeze();
        self.disk.queue.freeze();
    }

    pub fn thaw(&self) {
        self.disk.queue.thaw();
        self.disk.books.thaw();
        self.disk.jobs.thaw();
        self.running.thaw();
    }

    /// In a forked child: it has none of the threads and nothing on its way. What was handed over is local to it.
    pub fn after_fork_child(&self) {
        let disk = &self.disk;
        let mut books = disk.books.lock();
        books.part_with_fork(true);
        books.said = "ok";
        // Their descriptors were closed by number, and what they point to belongs to nobody.
        std::mem::forget(std::mem::take(&mut *disk.jobs.lock()));
        std::mem::forget(std::mem::take(&mut *disk.queue.lock()));
        std::mem::forget(std::mem::take(&mut *self.running.lock()));
        disk.idle_readers.store(0, SeqCst);
        disk.progress.forget();
        disk.to_read.forget_waiters();
        disk.to_write.forget_waiters();
    }

    /// Threads are there when they are needed: a writer and a reader once a page goes out, more readers when there is more to read than they take at once.
    /// False: there is no writer.
    fn be_running(&self, writes: bool) -> bool {
        let mut running = self.running.lock();
        let is_queueing = || self.disk.idle_readers.load(SeqCst) == 0 && !self.disk.jobs.lock().is_empty();
        let wants_reader = running.readers.is_empty() || (running.readers.len() < READERS && is_queueing());
        let wants_writer = writes && running.writer.is_none();
        if (wants_reader || wants_writer) && !running.failed && !self.disk.is_stopping() {
            let started = running.start(&self.disk, wants_writer, wants_reader);
            if let Err(error) = started {
                running.failed = true;
                say(format_args!("no further thread for the spill file: {error}"));
            }
        }
        running.writer.is_some()
    }
}

impl Running {
    fn start(&mut self, disk: &Arc<Disk>, writer: bool, reader: bool) -> io::Result<()> {
        if writer {
            let disk = Arc::clone(disk);
            self.writer = Some(quiet::spawn("ramster-disk", move || disk.write_for_ever())?);
        }
        if reader {
            let disk = Arc::clone(disk);
            self.readers.push(quiet::spawn("ramster-read", move || disk.read_for_ever())?);
        }
        Ok(())
    }
}

impl Disk {
    /// Nobody writes them: they stay here.
    fn refuse_batches(&self) {
        self.books.lock().log.trouble(Trouble::Failed, now_ms());
        let mut queue = self.queue.lock();
        let batches: Vec<(Batch, bool)> = queue.batches.drain(..).collect();
        for (handle, version, _) in batches.iter().flat_map(|(batch, _)| batch.iter()) {
            queue.done.push(Done { handle, version, stored: false, with_peers: false });
        }
        if let Some(wake) = &queue.wake {
            wake.ring();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

impl Books {
    fn file(&self, number: u8) -> Option<Arc<File>> {
        self.files.get(usize::from(number))?.clone()
    }

    /// False: too many files.
    fn begin_file(&mut self, file: File) -> bool {
        self.close_ended();
        let Some(number) = self.log.begin_file().map(usize::from) else { return false };
        if self.files.len() <= number {
            self.files.resize_with(number + 1, || None);
        }
        self.files[number] = Some(Arc::new(file));
        self.has_reserve = false;
        true
    }

    fn part_with_fork(&mut self, is_child: bool) {
        let before = self.log.current();
        self.log.part_with_fork(is_child);
        self.has_reserve &= self.log.current() == before;
        self.close_ended();
    }

    fn close_ended(&mut self) {
        for number in self.log.take_ended() {
            self.files[usize::from(number)] = None;
        }
    }
}

fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Ok => "ok",
        Condition::Full { .. } => "full",
        Condition::Failed { .. } => "failed",
    }
}
