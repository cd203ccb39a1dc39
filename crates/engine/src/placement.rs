//! Step 6: which holders get the next batch. Covers who can take one now and how many copies the durability asks for; drawing among those that can is
//! `core::remotify`'s.

use ramster_core::handle::{Class, Classes, HolderId};
use ramster_core::remotify::{Room, place};
use ramster_core::shards::Code;
use ramster_core::tmem::{COPIES_MAX, Site};

use crate::bulk::Bulk;
use crate::engine::Engine;
use crate::holders::{Holder, SPILL};
use crate::options::Durability;
use crate::random::Draws;

/// What was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    Site(Site),
    /// Enough would take it, but for batches on their way: their answers come first.
    Busy,
    /// The spill file has as many batches to write as it may.
    DiskBusy,
    Nowhere,
}

pub struct Placement {
    table: Vec<(HolderId, Holder)>,
    rooms: Vec<Room>,
    draws: Draws,
    /// Nodes whose holders were left out only for what is on its way there.
    busy: Vec<u64>,
}

/// How many copies at peers, on different nodes, and what the spill file is for.
struct Wanted {
    copies: usize,
    /// Fewer will do.
    fewer: bool,
    spill: Spilled,
    /// Not copies but shards.
    code: Option<Code>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spilled {
    Always,
    /// In the place of what peers do not take.
    Missing,
    /// Pages that may vanish are not worth a write.
    Never,
}

impl Placement {
    pub fn new(engine: &Engine) -> Self {
        Placement { table: Vec::new(), rooms: Vec::new(), draws: Draws::new(engine.owner().client as u64), busy: Vec::new() }
    }

    /// For a batch of that class and of `need_bytes`. Peers are left out unless `peers`, the spill file unless `disk`.
    pub fn choose(
        &mut self,
        engine: &Engine,
        class: Class,
        bulks: &[Bulk],
        (peers, disk): (bool, bool),
        need_bytes: u64,
        now_ms: u64,
    ) -> Choice {
        engine.holders().copy_into(&mut self.table);
        let wanted = self.wanted(engine, class);
        self.look(bulks, peers, now_ms);
        if let Some(code) = wanted.code {
            return self.choose_coded(code, engine.spill().map(|_| disk), need_bytes);
        }
        let mut site = Site::of(&[]);
        while site.holders().len() < wanted.copies {
            let Some(holder) = place(&self.rooms, need_bytes, self.draws.draw()) else { break };
            self.leave_out(&[holder]);
            site = site.with(holder).unwrap_or(site);
        }
        let missing = site.holders().len() < wanted.copies;
        // What is on its way will be answered soon: no reason to make do with less. Where even that is too few, nothing is waited for.
        let will_do = if wanted.fewer { 1 } else { wanted.copies };
        if missing && self.may_be(site.holders().len(), will_do) {
            return Choice::Busy;
        }
        let enough = !missing || (wanted.fewer && !site.holders().is_empty());
        let spills = match wanted.spill {
            Spilled::Always => true,
            Spilled::Missing => missing,
            Spilled::Never => false,
        };
        if spills && engine.spill().is_some() {
            return if disk { Choice::Site(site.with(SPILL).unwrap_or(site)) } else { Choice::Nowhere };
        }
        if enough && !site.holders().is_empty() { Choice::Site(site) } else { Choice::Nowhere }
    }

    /// A node for each shard: one drawn like a copy's holder, and those that come after it in the table. So there are about as many different sets as holders,
    /// not as many as there are ways to choose: an entry's number of a set has 16 bits, and the fewer sets, the fewer deaths at once that lose anything.
    /// Whole pages go to the disk, if there is one (None: there is not, false: not now), where shards have too few nodes.
    fn choose_coded(&mut self, code: Code, disk: Option<bool>, need_bytes: u64) -> Choice {
        let shard_bytes = need_bytes.div_ceil(code.data() as u64);
        let mut holders = Vec::with_capacity(code.shards());
        if let Some(mut next) = place(&self.rooms, shard_bytes, self.draws.draw()) {
            while holders.len() < code.shards() {
                self.leave_out(&[next]);
                holders.push(next);
                let fits = |room: &&Room| room.free_bytes >= shard_bytes;
                let after = self.rooms.iter().filter(fits).find(|room| room.holder > next);
                let Some(room) = after.or(self.rooms.iter().find(fits)) else { break };
                next = room.holder;
            }
        }
        let count = holders.len();
        match Site::coded(code, &holders) {
            Some(site) => Choice::Site(site),
            None if self.may_be(count, code.shards()) => Choice::Busy,
            None if disk == Some(true) => Choice::Site(Site::of(&[SPILL])),
            None => Choice::Nowhere,
        }
    }

    /// A peer on another node than any of `site`, for a further copy or a missing shard.
    pub fn choose_another(
        &mut self,
        engine: &Engine,
        bulks: &[Bulk],
        site: &Site,
        need_bytes: u64,
        now_ms: u64,
    ) -> Option<HolderId> {
        engine.holders().copy_into(&mut self.table);
        self.look(bulks, true, now_ms);
        self.leave_out(site.holders());
        place(&self.rooms, need_bytes, self.draws.draw())
    }

    /// Of each class the copies that a page without one in the spill file should have. 1 when nothing is to be rebuilt.
    pub fn copies(&mut self, engine: &Engine) -> [usize; Class::COUNT] {
        engine.holders().copy_into(&mut self.table);
        let mut copies = [1; Class::COUNT];
        Classes::ALL.iter().for_each(|class| copies[class.index()] = self.wanted(engine, class).copies);
        copies
    }

    fn wanted(&self, engine: &Engine, class: Class) -> Wanted {
        let disk = Wanted { copies: 1, fewer: true, spill: Spilled::Always, code: None };
        let one = Wanted { copies: 1, fewer: false, spill: Spilled::Missing, code: None };
        let Some(durability) = engine.durability(class) else { return Wanted { spill: Spilled::Never, ..one } };
        match durability {
            Durability::None => one,
            Durability::Disk => disk,
            Durability::Copies(copies) => Wanted { copies: usize::from(copies), ..one },
            // Whole copies from before should outlive as many deaths as shards do.
            Durability::Ec(data, parity) => {
                Wanted { copies: COPIES_MAX.min(usize::from(parity) + 1), code: Code::new(data, parity), ..one }
            }
            Durability::Auto if self.nodes_listed() >= 2 => Wanted { copies: 2, fewer: engine.spill().is_none(), ..one },
            Durability::Auto if engine.spill().is_some() => disk,
            Durability::Auto => one,
        }
    }

    fn nodes_listed(&self) -> usize {
        let mut nodes: Vec<u64> = self.table.iter().filter(|(_, entry)| entry.listed).map(|(_, entry)| entry.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len()
    }

    /// Those that take pages now: listed, not down, not full, and their link not busy with as many batches as it may.
    fn look(&mut self, bulks: &[Bulk], peers: bool, now_ms: u64) {
        self.rooms.clear();
        self.busy.clear();
        for (holder, entry) in self.table.iter().filter(|_| peers) {
            if !entry.listed || entry.down_until_ms > now_ms || entry.full_until_ms > now_ms {
                continue;
            }
            let free_bytes = match bulks.iter().find(|bulk| bulk.holder == *holder) {
                Some(bulk) if !bulk.has_room_for_batch() => {
                    self.busy.extend(Some(entry.node).filter(|_| bulk.is_busy()));
                    continue;
                }
                Some(bulk) => bulk.free_bytes(),
                // Not asked yet: as good as any, until it says otherwise.
                None => entry.free_bytes.unwrap_or(u64::MAX),
            };
            self.rooms.push(Room { holder: *holder, free_bytes });
        }
    }

    /// Some are busy, and with them it is `wanted` holders.
    fn may_be(&mut self, chosen: usize, wanted: usize) -> bool {
        self.busy.sort_unstable();
        self.busy.dedup();
        !self.busy.is_empty() && chosen + self.busy.len() >= wanted
    }

    /// These holders, and all others on their nodes: never two copies on one.
    fn leave_out(&mut self, holders: &[HolderId]) {
        let table = &self.table;
        let node = |holder: &HolderId| table.iter().find(|(other, _)| other == holder).map(|(_, entry)| entry.node);
        self.rooms.retain(|room| !holders.iter().any(|holder| *holder == room.holder || node(holder) == node(&room.holder)));
    }
}
