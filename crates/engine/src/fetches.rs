//! Step 12: pages on their way to one lane. Covers its links, the requests, joining, retries and deadlines; what becomes of the bytes is `lane.rs`.
//! Allocates nothing per page once its tables have grown.

use std::sync::Arc;

use ramster_core::backend::{Keep, Loss};
use ramster_core::handle::{Handle, HolderId, Version};
use ramster_core::localify::Copy;
use ramster_core::seal::Tag;
use ramster_core::tmem::COPIES_MAX;
use ramster_core::wire::MAX_PAGES;
use ramster_core::wire::message::{Found, Role};
use ramster_peer::client::{Event, LinkError};
use ramster_sys::quiet::{Inherited, move_high};
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::clock::now_ms;
use crate::engine::Engine;
use crate::holders::SPILL;
use crate::links::{self, NoLink, OpenLink};
use crate::spill::{Answers, Heard, Mailbox, Reading, Wanted};
use crate::statblock::Stat;

/// More than any program has threads faulting at once, times a read-ahead.
const MAX_FETCHES: usize = 16_384;
/// A holder with too many links, or one that takes no more requests: soon again, but not in a spin.
const NOT_NOW_MS: u64 = 50;
/// A holder that has not answered by then is not waited for where another has the page too. Longer than a busy machine keeps a process waiting as a rule.
const ELSEWHERE_MS: u64 = 250;

/// One page that somebody waits for, or a part of it.
#[derive(Clone, Copy)]
pub struct Fetch {
    pub token: u64,
    pub handle: Handle,
    pub keep: Keep,
    pub copy: Copy,
    /// When somebody began to wait, for the statistics.
    pub begun_ns: u64,
    /// None: the page. Others of the same token are its other shards.
    pub shard: Option<u8>,
    deadline_ms: u64,
    /// When to ask another holder, if there is one.
    elsewhere_ms: u64,
    /// Holders asked before this one.
    hops: u8,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be sent, not before that time.
    Queued(u64),
    Sent {
        request: u64,
        index: u16,
    },
    Failed(Loss),
}

impl Fetch {
    pub fn new(handle: Handle, keep: Keep, copy: Copy, (begun_ns, deadline_ms): (u64, u64)) -> Self {
        let (elsewhere_ms, state) = (u64::MAX, State::Queued(0));
        Fetch { token: 0, handle, keep, copy, begun_ns, shard: None, deadline_ms, elsewhere_ms, hops: 0, state }
    }

    /// The same wait, for the page where it is now, or for another copy of it.
    pub fn elsewhere(&self, copy: Copy, now_ms: u64) -> Self {
        let hops = self.hops.wrapping_add(1);
        // All have been asked and none can answer now: not in a spin.
        let round = usize::from(hops).is_multiple_of(COPIES_MAX);
        Fetch { copy, shard: None, hops, state: State::Queued(if round { now_ms + NOT_NOW_MS } else { 0 }), ..*self }
    }

    /// The same wait, for one shard. `again_at_ms`: it was asked for before, so not in a spin.
    pub fn part(&self, copy: Copy, shard: u8, again_at_ms: Option<u64>) -> Self {
        let not_before_ms = again_at_ms.map_or(0, |now_ms| now_ms + NOT_NOW_MS);
        let hops = self.hops.max(u8::from(again_at_ms.is_some()));
        Fetch { copy, shard: Some(shard), hops, state: State::Queued(not_before_ms), ..*self }
    }

    pub fn is_overdue(&self, now_ms: u64) -> bool {
        self.deadline_ms <= now_ms
    }
}

pub struct Fetches {
    waiting: Vec<Fetch>,
    links: Vec<LaneLink>,
    epoll: Option<OwnedFd>,
    inherited: Arc<Inherited>,
    last_token: u64,
    last_request: u64,
    wanted: Vec<(Handle, Version)>,
    disk: Option<Disk>,
    /// Of all holders, when the links were last looked through.
    deaths: u64,
}

/// What this lane has to do with the spill file.
struct Disk {
    mailbox: Arc<Mailbox>,
    answers: Answers,
    wanted: Vec<Wanted>,
    reading: Reading,
}

struct LaneLink {
    holder: HolderId,
    link: OpenLink,
    /// Polled for writing too, since it has something unsent.
    watches_out: bool,
}

/// What a holder sent for a page or a part of it: as it was sealed, if the holder is honest.
#[derive(Clone, Copy)]
pub struct Sealed<'a> {
    pub kind: u8,
    /// None: from the spill file, where pages are only packed.
    pub tag: Option<Tag>,
    pub bytes: &'a [u8],
}

/// Hears of each page or part that came or did not. What is to be fetched next it adds to those that wait; it may take out others of the same token.
pub type Land<'a> = dyn FnMut(&Fetch, Result<Sealed<'_>, Loss>, &mut Vec<Fetch>) + 'a;

impl Fetches {
    pub fn new(inherited: Arc<Inherited>) -> Self {
        let (waiting, wanted) = (Vec::with_capacity(64), Vec::with_capacity(64));
        Fetches {
            waiting,
            links: Vec::new(),
            epoll: None,
            inherited,
            last_token: 0,
            last_request: 0,
            wanted,
            disk: None,
            deaths: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.as_fd())
    }

    /// Takes the fetch on: `add` puts it, or its parts, among those that wait, under the number that it is given. None: too many are on their way already.
    pub fn queue(&mut self, engine: &Engine, fetch: Fetch, add: impl FnOnce(Fetch, &mut Vec<Fetch>)) -> Option<u64> {
        if self.waiting.len() >= MAX_FETCHES {
            engine.stats().add(Stat::GetsOverflow, 1);
            return None;
        }
        self.last_token += 1;
        add(Fetch { token: self.last_token, ..fetch }, &mut self.waiting);
        Some(self.last_token)
    }

    /// Sends what is queued, one message per holder, and opens the links that it needs. True: some fetches failed at once, `receive` tells which.
    pub fn send(&mut self, engine: &Engine) -> bool {
        if !self.waiting.iter().any(|fetch| matches!(fetch.state, State::Queued(_))) {
            return false;
        }
        self.drop_outdated(engine);
        let now = now_ms();
        while let Some(holder) = self.waiting.iter().find(|fetch| is_due(fetch, now)).map(|fetch| fetch.copy.holder) {
            if holder == SPILL {
                self.send_to_disk(engine, now);
                continue;
            }
            match self.link(engine, holder) {
                Ok(link_index) => self.send_to(link_index, now),
                // Those alone whose time has come: were the others sent on too, two pages of two holders that both do not answer would send each other
                // back and forth for ever.
                Err(NoLink::NotNow) => self.for_each_at(holder, |fetch| {
                    if is_due(fetch, now) {
                        let later = State::Queued(now + NOT_NOW_MS);
                        fetch.state = if fetch.copy.others { State::Failed(Loss::Deadline) } else { later };
                    }
                }),
                Err(NoLink::Died) => self.for_each_at(holder, |fetch| fetch.state = State::Failed(Loss::HolderDied)),
            }
        }
        self.waiting.iter().any(|fetch| matches!(fetch.state, State::Failed(_)))
    }

    /// Takes what has come, without blocking. Every fetch that has ended is told to `land`, once.
    pub fn receive(&mut self, engine: &Engine, now_ms: u64, land: &mut Land<'_>) {
        self.drop_outdated(engine);
        let mut broken = Vec::new();
        let waiting = &mut self.waiting;
        for LaneLink { holder, link, watches_out } in &mut self.links {
            let (holder_id, deaths) = (*holder, link.deaths());
            let received = link.on_readable(&mut |event| {
                if let Event::Page { request, index, found } = event {
                    let outdated = || engine.holders().deaths(holder_id) != deaths;
                    page_came(waiting, State::Sent { request, index: index as u16 }, &found, now_ms, &outdated, land);
                }
            });
            let flushed = if link.has_unsent() { link.flush_out() } else { Ok(()) };
            if received.is_err() || flushed.is_err() {
                broken.push(*holder);
            } else if *watches_out && !link.has_unsent() {
                *watches_out = watch(&self.epoll, link, false);
            }
        }
        for holder in broken {
            self.drop_link(holder);
        }
        self.hear_disk(land);
        let mut index = 0;
        while index < self.waiting.len() {
            let fetch = self.waiting[index];
            let why = match fetch.state {
                State::Failed(why) => Some(why),
                _ if fetch.is_overdue(now_ms) => Some(Loss::Deadline),
                State::Sent { .. } if fetch.elsewhere_ms <= now_ms => Some(Loss::Deadline),
                _ => None,
            };
            match why {
                None => index += 1,
                Some(why) => {
                    self.waiting.swap_remove(index);
                    land(&fetch, Err(why), &mut self.waiting);
                }
            }
        }
    }

    pub fn next_deadline_ms(&self) -> Option<u64> {
        let due = |fetch: &Fetch| match fetch.state {
            State::Failed(_) => 0,
            State::Queued(not_before_ms) => not_before_ms.min(fetch.deadline_ms),
            State::Sent { .. } => fetch.deadline_ms.min(fetch.elsewhere_ms),
        };
        self.waiting.iter().map(due).min()
    }

    fn send_to(&mut self, link_index: usize, now_ms: u64) {
        let LaneLink { holder, link, watches_out } = &mut self.links[link_index];
        let holder = *holder;
        self.last_request += 1;
        let request = self.last_request;
        self.wanted.clear();
        for fetch in self.waiting.iter_mut().filter(|fetch| fetch.copy.holder == holder && is_due(fetch, now_ms)).take(MAX_PAGES)
        {
            fetch.state = State::Sent { request, index: self.wanted.len() as u16 };
            fetch.elsewhere_ms = if fetch.copy.others { now_ms + ELSEWHERE_MS } else { u64::MAX };
            self.wanted.push((fetch.handle, fetch.copy.version));
        }
        let sent = link.send_get(request, &self.wanted);
        if sent.is_ok() {
            if link.has_unsent() {
                *watches_out = watch(&self.epoll, link, true);
            }
            return;
        }
        for fetch in &mut self.waiting {
            if matches!(fetch.state, State::Sent { request: other, .. } if other == request && fetch.copy.holder == holder) {
                fetch.state = State::Queued(now_ms + NOT_NOW_MS);
            }
        }
        if !matches!(sent, Err(LinkError::Local(_))) {
            self.drop_link(holder);
        }
    }

    /// Whether that fetch waits for the disk.
    pub fn is_from_disk(&self, token: u64) -> bool {
        self.waiting.iter().rev().any(|fetch| fetch.token == token && fetch.copy.holder == SPILL)
    }

    /// All that is wanted from the spill file, as one request.
    fn send_to_disk(&mut self, engine: &Engine, now_ms: u64) {
        let Some(spill) = engine.spill() else {
            return self.for_each_at(SPILL, |fetch| fetch.state = State::Failed(Loss::SpillFailed));
        };
        if self.disk.is_none() && self.open_mailbox().is_err() {
            // No descriptor is left for it. None of them has been sent.
            return self.for_each_at(SPILL, |fetch| fetch.state = State::Queued(now_ms + NOT_NOW_MS));
        }
        let Some(disk) = &mut self.disk else { return };
        self.last_request += 1;
        let request = self.last_request;
        disk.wanted.clear();
        for fetch in self.waiting.iter_mut().filter(|fetch| fetch.copy.holder == SPILL && is_due(fetch, now_ms)).take(MAX_PAGES) {
            let index = disk.wanted.len() as u16;
            fetch.state = State::Sent { request, index };
            fetch.elsewhere_ms = if fetch.copy.others { now_ms + ELSEWHERE_MS } else { u64::MAX };
            disk.wanted.push(Wanted { handle: fetch.handle, version: fetch.copy.version, index });
        }
        spill.read(&disk.mailbox, request, &disk.wanted, &mut disk.reading);
    }

    fn open_mailbox(&mut self) -> Result<(), rustix::io::Errno> {
        let mailbox = Mailbox::new(&self.inherited)?;
        epoll::add(self.epoll()?, mailbox.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        let (answers, reading) = (Answers::default(), Reading::default());
        self.disk = Some(Disk { mailbox: Arc::new(mailbox), answers, wanted: Vec::with_capacity(64), reading });
        Ok(())
    }

    fn hear_disk(&mut self, land: &mut Land<'_>) {
        let Self { waiting, disk: Some(disk), .. } = self else { return };
        // Also when nobody waits for it any more: what is not taken would keep this lane awake.
        disk.mailbox.take(&mut disk.answers);
        for Heard { request, index, what } in disk.answers.iter() {
            let answered = State::Sent { request, index };
            while let Some(index) = waiting.iter().position(|fetch| fetch.state == answered) {
                let fetch = waiting.swap_remove(index);
                land(&fetch, what.map(|(kind, bytes)| Sealed { kind: kind.tag(), tag: None, bytes }), waiting);
            }
        }
    }

    fn epoll(&mut self) -> Result<&OwnedFd, rustix::io::Errno> {
        if self.epoll.is_none() {
            let epoll = move_high(epoll::create(epoll::CreateFlags::CLOEXEC)?);
            self.inherited.note(epoll.as_fd());
            self.epoll = Some(epoll);
        }
        self.epoll.as_ref().ok_or(rustix::io::Errno::BADF)
    }

    fn link(&mut self, engine: &Engine, holder: HolderId) -> Result<usize, NoLink> {
        if let Some(index) = self.links.iter().position(|link| link.holder == holder) {
            return Ok(index);
        }
        let link = links::open(engine, holder, Role::Get)?;
        let epoll = self.epoll().map_err(|_| NoLink::NotNow)?;
        epoll::add(epoll, link.fd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(|_| NoLink::NotNow)?;
        self.links.push(LaneLink { holder, link, watches_out: false });
        Ok(self.links.len() - 1)
    }

    /// A holder that was given up for dead may live: what it holds of a later stay a link from before does not see.
    fn drop_outdated(&mut self, engine: &Engine) {
        let deaths = engine.holders().all_deaths();
        if deaths == self.deaths {
            return;
        }
        self.deaths = deaths;
        let is_outdated = |link: &LaneLink| (!link.link.is_current(engine, link.holder)).then_some(link.holder);
        let outdated: Vec<HolderId> = self.links.iter().filter_map(is_outdated).collect();
        outdated.into_iter().for_each(|holder| self.drop_link(holder));
    }

    /// The link is dead; its holder may not be. What it was asked is asked again over a new one.
    fn drop_link(&mut self, holder: HolderId) {
        if let Some(index) = self.links.iter().position(|link| link.holder == holder) {
            let LaneLink { link, .. } = self.links.swap_remove(index);
            if let Some(epoll) = &self.epoll {
                // Not left to the close: a child that is being forked may hold the same socket open a little longer.
                let _ = epoll::delete(epoll, link.fd());
            }
        }
        self.for_each_at(holder, |fetch| {
            if matches!(fetch.state, State::Sent { .. }) {
                fetch.state = State::Queued(0);
            }
        });
    }

    fn for_each_at(&mut self, holder: HolderId, change: impl Fn(&mut Fetch)) {
        self.waiting.iter_mut().filter(|fetch| fetch.copy.holder == holder).for_each(change);
    }
}

impl Drop for Fetches {
    fn drop(&mut self) {
        if let Some(epoll) = &self.epoll {
            self.inherited.forget(epoll.as_fd());
        }
    }
}

/// Lets the fetch join one of the same copy or shard, if there is one: true.
pub fn push(waiting: &mut Vec<Fetch>, mut fetch: Fetch) -> bool {
    // Not one that frees: the first of two would free what the second was promised. Nor one that comes from elsewhere: the other may be about to go there.
    let same = |other: &&Fetch| {
        let page = other.handle == fetch.handle && other.copy.version == fetch.copy.version;
        page && other.shard == fetch.shard && other.keep == fetch.keep
    };
    let other = waiting.iter().find(same).filter(|other| other.keep != Keep::Free && fetch.hops == 0).copied();
    if let Some(other) = other {
        (fetch.copy, fetch.elsewhere_ms, fetch.hops, fetch.state) = (other.copy, other.elsewhere_ms, other.hops, other.state);
    }
    waiting.push(fetch);
    other.is_some()
}

fn is_due(fetch: &Fetch, now_ms: u64) -> bool {
    matches!(fetch.state, State::Queued(not_before_ms) if not_before_ms <= now_ms)
}

/// Returns whether the link is polled for writing now.
fn watch(epoll: &Option<OwnedFd>, link: &OpenLink, out: bool) -> bool {
    let events = if out { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
    let changed = epoll.as_ref().map(|epoll| epoll::modify(epoll, link.fd(), epoll::EventData::new_u64(0), events));
    matches!(changed, Some(Ok(()))) && out
}

/// One answer; several fetches of this lane may wait for it. One that nobody waits for (any more) came too late. `outdated`: the holder was given up for dead
/// since the link was opened.
fn page_came(
    waiting: &mut Vec<Fetch>,
    answered: State,
    found: &Found<'_>,
    now_ms: u64,
    outdated: &dyn Fn() -> bool,
    land: &mut Land<'_>,
) {
    while let Some(index) = waiting.iter().position(|fetch| fetch.state == answered) {
        let fetch = waiting.swap_remove(index);
        let bytes = match found {
            Found::Hit { version, blob } if *version == fetch.copy.version => {
                Ok(Sealed { kind: blob.kind, tag: Some(blob.tag), bytes: blob.bytes })
            }
            Found::Refused => Err(None),
            // It tells of a stay there that has ended. Whether the page is gone tmem knows, or the next link.
            _ if outdated() => Err(None),
            Found::Hit { .. } | Found::Miss | Found::Gone | Found::Stale => Err(Some(Loss::HolderForgot)),
        };
        let bytes = match bytes {
            Ok(sealed) => Ok(sealed),
            Err(Some(why)) => Err(why),
            Err(None) => {
                waiting.push(Fetch { state: State::Queued(now_ms + NOT_NOW_MS), ..fetch });
                continue;
            }
        };
        land(&fetch, bytes, waiting);
    }
}
