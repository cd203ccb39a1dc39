//! The bytes of foreign pages, counted by reference, in a dense store. Covers one blob and how many objects refer to it; not whose it is.

use std::collections::HashMap;

use crate::seal::Tag;
use crate::store::{Compacted, SlabMemory, SlotRef, Store};
use crate::wire::message::Blob;

/// What a blob costs beside its bytes: its place in the table, and the store's own note of the slot.
pub const BLOB_BYTES: u64 = 40 + 8;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlobRef(u32);

#[derive(Clone)]
struct Kept {
    tag: Tag,
    /// None: no bytes at all, which the store does not take.
    at: Option<SlotRef>,
    references: u32,
    kind: u8,
}

pub struct Blobs<M> {
    store: Store<M>,
    table: Vec<Kept>,
    vacant: Vec<u32>,
}

impl<M: SlabMemory> Blobs<M> {
    pub fn new(memory: M) -> Self {
        Blobs { store: Store::new(memory, 0), table: Vec::new(), vacant: Vec::new() }
    }

    /// None: no room within `limit_bytes` of memory, holes between other blobs included.
    pub fn insert(&mut self, blob: &Blob<'_>, limit_bytes: u64) -> Option<BlobRef> {
        let slot = match self.vacant.last() {
            Some(slot) => *slot,
            None => u32::try_from(self.table.len()).ok()?,
        };
        self.store.set_limit_bytes(limit_bytes);
        let at = if blob.bytes.is_empty() { None } else { Some(self.store.put(blob.bytes, slot)?) };
        let kept = Kept { tag: blob.tag, at, references: 1, kind: blob.kind };
        if self.vacant.pop().is_some() {
            self.table[slot as usize] = kept;
        } else {
            self.table.push(kept);
        }
        Some(BlobRef(slot))
    }

    pub fn blob(&self, blob: BlobRef) -> Blob<'_> {
        let kept = &self.table[blob.0 as usize];
        let bytes = kept.at.map_or(&[][..], |at| self.store.bytes(at));
        Blob { kind: kept.kind, tag: kept.tag, bytes }
    }

    pub fn len_bytes(&self, blob: BlobRef) -> u64 {
        self.table[blob.0 as usize].at.map_or(0, |at| at.len() as u64)
    }

    pub fn retain(&mut self, blob: BlobRef) {
        self.table[blob.0 as usize].references += 1;
    }

    /// Returns what was freed: nothing while somebody else refers to it.
    pub fn release(&mut self, blob: BlobRef) -> u64 {
        let kept = &mut self.table[blob.0 as usize];
        kept.references -= 1;
        if kept.references > 0 {
            return 0;
        }
        let at = kept.at.take();
        if let Some(at) = at {
            self.store.free(at);
        }
        self.vacant.push(blob.0);
        if self.vacant.len() == self.table.len() {
            // The last page has gone: the table's memory goes with it.
            (self.table, self.vacant) = (Vec::new(), Vec::new());
        }
        at.map_or(0, |at| at.len() as u64) + BLOB_BYTES
    }

    /// Memory that the bytes take, in whole frames.
    pub fn resident_bytes(&self) -> u64 {
        self.store.used_bytes()
    }

    /// The sum of the blobs' lengths.
    pub fn stored_bytes(&self) -> u64 {
        self.store.stored_bytes()
    }

    pub fn wasted_bytes(&self) -> u64 {
        self.store.wasted_bytes()
    }

    /// Moves blobs together, at most `budget_bytes` of them. False: it is as dense as it gets.
    pub fn compact(&mut self, budget_bytes: usize) -> bool {
        let table = &mut self.table;
        let compacted = self.store.compact(budget_bytes, &mut |moved| {
            let at = &mut table[moved.owner as usize].at;
            *at = at.map(|at| at.at(moved));
        });
        compacted != Compacted { moved_bytes: 0, freed_bytes: 0 }
    }

    /// Bytes counted, if every blob has exactly the references given.
    pub fn check(&self, references: &HashMap<BlobRef, u32>) -> Result<u64, String> {
        let (mut used, mut stored) = (0, 0);
        for (slot, kept) in self.table.iter().enumerate() {
            let expected = references.get(&BlobRef(slot as u32)).copied().unwrap_or(0);
            if kept.references != expected {
                return Err(format!("blob {slot} has {} references, {expected} are seen", kept.references));
            }
            let length = kept.at.map_or(0, |at| at.len() as u64);
            stored += length;
            used += if expected > 0 { length + BLOB_BYTES } else { 0 };
        }
        if stored == self.store.stored_bytes() { Ok(used) } else { Err(format!("{stored} bytes known of those stored")) }
    }
}
