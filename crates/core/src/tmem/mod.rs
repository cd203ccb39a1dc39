//! Steps 3 and 11: which pages there are, where each is, and the rules of put, get and flush. One owner's pages; the engine holds a lock around it.
//! Covers the verbs; `transit.rs` has what happens between home and holders. Packing and sending happen outside: nothing here waits.

mod batch;
mod counters;
mod entry;
mod flushes;
mod hand;
mod hash;
mod objects;
mod room;
mod sites;
pub mod states;
mod story;
mod transit;

pub use batch::{Batch, Copied};
pub use counters::{Counters, Gauges};
pub use flushes::{Flush, FlushOrder};
pub use sites::{COPIES_MAX, Site};
pub use transit::{Acknowledged, Away, Fetched, Unfetched};

use crate::backend::{Keep, Lost, Put, Refusal};
use crate::compress::{Kind, Packed};
use crate::handle::{Class, Classes, Handle, HolderId, ObjectId, PoolId, PoolKind, Version};
use crate::page::Digest;
use crate::store::{SlabMemory, Store};
use entry::Entry;
use flushes::{Flushes, Holders};
use objects::{At, CHUNK_PAGES, Objects};
use sites::Sites;
use states::{Event, State};
use story::Story;

/// What a get found. Local bytes are in the [`Copied`] that the caller brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Local,
    /// Every 8 bytes of the page are this pattern.
    Same(u64),
    /// To be fetched from `holder` and checked against `digest`; then [`Tmem::localified`] or [`Tmem::unfetched`] hears of it.
    RemoteAt {
        holder: HolderId,
        version: Version,
        digest: Digest,
        /// Whether another holder has a copy too.
        others: bool,
    },
    /// The same of a coded page: any of the site's holders, as many as it needs, have it together.
    ShardsAt {
        site: Site,
        version: Version,
        digest: Digest,
    },
    Miss,
    Lost(Lost),
}

/// A clone is what a forked process has: the same pages, and no part in what the first one does from then on.
#[derive(Clone)]
pub struct Tmem<M> {
    objects: Objects,
    store: Store<M>,
    flushes: Flushes,
    sites: Sites,
    story: Story,
    complaint: Option<String>,
    counters: Counters,
    /// Pages by state.
    pages: [u64; 6],
    bytes_in_transit: u64,
    bytes_remote: u64,
    next_version: Version,
    /// Grows by one when a quarter of the local pages has been put anew.
    age: u8,
    puts_this_age: u64,
}

impl<M: SlabMemory> Tmem<M> {
    /// `seed` keys the hash tables. `limit_bytes` is what the store may take: over it puts are refused.
    pub fn new(memory: M, seed: u64, limit_bytes: u64) -> Self {
        Tmem {
            objects: Objects::new(seed),
            store: Store::new(memory, limit_bytes),
            flushes: Flushes::default(),
            sites: Sites::new(seed),
            story: Story::new(),
            complaint: None,
            counters: Counters::default(),
            pages: [0; 6],
            bytes_in_transit: 0,
            bytes_remote: 0,
            next_version: 1,
            age: 0,
            puts_this_age: 0,
        }
    }

    pub fn new_pool(&mut self, class: impl Into<Class>) -> Result<PoolId, Refusal> {
        self.objects.new_pool(class.into()).ok_or_else(|| {
            self.counters.pools_refused += 1;
            Refusal::TooManyPools
        })
    }

    /// A refused put leaves no older copy of the handle anywhere. An older page is gone before the new one is stored.
    pub fn put(&mut self, handle: &Handle, packed: Packed<'_>) -> Put {
        self.counters.puts += 1;
        if !self.objects.pools.contains_key(&handle.pool) {
            self.counters.puts_refused_no_such_pool += 1;
            return Put::Rejected(Refusal::NoSuchPool);
        }
        let found = self.objects.find(handle);
        if let Some(at) = found
            && self.is_unchanged(at, packed.kind, packed.digest)
        {
            self.note_unchanged(at);
            return Put::Stored;
        }
        let Some(at) = found.or_else(|| self.objects.insert(handle, Entry::ABSENT)) else {
            return self.refuse_full();
        };
        if let Kind::Same(value) = packed.kind {
            self.step(at, Event::PutSame, None);
            *self.objects.entry_mut(at) = Entry::same(value);
            self.counters.puts_same += 1;
            return Put::Stored;
        }
        self.put_packed(at, packed)
    }

    /// True if the bytes with this digest are what is kept under the handle already: then the put is done, without packing, storing or sending.
    /// Not to be asked for same-value pages.
    pub fn put_unchanged(&mut self, handle: &Handle, digest: Digest) -> bool {
        let Some(at) = self.objects.find(handle) else { return false };
        let unchanged = self.is_unchanged(at, Kind::Raw, digest);
        if unchanged {
            self.counters.puts += 1;
            self.note_unchanged(at);
        }
        unchanged
    }

    /// A local page's bytes are copied into `copied`. Ephemeral gets are exclusive; for the others `keep` says what is left behind.
    pub fn get(&mut self, handle: &Handle, keep: Keep, copied: &mut Copied) -> Answer {
        self.counters.gets += 1;
        let Some(at) = self.objects.find(handle) else {
            self.counters.gets_missed += 1;
            return Answer::Miss;
        };
        let entry = *self.objects.entry(at);
        let frees = keep != Keep::Keep || self.kind_of(at) == PoolKind::Ephemeral;
        match entry.state() {
            State::Absent => Answer::Miss,
            State::Same => {
                self.counters.gets_same += 1;
                self.leave_behind(at, frees);
                Answer::Same(entry.value())
            }
            State::Local | State::InTransit => {
                self.counters.gets_local += 1;
                copied.set(Packed { kind: entry.kind(), digest: entry.digest, bytes: self.store.bytes(entry.slot) });
                // In transit: the copy at the holder is what KeepRemote wants to keep; the slot goes when it is acknowledged.
                let stays =
                    entry.state() == State::InTransit && keep == Keep::KeepRemote && self.kind_of(at) == PoolKind::Persistent;
                self.leave_behind(at, frees && !stays);
                if stays {
                    self.objects.entry_mut(at).set_home(true);
                }
                Answer::Local
            }
            State::Remote => {
                self.counters.gets_remote += 1;
                let site = self.sites.get(entry.site);
                if site.code().is_some() {
                    return Answer::ShardsAt { site, version: entry.version, digest: entry.digest };
                }
                let others = site.holders().len() > 1;
                // A remote page has a holder; were it not so, its getter would find that nobody has it.
                let holder = site.first().unwrap_or(HolderId(u16::MAX));
                Answer::RemoteAt { holder, version: entry.version, digest: entry.digest, others }
            }
            State::Lost => {
                self.counters.gets_lost += 1;
                if entry.is_home() {
                    // It was not, after all.
                    self.objects.entry_mut(at).set_home(false);
                    self.counters.pages_lost += 1;
                }
                Answer::Lost(Lost { handle: *handle, holder: self.sites.get(entry.site).first(), why: entry.loss() })
            }
        }
    }

    pub fn flush_page(&mut self, handle: &Handle) {
        if let Some(at) = self.objects.find(handle) {
            self.drop_page(at, Event::Flush, None);
        }
    }

    /// `count` pages from `handle` on.
    pub fn flush_range(&mut self, handle: &Handle, count: u32) {
        let Some(object) = self.objects.object(handle.pool, handle.object) else { return };
        let (first, end) = (u64::from(handle.index), u64::from(handle.index) + u64::from(count));
        let mut holders = Holders::default();
        for chunk in self.objects.chunks_between(object, first, end) {
            let start = u64::from(self.objects.chunks[chunk as usize].number) * u64::from(CHUNK_PAGES);
            self.flush_chunk(chunk, &mut holders, |bit| (first..end).contains(&(start + u64::from(bit))));
        }
        self.flushes.all(&holders, Flush::Range { handle: *handle, count });
    }

    pub fn flush_object(&mut self, pool: PoolId, object: ObjectId) {
        let mut holders = Holders::default();
        if let Some(number) = self.objects.object(pool, object) {
            self.flush_chunks_of(number, &mut holders);
        }
        self.flushes.all(&holders, Flush::Object { pool, object });
    }

    pub fn destroy_pool(&mut self, pool: PoolId) {
        let mut holders = Holders::default();
        for object in self.objects.objects_of(pool) {
            self.flush_chunks_of(object, &mut holders);
        }
        self.objects.pools.remove(&pool);
        self.flushes.all(&holders, Flush::Pool(pool));
    }

    /// Flushes that holders have yet to hear of, oldest first; see [`FlushOrder`] for the order that MUST be kept.
    pub fn take_flushes(&mut self, max: usize, out: &mut Vec<FlushOrder>) {
        self.flushes.take(max, out);
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Walks all chunks for `bytes_metadata`: for a snapshot a few times a second.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            pages_same: self.pages[State::Same as usize],
            pages_local: self.pages[State::Local as usize],
            pages_in_transit: self.pages[State::InTransit as usize],
            pages_remote: self.pages[State::Remote as usize],
            pages_lost: self.pages[State::Lost as usize],
            bytes_used: self.store.used_bytes(),
            bytes_stored: self.store.stored_bytes(),
            bytes_in_transit: self.bytes_in_transit,
            bytes_remote: self.bytes_remote,
            bytes_metadata: self.objects.metadata_bytes() + self.store.metadata_bytes(),
            flushes_waiting: self.flushes.len() as u64,
        }
    }

    /// What the store takes of the machine's memory now: a load, for every put.
    pub fn bytes_used(&self) -> u64 {
        self.store.used_bytes()
    }

    pub fn bytes_in_transit(&self) -> u64 {
        self.bytes_in_transit
    }

    /// Packed bytes at holders.
    pub fn bytes_remote(&self) -> u64 {
        self.bytes_remote
    }

    pub fn flushes_waiting(&self) -> usize {
        self.flushes.len()
    }

    /// Copies at holders or on their way there: while there are none, no put can be unchanged but of a page that a get left.
    pub fn pages_away(&self) -> u64 {
        self.pages[State::Remote as usize] + self.pages[State::InTransit as usize]
    }

    /// Those that have pages here which could leave: a load, for every put.
    pub fn local_classes(&self) -> Classes {
        self.objects.local_classes
    }

    /// The persistent ones among them in the order in which they are to leave: the oldest page first, equals in turn after `last`, from which the last batch was.
    pub fn classes_by_age(&self, last: Class, out: &mut Vec<Class>) {
        self.objects.classes_by_age(self.age, last, out);
    }

    /// Over its new limit the store only refuses; making room is the remotifier's.
    pub fn set_limit_bytes(&mut self, limit_bytes: u64) {
        self.store.set_limit_bytes(limit_bytes);
    }

    pub fn memory(&self) -> &M {
        self.store.memory()
    }

    /// The first forbidden transition since the last call, with that page's story. Always None unless tmem has a bug.
    pub fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    fn put_packed(&mut self, at: At, packed: Packed<'_>) -> Put {
        self.release(at, None);
        let slot = match self.store.put(packed.bytes, at.owner()) {
            Some(slot) => Some(slot),
            None => {
                // Nothing is kept while room is made, or the old page would be found there.
                self.enter(at, Event::PutRefused);
                *self.objects.entry_mut(at) = Entry::ABSENT;
                self.put_making_room(packed.bytes, at)
            }
        };
        let Some(slot) = slot else {
            self.objects.remove(at);
            return self.refuse_full();
        };
        if self.enter(at, Event::Put) {
            *self.objects.entry_mut(at) = Entry::local(slot, packed.digest, packed.kind, self.age);
        }
        self.counters.puts_raw += u64::from(packed.kind == Kind::Raw);
        self.grow_older();
        Put::Stored
    }

    fn refuse_full(&mut self) -> Put {
        self.counters.puts_refused_store_full += 1;
        Put::Rejected(Refusal::StoreFull)
    }

    fn is_unchanged(&self, at: At, kind: Kind, digest: Digest) -> bool {
        let entry = self.objects.entry(at);
        let kept = matches!(entry.state(), State::Local | State::InTransit | State::Remote);
        kept && entry.digest == digest && !matches!(kind, Kind::Same(_))
    }

    fn note_unchanged(&mut self, at: At) {
        self.enter(at, Event::PutUnchanged);
        let entry = self.objects.entry_mut(at);
        entry.set_age(self.age);
        entry.set_home(false);
        self.counters.puts_unchanged += 1;
    }

    fn grow_older(&mut self) {
        self.puts_this_age += 1;
        // 256: smaller ages would tell the pages of one reclaim batch apart, which are equally old.
        if self.puts_this_age > (self.pages[State::Local as usize] / 4).max(256) {
            self.age = self.age.wrapping_add(1);
            self.puts_this_age = 0;
        }
    }

    fn kind_of(&self, at: At) -> PoolKind {
        self.objects.chunks[at.chunk as usize].class.kind()
    }

    fn leave_behind(&mut self, at: At, frees: bool) {
        if frees {
            self.drop_page(at, Event::Flush, None);
        } else {
            self.objects.entry_mut(at).set_age(self.age);
        }
    }

    /// The page goes, from everywhere. `holders` collects who is to hear of it, instead of an order for every page.
    fn drop_page(&mut self, at: At, event: Event, holders: Option<&mut Holders>) {
        if self.step(at, event, holders) {
            self.objects.remove(at);
            self.counters.pages_flushed += u64::from(event == Event::Flush);
            self.counters.pages_evicted += u64::from(event == Event::Evict);
        }
    }

    fn flush_chunks_of(&mut self, object: u32, holders: &mut Holders) {
        for chunk in self.objects.chunks_of(object) {
            self.flush_chunk(chunk, holders, |_| true);
        }
    }

    fn flush_chunk(&mut self, chunk: u32, holders: &mut Holders, wanted: impl Fn(u32) -> bool) {
        let mut bits = self.objects.present(chunk);
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            if wanted(bit) {
                self.drop_page(At { chunk, bit }, Event::Flush, Some(holders));
            }
        }
    }

    /// Gives up what the page has (a slot, a copy at a holder), then takes it to its next state.
    fn step(&mut self, at: At, event: Event, holders: Option<&mut Holders>) -> bool {
        self.release(at, holders);
        self.enter(at, event)
    }

    fn release(&mut self, at: At, holders: Option<&mut Holders>) {
        let entry = *self.objects.entry(at);
        match (entry.state(), holders) {
            (State::Local, _) => self.store.free(entry.slot),
            (State::InTransit, holders) => {
                self.store.free(entry.slot);
                // An acknowledgement that comes later finds nobody and becomes a flush; this is for those that have come.
                if usize::from(entry.missing()) < self.sites.get(entry.site).holders().len() {
                    self.flush_copies(at, holders);
                }
            }
            (State::Remote, holders) => self.flush_copies(at, holders),
            (State::Absent | State::Same | State::Lost, _) => {}
        }
    }

    fn flush_copies(&mut self, at: At, holders: Option<&mut Holders>) {
        let Entry { site, version, .. } = *self.objects.entry(at);
        let site = self.sites.get(site);
        match holders {
            Some(holders) => site.holders().iter().for_each(|holder| holders.add(*holder)),
            None => {
                let handle = self.objects.handle(at);
                site.holders().iter().for_each(|holder| self.flushes.copy(*holder, handle, version));
            }
        }
    }

    /// The one place where a page changes its state. False, and a complaint, if the table forbids it.
    fn enter(&mut self, at: At, event: Event) -> bool {
        let entry = *self.objects.entry(at);
        let from = entry.state();
        let object = self.objects.chunks[at.chunk as usize].object;
        let handle = self.objects.handle(at);
        self.story.tell(object, handle.index, entry.version, from, event);
        let Some(to) = from.after(event) else {
            self.counters.transitions_forbidden += 1;
            let story = self.story.of(object, &handle);
            self.complaint.get_or_insert_with(|| format!("forbidden: {event:?} in state {from:?}; {story}"));
            return false;
        };
        self.count(entry, from, false);
        self.objects.entry_mut(at).set_state(to);
        self.count(entry, to, true);
        match (from == State::Local, to == State::Local) {
            (true, false) => self.objects.uncount_local(at),
            (false, true) => self.objects.count_local(at),
            _ => {}
        }
        true
    }

    fn count(&mut self, entry: Entry, state: State, enters: bool) {
        let one = |total: &mut u64, amount: u64| *total = if enters { *total + amount } else { total.saturating_sub(amount) };
        one(&mut self.pages[state as usize], if state == State::Absent { 0 } else { 1 });
        match state {
            State::InTransit => one(&mut self.bytes_in_transit, entry.slot.len() as u64),
            State::Remote => one(&mut self.bytes_remote, entry.slot.len() as u64),
            _ => {}
        }
    }
}
