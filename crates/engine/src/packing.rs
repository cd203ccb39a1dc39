//! A batch as it travels: the bytes as they are stored, or packed anew by another codec, and sealed. Covers that choice; keeps its buffers from batch to
//! batch.

use std::ops::Range;

use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::{Handle, Version};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_core::seal::Tag;
use ramster_core::tmem::Batch;
use ramster_core::wire::message::{Blob, PutPage};

use crate::engine::Engine;

pub struct Packing {
    packer: Packer,
    page: Box<Page>,
    /// What travels, one after the other, sealed.
    bytes: Vec<u8>,
    pages: Vec<Travelling>,
}

struct Travelling {
    handle: Handle,
    version: Version,
    kind: Kind,
    tag: Tag,
    bytes: Range<usize>,
}

impl Packing {
    pub fn new(engine: &Engine) -> Self {
        Packing { packer: engine.new_packer(), page: Box::new([0; PAGE_BYTES]), bytes: Vec::new(), pages: Vec::new() }
    }

    /// Once for each batch: a version is sealed once.
    pub fn put_pages(&mut self, engine: &Engine, batch: &Batch) -> Vec<PutPage<'_>> {
        self.bytes.clear();
        self.pages.clear();
        let codec = engine.remote_codec();
        for (handle, version, packed) in batch.iter() {
            let start = self.bytes.len();
            let kind = self.append(codec, packed);
            let tag = engine.seals().seal(&handle, version, kind, &mut self.bytes[start..]);
            self.pages.push(Travelling { handle, version, kind, tag, bytes: start..self.bytes.len() });
        }
        let bytes = &self.bytes;
        let put = |page: &Travelling| PutPage {
            handle: page.handle,
            version: page.version,
            blob: Blob { kind: page.kind.tag(), tag: page.tag, bytes: &bytes[page.bytes.clone()] },
        };
        self.pages.iter().map(put).collect()
    }

    /// The page's bytes as they are, or packed anew where that makes them fewer. What does not unpack here travels as it is: its getter will find it
    /// corrupt and say so.
    fn append(&mut self, codec: Option<Codec>, old: Packed<'_>) -> Kind {
        let is_there = |codec| matches!((codec, old.kind), (Codec::Lz4, Kind::Lz4) | (Codec::Zstd(_), Kind::Zstd));
        if let Some(codec) = codec.filter(|codec| !is_there(*codec))
            && self.packer.unpack(old, &mut self.page).is_ok()
        {
            let new = self.packer.pack_digested(&self.page, old.digest, codec);
            if new.bytes.len() < old.bytes.len() {
                self.bytes.extend_from_slice(new.bytes);
                return new.kind;
            }
        }
        self.bytes.extend_from_slice(old.bytes);
        old.kind
    }
}
