//! The engine's own threads: the remotifier, started when a page first has to leave, and the brain, if there is a node. Covers starting, waking and
//! stopping; a forked child has none and starts them again the same way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use ramster_sys::lock::Lock;
use ramster_sys::quiet::{self, Inherited, Thread, move_high};
use ramster_sys::say::say;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use crate::brain;
use crate::engine::Engine;
use crate::remotifier::Remotifier;

pub struct Threads {
    running: Lock<Running>,
    /// The remotifier has been told of pressure and has not looked yet.
    pressed: AtomicBool,
    /// The remotifier knows that flushes wait.
    flushing: AtomicBool,
}

#[derive(Default)]
struct Running {
    wake: Option<Arc<Wake>>,
    remotifier: Option<Thread>,
    brain: Option<Thread>,
    failed: bool,
}

/// What the remotifier polls besides its links.
pub struct Wake {
    eventfd: OwnedFd,
    inherited: Arc<Inherited>,
}

impl Wake {
    fn new(inherited: &Arc<Inherited>) -> Result<Wake, Errno> {
        let eventfd = move_high(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        inherited.note(eventfd.as_fd());
        Ok(Wake { eventfd, inherited: Arc::clone(inherited) })
    }

    pub fn ring(&self) {
        // Fails only when it has rung 2^64 times.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    pub fn silence(&self) {
        let _ = rustix::io::read(&self.eventfd, &mut [0; 8]);
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.inherited.forget(self.eventfd.as_fd());
    }
}

impl Threads {
    pub fn new() -> Self {
        Threads { running: Lock::new(Running::default()), pressed: AtomicBool::new(false), flushing: AtomicBool::new(false) }
    }

    pub fn start_brain(&self, engine: &Engine) {
        let Some(socket) = engine.node_socket().cloned() else { return };
        let mut running = self.running.lock();
        if running.brain.is_none() && !engine.is_closed() {
            let weak = engine.me();
            match quiet::spawn("ramster-brain", move || brain::run(weak, &socket)) {
                Ok(thread) => running.brain = Some(thread),
                Err(error) => say(format_args!("no thread for the link to the node: {error}")),
            }
        }
    }

    /// The store is over its limit. Costs a load when the remotifier knows already.
    pub fn wake_remotifier(&self, engine: &Engine) {
        if !self.pressed.load(SeqCst) && !self.pressed.swap(true, SeqCst) {
            self.ring(engine);
        }
    }

    pub fn wake_for_flushes(&self, engine: &Engine) {
        if !self.flushing.load(SeqCst) && !self.flushing.swap(true, SeqCst) {
            self.ring(engine);
        }
    }

    /// By the remotifier, before it looks: whatever happens after this wakes it again.
    pub fn hear_pressure(&self) {
        self.pressed.store(false, SeqCst);
    }

    pub fn hear_flushes(&self) {
        self.flushing.store(false, SeqCst);
    }

    pub fn are_flushes_waiting(&self) -> bool {
        self.flushing.load(SeqCst)
    }

    /// Whatever the reason: the remotifier takes a look.
    pub fn ring(&self, engine: &Engine) {
        let mut running = self.running.lock();
        if running.wake.is_none() && !running.failed && !engine.is_closed() {
            running.start_remotifier(engine);
        }
        if let Some(wake) = &running.wake {
            wake.ring();
        }
    }

    /// Waits until the threads have ended, unless one of them is asking. The engine is closed already.
    pub fn stop(&self) {
        let (remotifier, brain) = {
            let mut running = self.running.lock();
            if let Some(wake) = &running.wake {
                wake.ring();
            }
            (running.remotifier.take(), running.brain.take())
        };
        for thread in [remotifier, brain].into_iter().flatten() {
            // EDEADLK: one of them drops the last reference to the engine, and ends right after this.
            let _ = thread.join();
        }
    }

    pub fn freeze(&self) {
        self.running.freeze();
    }

    pub fn thaw(&self) {
        self.running.thaw();
    }

    /// The parent's threads are not here. What they own stays where it is: their descriptors are closed by number.
    pub fn forget_in_child(&self) {
        std::mem::forget(std::mem::take(&mut *self.running.lock()));
        self.pressed.store(false, SeqCst);
        self.flushing.store(false, SeqCst);
    }
}

impl Running {
    fn start_remotifier(&mut self, engine: &Engine) {
        let started = Wake::new(engine.inherited()).map_err(std::io::Error::from).and_then(|wake| {
            let wake = Arc::new(wake);
            let remotifier = Remotifier::new(engine, Arc::clone(&wake));
            let thread = quiet::spawn("ramster-remote", move || remotifier.run())?;
            Ok((wake, thread))
        });
        match started {
            Ok((wake, thread)) => (self.wake, self.remotifier) = (Some(wake), Some(thread)),
            Err(error) => {
                self.failed = true;
                say(format_args!("no thread to send pages to peers: {error}; they stay here"));
            }
        }
    }
}
