//! The world's coded pages: joined from the shards that holders have, and cut into them. Covers the bytes; who has which is tmem's word, which is checked.

use crate::world::{Record, World};
use ramster_core::backend::Keep;
use ramster_core::compress::Packed;
use ramster_core::handle::{Handle, HolderId, Version};
use ramster_core::shards::ShardSet;

impl World {
    /// Who has the shards is asked now: a site that has changed since the get began may have others.
    pub fn land_shards(&mut self, handle: Handle, version: Version, keep: Keep) {
        match self.whole(&handle, version) {
            Some(Record { kind, digest, bytes, .. }) => {
                self.land_bytes((handle, version, keep), Packed { kind, digest, bytes: &bytes });
            }
            None => self.get(handle, keep),
        }
    }

    /// The page that its holders have together, by any of their shards that suffice. None: not that version any more. What tmem says they have they MUST
    /// have.
    pub fn whole(&mut self, handle: &Handle, version: Version) -> Option<Record> {
        let site = self.tmem.site_of(handle, version)?;
        let held = |holder: HolderId| {
            let record = self.holders[usize::from(holder.0)].pages.get(handle).filter(|record| record.version == version);
            record.unwrap_or_else(|| panic!("{holder:?} lacks {handle:?}, version {version}")).clone()
        };
        let Some(code) = site.code() else { return site.first().map(held) };
        assert!(site.is_enough());
        let records: Vec<_> = site.shards().map(|(holder, shard)| (shard, held(holder))).collect();
        let (_, first) = &records[0];
        let (length, shard_bytes) = (first.shard?.1, first.bytes.len());
        let mut bytes = vec![0; shard_bytes * code.shards()];
        let mut has = ShardSet::default();
        // The last ones, so that parity is needed as often as not.
        for (shard, record) in records.iter().rev().take(site.needed()) {
            assert_eq!(record.shard, Some((*shard, length)), "{site:?} says who has which shard");
            let at = usize::from(*shard) * shard_bytes;
            bytes[at..at + shard_bytes].copy_from_slice(&record.bytes);
            has = has.with(*shard);
        }
        assert!(self.coder.complete(&mut bytes, has, false));
        bytes.truncate(length);
        Some(Record { bytes, shard: None, ..first.clone() })
    }

    pub fn shard_of(&self, whole: &Record, shard: u8) -> Record {
        let (mut bytes, length) = (whole.bytes.clone(), whole.bytes.len());
        let shard_bytes = self.coder.cut(&mut bytes, 0);
        let at = usize::from(shard) * shard_bytes;
        Record { bytes: bytes[at..at + shard_bytes].to_vec(), shard: Some((shard, length)), ..whole.clone() }
    }
}
