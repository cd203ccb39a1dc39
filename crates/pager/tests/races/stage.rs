//! What the races share: a process of its own, managed memory whose pages say what they are, threads that touch it, waits with a deadline.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ramster_core::page::{PAGE_BYTES, Page};
use ramster_engine::{Options, PeerAddr};
use ramster_pager::Pager;
use ramster_pager::seam::{self, Hand};
use ramster_sys::touch;

pub const DEADLINE: Duration = Duration::from_secs(30);
/// Long enough for a thread that is about to touch a page to sleep in its fault. Were it too short, a race would be missed, not failed.
const ABOUT_TO: Duration = Duration::from_millis(20);
const WHICH: &str = "RAMSTER_RACE";
const LOCAL_BYTES: u64 = 24 << 20;
const GET_DEADLINE_MS: u64 = 20_000;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Runs `body` in a process of its own, which must end well. `name` is the test's whole name.
pub fn race(name: &str, body: impl FnOnce()) {
    race_ending(name, 0, body);
}

/// The same; the process must end by this signal (0: none).
pub fn race_ending(name: &str, signal: i32, body: impl FnOnce()) {
    if std::env::var(WHICH).as_deref() == Ok(name) {
        return body();
    }
    let this = std::env::current_exe().expect("the test's own path");
    let mut child =
        Command::new(this).args(["--exact", name, "--nocapture"]).env(WHICH, name).spawn().expect("a process for the race");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if start.elapsed() > DEADLINE * 2 {
            child.kill().expect("kill");
            panic!("{name} hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert_eq!((status.signal().unwrap_or(0), status.code()), (signal, (signal == 0).then_some(0)), "{name}");
}

/// A page of about half random bytes, different for every (index, version).
pub fn page(index: usize, version: u64) -> Page {
    let mut page = [b'r'; PAGE_BYTES];
    let mut x = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version.wrapping_mul(0xd134_2543_de82_ef95) | 1;
    for word in page[..PAGE_BYTES / 2].as_chunks_mut::<8>().0 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x.to_le_bytes();
    }
    page
}

/// Some pages of managed memory, each filled with what [`page`] says.
#[derive(Clone, Copy)]
pub struct Memory {
    pub pager: &'static Pager,
    pub start: usize,
    pub pages: usize,
}

/// A pager that manages already, and whose limit is far away: only what the test takes out leaves.
pub fn start(peers: Vec<PeerAddr>) -> &'static Pager {
    start_after(peers, |_| {})
}

/// The same, with something done before the first page leaves.
pub fn start_after(peers: Vec<PeerAddr>, before: impl FnOnce(&'static Pager)) -> &'static Pager {
    // With a peer everything stored goes there.
    let store_bytes = (!peers.is_empty()).then_some(0);
    start_with(Options { store_bytes, peers, get_deadline_ms: GET_DEADLINE_MS, ..Options::default() }, before)
}

/// The same, and a fetch may take so long.
pub fn start_waiting(peers: Vec<PeerAddr>, get_deadline_ms: u64) -> &'static Pager {
    start_with(Options { store_bytes: Some(0), peers, get_deadline_ms, ..Options::default() }, |_| {})
}

/// A pager whose pages all go to the disk.
pub fn start_on_disk() -> &'static Pager {
    let spill_dir = Some(std::env::temp_dir());
    start_with(Options { store_bytes: Some(0), spill_dir, get_deadline_ms: GET_DEADLINE_MS, ..Options::default() }, |_| {})
}

fn start_with(options: Options, before: impl FnOnce(&'static Pager)) -> &'static Pager {
    let options = Options { local_bytes: LOCAL_BYTES, ..options };
    let pager = Pager::start(&options).expect("a pager");
    before(pager);
    let ballast = pager.map(LOCAL_BYTES as usize, RW, None).expect("map");
    let mut at = ballast;
    wait_until("the pager manages", || {
        for _ in 0..64 {
            touch::store(at, 1);
            at = ballast + (at + PAGE_BYTES - ballast) % LOCAL_BYTES as usize;
        }
        pager.stats().is_managing
    });
    pager.unmap(ballast, LOCAL_BYTES as usize).expect("unmap");
    pager
}

impl Memory {
    pub fn new(pager: &'static Pager, pages: usize) -> Self {
        let memory = Memory { pager, start: pager.map(pages * PAGE_BYTES, RW, None).expect("map"), pages };
        memory.write_all(0);
        memory
    }

    pub fn len(&self) -> usize {
        self.pages * PAGE_BYTES
    }

    pub fn addr(&self, index: usize) -> usize {
        self.start + index * PAGE_BYTES
    }

    pub fn place(&self, index: usize) -> &'static str {
        seam::place(self.pager, self.addr(index))
    }

    pub fn write(&self, index: usize, version: u64) {
        touch::write_page(self.addr(index), &page(index, version));
    }

    pub fn write_all(&self, version: u64) {
        (0..self.pages).for_each(|index| self.write(index, version));
    }

    pub fn check(&self, index: usize, version: u64) {
        assert!(touch::read_page(self.addr(index)) == page(index, version), "page {index} is not version {version}");
    }

    pub fn check_all(&self, version: u64) {
        (0..self.pages).for_each(|index| self.check(index, version));
    }

    pub fn check_zero(&self, index: usize) {
        assert!(touch::read_page(self.addr(index)) == [0; PAGE_BYTES], "page {index} is not empty");
    }

    /// Out of the program and into the store. Read-ahead that is still under way may bring some back at once: those go again.
    pub fn evict(&self, hand: &mut Hand) {
        wait_until("all pages are stored", || {
            hand.take_out(self.start, self.len());
            hand.put_all();
            (0..self.pages).all(|index| self.place(index) == "Stored")
        });
    }

    /// Out of the program and to the peer.
    pub fn send_away(&self, hand: &mut Hand) {
        self.evict(hand);
        wait_until("all pages are at the peer", || {
            let snapshot = self.pager.engine().snapshot();
            snapshot.pages_local + snapshot.pages_in_transit == 0
        });
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A thread that is inside `work` when this returns: asleep in a fault, if `work` begins with one that nobody answers.
pub fn begin<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let started = Arc::new(AtomicUsize::new(0));
    let thread = {
        let started = Arc::clone(&started);
        std::thread::spawn(move || {
            started.store(1, SeqCst);
            work()
        })
    };
    wait_until("a thread starts", || started.load(SeqCst) == 1);
    std::thread::sleep(ABOUT_TO);
    thread
}

/// Joins it, but does not wait for ever.
pub fn finish<T>(thread: JoinHandle<T>) -> T {
    wait_until("a thread goes on", || thread.is_finished());
    thread.join().expect("the thread did not fail")
}
