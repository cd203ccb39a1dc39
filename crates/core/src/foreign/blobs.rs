//! The bytes of foreign pages, counted by reference. Covers one record per blob and who still refers to it; not whose it is.

use std::collections::HashMap;

/// What a blob costs beside its record: its place in the table and the allocator's own header and rounding.
pub const BLOB_BYTES: u64 = 24 + 16;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlobRef(u32);

struct Blob {
    record: Box<[u8]>,
    references: u32,
}

#[derive(Default)]
pub struct Blobs {
    table: Vec<Blob>,
    vacant: Vec<u32>,
}

impl Blobs {
    /// None: the table is full (four thousand million blobs).
    pub fn insert(&mut self, record: &[u8]) -> Option<BlobRef> {
        let blob = Blob { record: record.into(), references: 1 };
        match self.vacant.pop() {
            Some(slot) => {
                self.table[slot as usize] = blob;
                Some(BlobRef(slot))
            }
            None => {
                let slot = u32::try_from(self.table.len()).ok()?;
                self.table.push(blob);
                Some(BlobRef(slot))
            }
        }
    }

    pub fn bytes(&self, blob: BlobRef) -> &[u8] {
        &self.table[blob.0 as usize].record
    }

    pub fn retain(&mut self, blob: BlobRef) {
        self.table[blob.0 as usize].references += 1;
    }

    /// Returns the bytes freed: none while somebody else refers to it.
    pub fn release(&mut self, blob: BlobRef) -> u64 {
        let held = &mut self.table[blob.0 as usize];
        held.references -= 1;
        if held.references > 0 {
            return 0;
        }
        let freed = std::mem::take(&mut held.record).len() as u64 + BLOB_BYTES;
        self.vacant.push(blob.0);
        if self.vacant.len() == self.table.len() {
            // The last page has gone: the table's memory goes with it.
            *self = Blobs::default();
        }
        freed
    }

    /// Bytes in use, if every blob has exactly the references counted.
    pub fn check(&self, references: &HashMap<BlobRef, u32>) -> Result<u64, String> {
        let mut used = 0;
        for (slot, blob) in self.table.iter().enumerate() {
            let expected = references.get(&BlobRef(slot as u32)).copied().unwrap_or(0);
            if blob.references != expected {
                return Err(format!("blob {slot} has {} references, {expected} are seen", blob.references));
            }
            if expected > 0 {
                used += blob.record.len() as u64 + BLOB_BYTES;
            }
        }
        Ok(used)
    }
}
