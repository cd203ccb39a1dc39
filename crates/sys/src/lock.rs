//! A lock that a fork can hold: futex mutex whose `freeze` takes it without a guard and whose `thaw` gives it back, in the parent and in the child.
//! Also `Bell`, a futex to wait on with a deadline. Neither poisons, allocates or calls into libc. Not fair: critical sections are microseconds.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const HELD_WITH_WAITERS: u32 = 2;
/// Some 20 us: longer than any critical section takes that is not interrupted, shorter than a futex sleep and its wake-up (57 us where the core halts).
/// At 60 one fault in twenty slept on the store's lock while pages were put.
const SPINS: u32 = 1000;

pub struct Lock<T> {
    state: AtomicU32,
    frozen: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `value` is reached only through a guard, and at most one guard exists; so sharing the lock moves `T` between threads, no more.
unsafe impl<T: Send> Sync for Lock<T> {}
// SAFETY: owning the lock is owning the value.
unsafe impl<T: Send> Send for Lock<T> {}

pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
    // A guard stays on the thread that took it, like std's.
    not_send: std::marker::PhantomData<*const ()>,
}

impl<T> Lock<T> {
    pub const fn new(value: T) -> Self {
        Lock { state: AtomicU32::new(FREE), frozen: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard { lock: self, not_send: std::marker::PhantomData }
    }

    /// Takes the lock and keeps it with no guard, so that whatever it protects is whole at a fork. [`Lock::thaw`] gives it back.
    pub fn freeze(&self) {
        self.acquire();
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Ends a freeze; in the parent and in the child, once each. Does nothing to a lock that is not frozen.
    pub fn thaw(&self) {
        if self.frozen.swap(false, Ordering::Relaxed) {
            self.release();
        }
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn acquire(&self) {
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slowly();
        }
    }

    #[cold]
    fn acquire_slowly(&self) {
        for _ in 0..SPINS {
            if self.state.load(Ordering::Relaxed) == FREE
                && self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return;
            }
            std::hint::spin_loop();
        }
        while self.state.swap(HELD_WITH_WAITERS, Ordering::Acquire) != FREE {
            // EAGAIN (the word changed) and EINTR both mean: look again.
            let _ = futex::wait(&self.state, futex::Flags::PRIVATE, HELD_WITH_WAITERS, None);
        }
    }

    fn release(&self) {
        if self.state.swap(FREE, Ordering::Release) == HELD_WITH_WAITERS {
            let _ = futex::wake(&self.state, futex::Flags::PRIVATE, 1);
        }
    }
}

impl<T> Guard<'_, T> {
    /// As [`Lock::freeze`], for who has the lock already.
    pub fn freeze(self) {
        self.lock.frozen.store(true, Ordering::Relaxed);
        std::mem::forget(self);
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one; the lock was acquired when it was made.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.release();
    }
}

/// A counter to wait on: `listen`, look at the condition, then `wait` for the next ring, at most a given time.
pub struct Bell {
    rings: AtomicU32,
    waiting: AtomicU32,
}

impl Bell {
    pub const fn new() -> Self {
        Bell { rings: AtomicU32::new(0), waiting: AtomicU32::new(0) }
    }

    pub fn listen(&self) -> u32 {
        self.rings.load(Ordering::SeqCst)
    }

    /// Returns when the bell has rung since `heard`, or after `timeout_ms`, or early for no reason: look at the condition again.
    pub fn wait(&self, heard: u32, timeout_ms: u64) {
        let timeout = Duration::from_millis(timeout_ms);
        let timeout = futex::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _ = futex::wait(&self.rings, futex::Flags::PRIVATE, heard, Some(&timeout));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Costs two atomic operations when nobody waits.
    pub fn ring(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            let _ = futex::wake(&self.rings, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }

    /// As `ring`, and wakes one who waits: for a queue from which each takes what there is.
    pub fn ring_one(&self) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            let _ = futex::wake(&self.rings, futex::Flags::PRIVATE, 1);
        }
    }

    /// In a forked child: nobody waits here any more.
    pub fn forget_waiters(&self) {
        self.waiting.store(0, Ordering::SeqCst);
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn many_threads_count_right_under_the_lock() {
        let lock = Arc::new(Lock::new(0u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let lock = Arc::clone(&lock);
                std::thread::spawn(move || (0..50_000).for_each(|_| *lock.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("thread"));
        assert_eq!(*lock.lock(), 200_000);
    }

    #[test]
    fn a_frozen_lock_keeps_others_out_until_it_is_thawed() {
        let lock = Arc::new(Lock::new(0u64));
        lock.freeze();
        let other = {
            let lock = Arc::clone(&lock);
            std::thread::spawn(move || *lock.lock() += 1)
        };
        std::thread::sleep(Duration::from_millis(20));
        assert!(!other.is_finished());
        lock.thaw();
        other.join().expect("thread");
        lock.thaw(); // not frozen: must not release a lock that somebody else may hold
        assert_eq!(*lock.lock(), 1);
    }

    #[test]
    fn a_ring_between_listen_and_wait_is_heard() {
        let bell = Bell::new();
        let heard = bell.listen();
        bell.ring();
        let start = Instant::now();
        bell.wait(heard, 10_000);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
