//! Step 6: one batch. Covers which class of pages is next, handing a batch to all its holders, and what it means that nobody takes one; which pages of the
//! class is tmem's choice, which holders `placement.rs`'s, the loop around it `remotifier.rs`'s.

use std::sync::atomic::Ordering::Relaxed;

use ramster_core::handle::{Class, Classes, PoolKind};
use ramster_core::remotify::{BATCH_BYTES, BATCH_PAGES, BatchLimit, next_batch};
use ramster_core::tmem::Site;

use crate::bulk::{Bulk, Purpose};
use crate::engine::Engine;
use crate::holders::SPILL;
use crate::limits::Kinds;
use crate::placement::Choice;
use crate::remotifier::{FULL_MS, Remotifier};
use crate::spill::Spill;
use crate::statblock::Stat;

/// What one lock hands out: copying it takes some 20 us, which a fault may have to wait for. The message may as well be short: a page in a batch of 64
/// costs as little as in one of 256.
pub(crate) const LOCKED: BatchLimit = BatchLimit { pages: BATCH_PAGES / 4, bytes: BATCH_BYTES / 8 };
/// Nothing could be sent: look again, as long as the store is over its limit and there are peers.
pub(crate) const STUCK_MS: u64 = 1000;
/// What one lock moves to make sparse slabs empty: about 10 us.
const COMPACT_BYTES: usize = 64 << 10;

/// What a turn of sending came to.
pub(crate) enum Turn {
    Sent,
    /// The store is below its limit.
    Enough,
    /// All links that could take more are busy: their answers come first.
    Busy,
    NowhereToPut,
}

impl Remotifier {
    /// One batch, or one step of compaction, if the store is over its limit.
    pub(crate) fn send(&mut self, engine: &Engine, now_ms: u64) -> Turn {
        let limit_bytes = engine.limits.soft_limit_bytes();
        let sending = self.sending;
        let (used, in_transit, wasted) =
            engine.with_tmem(|tmem| (tmem.bytes_used(), tmem.bytes_in_transit(), tmem.bytes_wasted()));
        let Some(wanted) = next_batch(used, in_transit, limit_bytes, sending) else {
            self.set_stuck(engine, 0, Classes::default());
            return if in_transit > 0 { Turn::Busy } else { Turn::Enough };
        };
        if next_batch(used, in_transit + wasted, limit_bytes, sending).is_none() {
            // What is over the limit is only holes: they are closed before anything else leaves.
            if compact(engine) {
                return Turn::Sent;
            }
        }
        self.sending = true;
        let limit = BatchLimit { pages: wanted.pages.min(LOCKED.pages), bytes: wanted.bytes.min(LOCKED.bytes) };
        let kinds = engine.limits.kinds_for_peers();
        engine.stats().add(Stat::RemotifyOverShare, u64::from(engine.limits.is_over_share()));
        self.send_of_some_class(engine, kinds, limit, now_ms)
    }

    /// The class with the oldest page that has somewhere to go.
    fn send_of_some_class(&mut self, engine: &Engine, kinds: Kinds, limit: BatchLimit, now_ms: u64) -> Turn {
        self.line_up_classes(engine, kinds);
        let mut stuck = Classes::default();
        let (mut nowhere, mut disk_busy) = (false, false);
        for index in 0..self.classes.len() {
            let class = self.classes[index];
            let (may_go, may_vanish) = match class.kind() {
                PoolKind::Persistent => (kinds.persistent, false),
                PoolKind::Ephemeral => (kinds.ephemeral, true),
            };
            if may_vanish && !may_go {
                stuck = stuck.with(class);
                continue;
            }
            match self.site(engine, class, may_go, limit.bytes as u64, now_ms) {
                // What is next in line would take what this one waits for, over and over, if it needs fewer links.
                Choice::Busy => return Turn::Busy,
                Choice::DiskBusy => disk_busy = true,
                Choice::Nowhere => {
                    nowhere = true;
                    stuck = stuck.with(class);
                }
                Choice::Site(site) => {
                    if let Some(turn) = self.send_batch(engine, class, site, limit, now_ms) {
                        self.last_class = class;
                        self.set_stuck(engine, 0, Classes::default());
                        return turn;
                    }
                }
            }
        }
        if disk_busy {
            return Turn::Busy;
        }
        if nowhere {
            self.set_stuck(engine, now_ms + STUCK_MS, stuck);
            return Turn::NowhereToPut;
        }
        self.set_stuck(engine, 0, Classes::default());
        // Over the limit, and no page that may leave: what is there is on its way, or it is an empty slab kept in reserve.
        if self.bulks.iter().any(Bulk::is_busy) || engine.spill().is_some_and(Spill::is_busy) {
            return Turn::Busy;
        }
        if compact(engine) { Turn::Sent } else { Turn::Enough }
    }

    /// Those that have pages here, in the order in which they are tried. Pages that may vanish come last, but ahead of others that may not go to a peer.
    fn line_up_classes(&mut self, engine: &Engine, kinds: Kinds) {
        let (classes, last) = (&mut self.classes, self.last_class);
        let vanishing = engine.with_tmem(|tmem| {
            tmem.classes_by_age(last, classes);
            tmem.local_classes().has(Class::EPHEMERAL)
        });
        if vanishing {
            let at = if kinds.persistent { classes.len() } else { 0 };
            classes.insert(at, Class::EPHEMERAL);
        }
    }

    /// Holders that have a link, for the next batch of that class.
    fn site(&mut self, engine: &Engine, class: Class, peers: bool, need_bytes: u64, now_ms: u64) -> Choice {
        loop {
            let takers = (peers, engine.spill().is_some_and(Spill::takes_pages));
            let choice = self.placement.choose(engine, class, &self.bulks, takers, need_bytes, now_ms);
            let Choice::Site(site) = choice else { return choice };
            if site.has(SPILL) && !engine.spill().is_some_and(Spill::has_room_for_batch) {
                return Choice::DiskBusy;
            }
            let mut nodes = Vec::new();
            let mut usable = true;
            for holder in site.holders().iter().filter(|holder| **holder != SPILL) {
                if self.bulk(engine, *holder).is_err() {
                    // Out of the choice for a while: trying again may take a second each time.
                    engine.holders().update(*holder, |entry| entry.full_until_ms = crate::now_ms() + 2 * FULL_MS);
                    usable = false;
                }
                nodes.extend(engine.holders().get(*holder).map(|entry| entry.node));
            }
            // Who a holder is may only be known since its link is open.
            nodes.sort_unstable();
            let together = nodes.windows(2).any(|pair| pair[0] == pair[1]);
            if usable && !together {
                return choice;
            }
        }
    }

    /// Whoever waits for room need not, as long as there is nowhere to put pages; and a put need not wake us before it is time to look again.
    fn set_stuck(&self, engine: &Engine, until_ms: u64, classes: Classes) {
        let limits = &engine.limits;
        limits.stuck_classes.store(classes.0, Relaxed);
        if limits.stuck_until_ms.swap(until_ms, Relaxed) != until_ms {
            limits.room.ring();
        }
    }

    /// None: no page of that class may leave now.
    fn send_batch(&mut self, engine: &Engine, class: Class, site: Site, limit: BatchLimit, now_ms: u64) -> Option<Turn> {
        let (batch, orders) = (&mut self.batch, &mut self.orders);
        engine.with_tmem(|tmem| {
            // Flushes that were queued before the batch is begun MUST reach the holders before it.
            tmem.take_flushes(usize::MAX, orders);
            tmem.begin_remotify(class, site, limit, batch);
        });
        if !self.orders.is_empty() {
            self.hand_out_orders(engine);
            self.send_flushes(engine, now_ms);
        }
        if self.batch.is_empty() {
            return None;
        }
        self.sent_ms = now_ms;
        let to_peers = site.holders().iter().any(|holder| *holder != SPILL);
        site.holders().iter().filter(|holder| **holder != SPILL).for_each(|holder| self.renew_link(engine, *holder));
        if to_peers {
            self.packing.pack(engine, &self.batch, site.code());
        }
        let mut pages = (0, if to_peers { self.packing.pages(0) } else { Vec::new() });
        let mut troubles = Vec::new();
        for (holder, shard) in site.shards().filter(|(holder, _)| *holder != SPILL) {
            if pages.0 != shard {
                pages = (shard, self.packing.pages(shard));
            }
            let sent = match self.bulks.iter_mut().find(|bulk| bulk.holder == holder) {
                Some(bulk) if bulk.has_room_for_batch() => bulk.send_batch(class.kind(), &pages.1, Purpose::Leaves, now_ms),
                _ => Ok(false),
            };
            if sent != Ok(true) {
                troubles.push((holder, sent.err()));
            }
        }
        drop(pages);
        // Last, for it takes the batch along. What a peer's link did not take is local again, and need not be written.
        if let Some(spill) = engine.spill().filter(|_| site.has(SPILL) && troubles.is_empty()) {
            let batch = std::mem::take(&mut self.batch);
            self.batch = spill.submit(batch, to_peers, &self.wake);
        }
        let turn = if troubles.is_empty() { Turn::Sent } else { Turn::Busy };
        for (holder, trouble) in troubles {
            engine.with_tmem(|tmem| self.batch.iter().for_each(|(handle, version, _)| tmem.refused(&handle, version, holder)));
            if let Some(trouble) = trouble
                && let Some(index) = self.bulks.iter().position(|bulk| bulk.holder == holder)
            {
                let bulk = self.bulks.swap_remove(index);
                self.mend(engine, bulk, trouble);
            }
        }
        Some(turn)
    }
}

/// One step under the lock. False: the store is as dense as it gets.
fn compact(engine: &Engine) -> bool {
    let compacted = engine.with_tmem(|tmem| tmem.compact(COMPACT_BYTES));
    if compacted.freed_bytes > 0 {
        engine.limits.room.ring();
    }
    compacted.moved_bytes + compacted.freed_bytes > 0
}
