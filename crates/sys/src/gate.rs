//! A readers-writer lock that a fork can hold: many pass through at once, one closes it. Writers come first, since they are rare and a program
//! waits in them. Not recursive. Neither poisons nor allocates.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

use crate::lock::Lock;

/// Set while a writer waits or is inside; the rest of the word counts readers.
const CLOSED: u32 = 1 << 31;
/// About a microsecond, as in `lock`.
const SPINS: u32 = 60;

pub struct Gate<T> {
    state: AtomicU32,
    writers: Lock<()>,
    value: UnsafeCell<T>,
}

// SAFETY: shared references to the value are handed out only while no writer is inside, a mutable one only while nobody else is.
unsafe impl<T: Send + Sync> Sync for Gate<T> {}
// SAFETY: owning the gate is owning the value.
unsafe impl<T: Send> Send for Gate<T> {}

pub struct Reader<'a, T> {
    gate: &'a Gate<T>,
}

pub struct Writer<'a, T> {
    gate: &'a Gate<T>,
}

impl<T> Gate<T> {
    pub const fn new(value: T) -> Self {
        Gate { state: AtomicU32::new(0), writers: Lock::new(()), value: UnsafeCell::new(value) }
    }

    pub fn read(&self) -> Reader<'_, T> {
        let mut spins = 0;
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state & CLOSED == 0 {
                if self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Reader { gate: self };
                }
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                // EAGAIN (the word changed) and EINTR both mean: look again.
                let _ = futex::wait(&self.state, futex::Flags::PRIVATE, state, None);
            }
        }
    }

    pub fn write(&self) -> Writer<'_, T> {
        self.freeze();
        Writer { gate: self }
    }

    /// Closes the gate with no guard, so that what it protects is whole at a fork. [`Gate::thaw`] opens it, in the parent and in the child.
    pub fn freeze(&self) {
        self.writers.freeze();
        let mut state = self.state.fetch_or(CLOSED, Ordering::Acquire) | CLOSED;
        let mut spins = 0;
        while state != CLOSED {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                let _ = futex::wait(&self.state, futex::Flags::PRIVATE, state, None);
            }
            state = self.state.load(Ordering::Acquire);
        }
    }

    pub fn thaw(&self) {
        self.state.store(0, Ordering::Release);
        let _ = futex::wake(&self.state, futex::Flags::PRIVATE, i32::MAX as u32);
        self.writers.thaw();
    }
}

impl<T> Deref for Reader<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this reader is counted, so no writer is inside.
        unsafe { &*self.gate.value.get() }
    }
}

impl<T> Drop for Reader<'_, T> {
    fn drop(&mut self) {
        // The last reader out wakes the writer that has closed the gate behind it.
        if self.gate.state.fetch_sub(1, Ordering::Release) & CLOSED != 0 {
            let _ = futex::wake(&self.gate.state, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }
}

impl<T> Deref for Writer<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the gate is closed and empty.
        unsafe { &*self.gate.value.get() }
    }
}

impl<T> DerefMut for Writer<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the gate is closed and empty, and the writer is borrowed mutably.
        unsafe { &mut *self.gate.value.get() }
    }
}

impl<T> Drop for Writer<'_, T> {
    fn drop(&mut self) {
        self.gate.thaw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn readers_never_see_a_writer_half_way() {
        let gate = Arc::new(Gate::new((0u64, 0u64)));
        let threads: Vec<_> = (0..4)
            .map(|who| {
                let gate = Arc::clone(&gate);
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        if who == 0 {
                            let mut both = gate.write();
                            both.0 += 1;
                            both.1 += 1;
                        } else {
                            let both = gate.read();
                            assert_eq!(both.0, both.1);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("thread"));
        assert_eq!(gate.read().0, 20_000);
    }
}
