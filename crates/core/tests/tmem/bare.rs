//! A tmem alone, with what tests of single promises ask of it. Covers the asking; the promises are `promises.rs` and `copies.rs`.

use crate::world::{SEED, page_of};
use ramster_core::backend::{Keep, Put};
use ramster_core::compress::{Codec, Packer};
use ramster_core::handle::{Handle, HolderId, ObjectId, PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_core::remotify::BatchLimit;
use ramster_core::store::HeapSlabs;
use ramster_core::tmem::{Acknowledged, Answer, Batch, Copied, Flush, Site, Tmem};

pub const NODE: HolderId = HolderId(0);
pub const OTHER: HolderId = HolderId(1);
pub const ALL: BatchLimit = BatchLimit { pages: 256, bytes: 1 << 20 };
/// Contents that pack to some hundred bytes, and to no less than a page.
pub const SMALL: u32 = 2;
pub const RAW: u32 = 7;

pub struct Bare {
    pub tmem: Tmem<HeapSlabs>,
    pub packer: Packer,
    pub pool: PoolId,
    pub copied: Copied,
}

impl Bare {
    pub fn new(kind: PoolKind, limit_bytes: u64) -> Bare {
        let mut tmem = Tmem::new(HeapSlabs::new(1024), SEED, limit_bytes);
        let pool = tmem.new_pool(kind).expect("a pool");
        Bare { tmem, packer: Packer::new(SEED), pool, copied: Copied::default() }
    }

    pub fn handle(&self, index: u32) -> Handle {
        Handle { pool: self.pool, object: ObjectId([1, 2, 3]), index }
    }

    pub fn put(&mut self, index: u32, content: u32) -> Put {
        let (handle, page) = (self.handle(index), page_of(content));
        self.tmem.put(&handle, self.packer.pack(&page, Codec::Lz4))
    }

    pub fn get(&mut self, index: u32, keep: Keep) -> Answer {
        let handle = self.handle(index);
        self.tmem.get(&handle, keep, &mut self.copied)
    }

    /// The content's bytes are what the last local get copied.
    pub fn assert_copied(&mut self, content: u32) {
        let mut page = [0; PAGE_BYTES];
        self.packer.unpack(self.copied.packed(), &mut page).expect("unpacks");
        assert!(page == page_of(content));
    }

    pub fn send_all(&mut self, holder: HolderId) -> Vec<(Handle, u32)> {
        self.send_to(&[holder])
    }

    pub fn send_to(&mut self, holders: &[HolderId]) -> Vec<(Handle, u32)> {
        let kind = PoolKind::Persistent;
        let mut batch = Batch::default();
        self.tmem.begin_remotify(kind, Site::of(holders), ALL, &mut batch);
        batch.iter().map(|(handle, version, _)| (handle, version)).collect()
    }

    pub fn flushes(&mut self) -> Vec<(HolderId, Flush)> {
        let mut orders = Vec::new();
        self.tmem.take_flushes(usize::MAX, &mut orders);
        orders.into_iter().map(|order| (order.holder, order.what)).collect()
    }

    /// The page is at `holder`, acknowledged.
    pub fn remote(&mut self, index: u32, content: u32, holder: HolderId) -> (Handle, u32) {
        assert_eq!(self.put(index, content), Put::Stored);
        let (handle, version) = self.send_all(holder)[0];
        assert_eq!(self.tmem.acknowledged(&handle, version, holder), Acknowledged::Remote);
        (handle, version)
    }
}

pub fn persistent() -> Bare {
    Bare::new(PoolKind::Persistent, u64::MAX)
}
