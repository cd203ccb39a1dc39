//! The engine of a process: its parts and the lock around tmem. Covers start, limits and what everybody asks for; the verbs are `verbs.rs`, fetching
//! is `lane.rs`, sending `remotifier.rs`, the fork `fork.rs`.
//!
//! Lock order: `flights`, then `tmem`, then `spill` or `holders`; the others are held for a few instructions and nothing else is taken under them.
//! The tmem lock is never held over input or output, packing or unpacking.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use ramster_core::compress::{Codec, Packer};
use ramster_core::handle::{Class, HolderId};
use ramster_core::localify::Localify;
use ramster_core::tmem::{Counters, Tmem};
use ramster_sys::lock::{Bell, Lock};
use ramster_sys::quiet::Inherited;
use ramster_sys::say::say;
use ramster_sys::slabs::ArenaSlabs;

use crate::blocking::Waiter;
use crate::fork::Forks;
use crate::holders::Holders;
use crate::identity::Identity;
use crate::lane::{Lane, LaneCore};
use crate::limits::Limits;
use crate::options::{CodecName, Directives, Durability, Options, StartError};
use crate::putter::Putter;
use crate::random::{random_bytes, random_u64s};
use crate::seals::Seals;
use crate::snapshot::{HolderSnapshot, Snapshot};
use crate::spill::Spill;
use crate::statblock::{Stat, StatBlock};
use crate::threads::Threads;

pub(crate) type Pages = Tmem<ArenaSlabs>;

/// What `tmem` is to everybody else: the state machine and what of its counters the stat block has seen.
pub(crate) struct Guarded {
    pub(crate) tmem: Pages,
    published: Counters,
    published_stored_bytes: u64,
    published_remote_bytes: u64,
}

pub struct Engine {
    me: Weak<Engine>,
    tmem: Lock<Guarded>,
    holders: Holders,
    spill: Option<Spill>,
    stats: StatBlock,
    pub(crate) limits: Limits,
    seed: u64,
    seals: Seals,
    get_deadline_ms: u64,
    identity: Lock<Identity>,
    inherited: Arc<Inherited>,
    tickets: AtomicU64,
    /// For puts and gets through `Backend`, which any thread may call.
    pub(crate) packers: Lock<Vec<Packer>>,
    pub(crate) lanes: Lock<Vec<LaneCore>>,
    pub(crate) flights: Lock<Localify<Arc<Waiter>>>,
    pub(crate) threads: Threads,
    pub(crate) forks: Lock<Forks>,
    closed: AtomicBool,
    closing: Bell,
    program: String,
    node_socket: Option<PathBuf>,
}

impl Engine {
    /// For a pager: the store's limit is soft where there is nowhere to put pages.
    pub fn start(options: &Options) -> Result<Arc<Engine>, StartError> {
        Self::start_with(options, false)
    }

    /// For pools: what does not fit is refused, and ephemeral pages make room.
    pub fn start_for_pools(options: &Options) -> Result<Arc<Engine>, StartError> {
        Self::start_with(options, true)
    }

    fn start_with(options: &Options, hard: bool) -> Result<Arc<Engine>, StartError> {
        let failed = |what: &str, error: std::io::Error| StartError(format!("{what}: {error}"));
        let stats = StatBlock::open(options.stat_block.as_deref())
            .map_err(|error| failed(&format!("stat block {:?}", options.stat_block), error))?;
        let [seed, key, client_low, client_high] = random_u64s().map_err(|error| failed("random numbers", error))?;
        let spill = match &options.spill_dir {
            None => None,
            Some(dir) => {
                Some(Spill::open(dir, seed).map_err(|error| failed(&format!("spill directory {}", dir.display()), error))?)
            }
        };
        options.durability.check(spill.is_some())?;
        let holders = Holders::new();
        if holders.set_peers(&options.peers) > 0 {
            let bad = options.peers.iter().find(|peer| peer.socket_addr().is_none()).map_or("", |peer| &peer.address);
            return Err(StartError(format!("peers: {bad:?} is not an address; write IP:port")));
        }
        let secret = random_bytes().map_err(|error| failed("random numbers", error))?;
        stats.name_block(client_low | 1);
        let limits = Limits::new(options, hard);
        let memory = ArenaSlabs::reserve(arena_bytes()).map_err(|error| failed("address space for the store", error))?;
        let capacity_bytes = if hard { limits.store_limit_bytes() } else { arena_bytes() };
        let client = u128::from(client_high) << 64 | u128::from(client_low);
        let identity = Identity::new(options, client)?;
        let engine = Arc::new_cyclic(|me| Engine {
            me: Weak::clone(me),
            tmem: Lock::new(Guarded {
                tmem: Tmem::new(memory, key, capacity_bytes),
                published: Counters::default(),
                published_stored_bytes: 0,
                published_remote_bytes: 0,
            }),
            holders,
            spill,
            stats,
            limits,
            seed,
            seals: Seals::new(identity.owner(), secret),
            get_deadline_ms: options.get_deadline_ms,
            identity: Lock::new(identity),
            inherited: Arc::new(Inherited::new()),
            tickets: AtomicU64::new(1),
            packers: Lock::new(Vec::new()),
            lanes: Lock::new(Vec::new()),
            flights: Lock::new(Localify::default()),
            threads: Threads::new(),
            forks: Lock::new(Forks::default()),
            closed: AtomicBool::new(false),
            closing: Bell::new(),
            program: options.program.clone(),
            node_socket: options.node_socket.clone(),
        });
        engine.be_somebody();
        Ok(engine)
    }

    /// One for each thread that fetches pages for faults.
    pub fn lane(self: &Arc<Self>) -> Lane {
        self.be_somebody();
        Lane::new(Arc::clone(self))
    }

    /// One for each thread that puts many pages.
    pub fn putter(self: &Arc<Self>) -> Putter {
        self.be_somebody();
        Putter::new(Arc::clone(self))
    }

    /// Counts as a process and tells the node. A forked child does so when it first uses its engine, since most only exec.
    fn be_somebody(&self) {
        self.stats.set_gauge(Stat::Processes, 1);
        self.threads.start_brain(self);
    }

    /// Obeyed from now on; what is absent stays. Credentials that cannot be used are an error, and change nothing; all else is obeyed.
    pub fn set_directives(&self, directives: &Directives) -> Result<(), StartError> {
        let taken = directives.credentials.as_ref().map_or(Ok(()), |pem| self.take_credentials(pem));
        let limits = &self.limits;
        let set = |target: &AtomicU64, value: Option<u64>| value.into_iter().for_each(|value| target.store(value, Relaxed));
        directives.resident_bytes.into_iter().for_each(|bytes| limits.set_resident_limit(bytes));
        set(&limits.store_limit_bytes, directives.store_bytes);
        set(&limits.remote_limit_bytes, directives.remote_bytes);
        set(&limits.codec, directives.codec.map(|codec| codec as u64));
        set(&limits.remote_codec, directives.remote_codec.map(|codec| codec as u64));
        let durability = directives.durability.filter(|durability| durability.check(self.spill.is_some()).is_ok());
        set(&limits.durability, durability.map(Durability::to_number));
        for (target, value) in [
            (&limits.remotify, directives.remotify),
            (&limits.remotify_persistent, directives.remotify_persistent),
            (&limits.remotify_ephemeral, directives.remotify_ephemeral),
        ] {
            value.into_iter().for_each(|value| target.store(value, Relaxed));
        }
        if let Some(repatriate) = directives.repatriate {
            limits.repatriate.store(repatriate, Relaxed);
        }
        for holder in directives.silent.iter().flat_map(|nodes| self.holders.set_silent(nodes)) {
            if self.with_tmem(|tmem| tmem.give_up_copies(holder)) > 0 {
                self.note_thinned();
            }
        }
        if let Some(peers) = &directives.peers {
            self.holders.set_peers(peers);
        }
        if limits.hard {
            self.with_tmem(|tmem| tmem.set_limit_bytes(limits.store_limit_bytes()));
        }
        limits.stuck_until_ms.store(0, Relaxed);
        self.note_pressure();
        taken
    }

    /// What the options or the last directive say that may stay resident. None: the pager decides.
    pub fn resident_limit_bytes(&self) -> Option<u64> {
        Some(self.limits.resident_limit_bytes.load(Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// The pager's word on how much managed memory is resident: the store gets what the local limit leaves.
    pub fn note_resident(&self, bytes: u64) {
        self.limits.resident_bytes.store(bytes, Relaxed);
    }

    /// What the store takes of this machine's memory. One load.
    pub fn store_bytes(&self) -> u64 {
        self.limits.store_bytes.load(Relaxed)
    }

    /// For the thread that takes pages out, between batches, never for a fault: waits until the store is below its limit, at most
    /// `timeout_ms`. Returns at once when it is, or when there is nowhere to put pages. True: there is room.
    pub fn wait_for_room(&self, timeout_ms: u64) -> bool {
        let deadline_ms = crate::now_ms() + timeout_ms;
        loop {
            let heard = self.limits.room.listen();
            if self.store_bytes() <= self.limits.store_limit_bytes() {
                return true;
            }
            let now = crate::now_ms();
            if now >= deadline_ms || self.has_nowhere() {
                return false;
            }
            self.note_pressure();
            self.limits.room.wait(heard, deadline_ms - now);
        }
    }

    /// No holder listed, or none that takes a page now, and no spill file that does.
    pub fn has_nowhere(&self) -> bool {
        !self.has_somewhere() || self.limits.is_stuck(crate::now_ms())
    }

    pub fn stats(&self) -> &StatBlock {
        &self.stats
    }

    /// This process only. Walks all chunks of tmem: for a few times a second.
    pub fn snapshot(&self) -> Snapshot {
        let gauges = self.tmem.lock().tmem.gauges();
        let mut table = Vec::new();
        self.holders.copy_into(&mut table);
        let now = crate::now_ms();
        let holder = |(_, holder): &(HolderId, crate::holders::Holder)| HolderSnapshot {
            node: holder.node,
            address: holder.address.to_string(),
            listed: holder.listed,
            up: holder.down_until_ms <= now && holder.account.is_some(),
            free_bytes: holder.free_bytes.unwrap_or(0),
        };
        let spill = self.spill.as_ref();
        let cleaned = spill.map(Spill::counters).unwrap_or_default();
        Snapshot {
            pages_same: gauges.pages_same,
            pages_local: gauges.pages_local,
            pages_in_transit: gauges.pages_in_transit,
            pages_remote: gauges.pages_remote,
            pages_lost: gauges.pages_lost,
            store_bytes: gauges.bytes_used,
            store_limit_bytes: self.limits.store_limit_bytes(),
            metadata_bytes: gauges.bytes_metadata,
            resident_bytes: self.limits.resident_bytes.load(Relaxed),
            remote_bytes: gauges.bytes_remote,
            spill_bytes: spill.map_or(0, Spill::live_bytes),
            spill_used_bytes: spill.map_or(0, Spill::used_bytes),
            spill_moved_bytes: cleaned.bytes_moved,
            spill_bad_segments: cleaned.segments_bad,
            disk: spill.map_or("none", Spill::word),
            disk_direct: spill.is_some_and(Spill::is_direct),
            flushes_waiting: gauges.flushes_waiting,
            holders: table.iter().map(holder).collect(),
        }
    }

    /// Says goodbye to holders, which free the pages, and stops the threads. Pages are gone after it. Closing again does nothing.
    pub fn close(&self) {
        if !self.closed.swap(true, SeqCst) {
            self.closing.ring();
            self.limits.room.ring();
            self.threads.stop();
            if let Some(spill) = &self.spill {
                spill.stop();
            }
            self.lanes.lock().clear();
            self.take_adopted_links();
            self.stats.withdraw();
        }
    }

    /// Runs `work` under the tmem lock, then brings the stat block up to date. `work` MUST be short: no system call, no packing.
    pub(crate) fn with_tmem<T>(&self, work: impl FnOnce(&mut Pages) -> T) -> T {
        let mut guarded = self.tmem.lock();
        let result = work(&mut guarded.tmem);
        let complaint = guarded.publish(self);
        drop(guarded);
        if let Some(complaint) = complaint {
            say(format_args!("this is a bug in ramster, please report it: {complaint}"));
        }
        result
    }

    /// To be called after a put, without the lock: wakes the remotifier if the store is over its limit.
    pub(crate) fn note_pressure(&self) {
        let limits = &self.limits;
        if self.store_bytes() > limits.soft_limit_bytes() && !self.has_nowhere() {
            self.threads.wake_remotifier(self);
        }
    }

    /// To be called when flushes may have been queued, without the lock.
    pub(crate) fn note_flushes(&self) {
        if self.limits.flushes_waiting.load(Relaxed) > 0 {
            self.threads.wake_for_flushes(self);
        }
    }

    /// A put that was refused may find room in a moment: pages are leaving, or may.
    pub(crate) fn is_making_room(&self) -> bool {
        self.limits.hard && (!self.has_nowhere() || self.with_tmem(|tmem| tmem.bytes_in_transit()) > 0)
    }

    pub(crate) fn has_somewhere(&self) -> bool {
        self.spill.is_some() || (self.limits.remotify.load(Relaxed) && self.holders.any_listed())
    }

    /// What only it had is lost, what was on its way there is local again. Returns how many pages were lost, and how many have a copy less.
    pub(crate) fn holder_died(&self, holder: HolderId) -> (u64, u64) {
        self.stats.add(Stat::HoldersDied, 1);
        let (lost, thinned) = self.with_tmem(|tmem| {
            let before = tmem.counters().copies_lost;
            let lost = tmem.holder_died(holder);
            (lost, tmem.counters().copies_lost - before)
        });
        if thinned > 0 {
            self.note_thinned();
        }
        (lost, thinned)
    }

    /// To be called when copies were lost, without the lock: the remotifier makes new ones.
    pub(crate) fn note_thinned(&self) {
        if !self.limits.thinned.swap(true, SeqCst) {
            self.threads.wake_remotifier(self);
        }
    }

    pub(crate) fn new_packer(&self) -> Packer {
        Packer::new(self.seed)
    }

    pub(crate) fn codec(&self) -> Codec {
        CodecName::from_number(self.limits.codec.load(Relaxed)).unwrap_or(CodecName::Lz4).codec()
    }

    pub(crate) fn remote_codec(&self) -> Option<Codec> {
        CodecName::from_number(self.limits.remote_codec.load(Relaxed)).map(CodecName::codec)
    }

    /// What pages of that class need. None: they may vanish, and one copy is enough.
    pub(crate) fn durability(&self, class: Class) -> Option<Durability> {
        match class {
            Class::EPHEMERAL => None,
            Class::RUN => Some(Durability::from_number(self.limits.durability.load(Relaxed))),
            _ => Durability::of_class(class),
        }
    }

    pub(crate) fn pages_away(&self) -> u64 {
        self.limits.pages_away.load(Relaxed)
    }

    pub(crate) fn get_deadline_ms(&self) -> u64 {
        self.get_deadline_ms
    }

    /// For the threads, which must not keep a forgotten engine alive.
    pub(crate) fn me(&self) -> Weak<Engine> {
        Weak::clone(&self.me)
    }

    pub(crate) fn tmem_lock(&self) -> &Lock<Guarded> {
        &self.tmem
    }

    pub(crate) fn holders(&self) -> &Holders {
        &self.holders
    }

    pub(crate) fn spill(&self) -> Option<&Spill> {
        self.spill.as_ref()
    }

    pub(crate) fn seals(&self) -> &Seals {
        &self.seals
    }

    pub(crate) fn identity(&self) -> &Lock<Identity> {
        &self.identity
    }

    pub(crate) fn inherited(&self) -> &Arc<Inherited> {
        &self.inherited
    }

    /// Orders the openings of links: a later one has a later number.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.tickets.fetch_add(1, SeqCst)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    pub(crate) fn closing(&self) -> &Bell {
        &self.closing
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    pub(crate) fn node_socket(&self) -> Option<&PathBuf> {
        self.node_socket.as_ref()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

/// Address room for the store: as much as the machine has memory, for packed pages cannot take more. Costs nothing until it is used.
fn arena_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit).max(1)).max(1 << 30)
}

impl Guarded {
    /// Under the lock, after every change: a comparison and, for what changed, an atomic addition.
    fn publish(&mut self, engine: &Engine) -> Option<String> {
        let (tmem, stats) = (&mut self.tmem, &engine.stats);
        let (now, before) = (*tmem.counters(), self.published);
        if now != before {
            let refused = |it: &Counters| it.puts_refused_store_full + it.puts_refused_no_such_pool;
            for (stat, new, old) in [
                (Stat::Puts, now.puts, before.puts),
                (Stat::PutsUnchanged, now.puts_unchanged, before.puts_unchanged),
                (Stat::PagesSame, now.puts_same, before.puts_same),
                (Stat::PagesRaw, now.puts_raw, before.puts_raw),
                (Stat::PutsRefused, refused(&now), refused(&before)),
                (Stat::PutsRefusedStoreFull, now.puts_refused_store_full, before.puts_refused_store_full),
                (Stat::PutsRefusedNoSuchPool, now.puts_refused_no_such_pool, before.puts_refused_no_such_pool),
                (Stat::PoolsRefused, now.pools_refused, before.pools_refused),
                (Stat::Gets, now.gets, before.gets),
                (Stat::GetsMiss, now.gets_missed, before.gets_missed),
                (Stat::GetsStale, now.answers_stale, before.answers_stale),
                (Stat::PagesLost, now.pages_lost, before.pages_lost),
                (Stat::PagesEvicted, now.pages_evicted, before.pages_evicted),
                (Stat::PagesRepatriated, now.pages_repatriated, before.pages_repatriated),
                (Stat::CopiesLost, now.copies_lost, before.copies_lost),
                (Stat::CopiesRebuilt, now.copies_rebuilt, before.copies_rebuilt),
                (Stat::SitesRefused, now.sites_refused, before.sites_refused),
            ] {
                stats.add(stat, new - old);
            }
            self.published = now;
        }
        let (stored, remote) = (tmem.bytes_used(), tmem.bytes_remote());
        if stored != self.published_stored_bytes {
            self.published_stored_bytes = stored;
            engine.limits.store_bytes.store(stored, Relaxed);
            stats.set_gauge_with_max(Stat::BytesStored, Stat::BytesStoredMax, stored);
        }
        if remote != self.published_remote_bytes {
            self.published_remote_bytes = remote;
            engine.limits.remote_bytes.store(remote, Relaxed);
            stats.set_gauge(Stat::BytesRemote, remote);
        }
        engine.limits.local_classes.store(tmem.local_classes().0, Relaxed);
        engine.limits.pages_away.store(tmem.pages_away(), Relaxed);
        engine.limits.flushes_waiting.store(tmem.flushes_waiting() as u64, Relaxed);
        if now.transitions_forbidden == before.transitions_forbidden { None } else { tmem.take_complaint() }
    }
}
