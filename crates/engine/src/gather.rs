//! Step 12 for a coded page: its shards are fetched from several holders at once, as parts of one wait. Covers which holders are asked, and whom instead of
//! one that does not answer, is dead or gave a bad shard; the requests are `fetches.rs`, the arithmetic core's `joining.rs`.

use ramster_core::backend::{Keep, Loss};
use ramster_core::handle::{Handle, HolderId, Version};
use ramster_core::joining::{Joined, Joiner, Landed};
use ramster_core::localify::Copy;
use ramster_core::shards::{SHARDS_MAX, ShardSet};
use ramster_core::tmem::{Site, Unfetched};
use ramster_core::wire::message::Blob;
use ramster_sys::say::say;

use crate::engine::Engine;
use crate::fetches::{self, Fetch};
use crate::statblock::Stat;

/// Buffers kept for the next pages: 12 KiB each. As many as a lane looks up in a few runs.
const SPARE: usize = 64;

/// Pages of one lane whose shards are on their way.
pub struct Gathers {
    busy: Vec<Gather>,
    spare: Vec<Landed>,
    joiner: Joiner,
}

/// One page.
struct Gather {
    token: u64,
    /// As tmem said last.
    site: Site,
    landed: Landed,
    /// Who gave the shards that have landed.
    from: [HolderId; SHARDS_MAX],
    asked: ShardSet,
    /// How often each shard was asked for.
    tries: [u8; SHARDS_MAX],
    /// What came does not fit together: all others are asked for too.
    doubted: bool,
}

/// What became of a page when one of its parts was heard of.
pub enum Gathered {
    /// Others are on their way.
    Waiting,
    /// Enough has come.
    Enough,
    /// This cannot become the page any more; tmem has been told.
    Over(Unfetched),
    /// The deadline of the whole wait has passed.
    Overdue,
}

impl Gathers {
    pub fn new() -> Gathers {
        Gathers { busy: Vec::new(), spare: Vec::new(), joiner: Joiner::default() }
    }

    /// `fetch` becomes as many as there are data shards, all under its token. They are added to `waiting`.
    pub fn begin(&mut self, engine: &Engine, fetch: &Fetch, site: Site, now_ms: u64, waiting: &mut Vec<Fetch>) {
        let Some(code) = site.code() else { return };
        let mut landed = self.spare.pop().unwrap_or_else(|| Landed::new(code));
        landed.clear(code);
        let (from, asked) = ([HolderId(u16::MAX); SHARDS_MAX], ShardSet::default());
        let mut gather = Gather { token: fetch.token, site, landed, from, asked, tries: [0; SHARDS_MAX], doubted: false };
        let same = |other: &&Fetch| other.handle == fetch.handle && other.copy.version == fetch.copy.version;
        let joins = waiting.iter().find(same).is_some_and(|other| other.keep == fetch.keep && fetch.keep != Keep::Free);
        engine.stats().add(Stat::GetsJoined, u64::from(joins));
        for _ in 0..site.needed() {
            gather.ask(engine, fetch, now_ms, waiting);
        }
        self.busy.push(gather);
    }

    /// A part came or did not.
    pub fn land(
        &mut self,
        engine: &Engine,
        (fetch, shard, now_ms): (&Fetch, u8, u64),
        blob: Result<Blob<'_>, Loss>,
        waiting: &mut Vec<Fetch>,
    ) -> Gathered {
        let Some(gather) = self.busy.iter_mut().find(|gather| gather.token == fetch.token) else { return Gathered::Waiting };
        gather.asked = gather.asked.without(shard);
        let landed = blob.and_then(|blob| if gather.landed.put(shard, &blob) { Ok(()) } else { Err(Loss::Corrupt) });
        match landed {
            Ok(()) => gather.from[usize::from(shard)] = fetch.copy.holder,
            Err(Loss::Deadline) if fetch.is_overdue(now_ms) => return Gathered::Overdue,
            Err(why) => {
                if let Some(over) = gather.fail(engine, fetch, why, now_ms) {
                    return Gathered::Over(over);
                }
                gather.ask(engine, fetch, now_ms, waiting);
            }
        }
        match (gather.landed.is_enough(), gather.asked.count()) {
            (true, _) => Gathered::Enough,
            // Nobody is left to ask: where the page is now tmem knows.
            (false, 0) => Gathered::Over(Unfetched::Stale),
            (false, _) => Gathered::Waiting,
        }
    }

    /// What came does not open: some of it is not what its holder was sent, and only the other shards can tell which.
    pub fn doubt(&mut self, engine: &Engine, fetch: &Fetch, now_ms: u64, waiting: &mut Vec<Fetch>) -> Gathered {
        let Some(gather) = self.busy.iter_mut().find(|gather| gather.token == fetch.token) else { return Gathered::Waiting };
        gather.doubted = true;
        while gather.ask(engine, fetch, now_ms, waiting) {}
        if gather.asked.count() > 0 {
            return Gathered::Waiting;
        }
        Gathered::Over(gather.condemn(engine, &fetch.handle, fetch.copy.version))
    }

    /// What `land` found to be enough. None: it does not open, whichever of it is taken.
    pub fn join(&mut self, engine: &Engine, fetch: &Fetch) -> Option<Joined<'_>> {
        let gather = self.busy.iter().find(|gather| gather.token == fetch.token)?;
        self.joiner.join(engine.seals(), &fetch.handle, fetch.copy.version, &gather.landed, false)
    }

    /// The wait is over, or goes on otherwise: its other parts are not waited for. Holders of `forged` shards lose them.
    pub fn end(&mut self, engine: &Engine, fetch: &Fetch, forged: ShardSet, waiting: &mut Vec<Fetch>) {
        let Some(index) = self.busy.iter().position(|gather| gather.token == fetch.token) else { return };
        waiting.retain(|other| other.token != fetch.token);
        let gather = self.busy.swap_remove(index);
        for shard in forged.iter() {
            blame(engine, &fetch.handle, fetch.copy.version, gather.from[usize::from(shard)], shard);
        }
        if self.spare.len() < SPARE {
            self.spare.push(gather.landed);
        }
    }
}

impl Gather {
    /// Asks for one more shard: of those asked for least, by holders that answer, the first. False: all are here or on their way.
    fn ask(&mut self, engine: &Engine, fetch: &Fetch, now_ms: u64, waiting: &mut Vec<Fetch>) -> bool {
        let (landed, asked, tries) = (self.landed.set(), self.asked, &self.tries);
        let open = self.site.shards().filter(|(_, shard)| !landed.has(*shard) && !asked.has(*shard));
        let holders = engine.holders();
        let next = open.min_by_key(|(holder, shard)| (tries[usize::from(*shard)], holders.is_slow(*holder, now_ms), *shard));
        let Some((holder, shard)) = next else { return false };
        // In doubt everybody is asked already.
        let others = !self.doubted && self.site.holders().len() > self.site.needed();
        let copy = Copy { holder, others, ..fetch.copy };
        let again = self.tries[usize::from(shard)] > 0;
        fetches::push(waiting, fetch.part(copy, shard, if again { Some(now_ms) } else { None }));
        self.asked = self.asked.with(shard);
        self.tries[usize::from(shard)] = self.tries[usize::from(shard)].saturating_add(1);
        true
    }

    /// A part that is not to be had. Some: nor is the page.
    fn fail(&mut self, engine: &Engine, fetch: &Fetch, why: Loss, now_ms: u64) -> Option<Unfetched> {
        let (handle, version, holder) = (&fetch.handle, fetch.copy.version, fetch.copy.holder);
        engine.stats().add(Stat::GetsElsewhere, 1);
        if why == Loss::Deadline {
            engine.holders().slow(holder, now_ms);
        } else {
            match engine.with_tmem(|tmem| tmem.unfetched(handle, version, holder, why)) {
                Unfetched::Elsewhere(_) => engine.note_thinned(),
                over => return Some(over),
            }
        }
        match engine.with_tmem(|tmem| tmem.site_of(handle, version)) {
            Some(site) => self.site = site,
            None => return Some(Unfetched::Stale),
        }
        None
    }

    /// All there are have come, and no choice among them opens.
    fn condemn(&mut self, engine: &Engine, handle: &Handle, version: Version) -> Unfetched {
        match engine.with_tmem(|tmem| tmem.site_of(handle, version)) {
            // Some shard has moved to another holder meanwhile: who was asked had something else by then.
            site if site != Some(self.site) => return Unfetched::Stale,
            _ => {}
        }
        condemn(engine, handle, version, &self.site)
    }
}

/// The page is lost, with all that its holders have of it.
pub fn condemn(engine: &Engine, handle: &Handle, version: Version, site: &Site) -> Unfetched {
    let mut outcome = Unfetched::Stale;
    for holder in site.holders() {
        outcome = engine.with_tmem(|tmem| tmem.unfetched(handle, version, *holder, Loss::Corrupt));
        match outcome {
            Unfetched::Elsewhere(_) => outcome = Unfetched::Stale,
            _ => break,
        }
    }
    outcome
}

/// The holder gave other bytes than it was sent: that shard is given up as a bad copy is, unless it has gone from there anyway.
pub fn blame(engine: &Engine, handle: &Handle, version: Version, holder: HolderId, shard: u8) {
    engine.stats().add(Stat::ShardsForged, 1);
    let given_up = engine.with_tmem(|tmem| {
        let site = tmem.site_of(handle, version)?;
        (site.shard_of(holder) == Some(shard)).then(|| tmem.unfetched(handle, version, holder, Loss::Corrupt))
    });
    if let Some(Unfetched::Elsewhere(_)) = given_up {
        engine.note_thinned();
    }
    if engine.holders().forged(holder)
        && let Some(entry) = engine.holders().get(holder)
    {
        say(format_args!(
            "node {} at {} gave other bytes than it was sent: the page came from others, and its shard is made anew",
            entry.node, entry.address
        ));
    }
}
