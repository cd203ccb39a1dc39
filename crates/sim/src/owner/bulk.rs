//! The remotifier's link to one holder: batches, flushes and requests on their way, in order. Mirrors engine/bulk.rs.

use std::collections::VecDeque;

use ramster_core::handle::{Handle, HolderId, PoolKind, Version};
use ramster_core::seal::Tag;
use ramster_core::tmem::{Flush, FlushOrder};
use ramster_core::wire::MAX_PAGES;
use ramster_core::wire::message::{DoneStatus, Found, PutPage, PutStatus};

use super::link::{Link, LinkError, Said};
use crate::ctx::Ctx;

pub const MAX_BATCHES: usize = 8;
pub const ANSWER_MS: u64 = 10_000;
pub const MAX_FLUSHES: usize = 64;

pub struct Bulk {
    pub holder: HolderId,
    pub link: Link,
    batches: VecDeque<SentBatch>,
    flushes: VecDeque<SentFlushes>,
    /// While there are any, no batch may be sent.
    unsent: VecDeque<Flush>,
    asked: Option<Asked>,
    last_request: u64,
}

struct SentBatch {
    request: u64,
    deadline_ms: u64,
    pages: Vec<Option<(Handle, Version)>>,
    bytes: u64,
    rebuilds: bool,
}

struct Asked {
    request: u64,
    deadline_ms: u64,
    pages: Vec<(Handle, Version)>,
    fetched: Vec<Fetched>,
    done: bool,
}

struct SentFlushes {
    request: u64,
    deadline_ms: u64,
    orders: Vec<Flush>,
}

pub struct Answered {
    pub handle: Handle,
    pub version: Version,
    pub rebuilds: bool,
    pub stored: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFetched {
    Forgotten,
    Refused,
}

pub struct Fetched {
    pub handle: Handle,
    pub version: Version,
    pub what: Result<(u8, Tag, Vec<u8>), NotFetched>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    Broken(LinkError),
    Gone,
    Silent,
}

/// Whether the link took it. False: not now.
fn taken(sent: Result<(), LinkError>) -> Result<bool, Trouble> {
    match sent {
        Ok(()) => Ok(true),
        Err(LinkError::Local(_)) => Ok(false),
        Err(error) => Err(Trouble::Broken(error)),
    }
}

impl Bulk {
    pub fn new(holder: HolderId, link: Link) -> Self {
        let (batches, flushes, unsent) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Bulk { holder, link, batches, flushes, unsent, asked: None, last_request: 0 }
    }

    pub fn has_room_for_batch(&self) -> bool {
        self.batches.len() < MAX_BATCHES && self.unsent.is_empty() && !self.link.has_unsent()
    }

    pub fn is_busy(&self) -> bool {
        !self.batches.is_empty() || !self.flushes.is_empty() || !self.unsent.is_empty() || self.asked.is_some()
    }

    pub fn free_bytes(&self) -> u64 {
        self.link.free_bytes.saturating_sub(self.batches.iter().map(|batch| batch.bytes).sum())
    }

    pub fn send_batch(&mut self, ctx: &mut Ctx, pool: PoolKind, pages: &[PutPage<'_>], rebuilds: bool) -> Result<bool, Trouble> {
        self.last_request += 1;
        let request = self.last_request;
        if !taken(self.link.put(ctx, request, pool, pages))? {
            return Ok(false);
        }
        let bytes = pages.iter().map(|page| page.blob.bytes.len() as u64).sum();
        let pages = pages.iter().map(|page| Some((page.handle, page.version))).collect();
        let deadline_ms = ctx.now_ms() + ANSWER_MS;
        self.batches.push_back(SentBatch { request, deadline_ms, pages, bytes, rebuilds });
        Ok(true)
    }

    pub fn ask(&mut self, ctx: &mut Ctx, pages: &[(Handle, Version)]) -> Result<bool, Trouble> {
        if self.asked.is_some() {
            return Ok(false);
        }
        self.last_request += 1;
        if !taken(self.link.get(ctx, self.last_request, pages))? {
            return Ok(false);
        }
        let (pages, fetched) = (pages.to_vec(), Vec::new());
        let deadline_ms = ctx.now_ms() + ANSWER_MS;
        self.asked = Some(Asked { request: self.last_request, deadline_ms, pages, fetched, done: false });
        Ok(true)
    }

    pub fn take_fetched(&mut self) -> Option<Vec<Fetched>> {
        self.asked.take_if(|asked| asked.done).map(|asked| asked.fetched)
    }

    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    pub fn is_rebuilding(&self) -> bool {
        self.batches.iter().any(|batch| batch.rebuilds)
    }

    pub fn flush(&mut self, what: Flush) {
        self.unsent.push_back(what);
    }

    pub fn send_flushes(&mut self, ctx: &mut Ctx) -> Result<(), Trouble> {
        while !self.unsent.is_empty() && self.flushes.len() < MAX_FLUSHES {
            let copy = |what: &Flush| match what {
                Flush::Copy { handle, version } => Some((*handle, *version)),
                _ => None,
            };
            let pairs: Vec<_> = self.unsent.iter().take(MAX_PAGES).map_while(copy).collect();
            self.last_request += 1;
            let request = self.last_request;
            let sent = match self.unsent.front() {
                Some(what) if pairs.is_empty() => self.link.flush(ctx, request, what),
                _ => self.link.flush_copies(ctx, request, &pairs),
            };
            if !taken(sent)? {
                break;
            }
            let orders: Vec<Flush> = self.unsent.drain(..pairs.len().max(1)).collect();
            self.flushes.push_back(SentFlushes { request, deadline_ms: ctx.now_ms() + ANSWER_MS, orders });
        }
        Ok(())
    }

    pub fn receive(&mut self, ctx: &mut Ctx, answered: &mut Vec<Answered>) -> Result<(), Trouble> {
        let (batches, flushes, asked) = (&mut self.batches, &mut self.flushes, &mut self.asked);
        let mut gone = false;
        let received = self.link.receive(ctx, &mut |said| match said {
            Said::Put { request, index, status } => {
                let Some(batch) = batches.iter_mut().find(|batch| batch.request == request) else { return };
                if let Some((handle, version)) = batch.pages.get_mut(index).and_then(Option::take) {
                    gone |= status == PutStatus::Gone;
                    let (rebuilds, stored) = (batch.rebuilds, status == PutStatus::Stored);
                    answered.push(Answered { handle, version, rebuilds, stored });
                }
            }
            Said::Done { request, status } => {
                gone |= status == DoneStatus::Gone;
                batches.retain(|batch| batch.request != request);
                // Gone, and it has changed nothing: the next link says it again.
                flushes.retain(|sent| sent.request != request || status == DoneStatus::Gone);
                asked.iter_mut().filter(|asked| asked.request == request).for_each(|asked| asked.done = true);
            }
            Said::Page { request, index, found } => {
                let Some(asked) = asked.as_mut().filter(|asked| asked.request == request) else { return };
                if let Some((handle, version)) = asked.pages.get(index).copied() {
                    let what = match found {
                        Found::Hit { version: held, blob } if held == version => Ok((blob.kind, blob.tag, blob.bytes.to_vec())),
                        Found::Refused => Err(NotFetched::Refused),
                        _ => Err(NotFetched::Forgotten),
                    };
                    asked.fetched.push(Fetched { handle, version, what });
                }
            }
        });
        received.map_err(Trouble::Broken)?;
        if gone { Err(Trouble::Gone) } else { Ok(()) }
    }

    pub fn deadline_ms(&self) -> Option<u64> {
        let batch = self.batches.front().map(|batch| batch.deadline_ms);
        let flush = self.flushes.front().map(|sent| sent.deadline_ms);
        let asked = self.asked.as_ref().map(|asked| asked.deadline_ms);
        batch.into_iter().chain(flush).chain(asked).min()
    }

    /// Which pages were never answered (true: further copies), and which flushes may not have been heard.
    pub fn take_apart(self, unanswered: &mut Vec<(Handle, Version, bool)>, orders: &mut Vec<FlushOrder>) {
        for SentBatch { pages, rebuilds, .. } in self.batches {
            unanswered.extend(pages.into_iter().flatten().map(|(handle, version)| (handle, version, rebuilds)));
        }
        let holder = self.holder;
        let flushes = self.flushes.into_iter().flat_map(|sent| sent.orders).chain(self.unsent);
        orders.extend(flushes.map(|what| FlushOrder { holder, what }));
    }

    /// Promise 7, for what is on its way to this holder.
    pub fn check_limits(&self) {
        assert!(self.batches.len() <= MAX_BATCHES, "P7: {} batches on their way", self.batches.len());
        assert!(self.flushes.len() <= MAX_FLUSHES, "P7: {} flush messages on their way", self.flushes.len());
        self.link.check_limits();
    }
}
