//! Step 1: cold pages leave. One step takes an extent out of the program into the victim buffer, and puts the group that has waited there longest.
//! Covers moving out and putting; which extent is cold is `cold.rs`, how much must leave is `limit.rs`. Many threads may take steps at once.

use std::sync::atomic::Ordering::Relaxed;

use ramster_core::backend::{Backend, Put};
use ramster_core::handle::Handle;
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_engine::{Putter, Stat, now_ms};
use ramster_sys::core_of::{CpuSet, allowed, run_on};
use ramster_sys::say::say;
use ramster_sys::uffd::{FillError, feature};

use crate::fault::bring_home;
use crate::limit;
use crate::regions::Region;
use crate::seam::{self, Point};
use crate::states::{EXTENT_PAGES, EXTENT_SHIFT, Place};
use crate::{Layout, Managing, Pager};

/// How many cold extents one step looks at before it says that nothing can leave.
const LOOKS: usize = 64;
/// With nowhere to put a page the program may take this much more before we look again.
const OVERDRAFT_BYTES: usize = 4 << 20;
/// The limit counts as exceeded from a sixteenth more on: pages on their way from resident to stored count twice for a moment.
const EXCESS_SHARE: usize = 16;
/// How often an exceeded limit is tried again, and lost pages are looked for in the page tables: each costs the program a few milliseconds.
const REPAY_EVERY_MS: u64 = 1000;

/// One a thread that reclaims: owns its codec contexts and buffers.
pub struct Reclaimer {
    pager: &'static Pager,
    putter: Putter,
    outcomes: Vec<Put>,
    handles: Vec<Handle>,
    pages: Vec<usize>,
    copy: Box<Page>,
}

impl Pager {
    pub(crate) fn victim_held_bytes(&self) -> usize {
        self.victims.held_pages() * PAGE_BYTES
    }

    /// Follows what the engine allows: the user's resident limit, or what the store leaves of the local limit.
    pub(crate) fn follow_limit(&self) {
        let engine_limit = self.engine.resident_limit_bytes().map_or(usize::MAX, |bytes| bytes as usize);
        let stored = self.engine.store_bytes() as usize;
        let floor = (self.local_bytes / 8).max(1 << 20).min(self.local_bytes);
        let rest = self.local_bytes.saturating_sub(stored).max(floor);
        self.limit.set_bytes(self.resident_bytes.map_or(rest, |bytes| bytes.min(rest)).min(engine_limit));
        self.engine.note_resident((self.limit.home_bytes() + self.victim_held_bytes()) as u64);
    }

    fn buffer_pages(&self) -> usize {
        limit::victim_bytes(self.limit.bytes()).min(self.victims.capacity_pages() * PAGE_BYTES / 2) / PAGE_BYTES
    }
}

impl Reclaimer {
    pub fn new(pager: &'static Pager) -> Self {
        Self {
            pager,
            putter: pager.engine.putter(),
            outcomes: Vec::with_capacity(EXTENT_PAGES),
            handles: Vec::with_capacity(EXTENT_PAGES),
            pages: Vec::with_capacity(EXTENT_PAGES),
            copy: Box::new([0; PAGE_BYTES]),
        }
    }

    /// Takes one cold extent out and puts what the victim buffer holds too much. False: nothing could leave.
    pub fn step(&mut self) -> bool {
        let pager = self.pager;
        let mut progress = false;
        // Over the limit nothing may wait in the buffer: taking out alone would not make room.
        if pager.victims.held_pages() >= pager.buffer_pages() || pager.limit.is_over(pager.victim_held_bytes(), 0) {
            progress |= self.put_oldest();
        }
        progress |= self.take_out_coldest();
        pager.follow_limit();
        progress || self.put_oldest()
    }

    fn take_out_coldest(&mut self) -> bool {
        let pager = self.pager;
        for _ in 0..LOOKS {
            let Some(extent) = pager.cold.next() else { return false };
            let layout = pager.layout.read();
            let Some(managing) = layout.managing.clone() else { return false };
            let taken = self.take_out(&layout, &managing, extent);
            if taken > 0 {
                pager.engine.stats().add(Stat::PagesOut, taken as u64);
                pager.cold.left(taken);
                return true;
            }
        }
        false
    }

    /// Every resident page of the extent, out. Returns how many.
    pub fn take_out(&mut self, layout: &Layout, managing: &Managing, extent: usize) -> usize {
        let pager = self.pager;
        let start = pager.arena.start + (extent << EXTENT_SHIFT);
        let end = start + (1 << EXTENT_SHIFT);
        let _held = pager.states.lock_extent(extent);
        let first_page = extent * EXTENT_PAGES;
        if (first_page..first_page + EXTENT_PAGES).any(|page| matches!(pager.states.place(page), Place::TakenBack(_))) {
            // A put of an older life of a page still runs; two puts of one page must not overtake each other.
            pager.cold.came_home(extent);
            return 0;
        }
        let mut taken = 0;
        for piece in layout.regions.pieces(start, end).filter(Region::evictable) {
            if !managing.uffd.has(feature::MOVE) {
                taken += self.copy_out(managing, &piece);
                continue;
            }
            let Some(group) = pager.victims.take() else {
                pager.cold.came_home(extent);
                break;
            };
            let mask = self.move_out(managing, &piece, group);
            seam::pass(Point::AfterMoveOut, piece.start);
            let first = pager.page_of(piece.start);
            for page in first..first + piece.len() / PAGE_BYTES {
                if mask & (1 << (page % EXTENT_PAGES)) != 0 {
                    pager.states.set(page, Place::Victim(group));
                }
            }
            pager.limit.left_home(mask.count_ones() as usize);
            pager.victims.fill(group, extent, mask);
            taken += mask.count_ones() as usize;
        }
        taken
    }

    /// Moves the piece's frames into the group, holes and all. The kernel takes the page and its mapping away in one go, so a thread that writes at the
    /// same moment either wrote before or faults after. Returns which slots are filled.
    ///
    /// What the call reports is not believed: while it splits a huge page it may move pages and then report none of them. The page table tells.
    fn move_out(&mut self, managing: &Managing, piece: &Region, group: u32) -> u16 {
        let pager = self.pager;
        let slot = pager.victims.slot(group, pager.page_of(piece.start));
        let mut at = 0;
        let mut chunk = piece.len();
        let mut unshared_at = None;
        while at < piece.len() {
            let len = chunk.min(piece.len() - at);
            match managing.uffd.move_pages(pager.victims.frames.addr(slot) + at, piece.start + at, len, false) {
                Ok(_) => at += len,
                // Shared since a fork: a copy of its own can be moved. Still busy then: pinned (direct I/O under way), and pinned stays.
                Err((done, FillError::Busy)) => {
                    at += done;
                    if unshared_at != Some(at) && unshare(piece.start + at) {
                        unshared_at = Some(at);
                    } else {
                        at += PAGE_BYTES;
                    }
                }
                // In the frame already: this page, moved by a call that was reported as not done, or a stray. Below.
                Err((done, FillError::Present)) => at += done + PAGE_BYTES,
                // What is one region to us may be several mappings to the kernel, which moves within one only: page by page, then.
                Err((done, FillError::Gone)) if len > PAGE_BYTES => {
                    at += done;
                    chunk = PAGE_BYTES;
                }
                Err((_, FillError::Gone | FillError::Exiting)) => at += len,
                Err((done, error)) => {
                    if done == 0 {
                        say(format_args!("taking pages out at {:#x} failed: {error:?}", piece.start));
                    }
                    break;
                }
            }
        }
        self.without_strays(managing, piece, group)
    }

    /// The filled slots of the group. A frame whose page is still at home too, or is not one that could have left, is a stray: a stranger touched the empty
    /// frame (a bare mlockall, a debugger). It is emptied.
    fn without_strays(&self, managing: &Managing, piece: &Region, group: u32) -> u16 {
        let pager = self.pager;
        let first_slot = pager.victims.first_slot(group);
        let mask = mask_of(managing, pager.victims.frames.addr(first_slot), EXTENT_PAGES);
        if mask == 0 {
            return 0;
        }
        let first = pager.page_of(piece.start);
        let at_home = mask_of(managing, piece.start, piece.len() / PAGE_BYTES) << (first % EXTENT_PAGES);
        let could_leave = (first..first + piece.len() / PAGE_BYTES)
            .filter(|page| pager.states.place(*page) == Place::Home)
            .fold(0, |mask, page| mask | 1u16 << (page % EXTENT_PAGES));
        let strays = mask & (at_home | !could_leave);
        (0..EXTENT_PAGES)
            .filter(|slot| strays & (1 << slot) != 0)
            .for_each(|slot| pager.victims.frames.discard(first_slot + slot, 1));
        mask & !strays
    }

    /// For kernels without MOVE (before 6.8): protect, put a copy, discard. The extent is held, so a thread that writes meanwhile waits for us and then
    /// faults. Pinned pages (direct I/O under way) cannot be told apart here: such a program must not run on such a kernel.
    fn copy_out(&mut self, managing: &Managing, piece: &Region) -> usize {
        let pager = self.pager;
        if managing.uffd.write_protect(piece.start, piece.len(), true).is_err() {
            return 0;
        }
        let mut taken = 0;
        let mask = mask_of(managing, piece.start, piece.len() / PAGE_BYTES);
        for index in (0..piece.len() / PAGE_BYTES).filter(|index| mask & (1 << index) != 0) {
            let addr = piece.start + index * PAGE_BYTES;
            ramster_sys::frames::copy_present(addr, &mut self.copy);
            if self.putter.put(&piece.handle(pager.pool, addr), &self.copy) == Put::Stored {
                pager.states.set(pager.page_of(addr), Place::Stored(pager.cold.now()));
                let _ = ramster_sys::mapping::discard(addr, PAGE_BYTES);
                pager.limit.left_home(1);
                taken += 1;
            } else {
                self.nowhere_to_put();
            }
        }
        let _ = managing.uffd.write_protect(piece.start, piece.len(), false);
        managing.uffd.wake(piece.start, piece.len());
        taken
    }

    /// Steps 2 to 5 for the group that has waited longest; false when none waits.
    pub fn put_oldest(&mut self) -> bool {
        let pager = self.pager;
        let layout = pager.layout.read();
        let Some(group) = pager.victims.oldest() else { return false };
        let Some(managing) = layout.managing.clone() else { return false };
        let extent = pager.victims.extent(group);
        self.begin_packing(&layout, group, extent);
        if !self.pages.is_empty() {
            let frames = &pager.victims.frames;
            let mut pages: [&Page; EXTENT_PAGES] = [frames.page(pager.victims.slot(group, self.pages[0])); EXTENT_PAGES];
            for (place, page) in pages.iter_mut().zip(&self.pages) {
                *place = frames.page(pager.victims.slot(group, *page));
            }
            seam::pass(Point::BeforePut, pager.addr_of(self.pages[0]));
            self.putter.put_run(&self.handles, &pages[..self.pages.len()], &mut self.outcomes);
            seam::pass(Point::AfterPut, pager.addr_of(self.pages[0]));
            self.end_packing(&managing, group, extent);
        }
        pager.victims.give_back(group);
        true
    }

    fn begin_packing(&mut self, layout: &Layout, group: u32, extent: usize) {
        let pager = self.pager;
        self.handles.clear();
        self.pages.clear();
        let _held = pager.states.lock_extent(extent);
        let mask = pager.victims.mask(group);
        for page in (extent * EXTENT_PAGES..).take(EXTENT_PAGES).filter(|page| mask & (1 << (page % EXTENT_PAGES)) != 0) {
            let addr = pager.addr_of(page);
            let Some(region) = layout.regions.find(addr) else { continue };
            if pager.states.place(page) == Place::Victim(group) {
                pager.states.set(page, Place::Packing(group));
                self.pages.push(page);
                self.handles.push(region.handle(pager.pool, addr));
            }
        }
    }

    fn end_packing(&mut self, managing: &Managing, group: u32, extent: usize) {
        let pager = self.pager;
        let _held = pager.states.lock_extent(extent);
        for ((page, handle), outcome) in self.pages.iter().zip(&self.handles).zip(&self.outcomes) {
            match (pager.states.place(*page), outcome) {
                (Place::Packing(_), Put::Stored) => pager.states.set(*page, Place::Stored(pager.cold.now())),
                (Place::Packing(_), Put::Rejected(_)) => {
                    // The store is full and so is everybody else: the page goes home again.
                    pager.states.set(*page, Place::Home);
                    bring_home(pager, &managing.uffd, *page, pager.victims.frames.page(pager.victims.slot(group, *page)));
                }
                (Place::TakenBack(_), outcome) => {
                    pager.states.set(*page, Place::Home);
                    if *outcome == Put::Stored {
                        pager.engine.flush_page(handle);
                    }
                }
                (place, _) => say(format_args!("page {page:#x} was {place:?} at the end of a put: this is a bug")),
            }
        }
        if self.outcomes.iter().any(|outcome| matches!(outcome, Put::Rejected(_))) {
            pager.cold.came_home(extent);
            self.nowhere_to_put();
        }
    }

    fn nowhere_to_put(&self) {
        self.pager.overdraw();
    }
}

/// Gives the program a copy of its own of a present page that it shares with a forked child or parent.
fn unshare(addr: usize) -> bool {
    ramster_sys::mapping::advise(addr, PAGE_BYTES, libc::MADV_POPULATE_WRITE).is_ok()
}

/// Without an answer nobody knows which pages have left the program: to go on would be to lose some.
fn mask_of(managing: &Managing, start: usize, pages: usize) -> u16 {
    managing.pagemap.mask(start, pages).unwrap_or_else(|errno| {
        say(format_args!("the kernel's page table cannot be read (errno {}): the process ends", errno.raw_os_error()));
        std::process::abort()
    })
}

impl Pager {
    /// The store takes every page that is put, so that the program can go on: with nowhere to send them the limit is soft.
    fn notice_excess(&self) {
        let used = self.limit.home_bytes() + self.victim_held_bytes() + self.engine.store_bytes() as usize;
        if used > self.local_bytes + self.local_bytes / EXCESS_SHARE && self.engine.has_nowhere() {
            self.say_soft_limit();
        }
    }

    pub(crate) fn overdraw(&self) {
        self.limit.overdraw(OVERDRAFT_BYTES);
        self.say_soft_limit();
    }

    fn say_soft_limit(&self) {
        self.engine.stats().add(Stat::SoftLimit, 1);
        if !self.said_soft_limit.swap(true, Relaxed) {
            say(format_args!(
                "the local limit is exceeded because there is nowhere to put pages: name peers (--peers) or a directory (--spill), or raise --local"
            ));
        }
    }
}

/// Reclaim runs beside the program, not in its way: on any core but the one that faults, where there is another.
struct Beside {
    allowed: CpuSet,
    avoided: Option<usize>,
}

impl Beside {
    fn follow(&mut self, busy: Option<usize>) {
        if busy == self.avoided {
            return;
        }
        self.avoided = busy;
        let mut rest = self.allowed;
        busy.into_iter().filter(|core| *core < CpuSet::MAX_CPU).for_each(|core| rest.unset(core));
        run_on(if rest.count() > 0 { &rest } else { &self.allowed });
    }
}

/// The thread that keeps a reserve, so that faults need not make room themselves.
pub fn reclaim_for_ever(pager: &'static Pager) {
    let mut reclaimer = Reclaimer::new(pager);
    let mut beside = Beside { allowed: allowed(), avoided: None };
    let (mut repay_at_ms, mut recount_at_ms) = (0, 0);
    loop {
        let heard = pager.short.listen();
        if pager.limit.overdrawn() && now_ms() >= repay_at_ms {
            pager.limit.repay();
            repay_at_ms = now_ms() + REPAY_EVERY_MS;
        }
        pager.follow_limit();
        while pager.limit.lacks_reserve(pager.victim_held_bytes()) {
            beside.follow(pager.crew.busy_core());
            if !reclaimer.step() {
                if now_ms() >= recount_at_ms {
                    pager.recount();
                    recount_at_ms = now_ms() + REPAY_EVERY_MS;
                }
                break;
            }
            pager.engine.wait_for_room(20);
        }
        pager.notice_excess();
        pager.report_resident();
        pager.short.wait(heard, 1000);
    }
}

impl Pager {
    /// The counters follow the kernel's page table, which also knows what the program did behind our back.
    pub(crate) fn recount(&self) {
        let layout = self.layout.write();
        let bytes = self.queue(&layout, self.arena.start, self.arena.end);
        self.limit.set_home_bytes(bytes);
    }

    pub(crate) fn report_resident(&self) {
        let bytes = (self.limit.home_bytes() + self.victim_held_bytes()) as u64;
        self.engine.stats().set_gauge_with_max(Stat::BytesResident, Stat::BytesResidentMax, bytes);
    }
}
