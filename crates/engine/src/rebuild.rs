//! New copies for those that died with a holder: read from a holder that is left, as they are sealed, and sent to another. Covers finding the pages, the one
//! batch that is under way and the rate; that a page has a copy less is tmem's knowledge, and who takes one `placement.rs`'s choice.

use std::sync::atomic::Ordering::SeqCst;

use ramster_core::backend::Loss;
use ramster_core::handle::{Handle, HolderId, Version};
use ramster_core::remotify::BATCH_PAGES;
use ramster_core::tmem::Site;
use ramster_core::wire::message::{Blob, PutPage};

use crate::bulk::{Fetched, NotFetched};
use crate::engine::Engine;
use crate::holders::SPILL;
use crate::remotifier::Remotifier;

/// Pages of one batch: an eighth of a MiB, which a fault on the same links waits for at most.
const PAGES: usize = BATCH_PAGES / 4;
/// Chunks looked at under one lock: some ten microseconds.
const LOOK_CHUNKS: usize = 64;
/// Locks taken in one turn of looking: a store of a million pages is walked in some thousand turns at most.
const LOOKS: usize = 16;
/// 64 MiB/s: half of what a gigabit link carries, so that faults keep the other half.
const BYTES_PER_MS: u64 = 64 << 10;
/// Nobody takes a copy: look again then.
const NOWHERE_MS: u64 = 1000;

#[derive(Default)]
pub struct Rebuild {
    /// Pages with too few copies may be anywhere from chunk `cursor` on, and around to where the walk began.
    walking: bool,
    cursor: u32,
    /// Something was found since the walk last came round.
    found: bool,
    under_way: Option<UnderWay>,
    not_before_ms: u64,
}

/// One batch: asked of `source`, then sent to `target`.
#[derive(Clone, Copy)]
struct UnderWay {
    source: HolderId,
    target: HolderId,
    sent: bool,
}

impl Remotifier {
    /// The next step, if there is one. Returns when to come again; None: when an answer comes, or never.
    pub(crate) fn rebuild(&mut self, engine: &Engine, now_ms: u64) -> Option<u64> {
        if engine.limits.thinned.swap(false, SeqCst) {
            (self.rebuild.walking, self.rebuild.found) = (true, true);
        }
        if let Some(under_way) = self.rebuild.under_way {
            self.go_on(engine, under_way, now_ms);
        }
        if self.rebuild.under_way.is_some() || !self.rebuild.walking {
            return None;
        }
        if now_ms < self.rebuild.not_before_ms {
            return Some(self.rebuild.not_before_ms - now_ms);
        }
        let wanted = self.placement.copies(engine);
        let mut untaken = false;
        for _ in 0..LOOKS {
            let start = self.rebuild.cursor;
            let (thin, more) = self.find(engine, wanted);
            if !thin.is_empty() {
                if self.begin(engine, &thin, now_ms) {
                    if more {
                        self.rebuild.cursor = start;
                    }
                    return None;
                }
                untaken = true;
            }
            if !self.rebuild.walking {
                return None;
            }
            if untaken && self.rebuild.cursor == 0 {
                break;
            }
        }
        self.rebuild.not_before_ms = now_ms + if untaken { NOWHERE_MS } else { 0 };
        Some(self.rebuild.not_before_ms - now_ms)
    }

    /// Pages with too few copies, all with the same holders; and whether there were others beside them.
    fn find(&mut self, engine: &Engine, wanted: usize) -> (Vec<(Handle, Version, Site)>, bool) {
        let mut thin = Vec::new();
        let rebuild = &mut self.rebuild;
        let too_few = |site: &Site| !site.has(SPILL) && site.holders().len() < wanted;
        engine.with_tmem(|tmem| tmem.thin_pages(&too_few, &mut rebuild.cursor, (LOOK_CHUNKS, PAGES), &mut thin));
        let count = thin.len();
        if let Some((_, _, site)) = thin.first().copied() {
            rebuild.found = true;
            thin.retain(|(_, _, other)| *other == site);
            thin.truncate(PAGES);
        }
        if rebuild.cursor == 0 && count == 0 {
            // Once round without any: done.
            rebuild.walking = std::mem::take(&mut rebuild.found);
        }
        let more = thin.len() < count;
        (thin, more)
    }

    /// False: nobody takes a copy of these now.
    fn begin(&mut self, engine: &Engine, thin: &[(Handle, Version, Site)], now_ms: u64) -> bool {
        let Some((_, _, site)) = thin.first() else { return false };
        let Some(source) = site.first() else { return false };
        let need_bytes = (PAGES * ramster_core::page::PAGE_BYTES) as u64;
        let Some(target) = self.placement.choose_another(engine, &self.bulks, site, need_bytes, now_ms) else { return false };
        if self.bulk(engine, target).is_err() {
            return false;
        }
        let Ok(index) = self.bulk(engine, source) else { return false };
        let pages: Vec<(Handle, Version)> = thin.iter().map(|(handle, version, _)| (*handle, *version)).collect();
        match self.bulks[index].ask(&pages, now_ms) {
            Ok(asked) => {
                self.rebuild.under_way = asked.then_some(UnderWay { source, target, sent: false });
                asked
            }
            Err(trouble) => {
                let bulk = self.bulks.swap_remove(index);
                self.mend(engine, bulk, trouble);
                false
            }
        }
    }

    fn go_on(&mut self, engine: &Engine, under_way: UnderWay, now_ms: u64) {
        let UnderWay { source, target, sent } = under_way;
        if sent {
            if !self.bulks.iter().any(|bulk| bulk.holder == target && bulk.is_rebuilding()) {
                self.rebuild.under_way = None;
            }
            return;
        }
        let Some(bulk) = self.bulks.iter_mut().find(|bulk| bulk.holder == source) else {
            self.rebuild.under_way = None;
            return;
        };
        if let Some(fetched) = bulk.take_fetched() {
            self.pass_on(engine, under_way, &fetched, now_ms);
        } else if !bulk.is_asked() {
            // The link was opened anew: the request went with the old one.
            self.rebuild.under_way = None;
        }
    }

    fn pass_on(&mut self, engine: &Engine, UnderWay { source, target, .. }: UnderWay, fetched: &[Fetched], now_ms: u64) {
        self.rebuild.under_way = None;
        engine.with_tmem(|tmem| {
            for page in fetched.iter().filter(|page| page.what == Err(NotFetched::Forgotten)) {
                tmem.unfetched(&page.handle, page.version, source, Loss::HolderForgot);
            }
        });
        fn put(page: &Fetched) -> Option<PutPage<'_>> {
            let (kind, tag, bytes) = page.what.as_ref().ok()?;
            Some(PutPage { handle: page.handle, version: page.version, blob: Blob { kind: *kind, tag: *tag, bytes } })
        }
        let pages: Vec<PutPage<'_>> = fetched.iter().filter_map(put).collect();
        let bytes: usize = pages.iter().map(|page| page.blob.bytes.len()).sum();
        self.rebuild.not_before_ms = now_ms + (bytes as u64 / BYTES_PER_MS).max(1);
        let taker = self.bulks.iter().position(|bulk| bulk.holder == target && bulk.has_room_for_batch());
        let Some(index) = taker.filter(|_| !pages.is_empty()) else { return };
        match self.bulks[index].send_batch(&pages, true, now_ms) {
            Ok(true) => self.rebuild.under_way = Some(UnderWay { source, target, sent: true }),
            Ok(false) => {}
            Err(trouble) => {
                let bulk = self.bulks.swap_remove(index);
                self.mend(engine, bulk, trouble);
            }
        }
    }
}
