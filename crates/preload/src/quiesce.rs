//! Brings mimalloc to rest for a fork: no other thread may be half way through a block's list when its memory is copied, since in the child that
//! thread never goes on. Covers one byte-sized fact per thread, "inside mimalloc", and how a forking thread waits for all of them.
//!
//! Entering and leaving cost two plain stores and a load. The order that makes this safe is paid for by the forking thread: membarrier(2) makes every
//! running thread's stores visible before it looks. Threads without a seat of their own share the first one and pay an atomic operation.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, compiler_fence};
use std::time::{Duration, Instant};

use ramster_sys::next;
use ramster_sys::say::say;
use ramster_sys::thread_word::here;
use rustix::thread::{MembarrierCommand, futex, membarrier};

/// Threads beyond this share a seat. 64 KiB of zeroes; more would only make a fork look longer.
const SEATS: usize = 1024;
const SHARED: u32 = 1;
const FIRST_OWN: u32 = 2;
/// Set in the thread's word while it is inside.
const INSIDE: u32 = 1 << 31;
/// A thread stays inside for microseconds, or for some page faults. Longer than this it was stopped there by a signal handler or a debugger: the fork
/// goes on, as it would with other allocators.
const LIMIT: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_micros(50);

#[repr(align(64))]
struct Seat {
    inside: AtomicU32,
    taken: AtomicBool,
}

static SEAT: [Seat; SEATS] = [const { Seat { inside: AtomicU32::new(0), taken: AtomicBool::new(false) } }; SEATS];
static CLOSED: AtomicU32 = AtomicU32::new(0);
static HAS_BARRIER: AtomicBool = AtomicBool::new(false);

pub fn set_up() {
    let registered = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok() && next::at_thread_exit(stand_up);
    HAS_BARRIER.store(registered, Ordering::Relaxed);
}

/// Runs `work`, which is a call into mimalloc. `None` when this thread is in there already: a signal handler, or libc on mimalloc's behalf.
#[inline]
pub fn enter<T>(work: impl FnOnce() -> T) -> Option<T> {
    let word = &here().seat;
    let seat = word.get();
    // Everything else, no seat yet and inside included, is outside this range.
    if (FIRST_OWN..SEATS as u32).contains(&seat) {
        let inside = &SEAT[seat as usize].inside;
        word.set(seat | INSIDE);
        inside.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        if CLOSED.load(Ordering::SeqCst) == 0 {
            let result = work();
            inside.store(0, Ordering::Release);
            word.set(seat);
            return Some(result);
        }
        inside.store(0, Ordering::Release);
        word.set(seat);
    }
    enter_slowly(work)
}

#[cold]
fn enter_slowly<T>(work: impl FnOnce() -> T) -> Option<T> {
    let word = &here().seat;
    let mut seat = word.get();
    if seat & INSIDE != 0 {
        return None;
    }
    if seat == 0 {
        seat = sit_down();
    }
    // Atomic in any seat: who comes this way is in no hurry.
    let inside = &SEAT[seat as usize % SEATS].inside;
    word.set(seat | INSIDE);
    loop {
        inside.fetch_add(1, Ordering::SeqCst);
        if CLOSED.load(Ordering::SeqCst) == 0 {
            break;
        }
        inside.fetch_sub(1, Ordering::SeqCst);
        wait_until_open();
    }
    let result = work();
    inside.fetch_sub(1, Ordering::Release);
    word.set(seat);
    Some(result)
}

/// True while this thread is inside mimalloc: what it maps then must be managed, since blocks are told by their addresses.
pub fn is_inside() -> bool {
    here().seat.get() & INSIDE != 0
}

#[cold]
fn sit_down() -> u32 {
    let free = |seat: &Seat| !seat.taken.load(Ordering::Relaxed) && !seat.taken.swap(true, Ordering::Acquire);
    let own = if HAS_BARRIER.load(Ordering::Relaxed) { SEAT.iter().skip(FIRST_OWN as usize).position(free) } else { None };
    let seat = own.map_or(SHARED, |index| index as u32 + FIRST_OWN);
    // The word first: libc may allocate to note the thread's exit, and that call comes back here.
    here().seat.set(seat);
    if seat != SHARED {
        next::note_thread(seat as usize);
    }
    seat
}

/// At a thread's exit: its seat is free again. What libc frees for it afterwards goes through the shared one.
extern "C" fn stand_up(seat: usize) {
    here().seat.set(SHARED);
    SEAT[seat].taken.store(false, Ordering::Release);
}

#[cold]
fn wait_until_open() {
    while CLOSED.load(Ordering::SeqCst) != 0 {
        let _ = futex::wait(&CLOSED, futex::Flags::PRIVATE, 1, None);
    }
}

/// Before a fork: returns when no other thread is inside, and keeps all out until [`open`].
pub fn close() {
    CLOSED.store(1, Ordering::SeqCst);
    if HAS_BARRIER.load(Ordering::Relaxed) {
        let _ = membarrier(MembarrierCommand::PrivateExpedited);
    }
    let start = Instant::now();
    for index in SHARED..SEATS as u32 {
        while SEAT[index as usize % SEATS].inside.load(Ordering::SeqCst) > own_share(index) {
            if start.elapsed() > LIMIT {
                say(format_args!(
                    "fork: a thread has been inside malloc for over {} s; the child goes on without it",
                    LIMIT.as_secs()
                ));
                return;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// How often this thread itself is counted at a seat: a signal handler may fork while its thread is inside.
fn own_share(index: u32) -> u32 {
    u32::from(here().seat.get() == index | INSIDE)
}

/// After a fork, in the parent.
pub fn open() {
    CLOSED.store(0, Ordering::SeqCst);
    let _ = futex::wake(&CLOSED, futex::Flags::PRIVATE, i32::MAX as u32);
}

/// After a fork, in the child: this thread is the only one.
pub fn open_in_child() {
    let own = here().seat.get() & !INSIDE;
    for (index, seat) in SEAT.iter().enumerate() {
        seat.inside.store(own_share(index as u32), Ordering::Relaxed);
        seat.taken.store(index as u32 == own, Ordering::Relaxed);
    }
    open();
}
