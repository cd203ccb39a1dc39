//! A batch of coded pages whose shards were fetched to make a missing one anew, or to bring the pages home. Covers what the shards become; finding the pages,
//! asking and sending is `rebuild.rs`. A page is opened before a shard is worked out from others: one holder's lie would else become two bad shards.

use ramster_core::compress::Packed;
use ramster_core::handle::{Handle, HolderId, Version};
use ramster_core::joining::{Joiner, Landed};
use ramster_core::page::Digest;
use ramster_core::seal::Tag;
use ramster_core::shards::ShardSet;
use ramster_core::wire::message::{Blob, PutPage};

use crate::bulk::Purpose;
use crate::engine::Engine;
use crate::gather::{blame, condemn};
use crate::rebuild::{NOWHERE_MS, UnderWay};
use crate::remotifier::Remotifier;

/// What the shards of one page came to.
enum Mended {
    /// The missing shard, as it travels.
    Shard {
        kind: u8,
        tag: Tag,
        bytes: Vec<u8>,
    },
    Home,
    /// All shards that its holders have were here, and they are not the page.
    Bad,
    /// Some did not come.
    Incomplete,
}

/// A shard that was not what its holder had been sent.
struct Forged {
    handle: Handle,
    version: Version,
    holder: HolderId,
    shard: u8,
}

impl Remotifier {
    /// As soon as every page can be had of what has come: one slow holder need not be waited for. Returns what is still under way.
    pub(crate) fn go_on_with_shards(
        &mut self,
        engine: &Engine,
        under_way: UnderWay,
        waiting: bool,
        now_ms: u64,
    ) -> Option<UnderWay> {
        let code = under_way.site.code()?;
        let came = under_way.sources.iter().filter(|source| source.fetched.is_some()).count();
        if waiting && came < code.data() {
            return Some(under_way);
        }
        let mut forged = Vec::new();
        let mut mended = Vec::with_capacity(under_way.pages.len());
        let (mut joiner, mut landed) = (Joiner::default(), Landed::new(code));
        for number in 0..under_way.pages.len() {
            let result = mend_page(engine, &under_way, number, (&mut joiner, &mut landed), &mut forged);
            if waiting && matches!(result, Mended::Bad | Mended::Incomplete) {
                return Some(under_way);
            }
            mended.push(result);
        }
        self.let_go(&under_way.sources);
        let sources =
            under_way.sources.iter().filter_map(|source| source.fetched.as_ref().map(|fetched| (source.holder, fetched)));
        let mut bytes = 0;
        for (holder, fetched) in sources {
            self.hear_forgotten(engine, holder, fetched);
            bytes +=
                fetched.iter().filter_map(|page| page.what.as_ref().ok()).map(|(_, _, bytes)| bytes.len() as u64).sum::<u64>();
        }
        self.slow_down(bytes, now_ms);
        for Forged { handle, version, holder, shard } in forged {
            blame(engine, &handle, version, holder, shard);
        }
        self.settle_bad(engine, &under_way, &mended, now_ms);
        if under_way.target.is_none() {
            engine.note_pressure();
            return None;
        }
        let shard = under_way.site.missing_shard()?;
        let pages = under_way.pages.clone();
        let pages: Vec<PutPage<'_>> = pages
            .iter()
            .zip(&mended)
            .filter_map(|((handle, version), mended)| match mended {
                Mended::Shard { kind, tag, bytes } => {
                    Some(PutPage { handle: *handle, version: *version, blob: Blob { kind: *kind, tag: *tag, bytes } })
                }
                _ => None,
            })
            .collect();
        self.send_further(engine, under_way, &pages, Purpose::Shards(shard), now_ms)
    }

    /// Pages that cannot be had of any of their shards are lost. Those of which some did not come have another turn, not at once.
    fn settle_bad(&mut self, engine: &Engine, under_way: &UnderWay, mended: &[Mended], now_ms: u64) {
        for ((handle, version), mended) in under_way.pages.iter().zip(mended) {
            // Put, flushed or with a shard elsewhere by now: then who was asked may have had something else.
            let is_still = || engine.with_tmem(|tmem| tmem.site_of(handle, *version)) == Some(under_way.site);
            match mended {
                Mended::Bad if is_still() => {
                    condemn(engine, handle, *version, &under_way.site);
                }
                Mended::Incomplete if is_still() => self.rebuild.not_before_ms = now_ms + NOWHERE_MS,
                _ => {}
            }
        }
    }
}

/// Which shard of this page each source gave, joined.
fn mend_page(
    engine: &Engine,
    under_way: &UnderWay,
    number: usize,
    (joiner, landed): (&mut Joiner, &mut Landed),
    forged: &mut Vec<Forged>,
) -> Mended {
    let (handle, version) = under_way.pages[number];
    let Some(code) = under_way.site.code() else { return Mended::Incomplete };
    landed.clear(code);
    let mut nonsense = ShardSet::default();
    for source in &under_way.sources {
        let Some(shard) = under_way.site.shard_of(source.holder) else { continue };
        let is_it = |page: &&crate::bulk::Fetched| page.handle == handle && page.version == version;
        let Some(page) = source.fetched.as_ref().and_then(|fetched| fetched.iter().find(is_it)) else { continue };
        if let Ok((kind, tag, bytes)) = &page.what
            && !landed.put(shard, &Blob { kind: *kind, tag: *tag, bytes })
        {
            nonsense = nonsense.with(shard);
        }
    }
    let came = landed.set().count() + nonsense.count();
    let missing = under_way.site.missing_shard().filter(|_| under_way.target.is_some());
    if !landed.is_enough() {
        return if came == under_way.site.holders().len() { Mended::Bad } else { Mended::Incomplete };
    }
    let Some(joined) = joiner.join(engine.seals(), &handle, version, landed, missing.is_some()) else {
        return if came == under_way.site.holders().len() { Mended::Bad } else { Mended::Incomplete };
    };
    let (kind, tag) = (joined.kind, joined.tag);
    for shard in joined.forged.iter().chain(nonsense.iter()) {
        if let Some((holder, _)) = under_way.site.shards().find(|(_, other)| *other == shard) {
            forged.push(Forged { handle, version, holder, shard });
        }
    }
    match missing {
        Some(shard) => Mended::Shard { kind, tag, bytes: joiner.shard(shard).to_vec() },
        None => {
            // tmem knows the digest, and whoever unpacks the page checks it.
            let packed = Packed { kind: joined.packed_kind, digest: Digest::default(), bytes: joined.bytes };
            engine.with_tmem(|tmem| tmem.repatriated(&handle, version, packed));
            Mended::Home
        }
    }
}
