//! Between home and holders: batches sent, acknowledged or refused; pages fetched, lost or brought home. Covers what that does to a page's state;
//! choosing the holder and moving the bytes is done outside.

use super::entry::Entry;
use super::flushes::Holders;
use super::objects::{At, NONE};
use super::states::{Event, State};
use super::{Batch, Tmem};
use crate::backend::{Keep, Loss, Lost};
use crate::compress::{Kind, Packed};
use crate::handle::{Handle, HolderId, PoolKind, Version};
use crate::remotify::BatchLimit;
use crate::store::SlabMemory;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// The slot is free; the holder's copy is the page now.
    Remote,
    /// The page was put again or flushed meanwhile: a flush of that copy is queued.
    Stale,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// The fetched bytes are the page.
    Current,
    /// The page was put again or flushed meanwhile: get it again.
    Stale,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfetched {
    /// The page was put again or flushed meanwhile: get it again.
    Stale,
    /// It was an ephemeral page: it has vanished.
    Miss,
    Lost(Lost),
}

impl<M: SlabMemory> Tmem<M> {
    /// Marks old local pages as in transit to `holder` and copies them into `batch` (cleared first). Each copy that is sent has a version
    /// of its own, so whatever is heard of it later, however late, is told apart from any other.
    pub fn begin_remotify(&mut self, kind: PoolKind, holder: HolderId, limit: BatchLimit, batch: &mut Batch) {
        batch.clear();
        let (store, mut version, mut chosen) = (&self.store, self.next_version, Vec::with_capacity(limit.pages));
        let mut bytes = 0;
        self.objects.old_pages(kind, self.age, &mut |at, entry| {
            bytes += entry.slot.len();
            if chosen.len() >= limit.pages || bytes > limit.bytes {
                return false;
            }
            chosen.push(at);
            true
        });
        for at in &chosen {
            let at = *at;
            let entry = *self.objects.entry(at);
            let packed = Packed { kind: entry.kind(), digest: entry.digest, bytes: store.bytes(entry.slot) };
            batch.push(self.objects.handle(at), version, packed);
            let entry = self.objects.entry_mut(at);
            (entry.version, entry.holder) = (version, holder);
            version = version.checked_add(1).unwrap_or(1);
        }
        self.next_version = version;
        for at in chosen {
            self.enter(at, Event::Send);
        }
        self.counters.pages_sent += batch.len() as u64;
    }

    /// The holder has it. The last local copy is freed here and nowhere earlier.
    pub fn acknowledged(&mut self, handle: &Handle, version: Version, holder: HolderId) -> Acknowledged {
        let Some(at) = self.find_copy(handle, version, holder, State::InTransit) else {
            self.counters.answers_stale += 1;
            self.flushes.copy(holder, *handle, version);
            return Acknowledged::Stale;
        };
        let slot = self.objects.entry(at).slot;
        if self.enter(at, Event::Acknowledge) {
            self.store.free(slot);
            self.counters.pages_remotified += 1;
        }
        Acknowledged::Remote
    }

    /// The holder does not have it, and said so: the page is local again and may be sent elsewhere.
    pub fn refused(&mut self, handle: &Handle, version: Version, holder: HolderId) {
        match self.find_copy(handle, version, holder, State::InTransit) {
            Some(at) => {
                self.enter(at, Event::Refuse);
                self.counters.pages_refused_by_holder += 1;
            }
            None => self.counters.answers_stale += 1,
        }
    }

    /// No answer came: the page is local again, and in case the holder has it after all, a flush of that copy is queued.
    pub fn unanswered(&mut self, handle: &Handle, version: Version, holder: HolderId) {
        self.refused(handle, version, holder);
        self.flushes.copy(holder, *handle, version);
    }

    /// Its persistent pages are lost, its ephemeral ones have vanished, what was on its way there is local again. Walks all pages.
    /// Returns how many persistent pages were lost.
    pub fn holder_died(&mut self, holder: HolderId) -> u64 {
        let before = self.counters.pages_lost;
        for at in self.all(|entry| entry.holder == holder) {
            match (self.objects.entry(at).state(), self.objects.chunks[at.chunk as usize].kind) {
                (State::InTransit, _) => {
                    self.enter(at, Event::Refuse);
                }
                (State::Remote, PoolKind::Persistent) => self.lose(at, Loss::HolderDied),
                (State::Remote, PoolKind::Ephemeral) => self.drop_page(at, Event::Evict, Some(&mut Holders::default())),
                _ => {}
            }
        }
        self.flushes.forget(holder);
        self.counters.pages_lost - before
    }

    /// The bytes that [`super::Answer::RemoteAt`] spoke of were fetched and checked; what stays at the holder is as `keep` says.
    pub fn localified(&mut self, handle: &Handle, version: Version, keep: Keep) -> Fetched {
        let Some(at) = self.find_remote(handle, version) else {
            self.counters.answers_stale += 1;
            return Fetched::Stale;
        };
        self.counters.pages_localified += 1;
        if keep == Keep::Free || self.kind_of(at) == PoolKind::Ephemeral {
            self.drop_page(at, Event::Flush, None);
        }
        Fetched::Current
    }

    /// They could not be fetched. A deadline says nothing about the page, so it stays where it is; any other reason is final.
    pub fn unfetched(&mut self, handle: &Handle, version: Version, why: Loss) -> Unfetched {
        let Some(at) = self.find_remote(handle, version) else {
            self.counters.answers_stale += 1;
            return Unfetched::Stale;
        };
        let lost = Lost { handle: *handle, holder: Some(self.objects.entry(at).holder), why };
        if self.kind_of(at) == PoolKind::Ephemeral {
            self.drop_page(at, Event::Evict, None);
            return Unfetched::Miss;
        }
        if why != Loss::Deadline {
            self.lose(at, why);
        }
        Unfetched::Lost(lost)
    }

    /// A fetched page moves home: it gets a slot if there is room without pushing anything out, and the holder's copy is flushed.
    /// False: no room, or no longer current; then it stays where it is.
    pub fn repatriated(&mut self, handle: &Handle, version: Version, packed: Packed<'_>) -> bool {
        let Some(at) = self.find_remote(handle, version) else { return false };
        if matches!(packed.kind, Kind::Same(_)) {
            return false;
        }
        let Some(slot) = self.store.put(packed.bytes, at.owner()) else { return false };
        self.release(at, None);
        if self.enter(at, Event::Repatriate) {
            *self.objects.entry_mut(at) = Entry::local(slot, packed.digest, packed.kind, self.age);
            self.counters.pages_repatriated += 1;
        }
        true
    }

    /// Up to `max` pages that `holder` holds, from chunk `cursor` on, which is moved along; it is 0 again when the walk has come round.
    pub fn remote_pages(&self, holder: HolderId, cursor: &mut u32, max: usize, out: &mut Vec<(Handle, Version)>) {
        while (*cursor as usize) < self.objects.chunks.len() {
            if out.len() >= max {
                return;
            }
            for at in self.objects.pages_of(*cursor) {
                let entry = self.objects.entry(at);
                if entry.state() == State::Remote && entry.holder == holder {
                    out.push((self.objects.handle(at), entry.version));
                }
            }
            *cursor += 1;
        }
        *cursor = 0;
    }

    /// Whether `holder` holds any page. Walks the pages up to the first.
    pub fn holds_any(&self, holder: HolderId) -> bool {
        let mut found = Vec::new();
        self.remote_pages(holder, &mut 0, 1, &mut found);
        !found.is_empty()
    }

    /// A forked child's view: what its parent had on the way is local, and should a holder have it in the child's share, it is flushed there.
    pub fn reset_in_transit(&mut self) {
        for at in self.all(|entry| entry.state() == State::InTransit) {
            let entry = *self.objects.entry(at);
            self.flushes.copy(entry.holder, self.objects.handle(at), entry.version);
            self.enter(at, Event::Refuse);
        }
    }

    fn lose(&mut self, at: At, why: Loss) {
        if self.enter(at, Event::Lose) {
            self.objects.entry_mut(at).set_lost(why);
            self.counters.pages_lost += 1;
        }
    }

    fn find_remote(&mut self, handle: &Handle, version: Version) -> Option<At> {
        let at = self.objects.find(handle)?;
        let entry = self.objects.entry(at);
        (entry.state() == State::Remote && entry.version == version).then_some(at)
    }

    fn find_copy(&mut self, handle: &Handle, version: Version, holder: HolderId, state: State) -> Option<At> {
        let at = self.objects.find(handle)?;
        let entry = self.objects.entry(at);
        (entry.state() == state && entry.version == version && entry.holder == holder).then_some(at)
    }

    fn all(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<At> {
        let chunks = 0..self.objects.chunks.len() as u32;
        debug_assert!(chunks.end < NONE);
        chunks.flat_map(|chunk| self.objects.pages_of(chunk)).filter(|at| wanted(self.objects.entry(*at))).collect()
    }
}
