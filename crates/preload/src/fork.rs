//! fork: brings everything that a child copies to rest, and wakes it again on both sides. Covers the order; what managed memory needs is the pager's.
//!
//! vfork and posix_spawn share the parent's memory and its pager until they exec: nothing to do. A child made by the bare clone system call runs
//! no handlers and has no pager threads: its managed memory is not served (CLONE_VM ones excepted).

#![allow(unsafe_code)] // the attribute of an exported name, nothing else

use std::sync::atomic::{AtomicBool, Ordering};

use ramster_sys::lock::Lock;
use ramster_sys::next::{self, SignalMask};
use ramster_sys::thread_word::here;

use crate::{HEAP, big, quiesce, start};

/// One fork at a time; holds the forking thread's signal mask, which is full until the fork is over: a handler that runs in between would wait for locks
/// of its own thread.
static FORK: Lock<()> = Lock::new(());
static MASK: Lock<Option<SignalMask>> = Lock::new(None);
static SET_UP: AtomicBool = AtomicBool::new(false);

/// Early, so that of all handlers ours run last before the fork and first after it: the program's own may use memory freely.
pub fn set_up() -> bool {
    SET_UP.swap(true, Ordering::Relaxed) || next::at_fork(prepare, in_parent, in_child)
}

pub extern "C" fn prepare() {
    let Some(state) = start::started() else { return };
    let mask = SignalMask::block_all();
    FORK.freeze();
    *MASK.lock() = Some(mask);
    quiesce::close();
    big::freeze();
    let inside = &here().inside;
    inside.set(inside.get() + 1);
    state.pager.before_fork();
    HEAP.freeze();
}

pub extern "C" fn in_parent() {
    let Some(state) = start::started() else { return };
    HEAP.thaw();
    state.pager.after_fork_parent();
    big::thaw();
    quiesce::open();
    finish();
}

pub extern "C" fn in_child() {
    let Some(state) = start::started() else { return };
    HEAP.thaw();
    state.pager.after_fork_child();
    big::thaw();
    quiesce::open_in_child();
    finish();
}

fn finish() {
    let inside = &here().inside;
    inside.set(inside.get() - 1);
    let mask = MASK.lock().take();
    FORK.thaw();
    if let Some(mask) = mask {
        mask.restore();
    }
}

/// libc's `_Fork` runs no handlers: ours run all the same, or the child's managed memory would not be served.
#[unsafe(no_mangle)]
pub extern "C" fn _Fork() -> i32 {
    prepare();
    let pid = next::fork_without_handlers();
    if pid == 0 {
        in_child()
    } else {
        in_parent()
    }
    pid
}
