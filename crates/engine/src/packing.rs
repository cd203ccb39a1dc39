//! A batch as it travels: the bytes as they are stored, or packed anew by another codec. Covers that choice; keeps its buffers from batch to batch.

use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::{Handle, Version};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_core::tmem::Batch;
use ramster_core::wire::message::{Blob, PutPage};

use crate::engine::Engine;

pub struct Packing {
    packer: Packer,
    page: Box<Page>,
    /// What was packed anew, one after the other.
    bytes: Vec<u8>,
}

impl Packing {
    pub fn new(engine: &Engine) -> Self {
        Packing { packer: engine.new_packer(), page: Box::new([0; PAGE_BYTES]), bytes: Vec::new() }
    }

    pub fn put_pages<'a>(&'a mut self, engine: &Engine, batch: &'a Batch) -> Vec<PutPage<'a>> {
        let anew = match engine.remote_codec() {
            None => Vec::new(),
            Some(codec) => self.pack_anew(codec, batch),
        };
        let bytes = &self.bytes;
        let travels = |index: usize, packed: Packed<'a>| match anew.get(index) {
            Some(Some((kind, start, end))) => Packed { kind: *kind, digest: packed.digest, bytes: &bytes[*start..*end] },
            _ => packed,
        };
        let put = |(index, (handle, version, packed)): (usize, (Handle, Version, Packed<'a>))| {
            let Packed { kind, digest, bytes } = travels(index, packed);
            PutPage { handle, version, blob: Blob { kind: kind.tag(), digest, bytes } }
        };
        batch.iter().enumerate().map(put).collect()
    }

    /// For each page its new bytes, where they are fewer than the old ones.
    fn pack_anew(&mut self, codec: Codec, batch: &Batch) -> Vec<Option<(Kind, usize, usize)>> {
        self.bytes.clear();
        let is_there = |kind| matches!((codec, kind), (Codec::Lz4, Kind::Lz4) | (Codec::Zstd(_), Kind::Zstd));
        let mut anew = Vec::with_capacity(batch.len());
        for (_, _, old) in batch.iter() {
            // What does not unpack here travels as it is: its getter will find it corrupt and say so.
            if is_there(old.kind) || self.packer.unpack(old, &mut self.page).is_err() {
                anew.push(None);
                continue;
            }
            let new = self.packer.pack_digested(&self.page, old.digest, codec);
            let start = self.bytes.len();
            if new.bytes.len() < old.bytes.len() {
                self.bytes.extend_from_slice(new.bytes);
                anew.push(Some((new.kind, start, self.bytes.len())));
            } else {
                anew.push(None);
            }
        }
        anew
    }
}
