//! mremap of managed memory: grow, shrink, move. Pages move with the kernel's own page tables, stored ones keep their names; nothing is copied.

use ramster_core::backend::Put;
use ramster_core::page::PAGE_BYTES;
use ramster_sys::mapping;
use ramster_sys::residency::kernel_mapping_end;
use ramster_sys::say::say;
use rustix::io::Errno;

use crate::fault::bring_home;
use crate::mapping::round_up;
use crate::regions::Region;
use crate::states::{EXTENT_PAGES, Place};
use crate::{Layout, Managing, Pager};

impl Pager {
    /// As mremap(2): `fixed` is MREMAP_FIXED's address (inside the arena).
    pub fn remap(
        &'static self,
        old: usize,
        old_len: usize,
        new_len: usize,
        may_move: bool,
        fixed: Option<usize>,
    ) -> Result<usize, Errno> {
        let (old_len, new_len) = (round_up(old_len)?, round_up(new_len)?);
        if new_len > self.arena.end {
            return Err(Errno::INVAL); // more than all addresses: the kernel's answer
        }
        self.check(old, old_len)?;
        if let Some(to) = fixed {
            self.check(to, new_len)?;
        }
        let mut layout = self.layout.write();
        let prot = self.whole(&layout, old, old_len)?;
        if new_len < old_len {
            self.drop_range(&mut layout, old + new_len, old + old_len);
            mapping::vacate(old + new_len, old_len - new_len)?;
            layout.addresses.give(old + new_len, old_len - new_len);
        }
        let kept_len = old_len.min(new_len);
        let at = match fixed {
            Some(to) => self.move_range(&mut layout, old, kept_len, Some(to), new_len, false)?,
            None if new_len <= old_len => old,
            None if layout.addresses.take_at(old + old_len, new_len - old_len) => {
                self.grow(&mut layout, old, old_len, new_len, prot)?;
                old
            }
            None if may_move => self.move_range(&mut layout, old, kept_len, None, new_len, false)?,
            None => return Err(Errno::NOMEM),
        };
        if at != old && new_len > kept_len {
            self.grow(&mut layout, at, kept_len, new_len, prot)?;
        }
        let mapped = layout.regions.mapped_bytes();
        drop(layout);
        self.watch_if_over(mapped);
        Ok(at)
    }

    /// MREMAP_DONTUNMAP: the pages move, the old addresses stay mapped and read as zeroes.
    pub fn remap_keep(&'static self, old: usize, len: usize, fixed: Option<usize>) -> Result<usize, Errno> {
        let len = round_up(len)?;
        self.check(old, len)?;
        if let Some(to) = fixed {
            self.check(to, len)?;
        }
        let mut layout = self.layout.write();
        self.whole(&layout, old, len)?;
        self.move_range(&mut layout, old, len, fixed, len, true)
    }

    /// The range must be mapped without a hole, and ours.
    fn whole(&self, layout: &Layout, at: usize, len: usize) -> Result<i32, Errno> {
        if layout.regions.covered_to(at, at + len) != at + len || layout.regions.pieces(at, at + len).any(|piece| piece.foreign) {
            return Err(Errno::FAULT);
        }
        layout.regions.find(at + len - 1).map(|region| region.prot).ok_or(Errno::FAULT)
    }

    fn grow(&self, layout: &mut Layout, at: usize, from_len: usize, to_len: usize, prot: i32) -> Result<(), Errno> {
        self.map_region(layout, at + from_len, to_len - from_len, prot)
    }

    /// Moves `len` bytes of pages to fresh addresses with room for `room_len`, or to `to`.
    fn move_range(
        &self,
        layout: &mut Layout,
        old: usize,
        len: usize,
        to: Option<usize>,
        room_len: usize,
        keep_old: bool,
    ) -> Result<usize, Errno> {
        let at = match to {
            Some(to) => {
                self.drop_range(layout, to, to + room_len);
                mapping::vacate(to, room_len)?;
                layout.addresses.take_overlap(to, room_len);
                to
            }
            // Aligned as a fresh mapping is, so that whole extents stay whole and huge pages huge.
            None => layout.addresses.take(room_len, if room_len >= 2 << 20 { 2 << 20 } else { 64 << 10 }).ok_or(Errno::NOMEM)?,
        };
        let managing = layout.managing.clone();
        if let Some(managing) = &managing {
            self.settle(layout, managing, old, old + len);
        }
        let pieces = layout.regions.carve(old, old + len);
        for (index, piece) in pieces.iter().enumerate() {
            let there = at + (piece.start - old);
            if let Err(errno) = self.move_piece(layout, managing.as_ref(), piece, there) {
                // Out of mappings or of kernel memory. The program goes on with everything where it was.
                pieces[index + 1..].iter().for_each(|rest| layout.regions.insert(*rest));
                for moved in &pieces[..index] {
                    let there = at + (moved.start - old);
                    let back = layout.regions.carve(there, there + moved.len());
                    for part in back {
                        self.move_piece(layout, managing.as_ref(), &part, moved.start + (part.start - there))?;
                    }
                }
                let _ = mapping::vacate(at, room_len);
                layout.addresses.give(at, room_len);
                return Err(errno);
            }
        }
        if keep_old {
            for piece in &pieces {
                self.map_region(layout, piece.start, piece.len(), piece.prot)?;
            }
        } else {
            mapping::vacate(old, len)?;
            layout.addresses.give(old, len);
        }
        self.queue(layout, at, at + len);
        Ok(at)
    }

    /// One region that was carved out, with its pages and their states, to `there`; after an error it is back where it was.
    fn move_piece(&self, layout: &mut Layout, managing: Option<&Managing>, piece: &Region, there: usize) -> Result<(), Errno> {
        let moved = match managing {
            None => move_whole(piece.start, piece.len(), there),
            Some(managing) => {
                // A registered mapping that arrives beside another is merged with it, and then the kernel forgets the registration of both: the
                // neighbour's stored pages would read as zeroes. So it moves unregistered, and closed, so that nobody finds zeroes in it meanwhile.
                let open =
                    |at| managing.uffd.register(at, piece.len()).and_then(|()| mapping::protect(at, piece.len(), piece.prot));
                let moved = mapping::protect(piece.start, piece.len(), libc::PROT_NONE)
                    .and_then(|()| managing.uffd.unregister(piece.start, piece.len()))
                    .and_then(|()| move_whole(piece.start, piece.len(), there))
                    .and_then(|()| open(there).or_else(|errno| move_whole(there, piece.len(), piece.start).and(Err(errno))));
                if moved.is_err() && open(piece.start).is_err() {
                    say(format_args!("the mapping at {:#x} could be neither moved nor kept: the process ends", piece.start));
                    std::process::abort();
                }
                moved
            }
        };
        let start = if moved.is_ok() { there } else { piece.start };
        if moved.is_ok() && managing.is_some() {
            self.move_states(piece.start, there, piece.len());
        }
        layout.regions.insert(Region { start, end: start + piece.len(), ..*piece });
        moved
    }

    /// Frames of the victim buffer and fetches under way know pages by address: none of either may be left in a range that moves.
    fn settle(&self, layout: &Layout, managing: &Managing, start: usize, end: usize) {
        let mut putter = None;
        for piece in layout.regions.pieces(start, end) {
            for addr in (piece.start..piece.end).step_by(PAGE_BYTES) {
                let page = self.page_of(addr);
                match self.states.place(page) {
                    Place::Victim(group) => {
                        self.victims.took_back(group, page);
                        let frame = self.victims.frames.page(self.victims.slot(group, page));
                        let putter = putter.get_or_insert_with(|| self.engine.putter());
                        if putter.put(&piece.handle(self.pool, addr), frame) == Put::Stored {
                            self.states.set(page, Place::Stored(self.cold.now()));
                        } else {
                            self.states.set(page, Place::Home);
                            bring_home(self, &managing.uffd, page, frame);
                        }
                    }
                    // The copy at the peer was kept; whoever asks at the new address fetches again.
                    Place::Fetching(_) => self.states.set(page, Place::Stored(self.cold.now())),
                    _ => {}
                }
            }
        }
    }

    fn move_states(&self, from: usize, to: usize, len: usize) {
        let (from, to) = (self.page_of(from), self.page_of(to));
        for index in 0..len / PAGE_BYTES {
            let place = self.states.place(from + index);
            if place != Place::Home {
                self.states.set(from + index, Place::Home);
                self.states.set(to + index, place);
            }
            debug_assert!(
                matches!(place, Place::Home | Place::Stored(_) | Place::Lost),
                "page {index} of extent {} is {place:?}",
                from / EXTENT_PAGES
            );
        }
    }
}

/// Moves a piece that the kernel may keep as several mappings (grown in place, different advice), one mapping at a time. A call that spans two must not be
/// tried on new kernels: since 6.17 they move the first, and only then find that the second cannot come along.
/// After an error everything is where it was, as far as the kernel lets it.
fn move_whole(from: usize, len: usize, to: usize) -> Result<(), Errno> {
    let mut done = 0;
    while done < len {
        let Some(end) = kernel_mapping_end(from + done) else { return move_in_halves(from + done, len - done, to + done) };
        let run = (end - (from + done)).min(len - done);
        if let Err(errno) = mapping::move_to(from + done, run, to + done) {
            if done > 0 {
                move_whole(to, done, from)?;
            }
            return Err(errno);
        }
        done += run;
    }
    Ok(())
}

/// Kernels before 6.11 cannot be asked where a mapping ends, but refuse a call that spans two before they move anything.
fn move_in_halves(from: usize, len: usize, to: usize) -> Result<(), Errno> {
    match mapping::move_to(from, len, to) {
        Err(Errno::FAULT) if len > PAGE_BYTES => {
            let half = (len / 2).next_multiple_of(PAGE_BYTES);
            move_in_halves(from, half, to)?;
            move_in_halves(from + half, len - half, to + half)
        }
        other => other,
    }
}
