//! Until the first page has to leave, memory is the kernel's alone: nothing is registered and no fault is ours. This thread watches how much is resident and
//! begins to manage before the limit is reached. Covers the watch and the change-over.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;

use ramster_sys::residency::{Pagemap, process_anonymous_bytes};
use ramster_sys::say::say;
use ramster_sys::uffd::Uffd;
use ramster_sys::{core_of, quiet};
use rustix::io::Errno;

use crate::{Managing, Pager, reclaim};

/// How fast a program can touch fresh memory at most: two cores clearing huge pages. Were it twice as fast, the limit would be exceeded by up to the
/// headroom once, at the change-over.
const TOUCH_BYTES_PER_MS: usize = 12 << 20;
const SHORTEST_WAIT_US: u64 = 300;
const LONGEST_WAIT_MS: usize = 100;

impl Pager {
    /// Called when mappings grow. While all of them together fit, not even a thread is needed.
    pub(crate) fn watch_if_over(&'static self, mapped_bytes: usize) {
        if mapped_bytes + self.margin_bytes() <= self.limit.bytes() {
            return;
        }
        if self.reclaimer_started.load(Acquire) || self.reclaimer_started.swap(true, AcqRel) {
            return;
        }
        if let Err(error) = quiet::spawn("ramster-reclaim", move || self.watch_then_reclaim()) {
            say(format_args!("no thread for reclaim ({error}): memory is not limited"));
        }
    }

    /// The change-over itself takes a while, and so do the first evictions.
    fn margin_bytes(&self) -> usize {
        (self.limit.bytes() / 8).min(64 << 20)
    }

    fn watch_then_reclaim(&'static self) {
        // In a forked child of a managing parent there is nothing to watch for.
        let is_managing = self.layout.read().managing.is_some();
        if !is_managing {
            self.wait_until_nearly_full();
            if let Err(errno) = self.begin_managing() {
                say(format_args!(
                    "page faults cannot be taken over ({errno}): memory is not limited; `ramster doctor` says what is missing"
                ));
                return;
            }
        }
        reclaim::reclaim_for_ever(self);
    }

    fn wait_until_nearly_full(&self) {
        loop {
            self.follow_limit();
            let trigger = self.limit.bytes().saturating_sub(self.margin_bytes());
            let mapped = self.layout.read().regions.mapped_bytes();
            let mut resident = process_anonymous_bytes().unwrap_or(usize::MAX).min(mapped);
            if resident >= trigger {
                resident = self.count_resident();
                self.engine.stats().set_gauge_with_max(
                    ramster_engine::Stat::BytesResident,
                    ramster_engine::Stat::BytesResidentMax,
                    resident as u64,
                );
                if resident >= trigger {
                    return;
                }
            }
            let wait_ms = ((trigger - resident) / TOUCH_BYTES_PER_MS).min(LONGEST_WAIT_MS);
            std::thread::sleep(Duration::from_millis(wait_ms as u64).max(Duration::from_micros(SHORTEST_WAIT_US)));
        }
    }

    fn count_resident(&self) -> usize {
        let Ok(pagemap) = Pagemap::open() else { return usize::MAX };
        let layout = self.layout.read();
        let ours = layout.regions.all().filter(|region| !region.foreign);
        ours.map(|region| pagemap.resident(region.start, region.len(), |_, _| {}).unwrap_or(0)).sum()
    }

    /// From here on every missing page of managed memory comes to us.
    fn begin_managing(&'static self) -> Result<(), Errno> {
        let uffd = Arc::new(Uffd::open()?);
        {
            let mut layout = self.layout.write();
            let managing = Managing { uffd: Arc::clone(&uffd), pagemap: Arc::new(Pagemap::open()?) };
            self.register_all(&layout, &uffd)?;
            layout.managing = Some(managing);
        }
        self.recount();
        let core = main_thread_core();
        self.crew.start(self, &uffd, core).map_err(|error| {
            // With nobody to answer them faults must stay the kernel's: closing the userfaultfd ends every registration.
            self.layout.write().managing = None;
            Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)
        })
    }

    /// Everything managed, and the frames, which are where pages are moved to.
    pub(crate) fn register_all(&self, layout: &crate::Layout, uffd: &Uffd) -> Result<(), Errno> {
        uffd.register(self.victims.frames.base(), self.victims.frames.bytes())?;
        for region in layout.regions.all().filter(|region| !region.foreign) {
            uffd.register(region.start, region.len())?;
        }
        Ok(())
    }
}

/// Faults will come from there first; the crew follows them later.
pub(crate) fn main_thread_core() -> usize {
    core_of::core_of(rustix::process::getpid().as_raw_pid() as u32).unwrap_or(0)
}
