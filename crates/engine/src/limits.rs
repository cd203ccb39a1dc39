//! How much of what an engine may use and do. Covers the figures, which directives change at any time; who obeys them is elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use ramster_core::handle::Classes;
use ramster_sys::lock::Bell;

use crate::options::Options;

/// An eighth would waste memory that is paid for; a thirty-second of a small limit would hold no batch.
const SLACK_SHARE: u64 = 16;

/// How much of what. Directives change it at any time; nobody waits for anybody to read it.
pub(crate) struct Limits {
    pub(crate) local_bytes: u64,
    /// What the options say; u64::MAX: nothing.
    own_resident_bytes: u64,
    /// u64::MAX: none given.
    pub(crate) resident_limit_bytes: AtomicU64,
    /// u64::MAX: none given.
    pub(crate) store_limit_bytes: AtomicU64,
    pub(crate) resident_bytes: AtomicU64,
    pub(crate) store_bytes: AtomicU64,
    /// Pages at holders or on their way there: while there are none, nobody need ask whether a put is unchanged.
    pub(crate) pages_away: AtomicU64,
    pub(crate) flushes_waiting: AtomicU64,
    /// Of pages at peers, and what they may be at most. u64::MAX: no limit.
    pub(crate) remote_bytes: AtomicU64,
    pub(crate) remote_limit_bytes: AtomicU64,
    pub(crate) remotify: AtomicBool,
    /// The same for pages of persistent pools alone (the pager has no others), and for those of ephemeral ones.
    pub(crate) remotify_persistent: AtomicBool,
    pub(crate) remotify_ephemeral: AtomicBool,
    /// Pages come home by themselves when there is room.
    pub(crate) repatriate: AtomicBool,
    pub(crate) codec: AtomicU64,
    pub(crate) remote_codec: AtomicU64,
    pub(crate) durability: AtomicU64,
    /// Copies of pages were lost, and the remotifier has not looked yet.
    pub(crate) thinned: AtomicBool,
    /// A put over the limit waits or is refused (pools); otherwise it is taken as long as there is memory (the pager, which has nothing better).
    pub(crate) hard: bool,
    /// The remotifier found nowhere to put pages; it looks again then.
    pub(crate) stuck_until_ms: AtomicU64,
    /// For pages of these classes, and no others.
    pub(crate) stuck_classes: AtomicU32,
    /// Those that have pages here which could leave.
    pub(crate) local_classes: AtomicU32,
    /// Rung when the store has shrunk, or is stuck.
    pub(crate) room: Bell,
}

/// Pages of which kinds of pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kinds {
    pub(crate) persistent: bool,
    pub(crate) ephemeral: bool,
}

impl Limits {
    pub(crate) fn new(options: &Options, hard: bool) -> Self {
        Limits {
            local_bytes: options.local_bytes,
            own_resident_bytes: options.resident_bytes.unwrap_or(u64::MAX),
            resident_limit_bytes: AtomicU64::new(options.resident_bytes.unwrap_or(u64::MAX)),
            store_limit_bytes: AtomicU64::new(options.store_bytes.unwrap_or(u64::MAX)),
            resident_bytes: AtomicU64::new(0),
            store_bytes: AtomicU64::new(0),
            pages_away: AtomicU64::new(0),
            flushes_waiting: AtomicU64::new(0),
            remote_bytes: AtomicU64::new(0),
            remote_limit_bytes: AtomicU64::new(u64::MAX),
            remotify: AtomicBool::new(true),
            remotify_persistent: AtomicBool::new(true),
            remotify_ephemeral: AtomicBool::new(true),
            repatriate: AtomicBool::new(true),
            codec: AtomicU64::new(options.codec as u64),
            remote_codec: AtomicU64::new(options.remote_codec.map_or(u64::MAX, |codec| codec as u64)),
            durability: AtomicU64::new(options.durability.to_number()),
            thinned: AtomicBool::new(false),
            hard,
            stuck_until_ms: AtomicU64::new(0),
            stuck_classes: AtomicU32::new(0),
            local_classes: AtomicU32::new(0),
            room: Bell::new(),
        }
    }

    /// What a directive says of resident memory: never more than the options allow. At the local limit and above it says nothing.
    pub(crate) fn set_resident_limit(&self, bytes: u64) {
        let limit = if bytes >= self.local_bytes { u64::MAX } else { bytes };
        self.resident_limit_bytes.store(limit.min(self.own_resident_bytes), Relaxed);
    }

    /// What the store may take: given, or what the resident pages leave of the local limit. Half of it when nobody said how to divide.
    pub(crate) fn store_limit_bytes(&self) -> u64 {
        let given = self.store_limit_bytes.load(Relaxed);
        if self.hard {
            return given.min(self.local_bytes);
        }
        let resident_limit = match self.resident_limit_bytes.load(Relaxed) {
            u64::MAX => self.local_bytes / 2,
            bytes => bytes,
        };
        let rest = self.local_bytes.saturating_sub(resident_limit.max(self.resident_bytes.load(Relaxed)));
        given.min(rest)
    }

    /// Over it pages leave: a little below the limit, so that puts find room while others are on their way out.
    pub(crate) fn soft_limit_bytes(&self) -> u64 {
        let limit = self.store_limit_bytes();
        limit - limit / SLACK_SHARE
    }

    /// This program has its share of what peers lend.
    pub(crate) fn is_over_share(&self) -> bool {
        self.remote_bytes.load(Relaxed) >= self.remote_limit_bytes.load(Relaxed)
    }

    /// What peers may be sent.
    pub(crate) fn kinds_for_peers(&self) -> Kinds {
        let any = self.remotify.load(Relaxed) && !self.is_over_share();
        Kinds {
            persistent: any && self.remotify_persistent.load(Relaxed),
            ephemeral: any && self.remotify_ephemeral.load(Relaxed),
        }
    }

    /// What is here has nowhere to go. A page of another class than those that were found so may have.
    pub(crate) fn is_stuck(&self, now_ms: u64) -> bool {
        let local = Classes(self.local_classes.load(Relaxed));
        self.stuck_until_ms.load(Relaxed) > now_ms && local.are_among(Classes(self.stuck_classes.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resident_limit_at_or_above_the_local_one_gives_the_options_own_back_and_the_store_its_part() {
        let options = Options { local_bytes: 64 << 20, resident_bytes: None, ..Options::default() };
        let limits = Limits::new(&options, false);
        let before = limits.store_limit_bytes();
        limits.set_resident_limit(16 << 20);
        assert_eq!(limits.store_limit_bytes(), 48 << 20);
        limits.set_resident_limit(1 << 62);
        assert_eq!((limits.store_limit_bytes(), limits.resident_limit_bytes.load(Relaxed)), (before, u64::MAX));
        let limits = Limits::new(&Options { resident_bytes: Some(8 << 20), ..options }, false);
        for bytes in [16 << 20, 1 << 62] {
            limits.set_resident_limit(bytes);
            assert_eq!(limits.resident_limit_bytes.load(Relaxed), 8 << 20);
        }
    }
}
