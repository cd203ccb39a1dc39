//! Step 12: fetches in flight. Getters of one page share one request. Covers who waits for what and until when; fetching is the engine's.

use crate::backend::{Keep, Loss};
use crate::handle::{Handle, HolderId, Version};
use crate::page::Digest;
use crate::tmem::Site;
use std::collections::{BTreeSet, HashMap};

/// More would be more threads than any program has faulting at once, times a read-ahead.
pub const FLIGHTS_MAX: usize = 16_384;
/// Getters of one page.
pub const WAITERS_MAX: usize = 1024;

/// The copy that is fetched, or the shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    pub holder: HolderId,
    pub version: Version,
    pub digest: Digest,
    /// Whether another holder has a copy too, or a shard that can take the place of this one's.
    pub others: bool,
    /// Of a coded page, who has them; `holder` is one of those.
    pub shards: Option<Site>,
}

/// One page on its way home. `W` is whatever the engine knows a getter by.
#[derive(Debug)]
pub struct Flight<W> {
    pub copy: Copy,
    pub waiters: Vec<W>,
    /// The most that any of the getters wants kept.
    pub keep: Keep,
    deadline_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// Nobody fetches it yet: send the request.
    First,
    /// A request is in flight; its answer serves this getter too.
    Joined,
    /// The table or the page's waiting list is full: the getter must try again. Counted in [`Localify::joins_refused`].
    Full,
}

pub struct Localify<W> {
    flights: HashMap<Handle, Flight<W>>,
    deadlines: BTreeSet<(u64, Handle)>,
    /// Reached limits.
    pub joins_refused: u64,
    /// Getters that another's request served.
    pub joins_shared: u64,
}

impl<W> Default for Localify<W> {
    fn default() -> Self {
        Localify { flights: HashMap::new(), deadlines: BTreeSet::new(), joins_refused: 0, joins_shared: 0 }
    }
}

impl<W> Localify<W> {
    /// The deadline of a page is that of its first getter. A getter that asks for another copy than the one in flight (the page was put and
    /// remotified again meanwhile) is told that the table is full: the old flight is about to be found stale.
    pub fn join(&mut self, handle: &Handle, copy: Copy, keep: Keep, waiter: W, deadline_ms: u64) -> Join {
        if let Some(flight) = self.flights.get_mut(handle) {
            if flight.copy.version != copy.version || flight.waiters.len() >= WAITERS_MAX {
                self.joins_refused += 1;
                return Join::Full;
            }
            flight.waiters.push(waiter);
            flight.keep = most(flight.keep, keep);
            self.joins_shared += 1;
            return Join::Joined;
        }
        if self.flights.len() >= FLIGHTS_MAX {
            self.joins_refused += 1;
            return Join::Full;
        }
        self.deadlines.insert((deadline_ms, *handle));
        self.flights.insert(*handle, Flight { copy, waiters: vec![waiter], keep, deadline_ms });
        Join::First
    }

    /// An answer came, good or bad: its getters. None for an answer that nobody waits for (too late, or of another version).
    pub fn landed(&mut self, handle: &Handle, version: Version) -> Option<Flight<W>> {
        if self.flights.get(handle)?.copy.version != version {
            return None;
        }
        self.take(handle)
    }

    /// Flights whose deadline has passed: each getter gets [`Loss::Deadline`].
    pub fn expired(&mut self, now_ms: u64) -> Vec<(Handle, Flight<W>, Loss)> {
        let mut expired = Vec::new();
        while let Some((deadline_ms, handle)) = self.deadlines.first().copied() {
            if deadline_ms > now_ms {
                break;
            }
            match self.take(&handle) {
                Some(flight) => expired.push((handle, flight, Loss::Deadline)),
                None => {
                    self.deadlines.pop_first();
                }
            }
        }
        expired
    }

    /// The holder died: no answer will come for these.
    pub fn holder_died(&mut self, holder: HolderId) -> Vec<(Handle, Flight<W>, Loss)> {
        let handles: Vec<Handle> =
            self.flights.iter().filter(|(_, flight)| flight.copy.holder == holder).map(|(handle, _)| *handle).collect();
        handles.into_iter().filter_map(|handle| self.take(&handle).map(|flight| (handle, flight, Loss::HolderDied))).collect()
    }

    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    pub fn len(&self) -> usize {
        self.flights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    fn take(&mut self, handle: &Handle) -> Option<Flight<W>> {
        let flight = self.flights.remove(handle)?;
        self.deadlines.remove(&(flight.deadline_ms, *handle));
        Some(flight)
    }
}

fn most(one: Keep, other: Keep) -> Keep {
    match (one, other) {
        (Keep::Keep, _) | (_, Keep::Keep) => Keep::Keep,
        (Keep::KeepRemote, _) | (_, Keep::KeepRemote) => Keep::KeepRemote,
        _ => Keep::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{ObjectId, PoolId};

    fn handle(index: u32) -> Handle {
        Handle { pool: PoolId(0), object: ObjectId([1, 2, 3]), index }
    }

    fn copy(holder: u16, version: Version) -> Copy {
        Copy { holder: HolderId(holder), version, digest: Digest(7), others: false, shards: None }
    }

    #[test]
    fn getters_of_one_page_share_one_request() {
        let mut localify = Localify::default();
        assert_eq!(localify.join(&handle(1), copy(0, 5), Keep::Free, "first", 100), Join::First);
        assert_eq!(localify.join(&handle(1), copy(0, 5), Keep::KeepRemote, "second", 200), Join::Joined);
        assert_eq!(localify.join(&handle(2), copy(0, 6), Keep::Free, "other", 100), Join::First);
        let flight = localify.landed(&handle(1), 5).expect("they wait");
        assert_eq!((flight.waiters, flight.keep), (vec!["first", "second"], Keep::KeepRemote));
        assert!(localify.landed(&handle(1), 5).is_none(), "an answer is delivered once");
        assert_eq!((localify.joins_shared, localify.len()), (1, 1));
    }

    #[test]
    fn an_answer_of_another_version_serves_nobody() {
        let mut localify = Localify::default();
        localify.join(&handle(1), copy(0, 5), Keep::Keep, (), 100);
        assert!(localify.landed(&handle(1), 4).is_none());
        assert_eq!(localify.join(&handle(1), copy(0, 6), Keep::Keep, (), 100), Join::Full);
        assert!(localify.landed(&handle(1), 5).is_some());
        assert_eq!(localify.join(&handle(1), copy(0, 6), Keep::Keep, (), 100), Join::First);
    }

    #[test]
    fn every_wait_ends_at_its_deadline() {
        let mut localify = Localify::default();
        for index in 0..10 {
            localify.join(&handle(index), copy(0, 1), Keep::Keep, index, 100 + u64::from(index));
        }
        assert_eq!(localify.next_deadline_ms(), Some(100));
        assert!(localify.expired(99).is_empty());
        let expired: Vec<u32> = localify.expired(104).into_iter().flat_map(|(_, flight, _)| flight.waiters).collect();
        assert_eq!(expired, [0, 1, 2, 3, 4]);
        assert_eq!(localify.next_deadline_ms(), Some(105));
        assert_eq!(localify.expired(1000).len(), 5);
        assert!(localify.is_empty() && localify.next_deadline_ms().is_none());
    }

    #[test]
    fn the_death_of_a_holder_ends_the_waits_for_it_and_no_other() {
        let mut localify = Localify::default();
        for index in 0..10 {
            localify.join(&handle(index), copy((index % 2) as u16, 1), Keep::Keep, (), 100);
        }
        let died = localify.holder_died(HolderId(1));
        assert_eq!(died.len(), 5);
        assert!(died.iter().all(|(_, flight, why)| flight.copy.holder == HolderId(1) && *why == Loss::HolderDied));
        assert_eq!(localify.len(), 5);
    }

    #[test]
    fn the_table_and_the_waiting_list_have_limits_that_are_counted() {
        let mut localify = Localify::default();
        for _ in 0..WAITERS_MAX {
            assert_ne!(localify.join(&handle(0), copy(0, 1), Keep::Keep, (), 1), Join::Full);
        }
        assert_eq!(localify.join(&handle(0), copy(0, 1), Keep::Keep, (), 1), Join::Full);
        for index in 1..FLIGHTS_MAX as u32 {
            assert_eq!(localify.join(&handle(index), copy(0, 1), Keep::Keep, (), 1), Join::First);
        }
        assert_eq!(localify.join(&handle(u32::MAX), copy(0, 1), Keep::Keep, (), 1), Join::Full);
        assert_eq!(localify.joins_refused, 2);
    }
}
