//! Steps 11 to 13: a get, from here at once or from a holder. Covers looking, landing and what each outcome must be; mirrors engine/lane.rs and, for getters
//! that share a flight, engine/blocking.rs.

use ramster_core::backend::{Keep, Loss, Lost};
use ramster_core::compress::{Packed, fill};
use ramster_core::handle::{Handle, Version};
use ramster_core::localify::{Copy, Join};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_core::tmem::{Answer, COPIES_MAX, Fetched, Unfetched};

use super::Owner;
use super::fetches::{Fetch, Sealed};
use super::table::{SPILL, place_of};
use crate::clock::MS;
use crate::ctx::Ctx;

/// As in engine/options.rs and blocking.rs.
pub const GET_DEADLINE_MS: u64 = 20_000;
const GRACE_MS: u64 = 100;
/// Over the deadline by more than this a get counts as hung: the opening of a link, and waking.
const HUNG_MS: u64 = 1200;

pub struct Getting {
    handle: Handle,
    keep: Keep,
    start_us: u64,
    deadline_ms: u64,
    /// To be looked up again then: its flight was full, or of an older copy.
    again_ms: Option<u64>,
}

enum Outcome {
    Hit(Box<Page>),
    Miss,
    Lost(Lost),
    Away(Copy),
}

impl Owner {
    pub fn get(&mut self, ctx: &mut Ctx, handle: Handle, keep: Keep) {
        self.last_get += 1;
        let grace_ms = if self.settings.hard { GRACE_MS } else { 0 };
        let deadline_ms = ctx.now_ms() + GET_DEADLINE_MS + grace_ms;
        let getting = Getting { handle, keep, start_us: ctx.clock.now_us, deadline_ms, again_ms: None };
        self.gets.insert(self.last_get, getting);
        self.look_up(ctx, self.last_get);
        if self.send_fetches(ctx) || !self.gets.is_empty() {
            self.wake_lane(ctx, 0);
        }
        self.note_flushes(ctx);
    }

    fn look_up(&mut self, ctx: &mut Ctx, getter: u64) {
        let Some(getting) = self.gets.get_mut(&getter) else { return };
        let (handle, keep, deadline_ms) = (getting.handle, getting.keep, getting.deadline_ms);
        getting.again_ms = None;
        let answer = self.tmem.get(&handle, keep, &mut self.copied);
        let copy = match self.settle(ctx, &handle, keep, answer) {
            Outcome::Away(copy) => copy,
            outcome => return self.deliver(ctx, getter, &outcome, Some((keep, true))),
        };
        let flight = self.settings.hard.then_some(copy.version);
        if flight.is_some() {
            match self.flights.join(&handle, copy, keep, getter, deadline_ms) {
                Join::First => {}
                Join::Joined => return,
                Join::Full if deadline_ms <= ctx.now_ms() => {
                    let lost = Lost { handle, holder: Some(copy.holder), why: Loss::Deadline };
                    return self.deliver(ctx, getter, &Outcome::Lost(lost), None);
                }
                Join::Full => {
                    let again_ms = Some(ctx.now_ms() + 1);
                    self.gets.entry(getter).and_modify(|getting| getting.again_ms = again_ms);
                    return;
                }
            }
        }
        // Freeing is for the end where others may join: somebody may want it kept.
        let at_first = if flight.is_some() && keep == Keep::Free { Keep::KeepRemote } else { keep };
        // What is left of its time: it may have waited for an older copy's flight to end.
        let grace_ms = if self.settings.hard { GRACE_MS } else { 0 };
        let fetch_ms = deadline_ms - grace_ms;
        assert!(self.fetches.queue(Fetch::new(getter, handle, at_first, copy, flight, fetch_ms)), "P7: too many fetches");
    }

    /// Getters without a fetch of their own: those that look again, and those whose time is up.
    pub(super) fn look_at_waiters(&mut self, ctx: &mut Ctx) {
        let now_ms = ctx.now_ms();
        let due = |getting: &Getting| getting.again_ms.is_some_and(|at_ms| at_ms <= now_ms);
        let again: Vec<u64> = self.gets.iter().filter(|(_, getting)| due(getting)).map(|(getter, _)| *getter).collect();
        for getter in again {
            self.look_up(ctx, getter);
        }
        self.send_fetches(ctx);
    }

    pub(super) fn next_waiter_ms(&self) -> Option<u64> {
        self.gets.values().filter_map(|getting| getting.again_ms).min()
    }

    /// From tmem's answer to a page, or to which copy to fetch.
    fn settle(&mut self, ctx: &mut Ctx, handle: &Handle, keep: Keep, answer: Answer) -> Outcome {
        let mut answer = answer;
        loop {
            let copy = match answer {
                Answer::Local => {
                    let mut page = Box::new([0; PAGE_BYTES]);
                    let unpacked = self.packer.unpack(self.copied.packed(), &mut page);
                    assert!(unpacked.is_ok(), "P1: what is stored here of {handle:?} is {unpacked:?}");
                    return Outcome::Hit(page);
                }
                Answer::Same(value) => {
                    let mut page = Box::new([0; PAGE_BYTES]);
                    fill(&mut page, value);
                    return Outcome::Hit(page);
                }
                Answer::Miss => return Outcome::Miss,
                Answer::Lost(lost) => return Outcome::Lost(lost),
                // No history asks for shards.
                Answer::ShardsAt { .. } => unreachable!("nothing here is coded"),
                Answer::RemoteAt { holder, version, digest, others } => {
                    self.prefer(ctx, handle, Copy { holder, version, digest, others, shards: None })
                }
            };
            match self.unspill(ctx, handle, keep, copy) {
                Some(outcome) => return outcome,
                None => answer = self.tmem.get(handle, keep, &mut self.copied),
            }
        }
    }

    /// A holder that did not answer just now is asked only if nobody else has the page.
    fn prefer(&mut self, ctx: &Ctx, handle: &Handle, copy: Copy) -> Copy {
        let mut holder = copy.holder;
        for _ in 1..COPIES_MAX {
            if !copy.others || !self.table.is_slow(holder, ctx.now_ms()) {
                break;
            }
            holder = self.tmem.other_copy(handle, copy.version, holder).unwrap_or(holder);
        }
        Copy { holder, ..copy }
    }

    /// None: it was put or flushed meanwhile.
    fn unspill(&mut self, ctx: &mut Ctx, handle: &Handle, keep: Keep, copy: Copy) -> Option<Outcome> {
        if copy.holder != SPILL {
            return Some(Outcome::Away(copy));
        }
        let read = self.spill.as_mut().and_then(|spill| spill.read(&mut ctx.random, handle, copy.version));
        assert!(read.is_some(), "P3: the spill file does not have version {} of {handle:?}", copy.version);
        let mut page = Box::new([0; PAGE_BYTES]);
        let unpacked = match read {
            Some(Ok((kind, bytes))) => {
                let packed = Packed { kind, digest: copy.digest, bytes: &bytes };
                self.packer.unpack(packed, &mut page).map_err(|_| Loss::SpillFailed)
            }
            _ => Err(Loss::SpillFailed),
        };
        self.conclude(ctx, handle, &copy, keep, unpacked.map(|()| page), None)
    }

    /// From what a holder said to the getter's outcome. Returns where to look next, if anywhere.
    pub(super) fn land(&mut self, ctx: &mut Ctx, fetch: &Fetch, sealed: Result<Sealed, Loss>) -> Option<Fetch> {
        let now_ms = ctx.now_ms();
        let (handle, copy) = (&fetch.handle, &fetch.copy);
        let late = sealed.as_ref().err() == Some(&Loss::Deadline);
        let overdue = fetch.is_overdue(now_ms);
        let opened = sealed.and_then(|(kind, tag, bytes)| {
            let opened = self.seals.open(handle, copy.version, kind, &tag, &bytes);
            opened.map(|bytes| (kind, bytes)).map_err(|_| Loss::Corrupt)
        });
        let mut page = Box::new([0; PAGE_BYTES]);
        let packed = opened.as_ref().ok().map(|(kind, bytes)| Packed { kind: *kind, digest: copy.digest, bytes });
        let unpacked = match packed {
            Some(packed) => self.packer.unpack(packed, &mut page).map_err(|_| Loss::Corrupt),
            None => Err(opened.as_ref().err().copied().unwrap_or(Loss::Corrupt)),
        };
        let concluded = self.conclude(ctx, handle, copy, fetch.keep, unpacked.map(|()| page), packed);
        let outcome = match concluded {
            Some(Outcome::Away(_)) if late && overdue => {
                Some(Outcome::Lost(Lost { handle: *handle, holder: Some(copy.holder), why: Loss::Deadline }))
            }
            // It was only time to ask somebody else, and nobody else has it any more.
            Some(Outcome::Lost(_)) if late && !overdue => Some(Outcome::Away(Copy { others: false, ..*copy })),
            Some(Outcome::Away(other)) => {
                if late {
                    self.table.slow(copy.holder, now_ms);
                }
                self.unspill(ctx, handle, fetch.keep, other)
            }
            outcome => outcome,
        };
        let (outcome, relooked) = match outcome {
            Some(outcome) => (outcome, fetch.relooked),
            None => {
                // Who asked for the copy that is gone may want this one no more: it must not be the last.
                let keep = if fetch.keep == Keep::KeepRemote { Keep::Keep } else { fetch.keep };
                let answer = self.tmem.get(handle, keep, &mut self.copied);
                (self.settle(ctx, handle, keep, answer), true)
            }
        };
        match outcome {
            Outcome::Away(copy) => Some(fetch.elsewhere(copy, now_ms, relooked)),
            outcome => {
                self.ended(ctx, fetch, &outcome, relooked);
                None
            }
        }
    }

    /// For all who share the flight, or for the one who asked.
    fn ended(&mut self, ctx: &mut Ctx, fetch: &Fetch, outcome: &Outcome, relooked: bool) {
        let Some(version) = fetch.flight else {
            return self.deliver(ctx, fetch.getter, outcome, Some((fetch.keep, !relooked)));
        };
        let keep = self.gets.get(&fetch.getter).map_or(fetch.keep, |getting| getting.keep);
        let (most, getters) = self
            .flights
            .landed(&fetch.handle, version)
            .map_or((keep, vec![fetch.getter]), |flight| (flight.keep, flight.waiters));
        if most == Keep::Free && matches!(outcome, Outcome::Hit(_)) {
            self.tmem.localified(&fetch.handle, version, Keep::Free);
        }
        // All are told the same at once: what the flight takes out is taken out once.
        for (turn, getter) in getters.iter().enumerate() {
            let last = turn + 1 == getters.len();
            self.deliver(ctx, *getter, outcome, last.then_some((most, !relooked)));
        }
    }

    /// Tells tmem how a fetch ended, and asks it whether that still matters. None: the page was put or flushed meanwhile.
    fn conclude(
        &mut self,
        ctx: &mut Ctx,
        handle: &Handle,
        copy: &Copy,
        keep: Keep,
        unpacked: Result<Box<Page>, Loss>,
        packed: Option<Packed<'_>>,
    ) -> Option<Outcome> {
        let version = copy.version;
        match unpacked {
            Ok(page) => {
                let current = self.tmem.localified(handle, version, keep) == Fetched::Current;
                let has_room = self.tmem.bytes_used() < self.soft_limit_bytes() / 4 * 3;
                if let Some(packed) = packed.filter(|_| current && keep == Keep::Keep && has_room) {
                    self.tmem.repatriated(handle, version, packed);
                }
                current.then_some(Outcome::Hit(page))
            }
            Err(why) => {
                self.explain(ctx, handle, version, copy, why);
                match self.tmem.unfetched(handle, version, copy.holder, why) {
                    Unfetched::Stale => None,
                    Unfetched::Elsewhere(holder) => {
                        if why != Loss::Deadline {
                            self.note_thinned(ctx);
                        }
                        Some(Outcome::Away(Copy { holder, ..*copy }))
                    }
                    Unfetched::Miss => Some(Outcome::Miss),
                    Unfetched::Lost(lost) => Some(Outcome::Lost(lost)),
                }
            }
        }
    }

    fn explain(&self, ctx: &mut Ctx, handle: &Handle, version: Version, copy: &Copy, why: Loss) {
        let who = self.who.place;
        ctx.tell(|| format!("owner {who}: no version {version} of {handle:?} from {:?}: {why:?}", copy.holder));
    }

    /// The getter has its outcome: it must be what the plain map says. `leaves`: what a hit leaves behind, and whether nothing came between.
    fn deliver(&mut self, ctx: &mut Ctx, getter: u64, outcome: &Outcome, leaves: Option<(Keep, bool)>) {
        let Some(getting) = self.gets.remove(&getter) else { return };
        let handle = getting.handle;
        let took_us = ctx.clock.now_us - getting.start_us;
        ctx.get_longest_us = ctx.get_longest_us.max(took_us);
        match outcome {
            Outcome::Hit(page) => {
                ctx.outcomes.0 += 1;
                self.model.check_hit(&handle, page);
                if let Some((keep, exact)) = leaves {
                    self.model.hit(&handle, keep, exact);
                }
                ctx.mark(&[1, getter, u64::from(page[0])]);
            }
            Outcome::Miss => {
                ctx.outcomes.1 += 1;
                self.model.missed(&handle);
                ctx.mark(&[2, getter]);
            }
            Outcome::Lost(lost) => {
                ctx.tell(|| format!("owner {}: {lost:?}", self.who.place));
                ctx.outcomes.2 += 1;
                let cause_us = self.cause_us(ctx, lost);
                self.model.lost(&handle, lost, ctx.clock.now_us, cause_us);
                ctx.mark(&[3, getter]);
            }
            Outcome::Away(_) => {}
        }
    }

    /// When a failure last touched what this loss blames.
    fn cause_us(&self, ctx: &Ctx, lost: &Lost) -> Option<u64> {
        let holder = lost.holder?;
        if lost.why == Loss::Deadline && ctx.faults.late_is_excused {
            return Some(ctx.clock.now_us);
        }
        if lost.why == Loss::Corrupt && ctx.faults.someone_lies || holder == SPILL && ctx.faults.disks_rot {
            return Some(ctx.clock.now_us);
        }
        let last_us = |place| ctx.faults.last_us(self.who.place, place, ctx.clock.now_us);
        // A getter that waited for one holder in vain, and finds that its page is at another by now, blames that one.
        match lost.why {
            Loss::Deadline => (0..self.table.0.len()).filter_map(last_us).max(),
            _ => last_us(place_of(holder)),
        }
    }

    /// Promise 5: every get ends, by its deadline and what opening a link takes.
    pub(super) fn check_gets(&self, ctx: &Ctx) {
        let now_ms = ctx.now_ms();
        for getting in self.gets.values().filter(|_| !self.suspended && self.waiting.is_empty()) {
            // While the whole process stands still nothing of it ends: the same bound holds from when it goes on.
            let over_ms = now_ms.saturating_sub(getting.deadline_ms.max(self.went_on_ms));
            assert!(over_ms <= HUNG_MS, "P5: a get of {:?} waits since {} ms", getting.handle, getting.start_us / MS);
        }
    }
}
