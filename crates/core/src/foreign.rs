//! Step 9: other owners' pages, kept under an offer. Covers versions, flushes, dropping what is ephemeral, sharing with a forked child and giving everything
//! back; not whose they are and for how long (`foreign/accounts`), not where the bytes lie (`foreign/blobs`), and not what is in them: a blob is opaque here.
//!
//! An owner is the only writer of its pages. At goodbye they go at once; when its last link broke, after a grace time, in which it may come back to them.

mod accounts;
mod blobs;
mod droppable;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind, Version};
use crate::store::SlabMemory;
use crate::wire::message::{Blob, DoneStatus, PutStatus, Role};
use accounts::{Account, Accounts};
pub use accounts::{OlderIncarnation, Seat};
use blobs::{BLOB_BYTES, BlobRef, Blobs};
use droppable::{Droppable, Dropped};

/// What the index costs for a page: an entry in a B-tree node that is two thirds full.
const ENTRY_BYTES: u64 = 24;
/// What an object costs: its first B-tree node and its place in the account.
const OBJECT_BYTES: u64 = 256;
/// Blobs moved under one hold of the lock. Ten microseconds or so.
const COMPACT_BYTES: usize = 32 * 1024;
/// Waste below this part of what the blobs take is left alone.
const WASTE_PART: u64 = 8;

/// Less over the offer is not recalled: pages that were on their way when the offer came down to what is held. Eight batches of one owner.
const RECALL_LEAST_BYTES: u64 = 1 << 20;

/// Ephemeral pages dropped to make room for one page. Room in pieces that do not join is given up after so many.
const DROPS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held<'a> {
    Hit { version: Version, blob: Blob<'a> },
    Miss,
    Gone,
    Stale,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientCount {
    pub owner: OwnerId,
    pub links: u32,
    pub pages: u64,
    /// Of its blobs; what it shares with a parent or child counts for both.
    pub bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ForeignCounts {
    pub puts_stored: u64,
    pub puts_refused_full: u64,
    pub puts_gone: u64,
    pub puts_stale: u64,
    pub gets_hit: u64,
    pub gets_miss: u64,
    pub gets_gone: u64,
    pub gets_stale: u64,
    pub pages_flushed: u64,
    /// Ephemeral ones, when room was needed.
    pub pages_dropped: u64,
    pub shares: u64,
    pub shares_refused: u64,
    pub accounts_superseded: u64,
    pub accounts_refused_older: u64,
    /// Owners that came back within the grace time.
    pub accounts_returned: u64,
    /// Owners that did not.
    pub accounts_expired: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    version: Version,
    blob: BlobRef,
    kind: PoolKind,
}

/// The pages of one object, and the sum of their blobs' lengths.
#[derive(Clone, Default)]
struct Pages {
    entries: BTreeMap<u32, Entry>,
    bytes: u64,
}

type Key = (PoolId, ObjectId);

pub struct Foreign<M> {
    offer_bytes: u64,
    /// The sum of all that is kept, with what it takes to find it.
    used_bytes: u64,
    accounts: Accounts,
    blobs: Blobs<M>,
    droppable: Droppable,
    /// Objects nobody sees any more, freed a slice at a time so that a big goodbye stops nobody.
    dying: Vec<Pages>,
    pub counts: ForeignCounts,
}

fn key(handle: &Handle) -> Key {
    (handle.pool, handle.object)
}

/// Versions grow and may wrap.
fn is_newer(version: Version, than: Version) -> bool {
    (version.wrapping_sub(than) as i32) > 0
}

impl<M: SlabMemory> Foreign<M> {
    pub fn new(offer_bytes: u64, memory: M) -> Self {
        Foreign {
            offer_bytes,
            used_bytes: 0,
            accounts: Accounts::default(),
            blobs: Blobs::new(memory),
            droppable: Droppable::default(),
            dying: Vec::new(),
            counts: ForeignCounts::default(),
        }
    }

    /// A link of this owner opened. A later incarnation takes the place of an earlier one, whose pages go; an earlier one is refused. Of several bulk links
    /// of one owner only the last to arrive changes anything: the others are broken, and their owner does not know what of theirs came through.
    pub fn arrive(&mut self, owner: &OwnerId, role: Role) -> Result<Seat, OlderIncarnation> {
        let Ok(arrival) = self.accounts.arrive(owner, role) else {
            self.counts.accounts_refused_older += 1;
            return Err(OlderIncarnation);
        };
        self.counts.accounts_returned += u64::from(arrival.returned);
        self.counts.accounts_superseded += u64::from(arrival.superseded.is_some());
        self.bury(arrival.superseded);
        Ok(arrival.seat)
    }

    /// A link closed. After the owner's last one its pages stay until `keep_until_ms`, by the clock that [`Foreign::expire`] is told.
    pub fn leave(&mut self, seat: Seat, keep_until_ms: u64) {
        let ended = self.accounts.leave(seat, keep_until_ms);
        self.bury(ended);
    }

    /// Ends the accounts whose grace time is over.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(account) = self.accounts.expired(now_ms) {
            self.counts.accounts_expired += 1;
            self.counts.pages_flushed += account.pages;
            self.bury(Some(account));
        }
    }

    /// When [`Foreign::expire`] has something to do. None: every owner has a link.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.accounts.next_expiry_ms()
    }

    /// The owner leaves, whatever links it has. Returns how many pages it had.
    pub fn goodbye(&mut self, seat: Seat) -> Option<u64> {
        let pages = self.account(seat)?.pages;
        let ended = self.accounts.close(seat.slot);
        self.bury(ended);
        self.counts.pages_flushed += pages;
        Some(pages)
    }

    /// Unless it returns `Stored`, nothing is kept under this handle; `Stale` leaves the newer copy it found, `Gone` changes nothing. The older copy goes first, and then
    /// ephemeral pages of anybody, if there is no room without.
    pub fn put(&mut self, seat: Seat, kind: PoolKind, handle: &Handle, version: Version, blob: &Blob<'_>) -> PutStatus {
        let Some(account) = self.accounts.written_by(seat) else {
            self.counts.puts_gone += 1;
            return PutStatus::Gone;
        };
        if account.entry(handle).is_some_and(|held| is_newer(held.version, version)) {
            self.counts.puts_stale += 1;
            return PutStatus::Stale;
        }
        self.remove(seat, handle);
        let is_new_object = self.account(seat).is_some_and(|account| !account.objects.contains_key(&key(handle)));
        let index_bytes = BLOB_BYTES + ENTRY_BYTES + if is_new_object { OBJECT_BYTES } else { 0 };
        let mut kept = self.keep(blob, index_bytes);
        for _ in 0..DROPS {
            if kept.is_some() || !self.drop_oldest() {
                break;
            }
            kept = self.keep(blob, index_bytes);
        }
        let Some(kept) = kept else {
            self.counts.puts_refused_full += 1;
            return PutStatus::RefusedFull;
        };
        self.enter(seat, handle, Entry { version, blob: kept, kind }, blob.bytes.len() as u64);
        self.counts.puts_stored += 1;
        PutStatus::Stored
    }

    /// None: neither what is counted nor the memory really taken may pass the offer.
    fn keep(&mut self, blob: &Blob<'_>, index_bytes: u64) -> Option<BlobRef> {
        let blob_bytes = blob.bytes.len() as u64;
        if self.used_bytes + blob_bytes + index_bytes > self.offer_bytes {
            return None;
        }
        let limit_bytes = self.offer_bytes - (self.used_bytes - self.blobs.stored_bytes()) - index_bytes;
        let kept = match self.blobs.insert(blob, limit_bytes) {
            Some(kept) => kept,
            // There is room, but in holes.
            None if self.blobs.compact(COMPACT_BYTES) => self.blobs.insert(blob, limit_bytes)?,
            None => return None,
        };
        self.used_bytes += blob_bytes + BLOB_BYTES;
        Some(kept)
    }

    pub fn get(&mut self, seat: Seat, handle: &Handle, version: Version) -> Held<'_> {
        let Some(account) = self.accounts.get(seat) else {
            self.counts.gets_gone += 1;
            return Held::Gone;
        };
        match account.entry(handle) {
            None => {
                self.counts.gets_miss += 1;
                Held::Miss
            }
            Some(entry) if entry.version != version => {
                self.counts.gets_stale += 1;
                Held::Stale
            }
            Some(entry) => {
                self.counts.gets_hit += 1;
                Held::Hit { version, blob: self.blobs.blob(entry.blob) }
            }
        }
    }

    /// Frees the page unless a newer version of it has come meanwhile. Returns pages freed; None: the account has gone.
    pub fn flush(&mut self, seat: Seat, handle: &Handle, version: Version) -> Option<u64> {
        let held = self.accounts.written_by(seat)?.entry(handle);
        if held.is_none_or(|held| is_newer(held.version, version)) {
            return Some(0);
        }
        self.remove(seat, handle);
        self.counts.pages_flushed += 1;
        Some(1)
    }

    /// Frees at most `limit` pages of the `count` from `first` on, in all their versions. Returns pages freed and where to go on.
    pub fn flush_range(&mut self, seat: Seat, first: &Handle, count: u32, limit: usize) -> Option<(u64, Option<Handle>)> {
        let account = self.accounts.written_by(seat)?;
        let (Some(pages), 1..) = (account.objects.get(&key(first)), count) else {
            return Some((0, None));
        };
        let last = first.index.saturating_add(count - 1);
        let indices: Vec<u32> = pages.entries.range(first.index..=last).map(|(index, _)| *index).take(limit).collect();
        for index in &indices {
            self.remove(seat, &Handle { index: *index, ..*first });
        }
        self.counts.pages_flushed += indices.len() as u64;
        let next = indices.last().filter(|index| indices.len() == limit && **index < last);
        Some((indices.len() as u64, next.map(|index| Handle { index: index + 1, ..*first })))
    }

    pub fn flush_object(&mut self, seat: Seat, pool: PoolId, object: ObjectId) -> Option<u64> {
        self.accounts.written_by(seat)?;
        let freed = self.remove_object(seat, (pool, object));
        self.counts.pages_flushed += freed;
        Some(freed)
    }

    pub fn destroy_pool(&mut self, seat: Seat, pool: PoolId) -> Option<u64> {
        let range = (pool, ObjectId([0; 3]))..=(pool, ObjectId([u64::MAX; 3]));
        let keys: Vec<Key> = self.accounts.written_by(seat)?.objects.range(range).map(|(key, _)| *key).collect();
        let freed = keys.into_iter().map(|key| self.remove_object(seat, key)).sum();
        self.counts.pages_flushed += freed;
        Some(freed)
    }

    /// Gives a forked child its own view of all the pages the parent has here now. The child MUST be of the same node, have a link open and no
    /// page yet. What either changes later the other does not see. Costs nothing per page until then.
    pub fn share(&mut self, parent: Seat, child: &OwnerId) -> (DoneStatus, u64) {
        let Some(account) = self.account(parent) else {
            return (DoneStatus::Gone, 0);
        };
        let (node, pages, bytes) = (account.owner.node, account.pages, account.bytes);
        let objects = account.objects.clone();
        match self.accounts.of(child) {
            Some(seat) if child.node == node && seat.pages == 0 && seat.links > 0 && seat.serial != parent.account => {
                (seat.objects, seat.pages, seat.bytes) = (objects, pages, bytes);
                self.counts.shares += 1;
                (DoneStatus::Done, pages)
            }
            _ => self.refuse_share(),
        }
    }

    /// For a child that this link may not speak for.
    pub fn refuse_share(&mut self) -> (DoneStatus, u64) {
        self.counts.shares_refused += 1;
        (DoneStatus::Refused, 0)
    }

    /// Frees up to `limit` pages that nobody sees any more, then moves pages together where many holes are. False: nothing left to do. Whoever
    /// dropped something calls this until then.
    pub fn reap(&mut self, limit: usize) -> bool {
        let mut left = limit;
        while let Some(pages) = self.dying.last_mut() {
            while let Some((_, entry)) = pages.entries.pop_first() {
                self.used_bytes -= ENTRY_BYTES + self.blobs.release(entry.blob);
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
            self.used_bytes -= OBJECT_BYTES;
            self.dying.pop();
        }
        let wasted_bytes = if self.blobs.stored_bytes() == 0 { self.blobs.resident_bytes() } else { self.blobs.wasted_bytes() };
        wasted_bytes > self.blobs.resident_bytes() / WASTE_PART && self.blobs.compact(COMPACT_BYTES)
    }

    /// Below what is used already, nothing more is taken; see [`Foreign::shed`].
    pub fn set_offer(&mut self, offer_bytes: u64) {
        self.offer_bytes = offer_bytes;
    }

    /// Drops up to `limit` ephemeral pages of what is held beyond the offer. False: nothing left to drop. Whoever lowers the offer calls this until then.
    pub fn shed(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            if self.used_bytes <= self.offer_bytes || !self.drop_oldest() {
                return false;
            }
        }
        true
    }

    pub fn offer_bytes(&self) -> u64 {
        self.offer_bytes
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Memory that the pages' bytes really take, holes included.
    pub fn resident_bytes(&self) -> u64 {
        self.blobs.resident_bytes()
    }

    pub fn free_bytes(&self) -> u64 {
        self.offer_bytes.saturating_sub(self.used_bytes)
    }

    /// What this owner is asked to take away: its share of what is held beyond the offer.
    pub fn recall_bytes(&self, seat: Seat) -> u64 {
        let bytes = self.account(seat).map_or(0, |account| account.bytes);
        let over = self.used_bytes.saturating_sub(self.offer_bytes);
        if over < RECALL_LEAST_BYTES && self.offer_bytes > 0 {
            return 0;
        }
        // Shared pages are counted with each who sees them: the shares may add up to more than what is over.
        (u128::from(bytes) * u128::from(over)).div_ceil(u128::from(self.used_bytes.max(1))).min(u128::from(bytes)) as u64
    }

    pub fn clients(&self) -> Vec<ClientCount> {
        let count = |a: &Account| ClientCount { owner: a.owner, links: a.links, pages: a.pages, bytes: a.bytes };
        self.accounts.iter().map(count).collect()
    }

    /// Counts everything again. For tests: what was leaked or counted twice.
    pub fn check(&self) -> Result<(), String> {
        let mut seen = HashMap::new();
        for account in self.accounts.iter() {
            let (mut count, mut bytes) = (0, 0);
            for pages in account.objects.values() {
                seen.insert(Arc::as_ptr(pages), pages.as_ref());
                count += pages.entries.len() as u64;
                bytes += pages.entries.values().map(|entry| self.blobs.len_bytes(entry.blob)).sum::<u64>();
            }
            if (count, bytes) != (account.pages, account.bytes) {
                return Err(format!(
                    "{:?} has {count} pages, {bytes} bytes; counted {}, {}",
                    account.owner, account.pages, account.bytes
                ));
            }
        }
        let trees: Vec<&Pages> = seen.into_values().chain(&self.dying).collect();
        let mut references = HashMap::new();
        for entry in trees.iter().flat_map(|pages| pages.entries.values()) {
            *references.entry(entry.blob).or_insert(0u32) += 1;
        }
        let entries: u64 = trees.iter().map(|pages| pages.entries.len() as u64).sum();
        let used = self.blobs.check(&references)? + entries * ENTRY_BYTES + trees.len() as u64 * OBJECT_BYTES;
        if used == self.used_bytes { Ok(()) } else { Err(format!("{used} bytes used, counted {}", self.used_bytes)) }
    }

    fn account(&self, seat: Seat) -> Option<&Account> {
        self.accounts.get(seat)
    }

    /// The oldest ephemeral page goes. One that a forked child sees too stays: dropping it in one view would first copy the index of its whole object.
    fn drop_oldest(&mut self) -> bool {
        while let Some(oldest) = self.droppable.pop() {
            if self.is_droppable(&oldest) {
                self.remove(oldest.seat, &oldest.handle);
                self.counts.pages_dropped += 1;
                return true;
            }
        }
        false
    }

    fn is_droppable(&self, page: &Dropped) -> bool {
        let pages = self.account(page.seat).and_then(|account| account.objects.get(&key(&page.handle)));
        pages.filter(|pages| Arc::strong_count(pages) == 1).is_some_and(|pages| {
            let entry = pages.entries.get(&page.handle.index);
            entry.is_some_and(|entry| entry.version == page.version && entry.kind == PoolKind::Ephemeral)
        })
    }

    /// The object's pages for writing. A view shared with a parent or child is copied first: that is the copy on write.
    fn own_pages(&mut self, seat: Seat, key: Key) -> Option<&mut Pages> {
        let pages = self.accounts.get_mut(seat)?.objects.get_mut(&key)?;
        if Arc::get_mut(pages).is_none() {
            let copy = Pages::clone(pages);
            for entry in copy.entries.values() {
                self.blobs.retain(entry.blob);
            }
            self.used_bytes += OBJECT_BYTES + ENTRY_BYTES * copy.entries.len() as u64;
            *pages = Arc::new(copy);
        }
        Arc::get_mut(pages)
    }

    fn enter(&mut self, seat: Seat, handle: &Handle, entry: Entry, bytes: u64) {
        let mut new_bytes = ENTRY_BYTES;
        if let Some(account) = self.accounts.get_mut(seat) {
            account.pages += 1;
            account.bytes += bytes;
            account.objects.entry(key(handle)).or_insert_with(|| {
                new_bytes += OBJECT_BYTES;
                Arc::new(Pages::default())
            });
        }
        self.used_bytes += new_bytes;
        if let Some(pages) = self.own_pages(seat, key(handle)) {
            pages.entries.insert(handle.index, entry);
            pages.bytes += bytes;
        }
        if entry.kind == PoolKind::Ephemeral {
            if self.droppable.is_to_be_sorted() {
                let mut droppable = std::mem::take(&mut self.droppable);
                droppable.sort_out(|page| self.is_droppable(page));
                self.droppable = droppable;
            }
            self.droppable.push(Dropped { seat, handle: *handle, version: entry.version });
        }
    }

    fn remove(&mut self, seat: Seat, handle: &Handle) {
        let Some(held) = self.account(seat).and_then(|account| account.entry(handle)) else { return };
        let bytes = self.blobs.len_bytes(held.blob);
        let Some(pages) = self.own_pages(seat, key(handle)) else { return };
        let Some(entry) = pages.entries.remove(&handle.index) else { return };
        pages.bytes -= bytes;
        let is_last = pages.entries.is_empty();
        self.used_bytes -= ENTRY_BYTES + self.blobs.release(entry.blob);
        if let Some(account) = self.accounts.get_mut(seat) {
            account.pages -= 1;
            account.bytes -= bytes;
            if is_last {
                account.objects.remove(&key(handle));
                self.used_bytes -= OBJECT_BYTES;
            }
        }
    }

    fn remove_object(&mut self, seat: Seat, key: Key) -> u64 {
        let Some(account) = self.accounts.get_mut(seat) else { return 0 };
        let Some(pages) = account.objects.remove(&key) else { return 0 };
        let freed = pages.entries.len() as u64;
        account.pages -= freed;
        account.bytes -= pages.bytes;
        self.dying.extend(Arc::into_inner(pages));
        freed
    }

    fn bury(&mut self, ended: Option<Account>) {
        self.dying.extend(ended.into_iter().flat_map(|account| account.objects.into_values()).filter_map(Arc::into_inner));
    }
}

#[cfg(test)]
mod tests;
