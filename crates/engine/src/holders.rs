//! The table of holders: who they are, whether they take pages, what they have left. Covers bookkeeping; choosing one is `core::remotify`.
//! Number 0 is the spill file, configured or not. A holder keeps its number for the life of the engine: pages refer to it.

use std::net::SocketAddr;

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use ramster_core::handle::HolderId;
use ramster_sys::lock::Lock;

use crate::options::PeerAddr;

pub const SPILL: HolderId = HolderId(0);
/// Hundreds of nodes is what the design asks for; each costs a hundred bytes here.
const MAX_HOLDERS: usize = 1024;
/// After a failed connect: often enough to use a node soon after it comes, rarely enough to cost nothing.
const RETRY_MS: u64 = 2000;
/// Between two connects that time out, each of which has taken a second already.
const SILENT_MS: u64 = 200;
/// The same where nobody waits: all that is left to say to a node that is given up is what it may forget.
const GIVEN_UP_MS: u64 = 5000;
/// A dead machine that does not even refuse costs a connect timeout each time: after a few tries once in a minute is enough.
const RETRY_DOUBLINGS: u32 = 5;
/// For that long pages that others have too are not asked of a holder that did not answer in time.
const SLOW_MS: u64 = 2000;

#[derive(Clone, Debug)]
pub struct Holder {
    pub node: u64,
    pub address: SocketAddr,
    /// In the present list of peers: new pages may go there.
    pub listed: bool,
    /// No connect before that time.
    pub down_until_ms: u64,
    /// Connects that failed in a row.
    pub failures: u32,
    /// Connects have timed out since then.
    pub silent_since_ms: Option<u64>,
    /// Membership does not hear from it: what others have too is theirs alone now.
    pub given_up: bool,
    /// Others that have a page are asked first until then.
    pub slow_until_ms: u64,
    /// It gave other bytes than it was sent, and that has been said.
    pub forged: bool,
    /// It refused pages for lack of room: none are offered before that time.
    pub full_until_ms: u64,
    /// Which life of the holder and which stay of ours in it, and the ticket of the link that heard so.
    pub account: Option<((u64, u64), u64)>,
    /// What it last said it has left. None: it has not been asked yet.
    pub free_bytes: Option<u64>,
    /// Our stay there when it was given up for dead. Should it live after all, what it still holds is to go.
    pub abandoned: Option<(u64, u64)>,
    /// How many times it was given up for dead. Links from before are not to be used for new pages.
    pub deaths: u64,
}

pub struct Holders {
    /// Holder n is at index n - 1.
    list: Lock<Vec<Holder>>,
    /// Until then some holder is slow: a load for every get of a page with several copies.
    any_slow_until_ms: AtomicU64,
    /// Of all holders together, so that who has links looks at one word.
    all_deaths: AtomicU64,
}

impl Holder {
    fn new(node: u64, address: SocketAddr) -> Self {
        Holder {
            node,
            address,
            listed: true,
            down_until_ms: 0,
            failures: 0,
            silent_since_ms: None,
            given_up: false,
            slow_until_ms: 0,
            forged: false,
            full_until_ms: 0,
            account: None,
            free_bytes: None,
            abandoned: None,
            deaths: 0,
        }
    }
}

impl Holders {
    pub fn new() -> Self {
        Holders { list: Lock::new(Vec::new()), any_slow_until_ms: AtomicU64::new(0), all_deaths: AtomicU64::new(0) }
    }

    /// From now on pages go to these. Those that are no longer listed keep what they hold. Returns how many could not be used.
    pub fn set_peers(&self, peers: &[PeerAddr]) -> usize {
        let mut list = self.list.lock();
        list.iter_mut().for_each(|holder| holder.listed = false);
        let mut unusable = 0;
        for peer in peers {
            let Some(address) = peer.socket_addr() else {
                unusable += 1;
                continue;
            };
            match list.iter().position(|holder| holder.address == address) {
                Some(index) => {
                    let known = &mut list[index];
                    known.listed = true;
                    // What it said itself counts for more.
                    if known.account.is_none() {
                        known.node = peer.node;
                    }
                }
                None if list.len() < MAX_HOLDERS => {
                    list.push(Holder::new(peer.node, address));
                }
                None => unusable += 1,
            }
        }
        unusable
    }

    pub fn any_listed(&self) -> bool {
        self.list.lock().iter().any(|holder| holder.listed)
    }

    pub fn get(&self, holder: HolderId) -> Option<Holder> {
        let index = usize::from(holder.0).checked_sub(1)?;
        self.list.lock().get(index).cloned()
    }

    pub fn update(&self, holder: HolderId, change: impl FnOnce(&mut Holder)) {
        let Some(index) = usize::from(holder.0).checked_sub(1) else { return };
        if let Some(holder) = self.list.lock().get_mut(index) {
            change(holder);
        }
    }

    /// All with their numbers, into a buffer that is used again.
    pub fn copy_into(&self, out: &mut Vec<(HolderId, Holder)>) {
        out.clear();
        let list = self.list.lock();
        out.extend(list.iter().enumerate().map(|(index, holder)| (HolderId(index as u16 + 1), holder.clone())));
    }

    /// These nodes are not heard from, all others are. Returns the holders of which that is news.
    pub fn set_silent(&self, nodes: &[u64]) -> Vec<HolderId> {
        let mut news = Vec::new();
        for (index, holder) in self.list.lock().iter_mut().enumerate() {
            let silent = nodes.contains(&holder.node);
            if silent && !holder.given_up {
                news.push(HolderId(index as u16 + 1));
            }
            holder.given_up = silent;
        }
        news
    }

    /// It did not answer in time for a page that another holder has too.
    pub fn slow(&self, holder: HolderId, now_ms: u64) {
        self.update(holder, |entry| entry.slow_until_ms = now_ms + SLOW_MS);
        self.any_slow_until_ms.fetch_max(now_ms + SLOW_MS, Relaxed);
    }

    /// It gave other bytes than it was sent. True: for the first time.
    pub fn forged(&self, holder: HolderId) -> bool {
        let mut first = false;
        self.update(holder, |entry| first = !std::mem::replace(&mut entry.forged, true));
        first
    }

    /// Not to be asked, if another can be.
    pub fn is_slow(&self, holder: HolderId, now_ms: u64) -> bool {
        self.any_slow_until_ms.load(Relaxed) > now_ms && self.get(holder).is_some_and(|entry| entry.slow_until_ms > now_ms)
    }

    /// A connect timed out. Somebody waits for a page, so the next one is soon; and it is the same holder when it speaks again.
    pub fn silent(&self, holder: HolderId, now_ms: u64) {
        self.update(holder, |entry| {
            entry.down_until_ms = now_ms + if entry.given_up { GIVEN_UP_MS } else { SILENT_MS };
            entry.silent_since_ms.get_or_insert(now_ms);
        });
    }

    /// Something has changed that may have kept links from being opened.
    pub fn try_all_again(&self) {
        for holder in self.list.lock().iter_mut() {
            (holder.down_until_ms, holder.full_until_ms, holder.failures) = (0, 0, 0);
        }
    }

    /// A connect failed: the next one has to wait, longer each time.
    pub fn failed(&self, holder: HolderId, now_ms: u64) {
        self.update(holder, |entry| {
            entry.down_until_ms = now_ms + (RETRY_MS << entry.failures.min(RETRY_DOUBLINGS));
            entry.failures += 1;
            entry.deaths += 1;
            entry.abandoned = entry.account.map(|(account, _)| account).or(entry.abandoned);
            (entry.account, entry.silent_since_ms) = (None, None);
        });
        self.all_deaths.fetch_add(1, SeqCst);
    }

    pub fn deaths(&self, holder: HolderId) -> u64 {
        self.get(holder).map_or(0, |entry| entry.deaths)
    }

    /// Changes whenever a holder is given up for dead.
    pub fn all_deaths(&self) -> u64 {
        self.all_deaths.load(SeqCst)
    }

    /// In a forked child, which is somebody else to them.
    pub fn forget_accounts(&self) {
        self.list.lock().iter_mut().for_each(|holder| (holder.account, holder.abandoned) = (None, None));
    }

    pub fn freeze(&self) {
        self.list.freeze();
    }

    pub fn thaw(&self) {
        self.list.thaw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: u64, address: &str) -> PeerAddr {
        PeerAddr { node, address: address.to_owned() }
    }

    #[test]
    fn a_holder_keeps_its_number_when_the_list_changes() {
        let holders = Holders::new();
        assert_eq!(holders.set_peers(&[peer(1, "127.0.0.1:1"), peer(2, "127.0.0.1:2"), peer(3, "nowhere")]), 1);
        assert_eq!(holders.set_peers(&[peer(2, "127.0.0.1:2"), peer(4, "[::1]:4")]), 0);
        let numbered: Vec<_> = (1..=3).map(|id| holders.get(HolderId(id)).expect("holder")).collect();
        assert_eq!(numbered.iter().map(|holder| holder.node).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(numbered.iter().map(|holder| holder.listed).collect::<Vec<_>>(), [false, true, true]);
        assert!(holders.get(SPILL).is_none());
    }

    #[test]
    fn a_holder_that_is_down_is_tried_at_once_when_something_has_changed() {
        let holders = Holders::new();
        holders.set_peers(&[peer(1, "127.0.0.1:1")]);
        holders.failed(HolderId(1), 1000);
        assert_eq!(holders.get(HolderId(1)).map(|holder| holder.down_until_ms), Some(1000 + RETRY_MS));
        holders.try_all_again();
        assert_eq!(holders.get(HolderId(1)).map(|holder| (holder.down_until_ms, holder.failures)), Some((0, 0)));
    }
}
