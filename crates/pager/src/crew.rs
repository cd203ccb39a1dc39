//! Which threads answer faults, and on which cores. A fault is cheapest when it is answered on the core that faulted: the handler runs there as soon as the
//! faulting thread sleeps, and no idle core has to be woken. So one handler follows the faulting thread from core to core, and more join only when faults
//! come from more cores at once (every handler that waits is woken by every fault, so idle ones stand down).

use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use ramster_sys::core_of::{core_of, pin_to};
use ramster_sys::lock::Bell;
use ramster_sys::quiet;
use ramster_sys::say::say;
use ramster_sys::uffd::Uffd;

use crate::Pager;
use crate::fault::Handler;

/// Handlers at most. Each fault wakes all that are on duty, so more would cost every fault more than they give.
pub const POSTS: usize = 4;
/// Looking up a thread's core costs as much as a fault (20 us in a busy process), so it is done once in so many. Half as often, and a thread that moves
/// is followed later: each fault until then wakes an idle core.
const SAMPLE_FAULTS: u32 = 64;
/// The first looks come soon, or a short burst would be over before its core is known.
const EAGER_FAULTS: u32 = 4;
const OFF_DUTY: i32 = -1;
/// Samples remembered, one bit each: did the fault come from this handler's own core?
const MEMORY: u32 = 8;

pub struct Crew {
    cores: [AtomicI32; POSTS],
    called: [Bell; POSTS],
    started: AtomicU32,
    on_duty: AtomicU32,
    /// Where the last fault that was looked up came from.
    last_core: AtomicI32,
}

impl Crew {
    pub const fn new() -> Self {
        Self {
            cores: [const { AtomicI32::new(OFF_DUTY) }; POSTS],
            called: [const { Bell::new() }; POSTS],
            started: AtomicU32::new(0),
            on_duty: AtomicU32::new(0),
            last_core: AtomicI32::new(OFF_DUTY),
        }
    }

    /// The first handler of this process.
    pub fn start(&self, pager: &'static Pager, uffd: &Arc<Uffd>, core: usize) -> std::io::Result<()> {
        self.call(pager, uffd, core)
    }

    /// Puts one more handler on duty on this core, if there is a post left.
    fn call(&self, pager: &'static Pager, uffd: &Arc<Uffd>, core: usize) -> std::io::Result<()> {
        for index in 0..POSTS {
            let free = self.cores[index].compare_exchange(OFF_DUTY, core as i32, AcqRel, Acquire).is_ok();
            if !free {
                continue;
            }
            self.on_duty.fetch_add(1, AcqRel);
            if self.started.fetch_or(1 << index, AcqRel) & (1 << index) != 0 {
                self.called[index].ring();
                return Ok(());
            }
            let uffd = Arc::clone(uffd);
            let post = Post { pager, uffd: Arc::clone(&uffd), index, core, faults: 0, own: !0, samples: 0, polls: false };
            let spawned = quiet::spawn("ramster-fault", move || {
                pin_to(core);
                match Handler::new(pager, uffd, post) {
                    Ok(handler) => handler.run(),
                    Err(errno) => {
                        say(format_args!("a fault handler cannot start: {errno}"));
                        pager.crew.strike(index);
                    }
                }
            });
            if spawned.is_err() {
                self.strike(index);
            }
            return spawned.map(drop);
        }
        Ok(())
    }

    /// Nobody is at this post after all. Left in the books, it would let the last real handler stand down.
    fn strike(&self, index: usize) {
        self.started.fetch_and(!(1 << index), AcqRel);
        self.on_duty.fetch_sub(1, AcqRel);
        self.cores[index].store(OFF_DUTY, Release);
    }

    fn is_manned(&self, core: usize) -> bool {
        self.cores.iter().any(|post| post.load(Relaxed) == core as i32)
    }

    #[cfg(feature = "seams")]
    pub fn on_duty(&self) -> u32 {
        self.on_duty.load(Acquire)
    }

    /// The core that faults come from, as far as is known.
    pub fn busy_core(&self) -> Option<usize> {
        usize::try_from(self.last_core.load(Relaxed)).ok()
    }

    /// In a forked child: nobody is on duty.
    pub fn after_fork_child(&self) {
        self.cores.iter().for_each(|core| core.store(OFF_DUTY, Release));
        self.called.iter().for_each(Bell::forget_waiters);
        self.started.store(0, Release);
        self.on_duty.store(0, Release);
    }
}

/// One handler's place in the crew.
pub struct Post {
    pager: &'static Pager,
    uffd: Arc<Uffd>,
    index: usize,
    core: usize,
    faults: u32,
    /// The last samples, newest in bit 0: 1 when the fault came from our own core.
    own: u32,
    samples: u32,
    polls: bool,
}

impl Post {
    /// A fault of this thread was read.
    pub fn saw(&mut self, thread: u32) {
        self.faults += 1;
        let sample = if self.samples < 8 { EAGER_FAULTS } else { SAMPLE_FAULTS };
        if !self.faults.is_multiple_of(sample) && self.faults != 1 {
            return;
        }
        let Some(core) = core_of(thread) else { return };
        self.samples += 1;
        self.crew().last_core.store(core as i32, Relaxed);
        let is_own = core == self.core;
        self.own = self.own << 1 | u32::from(is_own);
        if is_own || self.crew().is_manned(core) {
            return;
        }
        if self.own & ((1 << 2) - 1) == 0 || self.samples == 1 {
            // Two in a row from there and none from here: the thread has moved, go with it.
            self.move_to(core);
        } else if self.own & (1 << 1) != 0 {
            let _ = self.crew().call(self.pager, &self.uffd, core);
        }
    }

    /// Off duty, and asleep, once the faults all come from cores that others man.
    pub fn stand_down_if_idle(&mut self) {
        let crew = self.crew();
        if self.samples < MEMORY || self.own & ((1 << MEMORY) - 1) != 0 || crew.on_duty.load(Acquire) < 2 {
            return;
        }
        if crew.on_duty.fetch_update(AcqRel, Acquire, |on_duty| (on_duty > 1).then(|| on_duty - 1)).is_err() {
            return;
        }
        crew.cores[self.index].store(OFF_DUTY, Release);
        loop {
            let heard = crew.called[self.index].listen();
            let core = crew.cores[self.index].load(Acquire);
            if core != OFF_DUTY {
                self.core = core as usize;
                pin_to(self.core);
                (self.own, self.samples) = (!0, 0);
                return;
            }
            crew.called[self.index].wait(heard, 60_000);
        }
    }

    /// From now on reads of faults must not block, since answers of peers are awaited at the same time.
    pub fn waits_for_peers(&mut self) {
        if !self.polls {
            self.uffd.never_block();
            self.polls = true;
        }
    }

    fn move_to(&mut self, core: usize) {
        self.core = core;
        self.crew().cores[self.index].store(core as i32, Release);
        pin_to(core);
        self.own = !0;
    }

    fn crew(&self) -> &'static Crew {
        &self.pager.crew
    }
}
