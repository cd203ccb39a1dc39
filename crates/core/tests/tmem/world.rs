//! A small world for tmem: one owner, holders, links that deliver in order but as late as they like, and a plain map that knows what is right.
//! Covers the simulation and its checks; which operations happen in which order is the tests'.

use ramster_core::backend::{Keep, Loss, Lost, Put, Refusal};
use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::{Class, Classes, Handle, HolderId, ObjectId, PoolId, PoolKind, Version};
use ramster_core::page::{Digest, PAGE_BYTES, Page};
use ramster_core::remotify::BatchLimit;
use ramster_core::shards::{Code, Coder};
use ramster_core::store::HeapSlabs;
use ramster_core::tmem::{Acknowledged, Answer, Away, Batch, Copied, Fetched, Flush, FlushOrder, Site, Tmem, Unfetched};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const SEED: u64 = 0x0bad_cafe;
/// One more than a page has copies or shards here, so that a lost one can be made anew.
pub const HOLDERS: u16 = 4;

/// What the plain map says of a handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    /// This content, and nothing else, unless the pool is ephemeral.
    Kept(u32),
    /// This content or a miss: a get took the local copy away and left a remote one, if there was any.
    Perhaps(u32),
    /// Its holder died: lost, until put or flushed.
    Lost,
}

/// What a holder keeps: a copy, or the shard of that number, with how many bytes all shards are together without what fills them up.
#[derive(Clone)]
pub struct Record {
    pub version: Version,
    pub kind: Kind,
    pub digest: Digest,
    pub bytes: Vec<u8>,
    pub shard: Option<(u8, usize)>,
}

enum Message {
    Put { handle: Handle, record: Record, rebuilds: bool },
    Flush(Flush),
}

/// What the holder answered and the owner has not heard yet.
struct Answered {
    holder: HolderId,
    handle: Handle,
    version: Version,
    /// It is of a further copy of a remote page.
    rebuilds: bool,
    shard: Option<u8>,
    /// None: the answer was lost on its way.
    stored: Option<bool>,
}

struct Getting {
    handle: Handle,
    /// None: the shards are fetched.
    holder: Option<HolderId>,
    version: Version,
    digest: Digest,
    keep: Keep,
}

#[derive(Default)]
pub struct Holder {
    pub pages: BTreeMap<Handle, Record>,
    inbox: VecDeque<Message>,
}

pub struct World {
    pub tmem: Tmem<HeapSlabs>,
    pub packer: Packer,
    pub pools: Vec<(PoolId, Class)>,
    pub truth: BTreeMap<Handle, Truth>,
    /// Pages that tmem counts as lost.
    lost: u64,
    /// Of lost pages those that the program had as well.
    lost_at_home: BTreeSet<Handle>,
    pub holders: Vec<Holder>,
    answers: Vec<Answered>,
    gets: Vec<Getting>,
    copied: Copied,
    batch: Batch,
    codec: Codec,
    pub coder: Coder,
}

/// Same-value, well compressible, half, badly and not at all compressible pages: the content decides.
pub fn page_of(content: u32) -> Page {
    let mut page = [0; PAGE_BYTES];
    if content.is_multiple_of(8) {
        ramster_core::compress::fill(&mut page, u64::from(content / 8 % 3) * 0x0101_0101_0101_0101);
        return page;
    }
    let random = [0, 40, 300, 1024, 2000, 3000, 3990, PAGE_BYTES][content as usize % 8];
    let mut x = u64::from(content).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut page[..random] {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *byte = x as u8;
    }
    page[random..].fill(content as u8 | 1);
    page
}

impl World {
    pub fn new(limit_bytes: u64, codec: Codec) -> World {
        let mut tmem = Tmem::new(HeapSlabs::new(64), SEED, limit_bytes);
        let classes = [Class::RUN, Class::EPHEMERAL, Class::own(29).expect("the last one")];
        let pools = classes.map(|class| (tmem.new_pool(class).expect("a pool"), class)).to_vec();
        let holders = (0..HOLDERS).map(|_| Holder::default()).collect();
        World {
            tmem,
            packer: Packer::new(SEED),
            pools,
            truth: BTreeMap::new(),
            lost: 0,
            lost_at_home: BTreeSet::new(),
            holders,
            answers: Vec::new(),
            gets: Vec::new(),
            copied: Copied::default(),
            batch: Batch::default(),
            codec,
            coder: Coder::new(Code::new(2, 1).expect("a code")),
        }
    }

    pub fn handle(&self, pool: usize, object: u64, index: u32) -> Handle {
        Handle { pool: self.pools[pool % self.pools.len()].0, object: ObjectId([object, !object, 7]), index }
    }

    /// None: its pool was destroyed.
    fn class_of(&self, handle: &Handle) -> Option<Class> {
        self.pools.iter().find(|(pool, _)| *pool == handle.pool).map(|(_, class)| *class)
    }

    fn kind_of(&self, handle: &Handle) -> PoolKind {
        self.class_of(handle).map_or(PoolKind::Persistent, Class::kind)
    }

    pub fn put(&mut self, handle: Handle, content: u32) -> Put {
        let page = page_of(content);
        let packed = self.packer.pack(&page, self.codec);
        let put = self.tmem.put(&handle, packed);
        match put {
            Put::Stored => {
                self.lost_at_home.remove(&handle);
                self.truth.insert(handle, Truth::Kept(content))
            }
            Put::Rejected(why) => {
                assert_eq!(why, Refusal::StoreFull);
                self.truth.remove(&handle)
            }
        };
        self.check_complaint();
        put
    }

    /// A put that asks first whether the page is unchanged, as the engine does for pages that have a remote copy.
    pub fn put_asking_first(&mut self, handle: Handle, content: u32) {
        let page = page_of(content);
        let digest = self.packer.digest(&page);
        if ramster_core::page::same_value(&page).is_none() && self.tmem.put_unchanged(&handle, digest) {
            self.truth.insert(handle, Truth::Kept(content));
        } else {
            self.put(handle, content);
        }
    }

    /// Starts a get; a remote one stays in flight until [`World::land_get`].
    pub fn get(&mut self, handle: Handle, keep: Keep) {
        match self.tmem.get(&handle, keep, &mut self.copied) {
            Answer::Local => {
                let mut page = [0; PAGE_BYTES];
                self.packer.unpack(self.copied.packed(), &mut page).expect("what is stored unpacks");
                self.hit(handle, &page, keep);
            }
            Answer::Same(value) => {
                let mut page = [0; PAGE_BYTES];
                ramster_core::compress::fill(&mut page, value);
                self.hit(handle, &page, keep);
            }
            Answer::RemoteAt { holder, version, digest, .. } => {
                self.gets.push(Getting { handle, holder: Some(holder), version, digest, keep });
            }
            Answer::ShardsAt { version, digest, .. } => self.gets.push(Getting { handle, holder: None, version, digest, keep }),
            Answer::Miss => self.missed(handle),
            Answer::Lost(lost) => self.lost(handle, lost),
        }
        self.check_complaint();
    }

    /// Promise 1: those bytes, never older ones.
    fn hit(&mut self, handle: Handle, page: &Page, keep: Keep) {
        let truth = self.truth.get(&handle).copied();
        let Some(Truth::Kept(content) | Truth::Perhaps(content)) = truth else {
            panic!("hit of {handle:?}, which should be {truth:?}");
        };
        assert!(*page == page_of(content), "{handle:?} came back as something else than content {content}");
        if self.kind_of(&handle) == PoolKind::Ephemeral || keep == Keep::Free {
            self.truth.remove(&handle);
        } else if keep == Keep::KeepRemote {
            self.truth.insert(handle, Truth::Perhaps(content));
        }
    }

    fn missed(&mut self, handle: Handle) {
        let truth = self.truth.remove(&handle);
        let may = self.kind_of(&handle) == PoolKind::Ephemeral || matches!(truth, None | Some(Truth::Perhaps(_)));
        assert!(may, "{handle:?} is missed, and should be {truth:?}");
    }

    fn lost(&mut self, handle: Handle, lost: Lost) {
        assert_eq!(lost.handle, handle);
        assert_eq!(self.truth.get(&handle), Some(&Truth::Lost), "{lost:?} of a page that nobody lost");
        self.lost += u64::from(self.lost_at_home.remove(&handle));
        assert_eq!(self.tmem.counters().pages_lost, self.lost, "each loss is counted once");
    }

    pub fn gets_in_flight(&self) -> usize {
        self.gets.len()
    }

    /// The answer to one of the gets in flight arrives.
    pub fn land_get(&mut self, which: usize) {
        let Getting { handle, holder, version, digest, keep } = self.gets.remove(which % self.gets.len());
        let Some(holder) = holder else { return self.land_shards(handle, version, keep) };
        let record = self.holders[usize::from(holder.0)].pages.get(&handle).filter(|record| record.version == version).cloned();
        let Some(Record { kind, bytes, .. }) = record else {
            match self.tmem.unfetched(&handle, version, holder, Loss::HolderForgot) {
                Unfetched::Elsewhere(holder) => {
                    self.gets.push(Getting { handle, holder: Some(holder), version, digest, keep });
                }
                Unfetched::Stale => self.get(handle, keep),
                Unfetched::Miss => self.missed(handle),
                Unfetched::Lost(lost) => self.lost(handle, lost),
            }
            return self.check_complaint();
        };
        self.land_bytes((handle, version, keep), Packed { kind, digest, bytes: &bytes });
    }

    pub fn land_bytes(&mut self, (handle, version, keep): (Handle, Version, Keep), packed: Packed<'_>) {
        let mut page = [0; PAGE_BYTES];
        self.packer.unpack(packed, &mut page).expect("the holder's copy is the page");
        match self.tmem.localified(&handle, version, keep) {
            Fetched::Stale => self.get(handle, keep),
            Fetched::Current => self.hit(handle, &page, keep),
        }
        self.check_complaint();
    }

    /// A page comes back for good, if there is room.
    pub fn repatriate(&mut self, holder: u16) -> bool {
        let mut pages = Vec::new();
        self.tmem.remote_pages(HolderId(holder), &mut 0, 1, &mut pages);
        let Some((handle, version)) = pages.first().copied() else { return false };
        let Record { kind, digest, bytes, .. } = self.whole(&handle, version).expect("it is remote");
        let moved = self.tmem.repatriated(&handle, version, Packed { kind, digest, bytes: &bytes });
        self.check_complaint();
        moved
    }

    pub fn flush_page(&mut self, handle: Handle) {
        self.tmem.flush_page(&handle);
        self.truth.remove(&handle);
    }

    pub fn flush_range(&mut self, handle: Handle, count: u32) {
        self.tmem.flush_range(&handle, count);
        let end = u64::from(handle.index) + u64::from(count);
        let inside = |other: &Handle| (other.pool, other.object) == (handle.pool, handle.object) && other.index >= handle.index;
        self.truth.retain(|other, _| !(inside(other) && u64::from(other.index) < end));
    }

    pub fn flush_object(&mut self, handle: Handle) {
        self.tmem.flush_object(handle.pool, handle.object);
        self.truth.retain(|other, _| (other.pool, other.object) != (handle.pool, handle.object));
    }

    /// Another pool of the same class takes its place.
    pub fn destroy_pool(&mut self, which: usize) {
        let which = which % self.pools.len();
        let (pool, class) = self.pools[which];
        self.tmem.destroy_pool(pool);
        self.truth.retain(|handle, _| handle.pool != pool);
        self.gets.retain(|get| get.handle.pool != pool);
        let handle = Handle { pool, object: ObjectId([0; 3]), index: 0 };
        let packed = Packed { kind: Kind::Same(1), digest: Digest::default(), bytes: &[] };
        assert_eq!(self.tmem.put(&handle, packed), Put::Rejected(Refusal::NoSuchPool));
        self.pools[which].0 = self.tmem.new_pool(class).expect("a pool");
    }

    /// Of the class of that pool. Flushes go before the batch, on the same link: that is the rule. With `shards` each holder is sent one of them instead of a copy.
    pub fn send_batch(&mut self, pool: usize, holders: &[u16], shards: bool, pages: usize) {
        let class = self.pools[pool % self.pools.len()].1;
        let mut batch = std::mem::take(&mut self.batch);
        let ids: Vec<_> = holders.iter().map(|holder| HolderId(*holder)).collect();
        let coded = shards.then(|| Site::coded(self.coder.code(), &ids).expect("as many holders as shards"));
        let site = coded.unwrap_or_else(|| Site::of(&ids));
        self.tmem.begin_remotify(class, site, BatchLimit { pages, bytes: 1 << 20 }, &mut batch);
        assert!(batch.len() <= pages);
        self.send_flushes();
        for (handle, version, packed) in batch.iter() {
            assert_eq!(self.class_of(&handle), Some(class), "a batch has pages of one class");
            let (kind, digest, bytes) = (packed.kind, packed.digest, packed.bytes.to_vec());
            let whole = Record { version, kind, digest, bytes, shard: None };
            for holder in site.holders() {
                let shard = site.code().and_then(|_| site.shard_of(*holder));
                let record = shard.map_or_else(|| whole.clone(), |shard| self.shard_of(&whole, shard));
                let put = Message::Put { handle, record, rebuilds: false };
                self.holders[usize::from(holder.0)].inbox.push_back(put);
            }
        }
        self.batch = batch;
        self.check_complaint();
    }

    /// Holder `to` is sent a copy of a page of the pool's class that has fewer than `wanted`, from whoever has one.
    pub fn rebuild(&mut self, pool: usize, to: u16, wanted: usize) {
        let mut thin = Vec::new();
        let of = self.pools[pool % self.pools.len()].1;
        let thinner = |site: &Site| match site.code() {
            None => site.holders().len() < wanted,
            Some(_) => site.missing_shard().is_some(),
        };
        let too_few = |class: Class, site: &Site| class == of && thinner(site) && !site.has(HolderId(to));
        self.tmem.pages_of_class_at(&too_few, &mut 0, (usize::MAX, 1), &mut thin);
        let Some(Away { handle, version, site, .. }) = thin.first().copied() else { return };
        assert_eq!(self.class_of(&handle), Some(of));
        // One at a time: a flush for one that was not answered would take the next one's copy along.
        let is_put =
            |message: &Message| matches!(message, Message::Put { handle: other, rebuilds: true, .. } if *other == handle);
        let under_way = self.holders[usize::from(to)].inbox.iter().any(is_put)
            || self.answers.iter().any(|answer| answer.rebuilds && answer.handle == handle && answer.holder.0 == to);
        if under_way {
            return;
        }
        if let Some(whole) = self.whole(&handle, version) {
            let record = site.missing_shard().map_or_else(|| whole.clone(), |shard| self.shard_of(&whole, shard));
            self.send_flushes();
            self.holders[usize::from(to)].inbox.push_back(Message::Put { handle, record, rebuilds: true });
        }
    }

    pub fn send_flushes(&mut self) {
        let mut orders = Vec::new();
        self.tmem.take_flushes(usize::MAX, &mut orders);
        for FlushOrder { holder, what } in orders {
            self.holders[usize::from(holder.0)].inbox.push_back(Message::Flush(what));
        }
    }

    /// A holder handles its next message. `stores`: whether it has room; `answers`: whether its answer will arrive.
    pub fn deliver(&mut self, holder: u16, stores: bool, answers: bool) {
        let at = &mut self.holders[usize::from(holder)];
        match at.inbox.pop_front() {
            None => {}
            Some(Message::Put { handle, record, rebuilds }) => {
                let (version, shard) = (record.version, record.shard.map(|(shard, _)| shard));
                if stores {
                    at.pages.insert(handle, record);
                }
                let stored = answers.then_some(stores);
                self.answers.push(Answered { holder: HolderId(holder), handle, version, rebuilds, shard, stored });
            }
            Some(Message::Flush(what)) => at.pages.retain(|handle, record| !flushes(what, handle, record.version)),
        }
    }

    pub fn answers_in_flight(&self) -> usize {
        self.answers.len()
    }

    /// The owner hears one of the answers, or gives up waiting for it.
    pub fn hear(&mut self, which: usize) {
        let Answered { holder, handle, version, rebuilds, shard, stored } = self.answers.remove(which % self.answers.len());
        match stored {
            Some(true) if rebuilds => {
                match shard {
                    None => self.tmem.rebuilt(&handle, version, holder),
                    Some(shard) => self.tmem.rebuilt_shard(&handle, version, holder, shard),
                };
            }
            _ if rebuilds => self.tmem.not_rebuilt(&handle, version, holder),
            Some(true) => {
                let _: Acknowledged = self.tmem.acknowledged(&handle, version, holder);
            }
            Some(false) => self.tmem.refused(&handle, version, holder),
            None => self.tmem.unanswered(&handle, version, holder),
        }
        self.check_complaint();
    }

    /// The holder loses everything; a new one, empty, takes its number. What it said and was told is lost with it.
    pub fn kill(&mut self, holder: u16) {
        let mut copies: [BTreeMap<Handle, Version>; HOLDERS as usize] = Default::default();
        for other in 0..HOLDERS {
            let mut pages = Vec::new();
            self.tmem.remote_pages(HolderId(other), &mut 0, usize::MAX, &mut pages);
            copies[usize::from(other)] = pages.into_iter().collect();
        }
        let mut persistent = BTreeSet::new();
        for (handle, version) in &copies[usize::from(holder)] {
            let elsewhere =
                (0..HOLDERS).filter(|other| *other != holder && copies[usize::from(*other)].contains_key(handle)).count();
            let coded = self.tmem.site_of(handle, *version).is_some_and(|site| site.code().is_some());
            if self.kind_of(handle) == PoolKind::Persistent && elsewhere < if coded { self.coder.code().data() } else { 1 } {
                persistent.insert(*handle);
            }
        }
        self.holders[usize::from(holder)] = Holder::default();
        self.answers.retain(|answer| answer.holder.0 != holder);
        // What the program has too is not lost, unless it asks for it after all.
        let is_home = |handle: &Handle| matches!(self.truth.get(handle), Some(Truth::Perhaps(_)));
        let home: BTreeSet<Handle> = persistent.iter().filter(|handle| is_home(handle)).copied().collect();
        self.lost += (persistent.len() - home.len()) as u64;
        assert_eq!(self.tmem.holder_died(HolderId(holder)), (persistent.len() - home.len()) as u64);
        self.lost_at_home.extend(home);
        for handle in persistent {
            // A page that the program has again is lost only as a copy: the map may then say either.
            self.truth.insert(handle, Truth::Lost);
        }
        self.check_complaint();
    }

    /// It is not heard from, and may come back.
    pub fn give_up(&mut self, holder: u16) {
        self.tmem.give_up_copies(HolderId(holder));
        self.check_complaint();
    }

    pub fn compact(&mut self) {
        self.tmem.compact(64 << 10);
        self.check_complaint();
    }

    fn check_complaint(&mut self) {
        if let Some(complaint) = self.tmem.take_complaint() {
            panic!("{complaint}");
        }
    }

    /// Everything in flight arrives; then the holders have exactly the pages that are remote, and every page is what the map says.
    pub fn settle_and_check(&mut self) {
        loop {
            self.send_flushes();
            for holder in 0..HOLDERS {
                while !self.holders[usize::from(holder)].inbox.is_empty() {
                    self.deliver(holder, true, true);
                }
            }
            while !self.gets.is_empty() {
                self.land_get(0);
            }
            if self.answers.is_empty() && self.tmem.flushes_waiting() == 0 {
                break;
            }
            while !self.answers.is_empty() {
                self.hear(0);
            }
        }
        for holder in 0..HOLDERS {
            let mut known = Vec::new();
            self.tmem.remote_pages(HolderId(holder), &mut 0, usize::MAX, &mut known);
            let known: BTreeSet<(Handle, Version)> = known.into_iter().collect();
            let held = self.holders[usize::from(holder)].pages.iter().map(|(handle, record)| (*handle, record.version)).collect();
            assert_eq!(known, held, "holder {holder}: what the owner knows and what is held");
        }
        assert_eq!(self.tmem.gauges().pages_in_transit, 0, "nothing in transit is forgotten");
        assert_eq!(self.tmem.bytes_in_transit(), 0);
        if self.tmem.gauges().pages_local > 0 {
            assert_ne!(self.tmem.local_classes(), Classes::default());
        }
        for handle in self.truth.keys().copied().collect::<Vec<_>>() {
            self.get(handle, Keep::Keep);
            while !self.gets.is_empty() {
                self.land_get(0);
            }
        }
    }

    /// Everything is flushed: nothing is left, here or there.
    pub fn end(mut self) {
        self.settle_and_check();
        for which in 0..self.pools.len() {
            self.destroy_pool(which);
        }
        self.truth.clear();
        self.settle_and_check();
        self.tmem.compact(usize::MAX);
        let gauges = self.tmem.gauges();
        assert_eq!((gauges.bytes_used, gauges.bytes_stored, gauges.bytes_remote), (0, 0, 0));
        let left = gauges.pages_same + gauges.pages_local + gauges.pages_remote + gauges.pages_lost;
        assert_eq!((left, self.tmem.local_classes()), (0, Classes::default()));
        assert!(self.holders.iter().all(|holder| holder.pages.is_empty()));
    }
}

fn flushes(what: Flush, handle: &Handle, version: Version) -> bool {
    match what {
        Flush::Copy { handle: wanted, version: that } => *handle == wanted && version == that,
        Flush::Range { handle: first, count } => {
            let end = u64::from(first.index) + u64::from(count);
            (handle.pool, handle.object) == (first.pool, first.object)
                && (u64::from(first.index)..end).contains(&u64::from(handle.index))
        }
        Flush::Object { pool, object } => (handle.pool, handle.object) == (pool, object),
        Flush::Pool(pool) => handle.pool == pool,
    }
}
