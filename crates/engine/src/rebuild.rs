//! Pages that must change holders. Copies that died with a holder are made anew: read from one that is left, as they are sealed, and sent to another; of a
//! coded page the shards that are left are read, and the missing one is worked out. What a holder recalls comes home, from where it leaves again like any
//! other page. Covers finding the pages, the one batch that is under way and the rate; that a page has a copy less is tmem's knowledge, who takes one
//! `placement.rs`'s choice, and what shards become `mending.rs`.

use std::sync::atomic::Ordering::SeqCst;

use ramster_core::backend::Loss;
use ramster_core::compress::{Kind, Packed};
use ramster_core::handle::{Class, Handle, HolderId, PoolKind, Version};
use ramster_core::page::{Digest, PAGE_BYTES};
use ramster_core::remotify::BATCH_PAGES;
use ramster_core::seal::{Opens, TAG_BYTES};
use ramster_core::tmem::{Away, Site};
use ramster_core::wire::message::{Blob, PutPage};

use crate::bulk::{Fetched, NotFetched, Purpose};
use crate::engine::Engine;
use crate::histograms::Timed;
use crate::holders::SPILL;
use crate::homeward;
use crate::remotifier::Remotifier;
use crate::statblock::Stat;

/// Pages of one batch: an eighth of a MiB, which a fault on the same links waits for at most.
const PAGES: usize = BATCH_PAGES / 4;
/// Chunks looked at under one lock: some ten microseconds.
const LOOK_CHUNKS: usize = 64;
/// Locks taken in one turn of looking: a store of a million pages is walked in some thousand turns at most.
const LOOKS: usize = 16;
/// 64 MiB/s: half of what a gigabit link carries, so that faults keep the other half.
const BYTES_PER_MS: u64 = 64 << 10;
/// Nobody takes a copy: look again then.
pub(crate) const NOWHERE_MS: u64 = 1000;
/// What came home leaves again first, when there is somewhere to go.
const ROOM_MS: u64 = 5;
/// A link that takes no request now.
const NOT_NOW_MS: u64 = 50;

#[derive(Default)]
pub struct Rebuild {
    /// Pages with too few copies may be anywhere from chunk `cursor` on, and around to where the walk began.
    walking: bool,
    walking_since_ms: u64,
    cursor: u32,
    /// Something was found since the walk last came round.
    found: bool,
    /// What holders want taken away, oldest first.
    recalls: Vec<Recall>,
    under_way: Option<UnderWay>,
    pub(crate) not_before_ms: u64,
}

/// At most one a holder.
#[derive(Clone, Copy)]
struct Recall {
    holder: HolderId,
    /// Nobody asked: there is room at home.
    by_itself: bool,
    bytes_left: u64,
    since_ms: u64,
    cursor: u32,
    /// Something was found since the walk last came round.
    found: bool,
}

/// One batch: asked of one source or, for shards, of all who have some; then sent to `target`, or kept here.
pub(crate) struct UnderWay {
    pub(crate) site: Site,
    pub(crate) pages: Vec<(Handle, Version)>,
    pub(crate) sources: Vec<Source>,
    pub(crate) target: Option<HolderId>,
    sent: bool,
}

/// Who was asked for the batch, under which number, and what came.
pub(crate) struct Source {
    pub(crate) holder: HolderId,
    request: u64,
    pub(crate) fetched: Option<Vec<Fetched>>,
    /// The request went with its link.
    gone: bool,
}

impl Rebuild {
    /// A holder wants that much taken away; 0: nothing.
    pub fn recall(&mut self, holder: HolderId, bytes: u64, now_ms: u64) {
        if bytes == 0 {
            return;
        }
        let recall = Recall { holder, by_itself: false, bytes_left: bytes, since_ms: now_ms, cursor: 0, found: true };
        match self.recalls.iter_mut().find(|recall| recall.holder == holder) {
            Some(known) if known.by_itself => *known = recall,
            Some(known) => *known = Recall { since_ms: known.since_ms, ..recall },
            None => self.recalls.push(recall),
        }
    }
}

impl Rebuild {
    pub fn is_idle(&self) -> bool {
        !self.walking && self.recalls.is_empty() && self.under_way.is_none()
    }

    /// So much may come home from there, from chunk `cursor` on.
    pub fn fetch_home(&mut self, holder: HolderId, bytes: u64, now_ms: u64) {
        self.recalls.push(Recall { holder, by_itself: true, bytes_left: bytes, since_ms: now_ms, cursor: 0, found: false });
    }
}

impl Remotifier {
    /// The next step, if there is one. Returns when to come again; None: when an answer comes, or never.
    pub(crate) fn rebuild(&mut self, engine: &Engine, now_ms: u64) -> Option<u64> {
        let was_walking = self.rebuild.walking;
        let again_ms = self.rebuild_step(engine, now_ms);
        if was_walking && !self.rebuild.walking {
            engine.stats().time(Timed::Rebuild, (now_ms - self.rebuild.walking_since_ms) * 1_000_000);
        }
        engine.stats().set_gauge(Stat::Rebuilding, u64::from(self.rebuild.walking));
        again_ms
    }

    fn rebuild_step(&mut self, engine: &Engine, now_ms: u64) -> Option<u64> {
        if engine.limits.thinned.swap(false, SeqCst) {
            if !std::mem::replace(&mut self.rebuild.walking, true) {
                self.rebuild.walking_since_ms = now_ms;
            }
            self.rebuild.found = true;
        }
        if let Some(under_way) = self.rebuild.under_way.take() {
            self.rebuild.under_way = self.go_on(engine, under_way, now_ms);
        }
        if self.rebuild.under_way.is_some() || (!self.rebuild.walking && self.rebuild.recalls.is_empty()) {
            return None;
        }
        if now_ms < self.rebuild.not_before_ms {
            return Some(self.rebuild.not_before_ms - now_ms);
        }
        if let Some(recall) = self.rebuild.recalls.first().copied() {
            return self.fetch_recalled(engine, recall, now_ms);
        }
        self.find_thin(engine, now_ms)
    }

    fn find_thin(&mut self, engine: &Engine, now_ms: u64) -> Option<u64> {
        let wanted = self.placement.copies(engine);
        let mut untaken = false;
        for _ in 0..LOOKS {
            let start = self.rebuild.cursor;
            let (thin, more) = self.find(engine, &wanted);
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

    /// Pages with fewer copies than their class wants, all with the same holders; and whether there were others beside them.
    fn find(&mut self, engine: &Engine, wanted: &[usize; Class::COUNT]) -> (Vec<Away>, bool) {
        let mut thin = Vec::new();
        let rebuild = &mut self.rebuild;
        let too_few = |class: Class, site: &Site| match site.code() {
            None => !site.has(SPILL) && site.holders().len() < wanted[class.index()],
            Some(_) => site.missing_shard().is_some(),
        };
        engine.with_tmem(|tmem| tmem.pages_of_class_at(&too_few, &mut rebuild.cursor, (LOOK_CHUNKS, PAGES), &mut thin));
        let count = thin.len();
        if let Some(Away { site, .. }) = thin.first().copied() {
            rebuild.found = true;
            thin.retain(|page| page.site == site);
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
    fn begin(&mut self, engine: &Engine, thin: &[Away], now_ms: u64) -> bool {
        let Some(Away { site, .. }) = thin.first() else { return false };
        let need_bytes = (PAGES * PAGE_BYTES) as u64;
        let Some(target) = self.placement.choose_another(engine, &self.bulks, site, need_bytes, now_ms) else { return false };
        if self.bulk(engine, target).is_err() {
            return false;
        }
        let sources = if site.code().is_some() { site.holders() } else { &site.holders()[..1] };
        self.ask(engine, sources, Some(target), thin, now_ms)
    }

    /// For pages of one site. False: too few of the sources can be asked now.
    fn ask(&mut self, engine: &Engine, sources: &[HolderId], target: Option<HolderId>, pages: &[Away], now_ms: u64) -> bool {
        let Some(site) = pages.first().map(|page| page.site) else { return false };
        let pages: Vec<(Handle, Version)> = pages.iter().map(|page| (page.handle, page.version)).collect();
        let mut asked = Vec::with_capacity(sources.len());
        for source in sources {
            self.renew_link(engine, *source);
            let Ok(index) = self.bulk(engine, *source) else { continue };
            match self.bulks[index].ask(&pages, now_ms) {
                Ok(Some(request)) => asked.push(Source { holder: *source, request, fetched: None, gone: false }),
                Ok(None) => {}
                Err(trouble) => {
                    let bulk = self.bulks.swap_remove(index);
                    self.mend(engine, bulk, trouble);
                }
            }
        }
        let enough = asked.len() >= site.needed().min(sources.len());
        if !enough {
            self.let_go(&asked);
        }
        self.rebuild.under_way = enough.then_some(UnderWay { site, pages, sources: asked, target, sent: false });
        enough
    }

    /// Whoever of these has not answered is not waited for.
    pub(crate) fn let_go(&mut self, sources: &[Source]) {
        for source in sources.iter().filter(|source| source.fetched.is_none()) {
            self.bulks.iter_mut().filter(|bulk| bulk.holder == source.holder).for_each(|bulk| bulk.let_go(source.request));
        }
    }

    /// The next pages of a holder that wants to be rid of them. Those that are on disk too just go from there.
    fn fetch_recalled(&mut self, engine: &Engine, mut recall: Recall, now_ms: u64) -> Option<u64> {
        if recall.by_itself && !homeward::has_room(engine) {
            self.rebuild.recalls.remove(0);
            return Some(0);
        }
        let is_over = engine.store_bytes() > engine.limits.soft_limit_bytes();
        if is_over && !engine.has_nowhere() {
            return Some(ROOM_MS);
        }
        let mut pages = Vec::new();
        let holder = recall.holder;
        engine.with_tmem(|tmem| {
            tmem.pages_at(&|site| site.has(holder), &mut recall.cursor, (LOOK_CHUNKS * LOOKS, PAGES / 2), &mut pages);
        });
        pages.truncate(BATCH_PAGES);
        recall.found |= !pages.is_empty();
        let (on_disk, only_there): (Vec<Away>, Vec<Away>) =
            pages.into_iter().partition(|page| page.site.has(SPILL) && !recall.by_itself);
        engine.with_tmem(|tmem| {
            for page in &on_disk {
                tmem.unfetched(&page.handle, page.version, holder, Loss::HolderForgot);
            }
        });
        // Shards come together from those who have them: the batch is of one site, and pages of others have their turn on the next round.
        let mut only_there = only_there;
        let first = only_there.first().map(|page| page.site);
        only_there.retain(|page| {
            Some(page.site) == first || (page.site.code().is_none() && first.is_some_and(|site| site.code().is_none()))
        });
        let share = |page: &Away| page.bytes.div_ceil(page.site.needed());
        let gone: usize = on_disk.iter().chain(&only_there).map(share).sum();
        recall.bytes_left = recall.bytes_left.saturating_sub(gone as u64);
        let coded = first.filter(|site| site.code().is_some());
        let sources = coded.as_ref().map_or(&[holder][..], Site::holders).to_vec();
        if !only_there.is_empty() && !self.ask(engine, &sources, None, &only_there, now_ms) {
            // Were it dead, tmem would know by now, and the next look finds nothing there.
            return Some(NOT_NOW_MS);
        }
        // All that was wanted, or once round without any: done.
        let is_over = recall.bytes_left == 0 || (recall.cursor == 0 && !std::mem::replace(&mut recall.found, false));
        match self.rebuild.recalls.first_mut() {
            Some(_) if is_over => {
                self.rebuild.recalls.remove(0);
                if !recall.by_itself {
                    engine.stats().time(Timed::Recall, now_ms.saturating_sub(recall.since_ms) * 1_000_000);
                }
            }
            Some(first) => *first = recall,
            None => {}
        }
        self.rebuild.under_way.is_none().then_some(0)
    }

    /// Pages that came to stay here.
    /// So many bytes have travelled.
    pub(crate) fn slow_down(&mut self, bytes: u64, now_ms: u64) {
        self.rebuild.not_before_ms = now_ms + bytes / BYTES_PER_MS;
    }

    fn take_home(&mut self, engine: &Engine, source: HolderId, fetched: &[Fetched], now_ms: u64) {
        let mut buffer = [0; PAGE_BYTES + TAG_BYTES];
        let mut bytes_home = 0;
        for page in fetched {
            let Ok((kind, tag, bytes)) = &page.what else { continue };
            let Some(kind) = Kind::from_tag(*kind) else { continue };
            bytes_home += bytes.len() as u64;
            let opened = engine.seals().open(&page.handle, page.version, kind.tag(), tag, bytes, &mut buffer);
            engine.with_tmem(|tmem| match opened {
                // tmem knows the digest, and whoever unpacks the page checks it.
                Ok(bytes) => {
                    let packed = Packed { kind, digest: Digest::default(), bytes };
                    tmem.repatriated(&page.handle, page.version, packed);
                }
                Err(_) => {
                    tmem.unfetched(&page.handle, page.version, source, Loss::Corrupt);
                }
            });
        }
        self.slow_down(bytes_home, now_ms);
        engine.note_pressure();
    }

    /// Returns what is still under way.
    fn go_on(&mut self, engine: &Engine, mut under_way: UnderWay, now_ms: u64) -> Option<UnderWay> {
        if under_way.sent {
            let rebuilding = self.bulks.iter().any(|bulk| Some(bulk.holder) == under_way.target && bulk.is_rebuilding());
            return rebuilding.then_some(under_way);
        }
        for source in under_way.sources.iter_mut().filter(|source| source.fetched.is_none()) {
            let bulk = self.bulks.iter_mut().find(|bulk| bulk.holder == source.holder);
            match bulk {
                None => source.gone = true,
                Some(bulk) => match bulk.take_fetched(source.request) {
                    Some(fetched) => source.fetched = Some(fetched),
                    None => source.gone = !bulk.is_asked(source.request),
                },
            }
        }
        let waiting = under_way.sources.iter().any(|source| source.fetched.is_none() && !source.gone);
        if under_way.site.code().is_some() {
            return self.go_on_with_shards(engine, under_way, waiting, now_ms);
        }
        if waiting {
            return Some(under_way);
        }
        let source = under_way.sources.pop()?;
        self.pass_on(engine, under_way, source, now_ms)
    }

    fn pass_on(&mut self, engine: &Engine, under_way: UnderWay, source: Source, now_ms: u64) -> Option<UnderWay> {
        let (source, fetched) = (source.holder, source.fetched?);
        self.hear_forgotten(engine, source, &fetched);
        if under_way.target.is_none() {
            self.take_home(engine, source, &fetched, now_ms);
            return None;
        }
        fn put(page: &Fetched) -> Option<PutPage<'_>> {
            let (kind, tag, bytes) = page.what.as_ref().ok()?;
            Some(PutPage { handle: page.handle, version: page.version, blob: Blob { kind: *kind, tag: *tag, bytes } })
        }
        let pages: Vec<PutPage<'_>> = fetched.iter().filter_map(put).collect();
        self.send_further(engine, under_way, &pages, Purpose::Copies, now_ms)
    }

    pub(crate) fn hear_forgotten(&self, engine: &Engine, source: HolderId, fetched: &[Fetched]) {
        // By a link from before the holder was given up it says so of pages that it has in our next stay there.
        if !self.bulks.iter().any(|bulk| bulk.holder == source && bulk.link.is_current(engine, source)) {
            return;
        }
        engine.with_tmem(|tmem| {
            for page in fetched.iter().filter(|page| page.what == Err(NotFetched::Forgotten)) {
                tmem.unfetched(&page.handle, page.version, source, Loss::HolderForgot);
            }
        });
    }

    /// To the target. Returns what is under way then.
    pub(crate) fn send_further(
        &mut self,
        engine: &Engine,
        under_way: UnderWay,
        pages: &[PutPage<'_>],
        purpose: Purpose,
        now_ms: u64,
    ) -> Option<UnderWay> {
        let bytes: usize = pages.iter().map(|page| page.blob.bytes.len()).sum();
        self.rebuild.not_before_ms = self.rebuild.not_before_ms.max(now_ms + (bytes as u64 / BYTES_PER_MS).max(1));
        // A flush for an earlier try MUST reach the holder before this one.
        self.flush_now(engine, now_ms);
        let target = under_way.target;
        target.into_iter().for_each(|target| self.renew_link(engine, target));
        let taker = self.bulks.iter().position(|bulk| Some(bulk.holder) == target && bulk.has_room_for_batch());
        let index = taker.filter(|_| !pages.is_empty())?;
        match self.bulks[index].send_batch(PoolKind::Persistent, pages, purpose, now_ms) {
            Ok(sent) => sent.then_some(UnderWay { sent: true, ..under_way }),
            Err(trouble) => {
                let bulk = self.bulks.swap_remove(index);
                self.mend(engine, bulk, trouble);
                None
            }
        }
    }
}
