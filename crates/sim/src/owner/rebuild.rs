//! Pages that must change holders: further copies for those that died, and what holders recall. Mirrors engine/rebuild.rs.

use ramster_core::backend::Loss;
use ramster_core::compress::{Kind, Packed};
use ramster_core::handle::{Handle, HolderId, PoolKind, Version};
use ramster_core::page::{Digest, PAGE_BYTES};
use ramster_core::remotify::BATCH_PAGES;
use ramster_core::tmem::{Away, Site};
use ramster_core::wire::message::{Blob, PutPage};

use super::Owner;
use super::bulk::{Fetched, NotFetched};
use super::table::SPILL;
use crate::ctx::Ctx;

const PAGES: usize = BATCH_PAGES / 4;
const LOOK_CHUNKS: usize = 64;
const LOOKS: usize = 16;
const BYTES_PER_MS: u64 = 64 << 10;
const NOWHERE_MS: u64 = 1000;
const ROOM_MS: u64 = 5;
const NOT_NOW_MS: u64 = 50;

#[derive(Default)]
pub struct Rebuild {
    pub walking: bool,
    cursor: u32,
    found: bool,
    recalls: Vec<Recall>,
    under_way: Option<UnderWay>,
    not_before_ms: u64,
}

#[derive(Clone, Copy)]
struct Recall {
    holder: HolderId,
    bytes_left: u64,
    cursor: u32,
    found: bool,
}

#[derive(Clone, Copy)]
struct UnderWay {
    source: HolderId,
    target: Option<HolderId>,
    sent: bool,
}

impl Rebuild {
    pub fn recall(&mut self, holder: HolderId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let recall = Recall { holder, bytes_left: bytes, cursor: 0, found: true };
        match self.recalls.iter_mut().find(|recall| recall.holder == holder) {
            Some(known) => *known = recall,
            None => self.recalls.push(recall),
        }
    }
}

impl Owner {
    pub(super) fn rebuild(&mut self, ctx: &mut Ctx) -> Option<u64> {
        let now_ms = ctx.now_ms();
        if std::mem::take(&mut self.thinned) {
            (self.rebuild.walking, self.rebuild.found) = (true, true);
        }
        if let Some(under_way) = self.rebuild.under_way {
            self.go_on_rebuilding(ctx, under_way);
        }
        if self.rebuild.under_way.is_some() || (!self.rebuild.walking && self.rebuild.recalls.is_empty()) {
            return None;
        }
        if now_ms < self.rebuild.not_before_ms {
            return Some(self.rebuild.not_before_ms - now_ms);
        }
        if let Some(recall) = self.rebuild.recalls.first().copied() {
            return self.fetch_recalled(ctx, recall);
        }
        self.find_thin(ctx)
    }

    fn find_thin(&mut self, ctx: &mut Ctx) -> Option<u64> {
        let wanted = self.wanted_copies();
        let mut untaken = false;
        for _ in 0..LOOKS {
            let start = self.rebuild.cursor;
            let (thin, more) = self.find(wanted);
            if !thin.is_empty() {
                if self.begin_rebuild(ctx, &thin) {
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
        let now_ms = ctx.now_ms();
        self.rebuild.not_before_ms = now_ms + if untaken { NOWHERE_MS } else { 0 };
        Some(self.rebuild.not_before_ms - now_ms)
    }

    /// Pages with too few copies, all with the same holders; and whether there were others beside them.
    fn find(&mut self, wanted: usize) -> (Vec<Away>, bool) {
        let mut thin = Vec::new();
        let rebuild = &mut self.rebuild;
        let too_few = |site: &Site| !site.has(SPILL) && site.holders().len() < wanted;
        self.tmem.pages_at(&too_few, &mut rebuild.cursor, (LOOK_CHUNKS, PAGES), &mut thin);
        let count = thin.len();
        if let Some(Away { site, .. }) = thin.first().copied() {
            rebuild.found = true;
            thin.retain(|page| page.site == site);
            thin.truncate(PAGES);
        }
        if rebuild.cursor == 0 && count == 0 {
            rebuild.walking = std::mem::take(&mut rebuild.found);
        }
        let more = thin.len() < count;
        (thin, more)
    }

    fn begin_rebuild(&mut self, ctx: &mut Ctx, thin: &[Away]) -> bool {
        let Some(Away { site, .. }) = thin.first() else { return false };
        let Some(source) = site.first() else { return false };
        let Some(target) = self.choose_another(ctx, site, (PAGES * PAGE_BYTES) as u64) else { return false };
        if self.bulk(ctx, target).is_err() {
            return false;
        }
        self.ask(ctx, source, Some(target), thin)
    }

    fn ask(&mut self, ctx: &mut Ctx, source: HolderId, target: Option<HolderId>, pages: &[Away]) -> bool {
        self.renew_link(ctx, source);
        let Ok(index) = self.bulk(ctx, source) else { return false };
        let pages: Vec<(Handle, Version)> = pages.iter().map(|page| (page.handle, page.version)).collect();
        match self.bulks[index].ask(ctx, &pages) {
            Ok(asked) => {
                self.rebuild.under_way = asked.then_some(UnderWay { source, target, sent: false });
                asked
            }
            Err(trouble) => {
                let bulk = self.bulks.swap_remove(index);
                self.mend(ctx, bulk, trouble);
                false
            }
        }
    }

    /// The next pages of a holder that wants to be rid of them. Those that are on disk too just go from there.
    fn fetch_recalled(&mut self, ctx: &mut Ctx, mut recall: Recall) -> Option<u64> {
        let is_over = self.tmem.bytes_used() > self.soft_limit_bytes();
        if is_over && !self.has_nowhere(ctx.now_ms()) {
            return Some(ROOM_MS);
        }
        let mut pages = Vec::new();
        let holder = recall.holder;
        let wanted = |site: &Site| site.has(holder);
        self.tmem.pages_at(&wanted, &mut recall.cursor, (LOOK_CHUNKS * LOOKS, PAGES / 2), &mut pages);
        pages.truncate(BATCH_PAGES);
        recall.found |= !pages.is_empty();
        let (on_disk, only_there): (Vec<Away>, Vec<Away>) = pages.into_iter().partition(|page| page.site.has(SPILL));
        for page in &on_disk {
            self.holder_forgot(&page.handle, page.version, holder, Loss::HolderForgot);
        }
        let gone: usize = on_disk.iter().chain(&only_there).map(|page| page.bytes).sum();
        recall.bytes_left = recall.bytes_left.saturating_sub(gone as u64);
        if !only_there.is_empty() && !self.ask(ctx, holder, None, &only_there) {
            return Some(NOT_NOW_MS);
        }
        let is_over = recall.bytes_left == 0 || (recall.cursor == 0 && !std::mem::replace(&mut recall.found, false));
        match self.rebuild.recalls.first_mut() {
            Some(_) if is_over => {
                self.rebuild.recalls.remove(0);
            }
            Some(first) => *first = recall,
            None => {}
        }
        self.rebuild.under_way.is_none().then_some(0)
    }

    /// Pages that came to stay here.
    fn take_home(&mut self, ctx: &mut Ctx, source: HolderId, fetched: &[Fetched]) {
        let mut bytes_home = 0;
        for page in fetched {
            let Ok((kind, tag, bytes)) = &page.what else { continue };
            let Some(kind) = Kind::from_tag(*kind) else { continue };
            bytes_home += bytes.len() as u64;
            match self.seals.open(&page.handle, page.version, kind, tag, bytes) {
                Ok(bytes) => {
                    let packed = Packed { kind, digest: Digest::default(), bytes: &bytes };
                    self.tmem.repatriated(&page.handle, page.version, packed);
                }
                Err(_) => self.holder_forgot(&page.handle, page.version, source, Loss::Corrupt),
            }
        }
        self.rebuild.not_before_ms = ctx.now_ms() + bytes_home / BYTES_PER_MS;
        self.note_pressure(ctx);
    }

    fn go_on_rebuilding(&mut self, ctx: &mut Ctx, under_way: UnderWay) {
        let UnderWay { source, target, sent } = under_way;
        if sent {
            if !self.bulks.iter().any(|bulk| Some(bulk.holder) == target && bulk.is_rebuilding()) {
                self.rebuild.under_way = None;
            }
            return;
        }
        let Some(bulk) = self.bulks.iter_mut().find(|bulk| bulk.holder == source) else {
            self.rebuild.under_way = None;
            return;
        };
        if let Some(fetched) = bulk.take_fetched() {
            self.pass_on(ctx, under_way, &fetched);
        } else if !bulk.is_asked() {
            self.rebuild.under_way = None;
        }
    }

    fn pass_on(&mut self, ctx: &mut Ctx, UnderWay { source, target, .. }: UnderWay, fetched: &[Fetched]) {
        self.rebuild.under_way = None;
        // By a link from before the holder was given up it says so of pages that it has in our next stay there.
        let deaths = self.table.deaths(source);
        let current = self.bulks.iter().any(|bulk| bulk.holder == source && bulk.link.deaths == deaths);
        for page in fetched.iter().filter(|page| current && matches!(page.what, Err(NotFetched::Forgotten))) {
            self.holder_forgot(&page.handle, page.version, source, Loss::HolderForgot);
        }
        let Some(target) = target else { return self.take_home(ctx, source, fetched) };
        fn put(page: &Fetched) -> Option<PutPage<'_>> {
            let (kind, tag, bytes) = page.what.as_ref().ok()?;
            Some(PutPage { handle: page.handle, version: page.version, blob: Blob { kind: *kind, tag: *tag, bytes } })
        }
        let pages: Vec<PutPage<'_>> = fetched.iter().filter_map(put).collect();
        let bytes: usize = pages.iter().map(|page| page.blob.bytes.len()).sum();
        self.rebuild.not_before_ms = ctx.now_ms() + (bytes as u64 / BYTES_PER_MS).max(1);
        // A flush for an earlier try MUST reach the holder before this one.
        self.flush_now(ctx);
        self.renew_link(ctx, target);
        let taker = self.bulks.iter().position(|bulk| bulk.holder == target && bulk.has_room_for_batch());
        let Some(index) = taker.filter(|_| !pages.is_empty()) else { return };
        ctx.tell(|| format!("owner {}: sends further copies of {} pages to {target:?}", self.who.place, pages.len()));
        match self.bulks[index].send_batch(ctx, PoolKind::Persistent, &pages, true) {
            Ok(true) => self.rebuild.under_way = Some(UnderWay { source, target: Some(target), sent: true }),
            Ok(false) => {}
            Err(trouble) => {
                let bulk = self.bulks.swap_remove(index);
                self.mend(ctx, bulk, trouble);
            }
        }
    }
}
