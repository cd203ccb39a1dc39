//! A batch as it travels: the bytes as they are stored, or packed anew by another codec, sealed, and cut into shards where each holder gets one. Covers that
//! choice; keeps its buffers from batch to batch.

use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::{Handle, Version};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_core::seal::Tag;
use ramster_core::shards::{Code, Coder, travelling_kind};
use ramster_core::tmem::Batch;
use ramster_core::wire::message::{Blob, PutPage};

use crate::engine::Engine;

pub struct Packing {
    packer: Packer,
    page: Box<Page>,
    /// What travels, one after the other, sealed.
    bytes: Vec<u8>,
    pages: Vec<Travelling>,
    /// Of the code that was used last.
    coder: Option<Coder>,
}

struct Travelling {
    handle: Handle,
    version: Version,
    kind: u8,
    tag: Tag,
    start: usize,
    /// The length of each shard; of a whole copy, which is as good as its own shard 0, the length of all.
    shard_bytes: usize,
}

impl Packing {
    pub fn new(engine: &Engine) -> Self {
        let page = Box::new([0; PAGE_BYTES]);
        Packing { packer: engine.new_packer(), page, bytes: Vec::new(), pages: Vec::new(), coder: None }
    }

    /// Once for each batch: a version is sealed once. With a code, pages are cut into its shards.
    pub fn pack(&mut self, engine: &Engine, batch: &Batch, code: Option<Code>) {
        self.bytes.clear();
        self.pages.clear();
        if self.coder.as_ref().map(Coder::code) != code {
            self.coder = code.map(Coder::new);
        }
        let codec = engine.remote_codec();
        for (handle, version, packed) in batch.iter() {
            let start = self.bytes.len();
            let kind = self.append(codec, packed);
            let whole_bytes = self.bytes.len() - start;
            let kind = travelling_kind(kind, code.map_or(0, |code| code.padding(whole_bytes)));
            let tag = engine.seals().seal(&handle, version, kind, &mut self.bytes[start..]);
            let shard_bytes = self.coder.as_ref().map_or(whole_bytes, |coder| coder.cut(&mut self.bytes, start));
            self.pages.push(Travelling { handle, version, kind, tag, start, shard_bytes });
        }
    }

    /// What was packed last: of each page the shard of that number; 0, where they are not cut, is all of it.
    pub fn pages(&self, shard: u8) -> Vec<PutPage<'_>> {
        let put = |page: &Travelling| {
            let start = page.start + usize::from(shard) * page.shard_bytes;
            let bytes = &self.bytes[start..start + page.shard_bytes];
            PutPage { handle: page.handle, version: page.version, blob: Blob { kind: page.kind, tag: page.tag, bytes } }
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
