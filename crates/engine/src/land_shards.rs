//! Step 13 for a coded page: what becomes of it as its shards come. Covers the end of the wait, as `lane.rs` does for a whole page; whom to ask for shards is
//! `gather.rs`.

use ramster_core::backend::{Loss, Lost};
use ramster_core::compress::Packed;
use ramster_core::page::Page;
use ramster_core::shards::ShardSet;
use ramster_core::tmem::{Copied, Unfetched};
use ramster_core::wire::message::Blob;

use crate::engine::Engine;
use crate::fetches::{Fetch, Sealed};
use crate::gather::Gathered;
use crate::lane::{Outcome, Unpacker, conclude};
use crate::statblock::Stat;

impl Unpacker {
    /// As `land`, of a shard. None: there must be more of them first.
    pub(crate) fn land_shard(
        &mut self,
        engine: &Engine,
        (fetch, shard, now_ms): (&Fetch, u8, u64),
        sealed: Result<Sealed<'_>, Loss>,
        (copied, page): (&mut Copied, &mut Page),
        waiting: &mut Vec<Fetch>,
    ) -> Option<Outcome> {
        // Shards are at peers alone, and sealed.
        let blob = sealed.and_then(|Sealed { kind, tag, bytes }| Ok(Blob { kind, tag: tag.ok_or(Loss::Corrupt)?, bytes }));
        let mut gathered = self.gathers.land(engine, (fetch, shard, now_ms), blob, waiting);
        if matches!(gathered, Gathered::Enough) {
            if let Some((outcome, forged)) = self.join(engine, fetch, page) {
                self.gathers.end(engine, fetch, forged, waiting);
                return Some(outcome.unwrap_or_else(|| self.look_again(engine, &fetch.handle, fetch.keep, copied, page)));
            }
            gathered = self.gathers.doubt(engine, fetch, now_ms, waiting);
        }
        let outcome = match gathered {
            Gathered::Waiting | Gathered::Enough => return None,
            Gathered::Over(Unfetched::Miss) => Some(Outcome::Miss),
            Gathered::Over(Unfetched::Lost(lost)) => Some(Outcome::Lost(lost)),
            Gathered::Over(_) => None,
            Gathered::Overdue => match conclude(engine, &fetch.handle, &fetch.copy, fetch.keep, Err(Loss::Deadline), None) {
                // It is still there, but not in time for this access.
                Some(Outcome::Away(copy)) => {
                    Some(Outcome::Lost(Lost { handle: fetch.handle, holder: Some(copy.holder), why: Loss::Deadline }))
                }
                outcome => outcome,
            },
        };
        let overdue = matches!(outcome, Some(Outcome::Lost(Lost { why: Loss::Deadline, .. })));
        engine.stats().add(Stat::GetsDeadline, u64::from(overdue));
        self.gathers.end(engine, fetch, ShardSet::default(), waiting);
        Some(outcome.unwrap_or_else(|| self.look_again(engine, &fetch.handle, fetch.keep, copied, page)))
    }

    /// The page, from what has come of it, and which shards were forged; no page, if it was put or flushed meanwhile. None: it does not open.
    fn join(&mut self, engine: &Engine, fetch: &Fetch, page: &mut Page) -> Option<(Option<Outcome>, ShardSet)> {
        let joined = self.gathers.join(engine, fetch)?;
        let (forged, decoded) = (joined.forged, joined.decoded);
        let packed = Packed { kind: joined.packed_kind, digest: fetch.copy.digest, bytes: joined.bytes };
        self.packer.unpack(packed, page).ok()?;
        let outcome = conclude(engine, &fetch.handle, &fetch.copy, fetch.keep, Ok(()), Some(packed));
        let hit = u64::from(matches!(outcome, Some(Outcome::Hit)));
        engine.stats().add(Stat::PagesLocalified, hit);
        engine.stats().add(Stat::GetsDecoded, if decoded { hit } else { 0 });
        Some((outcome, forged))
    }
}
