//! Threads and descriptors that the program around us does not notice: threads with every signal blocked, descriptors numbered high.

use std::io;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::lock::Lock;
use crate::thread_word::Inside;

/// Programs assume low descriptors (shells use 10 and up, redis counts them, daemons close the first few hundred).
const LOWEST_DESCRIPTOR: u64 = 512;

/// Room for the static thread-local storage of big programs, which is carved out of it; untouched for the most part.
const STACK_BYTES: usize = 1 << 20;

/// A thread of ours. Dropping it lets the thread run on by itself.
#[derive(Debug)]
pub struct Thread {
    id: libc::pthread_t,
}

/// Starts a thread that never runs the program's signal handlers and is inside for good, from its first instruction on: not by `std::thread`, whose own
/// beginning asks malloc for memory before any code of ours runs, and a fault handler that touched managed memory would wait for itself.
///
/// A panic in `body` ends the process: nothing may unwind out of a thread of ours into libc.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    let _inside = Inside::enter();
    let boxed: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new({
        let name = std::ffi::CString::new(name).unwrap_or_default();
        move || {
            // Only what ps shows: a refusal changes nothing.
            let _ = rustix::thread::set_name(&name);
            body();
        }
    }));
    let argument = Box::into_raw(boxed);
    // SAFETY: plain calls on local signal sets and attributes; the mask of this thread is put back whatever happens in between. The argument is given to
    // the new thread, which alone unpacks it, or taken back when there is no new thread.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        let mut attributes = std::mem::zeroed::<libc::pthread_attr_t>();
        let mut id = std::mem::zeroed::<libc::pthread_t>();
        libc::sigfillset(&mut all);
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, STACK_BYTES);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let error = libc::pthread_create(&mut id, &attributes, begin, argument.cast());
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        libc::pthread_attr_destroy(&mut attributes);
        if error != 0 {
            drop(Box::from_raw(argument));
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(Thread { id })
    }
}

extern "C" fn begin(argument: *mut libc::c_void) -> *mut libc::c_void {
    Inside::for_good();
    // SAFETY: `spawn` made it from a box of this type and gave it to this thread alone.
    let body = unsafe { Box::from_raw(argument.cast::<Box<dyn FnOnce() + Send>>()) };
    body();
    std::ptr::null_mut()
}

impl Thread {
    /// Waits until the thread has ended.
    pub fn join(self) -> io::Result<()> {
        let id = self.id;
        std::mem::forget(self);
        // SAFETY: joined at most once, since it consumes the only value, and never detached.
        match unsafe { libc::pthread_join(id, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: not joined (that forgets the value), so detaching is due exactly once.
        unsafe { libc::pthread_detach(self.id) };
    }
}

/// The same open file under a high number, close-on-exec. Keeps the number it has where the limit leaves no room higher up.
pub fn move_high(fd: OwnedFd) -> OwnedFd {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 20);
    let lowest = LOWEST_DESCRIPTOR.min(limit.saturating_sub(limit / 4));
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), lowest as RawFd).unwrap_or(fd)
}

/// fork(3) with libc's handlers, for tests of what a fork does to us. The child has this thread alone.
pub fn fork() -> i32 {
    // SAFETY: the caller wants this process forked; libc sees to its own locks.
    unsafe { libc::fork() }
}

/// The descriptors that our threads have open, so that a forked child, which has none of those threads, can close its copies: a peer must see
/// the last link of a dead parent close although its child lives on.
pub struct Inherited {
    open: Lock<Vec<RawFd>>,
}

impl Inherited {
    pub const fn new() -> Self {
        Inherited { open: Lock::new(Vec::new()) }
    }

    pub fn note(&self, fd: BorrowedFd<'_>) {
        self.open.lock().push(fd.as_raw_fd());
    }

    /// To be called before the descriptor is closed, or another thread's new one may carry its number.
    pub fn forget(&self, fd: BorrowedFd<'_>) {
        let raw = fd.as_raw_fd();
        let mut open = self.open.lock();
        if let Some(index) = open.iter().position(|other| *other == raw) {
            open.swap_remove(index);
        }
    }

    /// So that the list is whole at the fork.
    pub fn freeze(&self) {
        self.open.freeze();
    }

    pub fn thaw(&self) {
        self.open.thaw();
    }

    /// In the child, after `thaw`, before anything opens a descriptor. The values that own them in the parent are on the stacks of threads that the
    /// child does not have, so nothing here closes them twice.
    pub fn close_in_child(&self) {
        for fd in self.open.lock().drain(..) {
            // SAFETY: noted by its owner, which lives on another thread's stack or was leaked: nobody owns it in this process.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

impl Default for Inherited {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_thread_has_its_name_and_blocks_every_signal_it_can() {
        let thread = spawn("ramster-test", || {
            assert_eq!(std::fs::read_to_string("/proc/thread-self/comm").expect("comm").trim(), "ramster-test");
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
            let blocked = status.lines().find(|line| line.starts_with("SigBlk")).expect("SigBlk").to_owned();
            assert!(blocked.contains("fffffffe7ffbfeff"), "{blocked}"); // 9 and 19 cannot be blocked; 32 and 33 are libc's own
        });
        thread.expect("spawn").join().expect("thread");
    }

    #[test]
    fn a_moved_descriptor_is_high() {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("eventfd");
        assert!(move_high(fd).as_raw_fd() >= 256);
    }
}
