//! A whole cluster: owners, holders and what is between them, one event after the other. Covers taking events to whom they are for and what is checked after
//! each; failures are `faults.rs`, the checks `check.rs`.

use ramster_core::handle::{OwnerId, PoolKind};
use ramster_core::wire::frame::Side;

use crate::clock::{Event, HOUR, SECOND, Who};
use crate::ctx::{Ctx, name};
use crate::faults::Script;
use crate::holder::Holder;
use crate::owner::Owner;
use crate::random::Random;
use crate::settings::Settings;

/// Owners, with all children: more would only be more of the same.
pub const OWNERS_MAX: usize = 10;
/// After the end of a history everything must come to rest within this time.
const REST_US: u64 = 1200 * SECOND;
/// Reads of a disk that rots.
pub const ROTS_ONE_IN: u64 = 40;
/// Children live that long.
const CHILD_US: u64 = HOUR / 12;

pub struct World {
    pub ctx: Ctx,
    pub settings: Settings,
    pub owners: Vec<Option<Owner>>,
    pub holders: Vec<Option<Holder>>,
    pub script: Script,
    /// Whose pages a forked child does not know all of: see `check.rs`.
    pub children: Vec<bool>,
    pub steps: u64,
    last_life: u32,
    pub forks: u64,
    pub most_sick_us: u64,
    /// Programs do nothing any more.
    pub ending: bool,
}

impl World {
    pub fn new(seed: u64, hours: Option<f64>, told: bool, print: bool) -> World {
        let mut random = Random::new(seed);
        let settings = Settings::draw(&mut random, hours);
        let (weather, count) = (settings.weather, settings.offers.len());
        let mut world = World {
            ctx: Ctx::new(random, weather, count, told, print),
            owners: Vec::new(),
            holders: Vec::new(),
            script: Script::new(count),
            children: vec![false; settings.owners.len()],
            settings,
            steps: 0,
            last_life: 0,
            forks: 0,
            most_sick_us: 0,
            ending: false,
        };
        world.ctx.tell(|| format!("{:?}", world.settings));
        (world.ctx.faults.someone_lies, world.ctx.faults.disks_rot) = (world.settings.liar.is_some(), world.settings.rots);
        // Where segments stall for seconds, one behind the other, an answer may miss its deadline with nobody else at fault. Elsewhere it needs a failure.
        world.ctx.faults.late_is_excused = weather.stall_one_in > 0 && weather.stall_us > SECOND;
        for place in 0..count {
            world.holders.push(None);
            world.start_holder(place);
        }
        for place in 0..world.settings.owners.len() {
            world.owners.push(None);
            world.ctx.clock.after(place as u64, Event::Start(place));
        }
        let first_us = world.ctx.random.wait(world.settings.fault_us);
        world.ctx.clock.after(first_us, Event::Fault);
        world
    }

    fn next_life(&mut self) -> u32 {
        self.last_life += 1;
        self.last_life
    }

    /// Empty, whatever its earlier life held.
    pub fn start_holder(&mut self, place: usize) {
        let who = Who { place, life: self.next_life() };
        let incarnation = 1000 + u64::from(who.life);
        let mut holder = Holder::new(who, 100 + place as u64, incarnation, self.settings.offers[place]);
        holder.lies = self.settings.liar == Some(place);
        (self.ctx.listening[place], self.ctx.machine_up[place]) = (Some(who.life), true);
        self.holders[place] = Some(holder);
        self.ctx.tell(|| format!("holder {place}: starts as incarnation {incarnation}"));
    }

    /// Another process in the place of one that has gone; now and then the same client in a later life.
    fn start_owner(&mut self, place: usize) {
        if self.ending || self.owners[place].is_some() {
            return;
        }
        let who = Who { place, life: self.next_life() };
        let settings = self.settings.owners[place % self.settings.owners.len()];
        let client = if self.ctx.random.one_in(2) {
            u128::from(place as u64 + 1) << 64
        } else {
            self.ctx.last_client += 1;
            u128::from(place as u64 + 1) << 64 | u128::from(self.ctx.last_client)
        };
        let id = OwnerId { node: 1 + place as u64, client, incarnation: u64::from(who.life) };
        let nodes: Vec<u64> = (0..self.holders.len()).map(|holder| 100 + holder as u64).collect();
        let mut owner = Owner::new(&mut self.ctx, who, id, settings, &nodes);
        for kind in [PoolKind::Persistent, PoolKind::Persistent, PoolKind::Ephemeral] {
            owner.new_pool(kind);
        }
        if let Some(spill) = owner.spill.as_mut().filter(|_| self.settings.rots) {
            spill.disk.rots_one_in = ROTS_ONE_IN;
        }
        self.ctx.tell(|| format!("owner {place}: starts as {}, {settings:?}", name(&id)));
        self.owners[place] = Some(owner);
        self.ctx.clock.after(1, Event::Program(who));
        self.ctx.clock.after(SECOND, Event::View(who));
    }

    /// One event. False: there is none left.
    pub fn step(&mut self) -> bool {
        let Some(event) = self.ctx.clock.next() else { return false };
        self.steps += 1;
        let tag = match event {
            Event::Arrive(wire, side) => u64::from(wire.0) * 2 + u64::from(side == Side::Server),
            Event::Program(who) | Event::Remotify(who) | Event::Lane(who) => who.place as u64 + 1000,
            _ => 7,
        };
        let now_us = self.ctx.clock.now_us;
        self.ctx.mark(&[now_us, tag]);
        self.act(event);
        self.check_step();
        true
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Arrive(wire, side) => {
                if self.ctx.net.arrive(&self.ctx.clock, wire, side) {
                    self.readable(event, wire, side);
                }
            }
            Event::Room(wire, _) | Event::Broken(wire, _) if !self.ctx.net.wires.contains_key(&wire) => {}
            Event::Room(wire, side) | Event::Broken(wire, side) => self.readable(event, wire, side),
            Event::HolderTurn(who, wire) => {
                if self.ctx.net.is_open(wire, Side::Server) {
                    self.with_holder(who, event, |holder, ctx| holder.turn(ctx, wire));
                }
            }
            Event::HolderSweep(who) => self.with_holder(who, event, Holder::sweep),
            Event::Drain(who) => self.look_at_drain(who),
            Event::Fault => self.fault(),
            Event::Silence => {
                let Ctx { net, clock, random, .. } = &mut self.ctx;
                net.end_silent(clock, random);
            }
            Event::Over(number) => self.over(number),
            Event::Start(place) => self.start_owner(place),
            Event::View(who) => self.view(who),
            Event::Program(who) if !self.ending => self.with_owner(who, event, Owner::program),
            Event::Program(_) => {}
            Event::PutAgain(who, number) => self.with_owner(who, event, |owner, ctx| owner.put_again(ctx, number)),
            Event::Remotify(who) => self.with_owner(who, event, Owner::remotify),
            Event::Lane(who) => self.with_owner(who, event, Owner::lane),
            Event::Opening(who) => self.with_owner(who, event, Owner::look_at_openings),
            Event::Written(who) => self.with_owner(who, event, Owner::written),
            Event::Fork(who) => self.go_on_forking(who, event),
        }
    }

    fn with_owner(&mut self, who: Who, event: Event, act: impl FnOnce(&mut Owner, &mut Ctx)) {
        if let Some(owner) = self.owners[who.place].as_mut().filter(|owner| owner.who == who)
            && !owner.defers(event)
        {
            act(owner, &mut self.ctx);
            self.script.touched = Some(who.place);
        }
    }

    fn with_holder(&mut self, who: Who, event: Event, act: impl FnOnce(&mut Holder, &mut Ctx)) {
        let Some(holder) = self.holders[who.place].as_mut().filter(|holder| holder.who == who) else { return };
        if holder.suspended {
            // Whatever waits for it is there when it goes on.
            if matches!(event, Event::Broken(..)) {
                self.ctx.clock.after(SECOND / 2, event);
            }
            return;
        }
        act(holder, &mut self.ctx);
        self.script.touched_holder = Some(who.place);
    }

    fn readable(&mut self, event: Event, wire: crate::net::WireId, side: Side) {
        let Some(known) = self.ctx.net.wires.get(&wire) else { return };
        let (owner, holder) = (known.owner, known.holder);
        if !self.ctx.net.is_open(wire, side) {
            return;
        }
        if side == Side::Server {
            if self.holders[holder.place].as_ref().is_some_and(|there| there.who == holder) {
                let breaks = matches!(event, Event::Broken(..));
                self.with_holder(
                    holder,
                    event,
                    |holder, ctx| if breaks { holder.broken(ctx, wire) } else { holder.turn(ctx, wire) },
                );
            } else if self.ctx.machine_up[holder.place] {
                // Nobody has this socket any more: a machine that is up says so.
                self.ctx.close(wire, Side::Server, true);
            }
            return;
        }
        let Some(there) = self.owners[owner.place].as_mut().filter(|there| there.who == owner) else {
            return self.ctx.close(wire, Side::Client, true);
        };
        match event {
            Event::Broken(..) => there.broken(&mut self.ctx, wire),
            Event::Room(..) => there.room(&mut self.ctx, wire),
            _ => there.readable(&mut self.ctx, wire),
        }
    }

    fn go_on_forking(&mut self, who: Who, event: Event) {
        let place = self.owners.len();
        let child_who = Who { place, life: self.last_life + 1 };
        let Some(owner) = self.owners[who.place].as_mut().filter(|owner| owner.who == who) else { return };
        if owner.defers(event) {
            return;
        }
        let Some(child) = owner.go_on_forking(&mut self.ctx, child_who) else { return };
        owner.go_on(&mut self.ctx);
        self.last_life += 1;
        self.forks += 1;
        self.script.inherit(&mut self.ctx, who.place, place);
        self.owners.push(Some(child));
        self.children.push(true);
        self.ctx.clock.after(1, Event::Program(child_who));
        self.ctx.clock.after(SECOND, Event::View(child_who));
        let life_us = 1 + self.ctx.random.below(CHILD_US);
        self.end_owner_in(life_us, child_who);
    }

    /// Failures are over and programs do nothing more: everything comes to rest, is looked at, and goes. Nothing may be left anywhere.
    pub fn finish(&mut self) {
        self.ending = true;
        self.end_all_failures();
        self.rest("after the last failure");
        self.check_everything();
        self.check_leaks();
        self.get_everything();
        self.rest("after all pages were asked for");
        for place in 0..self.owners.len() {
            if let Some(owner) = self.owners[place].as_mut().filter(|_| place % 2 == 0) {
                owner.destroy_pools(&mut self.ctx);
            }
        }
        self.rest("after pools were destroyed");
        self.check_leaks();
        for place in 0..self.owners.len() {
            if let Some(owner) = self.owners[place].take() {
                owner.leave(&mut self.ctx);
            }
        }
        let until_us = self.ctx.clock.now_us + 120 * SECOND;
        while self.ctx.clock.now_us < until_us && self.step() {}
        self.check_empty();
    }

    fn rest(&mut self, when: &str) {
        let until_us = self.ctx.clock.now_us + REST_US;
        let mut quiet_since_us = self.ctx.clock.now_us;
        loop {
            let stepped = self.step();
            let now_us = self.ctx.clock.now_us;
            let waits = |holder: &Holder| holder.foreign.next_expiry_ms().is_some();
            if !self.owners.iter().flatten().all(Owner::is_quiet) || self.holders.iter().flatten().any(waits) {
                quiet_since_us = now_us;
            }
            // Longer than it takes to ask a silent holder again.
            if !stepped || now_us - quiet_since_us > 120 * SECOND {
                return;
            }
            assert!(now_us < until_us, "P5: {when} it did not come to rest: {}", self.restless());
        }
    }

    fn restless(&self) -> String {
        let restless = self.owners.iter().flatten().filter(|owner| !owner.is_quiet());
        restless.map(|owner| format!("owner {}: {}; ", owner.who.place, owner.what_is_open())).collect()
    }
}
