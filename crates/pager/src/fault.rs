//! Steps 10 and 14: a page fault becomes a get, and the page goes into the process. One `Handler` a thread; it takes no GIL, touches no managed memory and
//! waits for nothing but the kernel and, through its lane, the peer.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ramster_core::backend::{Backend, Keep, Loss, Lost};
use ramster_core::busy_poll::BusyPoll;
use ramster_core::handle::Handle;
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Arrival, Lane, LaneGet, Stat, now_ms, now_ns, now_us};
use ramster_sys::say::say;
use ramster_sys::staging::Staging;
use ramster_sys::uffd::{Fault, FillError, Uffd, feature};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Pager;
use crate::ahead::REACH_PAGES;
use crate::cold::Cold;
use crate::crew::Post;
use crate::reclaim::Reclaimer;
use crate::regions::Region;
use crate::seam::{self, Point};
use crate::states::{EXTENT_PAGES, NUMBER_MASK, Place};

/// A fault makes room itself at most this often; then the program goes over its limit rather than wait longer.
const ROOM_TRIES: usize = 64;

pub struct Handler {
    pager: &'static Pager,
    uffd: Arc<Uffd>,
    lane: Lane,
    reclaimer: Reclaimer,
    staging: Staging<EXTENT_PAGES>,
    zeroes: Staging<EXTENT_PAGES>,
    outcomes: Vec<LaneGet>,
    handles: Vec<Handle>,
    pending: Vec<Pending>,
    post: Post,
    /// For answers of peers: the thread that faulted sleeps, so this core may have nothing else to do.
    busy_poll: BusyPoll,
}

#[derive(Clone, Copy)]
struct Pending {
    request: u64,
    page: usize,
    number: u32,
}

impl Handler {
    pub fn new(pager: &'static Pager, uffd: Arc<Uffd>, post: Post) -> Result<Self, rustix::io::Errno> {
        Ok(Self {
            pager,
            uffd,
            lane: pager.engine.lane(),
            reclaimer: Reclaimer::new(pager),
            staging: Staging::new()?,
            zeroes: Staging::new()?,
            outcomes: Vec::with_capacity(64),
            handles: Vec::with_capacity(64),
            pending: Vec::with_capacity(256),
            post,
            busy_poll: BusyPoll::default(),
        })
    }

    /// Answers faults for ever.
    pub fn run(mut self) {
        let mut faults = [Fault { addr: 0, thread: 0, write_protect: false }; 8];
        loop {
            match self.uffd.read(&mut faults) {
                Ok(count) => {
                    for fault in &faults[..count] {
                        self.post.saw(fault.thread);
                        self.answer(fault);
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => self.wait(),
                Err(errno) => {
                    say(format_args!("reading page faults failed (errno {}): the program cannot go on", errno.raw_os_error()));
                    std::process::abort();
                }
            }
            self.take_arrivals();
            if self.pending.is_empty() {
                self.post.stand_down_if_idle();
            }
        }
    }

    /// Until a fault or an answer of a peer is there.
    fn wait(&mut self) {
        let begun_us = (!self.pending.is_empty()).then(now_us);
        if begun_us.is_none_or(|begun_us| !self.look(begun_us)) {
            self.sleep();
        }
        if let Some(begun_us) = begun_us {
            self.busy_poll.came_after(now_us().saturating_sub(begun_us));
        }
    }

    fn sleep(&mut self) {
        let timeout = self.lane.next_deadline_ms().map(|deadline| {
            let rest = deadline.saturating_sub(now_ms());
            Timespec { tv_sec: (rest / 1000) as i64, tv_nsec: (rest % 1000 * 1_000_000) as i64 }
        });
        let (_, answered) = self.poll(timeout);
        if answered && self.pending.is_empty() {
            // Too late: the page came from elsewhere. Left where it is, it would keep this thread awake for good.
            self.lane.ready(now_ms(), &mut |_, _, _| {});
        }
    }

    /// Who else wants this core goes first.
    fn look(&self, begun_us: u64) -> bool {
        while now_us() < begun_us + u64::from(self.busy_poll.us()) {
            if self.poll(Some(Timespec::default())).0 {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    /// Whether there is anything to do, and whether the lane has something.
    fn poll(&self, timeout: Option<Timespec>) -> (bool, bool) {
        let faults = PollFd::new(&*self.uffd, PollFlags::IN);
        let Some(fd) = self.lane.fd() else {
            return (poll(&mut [faults], timeout.as_ref()).is_ok_and(|ready| ready > 0), false);
        };
        let mut both = [faults, PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let ready = poll(&mut both, timeout.as_ref()).is_ok_and(|ready| ready > 0);
        (ready, ready && !both[1].revents().is_empty())
    }

    fn answer(&mut self, fault: &Fault) {
        let pager = self.pager;
        seam::pass(Point::FaultRead, fault.addr);
        self.make_room(1);
        let layout = pager.layout.read();
        let Some(region) = layout.regions.find(fault.addr).copied().filter(|region| !region.foreign) else {
            self.answer_stranger(fault.addr);
            return;
        };
        let stats = pager.engine.stats();
        let page = pager.page_of(fault.addr);
        let held = pager.states.lock_extent(page / EXTENT_PAGES);
        if fault.write_protect {
            // Copying out (reclaim::copy_out) holds the extent while it protects, so whoever waits here has been let through by now.
            let _ = self.uffd.write_protect(fault.addr, PAGE_BYTES, false);
            self.uffd.wake(fault.addr, PAGE_BYTES);
            return;
        }
        stats.add(Stat::Faults, 1);
        match pager.states.place(page) {
            Place::Home => {
                stats.add(Stat::FaultsZero, 1);
                drop(held);
                self.zero_fill(&region, fault.addr);
            }
            Place::Victim(group) => {
                stats.add(Stat::FaultsVictim, 1);
                self.take_back_run(page, group);
            }
            Place::Packing(group) => {
                stats.add(Stat::FaultsVictim, 1);
                self.take_back(page, group, Place::TakenBack(group));
            }
            Place::TakenBack(_) => self.uffd.wake(fault.addr, PAGE_BYTES),
            Place::Stored(since) => {
                pager.cold.is_back(page / EXTENT_PAGES, since, pager.limit.home_bytes() / PAGE_BYTES);
                drop(held);
                seam::pass(Point::BeforeLocalify, fault.addr);
                self.localify(&region, page);
            }
            // The arrival wakes everybody who waits for this page.
            Place::Fetching(_) => {}
            Place::Lost => poison_at(&self.uffd, fault.addr),
        }
    }

    /// Unmapped since it faulted; or somebody walks through our own frames (mlockall by a bare system call, a debugger): an empty one gets zeroes, or it would
    /// fault for ever.
    fn answer_stranger(&self, addr: usize) {
        let frames = &self.pager.victims.frames;
        if (frames.base()..frames.base() + frames.bytes()).contains(&addr) {
            let _ = self.uffd.copy(addr, &self.zeroes.bytes()[..PAGE_BYTES]);
        }
        self.uffd.wake(addr, PAGE_BYTES);
    }

    /// Room for `pages` more under the limit. The reclaimer is normally ahead; when it isn't, the faulting side does its work.
    fn make_room(&mut self, pages: usize) {
        let pager = self.pager;
        for _ in 0..ROOM_TRIES {
            if !pager.limit.is_over(pager.victim_held_bytes(), pages * PAGE_BYTES) || !self.reclaimer.step() {
                break;
            }
        }
        if pager.limit.is_short(pager.victim_held_bytes()) {
            pager.short.ring();
        }
    }

    /// First touch: zeroes for this page, and for a growing run of its neighbours when memory is touched in order, up or down.
    fn zero_fill(&mut self, region: &Region, addr: usize) {
        let pager = self.pager;
        let page = pager.page_of(addr);
        let run = pager.ahead.lock().fresh(page);
        let run = run.start.max(pager.page_of(region.start))..run.end.min(pager.page_of(region.end - 1) + 1);
        if run.start == page {
            let mut start = page;
            while start < run.end {
                let end = run.end.min((start / EXTENT_PAGES + 1) * EXTENT_PAGES);
                if !self.zero_fill_up(start..end) {
                    break;
                }
                start = end;
            }
        } else {
            let mut end = page + 1;
            while end > run.start {
                let start = run.start.max((end - 1) / EXTENT_PAGES * EXTENT_PAGES);
                if !self.zero_fill_down(start..end) {
                    break;
                }
                end = start;
            }
        }
    }

    /// Zeroes for pages of one extent, from the first on; false when something else came in between.
    fn zero_fill_up(&self, pages: Range<usize>) -> bool {
        let _held = self.pager.states.lock_extent(pages.start / EXTENT_PAGES);
        let fresh = pages.clone().take_while(|page| self.pager.states.place(*page) == Place::Home).count();
        self.zero_fill_held(pages.start, fresh) == pages.len()
    }

    /// The same from the last on, downwards.
    fn zero_fill_down(&self, pages: Range<usize>) -> bool {
        let last = pages.end - 1;
        let _held = self.pager.states.lock_extent(last / EXTENT_PAGES);
        let fresh = pages.clone().rev().take_while(|page| self.pager.states.place(*page) == Place::Home).count();
        let done = self.zero_fill_held(pages.end - fresh, fresh);
        if done < fresh {
            // The kernel fills upwards and stopped at a page that is there: the one that faulted may be beyond it.
            self.zero_fill_held(last, 1);
        }
        done == pages.len()
    }

    /// Zeroes for `count` pages in one call; returns how many it was. The extent is held.
    fn zero_fill_held(&self, page: usize, count: usize) -> usize {
        let pager = self.pager;
        let addr = pager.addr_of(page);
        let done = match self.uffd.copy(addr, &self.zeroes.bytes()[..count * PAGE_BYTES]) {
            Ok(done) => done,
            // Somebody filled it first, or it is being unmapped: whoever waits looks again.
            Err((done, _)) => {
                self.uffd.wake(addr, count.max(1) * PAGE_BYTES);
                done
            }
        };
        let done = done / PAGE_BYTES;
        pager.limit.came_home(done);
        if done > 0 {
            pager.cold.came_home(page / EXTENT_PAGES);
        }
        done
    }

    /// The page is still in a frame of ours. A scan gets the pages of the extent that lie before it along, and they count as scanned: taken back one by
    /// one as pages in use, they would push out the next extent that the scan will come to.
    fn take_back_run(&mut self, page: usize, group: u32) {
        let pager = self.pager;
        let plan = pager.ahead.lock().plan(page);
        if plan.pages == 0 || plan.stride != 1 {
            return self.take_back(page, group, Place::Home);
        }
        let extent = page / EXTENT_PAGES;
        let reach = page..(page + 1 + plan.pages).min((extent + 1) * EXTENT_PAGES);
        let run = reach.take_while(|page| pager.states.place(*page) == Place::Victim(group)).count();
        for page in page..page + run {
            pager.states.set(page, Place::Home);
            pager.victims.took_back(group, page);
            bring_home_unwoken(pager, &self.uffd, page, pager.victims.frames.page(pager.victims.slot(group, page)));
        }
        pager.engine.stats().add(Stat::PagesAhead, run as u64 - 1);
        pager.cold.came_with_scan(extent);
        self.uffd.wake(pager.addr_of(page), run * PAGE_BYTES);
    }

    /// A copy, no decompression.
    fn take_back(&mut self, page: usize, group: u32, becomes: Place) {
        let pager = self.pager;
        let frame = pager.victims.frames.page(pager.victims.slot(group, page));
        pager.states.set(page, becomes);
        if becomes == Place::Home {
            pager.victims.took_back(group, page);
        }
        bring_home(pager, &self.uffd, page, frame);
        pager.cold.is_in_use(page / EXTENT_PAGES);
        pager.cold.came_home(page / EXTENT_PAGES);
    }

    /// Steps 11 to 13: get it from the engine; local pages are written at once, remote ones arrive later.
    fn localify(&mut self, region: &Region, page: usize) {
        let pager = self.pager;
        let stats = pager.engine.stats();
        let mut plan = pager.ahead.lock().plan(page);
        if pager.limit.is_over(pager.victim_held_bytes(), (plan.pages + 1) * PAGE_BYTES) {
            plan.pages = 0;
        }
        match self.localify_run(region, page, plan.stride, 1 + plan.pages) {
            Some(LaneGet::Pending(request)) if self.lane.is_from_disk(request) => stats.add(Stat::FaultsDisk, 1),
            Some(LaneGet::Pending(_)) => stats.add(Stat::FaultsRemote, 1),
            _ => stats.add(Stat::FaultsLocal, 1),
        }
    }

    /// Brings `pages` pages home, extent by extent, the faulting one first; stops at the first that is not stored. Returns what became of the first.
    fn localify_run(&mut self, region: &Region, page: usize, stride: isize, pages: usize) -> Option<LaneGet> {
        let pager = self.pager;
        // Read-ahead ends where the region does: pages beyond it have other names, or are no pages of the arena at all.
        let ours = pager.page_of(region.start)..pager.page_of(region.end - 1) + 1;
        let (mut at, mut left, mut first) = (page, pages.min(REACH_PAGES + 1), None);
        while left > 0 && ours.contains(&at) {
            let extent = at / EXTENT_PAGES;
            let held = pager.states.lock_extent(extent);
            self.handles.clear();
            let start = at;
            let here = extent * EXTENT_PAGES..(extent + 1) * EXTENT_PAGES;
            while left > 0 && here.contains(&at) && ours.contains(&at) && matches!(pager.states.place(at), Place::Stored(_)) {
                self.handles.push(region.handle(pager.pool, pager.addr_of(at)));
                left -= 1;
                at = at.wrapping_add_signed(stride);
            }
            let count = self.handles.len();
            if count == 0 {
                // The faulting page itself was answered by somebody else since we looked.
                if first.is_none() {
                    self.uffd.wake(pager.addr_of(page), PAGE_BYTES);
                }
                break;
            }
            let mut places = self.staging.pages().each_mut();
            self.lane.get_run(&self.handles, Keep::KeepRemote, &mut places[..count], &mut self.outcomes);
            first = first.or(self.outcomes.first().copied());
            self.deliver_run(start, stride, count, if pages > 1 { Cold::came_with_scan } else { Cold::came_home });
            drop(held);
            // Only now: a thread that is woken takes this core at once, and would keep the lock from all others until it faults again.
            let end = at.wrapping_add_signed(-stride);
            let (first, last) = (start.min(end), start.max(end));
            self.uffd.wake(pager.addr_of(first), (last - first + 1) * PAGE_BYTES);
        }
        first
    }

    /// Puts the run in `staging` into the program, neighbours in one call. Who waits is woken by the caller.
    fn deliver_run(&mut self, start: usize, stride: isize, count: usize, queue: fn(&Cold, usize)) {
        let pager = self.pager;
        let stats = pager.engine.stats();
        let mut index = 0;
        while index < count {
            let page = start.wrapping_add_signed(stride * index as isize);
            match self.outcomes[index] {
                LaneGet::Hit => {
                    let hits = self.outcomes[index..count].iter().take_while(|outcome| matches!(outcome, LaneGet::Hit)).count();
                    let run = if stride == 1 { hits } else { 1 };
                    (page..page + run).for_each(|page| pager.states.set(page, Place::Home));
                    bring_home_unwoken(
                        pager,
                        &self.uffd,
                        page,
                        &self.staging.bytes()[index * PAGE_BYTES..(index + run) * PAGE_BYTES],
                    );
                    stats.add(Stat::PagesIn, run as u64);
                    stats.add(Stat::PagesAhead, (run - usize::from(index == 0)) as u64);
                    queue(&pager.cold, page / EXTENT_PAGES);
                    index += run;
                    continue;
                }
                LaneGet::Pending(request) => {
                    let number = pager.fetches.fetch_add(1, Relaxed) & NUMBER_MASK;
                    pager.states.set(page, Place::Fetching(number));
                    self.pending.push(Pending { request, page, number });
                    self.post.waits_for_peers();
                    seam::pass(Point::AfterFetch, pager.addr_of(page));
                }
                LaneGet::Lost(lost) => lose(pager, &self.uffd, page, Some(lost)),
                LaneGet::Miss => lose(pager, &self.uffd, page, None),
            }
            index += 1;
        }
    }

    /// Remote pages that have come in, or failed to by their deadline.
    fn take_arrivals(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let Self { pager, uffd, lane, pending, .. } = self;
        lane.ready_at(now_ns(), &mut |request, handle, arrival| {
            let Some(index) = pending.iter().position(|one| one.request == request) else { return };
            let Pending { page, number, .. } = pending.swap_remove(index);
            seam::pass(Point::Arrival, pager.addr_of(page));
            let _layout = pager.layout.read();
            let _held = pager.states.lock_extent(page / EXTENT_PAGES);
            if pager.states.place(page) != Place::Fetching(number) {
                return; // unmapped, discarded or moved meanwhile
            }
            match arrival {
                Arrival::Page(bytes) => {
                    pager.states.set(page, Place::Home);
                    bring_home(pager, uffd, page, bytes);
                    pager.engine.stats().add(Stat::PagesIn, 1);
                    pager.cold.came_home(page / EXTENT_PAGES);
                }
                Arrival::Lost(lost) => {
                    if lost.why == Loss::Deadline {
                        // To the engine it is only late; here nobody will ask for it again.
                        pager.engine.flush_page(handle);
                        pager.engine.stats().add(Stat::PagesLost, 1);
                    }
                    lose(pager, uffd, page, Some(lost));
                }
                Arrival::Miss => lose(pager, uffd, page, None),
            }
        });
    }
}

/// What cannot be brought back stops the one access that needs it, loudly. The extent is held.
fn lose(pager: &Pager, uffd: &Uffd, page: usize, lost: Option<Lost>) {
    let addr = pager.addr_of(page);
    match lost {
        Some(lost) => say(format_args!(
            "the page at {addr:#x} is lost: {:?}, holder {:?}; every access to it gets SIGBUS",
            lost.why,
            lost.holder.map(|holder| holder.0)
        )),
        None => say(format_args!("the page at {addr:#x} is lost: the store has no such page; every access to it gets SIGBUS")),
    }
    pager.states.set(page, Place::Lost);
    poison_at(uffd, addr);
}

/// UFFDIO_POISON (Linux 6.6), or else a page of a file that has no such page: both answer an access with SIGBUS.
fn poison_at(uffd: &Uffd, addr: usize) {
    let poisoned = uffd.has(feature::POISON) && matches!(uffd.poison(addr, PAGE_BYTES), Ok(()) | Err(FillError::Present));
    if !poisoned && ramster_sys::mapping::map_nothing(addr, PAGE_BYTES).is_err() {
        say(format_args!("cannot stop the access to the lost page at {addr:#x}: the process ends"));
        std::process::abort();
    }
    uffd.wake(addr, PAGE_BYTES);
}

/// Copies whole pages into the program, wakes who waits for them and counts them. The extents are held.
pub fn bring_home(pager: &Pager, uffd: &Uffd, page: usize, bytes: &[u8]) {
    bring_home_unwoken(pager, uffd, page, bytes);
    uffd.wake(pager.addr_of(page), bytes.len());
}

/// The same, and waking is the caller's. A page that is there already was put there behind our back (a bare system call): the program's own wins.
fn bring_home_unwoken(pager: &Pager, uffd: &Uffd, page: usize, bytes: &[u8]) {
    seam::pass(Point::BeforeFill, pager.addr_of(page));
    let mut at = 0;
    while at < bytes.len() {
        let addr = pager.addr_of(page) + at;
        match uffd.copy_unwoken(addr, &bytes[at..]) {
            Ok(done) => {
                pager.limit.came_home(done / PAGE_BYTES);
                return;
            }
            Err((done, FillError::Present)) => {
                pager.limit.came_home(done / PAGE_BYTES);
                at += done + PAGE_BYTES;
            }
            // The kernel fills within one of its mappings only, and what is one region to us may be several to it (madvise on a part): page by page, then.
            Err((done, FillError::Gone)) if done > 0 || bytes.len() - at > PAGE_BYTES => {
                pager.limit.came_home(done / PAGE_BYTES);
                at += done;
                if done == 0 {
                    bring_home_unwoken(pager, uffd, page + at / PAGE_BYTES, &bytes[at..at + PAGE_BYTES]);
                    at += PAGE_BYTES;
                }
            }
            Err((_, FillError::Gone | FillError::Exiting)) => return,
            Err((_, error)) => {
                say(format_args!("the page at {addr:#x} cannot be brought in ({error:?}): the process ends"));
                std::process::abort();
            }
        }
    }
}
