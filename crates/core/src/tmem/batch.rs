//! A batch of pages copied out of the store, ready to be sent after the lock is given back. Covers one reusable buffer.

use crate::compress::{Kind, Packed};
use crate::handle::{Handle, Version};
use crate::page::{Digest, PAGE_BYTES};

/// Reused from batch to batch: allocates only while it grows.
#[derive(Default)]
pub struct Batch {
    pages: Vec<Sent>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Sent {
    handle: Handle,
    version: Version,
    kind: Kind,
    digest: Digest,
    start: usize,
    len: usize,
}

impl Batch {
    pub fn clear(&mut self) {
        self.pages.clear();
        self.bytes.clear();
    }

    pub fn len(&self) -> usize {
        self.pages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The sum of the packed bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn push(&mut self, handle: Handle, version: Version, packed: Packed<'_>) {
        let (start, len) = (self.bytes.len(), packed.bytes.len());
        self.bytes.extend_from_slice(packed.bytes);
        self.pages.push(Sent { handle, version, kind: packed.kind, digest: packed.digest, start, len });
    }

    pub fn iter(&self) -> impl Iterator<Item = (Handle, Version, Packed<'_>)> {
        self.pages.iter().map(|sent| {
            let bytes = &self.bytes[sent.start..sent.start + sent.len];
            (sent.handle, sent.version, Packed { kind: sent.kind, digest: sent.digest, bytes })
        })
    }
}

/// The packed bytes of one page, copied out under the lock, to be unpacked after it.
pub struct Copied {
    kind: Kind,
    digest: Digest,
    len: usize,
    bytes: Box<[u8; PAGE_BYTES]>,
}

impl Default for Copied {
    fn default() -> Self {
        Copied { kind: Kind::Raw, digest: Digest::default(), len: 0, bytes: Box::new([0; PAGE_BYTES]) }
    }
}

impl Copied {
    pub fn packed(&self) -> Packed<'_> {
        Packed { kind: self.kind, digest: self.digest, bytes: &self.bytes[..self.len] }
    }

    pub(super) fn set(&mut self, packed: Packed<'_>) {
        (self.kind, self.digest, self.len) = (packed.kind, packed.digest, packed.bytes.len());
        self.bytes[..self.len].copy_from_slice(packed.bytes);
    }
}
