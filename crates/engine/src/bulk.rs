//! The remotifier's link to one holder: batches and flushes on their way, in order. Covers what has been sent and what was answered; what to send
//! is `remotifier.rs`.

use std::collections::VecDeque;

use ramster_core::handle::{Handle, HolderId, PoolKind, Version};
use ramster_core::seal::Tag;
use ramster_core::tmem::{Flush, FlushOrder};
use ramster_core::wire::MAX_PAGES;
use ramster_core::wire::message::{DoneStatus, Found, PutPage, PutStatus};
use ramster_peer::client::{Event, LinkError};

use crate::links::OpenLink;

/// Batches on their way to one holder: enough to keep both ends busy on a link with some milliseconds of delay. Twice as many would only make
/// more pages wait for one holder.
pub const MAX_BATCHES: usize = 8;
/// A holder that has not acknowledged a batch by then is as good as gone: its pages go elsewhere.
const ANSWER_MS: u64 = 10_000;
/// Flush messages on their way.
const MAX_FLUSHES: usize = 64;

pub struct Bulk {
    pub holder: HolderId,
    pub link: OpenLink,
    batches: VecDeque<SentBatch>,
    flushes: VecDeque<SentFlushes>,
    /// Flushes that have not been sent, oldest first. While there are any, no batch may be sent.
    unsent: VecDeque<Flush>,
    /// Pages asked for under one request, each until it is answered. None: nothing was asked.
    asked: Option<Asked>,
    last_request: u64,
    pairs: Vec<(Handle, Version)>,
}

struct SentBatch {
    request: u64,
    deadline_ms: u64,
    /// None: answered.
    pages: Vec<Option<(Handle, Version)>>,
    bytes: u64,
    purpose: Purpose,
}

/// Why a batch is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Local pages leave.
    Leaves,
    /// Remote pages get a further copy ...
    Copies,
    /// ... or the shard that nobody has.
    Shards(u8),
}

struct Asked {
    request: u64,
    deadline_ms: u64,
    pages: Vec<(Handle, Version)>,
    fetched: Vec<Fetched>,
    done: bool,
    /// False: whoever asked does without. The answer is still waited for, and then nothing is left of the request.
    wanted: bool,
}

struct SentFlushes {
    request: u64,
    deadline_ms: u64,
    orders: Vec<Flush>,
}

/// What became of a page that was sent.
pub struct Answered {
    pub handle: Handle,
    pub version: Version,
    pub purpose: Purpose,
    pub stored: bool,
}

/// A page's bytes as they were sealed: kind, tag, bytes.
pub type SealedBlob = (u8, Tag, Vec<u8>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotFetched {
    /// The holder does not have it.
    Forgotten,
    /// It did not look.
    Refused,
}

/// A page that was asked for, to be copied to another holder or kept here.
pub struct Fetched {
    pub handle: Handle,
    pub version: Version,
    pub what: Result<SealedBlob, NotFetched>,
}

/// Why the link cannot be used any more, or not as hoped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    Broken(LinkError),
    /// The holder does not know us any more.
    Gone,
    /// No answer in time.
    Silent,
}

impl Bulk {
    pub fn new(holder: HolderId, link: OpenLink) -> Self {
        let (batches, flushes, unsent) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Bulk { holder, link, batches, flushes, unsent, asked: None, last_request: 0, pairs: Vec::new() }
    }

    pub fn has_room_for_batch(&self) -> bool {
        self.batches.len() < MAX_BATCHES && self.unsent.is_empty() && !self.link.has_unsent()
    }

    pub fn is_busy(&self) -> bool {
        !self.batches.is_empty() || !self.flushes.is_empty() || !self.unsent.is_empty() || self.asked.is_some()
    }

    /// What the holder has left, less what is on its way there.
    pub fn free_bytes(&self) -> u64 {
        self.link.holder_free_bytes().saturating_sub(self.batches.iter().map(|batch| batch.bytes).sum())
    }

    /// False: nothing was sent and the pages are the caller's to take back.
    pub fn send_batch(&mut self, pool: PoolKind, pages: &[PutPage<'_>], purpose: Purpose, now_ms: u64) -> Result<bool, Trouble> {
        self.last_request += 1;
        let request = self.last_request;
        match self.link.send_put(request, pool, pages) {
            Ok(()) => {}
            Err(LinkError::Local(_)) => return Ok(false),
            Err(error) => return Err(Trouble::Broken(error)),
        }
        let bytes = pages.iter().map(|page| page.blob.bytes.len() as u64).sum();
        let pages = pages.iter().map(|page| Some((page.handle, page.version))).collect();
        self.batches.push_back(SentBatch { request, deadline_ms: now_ms + ANSWER_MS, pages, bytes, purpose });
        Ok(true)
    }

    /// Asks for pages that are to change holders; one request at a time, whose number is returned. None: not now.
    pub fn ask(&mut self, pages: &[(Handle, Version)], now_ms: u64) -> Result<Option<u64>, Trouble> {
        if self.asked.as_ref().is_some_and(|asked| !asked.done) {
            return Ok(None);
        }
        self.last_request += 1;
        match self.link.send_get(self.last_request, pages) {
            Ok(()) => {}
            Err(LinkError::Local(_)) => return Ok(None),
            Err(error) => return Err(Trouble::Broken(error)),
        }
        let (pages, fetched) = (pages.to_vec(), Vec::with_capacity(pages.len()));
        self.asked = Some(Asked {
            request: self.last_request,
            deadline_ms: now_ms + ANSWER_MS,
            pages,
            fetched,
            done: false,
            wanted: true,
        });
        Ok(Some(self.last_request))
    }

    /// All that was asked for under this number, once, when it has come.
    pub fn take_fetched(&mut self, request: u64) -> Option<Vec<Fetched>> {
        self.asked.take_if(|asked| asked.done && asked.request == request).map(|asked| asked.fetched)
    }

    /// Nobody takes what was asked for under this number, which may be on its way still. Were it not said, it would count as outstanding for ever.
    pub fn let_go(&mut self, request: u64) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.request == request) {
            (asked.wanted, asked.fetched) = (false, Vec::new());
        }
        self.asked.take_if(|asked| asked.done && !asked.wanted);
    }

    /// Not so any more: the link was opened anew, and the request went with the old one.
    pub fn is_asked(&self, request: u64) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.request == request)
    }

    /// Further copies or shards are on their way to this holder.
    pub fn is_rebuilding(&self) -> bool {
        self.batches.iter().any(|batch| batch.purpose != Purpose::Leaves)
    }

    /// Takes flushes on, to be sent in this order and ahead of any later batch.
    pub fn flush(&mut self, what: Flush) {
        self.unsent.push_back(what);
    }

    /// Sends flushes as far as the link takes them; copies up to 256 a message.
    pub fn send_flushes(&mut self, now_ms: u64) -> Result<u64, Trouble> {
        let mut sent = 0;
        while !self.unsent.is_empty() && self.flushes.len() < MAX_FLUSHES {
            self.pairs.clear();
            self.pairs.extend(self.unsent.iter().take(MAX_PAGES).map_while(|what| match what {
                Flush::Copy { handle, version } => Some((*handle, *version)),
                _ => None,
            }));
            self.last_request += 1;
            let request = self.last_request;
            let asked = match self.unsent.front() {
                _ if !self.pairs.is_empty() => self.link.send_flush(request, &self.pairs),
                Some(Flush::Range { handle, count }) => self.link.send_flush_range(request, handle, *count),
                Some(Flush::Object { pool, object }) => self.link.send_flush_object(request, *pool, *object),
                Some(Flush::Pool(pool)) => self.link.send_destroy_pool(request, *pool),
                Some(Flush::Copy { .. }) | None => Ok(()),
            };
            match asked {
                Ok(()) => {}
                Err(LinkError::Local(_)) => break,
                Err(error) => return Err(Trouble::Broken(error)),
            }
            let orders: Vec<Flush> = self.unsent.drain(..self.pairs.len().max(1)).collect();
            sent += orders.len() as u64;
            self.flushes.push_back(SentFlushes { request, deadline_ms: now_ms + ANSWER_MS, orders });
        }
        Ok(sent)
    }

    /// Takes what has come; the fate of each page that was answered goes to `answered`.
    pub fn receive(&mut self, answered: &mut Vec<Answered>) -> Result<(), Trouble> {
        let (batches, flushes, asked) = (&mut self.batches, &mut self.flushes, &mut self.asked);
        let mut gone = false;
        let received = self.link.on_readable(&mut |event| match event {
            Event::Put { request, index, status } => {
                let Some(batch) = batches.iter_mut().find(|batch| batch.request == request) else { return };
                if let Some((handle, version)) = batch.pages.get_mut(index).and_then(Option::take) {
                    gone |= status == PutStatus::Gone;
                    let (purpose, stored) = (batch.purpose, status == PutStatus::Stored);
                    answered.push(Answered { handle, version, purpose, stored });
                }
            }
            Event::Done { request, status, .. } => {
                gone |= status == DoneStatus::Gone;
                batches.retain(|batch| batch.request != request);
                // Gone: the holder has heard of a newer link, one perhaps that was given up here before it was welcomed, and has changed nothing. The
                // next link says it again.
                flushes.retain(|sent| sent.request != request || status == DoneStatus::Gone);
                asked.iter_mut().filter(|asked| asked.request == request).for_each(|asked| asked.done = true);
                asked.take_if(|asked| asked.done && !asked.wanted);
            }
            Event::Page { request, index, found } => {
                let Some(asked) = asked.as_mut().filter(|asked| asked.request == request && asked.wanted) else { return };
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
        if self.link.has_unsent() {
            self.link.flush_out().map_err(Trouble::Broken)?;
        }
        if gone { Err(Trouble::Gone) } else { Ok(()) }
    }

    /// When the oldest answer is due.
    pub fn deadline_ms(&self) -> Option<u64> {
        let batch = self.batches.front().map(|batch| batch.deadline_ms);
        let flush = self.flushes.front().map(|sent| sent.deadline_ms);
        let asked = self.asked.as_ref().filter(|asked| !asked.done).map(|asked| asked.deadline_ms);
        batch.into_iter().chain(flush).chain(asked).min()
    }

    /// The link is dead: which pages were never answered (true: further copies or shards), and which flushes may not have been heard.
    pub fn take_apart(self, unanswered: &mut Vec<(Handle, Version, bool)>, orders: &mut Vec<FlushOrder>) {
        for SentBatch { pages, purpose, .. } in self.batches {
            let rebuilds = purpose != Purpose::Leaves;
            unanswered.extend(pages.into_iter().flatten().map(|(handle, version)| (handle, version, rebuilds)));
        }
        let holder = self.holder;
        let flushes = self.flushes.into_iter().flat_map(|sent| sent.orders).chain(self.unsent);
        orders.extend(flushes.map(|what| FlushOrder { holder, what }));
    }
}
