//! What the program asks of its memory: map, unmap, protect, advise, lock. Each does to managed memory what the kernel's call does to its own, with the same
//! errors, and keeps regions, page states and the engine's pages in step. The layout is closed meanwhile, so no fault and no reclaim is half way.
//!
//! Callers block signals around these calls: a handler that touched managed memory while its own thread holds the layout would wait for itself.

use ramster_core::backend::Backend;
use ramster_core::page::PAGE_BYTES;
use ramster_sys::mapping;
use rustix::io::Errno;

use crate::regions::Region;
use crate::states::{EXTENT_PAGES, Place};
use crate::{Layout, Pager};

/// Where mappings begin: whole extents, so that two of them never share one. 2 MiB for big ones, so that the kernel can use huge pages while memory fits.
const ALIGN_BYTES: usize = 64 << 10;
const ALIGN_BIG_BYTES: usize = 2 << 20;

impl Pager {
    /// Anonymous private memory of `len` bytes, page aligned; at exactly `fixed_at` (inside the arena) in place of what is there, like MAP_FIXED.
    pub fn map(&'static self, len: usize, prot: i32, fixed_at: Option<usize>) -> Result<usize, Errno> {
        let len = round_up(len)?;
        let mut layout = self.layout.write();
        let at = match fixed_at {
            Some(at) => {
                self.check(at, len)?;
                self.drop_range(&mut layout, at, at + len);
                layout.addresses.take_overlap(at, len);
                at
            }
            None => {
                let align = if len >= ALIGN_BIG_BYTES { ALIGN_BIG_BYTES } else { ALIGN_BYTES };
                layout.addresses.take(len, align).ok_or(Errno::NOMEM)?
            }
        };
        if let Err(errno) = self.map_region(&mut layout, at, len, prot) {
            let _ = mapping::vacate(at, len);
            layout.addresses.give(at, len);
            return Err(errno);
        }
        let mapped = layout.regions.mapped_bytes();
        drop(layout);
        self.watch_if_over(mapped);
        Ok(at)
    }

    /// Somebody else's mapping (a file, shared memory) takes the place of a part of the arena: `make` maps it, and we keep our hands off it.
    pub fn map_foreign(&self, at: usize, len: usize, make: impl FnOnce() -> Result<usize, Errno>) -> Result<usize, Errno> {
        let len = round_up(len)?;
        self.check(at, len)?;
        let mut layout = self.layout.write();
        self.drop_range(&mut layout, at, at + len);
        layout.addresses.take_overlap(at, len);
        let mut region = layout.regions.add(at, len, 0);
        let made = make();
        layout.regions.carve(at, at + len);
        match made {
            Ok(address) => {
                region.foreign = true;
                layout.regions.insert(region);
                Ok(address)
            }
            Err(errno) => {
                let _ = mapping::vacate(at, len);
                layout.addresses.give(at, len);
                Err(errno)
            }
        }
    }

    pub fn unmap(&self, at: usize, len: usize) -> Result<(), Errno> {
        let len = round_up(len)?;
        self.check(at, len)?;
        let mut layout = self.layout.write();
        self.drop_range(&mut layout, at, at + len);
        mapping::vacate(at, len)?;
        // Free addresses in the range are free already; hand back only what is not.
        layout.addresses.take_overlap(at, len);
        layout.addresses.give(at, len);
        Ok(())
    }

    pub fn protect(&self, at: usize, len: usize, prot: i32) -> Result<(), Errno> {
        let len = round_up_or_zero(len)?;
        if len == 0 && at.is_multiple_of(PAGE_BYTES) {
            return Ok(());
        }
        self.check(at, len)?;
        let mut layout = self.layout.write();
        let end = layout.regions.covered_to(at, at + len);
        if end > at {
            mapping::protect(at, end - at, prot)?;
            layout.regions.change(at, end, |region| region.prot = prot);
            self.queue(&layout, at, end);
        }
        if end == at + len { Ok(()) } else { Err(Errno::NOMEM) }
    }

    pub fn advise(&self, at: usize, len: usize, advice: i32) -> Result<(), Errno> {
        let len = round_up_or_zero(len).map_err(|_| Errno::INVAL)?;
        if len == 0 && at.is_multiple_of(PAGE_BYTES) {
            return Ok(());
        }
        self.check(at, len)?;
        if matches!(advice, libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE) {
            // Touches the pages, and their faults need the layout open.
            let (len, whole) = self.up_to_hole(at, len)?;
            mapping::advise(at, len, advice)?;
            return whole;
        }
        let mut layout = self.layout.write();
        let pieces: Vec<Region> = layout.regions.pieces(at, at + len).collect();
        for piece in &pieces {
            self.advise_piece(&mut layout, piece, advice)?;
        }
        if layout.regions.covered_to(at, at + len) == at + len { Ok(()) } else { Err(Errno::NOMEM) }
    }

    fn advise_piece(&self, layout: &mut Layout, piece: &Region, advice: i32) -> Result<(), Errno> {
        match advice {
            // FREE means "may be dropped at any time": now is such a time, and the bytes count against the limit no more.
            libc::MADV_DONTNEED | libc::MADV_FREE if !piece.foreign => {
                if piece.pinned {
                    return Err(Errno::INVAL);
                }
                self.forget(layout, piece);
                mapping::discard(piece.start, piece.len())
            }
            // The kernel would read or drop pages by its own order; ours is the one that counts here.
            libc::MADV_WILLNEED | libc::MADV_COLD | libc::MADV_PAGEOUT if !piece.foreign => Ok(()),
            libc::MADV_DONTFORK | libc::MADV_DOFORK => {
                mapping::advise(piece.start, piece.len(), advice)?;
                layout.regions.change(piece.start, piece.end, |region| region.dont_fork = advice == libc::MADV_DONTFORK);
                Ok(())
            }
            libc::MADV_WIPEONFORK | libc::MADV_KEEPONFORK => {
                mapping::advise(piece.start, piece.len(), advice)?;
                layout.regions.change(piece.start, piece.end, |region| region.wipe_on_fork = advice == libc::MADV_WIPEONFORK);
                Ok(())
            }
            other => mapping::advise(piece.start, piece.len(), other),
        }
    }

    /// Brings the range home for good, up to its first hole. The kernel's own mlock touches the pages, and their faults are answered as always.
    pub fn lock(&self, at: usize, len: usize) -> Result<(), Errno> {
        let (len, whole) = self.up_to_hole(at, len)?;
        self.set_pinned(at, len, true);
        if let Err(errno) = mapping::lock(at, len) {
            self.set_pinned(at, len, false);
            return Err(errno);
        }
        whole
    }

    pub fn unlock(&self, at: usize, len: usize) -> Result<(), Errno> {
        let (len, whole) = self.up_to_hole(at, len)?;
        mapping::unlock(at, len)?;
        self.set_pinned(at, len, false);
        whole
    }

    /// How much of the range is mapped from its start on, and what to answer when that is done: a hole is ENOMEM.
    fn up_to_hole(&self, at: usize, len: usize) -> Result<(usize, Result<(), Errno>), Errno> {
        let len = round_up_or_zero(len)?;
        let covered = self.layout.read().regions.covered_to(at, at + len) - at;
        Ok((covered, if covered == len { Ok(()) } else { Err(Errno::NOMEM) }))
    }

    /// As mlockall(2), but memory that is not managed is locked as it is touched rather than at once: the kernel's own way would also fill the pager's tables,
    /// which are address space, not memory.
    pub fn lock_all(&self, flags: i32) -> Result<(), Errno> {
        let is_valid = flags & (libc::MCL_CURRENT | libc::MCL_FUTURE) != 0;
        mapping::lock_all(if is_valid { flags | libc::MCL_ONFAULT } else { flags })?;
        // Pages move only between mappings of which both or neither are locked.
        let frames = &self.victims.frames;
        mapping::unlock(frames.base(), frames.bytes())?;
        let regions: Vec<Region> = {
            let mut layout = self.layout.write();
            layout.pin_new = flags & libc::MCL_FUTURE != 0;
            layout.regions.all().filter(|region| !region.foreign && region.prot != libc::PROT_NONE).copied().collect()
        };
        if flags & libc::MCL_CURRENT != 0 {
            for region in regions {
                self.lock(region.start, region.len())?;
            }
        }
        Ok(())
    }

    pub fn unlock_all(&self) -> Result<(), Errno> {
        mapping::unlock_all()?;
        self.layout.write().pin_new = false;
        self.set_pinned(self.arena.start, self.arena.len(), false);
        Ok(())
    }

    fn set_pinned(&self, at: usize, len: usize, pinned: bool) {
        let mut layout = self.layout.write();
        layout.regions.change(at, at + len, |region| region.pinned = pinned);
        if !pinned {
            self.queue(&layout, at, at + len);
        }
    }

    /// Extents of the range that can leave now and hold resident pages join the queue, which may not know them.
    pub(crate) fn queue(&self, layout: &Layout, start: usize, end: usize) -> usize {
        let Some(managing) = &layout.managing else { return 0 };
        let mut bytes = 0;
        for piece in layout.regions.pieces(start, end).filter(|piece| !piece.foreign) {
            let found = managing.pagemap.resident(piece.start, piece.len(), |start, len| {
                let first = self.page_of(start) / EXTENT_PAGES;
                let last = self.page_of(start + len - PAGE_BYTES) / EXTENT_PAGES;
                if piece.evictable() {
                    (first..=last).for_each(|extent| self.cold.came_home(extent));
                }
            });
            bytes += found.unwrap_or(0);
        }
        bytes
    }

    pub(crate) fn map_region(&self, layout: &mut Layout, at: usize, len: usize, prot: i32) -> Result<(), Errno> {
        mapping::map_at(at, len, prot)?;
        if let Some(managing) = &layout.managing {
            managing.uffd.register(at, len)?;
        }
        let pinned = layout.pin_new;
        layout.regions.add(at, len, prot);
        if pinned {
            layout.regions.change(at, at + len, |region| region.pinned = true);
        }
        Ok(())
    }

    /// Everything in the range is forgotten and its regions are gone; what the kernel has mapped there is the caller's to replace.
    pub(crate) fn drop_range(&self, layout: &mut Layout, start: usize, end: usize) {
        for region in layout.regions.carve(start, end) {
            self.forget(layout, &region);
        }
    }

    /// The pages of the piece are wanted no more: every state becomes Home, stored copies are flushed, resident ones no longer count.
    pub(crate) fn forget(&self, layout: &Layout, piece: &Region) {
        let Some(managing) = layout.managing.as_ref().filter(|_| !piece.foreign) else { return };
        if let Ok(bytes) = managing.pagemap.resident(piece.start, piece.len(), |_, _| {}) {
            self.limit.left_home(bytes / PAGE_BYTES);
        }
        let first = self.page_of(piece.start);
        let mut any_awaited = false;
        for page in first..first + piece.len() / PAGE_BYTES {
            match self.states.place(page) {
                Place::Home => continue,
                Place::Victim(group) => self.victims.took_back(group, page),
                // The layout is closed, so no put is half way.
                Place::Packing(_) | Place::TakenBack(_) => {}
                Place::Stored(_) | Place::Lost => {}
                Place::Fetching(_) => any_awaited = true,
            }
            self.states.set(page, Place::Home);
        }
        // Whatever the states say: a page that came home may have left a copy at a peer.
        self.engine.flush_range(&piece.handle(self.pool, piece.start), (piece.len() / PAGE_BYTES) as u32);
        if any_awaited {
            // The arrival will find nobody's page. Who waits for it looks again, once the layout is open, at what is there then.
            managing.uffd.wake(piece.start, piece.len());
        }
    }

    /// Whole pages inside the arena, or the kernel's error for what isn't.
    pub(crate) fn check(&self, at: usize, len: usize) -> Result<(), Errno> {
        if !at.is_multiple_of(PAGE_BYTES) || len == 0 {
            return Err(Errno::INVAL);
        }
        match at.checked_add(len) {
            Some(end) if self.arena.start <= at && end <= self.arena.end => Ok(()),
            _ => Err(Errno::NOMEM),
        }
    }
}

pub(crate) fn round_up(len: usize) -> Result<usize, Errno> {
    match round_up_or_zero(len)? {
        0 => Err(Errno::INVAL),
        len => Ok(len),
    }
}

fn round_up_or_zero(len: usize) -> Result<usize, Errno> {
    len.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::NOMEM)
}
