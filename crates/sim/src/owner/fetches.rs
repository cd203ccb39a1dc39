//! Step 12: pages on their way to getters. Covers the lane's links, requests, retries and deadlines; what becomes of the bytes is `gets.rs`. Mirrors
//! engine/fetches.rs.

use ramster_core::backend::{Keep, Loss};
use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, HolderId, Version};
use ramster_core::localify::Copy;
use ramster_core::seal::Tag;
use ramster_core::tmem::COPIES_MAX;
use ramster_core::wire::MAX_PAGES;
use ramster_core::wire::frame::Side;
use ramster_core::wire::message::{Found, Role};

use super::Owner;
use super::link::{Link, LinkError, Said};
use super::opening::NoLink;
use crate::clock::MS;
use crate::ctx::Ctx;
use crate::net::WireId;

pub const MAX_FETCHES: usize = 16_384;
const NOT_NOW_MS: u64 = 50;
const ELSEWHERE_MS: u64 = 250;

/// One page that a getter waits for.
#[derive(Clone, Copy)]
pub struct Fetch {
    pub getter: u64,
    pub handle: Handle,
    pub keep: Keep,
    pub copy: Copy,
    /// The copy with which its flight began, if getters share it.
    pub flight: Option<Version>,
    /// It was looked up again: something came between.
    pub relooked: bool,
    pub deadline_ms: u64,
    elsewhere_ms: u64,
    hops: u8,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Queued(u64),
    Sent { request: u64, index: u16 },
    Failed(Loss),
}

/// Until its link is open.
const WITH_THE_LINK: State = State::Queued(u64::MAX);

impl Fetch {
    pub fn new(getter: u64, handle: Handle, keep: Keep, copy: Copy, flight: Option<Version>, deadline_ms: u64) -> Self {
        let (elsewhere_ms, state) = (u64::MAX, State::Queued(0));
        Fetch { getter, handle, keep, copy, flight, relooked: false, deadline_ms, elsewhere_ms, hops: 0, state }
    }

    /// The same wait, for the page where it is now, or for another copy of it.
    pub fn elsewhere(&self, copy: Copy, now_ms: u64, relooked: bool) -> Self {
        let hops = self.hops.wrapping_add(1);
        let round = usize::from(hops).is_multiple_of(COPIES_MAX);
        Fetch { copy, hops, relooked, state: State::Queued(if round { now_ms + NOT_NOW_MS } else { 0 }), ..*self }
    }

    pub fn is_overdue(&self, now_ms: u64) -> bool {
        self.deadline_ms <= now_ms
    }

    fn is_due(&self, now_ms: u64) -> bool {
        matches!(self.state, State::Queued(not_before_ms) if not_before_ms <= now_ms)
    }
}

/// What a holder sent for a page: as it was sealed, if the holder is honest.
pub type Sealed = (Kind, Tag, Vec<u8>);

#[derive(Default)]
pub struct Fetches {
    waiting: Vec<Fetch>,
    links: Vec<(HolderId, Link)>,
    last_request: u64,
}

impl Fetches {
    pub fn has(&self, wire: WireId) -> bool {
        self.links.iter().any(|(_, link)| link.wire == wire)
    }

    pub fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut().map(|(_, link)| link)
    }

    /// Takes the fetch on, or lets it join one of the same copy. False: too many are on their way.
    pub fn queue(&mut self, mut fetch: Fetch) -> bool {
        if self.waiting.len() >= MAX_FETCHES {
            return false;
        }
        let same =
            |other: &&Fetch| other.handle == fetch.handle && other.copy.version == fetch.copy.version && other.keep == fetch.keep;
        if let Some(other) = self.waiting.iter().find(same).filter(|other| other.keep != Keep::Free) {
            (fetch.copy, fetch.elsewhere_ms, fetch.hops, fetch.state) = (other.copy, other.elsewhere_ms, other.hops, other.state);
        }
        self.waiting.push(fetch);
        true
    }

    pub fn opened(&mut self, holder: HolderId, link: Link) {
        self.links.push((holder, link));
        self.for_each_at(holder, |fetch| {
            if fetch.state == WITH_THE_LINK {
                fetch.state = State::Queued(0);
            }
        });
    }

    pub fn not_opened(&mut self, holder: HolderId, verdict: NoLink, now_ms: u64) {
        self.for_each_at(holder, |fetch| {
            fetch.state = match (verdict, fetch.state) {
                (NoLink::Died, _) => State::Failed(Loss::HolderDied),
                // Those alone whose time has come.
                (_, State::Queued(not_before_ms)) if not_before_ms > now_ms && fetch.state != WITH_THE_LINK => fetch.state,
                (_, State::Queued(_)) if fetch.copy.others => State::Failed(Loss::Deadline),
                _ => State::Queued(now_ms + NOT_NOW_MS),
            };
        });
    }

    pub fn next_deadline_ms(&self) -> Option<u64> {
        let due = |fetch: &Fetch| match fetch.state {
            State::Failed(_) => 0,
            State::Queued(not_before_ms) => not_before_ms.min(fetch.deadline_ms),
            State::Sent { .. } => fetch.deadline_ms.min(fetch.elsewhere_ms),
        };
        self.waiting.iter().map(due).min()
    }

    fn for_each_at(&mut self, holder: HolderId, change: impl Fn(&mut Fetch)) {
        self.waiting.iter_mut().filter(|fetch| fetch.copy.holder == holder).for_each(change);
    }

    pub fn check_limits(&self) {
        assert!(self.waiting.len() <= MAX_FETCHES, "P7: {} fetches", self.waiting.len());
        self.links.iter().for_each(|(_, link)| link.check_limits());
    }
}

impl Owner {
    pub fn lane(&mut self, ctx: &mut Ctx) {
        if self.lane_at_us != Some(ctx.clock.now_us) {
            return;
        }
        self.lane_at_us = None;
        self.receive_fetched(ctx);
        while self.send_fetches(ctx) {
            self.receive_fetched(ctx);
        }
        self.look_at_waiters(ctx);
        self.note_flushes(ctx);
        if let Some(at_ms) = self.fetches.next_deadline_ms().into_iter().chain(self.next_waiter_ms()).min() {
            let delay_us = (at_ms * MS).saturating_sub(ctx.clock.now_us).max(1);
            self.wake_lane(ctx, delay_us);
        }
    }

    /// Sends what is queued, one message for each holder. True: some failed at once.
    pub(super) fn send_fetches(&mut self, ctx: &mut Ctx) -> bool {
        self.drop_outdated(ctx);
        let now_ms = ctx.now_ms();
        while let Some(holder) = self.fetches.waiting.iter().find(|fetch| fetch.is_due(now_ms)).map(|fetch| fetch.copy.holder) {
            match self.fetches.links.iter().position(|(other, _)| *other == holder) {
                Some(index) => self.send_to(ctx, index),
                None => match self.open(ctx, holder, Role::Get) {
                    NoLink::Opening => self.fetches.for_each_at(holder, |fetch| {
                        if matches!(fetch.state, State::Queued(_)) {
                            fetch.state = WITH_THE_LINK;
                        }
                    }),
                    verdict => self.fetches.not_opened(holder, verdict, now_ms),
                },
            }
        }
        self.fetches.waiting.iter().any(|fetch| matches!(fetch.state, State::Failed(_)))
    }

    fn send_to(&mut self, ctx: &mut Ctx, index: usize) {
        let now_ms = ctx.now_ms();
        let Fetches { waiting, links, last_request } = &mut self.fetches;
        let (holder, link) = &mut links[index];
        let holder = *holder;
        *last_request += 1;
        let request = *last_request;
        let mut wanted = Vec::new();
        for fetch in waiting.iter_mut().filter(|fetch| fetch.copy.holder == holder && fetch.is_due(now_ms)).take(MAX_PAGES) {
            fetch.state = State::Sent { request, index: wanted.len() as u16 };
            fetch.elsewhere_ms = if fetch.copy.others { now_ms + ELSEWHERE_MS } else { u64::MAX };
            wanted.push((fetch.handle, fetch.copy.version));
        }
        let Err(error) = link.get(ctx, request, &wanted) else { return };
        for fetch in waiting.iter_mut().filter(|fetch| fetch.copy.holder == holder) {
            if matches!(fetch.state, State::Sent { request: other, .. } if other == request) {
                fetch.state = State::Queued(now_ms + NOT_NOW_MS);
            }
        }
        if !matches!(error, LinkError::Local(_)) {
            self.drop_lane_link(ctx, holder);
        }
    }

    /// Takes what has come. Every fetch that has ended is landed, once.
    pub(super) fn receive_fetched(&mut self, ctx: &mut Ctx) {
        self.drop_outdated(ctx);
        let now_ms = ctx.now_ms();
        let mut came: Vec<(Fetch, Result<Sealed, Loss>)> = Vec::new();
        let mut broken = Vec::new();
        let Fetches { waiting, links, .. } = &mut self.fetches;
        for (holder, link) in links.iter_mut() {
            let holder = *holder;
            let received = link.receive(ctx, &mut |said| {
                if let Said::Page { request, index, found } = said {
                    let state = State::Sent { request, index: index as u16 };
                    page_came(waiting, holder, state, &found, now_ms, &mut came);
                }
            });
            if received.is_err() {
                broken.push(holder);
            }
        }
        for holder in broken {
            self.drop_lane_link(ctx, holder);
        }
        for (fetch, sealed) in came {
            let more = self.land(ctx, &fetch, sealed);
            self.fetches.waiting.extend(more);
        }
        let mut index = 0;
        while index < self.fetches.waiting.len() {
            let fetch = self.fetches.waiting[index];
            let why = match fetch.state {
                State::Failed(why) => Some(why),
                _ if fetch.is_overdue(now_ms) => Some(Loss::Deadline),
                State::Sent { .. } if fetch.elsewhere_ms <= now_ms => Some(Loss::Deadline),
                _ => None,
            };
            match why {
                None => index += 1,
                Some(why) => {
                    self.fetches.waiting.swap_remove(index);
                    let more = self.land(ctx, &fetch, Err(why));
                    self.fetches.waiting.extend(more);
                }
            }
        }
    }

    /// A holder that was given up for dead may live: what it holds of a later stay a link from before does not see.
    fn drop_outdated(&mut self, ctx: &mut Ctx) {
        let table = &self.table;
        let is_outdated = |(holder, link): &(HolderId, Link)| (link.deaths != table.deaths(*holder)).then_some(*holder);
        let outdated: Vec<HolderId> = self.fetches.links.iter().filter_map(is_outdated).collect();
        outdated.into_iter().for_each(|holder| self.drop_lane_link(ctx, holder));
    }

    /// The link is dead; its holder may not be. What it was asked is asked again over a new one.
    fn drop_lane_link(&mut self, ctx: &mut Ctx, holder: HolderId) {
        if let Some(index) = self.fetches.links.iter().position(|(other, _)| *other == holder) {
            let (_, link) = self.fetches.links.swap_remove(index);
            ctx.close(link.wire, Side::Client, false);
        }
        self.fetches.for_each_at(holder, |fetch| {
            if matches!(fetch.state, State::Sent { .. }) {
                fetch.state = State::Queued(0);
            }
        });
    }
}

/// One answer; several fetches may wait for it. One that nobody waits for any more came too late.
fn page_came(
    waiting: &mut Vec<Fetch>,
    holder: HolderId,
    answered: State,
    found: &Found<'_>,
    now_ms: u64,
    came: &mut Vec<(Fetch, Result<Sealed, Loss>)>,
) {
    while let Some(index) = waiting.iter().position(|fetch| fetch.state == answered && fetch.copy.holder == holder) {
        let fetch = waiting.swap_remove(index);
        let bytes = match found {
            Found::Hit { version, blob } if *version == fetch.copy.version => match Kind::from_tag(blob.kind) {
                Some(kind) => Ok((kind, blob.tag, blob.bytes.to_vec())),
                None => Err(Loss::Corrupt),
            },
            Found::Hit { .. } | Found::Miss | Found::Gone | Found::Stale => Err(Loss::HolderForgot),
            Found::Refused => {
                waiting.push(Fetch { state: State::Queued(now_ms + NOT_NOW_MS), ..fetch });
                continue;
            }
        };
        came.push((fetch, bytes));
    }
}
