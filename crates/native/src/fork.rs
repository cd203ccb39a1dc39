//! os.fork() in a process with engines: brings them to rest, and wakes them again on both sides. Covers the order; what it means is the engine's and
//! the pager's. Under `ramster run` the preload library does the same for its own pager.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ramster_engine::Engine;
use ramster_pager::Pager;
use ramster_sys::lock::Lock;
use ramster_sys::next;

/// The engines of pools. The pager has one of its own.
static ENGINES: Lock<Vec<Weak<Engine>>> = Lock::new(Vec::new());
/// One fork at a time, and what it holds still.
static FORKING: Lock<Vec<Arc<Engine>>> = Lock::new(Vec::new());
static SET_UP: AtomicBool = AtomicBool::new(false);

/// False: libc takes no more handlers.
pub fn set_up() -> bool {
    SET_UP.swap(true, Ordering::SeqCst) || next::at_fork(prepare, in_parent, in_child)
}

pub fn note(engine: &Arc<Engine>) {
    let mut engines = ENGINES.lock();
    engines.retain(|other| other.strong_count() > 0);
    engines.push(Arc::downgrade(engine));
}

extern "C" fn prepare() {
    let mut forking = FORKING.lock();
    let engines = ENGINES.lock();
    *forking = engines.iter().filter_map(Weak::upgrade).collect();
    engines.freeze();
    forking.iter().for_each(|engine| engine.before_fork());
    forking.freeze();
    if let Some(pager) = Pager::get() {
        pager.before_fork();
    }
}

extern "C" fn in_parent() {
    if let Some(pager) = Pager::get() {
        pager.after_fork_parent();
    }
    wake(Engine::after_fork_parent);
}

extern "C" fn in_child() {
    if let Some(pager) = Pager::get() {
        pager.after_fork_child();
    }
    wake(Engine::after_fork_child);
}

fn wake(side: impl Fn(&Engine)) {
    FORKING.thaw();
    ENGINES.thaw();
    let engines = std::mem::take(&mut *FORKING.lock());
    engines.iter().for_each(|engine| side(engine));
}
