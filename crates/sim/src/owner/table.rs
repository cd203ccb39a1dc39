//! What an owner knows of holders: who they are, whether they take pages, what they have left. Mirrors engine/holders.rs; number 0 is the spill file.

use ramster_core::handle::HolderId;

pub const SPILL: HolderId = HolderId(0);
const RETRY_MS: u64 = 2000;
const SILENT_MS: u64 = 200;
const GIVEN_UP_MS: u64 = 5000;
const RETRY_DOUBLINGS: u32 = 5;
const SLOW_MS: u64 = 2000;

#[derive(Clone, Debug)]
pub struct Known {
    pub node: u64,
    pub listed: bool,
    pub down_until_ms: u64,
    pub failures: u32,
    pub silent_since_ms: Option<u64>,
    pub given_up: bool,
    pub slow_until_ms: u64,
    pub full_until_ms: u64,
    /// The holder's life and our stay there, and the ticket of the link that heard so.
    pub account: Option<((u64, u64), u64)>,
    pub free_bytes: Option<u64>,
    /// Our stay there when it was given up for dead.
    pub abandoned: Option<(u64, u64)>,
    /// How many times it was given up for dead.
    pub deaths: u64,
}

impl Known {
    pub fn new(node: u64) -> Self {
        Known {
            node,
            listed: true,
            down_until_ms: 0,
            failures: 0,
            silent_since_ms: None,
            given_up: false,
            slow_until_ms: 0,
            full_until_ms: 0,
            account: None,
            free_bytes: None,
            abandoned: None,
            deaths: 0,
        }
    }
}

/// Holder n is the one at place n - 1.
#[derive(Clone, Default)]
pub struct Table(pub Vec<Known>);

pub fn place_of(holder: HolderId) -> usize {
    usize::from(holder.0).wrapping_sub(1)
}

pub fn holder_at(place: usize) -> HolderId {
    HolderId(place as u16 + 1)
}

impl Table {
    pub fn get(&self, holder: HolderId) -> Option<&Known> {
        self.0.get(place_of(holder))
    }

    pub fn update(&mut self, holder: HolderId, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.0.get_mut(place_of(holder)) {
            change(known);
        }
    }

    pub fn any_listed(&self) -> bool {
        self.0.iter().any(|known| known.listed)
    }

    /// Those that are silent from now on. Returns of which that is news.
    pub fn set_silent(&mut self, silent: &[bool]) -> Vec<HolderId> {
        let mut news = Vec::new();
        for (place, (known, silent)) in self.0.iter_mut().zip(silent).enumerate() {
            if *silent && !known.given_up {
                news.push(holder_at(place));
            }
            known.given_up = *silent;
        }
        news
    }

    pub fn slow(&mut self, holder: HolderId, now_ms: u64) {
        self.update(holder, |known| known.slow_until_ms = now_ms + SLOW_MS);
    }

    pub fn is_slow(&self, holder: HolderId, now_ms: u64) -> bool {
        self.get(holder).is_some_and(|known| known.slow_until_ms > now_ms)
    }

    pub fn silent(&mut self, holder: HolderId, now_ms: u64) {
        self.update(holder, |known| {
            known.down_until_ms = now_ms + if known.given_up { GIVEN_UP_MS } else { SILENT_MS };
            known.silent_since_ms.get_or_insert(now_ms);
        });
    }

    pub fn deaths(&self, holder: HolderId) -> u64 {
        self.get(holder).map_or(0, |known| known.deaths)
    }

    /// In a forked child, which is somebody else to them.
    pub fn forget_accounts(&mut self) {
        self.0.iter_mut().for_each(|known| (known.account, known.abandoned) = (None, None));
    }

    pub fn failed(&mut self, holder: HolderId, now_ms: u64) {
        self.update(holder, |known| {
            known.down_until_ms = now_ms + (RETRY_MS << known.failures.min(RETRY_DOUBLINGS));
            known.failures += 1;
            known.deaths += 1;
            known.abandoned = known.account.map(|(account, _)| account).or(known.abandoned);
            (known.account, known.silent_since_ms) = (None, None);
        });
    }
}
