//! Steps 3 to 5 for one thread: pack before the lock, store under it. Covers putting many pages; choosing them is the pager's.

use std::sync::Arc;

use ramster_core::backend::Put;
use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::Handle;
use ramster_core::page::{Digest, PAGE_BYTES, Page, same_value};

use crate::clock::now_ns;
use crate::engine::Engine;
use crate::histograms::Timed;

/// Pages put under one lock: some 10 us of holding it, which a fault may have to wait for.
const RUN_PAGES: usize = 16;

/// One a reclaiming thread: owns the codec contexts and the staging buffer, so a put allocates nothing.
pub struct Putter {
    engine: Arc<Engine>,
    packer: Packer,
    run: Vec<Staged>,
    staging: Vec<u8>,
}

/// A page on its way into tmem; its bytes, if it has any, are in `staging`.
struct Staged {
    kind: Kind,
    digest: Digest,
    start: usize,
    end: usize,
    /// Stored already: it is what was there.
    unchanged: bool,
}

impl Putter {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let packer = engine.new_packer();
        let (run, staging) = (Vec::with_capacity(RUN_PAGES), Vec::with_capacity(RUN_PAGES * PAGE_BYTES));
        Putter { engine, packer, run, staging }
    }

    pub fn put(&mut self, handle: &Handle, page: &Page) -> Put {
        put_one(&self.engine, &mut self.packer, handle, page)
    }

    /// Many pages (at most 64) in few locks; `outcomes` is filled in the same order.
    pub fn put_run(&mut self, handles: &[Handle], pages: &[&Page], outcomes: &mut Vec<Put>) {
        let begun_ns = now_ns();
        outcomes.clear();
        for (handles, pages) in handles.chunks(RUN_PAGES).zip(pages.chunks(RUN_PAGES)) {
            self.run.clear();
            self.staging.clear();
            self.digest_run(handles, pages);
            let codec = self.engine.codec();
            for (staged, page) in self.run.iter_mut().zip(pages) {
                staged.pack(page, codec, &mut self.packer, &mut self.staging);
            }
            let (run, staging) = (&self.run, &self.staging);
            self.engine.with_tmem(|tmem| {
                for (handle, staged) in handles.iter().zip(run) {
                    outcomes.push(if staged.unchanged { Put::Stored } else { tmem.put(handle, staged.packed(staging)) });
                }
            });
        }
        let count = handles.len().max(1) as u64;
        self.engine.stats().time_many(Timed::Put, now_ns().saturating_sub(begun_ns) / count, count);
        self.engine.note_pressure();
        self.engine.note_flushes();
    }

    /// Digests of all, and which of them tmem has already: those need no packing.
    fn digest_run(&mut self, handles: &[Handle], pages: &[&Page]) {
        for page in pages {
            let staged = match same_value(page) {
                Some(value) => Staged { kind: Kind::Same(value), digest: Digest::default(), start: 0, end: 0, unchanged: false },
                None => Staged { kind: Kind::Raw, digest: self.packer.digest(page), start: 0, end: 0, unchanged: false },
            };
            self.run.push(staged);
        }
        if self.engine.pages_away() > 0 {
            let run = &mut self.run;
            self.engine.with_tmem(|tmem| {
                for (handle, staged) in handles.iter().zip(run.iter_mut()) {
                    staged.unchanged = staged.kind == Kind::Raw && tmem.put_unchanged(handle, staged.digest);
                }
            });
        }
    }
}

impl Staged {
    fn pack(&mut self, page: &Page, codec: Codec, packer: &mut Packer, staging: &mut Vec<u8>) {
        if self.unchanged || self.kind != Kind::Raw {
            return;
        }
        let packed = packer.pack_digested(page, self.digest, codec);
        self.kind = packed.kind;
        self.start = staging.len();
        staging.extend_from_slice(packed.bytes);
        self.end = staging.len();
    }

    fn packed<'a>(&self, staging: &'a [u8]) -> Packed<'a> {
        Packed { kind: self.kind, digest: self.digest, bytes: &staging[self.start..self.end] }
    }
}

pub fn put_one(engine: &Engine, packer: &mut Packer, handle: &Handle, page: &Page) -> Put {
    let outcome = match same_value(page) {
        Some(value) => {
            let packed = Packed { kind: Kind::Same(value), digest: Digest::default(), bytes: &[] };
            engine.with_tmem(|tmem| tmem.put(handle, packed))
        }
        None => {
            let digest = packer.digest(page);
            if engine.pages_away() > 0 && engine.with_tmem(|tmem| tmem.put_unchanged(handle, digest)) {
                return Put::Stored;
            }
            let packed = packer.pack_digested(page, digest, engine.codec());
            engine.with_tmem(|tmem| tmem.put(handle, packed))
        }
    };
    engine.note_pressure();
    engine.note_flushes();
    outcome
}
