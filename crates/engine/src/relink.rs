//! The remotifier's links: opened when they are needed, mended when they broke, and opened again although nobody needs them now, because a holder keeps the
//! pages of an owner without a link for a grace time only. What travels on them is `bulk.rs`.

use ramster_core::handle::HolderId;
use ramster_core::wire::message::Role;

use crate::bulk::{Bulk, Trouble};
use crate::clock::now_ms;
use crate::engine::Engine;
use crate::links::{self, NoLink};
use crate::remotifier::{FULL_MS, Remotifier};
use crate::statblock::Stat;

/// Well within the time for which a holder keeps the pages of an owner that has no link left (10 s at least).
const REACH_MS: u64 = 3000;
/// The first try: a holder that is just ending closes links before it refuses them.
const SOON_MS: u64 = 250;

/// Holders whose link broke and that could not be reached since. Each counts as dead in the end, so this ends.
#[derive(Default)]
pub struct Unreached {
    holders: Vec<HolderId>,
    again_ms: u64,
}

impl Unreached {
    fn add(&mut self, holder: HolderId, after_ms: u64) {
        if !self.holders.contains(&holder) {
            self.holders.push(holder);
        }
        // By the clock after the try, which may have taken a second.
        self.again_ms = now_ms() + after_ms;
    }
}

impl Remotifier {
    /// A link died. Its unanswered pages are local again; if the holder lives, it hears of every flush again before anything else.
    pub(crate) fn mend(&mut self, engine: &Engine, bulk: Bulk, trouble: Trouble) {
        let holder = bulk.holder;
        let (mut unanswered, mut orders) = (Vec::new(), Vec::new());
        bulk.take_apart(&mut unanswered, &mut orders);
        engine.with_tmem(|tmem| {
            for (handle, version, rebuilds) in &unanswered {
                if *rebuilds {
                    tmem.not_rebuilt(handle, *version, holder);
                } else {
                    tmem.unanswered(handle, *version, holder);
                }
            }
        });
        let taken_back = unanswered.iter().filter(|(_, _, rebuilds)| !rebuilds).count();
        engine.stats().add(Stat::RemotifyTakenBack, taken_back as u64);
        if trouble == Trouble::Silent {
            // It may be stuck or overloaded: it is not asked to take more for a while, but what it holds is not given up.
            engine.holders().update(holder, |entry| entry.full_until_ms = now_ms() + 10 * FULL_MS);
        }
        match self.open(engine, holder) {
            Ok(index) => orders.into_iter().for_each(|order| self.bulks[index].flush(order.what)),
            // Dead, and forgotten by tmem; or it will hear of them with the next link.
            Err(NoLink::Died) => {}
            Err(NoLink::NotNow) => {
                self.orders.extend(orders);
                self.unreached.add(holder, SOON_MS);
            }
        }
        engine.limits.room.ring();
    }

    /// Tries again to reach the holders whose links broke, until each is reached or counts as dead. Returns when to come again.
    pub(crate) fn reach(&mut self, engine: &Engine, now_ms: u64) -> Option<u64> {
        if self.unreached.holders.is_empty() {
            return None;
        }
        if now_ms >= self.unreached.again_ms {
            for holder in std::mem::take(&mut self.unreached.holders) {
                if self.bulk(engine, holder) == Err(NoLink::NotNow) {
                    self.unreached.add(holder, REACH_MS);
                }
            }
        }
        (!self.unreached.holders.is_empty()).then(|| self.unreached.again_ms.saturating_sub(now_ms).max(1))
    }

    /// For a batch that tmem has begun. A link from before its holder was given up for dead would bring pages to a stay there that is about to end.
    pub(crate) fn renew_link(&mut self, engine: &Engine, holder: HolderId) {
        let outdated = |bulk: &Bulk| bulk.holder == holder && !bulk.link.is_current(engine, holder);
        if let Some(index) = self.bulks.iter().position(outdated) {
            let bulk = self.bulks.swap_remove(index);
            self.mend(engine, bulk, Trouble::Gone);
        }
    }

    pub(crate) fn bulk(&mut self, engine: &Engine, holder: HolderId) -> Result<usize, NoLink> {
        match self.bulks.iter().position(|bulk| bulk.holder == holder) {
            Some(index) => Ok(index),
            None => self.open(engine, holder),
        }
    }

    fn open(&mut self, engine: &Engine, holder: HolderId) -> Result<usize, NoLink> {
        let link = links::open(engine, holder, Role::Bulk)?;
        self.bulks.push(Bulk::new(holder, link));
        Ok(self.bulks.len() - 1)
    }

    /// All pages of this engine go. Waits a moment for the holders' farewell, so that who asks them next finds the room.
    pub(crate) fn say_goodbye(&mut self) {
        for bulk in &mut self.bulks {
            if bulk.link.send_goodbye(u64::MAX).is_ok() {
                let _ = bulk.link.wait(200, &mut |_| {});
            }
        }
    }
}
