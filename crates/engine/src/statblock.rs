//! The shared stat block, one file a process tree: 64 words of counters and gauges, then histograms. Covers the names and how processes add up; the
//! supervisor reads it at exit, the node hears of it twice a second.
//! Counters are added by everybody. A gauge is the sum of what each process contributes; `*_max` is the highest sum anybody saw.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ramster_sys::shared_words::SharedWords;

use crate::histograms::{BUCKETS, HISTOGRAM_WORDS, HISTOGRAMS, Timed};

macro_rules! stats {
    ($($(#[$doc:meta])* $variant:ident $name:literal)*) => {
        /// Index of a word in the block.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Stat { $($(#[$doc])* $variant),* }
        /// The single source of the names, in the order of the words; Python has them as `_native.STAT_FIELDS`.
        pub const STAT_FIELDS: &[&str] = &[$($name),*];
    };
}

stats! {
    Faults "faults"
    FaultsLocal "faults_local"
    FaultsRemote "faults_remote"
    FaultsZero "faults_zero"
    FaultsVictim "faults_victim"
    PagesOut "pages_out"
    PagesIn "pages_in"
    PagesAhead "pages_ahead"
    PagesRemotified "pages_remotified"
    PagesLocalified "pages_localified"
    PagesLost "pages_lost"
    BytesResident "bytes_resident"
    BytesResidentMax "bytes_resident_max"
    BytesStored "bytes_stored"
    BytesStoredMax "bytes_stored_max"
    /// Packed bytes that holders keep for this process tree, spill files among them.
    BytesRemote "bytes_remote"
    /// Engines started or forked and not closed since.
    Processes "processes"
    /// Times the store was over its limit with nowhere to put pages.
    SoftLimit "soft_limit"
    PutsUnchanged "puts_unchanged"
    PagesSame "pages_same"
    PagesRaw "pages_raw"
    Puts "puts"
    PutsRefused "puts_refused"
    Gets "gets"
    GetsMiss "gets_miss"
    /// Fetches whose page was put or flushed meanwhile: looked up again.
    GetsStale "gets_stale"
    /// Fetches that found another one of the same page in flight and waited for it.
    GetsJoined "gets_joined"
    GetsDeadline "gets_deadline"
    FlushesSent "flushes_sent"
    /// Pages that a holder refused for lack of room and that were offered elsewhere.
    RemotifyRefused "remotify_refused"
    /// Pages taken back from a holder that died before it acknowledged them.
    RemotifyTakenBack "remotify_taken_back"
    HoldersDied "holders_died"
    PagesSpilled "pages_spilled"
    PagesUnspilled "pages_unspilled"
    /// Pages that found no room in the spill directory.
    SpillFull "spill_full"
    /// Processes whose spill directory does not answer, is full, or broken; or was when they ended.
    DiskHangs "disk_hangs"
    DiskFull "disk_full"
    DiskFailed "disk_failed"
    /// Pages on disk that could not be read, or were changed there.
    DiskUnreadable "disk_unreadable"
    /// Faults that waited for the disk.
    FaultsDisk "faults_disk"
    /// Pages from the spill file that had been read along with others: nobody waited.
    DiskReadAlong "disk_read_along"
    /// Ephemeral pages that made room.
    PagesEvicted "pages_evicted"
    /// Fetched pages that stayed at home.
    PagesRepatriated "pages_repatriated"
    /// Gets turned down because too many were on their way.
    GetsOverflow "gets_overflow"
    /// Fetches that one holder did not answer and another was asked.
    GetsElsewhere "gets_elsewhere"
    /// Copies that holders lost of pages of which there was another, and those made anew.
    CopiesLost "copies_lost"
    CopiesRebuilt "copies_rebuilt"
    /// Processes that look for pages with too few copies, or make new ones.
    Rebuilding "rebuilding"
    /// Pages that came back although a data shard was missing: it was computed from parity.
    GetsDecoded "gets_decoded"
    /// Shards that turned out to be other bytes than those that their holder was sent.
    ShardsForged "shards_forged"
    /// Batches that did not leave because too many sets of holders are in use.
    SitesRefused "sites_refused"
    /// The two reasons of `puts_refused`.
    PutsRefusedStoreFull "puts_refused_store_full"
    PutsRefusedNoSuchPool "puts_refused_no_such_pool"
    PoolsRefused "pools_refused"
    /// Batches that stayed because this process has its share of what peers lend.
    RemotifyOverShare "remotify_over_share"
}

/// Room for names to come without a new layout.
pub const STAT_WORDS: usize = 64;
const _: () = assert!(STAT_FIELDS.len() <= STAT_WORDS);
/// The size of the file: histograms from word 64 on, the block's number in the last one.
const BLOCK_WORDS: usize = 256;
const NUMBER_WORD: usize = BLOCK_WORDS - 1;
const _: () = assert!(STAT_WORDS + HISTOGRAMS.len() * HISTOGRAM_WORDS < NUMBER_WORD);

pub struct StatBlock {
    shared: SharedWords,
    /// What this process has put into each gauge, so that it can take it out again.
    contributed: [AtomicU64; STAT_WORDS],
    /// Gauge values inherited at a fork: copy-on-write memory that the parent already counts.
    inherited: [AtomicU64; STAT_WORDS],
    /// A file's, shared by a tree. Otherwise each forked child has its own, and begins with what its parent had counted.
    is_shared: bool,
    /// What a forked child began with.
    at_fork: [AtomicU64; BLOCK_WORDS],
}

impl StatBlock {
    pub fn open(path: Option<&Path>) -> io::Result<Self> {
        Ok(StatBlock {
            shared: SharedWords::open(path, BLOCK_WORDS)?,
            contributed: [const { AtomicU64::new(0) }; STAT_WORDS],
            inherited: [const { AtomicU64::new(0) }; STAT_WORDS],
            is_shared: path.is_some(),
            at_fork: [const { AtomicU64::new(0) }; BLOCK_WORDS],
        })
    }

    /// Counters only.
    pub fn add(&self, stat: Stat, count: u64) {
        if count != 0 {
            self.word(stat).fetch_add(count, Relaxed);
        }
    }

    /// One that took so long: two additions.
    pub fn time(&self, what: Timed, ns: u64) {
        self.time_many(what, ns, 1);
    }

    /// So many that took so long each.
    pub fn time_many(&self, what: Timed, ns: u64, count: u64) {
        let words = &self.shared.words()[STAT_WORDS + what as usize * HISTOGRAM_WORDS..];
        words[what.bucket(ns)].fetch_add(count, Relaxed);
        words[BUCKETS].fetch_add(ns.saturating_mul(count), Relaxed);
    }

    /// Tells blocks apart that several processes report: the first one names it. `number` is never 0.
    pub fn name_block(&self, number: u64) {
        let _ = self.shared.words()[NUMBER_WORD].compare_exchange(0, number, Relaxed, Relaxed);
    }

    /// The number of a block that a tree shares. None: it is this process's own.
    pub fn block_number(&self) -> Option<u64> {
        self.is_shared.then(|| self.shared.words()[NUMBER_WORD].load(Relaxed))
    }

    /// Names and values since this process, or the tree where it shares the block, began.
    pub fn since_fork(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        STAT_FIELDS.iter().enumerate().map(|(index, name)| (*name, self.since(index)))
    }

    /// Each histogram's buckets, then its sum in nanoseconds, likewise.
    pub fn histograms(&self) -> impl Iterator<Item = (&'static str, Vec<u64>)> + '_ {
        HISTOGRAMS.iter().enumerate().map(|(index, (name, _))| {
            let first = STAT_WORDS + index * HISTOGRAM_WORDS;
            (*name, (first..first + HISTOGRAM_WORDS).map(|word| self.since(word)).collect())
        })
    }

    fn since(&self, index: usize) -> u64 {
        self.shared.words()[index].load(Relaxed).saturating_sub(self.at_fork[index].load(Relaxed))
    }

    /// Sets this process's part of a gauge and returns the new sum of all processes. One caller at a time per gauge and process.
    pub fn set_gauge(&self, stat: Stat, value: u64) -> u64 {
        let part = value.saturating_sub(self.inherited[stat as usize].load(Relaxed));
        let before = self.contributed[stat as usize].swap(part, Relaxed);
        let change = part.wrapping_sub(before);
        self.word(stat).fetch_add(change, Relaxed).wrapping_add(change)
    }

    /// As `set_gauge`, and raises `max` to the new sum.
    pub fn set_gauge_with_max(&self, stat: Stat, max: Stat, value: u64) {
        let sum = self.set_gauge(stat, value);
        let max = self.word(max);
        if max.load(Relaxed) < sum {
            max.fetch_max(sum, Relaxed);
        }
    }

    pub fn get(&self, stat: Stat) -> u64 {
        self.word(stat).load(Relaxed)
    }

    /// This process's part of a gauge.
    pub fn own(&self, gauge: Stat) -> u64 {
        self.contributed[gauge as usize].load(Relaxed)
    }

    /// Names and values as they are now, not at one instant.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        STAT_FIELDS.iter().zip(self.shared.words()).map(|(name, word)| (*name, word.load(Relaxed)))
    }

    /// In a forked child: what the parent contributed stays the parent's.
    pub(crate) fn after_fork_child(&self) {
        for (contributed, inherited) in self.contributed.iter().zip(&self.inherited) {
            inherited.fetch_add(contributed.swap(0, Relaxed), Relaxed);
        }
        if !self.is_shared {
            self.at_fork.iter().zip(self.shared.words()).for_each(|(begun, word)| begun.store(word.load(Relaxed), Relaxed));
        }
        // The child is one more.
        self.inherited[Stat::Processes as usize].store(0, Relaxed);
    }

    /// Takes this process's part out of every gauge: it ends.
    pub(crate) fn withdraw(&self) {
        for (contributed, word) in self.contributed.iter().zip(self.shared.words()) {
            word.fetch_sub(contributed.swap(0, Relaxed), Relaxed);
        }
    }

    fn word(&self, stat: Stat) -> &AtomicU64 {
        &self.shared.words()[stat as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_of_two_processes_add_up_and_leave_when_they_end() {
        let path = std::env::temp_dir().join(format!("ramster-stats-{}", std::process::id()));
        let one = StatBlock::open(Some(&path)).expect("open");
        let two = StatBlock::open(Some(&path)).expect("open");
        one.set_gauge_with_max(Stat::BytesStored, Stat::BytesStoredMax, 100);
        two.set_gauge_with_max(Stat::BytesStored, Stat::BytesStoredMax, 50);
        one.set_gauge_with_max(Stat::BytesStored, Stat::BytesStoredMax, 10);
        assert_eq!((one.get(Stat::BytesStored), one.get(Stat::BytesStoredMax)), (60, 150));
        one.after_fork_child(); // as its child would: 10 bytes are the parent's
        one.set_gauge(Stat::BytesStored, 4);
        assert_eq!(two.get(Stat::BytesStored), 60);
        one.set_gauge(Stat::BytesStored, 15);
        assert_eq!(two.get(Stat::BytesStored), 65);
        one.withdraw();
        two.withdraw();
        assert_eq!(two.get(Stat::BytesStored), 10); // the parent's own part, in the parent
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn a_forked_child_with_a_block_of_its_own_reports_what_it_did_itself() {
        let (own, path) =
            (StatBlock::open(None).expect("open"), std::env::temp_dir().join(format!("ramster-tree-{}", std::process::id())));
        let tree = StatBlock::open(Some(&path)).expect("open");
        for block in [&own, &tree] {
            block.name_block(7);
            block.name_block(8);
            block.add(Stat::Puts, 5);
            block.time(Timed::Put, 3_000);
            block.after_fork_child();
            block.add(Stat::Puts, 2);
            block.time_many(Timed::Put, 5_000, 3);
        }
        let seen = |block: &StatBlock| {
            let puts = block.since_fork().find(|(name, _)| *name == "puts").map(|(_, count)| count);
            let (_, times) = block.histograms().find(|(name, _)| *name == "put").expect("put");
            (block.block_number(), puts, times[2], times[3], times[BUCKETS])
        };
        assert_eq!(seen(&own), (None, Some(2), 0, 3, 15_000));
        assert_eq!(seen(&tree), (Some(7), Some(7), 1, 3, 18_000));
        std::fs::remove_file(&path).expect("remove");
    }

    #[test]
    fn every_field_has_one_name() {
        let mut names = STAT_FIELDS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STAT_FIELDS.len());
    }
}
