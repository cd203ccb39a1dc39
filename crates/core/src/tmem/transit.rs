//! Between home and holders: batches sent, acknowledged or refused; pages fetched, lost or brought home. Covers what that does to a page's state;
//! choosing the holder and moving the bytes is done outside.

use super::entry::Entry;
use super::objects::{At, NONE};
use super::sites::{self, Site, SiteId};
use super::states::{Event, State};
use super::{Batch, Tmem};
use crate::backend::{Keep, Loss, Lost};
use crate::compress::{Kind, Packed};
use crate::handle::{Class, Handle, HolderId, PoolKind, Version};
use crate::remotify::BatchLimit;
use crate::store::SlabMemory;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// The slot is free; the holders' copies are the page now.
    Remote,
    /// It stays until its other holders have acknowledged too.
    Waiting,
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
    /// That copy is not to be had; this holder has another.
    Elsewhere(HolderId),
    /// It was an ephemeral page: it has vanished.
    Miss,
    Lost(Lost),
}

/// A remote page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Away {
    pub handle: Handle,
    pub version: Version,
    pub site: Site,
    /// Packed.
    pub bytes: usize,
}

impl<M: SlabMemory> Tmem<M> {
    /// Marks old local pages of one class as in transit to the holders of `site`, which all are to be sent `batch` (cleared first). What is sent has a version of its own, the
    /// same for all of them, so whatever is heard of it later, however late, is told apart from any other.
    pub fn begin_remotify(&mut self, class: impl Into<Class>, site: Site, limit: BatchLimit, batch: &mut Batch) {
        batch.clear();
        let missing = site.holders().len() as u8;
        let Some(site) = self.site_number(site).filter(|_| missing > 0) else { return };
        let (store, mut version, mut chosen) = (&self.store, self.next_version, Vec::with_capacity(limit.pages));
        let mut bytes = 0;
        self.objects.old_pages(class.into(), self.age, &mut |at, entry| {
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
            (entry.version, entry.site) = (version, site);
            entry.set_missing(missing);
            version = version.checked_add(1).unwrap_or(1);
        }
        self.next_version = version;
        for at in chosen {
            self.enter(at, Event::Send);
        }
        self.counters.pages_sent += batch.len() as u64;
    }

    /// The holder has it. The last local copy is freed here and nowhere earlier, when all holders have said so. MUST be told of an answer once.
    pub fn acknowledged(&mut self, handle: &Handle, version: Version, holder: HolderId) -> Acknowledged {
        let Some(at) = self.find_copy(handle, version, holder, State::InTransit) else {
            self.counters.answers_stale += 1;
            self.flushes.copy(holder, *handle, version);
            return Acknowledged::Stale;
        };
        let (slot, missing) = (self.objects.entry(at).slot, self.objects.entry(at).missing().saturating_sub(1));
        self.objects.entry_mut(at).set_missing(missing);
        if missing > 0 {
            self.enter(at, Event::AcknowledgeCopy);
            return Acknowledged::Waiting;
        }
        if self.enter(at, Event::Acknowledge) {
            self.store.free(slot);
            self.counters.pages_remotified += 1;
        }
        Acknowledged::Remote
    }

    /// The holder does not have it, and said so: the page is local again and may be sent elsewhere. Others that have it flush it.
    pub fn refused(&mut self, handle: &Handle, version: Version, holder: HolderId) {
        match self.find_copy(handle, version, holder, State::InTransit) {
            Some(at) => {
                self.take_back(at, holder);
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

    /// Pages of which it had the only copy, or a shard without which the others are too few, are lost or, ephemeral ones, have vanished; what was on its way there is local again. Walks all pages.
    /// Returns how many persistent pages were lost: not those that a getter has too.
    pub fn holder_died(&mut self, holder: HolderId) -> u64 {
        let before = self.counters.pages_lost;
        let having = self.sites.having(holder);
        for at in self.all(|entry| sites::is_marked(&having, entry.site)) {
            match (self.objects.entry(at).state(), self.kind_of(at)) {
                (State::InTransit, _) => self.take_back(at, holder),
                (State::Remote, _) if self.lose_copy(at, holder).is_some() => {}
                (State::Remote, PoolKind::Persistent) => self.lose(at, holder, Loss::HolderDied),
                (State::Remote, PoolKind::Ephemeral) => self.drop_page(at, Event::Evict, None),
                _ => {}
            }
        }
        self.flushes.forget(holder);
        self.counters.pages_lost - before
    }

    /// It is not heard from, and may come back with all it had: pages that others have too do without it from now on, and their copies there are
    /// flushed if it returns. Walks all pages. Returns how many have a copy less.
    pub fn give_up_copies(&mut self, holder: HolderId) -> u64 {
        let before = self.counters.copies_lost;
        let having = self.sites.having(holder);
        for at in self.all(|entry| entry.state() == State::Remote && sites::is_marked(&having, entry.site)) {
            if self.lose_copy(at, holder).is_some() {
                let (handle, version) = (self.objects.handle(at), self.objects.entry(at).version);
                self.flushes.copy(holder, handle, version);
            }
        }
        self.counters.copies_lost - before
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
        } else if keep == Keep::KeepRemote {
            self.objects.entry_mut(at).set_home(true);
        }
        Fetched::Current
    }

    /// They could not be fetched from `holder`. A deadline says nothing about the copy, so it stays where it is; any other reason is its end.
    pub fn unfetched(&mut self, handle: &Handle, version: Version, holder: HolderId, why: Loss) -> Unfetched {
        let Some(at) = self.find_remote(handle, version) else {
            self.counters.answers_stale += 1;
            return Unfetched::Stale;
        };
        let site = self.sites.get(self.objects.entry(at).site);
        let elsewhere = match why {
            // It has died and tmem knows.
            _ if !site.has(holder) => site.first(),
            Loss::Deadline => site.after(holder),
            _ => self.lose_copy(at, holder),
        };
        if let Some(other) = elsewhere {
            if site.has(holder) && why != Loss::Deadline {
                self.flushes.copy(holder, *handle, version);
            }
            return Unfetched::Elsewhere(other);
        }
        let lost = Lost { handle: *handle, holder: Some(holder), why };
        if self.kind_of(at) == PoolKind::Ephemeral {
            self.drop_page(at, Event::Evict, None);
            return Unfetched::Miss;
        }
        if why != Loss::Deadline {
            // Whoever asked for it has it no more.
            self.objects.entry_mut(at).set_home(false);
            self.lose(at, holder, why);
            // Of a coded page all shards go with it.
            if why != Loss::HolderForgot && site.code().is_none() {
                self.flushes.copy(holder, *handle, version);
            }
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
        // The page's own, whatever the caller knows of it.
        let (digest, home) = (self.objects.entry(at).digest, self.objects.entry(at).is_home());
        self.release(at, None);
        if self.enter(at, Event::Repatriate) {
            let entry = self.objects.entry_mut(at);
            *entry = Entry::local(slot, digest, packed.kind, self.age);
            entry.set_home(home);
            self.counters.pages_repatriated += 1;
        }
        true
    }

    /// Up to `max` pages that `holder` holds, from chunk `cursor` on, which is moved along; it is 0 again when the walk has come round.
    pub fn remote_pages(&self, holder: HolderId, cursor: &mut u32, max: usize, out: &mut Vec<(Handle, Version)>) {
        let having = self.sites.having(holder);
        self.walk(cursor, usize::MAX, &mut |at, entry| {
            if sites::is_marked(&having, entry.site) {
                out.push((self.objects.handle(at), entry.version));
            }
            out.len() < max
        });
    }

    /// Persistent pages at such sites, from chunk `cursor` on as for `remote_pages`; looks at `chunks` at most, and ends with a whole one at `max` pages.
    pub fn pages_at(&self, wanted: &dyn Fn(&Site) -> bool, cursor: &mut u32, limits: (usize, usize), out: &mut Vec<Away>) {
        self.pages_of_class_at(&|_, site| wanted(site), cursor, limits, out);
    }

    /// The same where the class has a say in it.
    pub fn pages_of_class_at(
        &self,
        wanted: &dyn Fn(Class, &Site) -> bool,
        cursor: &mut u32,
        (chunks, max): (usize, usize),
        out: &mut Vec<Away>,
    ) {
        self.walk(cursor, chunks, &mut |at, entry| {
            let site = self.sites.get(entry.site);
            let class = self.objects.chunks[at.chunk as usize].class;
            if class.kind() == PoolKind::Persistent && wanted(class, &site) {
                out.push(Away { handle: self.objects.handle(at), version: entry.version, site, bytes: entry.slot.len() });
            }
            out.len() < max
        });
    }

    /// `holder` has been sent a further copy of that version and has acknowledged it. One try at a time for each page and holder, sent after all flushes
    /// queued before: the flush for a try that failed would take the next one's copy along. False: nobody wants it any more, and a flush of it is queued.
    pub fn rebuilt(&mut self, handle: &Handle, version: Version, holder: HolderId) -> bool {
        self.has_more(handle, version, holder, |site| site.with(holder))
    }

    /// The same of the shard that it was sent, which nobody had.
    pub fn rebuilt_shard(&mut self, handle: &Handle, version: Version, holder: HolderId, shard: u8) -> bool {
        self.has_more(handle, version, holder, |site| site.with_shard(holder, shard))
    }

    fn has_more(&mut self, handle: &Handle, version: Version, holder: HolderId, more: impl Fn(Site) -> Option<Site>) -> bool {
        if let Some(at) = self.find_remote(handle, version) {
            let site = self.sites.get(self.objects.entry(at).site);
            if site.has(holder) {
                return true;
            }
            if let Some(number) = more(site).and_then(|more| self.site_number(more)) {
                self.enter(at, Event::Rebuild);
                self.objects.entry_mut(at).site = number;
                self.counters.copies_rebuilt += 1;
                return true;
            }
        }
        self.counters.answers_stale += 1;
        self.flushes.copy(holder, *handle, version);
        false
    }

    /// A further copy was sent to `holder`, which refused it or never answered: in case it has it after all, a flush is queued.
    pub fn not_rebuilt(&mut self, handle: &Handle, version: Version, holder: HolderId) {
        let at = self.find_remote(handle, version);
        if !at.is_some_and(|at| self.sites.get(self.objects.entry(at).site).has(holder)) {
            self.flushes.copy(holder, *handle, version);
        }
    }

    /// Who has that version. None: it is not wanted any more.
    pub fn site_of(&mut self, handle: &Handle, version: Version) -> Option<Site> {
        let at = self.find_remote(handle, version)?;
        Some(self.sites.get(self.objects.entry(at).site))
    }

    /// Who else has that copy. None: nobody, or it is not wanted any more.
    pub fn other_copy(&mut self, handle: &Handle, version: Version, holder: HolderId) -> Option<HolderId> {
        let at = self.find_remote(handle, version)?;
        self.sites.get(self.objects.entry(at).site).after(holder)
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
            self.flush_copies(at, None);
            self.enter(at, Event::Refuse);
            self.objects.entry_mut(at).set_missing(0);
        }
    }

    /// What is in transit is local again: `holder` does not have it, and those that have acknowledged it are to flush it.
    fn take_back(&mut self, at: At, holder: HolderId) {
        let entry = *self.objects.entry(at);
        let site = self.sites.get(entry.site);
        if usize::from(entry.missing()) < site.holders().len() {
            let handle = self.objects.handle(at);
            site.without(holder).holders().iter().for_each(|other| self.flushes.copy(*other, handle, entry.version));
        }
        self.enter(at, Event::Refuse);
        self.objects.entry_mut(at).set_missing(0);
    }

    /// Returns who has another copy, or a shard of enough. None: nobody, and nothing was changed.
    fn lose_copy(&mut self, at: At, holder: HolderId) -> Option<HolderId> {
        let rest = self.sites.get(self.objects.entry(at).site).without(holder);
        let other = rest.first().filter(|_| rest.is_enough())?;
        self.enter(at, Event::LoseCopy);
        // Without a number for the rest the set stays as it is: who asks the wrong one is sent on.
        if let Some(number) = self.site_number(rest) {
            self.objects.entry_mut(at).site = number;
        }
        self.counters.copies_lost += 1;
        Some(other)
    }

    /// None, counted: too many sets of holders are in use.
    fn site_number(&mut self, site: Site) -> Option<SiteId> {
        if let Some(number) = self.sites.number(site) {
            return Some(number);
        }
        let used: Vec<SiteId> = self.all(|_| true).into_iter().map(|at| self.objects.entry(at).site).collect();
        self.sites.keep_only(used.into_iter());
        let number = self.sites.number(site);
        self.counters.sites_refused += u64::from(number.is_none());
        number
    }

    /// Remote pages from chunk `cursor` on, which is moved along, `chunks` at most, until `wanted` says false; ends with a whole chunk. The cursor is 0
    /// again when the walk has come round.
    fn walk(&self, cursor: &mut u32, chunks: usize, wanted: &mut dyn FnMut(At, &Entry) -> bool) {
        for _ in 0..chunks {
            if *cursor as usize >= self.objects.chunks.len() {
                *cursor = 0;
                return;
            }
            let mut more = true;
            for at in self.objects.pages_of(*cursor) {
                let entry = self.objects.entry(at);
                if entry.state() == State::Remote {
                    more &= wanted(at, entry);
                }
            }
            *cursor += 1;
            if !more {
                return;
            }
        }
    }

    /// `holder` had the last copy, or one shard of too few. What others have of it is of no use any more.
    fn lose(&mut self, at: At, holder: HolderId, why: Loss) {
        if self.sites.get(self.objects.entry(at).site).code().is_some() {
            self.flush_copies(at, None);
            if let Some(number) = self.site_number(Site::of(&[holder])) {
                self.objects.entry_mut(at).site = number;
            }
        }
        if self.enter(at, Event::Lose) {
            let entry = self.objects.entry_mut(at);
            entry.set_lost(why);
            self.counters.pages_lost += u64::from(!entry.is_home());
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
        (entry.state() == state && entry.version == version && self.sites.get(entry.site).has(holder)).then_some(at)
    }

    fn all(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<At> {
        let chunks = 0..self.objects.chunks.len() as u32;
        debug_assert!(chunks.end < NONE);
        chunks.flat_map(|chunk| self.objects.pages_of(chunk)).filter(|at| wanted(self.objects.entry(*at))).collect()
    }
}
