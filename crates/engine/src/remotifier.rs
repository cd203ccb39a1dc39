//! Step 6: the thread that sends pages away when the store is over its limit, and tells holders what was flushed. Covers the loop and its decisions'
//! execution; what one batch is made of is `sending.rs`'s, its links `relink.rs`'s, new copies for lost ones and what holders want back `rebuild.rs`'s. Never frees a page that was not acknowledged
//! by all its holders. Idle, it sleeps for good.

use std::sync::{Arc, Weak};

use ramster_core::handle::{Class, HolderId};
use ramster_core::tmem::{Acknowledged, Batch, FlushOrder};
use ramster_sys::say::say;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bulk::{Answered, Bulk, Purpose, Trouble};
use crate::clock::now_ms;
use crate::engine::Engine;
use crate::holders::SPILL;
use crate::homeward::Homeward;
use crate::links::NoLink;
use crate::packing::Packing;
use crate::placement::Placement;
use crate::rebuild::Rebuild;
use crate::relink::Unreached;
use crate::sending::{LOCKED, STUCK_MS, Turn};
use crate::spill::{self, Done};
use crate::statblock::Stat;
use crate::threads::Wake;

/// Flushes are collected this long, then sent together.
const FLUSH_DELAY_MS: u64 = 20;
/// A holder that said it is full is asked again after this.
pub(crate) const FULL_MS: u64 = 1000;
/// Batches sent, or steps of compaction done, before answers are looked at again.
const MAX_TURNS: usize = 16;

pub struct Remotifier {
    engine: Weak<Engine>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) bulks: Vec<Bulk>,
    pub(crate) batch: Batch,
    /// Lined up to send a batch of one of them.
    pub(crate) classes: Vec<Class>,
    pub(crate) last_class: Class,
    pub(crate) packing: Packing,
    pub(crate) orders: Vec<FlushOrder>,
    answered: Vec<Answered>,
    pub(crate) placement: Placement,
    pub(crate) rebuild: Rebuild,
    disk_done: Vec<Done>,
    /// What was last counted of the disk's condition.
    disk_word: &'static str,
    /// Under way: goes on to a little below the limit.
    pub(crate) sending: bool,
    flush_at_ms: Option<u64>,
    pub(crate) unreached: Unreached,
    pub(crate) homeward: Homeward,
    /// The last batch left then.
    pub(crate) sent_ms: u64,
}

impl Remotifier {
    pub fn new(engine: &Engine, wake: Arc<Wake>) -> Self {
        Remotifier {
            engine: engine.me(),
            wake,
            bulks: engine.take_adopted_links().into_iter().map(|(holder, link)| Bulk::new(holder, link)).collect(),
            batch: Batch::default(),
            classes: Vec::new(),
            last_class: Class::RUN,
            packing: Packing::new(engine),
            orders: Vec::new(),
            answered: Vec::new(),
            placement: Placement::new(engine),
            rebuild: Rebuild::default(),
            disk_done: Vec::new(),
            disk_word: "ok",
            sending: false,
            flush_at_ms: None,
            unreached: Unreached::default(),
            homeward: Homeward::default(),
            sent_ms: now_ms(),
        }
    }

    pub fn run(mut self) {
        while let Some(engine) = self.engine.upgrade().filter(|engine| !engine.is_closed()) {
            let wait_ms = self.work(&engine);
            // Not held while asleep: a forgotten engine ends its thread.
            drop(engine);
            self.sleep(wait_ms);
        }
        self.say_goodbye();
    }

    /// Everything that can be done now. Returns how long to sleep at most; None: until somebody wakes us.
    fn work(&mut self, engine: &Engine) -> Option<u64> {
        self.wake.silence();
        engine.threads.hear_pressure();
        self.receive(engine);
        let disk_ms = self.heed_disk(engine);
        let now = now_ms();
        self.see_to_flushes(engine, now);
        let mut wait_ms = None;
        for _ in 0..MAX_TURNS {
            match self.send(engine, now) {
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
                    wait_ms = (engine.holders().any_listed() || engine.spill().is_some()).then_some(STUCK_MS);
                    break;
                }
            }
        }
        let home_ms = self.come_home(engine, now);
        let rebuild_ms = self.rebuild(engine, now);
        let reach_ms = self.reach(engine, now);
        // Answers and moves leave copies that nobody wants.
        engine.note_flushes();
        let flush_ms = self.flush_at_ms.map(|at_ms| at_ms.saturating_sub(now));
        let answer_ms = self.bulks.iter().filter_map(Bulk::deadline_ms).min().map(|at_ms| at_ms.saturating_sub(now));
        [wait_ms, home_ms, rebuild_ms, reach_ms, flush_ms, answer_ms, disk_ms].into_iter().flatten().min()
    }

    fn sleep(&self, wait_ms: Option<u64>) {
        let mut polled = vec![PollFd::from_borrowed_fd(self.wake.fd(), PollFlags::IN)];
        for bulk in &self.bulks {
            let out = if bulk.link.has_unsent() { PollFlags::OUT } else { PollFlags::empty() };
            polled.push(PollFd::from_borrowed_fd(bulk.link.fd(), PollFlags::IN | out));
        }
        let timeout = wait_ms.map(|ms| Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000 * 1_000_000) as i64 });
        // Whatever it says, the next turn looks at everything.
        let _ = poll(&mut polled, timeout.as_ref());
    }

    /// Answers: what is acknowledged leaves the store, what is refused is local again.
    fn receive(&mut self, engine: &Engine) {
        let now = now_ms();
        let mut index = 0;
        while index < self.bulks.len() {
            self.answered.clear();
            let bulk = &mut self.bulks[index];
            let holder = bulk.holder;
            let mut received = bulk.receive(&mut self.answered);
            if received.is_ok() && bulk.deadline_ms().is_some_and(|at_ms| at_ms <= now) {
                received = Err(Trouble::Silent);
            }
            let free_bytes = bulk.free_bytes();
            self.rebuild.recall(holder, bulk.link.take_recall_bytes(), now);
            self.heed_answers(engine, holder, free_bytes, now);
            match received {
                Ok(()) => index += 1,
                Err(trouble) => {
                    let bulk = self.bulks.swap_remove(index);
                    self.mend(engine, bulk, trouble);
                }
            }
        }
    }

    fn heed_answers(&mut self, engine: &Engine, holder: HolderId, free_bytes: u64, now_ms: u64) {
        if self.answered.is_empty() {
            return;
        }
        let (mut stored, mut remotified) = (0, 0);
        // A lock for every 64: an answer may be about more.
        for answered in self.answered.chunks(LOCKED.pages) {
            engine.with_tmem(|tmem| {
                for page in answered {
                    stored += u64::from(page.stored);
                    match (page.purpose, page.stored) {
                        (Purpose::Leaves, true) => {
                            let acknowledged = tmem.acknowledged(&page.handle, page.version, holder);
                            remotified += u64::from(acknowledged != Acknowledged::Waiting);
                        }
                        (Purpose::Leaves, false) => tmem.refused(&page.handle, page.version, holder),
                        (Purpose::Copies, true) => {
                            tmem.rebuilt(&page.handle, page.version, holder);
                        }
                        (Purpose::Shards(shard), true) => {
                            tmem.rebuilt_shard(&page.handle, page.version, holder, shard);
                        }
                        (_, false) => tmem.not_rebuilt(&page.handle, page.version, holder),
                    }
                }
            });
        }
        let refused = self.answered.len() as u64 - stored;
        engine.stats().add(Stat::PagesRemotified, remotified);
        engine.stats().add(Stat::RemotifyRefused, refused);
        engine.holders().update(holder, |entry| {
            entry.free_bytes = Some(free_bytes);
            if refused > 0 {
                entry.full_until_ms = now_ms + FULL_MS;
            }
        });
        engine.limits.room.ring();
    }

    /// Hands queued flushes to their links, once they have been collected for a moment.
    fn see_to_flushes(&mut self, engine: &Engine, now_ms: u64) {
        if engine.threads.are_flushes_waiting() || !self.orders.is_empty() {
            let at_ms = *self.flush_at_ms.get_or_insert(now_ms + FLUSH_DELAY_MS);
            if at_ms <= now_ms {
                self.flush_at_ms = None;
                engine.threads.hear_flushes();
                let orders = &mut self.orders;
                engine.with_tmem(|tmem| tmem.take_flushes(usize::MAX, orders));
                self.hand_out_orders(engine);
                // What could not be handed out yet has its next turn.
                self.flush_at_ms = (!self.orders.is_empty()).then_some(now_ms + STUCK_MS);
            }
        }
        self.send_flushes(engine, now_ms);
    }

    /// All that is queued, ahead of what is sent next.
    pub(crate) fn flush_now(&mut self, engine: &Engine, now_ms: u64) {
        let orders = &mut self.orders;
        engine.with_tmem(|tmem| tmem.take_flushes(usize::MAX, orders));
        if !self.orders.is_empty() {
            self.hand_out_orders(engine);
            self.send_flushes(engine, now_ms);
        }
    }

    /// To the spill file at once, to links in order. What has no link for the moment stays in `orders`, in order.
    pub(crate) fn hand_out_orders(&mut self, engine: &Engine) {
        let (mut waiting, mut dead) = (Vec::new(), Vec::new());
        for order in std::mem::take(&mut self.orders) {
            if order.holder == SPILL {
                if let Some(spill) = engine.spill() {
                    spill.flush(&order.what);
                }
            } else if waiting.iter().any(|other: &FlushOrder| other.holder == order.holder) {
                waiting.push(order);
            } else if !dead.contains(&order.holder) {
                match self.bulk(engine, order.holder) {
                    Ok(index) => self.bulks[index].flush(order.what),
                    // All of them: one for each try to reach it again would last for hours.
                    Err(NoLink::Died) => dead.push(order.holder),
                    Err(NoLink::NotNow) => waiting.push(order),
                }
            }
        }
        self.orders = waiting;
    }

    pub(crate) fn send_flushes(&mut self, engine: &Engine, now_ms: u64) {
        let mut index = 0;
        while index < self.bulks.len() {
            match self.bulks[index].send_flushes(now_ms) {
                Ok(sent) => {
                    engine.stats().add(Stat::FlushesSent, sent);
                    index += 1;
                }
                Err(trouble) => {
                    let bulk = self.bulks.swap_remove(index);
                    self.mend(engine, bulk, trouble);
                }
            }
        }
    }

    /// What the spill file has written, or could not. Returns when to look again.
    fn heed_disk(&mut self, engine: &Engine) -> Option<u64> {
        let spill = engine.spill()?;
        self.disk_done.clear();
        spill.take_done(&mut self.disk_done);
        let (mut spilled, mut remotified) = (0, 0);
        for some in self.disk_done.chunks(LOCKED.pages) {
            engine.with_tmem(|tmem| {
                for page in some {
                    if !page.stored {
                        tmem.refused(&page.handle, page.version, SPILL);
                        continue;
                    }
                    spilled += 1;
                    let acknowledged = tmem.acknowledged(&page.handle, page.version, SPILL);
                    // With the last copy of several it is the page that has gone.
                    remotified += u64::from(page.with_peers && acknowledged == Acknowledged::Remote);
                }
            });
        }
        let stats = engine.stats();
        stats.add(Stat::PagesSpilled, spilled);
        stats.add(Stat::PagesRemotified, remotified);
        stats.add(Stat::SpillFull, self.disk_done.len() as u64 - spilled);
        let word = spill.word();
        if word != self.disk_word {
            for (stat, is) in [(Stat::DiskHangs, "hangs"), (Stat::DiskFull, "full"), (Stat::DiskFailed, "failed")] {
                // What is added once is taken away once: the sum over the tree is how many of its processes are so.
                stats.add(stat, u64::from(word == is).wrapping_sub(u64::from(self.disk_word == is)));
            }
            let dir = spill.dir().display();
            match (std::mem::replace(&mut self.disk_word, word), word) {
                (_, "hangs") => {
                    say(format_args!("spill directory {dir} does not answer; pages stay here or go to peers until it does"))
                }
                ("hangs", _) => say(format_args!("spill directory {dir} answers again")),
                _ => {} // said where it was found
            }
        }
        if !self.disk_done.is_empty() {
            engine.limits.room.ring();
        }
        // Whoever waits for a disk that hangs wakes nobody.
        (spill.is_busy() || spill.live_bytes() > 0).then_some(spill::LOOK_MS)
    }
}
