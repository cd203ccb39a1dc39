//! Step 6: which holders get the next batch. Mirrors engine/placement.rs; the draw among those that can is core's.

use ramster_core::handle::HolderId;
use ramster_core::remotify::{Room, place};
use ramster_core::tmem::Site;

use super::table::{SPILL, holder_at};
use super::{Durability, Owner};
use crate::ctx::Ctx;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    Site(Site),
    Busy,
    Nowhere,
}

struct Wanted {
    copies: usize,
    fewer: bool,
    /// The spill file takes a copy always; otherwise what peers do not take.
    spills: bool,
}

impl Owner {
    pub(super) fn choose(&self, ctx: &mut Ctx, (peers, disk): (bool, bool), need_bytes: u64) -> Choice {
        let wanted = self.wanted();
        let (mut rooms, busy) = self.look(ctx, peers);
        let mut site = Site::of(&[]);
        while site.holders().len() < wanted.copies {
            let Some(holder) = place(&rooms, need_bytes, ctx.random.word()) else { break };
            self.leave_out(&mut rooms, &[holder]);
            site = site.with(holder).unwrap_or(site);
        }
        let missing = site.holders().len() < wanted.copies;
        if missing && busy {
            return Choice::Busy;
        }
        let enough = !missing || (wanted.fewer && !site.holders().is_empty());
        if (wanted.spills || missing) && self.spill.is_some() {
            return if disk { Choice::Site(site.with(SPILL).unwrap_or(site)) } else { Choice::Nowhere };
        }
        if enough && !site.holders().is_empty() { Choice::Site(site) } else { Choice::Nowhere }
    }

    pub(super) fn choose_another(&self, ctx: &mut Ctx, site: &Site, need_bytes: u64) -> Option<HolderId> {
        let (mut rooms, _) = self.look(ctx, true);
        self.leave_out(&mut rooms, site.holders());
        place(&rooms, need_bytes, ctx.random.word())
    }

    /// Copies that a page without one in the spill file should have.
    pub fn wanted_copies(&self) -> usize {
        self.wanted().copies
    }

    /// Whether a page at these holders is as safe as its durability asks for.
    pub fn is_enough(&self, site: &[HolderId]) -> bool {
        let wanted = self.wanted();
        site.contains(&SPILL) || site.len() >= wanted.copies || (wanted.fewer && !site.is_empty())
    }

    fn wanted(&self) -> Wanted {
        let disk = Wanted { copies: 1, fewer: true, spills: true };
        let one = Wanted { copies: 1, fewer: false, spills: false };
        let nodes = self.table.0.iter().filter(|known| known.listed).count();
        match self.settings.durability {
            Durability::None => one,
            Durability::Disk => disk,
            Durability::Copies(copies) => Wanted { copies: usize::from(copies), fewer: false, spills: false },
            Durability::Auto if nodes >= 2 => Wanted { copies: 2, fewer: self.spill.is_none(), spills: false },
            Durability::Auto if self.spill.is_some() => disk,
            Durability::Auto => one,
        }
    }

    fn look(&self, ctx: &Ctx, peers: bool) -> (Vec<Room>, bool) {
        let now_ms = ctx.now_ms();
        let (mut rooms, mut busy) = (Vec::new(), false);
        for (place, known) in self.table.0.iter().enumerate().filter(|_| peers) {
            let holder = holder_at(place);
            if !known.listed || known.down_until_ms > now_ms || known.full_until_ms > now_ms {
                continue;
            }
            let free_bytes = match self.bulks.iter().find(|bulk| bulk.holder == holder) {
                Some(bulk) if !bulk.has_room_for_batch() => {
                    busy |= bulk.is_busy();
                    continue;
                }
                Some(bulk) => bulk.free_bytes(),
                None => known.free_bytes.unwrap_or(u64::MAX),
            };
            rooms.push(Room { holder, free_bytes });
        }
        (rooms, busy)
    }

    /// These holders, and all others on their nodes: never two copies on one.
    fn leave_out(&self, rooms: &mut Vec<Room>, holders: &[HolderId]) {
        let node = |holder: HolderId| self.table.get(holder).map(|known| known.node);
        rooms.retain(|room| !holders.iter().any(|holder| *holder == room.holder || node(*holder) == node(room.holder)));
    }
}
