//! Steps 11 to 13 for one thread: get pages, from here at once, from a peer without blocking. Covers the fault path's side of a get; the requests
//! on their way are `fetches.rs`.

use std::sync::Arc;

use ramster_core::backend::{Get, Keep, Loss, Lost};
use ramster_core::compress::{Kind, Packed, Packer, fill};
use ramster_core::handle::{Handle, HolderId};
use ramster_core::localify::Copy;
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_core::seal::{self, Opens, TAG_BYTES};
use ramster_core::tmem::{Answer, COPIES_MAX, Copied, Fetched, Unfetched};
use rustix::fd::BorrowedFd;

use crate::clock::{now_ms, now_ns};
use crate::engine::Engine;
use crate::fetches::{self, Fetch, Fetches, Sealed};
use crate::gather::Gathers;
use crate::histograms::{SAMPLE, Timed};
use crate::holders::SPILL;
use crate::statblock::Stat;

/// Pages looked up under one lock: some 10 us of holding it, which another fault may have to wait for.
const RUN_PAGES: usize = 16;

/// One a fault-handler thread; owns its links to holders, opened when first needed. Never blocks, except that opening a link takes up to a deadline.
pub struct Lane {
    engine: Arc<Engine>,
    core: LaneCore,
}

/// What a get says at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneGet {
    /// The page has been written.
    Hit,
    Miss,
    Lost(Lost),
    /// The page is on its way; `ready` delivers it under this number, which is never used twice in a lane.
    Pending(u64),
}

/// What `ready` delivers.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    Page(&'a Page),
    /// Flushed while it was on its way (or ephemeral and gone).
    Miss,
    Lost(Lost),
}

pub type Deliver<'a> = dyn FnMut(u64, &Handle, Arrival<'_>) + 'a;

impl Lane {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let core = LaneCore::new(&engine);
        Lane { engine, core }
    }

    pub fn get(&mut self, handle: &Handle, keep: Keep, page: &mut Page) -> LaneGet {
        let outcome = self.core.get(&self.engine, handle, keep, page);
        if matches!(outcome, LaneGet::Pending(_)) {
            self.core.fetches.send(&self.engine);
        }
        self.engine.note_flushes();
        outcome
    }

    /// Many at once, for read-ahead: few locks, and one message per holder. `pages` and `handles` have one length (at most 64);
    /// `outcomes` is filled in the same order.
    pub fn get_run(&mut self, handles: &[Handle], keep: Keep, pages: &mut [&mut Page], outcomes: &mut Vec<LaneGet>) {
        outcomes.clear();
        for (handles, pages) in handles.chunks(RUN_PAGES).zip(pages.chunks_mut(RUN_PAGES)) {
            self.core.get_few(&self.engine, handles, keep, pages, outcomes);
        }
        self.core.fetches.send(&self.engine);
        self.engine.note_flushes();
    }

    /// Poll it for reading together with your own descriptors: readable when `ready` has something to do. The same for the life of the lane.
    /// None before anything was remote: look again after a `Pending`.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.core.fetches.fd()
    }

    /// Takes what has arrived, without blocking, and delivers it, also what has missed its deadline by `now_ms` ([`crate::now_ms`]).
    /// Returns how many were delivered.
    pub fn ready(&mut self, now_ms: u64, deliver: &mut Deliver<'_>) -> usize {
        self.ready_at(now_ms * 1_000_000, deliver)
    }

    /// The same by [`crate::now_ns`], so that what arrives is timed exactly.
    pub fn ready_at(&mut self, now_ns: u64, deliver: &mut Deliver<'_>) -> usize {
        self.core.ready(&self.engine, now_ns, deliver)
    }

    /// When to call `ready` at the latest. None: nothing is on its way.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.core.fetches.next_deadline_ms()
    }

    /// Whether the page under this number comes from the spill file. Only right after the get.
    pub fn is_from_disk(&self, token: u64) -> bool {
        self.core.fetches.is_from_disk(token)
    }

    /// How many pages are on their way.
    pub fn pending(&self) -> usize {
        self.core.fetches.len()
    }
}

/// A lane without its engine, so that the engine can keep some for gets that block.
pub(crate) struct LaneCore {
    pub(crate) fetches: Fetches,
    unpacker: Unpacker,
    copied: Vec<Copied>,
    answers: Vec<Answer>,
    /// Gets, or runs of gets, so far.
    untimed: u64,
    /// Where pages that arrive are unpacked to.
    page: Box<Page>,
}

pub(crate) enum Looked {
    Done(Result<Get, Lost>),
    Away(Copy),
}

/// What turns stored or fetched bytes into a page.
pub(crate) struct Unpacker {
    pub(crate) packer: Packer,
    opened: Box<seal::Sealed>,
    pub(crate) gathers: Gathers,
}

/// A page, or why not, or where to look next.
pub(crate) enum Outcome {
    Hit,
    Miss,
    Lost(Lost),
    Away(Copy),
}

impl LaneCore {
    pub(crate) fn new(engine: &Engine) -> Self {
        LaneCore {
            fetches: Fetches::new(Arc::clone(engine.inherited())),
            unpacker: Unpacker {
                packer: engine.new_packer(),
                opened: Box::new([0; PAGE_BYTES + TAG_BYTES]),
                gathers: Gathers::new(),
            },
            copied: vec![Copied::default()],
            answers: Vec::with_capacity(RUN_PAGES),
            untimed: 0,
            page: Box::new([0; PAGE_BYTES]),
        }
    }

    /// `Pending` is queued, not sent.
    pub(crate) fn get(&mut self, engine: &Engine, handle: &Handle, keep: Keep, page: &mut Page) -> LaneGet {
        let begun_ns = self.begin_timing();
        let copied = &mut self.copied[0];
        let answer = engine.with_tmem(|tmem| tmem.get(handle, keep, copied));
        let outcome = self.settle(engine, handle, keep, answer, 0, page);
        end_timing(engine, begun_ns, answer);
        outcome
    }

    /// One get, or run of gets, in [`SAMPLE`] reads the clock.
    fn begin_timing(&mut self) -> Option<u64> {
        self.untimed += 1;
        self.untimed.is_multiple_of(SAMPLE).then(now_ns)
    }

    /// For a get that waits: the page, or which copy to fetch.
    pub(crate) fn look(&mut self, engine: &Engine, handle: &Handle, keep: Keep, page: &mut Page) -> Looked {
        let begun_ns = self.begin_timing();
        let copied = &mut self.copied[0];
        let answer = engine.with_tmem(|tmem| tmem.get(handle, keep, copied));
        let outcome = self.settle_here(engine, handle, keep, answer, 0, page);
        end_timing(engine, begun_ns, answer);
        match outcome {
            Outcome::Hit => Looked::Done(Ok(Get::Hit)),
            Outcome::Miss => Looked::Done(Ok(Get::Miss)),
            Outcome::Lost(lost) => Looked::Done(Err(lost)),
            Outcome::Away(copy) => Looked::Away(copy),
        }
    }

    /// `wait_ms`: at most the engine's get deadline.
    pub(crate) fn queue(&mut self, engine: &Engine, handle: &Handle, copy: Copy, keep: Keep, wait_ms: u64) -> Option<u64> {
        let begun_ns = now_ns();
        let now_ms = begun_ns / 1_000_000;
        let fetch = Fetch::new(*handle, keep, copy, (begun_ns, now_ms + wait_ms));
        let Self { fetches, unpacker, .. } = self;
        fetches.queue(engine, fetch, |fetch, waiting| unpacker.fetch(engine, fetch, now_ms, waiting))
    }

    fn get_few(&mut self, engine: &Engine, handles: &[Handle], keep: Keep, pages: &mut [&mut Page], outcomes: &mut Vec<LaneGet>) {
        if self.copied.len() < handles.len() {
            self.copied.resize_with(handles.len(), Copied::default);
        }
        let begun_ns = self.begin_timing();
        let (copied, answers) = (&mut self.copied, &mut self.answers);
        answers.clear();
        engine.with_tmem(|tmem| {
            answers.extend(handles.iter().zip(copied).map(|(handle, copied)| tmem.get(handle, keep, copied)));
        });
        for (index, (handle, page)) in handles.iter().zip(pages).enumerate() {
            let answer = self.answers[index];
            outcomes.push(self.settle(engine, handle, keep, answer, index, page));
        }
        let is_local = |answer: &Answer| matches!(answer, Answer::Local | Answer::Same(_));
        if let Some(begun_ns) = begun_ns.filter(|_| self.answers.iter().all(is_local)) {
            let count = self.answers.len().max(1) as u64;
            engine.stats().time_many(Timed::GetLocal, now_ns().saturating_sub(begun_ns) / count, count);
        }
    }

    /// From tmem's answer to the caller's, with no lock held.
    fn settle(&mut self, engine: &Engine, handle: &Handle, keep: Keep, answer: Answer, index: usize, page: &mut Page) -> LaneGet {
        match self.settle_here(engine, handle, keep, answer, index, page) {
            Outcome::Hit => LaneGet::Hit,
            Outcome::Miss => LaneGet::Miss,
            Outcome::Lost(lost) => LaneGet::Lost(lost),
            Outcome::Away(copy) => match self.queue(engine, handle, copy, keep, engine.get_deadline_ms()) {
                Some(token) => LaneGet::Pending(token),
                None => LaneGet::Lost(Lost { handle: *handle, holder: Some(copy.holder), why: Loss::Deadline }),
            },
        }
    }

    /// Away only if it has to be waited for: what was read from the spill file along with others is here.
    fn settle_here(
        &mut self,
        engine: &Engine,
        handle: &Handle,
        keep: Keep,
        answer: Answer,
        index: usize,
        page: &mut Page,
    ) -> Outcome {
        let Self { fetches, unpacker, copied, .. } = self;
        let outcome = unpacker.settle(engine, handle, answer, &mut copied[index], page);
        let Outcome::Away(copy @ Copy { holder: SPILL, shards: None, .. }) = outcome else { return outcome };
        let Some(read) = fetches.find_read(engine, handle, copy.version) else { return outcome };
        engine.stats().add(Stat::DiskReadAlong, 1);
        let now_ns = now_ns();
        let fetch = Fetch::new(*handle, keep, copy, (now_ns, u64::MAX));
        unpacker.land(engine, (&fetch, now_ns / 1_000_000), Ok(read), &mut copied[index], page)
    }

    pub(crate) fn ready(&mut self, engine: &Engine, now_ns: u64, deliver: &mut Deliver<'_>) -> usize {
        let now_ms = now_ns / 1_000_000;
        let Self { fetches, unpacker, copied, page, .. } = self;
        let mut delivered = 0;
        loop {
            fetches.receive(engine, now_ms, &mut |fetch, blob, waiting| {
                let outcome = match fetch.shard {
                    None => Some(unpacker.land(engine, (fetch, now_ms), blob, &mut copied[0], page)),
                    Some(shard) => unpacker.land_shard(engine, (fetch, shard, now_ms), blob, (&mut copied[0], page), waiting),
                };
                let arrival = match outcome {
                    None => return,
                    Some(Outcome::Hit) => Arrival::Page(page),
                    Some(Outcome::Miss) => Arrival::Miss,
                    Some(Outcome::Lost(lost)) => Arrival::Lost(lost),
                    Some(Outcome::Away(copy)) => {
                        return unpacker.fetch(engine, fetch.elsewhere(copy, now_ms), now_ms, waiting);
                    }
                };
                if matches!(arrival, Arrival::Page(_)) {
                    engine.stats().time(Timed::GetRemote, now_ns.saturating_sub(fetch.begun_ns));
                }
                delivered += 1;
                deliver(fetch.token, &fetch.handle, arrival);
            });
            // A holder that turns out to be dead now fails its fetches: those are delivered too.
            if !fetches.send(engine) {
                break;
            }
        }
        engine.note_flushes();
        delivered
    }
}

impl Unpacker {
    /// From tmem's answer to a page, unless it is at a holder.
    fn settle(&mut self, engine: &Engine, handle: &Handle, answer: Answer, copied: &mut Copied, page: &mut Page) -> Outcome {
        match answer {
            Answer::Local => match self.packer.unpack(copied.packed(), page) {
                Ok(()) => Outcome::Hit,
                Err(_) => {
                    engine.stats().add(Stat::PagesLost, 1);
                    Outcome::Lost(Lost { handle: *handle, holder: None, why: Loss::Corrupt })
                }
            },
            Answer::Same(value) => {
                fill(page, value);
                Outcome::Hit
            }
            Answer::Miss => Outcome::Miss,
            Answer::Lost(lost) => Outcome::Lost(lost),
            Answer::RemoteAt { holder, version, digest, others } => {
                Outcome::Away(prefer(engine, handle, Copy { holder, version, digest, others, shards: None }))
            }
            Answer::ShardsAt { site, version, digest } => {
                let holder = site.first().unwrap_or(HolderId(u16::MAX));
                let others = site.holders().len() > site.needed();
                Outcome::Away(Copy { holder, version, digest, others, shards: Some(site) })
            }
        }
    }

    /// From what a holder said to a page. The page may have been put or flushed meanwhile: then it is looked up again, never older bytes delivered.
    fn land(
        &mut self,
        engine: &Engine,
        (fetch, now_ms): (&Fetch, u64),
        sealed: Result<Sealed<'_>, Loss>,
        copied: &mut Copied,
        page: &mut Page,
    ) -> Outcome {
        let (handle, keep, copy) = (&fetch.handle, fetch.keep, &fetch.copy);
        let (packer, opened) = (&mut self.packer, &mut self.opened);
        let packed = sealed.and_then(|Sealed { kind, tag, bytes }| {
            let opened = match tag {
                None => bytes,
                Some(tag) => engine.seals().open(handle, copy.version, kind, &tag, bytes, opened).map_err(|_| Loss::Corrupt)?,
            };
            // The digest is our own: what the holder says of it would prove nothing.
            Ok(Packed { kind: Kind::from_tag(kind).ok_or(Loss::Corrupt)?, digest: copy.digest, bytes: opened })
        });
        let unpacked = packed.and_then(|packed| packer.unpack(packed, page).map_err(|_| Loss::Corrupt));
        let from_disk = copy.holder == SPILL;
        let late = sealed.err() == Some(Loss::Deadline);
        let overdue = fetch.is_overdue(now_ms);
        engine
            .stats()
            .add(Stat::DiskUnreadable, u64::from(from_disk && matches!(unpacked, Err(Loss::SpillFailed | Loss::Corrupt))));
        // What is on disk stays there: to write it anew some day would cost more than to read it again.
        let stays = packed.ok().filter(|_| !from_disk);
        let outcome = match conclude(engine, handle, copy, keep, unpacked, stays) {
            Some(Outcome::Away(_)) if late && overdue => {
                Some(Outcome::Lost(Lost { handle: *handle, holder: Some(copy.holder), why: Loss::Deadline }))
            }
            // It was only time to ask somebody else, and nobody else has it any more.
            Some(Outcome::Lost(_)) if late && !overdue => Some(Outcome::Away(Copy { others: false, ..*copy })),
            Some(Outcome::Away(other)) => {
                if late {
                    engine.holders().slow(copy.holder, now_ms);
                }
                engine.stats().add(Stat::GetsElsewhere, 1);
                Some(Outcome::Away(other))
            }
            outcome => {
                let came = if from_disk { Stat::PagesUnspilled } else { Stat::PagesLocalified };
                engine.stats().add(came, u64::from(matches!(outcome, Some(Outcome::Hit))));
                outcome
            }
        };
        if let Some(outcome) = outcome {
            engine.stats().add(Stat::GetsDeadline, u64::from(late && overdue && !matches!(outcome, Outcome::Hit)));
            return outcome;
        }
        self.look_again(engine, handle, keep, copied, page)
    }

    /// Puts a fetch, or one for each shard that it takes, among those that wait.
    fn fetch(&mut self, engine: &Engine, fetch: Fetch, now_ms: u64, waiting: &mut Vec<Fetch>) {
        match fetch.copy.shards {
            Some(site) => self.gathers.begin(engine, &fetch, site, now_ms, waiting),
            None => {
                let joined = fetches::push(waiting, fetch);
                engine.stats().add(Stat::GetsJoined, u64::from(joined));
            }
        }
    }

    /// A page was put or flushed while it was fetched: what it is now.
    pub(crate) fn look_again(
        &mut self,
        engine: &Engine,
        handle: &Handle,
        keep: Keep,
        copied: &mut Copied,
        page: &mut Page,
    ) -> Outcome {
        // Who asked for the copy that is gone may want this one no more (discarded and written anew meanwhile): it must not be the last.
        let keep = if keep == Keep::KeepRemote { Keep::Keep } else { keep };
        let answer = engine.with_tmem(|tmem| tmem.get(handle, keep, copied));
        self.settle(engine, handle, answer, copied, page)
    }
}

fn end_timing(engine: &Engine, begun_ns: Option<u64>, answer: Answer) {
    if let Some(begun_ns) = begun_ns
        && matches!(answer, Answer::Local | Answer::Same(_))
    {
        engine.stats().time(Timed::GetLocal, now_ns().saturating_sub(begun_ns));
    }
}

/// A holder that did not answer just now is asked only if nobody else has the page.
fn prefer(engine: &Engine, handle: &Handle, copy: Copy) -> Copy {
    if !copy.others {
        return copy;
    }
    let now = now_ms();
    let mut holder = copy.holder;
    for _ in 1..COPIES_MAX {
        if !engine.holders().is_slow(holder, now) {
            break;
        }
        holder = engine.with_tmem(|tmem| tmem.other_copy(handle, copy.version, holder)).unwrap_or(holder);
    }
    Copy { holder, ..copy }
}

/// Tells tmem how a fetch ended, and asks it whether that still matters. None: the page was put or flushed meanwhile.
pub(crate) fn conclude(
    engine: &Engine,
    handle: &Handle,
    copy: &Copy,
    keep: Keep,
    unpacked: Result<(), Loss>,
    packed: Option<Packed<'_>>,
) -> Option<Outcome> {
    let has_room = || engine.store_bytes() < engine.limits.soft_limit_bytes() / 4 * 3;
    let version = copy.version;
    let mut thinned = false;
    let outcome = engine.with_tmem(|tmem| match unpacked {
        Ok(()) => {
            let current = tmem.localified(handle, version, keep) == Fetched::Current;
            // Kept by somebody who will ask again: it moves home when there is room.
            if let Some(packed) = packed.filter(|_| current && keep == Keep::Keep && has_room()) {
                tmem.repatriated(handle, version, packed);
            }
            current.then_some(Outcome::Hit)
        }
        Err(why) => match tmem.unfetched(handle, version, copy.holder, why) {
            Unfetched::Stale => None,
            Unfetched::Elsewhere(holder) => {
                thinned = why != Loss::Deadline;
                Some(Outcome::Away(Copy { holder, ..*copy }))
            }
            Unfetched::Miss => Some(Outcome::Miss),
            Unfetched::Lost(lost) => Some(Outcome::Lost(lost)),
        },
    });
    if thinned {
        engine.note_thinned();
    }
    outcome
}
