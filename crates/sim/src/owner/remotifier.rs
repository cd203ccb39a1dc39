//! Step 6: sends pages away when the store is over its limit, and tells holders what was flushed. Mirrors engine/remotifier.rs, and packing.rs for what
//! travels. A batch is begun in one event and sent in another: packing, sealing and the disk take their time.

use ramster_core::backend::Loss;
use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, HolderId, PoolKind, Version};
use ramster_core::remotify::{BATCH_BYTES, BATCH_PAGES, BatchLimit, next_batch};
use ramster_core::seal::Tag;
use ramster_core::tmem::{Acknowledged, FlushOrder, Site};
use ramster_core::wire::frame::Side;
use ramster_core::wire::message::{Blob, PutPage, Role};

use super::Owner;
use super::bulk::{Answered, Bulk, Trouble};
use super::disk::Disk;
use super::opening::NoLink;
use super::placement::Choice;
use super::table::SPILL;
use crate::clock::{Event, MS};
use crate::ctx::{Ctx, Gone};

const LOCKED: BatchLimit = BatchLimit { pages: BATCH_PAGES / 4, bytes: BATCH_BYTES / 8 };
const FLUSH_DELAY_MS: u64 = 20;
pub(super) const FULL_MS: u64 = 1000;
const REACH_MS: u64 = 3000;
const SOON_MS: u64 = 250;
const STUCK_MS: u64 = 1000;
const COMPACT_BYTES: usize = 64 << 10;
const MAX_TURNS: usize = 16;

/// A batch that was begun: it is being packed, or written to disk.
pub struct Packed {
    site: Site,
    pool: PoolKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    Sent,
    Enough,
    Busy,
    NowhereToPut,
}

impl Owner {
    pub fn remotify(&mut self, ctx: &mut Ctx) {
        if self.remotify_at_us != Some(ctx.clock.now_us) {
            return;
        }
        self.remotify_at_us = None;
        // The thread waits for a welcome or for the disk, and is woken by it.
        if self.packed.is_some() || self.is_opening_bulk() {
            return;
        }
        if let Some(wait_ms) = self.work(ctx) {
            let delay_us = wait_ms * MS + 5 + ctx.random.below(50);
            self.wake_remotifier_in(ctx, delay_us);
        }
        self.note_flushes(ctx);
    }

    /// Everything that can be done now. Returns how long to sleep at most.
    fn work(&mut self, ctx: &mut Ctx) -> Option<u64> {
        self.receive(ctx);
        self.see_to_flushes(ctx);
        let mut wait_ms = None;
        for _ in 0..MAX_TURNS {
            match self.send(ctx) {
                Turn::Sent if self.packed.is_some() => return None,
                Turn::Sent => wait_ms = Some(0),
                Turn::Enough => {
                    (self.sending, wait_ms) = (false, None);
                    break;
                }
                Turn::Busy => {
                    wait_ms = None;
                    break;
                }
                Turn::NowhereToPut => {
                    wait_ms = (self.table.any_listed() || self.spill.is_some()).then_some(STUCK_MS);
                    break;
                }
            }
        }
        let reach_ms = self.reach(ctx);
        let rebuild_ms = self.rebuild(ctx);
        let now_ms = ctx.now_ms();
        let flush_ms = self.flush_at_ms.map(|at_ms| at_ms.saturating_sub(now_ms));
        let answer_ms = self.bulks.iter().filter_map(Bulk::deadline_ms).min().map(|at_ms| at_ms.saturating_sub(now_ms));
        [wait_ms, reach_ms, rebuild_ms, flush_ms, answer_ms].into_iter().flatten().min()
    }

    fn receive(&mut self, ctx: &mut Ctx) {
        let mut index = 0;
        while index < self.bulks.len() {
            let mut answered = Vec::new();
            let bulk = &mut self.bulks[index];
            let holder = bulk.holder;
            let mut received = bulk.receive(ctx, &mut answered);
            if received.is_ok() && bulk.deadline_ms().is_some_and(|at_ms| at_ms <= ctx.now_ms()) {
                received = Err(Trouble::Silent);
            }
            let (free_bytes, recall_bytes) = (bulk.free_bytes(), bulk.link.take_recall_bytes());
            self.rebuild.recall(holder, recall_bytes);
            self.heed_answers(ctx, holder, &answered, free_bytes);
            match received {
                Ok(()) => index += 1,
                Err(trouble) => {
                    let bulk = self.bulks.swap_remove(index);
                    self.mend(ctx, bulk, trouble);
                }
            }
        }
    }

    fn heed_answers(&mut self, ctx: &mut Ctx, holder: HolderId, answered: &[Answered], free_bytes: u64) {
        if answered.is_empty() {
            return;
        }
        let refused = answered.iter().filter(|page| !page.stored).count();
        for page in answered {
            let (handle, version) = (&page.handle, page.version);
            match (page.rebuilds, page.stored) {
                (false, true) => {
                    if self.tmem.acknowledged(handle, version, holder) == Acknowledged::Remote {
                        ctx.gone.push(Gone { owner: self.who.place, handle: *handle, version, rebuilt: false });
                    }
                }
                (false, false) => self.tmem.refused(handle, version, holder),
                (true, true) => {
                    if self.tmem.rebuilt(handle, version, holder) {
                        ctx.gone.push(Gone { owner: self.who.place, handle: *handle, version, rebuilt: true });
                    }
                }
                (true, false) => self.tmem.not_rebuilt(handle, version, holder),
            }
        }
        let now_ms = ctx.now_ms();
        self.table.update(holder, |known| {
            known.free_bytes = Some(free_bytes);
            if refused > 0 {
                known.full_until_ms = now_ms + FULL_MS;
            }
        });
        ctx.tell(|| {
            let (place, count) = (self.who.place, answered.len());
            format!("owner {place}: hears of {count} pages at holder {}, {refused} refused", super::table::place_of(holder))
        });
    }

    /// A link died. Its unanswered pages are local again; if the holder lives, it hears of every flush again before anything else.
    pub(super) fn mend(&mut self, ctx: &mut Ctx, bulk: Bulk, trouble: Trouble) {
        let holder = bulk.holder;
        let wire = bulk.link.wire;
        let (mut unanswered, mut orders) = (Vec::new(), Vec::new());
        bulk.take_apart(&mut unanswered, &mut orders);
        ctx.tell(|| {
            let (place, count) = (super::table::place_of(holder), unanswered.len());
            format!("owner {}: its link to holder {place} ends: {trouble:?}; {count} pages unanswered", self.who.place)
        });
        ctx.close(wire, Side::Client, false);
        for (handle, version, rebuilds) in &unanswered {
            if *rebuilds {
                self.tmem.not_rebuilt(handle, *version, holder);
            } else {
                self.tmem.unanswered(handle, *version, holder);
            }
        }
        if trouble == Trouble::Silent {
            let now_ms = ctx.now_ms();
            self.table.update(holder, |known| known.full_until_ms = now_ms + 10 * FULL_MS);
        }
        if self.open(ctx, holder, Role::Bulk) != NoLink::Died {
            self.orders.extend(orders);
            self.unreached.insert(holder);
            self.reach_at_ms = ctx.now_ms() + SOON_MS;
        }
    }

    /// For a batch that tmem has begun. A link from before its holder was given up for dead would bring pages to a stay there that is about to end.
    pub(super) fn renew_link(&mut self, ctx: &mut Ctx, holder: HolderId) {
        let deaths = self.table.deaths(holder);
        if let Some(index) = self.bulks.iter().position(|bulk| bulk.holder == holder && bulk.link.deaths != deaths) {
            let bulk = self.bulks.swap_remove(index);
            self.mend(ctx, bulk, Trouble::Gone);
        }
    }

    /// As in engine/relink.rs: a holder keeps our pages for a grace time only.
    fn reach(&mut self, ctx: &mut Ctx) -> Option<u64> {
        let bulks = &self.bulks;
        self.unreached.retain(|holder| !bulks.iter().any(|bulk| bulk.holder == *holder));
        if self.unreached.is_empty() {
            return None;
        }
        let now_ms = ctx.now_ms();
        if now_ms >= self.reach_at_ms {
            for holder in self.unreached.clone() {
                if self.open(ctx, holder, Role::Bulk) == NoLink::Died {
                    self.unreached.remove(&holder);
                }
            }
            self.reach_at_ms = now_ms + REACH_MS;
        }
        Some(self.reach_at_ms - now_ms)
    }

    fn see_to_flushes(&mut self, ctx: &mut Ctx) {
        let now_ms = ctx.now_ms();
        if self.tmem.flushes_waiting() > 0 || !self.orders.is_empty() || self.flush_at_ms.is_some() {
            let at_ms = *self.flush_at_ms.get_or_insert(now_ms + FLUSH_DELAY_MS);
            if at_ms <= now_ms {
                self.flush_at_ms = None;
                self.tmem.take_flushes(usize::MAX, &mut self.orders);
                self.hand_out_orders(ctx);
                self.flush_at_ms = (!self.orders.is_empty()).then_some(now_ms + STUCK_MS);
            }
        }
        self.send_flushes(ctx);
    }

    pub(super) fn flush_now(&mut self, ctx: &mut Ctx) {
        self.tmem.take_flushes(usize::MAX, &mut self.orders);
        if !self.orders.is_empty() {
            self.hand_out_orders(ctx);
            self.send_flushes(ctx);
        }
    }

    /// To the spill file at once, to links in order. What has no link for the moment stays in `orders`, in order.
    fn hand_out_orders(&mut self, ctx: &mut Ctx) {
        let mut waiting: Vec<FlushOrder> = Vec::new();
        for order in std::mem::take(&mut self.orders) {
            if order.holder == SPILL {
                if let Some(spill) = &mut self.spill {
                    spill.flush(&order.what);
                }
            } else if waiting.iter().any(|other| other.holder == order.holder) {
                waiting.push(order);
            } else {
                match self.bulk(ctx, order.holder) {
                    Ok(index) => self.bulks[index].flush(order.what),
                    Err(NoLink::Died) => {}
                    Err(NoLink::NotNow | NoLink::Opening) => waiting.push(order),
                }
            }
        }
        self.orders = waiting;
    }

    fn send_flushes(&mut self, ctx: &mut Ctx) {
        let mut index = 0;
        while index < self.bulks.len() {
            match self.bulks[index].send_flushes(ctx) {
                Ok(()) => index += 1,
                Err(trouble) => {
                    let bulk = self.bulks.swap_remove(index);
                    self.mend(ctx, bulk, trouble);
                }
            }
        }
    }

    /// One batch begun, or one step of compaction, if the store is over its limit.
    fn send(&mut self, ctx: &mut Ctx) -> Turn {
        let limit_bytes = self.soft_limit_bytes();
        let (used, in_transit) = (self.tmem.bytes_used(), self.tmem.bytes_in_transit());
        let wasted = self.tmem.bytes_wasted();
        let Some(wanted) = next_batch(used, in_transit, limit_bytes, self.sending) else {
            self.stuck_until_ms = 0;
            return if in_transit > 0 { Turn::Busy } else { Turn::Enough };
        };
        if next_batch(used, in_transit + wasted, limit_bytes, self.sending).is_none() && self.compact() {
            return Turn::Sent;
        }
        self.sending = true;
        let limit = BatchLimit { pages: wanted.pages.min(LOCKED.pages), bytes: wanted.bytes.min(LOCKED.bytes) };
        let now_ms = ctx.now_ms();
        let site = match self.site(ctx, limit.bytes as u64) {
            Choice::Site(site) => site,
            Choice::Busy => return Turn::Busy,
            Choice::Nowhere => {
                self.stuck_until_ms = now_ms + STUCK_MS;
                return Turn::NowhereToPut;
            }
        };
        self.stuck_until_ms = 0;
        self.begin_batch(ctx, site, limit)
    }

    /// Holders that have a link, for the next batch.
    fn site(&mut self, ctx: &mut Ctx, need_bytes: u64) -> Choice {
        loop {
            let takers = (self.remotify, self.disk_full_until_ms <= ctx.now_ms());
            let choice = self.choose(ctx, takers, need_bytes);
            let Choice::Site(site) = choice else { return choice };
            let (mut nodes, mut usable) = (Vec::new(), true);
            for holder in site.holders().iter().filter(|holder| !Owner::is_spill(**holder)) {
                match self.bulk(ctx, *holder) {
                    Ok(_) => {}
                    // The thread waits, then chooses anew.
                    Err(NoLink::Opening) => return Choice::Busy,
                    Err(_) => {
                        let until_ms = ctx.now_ms() + 2 * FULL_MS;
                        self.table.update(*holder, |known| known.full_until_ms = until_ms);
                        usable = false;
                    }
                }
                nodes.extend(self.table.get(*holder).map(|known| known.node));
            }
            nodes.sort_unstable();
            let together = nodes.windows(2).any(|pair| pair[0] == pair[1]);
            if usable && !together {
                return choice;
            }
        }
    }

    fn begin_batch(&mut self, ctx: &mut Ctx, site: Site, limit: BatchLimit) -> Turn {
        // Flushes that were queued before the batch is begun MUST reach the holders before it.
        self.tmem.take_flushes(usize::MAX, &mut self.orders);
        let (mut site, mut pool) = (site, PoolKind::Persistent);
        self.tmem.begin_remotify(pool, site, limit, &mut self.batch);
        let peer = site.first().filter(|holder| *holder != SPILL);
        if let Some(peer) = peer.filter(|_| self.batch.is_empty()) {
            (site, pool) = (Site::of(&[peer]), PoolKind::Ephemeral);
            self.tmem.begin_remotify(pool, site, limit, &mut self.batch);
        }
        if !self.orders.is_empty() {
            self.hand_out_orders(ctx);
            self.send_flushes(ctx);
        }
        if self.batch.is_empty() {
            if self.bulks.iter().any(Bulk::is_busy) {
                return Turn::Busy;
            }
            return if self.compact() { Turn::Sent } else { Turn::Enough };
        }
        let mut delay_us = 20 + ctx.random.below(400);
        if site.has(SPILL)
            && let Some(spill) = &self.spill
        {
            delay_us += spill.disk.delay_us(&mut ctx.random, self.batch.bytes());
        }
        ctx.tell(|| format!("owner {}: begins a batch of {} pages to {site:?}", self.who.place, self.batch.len()));
        self.packed = Some(Packed { site, pool });
        ctx.clock.after(delay_us, Event::Written(self.who));
        Turn::Sent
    }

    /// The batch is packed, sealed and on disk, if it was to be: it leaves.
    pub fn written(&mut self, ctx: &mut Ctx) {
        let Some(Packed { site, pool }) = self.packed.take() else { return };
        self.wake_remotifier(ctx);
        if site.has(SPILL) && !self.write(ctx) {
            if let Some(holder) = site.first() {
                self.batch.iter().for_each(|(handle, version, _)| self.tmem.refused(&handle, version, holder));
            }
            self.stuck_until_ms = ctx.now_ms() + STUCK_MS;
            return;
        }
        site.holders().iter().filter(|holder| !Owner::is_spill(**holder)).for_each(|holder| self.renew_link(ctx, *holder));
        let sealed = self.seal_batch();
        let pages: Vec<PutPage<'_>> = sealed
            .iter()
            .map(|(handle, version, kind, tag, bytes)| PutPage {
                handle: *handle,
                version: *version,
                blob: Blob { kind: kind.tag(), tag: *tag, bytes },
            })
            .collect();
        for holder in site.holders().iter().filter(|holder| !Owner::is_spill(**holder)) {
            let at = self.bulks.iter().position(|bulk| bulk.holder == *holder && bulk.has_room_for_batch());
            let sent = at.map_or(Ok(false), |at| self.bulks[at].send_batch(ctx, pool, &pages, false));
            if sent == Ok(true) {
                continue;
            }
            self.batch.iter().for_each(|(handle, version, _)| self.tmem.refused(&handle, version, *holder));
            if let (Err(trouble), Some(at)) = (sent, at) {
                let bulk = self.bulks.swap_remove(at);
                self.mend(ctx, bulk, trouble);
            }
        }
    }

    /// Once for each batch: a version is sealed once.
    fn seal_batch(&mut self) -> Vec<(Handle, Version, Kind, Tag, Vec<u8>)> {
        let mut sealed = Vec::with_capacity(self.batch.len());
        for (handle, version, packed) in self.batch.iter() {
            let mut bytes = packed.bytes.to_vec();
            let tag = self.seals.seal(&handle, version, packed.kind, &mut bytes);
            sealed.push((handle, version, packed.kind, tag, bytes));
        }
        sealed
    }

    /// False: the file took nothing, and is full or broken.
    fn write(&mut self, ctx: &mut Ctx) -> bool {
        let Some(spill) = &mut self.spill else { return false };
        let stored = spill.write(&mut ctx.random, &self.batch);
        for ((handle, version, _), stored) in self.batch.iter().zip(&stored) {
            if !stored {
                self.tmem.refused(&handle, version, SPILL);
            } else if self.tmem.acknowledged(&handle, version, SPILL) == Acknowledged::Remote {
                ctx.gone.push(Gone { owner: self.who.place, handle, version, rebuilt: false });
            }
        }
        let count = stored.iter().filter(|stored| **stored).count();
        ctx.tell(|| format!("owner {}: {count} of {} pages written to disk", self.who.place, stored.len()));
        if count < stored.len() {
            self.disk_full_until_ms = ctx.now_ms() + FULL_MS;
        }
        count > 0
    }

    pub(super) fn bulk(&mut self, ctx: &mut Ctx, holder: HolderId) -> Result<usize, NoLink> {
        match self.bulks.iter().position(|bulk| bulk.holder == holder) {
            Some(index) => Ok(index),
            None => Err(self.open(ctx, holder, Role::Bulk)),
        }
    }

    /// False: the store is as dense as it gets.
    fn compact(&mut self) -> bool {
        let compacted = self.tmem.compact(COMPACT_BYTES);
        compacted.moved_bytes + compacted.freed_bytes > 0
    }

    /// What a holder said of a copy of a page that it was asked for by the remotifier.
    pub(super) fn holder_forgot(&mut self, handle: &Handle, version: Version, holder: HolderId, why: Loss) {
        self.tmem.unfetched(handle, version, holder, why);
    }
}
