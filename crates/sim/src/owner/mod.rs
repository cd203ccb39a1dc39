//! One owner of pages: a program's engine without threads. Covers what it is made of and how it is woken; the verbs are `verbs.rs` and `gets.rs`, its lane
//! `fetches.rs`, its remotifier `remotifier.rs`, each beside the file of the engine that it follows, call by call.
//!
//! What the engine's threads do while they wait for one another happens here between two events: a page may be put while a batch is packed, fetched while a
//! link is opened, flushed while a disk writes.

pub mod bulk;
pub mod disk;
mod fetches;
mod fork;
mod gets;
mod link;
mod opening;
mod placement;
mod rebuild;
mod remotifier;
mod seals;
mod spill;
pub mod table;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};

use ramster_core::compress::{Codec, Packer};
use ramster_core::handle::{Handle, HolderId, OwnerId, Version};
use ramster_core::localify::Localify;
use ramster_core::store::HeapSlabs;
use ramster_core::tmem::{Batch, Copied, FlushOrder, Tmem};
use ramster_core::wire::frame::Side;

use crate::clock::{Event, MS, Who};
use crate::ctx::Ctx;
use crate::model::Model;
use crate::net::WireId;
use bulk::Bulk;
use disk::SimDisk;
use fetches::Fetches;
use fork::Fork;
use gets::Getting;
use link::Link;
use opening::Opening;
use rebuild::Rebuild;
use remotifier::Packed;
use seals::Seals;
use spill::Spill;
use table::{Known, SPILL, Table};
use verbs::Putting;

/// Slabs of one owner's store: never reached, the limit is.
const SLABS: u32 = 4096;
/// What a put may find below the limit, as in engine/limits.rs.
const SLACK_SHARE: u64 = 16;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    None,
    Disk,
    Auto,
    Copies(u8),
}

#[derive(Clone, Copy, Debug)]
pub struct OwnerSettings {
    pub durability: Durability,
    /// Like pools: puts over the limit are refused, and getters of one page share a flight. Otherwise like a pager.
    pub hard: bool,
    pub limit_bytes: u64,
    pub codec: Codec,
    pub disk_bytes: Option<u64>,
    pub think_us: u64,
    pub objects: u64,
    pub indexes: u32,
    pub never_lost: bool,
}

pub struct Owner {
    pub who: Who,
    pub id: OwnerId,
    pub settings: OwnerSettings,
    pub tmem: Tmem<HeapSlabs>,
    pub table: Table,
    pub spill: Option<Spill>,
    pub model: Model,
    /// Of the digests and the hash tables.
    seed: u64,
    packer: Packer,
    seals: Seals,
    copied: Copied,
    openings: Vec<Opening>,
    last_ticket: u64,
    /// The remotifier's.
    bulks: Vec<Bulk>,
    batch: Batch,
    packed: Option<Packed>,
    orders: Vec<FlushOrder>,
    /// Holders whose link broke and that have not been reached since.
    unreached: BTreeSet<HolderId>,
    reach_at_ms: u64,
    rebuild: Rebuild,
    thinned: bool,
    disk_full_until_ms: u64,
    stuck_until_ms: u64,
    sending: bool,
    flush_at_ms: Option<u64>,
    remotify_at_us: Option<u64>,
    /// As membership says: with quorum.
    pub remotify: bool,
    /// The lane's.
    fetches: Fetches,
    lane_at_us: Option<u64>,
    flights: Localify<u64>,
    gets: BTreeMap<u64, Getting>,
    last_get: u64,
    puts: BTreeMap<u64, Putting>,
    last_put: u64,
    fork: Option<Fork>,
    /// Stopped, by a signal or a fork: what happens meanwhile waits here.
    pub suspended: bool,
    /// Since then it has not been stopped.
    went_on_ms: u64,
    waiting: Vec<Event>,
    next_content: u32,
}

/// What an owner begins with: nothing, or what its parent had.
struct Pages {
    tmem: Tmem<HeapSlabs>,
    table: Table,
    spill: Option<Spill>,
    model: Model,
    seals: Seals,
    seed: u64,
}

impl Owner {
    pub fn new(ctx: &mut Ctx, who: Who, id: OwnerId, settings: OwnerSettings, nodes: &[u64]) -> Owner {
        let capacity_bytes = if settings.hard { settings.limit_bytes } else { u64::MAX >> 1 };
        let seed = ctx.random.word();
        let pages = Pages {
            tmem: Tmem::new(HeapSlabs::new(SLABS), seed, capacity_bytes),
            table: Table(nodes.iter().map(|node| Known::new(*node)).collect()),
            spill: settings.disk_bytes.map(SimDisk::new).map(Spill::new),
            model: Model { never_lost: settings.never_lost, ..Model::default() },
            seals: Seals::new(id, ctx.random.bytes()),
            seed,
        };
        Owner::with(pages, (who, id), settings, 1 + (who.life << 20))
    }

    /// Without links, and with nothing under way.
    fn with(pages: Pages, (who, id): (Who, OwnerId), settings: OwnerSettings, next_content: u32) -> Owner {
        let Pages { tmem, table, spill, model, seals, seed } = pages;
        Owner {
            who,
            id,
            settings,
            tmem,
            table,
            spill,
            model,
            seed,
            packer: Packer::new(seed),
            seals,
            copied: Copied::default(),
            openings: Vec::new(),
            last_ticket: 0,
            bulks: Vec::new(),
            batch: Batch::default(),
            packed: None,
            orders: Vec::new(),
            unreached: BTreeSet::new(),
            reach_at_ms: 0,
            rebuild: Rebuild::default(),
            thinned: false,
            disk_full_until_ms: 0,
            stuck_until_ms: 0,
            sending: false,
            flush_at_ms: None,
            remotify_at_us: None,
            remotify: true,
            fetches: Fetches::default(),
            lane_at_us: None,
            flights: Localify::default(),
            gets: BTreeMap::new(),
            last_get: 0,
            puts: BTreeMap::new(),
            last_put: 0,
            fork: None,
            suspended: false,
            went_on_ms: 0,
            waiting: Vec::new(),
            next_content,
        }
    }

    /// True: the event has to wait until the owner goes on.
    pub fn defers(&mut self, event: Event) -> bool {
        let stops = self.suspended || (self.fork.is_some() && !matches!(event, Event::Fork(_)));
        if stops {
            self.waiting.push(event);
        }
        stops
    }

    /// Goes on: whatever has waited happens now, and everything is looked at.
    pub fn go_on(&mut self, ctx: &mut Ctx) {
        self.went_on_ms = ctx.now_ms();
        for event in std::mem::take(&mut self.waiting) {
            let delay_us = ctx.random.below(MS);
            ctx.clock.after(delay_us, event);
        }
        (self.remotify_at_us, self.lane_at_us) = (None, None);
        self.wake_remotifier(ctx);
        self.wake_lane(ctx, 0);
        ctx.clock.after(1, Event::Opening(self.who));
        if self.fork.is_some() {
            ctx.clock.after(1, Event::Fork(self.who));
        }
    }

    /// Something can be read from this wire, or it is dead.
    pub fn readable(&mut self, ctx: &mut Ctx, wire: WireId) {
        if self.fork.as_ref().is_some_and(|fork| fork.has(wire)) {
            ctx.clock.after(0, Event::Fork(self.who));
        } else if self.openings.iter().any(|opening| opening.link.wire == wire) {
            ctx.clock.after(0, Event::Opening(self.who));
        } else if self.bulks.iter().any(|bulk| bulk.link.wire == wire) {
            self.wake_remotifier(ctx);
        } else if self.fetches.has(wire) {
            self.wake_lane(ctx, 0);
        }
    }

    pub fn broken(&mut self, ctx: &mut Ctx, wire: WireId) {
        match self.link_of(wire) {
            Some(link) => link.broken = true,
            None => return ctx.close(wire, Side::Client, true),
        }
        self.readable(ctx, wire);
    }

    pub fn room(&mut self, ctx: &mut Ctx, wire: WireId) {
        if let Some(link) = self.link_of(wire) {
            link.flush_out(ctx);
        }
        // The remotifier polls for room too.
        self.readable(ctx, wire);
    }

    fn link_of(&mut self, wire: WireId) -> Option<&mut Link> {
        let forking = self.fork.as_mut().into_iter().flat_map(Fork::links);
        let opening = self.openings.iter_mut().map(|opening| &mut opening.link);
        let bulk = self.bulks.iter_mut().map(|bulk| &mut bulk.link);
        forking.chain(opening).chain(bulk).chain(self.fetches.links()).find(|link| link.wire == wire)
    }

    /// Waking a thread takes a moment, in which others go on.
    pub fn wake_remotifier(&mut self, ctx: &mut Ctx) {
        let delay_us = 5 + ctx.random.below(200);
        self.wake_remotifier_in(ctx, delay_us);
    }

    fn wake_remotifier_in(&mut self, ctx: &mut Ctx, delay_us: u64) {
        let at_us = ctx.clock.now_us + delay_us;
        if self.remotify_at_us.is_none_or(|known_us| known_us > at_us) {
            self.remotify_at_us = Some(at_us);
            ctx.clock.at(at_us, Event::Remotify(self.who));
        }
    }

    fn wake_lane(&mut self, ctx: &mut Ctx, delay_us: u64) {
        let at_us = ctx.clock.now_us + delay_us;
        if self.lane_at_us.is_none_or(|known_us| known_us > at_us) {
            self.lane_at_us = Some(at_us);
            ctx.clock.at(at_us, Event::Lane(self.who));
        }
    }

    pub fn soft_limit_bytes(&self) -> u64 {
        self.settings.limit_bytes - self.settings.limit_bytes / SLACK_SHARE
    }

    fn has_nowhere(&self, now_ms: u64) -> bool {
        let somewhere = self.spill.is_some() || (self.remotify && self.table.any_listed());
        !somewhere || self.stuck_until_ms > now_ms
    }

    fn note_pressure(&mut self, ctx: &mut Ctx) {
        if self.tmem.bytes_used() > self.soft_limit_bytes() && !self.has_nowhere(ctx.now_ms()) {
            self.wake_remotifier(ctx);
        }
    }

    fn note_flushes(&mut self, ctx: &mut Ctx) {
        if self.tmem.flushes_waiting() > 0 && self.flush_at_ms.is_none() {
            self.wake_remotifier(ctx);
        }
    }

    fn note_thinned(&mut self, ctx: &mut Ctx) {
        if !std::mem::replace(&mut self.thinned, true) {
            self.wake_remotifier(ctx);
        }
    }

    /// What membership says reaches this owner: who is listed, who is silent, whether there is quorum. Mirrors engine/engine.rs, `set_directives`.
    pub fn view(&mut self, ctx: &mut Ctx, listed: &[bool], silent: &[bool], remotify: bool) {
        self.remotify = remotify;
        for holder in self.table.set_silent(silent) {
            ctx.tell(|| format!("owner {}: is told that holder {} is silent", self.who.place, table::place_of(holder)));
            if self.tmem.give_up_copies(holder) > 0 {
                self.note_thinned(ctx);
            }
        }
        self.table.0.iter_mut().zip(listed).for_each(|(known, listed)| known.listed = *listed);
        self.stuck_until_ms = 0;
        self.note_pressure(ctx);
        self.note_flushes(ctx);
    }

    /// Says goodbye and goes, without waiting for more than that it is sent. Mirrors engine/remotifier.rs, `say_goodbye`.
    pub fn leave(mut self, ctx: &mut Ctx) {
        for bulk in &mut self.bulks {
            let _ = bulk.link.goodbye(ctx, u64::MAX);
        }
        for wire in ctx.net.wires_of(|wire| wire.owner == self.who) {
            ctx.close(wire, Side::Client, false);
        }
    }

    /// Killed: the kernel closes its sockets, and a reset may overtake what was sent.
    pub fn die(self, ctx: &mut Ctx) {
        for wire in ctx.net.wires_of(|wire| wire.owner == self.who) {
            let abruptly = ctx.random.one_in(2);
            ctx.close(wire, Side::Client, abruptly);
        }
    }

    /// The holders of a remote persistent page, in the order in which they are asked. None: it is not remote, or not in this version.
    pub fn site_of(&mut self, handle: &Handle, version: Version) -> Option<Vec<HolderId>> {
        // After one that is not in the set comes its first.
        let first = self.tmem.other_copy(handle, version, HolderId(u16::MAX))?;
        let mut site = vec![first];
        while let Some(next) = self.tmem.other_copy(handle, version, site[site.len() - 1])
            && !site.contains(&next)
        {
            site.push(next);
        }
        Some(site)
    }

    /// Which life and account of a holder this owner believes its copies to be in.
    pub fn account_at(&self, holder: HolderId) -> Option<(u64, u64)> {
        Some(self.table.get(holder)?.account?.0)
    }

    pub fn has_on_disk(&self, handle: &Handle, version: Version) -> bool {
        self.spill.as_ref().is_some_and(|spill| spill.has(handle, version))
    }

    /// Nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.gets.is_empty()
            && self.puts.is_empty()
            && self.fork.is_none()
            && self.packed.is_none()
            && self.openings.is_empty()
            && self.orders.is_empty()
            && self.tmem.flushes_waiting() == 0
            && !self.bulks.iter().any(Bulk::is_busy)
            && self.tmem.gauges().pages_in_transit == 0
    }

    pub fn what_waits(&self) -> String {
        let (gets, puts, openings, orders) = (self.gets.len(), self.puts.len(), self.openings.len(), self.orders.len());
        let busy = self.bulks.iter().filter(|bulk| bulk.is_busy()).count();
        format!(
            "{gets} gets, {puts} puts, {openings} openings, {orders} orders, {busy} busy links, packing {}",
            self.packed.is_some()
        )
    }

    /// Promises 5 and 7, and tmem's own complaints, after each step of this owner.
    pub fn check(&mut self, ctx: &Ctx) {
        if let Some(complaint) = self.tmem.take_complaint() {
            panic!("{complaint}");
        }
        self.bulks.iter().for_each(Bulk::check_limits);
        self.fetches.check_limits();
        self.check_gets(ctx);
        // Everything that was sent and every batch that was begun is bounded by what is kept: pages, times their copies.
        let most = 4 * (self.settings.objects as usize * self.settings.indexes as usize * 4 + 10_000);
        let orders = self.orders.len() + self.tmem.flushes_waiting();
        assert!(orders <= most, "P7: {orders} flushes wait");
    }

    fn is_spill(holder: HolderId) -> bool {
        holder == SPILL
    }
}
