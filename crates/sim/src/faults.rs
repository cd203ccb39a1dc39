//! What goes wrong, and what merely changes: drawn as the history goes on. Covers choosing, beginning and ending; what the failures do is in the network,
//! the holders and the owners themselves.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::{Event, MS, SECOND, Who};
use crate::ctx::Ctx;
use crate::net::WireId;
use crate::settings::Kind;
use crate::world::{OWNERS_MAX, ROTS_ONE_IN, World};

/// A drain that is not done by then ends all the same, where things may fail; where nothing does it is called off after much longer.
const DRAIN_US: u64 = 10 * SECOND;
const PATIENT_DRAIN_US: u64 = 600 * SECOND;
/// How late membership may be, and how long it waits before it calls a node dead.
const LATE_US: u64 = 10 * SECOND;
const DEATH_US: u64 = 5 * SECOND;
/// All must have been well for so long before the next failure where there is one at a time: longer than any consequence is late.
const WELL_US: u64 = 45 * SECOND;

/// What lasts until its `Over`.
enum Lasting {
    Down(usize),
    Cut(Vec<(usize, usize)>),
    Stopped(Who),
    OwnerStopped(Who),
    Disk(Who),
    /// Membership is wrong about a holder.
    Slander(usize, usize),
    NoQuorum(usize),
    Offer(Who),
    Goes(Who),
}

pub struct Script {
    lasting: BTreeMap<u64, Lasting>,
    last: u64,
    /// The last time a holder could not be heard: from, to.
    outages: Vec<Option<(u64, Option<u64>)>>,
    slandered: BTreeSet<(usize, usize)>,
    without_quorum: BTreeSet<usize>,
    drains: BTreeMap<usize, u64>,
    well_since_us: Option<u64>,
    sick_since_us: u64,
    pub failures: u64,
    /// Who acted in this step.
    pub touched: Option<usize>,
    pub touched_holder: Option<usize>,
}

impl Script {
    pub fn new(holders: usize) -> Self {
        Script {
            lasting: BTreeMap::new(),
            last: 0,
            outages: vec![None; holders],
            slandered: BTreeSet::new(),
            without_quorum: BTreeSet::new(),
            drains: BTreeMap::new(),
            well_since_us: None,
            sick_since_us: 0,
            failures: 0,
            touched: None,
            touched_holder: None,
        }
    }

    /// A child is where its parent is.
    pub fn inherit(&mut self, ctx: &mut Ctx, parent: usize, child: usize) {
        for holder in 0..self.outages.len() {
            ctx.faults.inherit(parent, child, holder);
        }
    }

    fn is_failing(&self) -> bool {
        let harmless =
            |lasting: &Lasting| matches!(lasting, Lasting::NoQuorum(_) | Lasting::Offer(_) | Lasting::Goes(_) | Lasting::Disk(_));
        !self.drains.is_empty() || self.lasting.values().any(|lasting| !harmless(lasting))
    }
}

impl World {
    pub fn fault(&mut self) {
        if self.ending {
            return;
        }
        let next_us = self.ctx.random.wait(self.settings.fault_us);
        self.ctx.clock.after(next_us, Event::Fault);
        let now_us = self.ctx.clock.now_us;
        let may_fail = match self.settings.kind {
            Kind::Calm => false,
            Kind::Anything => true,
            Kind::Single => self.script.well_since_us.is_some_and(|since_us| now_us - since_us >= WELL_US),
        };
        if may_fail && !self.ctx.random.one_in(3) {
            self.script.failures += 1;
            self.fail();
            (self.script.well_since_us, self.script.sick_since_us) = (None, now_us);
        } else {
            self.change();
        }
    }

    fn last(&mut self, within_us: u64, lasting: Lasting) {
        let after_us = SECOND / 2 + self.ctx.random.below(within_us);
        self.last_for(after_us, lasting);
    }

    fn last_for(&mut self, after_us: u64, lasting: Lasting) {
        self.script.last += 1;
        self.script.lasting.insert(self.script.last, lasting);
        self.ctx.clock.after(after_us, Event::Over(self.script.last));
    }

    pub fn end_owner_in(&mut self, life_us: u64, who: Who) {
        self.last_for(life_us, Lasting::Goes(who));
    }

    /// Nothing of this may lose a page.
    fn change(&mut self) {
        let owner = self.ctx.random.below(self.owners.len() as u64) as usize;
        let holder = self.ctx.random.below(self.holders.len() as u64) as usize;
        let who = self.owners[owner].as_ref().map(|owner| owner.who);
        match (self.ctx.random.below(10), who) {
            (0 | 1, Some(who)) => self.end_owner(who),
            (2..=4, Some(_)) if self.settings.forks && self.owners.len() < OWNERS_MAX => {
                if let Some(owner) = self.owners[owner].as_mut().filter(|owner| !owner.suspended) {
                    owner.begin_fork(&mut self.ctx);
                }
            }
            (5, Some(who)) => self.trouble_disk(who),
            (6, Some(_)) => {
                self.ctx.tell(|| format!("owner {owner}: has no quorum"));
                self.script.without_quorum.insert(owner);
                self.last(60 * SECOND, Lasting::NoQuorum(owner));
            }
            (7, _) if self.settings.kind == Kind::Calm => self.begin_drain(holder),
            (8, Some(who)) => self.stop_owner(who, 5 * SECOND),
            _ => self.change_offer(holder),
        }
    }

    fn fail(&mut self) {
        let owner = self.ctx.random.below(self.owners.len() as u64) as usize;
        let holder = self.ctx.random.below(self.holders.len() as u64) as usize;
        let wild = self.settings.kind == Kind::Anything;
        match self.ctx.random.below(12) {
            0 | 1 => self.kill_holder(holder, true),
            2 => self.kill_holder(holder, false),
            3 => self.reset(owner, holder),
            4 => self.cut((0..self.owners.len()).map(|owner| (owner, holder)).collect(), holder),
            5 => self.cut(vec![(owner, holder)], holder),
            6 | 7 => self.stop_holder(holder),
            8 => {
                self.ctx.faults.begin(owner, holder);
                self.script.slandered.insert((owner, holder));
                self.last(100 * SECOND, Lasting::Slander(owner, holder));
            }
            9 => self.begin_drain(holder),
            10 if wild => self.cut((0..self.holders.len()).map(|holder| (owner, holder)).collect(), holder),
            11 if wild => {
                if let Some(who) = self.owners[owner].as_ref().map(|owner| owner.who) {
                    self.stop_owner(who, 90 * SECOND);
                    (0..self.holders.len())
                        .for_each(|holder| self.ctx.faults.note(owner, holder, self.ctx.clock.now_us + 90 * SECOND));
                }
            }
            _ => self.reset_one(),
        }
    }

    fn touch(&mut self, holder: usize, begins: bool) {
        let now_us = self.ctx.clock.now_us;
        for owner in 0..self.owners.len() {
            if begins {
                self.ctx.faults.begin(owner, holder);
            } else {
                self.ctx.faults.end(owner, holder, now_us);
            }
        }
        if begins {
            self.script.outages[holder] = Some((now_us, None));
        } else if let Some((_, to)) = &mut self.script.outages[holder] {
            *to = Some(now_us);
        }
    }

    /// The process alone, or its machine with it, which then says nothing to anybody.
    fn kill_holder(&mut self, place: usize, process: bool) {
        let Some(holder) = self.holders[place].take() else { return };
        self.ctx.tell(|| format!("holder {place}: {}", if process { "is killed" } else { "vanishes with its machine" }));
        self.script.drains.remove(&place);
        self.ctx.listening[place] = None;
        self.touch(place, true);
        if process {
            holder.die(&mut self.ctx);
        } else {
            self.ctx.machine_up[place] = false;
            for owner in 0..self.owners.len() {
                for way in [true, false] {
                    self.ctx.net.cut(&self.ctx.clock, owner, place, way);
                }
            }
            self.ctx.clock.after(26 * SECOND, Event::Silence);
        }
        self.last(180 * SECOND, Lasting::Down(place));
    }

    fn wires(&self, owner: usize, holder: usize) -> Vec<WireId> {
        self.ctx.net.wires_of(|wire| (wire.owner.place, wire.holder.place) == (owner, holder))
    }

    fn reset(&mut self, owner: usize, holder: usize) {
        self.ctx.tell(|| format!("network: all links of owner {owner} to holder {holder} are reset"));
        self.ctx.faults.note(owner, holder, self.ctx.clock.now_us);
        let within_us = self.ctx.random.pick(&[2 * MS, SECOND, 5 * SECOND]);
        for wire in self.wires(owner, holder) {
            self.ctx.net.reset(&mut self.ctx.clock, &mut self.ctx.random, wire, within_us);
        }
    }

    fn reset_one(&mut self) {
        let count = self.ctx.net.wires.len() as u64;
        let at = self.ctx.random.below(count) as usize;
        let Some((wire, pair)) = self.ctx.net.wires.iter().nth(at).map(|(id, wire)| (*id, (wire.owner.place, wire.holder.place)))
        else {
            return;
        };
        self.ctx.tell(|| format!("network: link {} of owner {} to holder {} is reset", wire.0, pair.0, pair.1));
        self.ctx.faults.note(pair.0, pair.1, self.ctx.clock.now_us);
        self.ctx.net.reset(&mut self.ctx.clock, &mut self.ctx.random, wire, 3 * SECOND);
    }

    fn cut(&mut self, pairs: Vec<(usize, usize)>, holder: usize) {
        let ways = self.ctx.random.pick(&[[true, true], [true, false], [false, true]]);
        self.ctx.tell(|| format!("network: cut {ways:?} between owners and holders {pairs:?}"));
        for (owner, holder) in &pairs {
            self.ctx.faults.begin(*owner, *holder);
            for (way, cut) in [true, false].into_iter().zip(ways) {
                if cut {
                    self.ctx.net.cut(&self.ctx.clock, *owner, *holder, way);
                }
            }
        }
        if pairs.len() > 1 && pairs.iter().all(|(_, other)| *other == holder) {
            self.script.outages[holder] = Some((self.ctx.clock.now_us, None));
        }
        self.ctx.clock.after(26 * SECOND, Event::Silence);
        self.last(120 * SECOND, Lasting::Cut(pairs));
    }

    fn stop_holder(&mut self, place: usize) {
        let Some(holder) = self.holders[place].as_mut().filter(|holder| !holder.suspended) else { return };
        holder.suspended = true;
        let who = holder.who;
        self.ctx.tell(|| format!("holder {place}: is suspended"));
        self.touch(place, true);
        self.last(90 * SECOND, Lasting::Stopped(who));
    }

    fn stop_owner(&mut self, who: Who, within_us: u64) {
        if let Some(owner) = self.owners[who.place].as_mut().filter(|owner| !owner.suspended) {
            owner.suspended = true;
            self.ctx.tell(|| format!("owner {}: is suspended", who.place));
            self.last(within_us, Lasting::OwnerStopped(who));
        }
    }

    fn end_owner(&mut self, who: Who) {
        let Some(owner) = self.owners[who.place].take_if(|owner| owner.who == who) else { return };
        let leaves = self.ctx.random.one_in(2) && !owner.suspended && !owner.is_forking();
        self.ctx.tell(|| format!("owner {}: {}", who.place, if leaves { "says goodbye" } else { "is killed" }));
        if leaves {
            owner.leave(&mut self.ctx);
        } else {
            owner.die(&mut self.ctx);
        }
        if !self.children[who.place] {
            let again_us = self.ctx.random.below(20 * SECOND);
            self.ctx.clock.after(again_us, Event::Start(who.place));
        }
    }

    fn trouble_disk(&mut self, who: Who) {
        let rots = self.settings.rots;
        let Some(owner) = self.owners[who.place].as_mut() else { return };
        let Some(spill) = &mut owner.spill else { return };
        let disk = &mut spill.disk;
        match self.ctx.random.below(if rots { 4 } else { 3 }) {
            0 => disk.room_bytes = 0,
            1 => disk.slow = true,
            2 => disk.fails_one_in = 5,
            _ => disk.rots_one_in = 5,
        }
        self.ctx.tell(|| format!("owner {}: its disk is full, slow, failing or rotting", who.place));
        self.last(120 * SECOND, Lasting::Disk(who));
    }

    fn change_offer(&mut self, place: usize) {
        let full = self.settings.offers[place];
        let offer_bytes = full / self.ctx.random.pick(&[2, 4, 20]);
        if self.script.drains.contains_key(&place) {
            return;
        }
        let Some(holder) = self.holders[place].as_mut().filter(|holder| !holder.suspended) else { return };
        holder.set_offer(&mut self.ctx, offer_bytes);
        let who = holder.who;
        self.ctx.tell(|| format!("holder {place}: offers {offer_bytes} bytes"));
        self.last(200 * SECOND, Lasting::Offer(who));
    }

    fn begin_drain(&mut self, place: usize) {
        let Some(holder) = self.holders[place].as_mut().filter(|holder| !holder.suspended) else { return };
        holder.draining = true;
        holder.set_offer(&mut self.ctx, 0);
        let who = holder.who;
        self.ctx.tell(|| format!("holder {place}: drains"));
        self.script.drains.entry(place).or_insert(self.ctx.clock.now_us);
        self.ctx.clock.after(SECOND, Event::Drain(who));
    }

    /// Empty, or out of patience: it stops, and starts again later.
    pub fn look_at_drain(&mut self, who: Who) {
        let Some(since_us) = self.script.drains.get(&who.place).copied() else { return };
        let now_us = self.ctx.clock.now_us;
        let calm = self.settings.kind == Kind::Calm;
        let Some(holder) = self.holders[who.place].as_mut().filter(|holder| holder.who == who) else { return };
        let over = now_us - since_us >= if calm { PATIENT_DRAIN_US } else { DRAIN_US };
        let suspended = holder.suspended;
        let waits = !over && (!calm || self.holds_persistent(who.place));
        if suspended || waits {
            return self.ctx.clock.after(SECOND, Event::Drain(who));
        }
        self.script.drains.remove(&who.place);
        if calm && over {
            if let Some(holder) = self.holders[who.place].as_mut() {
                holder.draining = false;
                holder.set_offer(&mut self.ctx, self.settings.offers[who.place]);
            }
            return;
        }
        let Some(holder) = self.holders[who.place].take() else { return };
        self.ctx.tell(|| format!("holder {}: stops", who.place));
        self.ctx.listening[who.place] = None;
        self.touch(who.place, true);
        holder.stop(&mut self.ctx);
        self.last(60 * SECOND, Lasting::Down(who.place));
    }

    pub fn over(&mut self, number: u64) {
        let Some(lasting) = self.script.lasting.remove(&number) else { return };
        let now_us = self.ctx.clock.now_us;
        match lasting {
            Lasting::Down(place) => {
                for owner in 0..self.owners.len() {
                    self.ctx.net.heal(&mut self.ctx.clock, &mut self.ctx.random, owner, place);
                    for wire in self.wires(owner, place) {
                        self.ctx.net.reset(&mut self.ctx.clock, &mut self.ctx.random, wire, 10 * SECOND);
                    }
                }
                self.touch(place, false);
                self.start_holder(place);
            }
            Lasting::Cut(pairs) => {
                self.ctx.tell(|| format!("network: whole again between {pairs:?}"));
                for (owner, holder) in pairs {
                    self.ctx.net.heal(&mut self.ctx.clock, &mut self.ctx.random, owner, holder);
                    self.ctx.faults.end(owner, holder, now_us);
                    if let Some((_, to)) = &mut self.script.outages[holder] {
                        to.get_or_insert(now_us);
                    }
                }
            }
            Lasting::Stopped(who) => {
                self.touch(who.place, false);
                self.ctx.tell(|| format!("holder {}: goes on", who.place));
                if let Some(holder) = self.holders[who.place].as_mut().filter(|holder| holder.who == who) {
                    holder.suspended = false;
                    holder.look_everywhere(&mut self.ctx);
                }
            }
            Lasting::OwnerStopped(who) => {
                if let Some(owner) = self.owners[who.place].as_mut().filter(|owner| owner.who == who) {
                    owner.suspended = false;
                    self.ctx.tell(|| format!("owner {}: goes on", who.place));
                    owner.go_on(&mut self.ctx);
                }
            }
            Lasting::Disk(who) => self.heal_disk(who),
            Lasting::Slander(owner, holder) => {
                self.script.slandered.remove(&(owner, holder));
                self.ctx.faults.end(owner, holder, now_us);
            }
            Lasting::NoQuorum(owner) => {
                self.script.without_quorum.remove(&owner);
            }
            Lasting::Offer(who) => {
                let offer_bytes = self.settings.offers[who.place];
                let drains = self.script.drains.contains_key(&who.place);
                if let Some(holder) = self.holders[who.place].as_mut().filter(|holder| holder.who == who && !drains) {
                    if holder.suspended {
                        return self.last(30 * SECOND, Lasting::Offer(who));
                    }
                    holder.set_offer(&mut self.ctx, offer_bytes);
                }
            }
            Lasting::Goes(who) => self.end_owner(who),
        }
    }

    fn heal_disk(&mut self, who: Who) {
        let room_bytes = self.settings.owners[who.place % self.settings.owners.len()].disk_bytes.unwrap_or(8 << 20);
        if let Some(owner) = self.owners[who.place].as_mut().filter(|owner| owner.who == who)
            && let Some(spill) = &mut owner.spill
        {
            (spill.disk.room_bytes, spill.disk.slow) = (room_bytes, false);
            (spill.disk.fails_one_in, spill.disk.rots_one_in) = (0, if self.settings.rots { ROTS_ONE_IN } else { 0 });
        }
    }

    pub fn end_all_failures(&mut self) {
        let numbers: Vec<u64> = self.script.lasting.keys().copied().collect();
        for number in numbers {
            if !matches!(self.script.lasting.get(&number), Some(Lasting::Goes(_))) {
                self.over(number);
            }
        }
        // A full disk would be tried again for ever.
        let disks = self.owners.iter_mut().flatten().filter_map(|owner| owner.spill.as_mut());
        disks.for_each(|spill| spill.disk.room_bytes = 1 << 30);
        for place in std::mem::take(&mut self.script.drains).into_keys() {
            if let Some(holder) = &mut self.holders[place] {
                holder.draining = false;
                holder.set_offer(&mut self.ctx, self.settings.offers[place]);
            }
        }
    }

    /// Membership's word to one owner: late, and now and then wrong.
    pub fn view(&mut self, who: Who) {
        let next_us = self.ctx.random.between(5, 15) * SECOND;
        self.ctx.clock.after(next_us, Event::View(who));
        self.look_at_health();
        let late_us = self.ctx.random.below(LATE_US);
        let seen_us = self.ctx.clock.now_us.saturating_sub(late_us);
        let down = |outage: &Option<(u64, Option<u64>)>| {
            outage.is_some_and(|(from, to)| from + DEATH_US <= seen_us && to.is_none_or(|to_us| to_us > seen_us))
        };
        let mut silent: Vec<bool> = self.script.outages.iter().map(down).collect();
        self.script.slandered.iter().filter(|(owner, _)| *owner == who.place).for_each(|(_, holder)| silent[*holder] = true);
        let listed: Vec<bool> =
            silent.iter().enumerate().map(|(place, silent)| !silent && !self.script.drains.contains_key(&place)).collect();
        let remotify = !self.script.without_quorum.contains(&who.place);
        if let Some(owner) = self.owners[who.place].as_mut().filter(|owner| owner.who == who && !owner.suspended) {
            if owner.is_forking() {
                return;
            }
            owner.view(&mut self.ctx, &listed, &silent, remotify);
            self.script.touched = Some(who.place);
        }
    }

    /// Where failures come one at a time: whether the next one may come, and how long pages were thin with nothing in the way.
    fn look_at_health(&mut self) {
        if self.settings.kind != Kind::Single {
            return;
        }
        let now_us = self.ctx.clock.now_us;
        if self.script.is_failing() || !self.is_well() {
            self.script.well_since_us = None;
            if self.script.is_failing() {
                self.script.sick_since_us = now_us;
            }
            self.most_sick_us = self.most_sick_us.max(now_us - self.script.sick_since_us);
        } else {
            self.script.sick_since_us = now_us;
            self.script.well_since_us.get_or_insert(now_us);
        }
    }
}
