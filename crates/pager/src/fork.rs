//! fork: the child gets the parent's managed memory as it was. Resident pages, frames and the compressed store are shared copy-on-write by the kernel, for
//! free; pages at peers are shared by one message (the engine's). The child has no threads, so it gets its own userfaultfd, handlers and reclaimer.
//!
//! `before_fork` closes the layout: no fault is half answered and no extent half taken out while the kernel copies.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use ramster_core::page::PAGE_BYTES;
use ramster_sys::quiet;
use ramster_sys::residency::Pagemap;
use ramster_sys::say::say;
use ramster_sys::uffd::Uffd;

use crate::states::Place;
use crate::watch::main_thread_core;
use crate::{Managing, Pager};

impl Pager {
    /// In the thread that forks, with signals blocked.
    pub fn before_fork(&self) {
        self.layout.freeze();
        self.cold.freeze();
        self.victims.freeze();
        self.engine.before_fork();
    }

    pub fn after_fork_parent(&self) {
        self.engine.after_fork_parent();
        self.victims.thaw();
        self.cold.thaw();
        self.layout.thaw();
    }

    /// In the child, before anything touches managed memory. A child that cannot be served ends here with a clear line: without a pager of its own it would
    /// read zeroes where its parent had data.
    pub fn after_fork_child(&'static self) {
        self.victims.thaw();
        self.cold.thaw();
        self.layout.thaw();
        self.short.forget_waiters();
        self.crew.after_fork_child();
        self.victims.after_fork_child();
        self.engine.after_fork_child();
        self.reclaimer_started.store(false, Release);
        if let Err(errno) = self.obey_fork_advice() {
            say(format_args!("a forked child cannot reserve addresses ({errno})"));
        }
        let is_managing = self.layout.read().managing.is_some();
        if !is_managing {
            return;
        }
        if let Err(error) = self.manage_in_child() {
            say(format_args!(
                "a forked child cannot have a pager of its own ({error}): it ends here rather than read wrong data"
            ));
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
        }
    }

    fn manage_in_child(&'static self) -> std::io::Result<()> {
        let uffd = Arc::new(Uffd::open()?);
        let pagemap = Arc::new(Pagemap::open()?);
        {
            let mut layout = self.layout.write();
            // The parent's descriptors are copies here; the value that owns them is ours to drop.
            layout.managing = Some(Managing { uffd: Arc::clone(&uffd), pagemap });
            self.register_all(&layout, &uffd)?;
            for region in layout.regions.all() {
                for page in self.page_of(region.start)..self.page_of(region.end - PAGE_BYTES) + 1 {
                    self.settle_after_fork(page);
                }
            }
        }
        self.reclaimer_started.store(true, Release);
        quiet::spawn("ramster-reclaim", move || crate::reclaim::reclaim_for_ever(self))?;
        self.crew.start(self, &uffd, main_thread_core())
    }

    /// MADV_DONTFORK and MADV_WIPEONFORK: the kernel has left these mappings out, or emptied them; our books follow. The addresses stay reserved.
    fn obey_fork_advice(&self) -> Result<(), rustix::io::Errno> {
        let mut layout = self.layout.write();
        let advised: Vec<_> = layout.regions.all().filter(|region| region.dont_fork || region.wipe_on_fork).copied().collect();
        for region in advised {
            self.forget(&layout, &region);
            if region.dont_fork {
                layout.regions.carve(region.start, region.end);
                ramster_sys::mapping::vacate(region.start, region.len())?;
                layout.addresses.give(region.start, region.len());
            }
        }
        Ok(())
    }

    /// What the parent's threads were in the middle of is not under way here. With the layout closed no put was, so only fetches are left.
    fn settle_after_fork(&self, page: usize) {
        if matches!(self.states.place(page), Place::Fetching(_)) {
            self.states.set(page, Place::Stored(self.cold.now()));
        }
    }
}
