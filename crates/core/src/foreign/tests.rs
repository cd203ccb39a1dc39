//! The foreign store against plain maps: random puts, gets, flushes, shares and goodbyes of several owners, each step counted again.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::seal::Tag;
use crate::store::HeapSlabs;

const OBJECTS: u64 = 3;

fn owner(client: u128) -> OwnerId {
    OwnerId { node: 1, client, incarnation: 5 }
}

fn foreign(offer_bytes: u64) -> Foreign<HeapSlabs> {
    Foreign::new(offer_bytes, HeapSlabs::new(1000))
}

fn blob(bytes: &[u8]) -> Blob<'_> {
    Blob { kind: bytes.len() as u8, tag: Tag([bytes.len() as u8; 16]), bytes }
}

fn handle(pool: u32, object: u64, index: u32) -> Handle {
    Handle { pool: PoolId(pool), object: ObjectId([object, 0, 1]), index }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        client: usize,
        handle: Handle,
        version: u32,
        length: usize,
        pool: PoolKind,
    },
    Get {
        client: usize,
        handle: Handle,
    },
    Flush {
        client: usize,
        handle: Handle,
        version: u32,
    },
    FlushRange {
        client: usize,
        handle: Handle,
        count: u32,
    },
    FlushObject {
        client: usize,
        pool: u32,
        object: u64,
    },
    DestroyPool {
        client: usize,
        pool: u32,
    },
    Share {
        parent: usize,
        child: usize,
    },
    Goodbye {
        client: usize,
    },
    /// All links break; then it comes back within the grace time, or does not.
    Break {
        client: usize,
        returns: bool,
    },
    Offer {
        bytes: u64,
    },
    Reap {
        limit: usize,
    },
}

fn any_handle() -> impl Strategy<Value = Handle> {
    (0..2u32, 0..OBJECTS, 0..12u32).prop_map(|(pool, object, index)| handle(pool, object, index))
}

fn any_pool() -> impl Strategy<Value = PoolKind> {
    prop_oneof![3 => Just(PoolKind::Persistent), 1 => Just(PoolKind::Ephemeral)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let client = 0..3usize;
    prop_oneof![
        8 => (client.clone(), any_handle(), 1..6u32, 0..1200usize, any_pool())
            .prop_map(|(client, handle, version, length, pool)| Step::Put { client, handle, version, length, pool }),
        4 => (client.clone(), any_handle()).prop_map(|(client, handle)| Step::Get { client, handle }),
        3 => (client.clone(), any_handle(), 1..6u32).prop_map(|(client, handle, version)| Step::Flush { client, handle, version }),
        1 => (client.clone(), any_handle(), 0..20u32).prop_map(|(client, handle, count)| Step::FlushRange { client, handle, count }),
        1 => (client.clone(), 0..2u32, 0..OBJECTS).prop_map(|(client, pool, object)| Step::FlushObject { client, pool, object }),
        1 => (client.clone(), 0..2u32).prop_map(|(client, pool)| Step::DestroyPool { client, pool }),
        2 => (client.clone(), client.clone()).prop_map(|(parent, child)| Step::Share { parent, child }),
        1 => client.prop_map(|client| Step::Goodbye { client }),
        1 => (0..3usize, any::<bool>()).prop_map(|(client, returns)| Step::Break { client, returns }),
        1 => (500..60_000u64).prop_map(|bytes| Step::Offer { bytes }),
        1 => (1..5usize).prop_map(|limit| Step::Reap { limit }),
    ]
}

type Model = BTreeMap<Handle, (u32, Vec<u8>, PoolKind)>;

struct Pair {
    foreign: Foreign<HeapSlabs>,
    seats: [Seat; 3],
    models: [Model; 3],
    written: u8,
    now_ms: u64,
}

const GRACE_MS: u64 = 10;

impl Pair {
    fn new(offer_bytes: u64) -> Pair {
        let mut foreign = foreign(offer_bytes);
        let seats = [0, 1, 2].map(|client| foreign.arrive(&owner(client), Role::Bulk).expect("seat"));
        Pair { foreign, seats, models: Default::default(), written: 0, now_ms: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Put { client, handle, version, length, pool } => {
                self.written = self.written.wrapping_add(1);
                let bytes = vec![self.written; length];
                let model = &mut self.models[client];
                let held = model.get(&handle).map(|(version, ..)| *version);
                match self.foreign.put(self.seats[client], pool, &handle, version, &blob(&bytes)) {
                    PutStatus::Stored => {
                        assert!(held.is_none_or(|held| held <= version));
                        model.insert(handle, (version, bytes, pool));
                    }
                    PutStatus::Stale => assert!(held.is_some_and(|held| held > version)),
                    PutStatus::RefusedFull => drop(model.remove(&handle)),
                    other => panic!("{other:?}"),
                }
            }
            Step::Get { client, handle } => self.get(client, &handle),
            Step::Flush { client, handle, version } => {
                let freed = self.foreign.flush(self.seats[client], &handle, version);
                let goes = self.models[client].get(&handle).is_some_and(|(held, ..)| *held <= version);
                assert_eq!(freed, Some(u64::from(goes)));
                if goes {
                    self.models[client].remove(&handle);
                }
            }
            Step::FlushRange { client, handle, count } => {
                let mut next = Some(handle);
                let end = handle.index + count;
                while let Some(from) = next {
                    next = self.foreign.flush_range(self.seats[client], &from, end - from.index, 3).expect("account").1;
                }
                self.models[client].retain(|other, _| key(other) != key(&handle) || !(handle.index..end).contains(&other.index));
            }
            Step::FlushObject { client, pool, object } => {
                let wanted = key(&handle(pool, object, 0));
                let freed = self.foreign.flush_object(self.seats[client], wanted.0, wanted.1);
                self.retain(client, freed, |handle| key(handle) != wanted);
            }
            Step::DestroyPool { client, pool } => {
                let freed = self.foreign.destroy_pool(self.seats[client], PoolId(pool));
                self.retain(client, freed, |handle| handle.pool != PoolId(pool));
            }
            Step::Share { parent, child } => {
                let (status, pages) = self.foreign.share(self.seats[parent], &owner(child as u128));
                if parent != child && self.models[child].is_empty() {
                    assert_eq!((status, pages), (DoneStatus::Done, self.models[parent].len() as u64));
                    self.models[child] = self.models[parent].clone();
                } else {
                    assert_eq!(status, DoneStatus::Refused);
                }
            }
            Step::Goodbye { client } => {
                let freed = self.foreign.goodbye(self.seats[client]);
                self.retain(client, freed, |_| false);
                assert_eq!(self.foreign.get(self.seats[client], &handle(0, 0, 0), 1), Held::Gone);
                self.seats[client] = self.foreign.arrive(&owner(client as u128), Role::Bulk).expect("seat");
            }
            Step::Break { client, returns } => self.break_links(client, returns),
            Step::Offer { bytes } => {
                self.foreign.set_offer(bytes);
                while self.foreign.shed(3) {}
            }
            Step::Reap { limit } => drop(self.foreign.reap(limit)),
        }
    }

    fn break_links(&mut self, client: usize, returns: bool) {
        let before = self.seats[client].account();
        self.foreign.leave(self.seats[client], self.now_ms + GRACE_MS);
        self.now_ms += if returns { GRACE_MS - 1 } else { GRACE_MS };
        self.foreign.expire(self.now_ms);
        self.seats[client] = self.foreign.arrive(&owner(client as u128), Role::Bulk).expect("seat");
        // Who had no page has nothing to come back to.
        assert_eq!(self.seats[client].account() == before, returns && !self.models[client].is_empty());
        if !returns {
            self.models[client].clear();
        }
    }

    /// Ephemeral pages may have gone, and with a page that went its entry in the model goes.
    fn heed_drops(&mut self) {
        for client in 0..3 {
            let (foreign, seat) = (&mut self.foreign, self.seats[client]);
            self.models[client].retain(|handle, (version, _, pool)| {
                let is_there = matches!(foreign.get(seat, handle, *version), Held::Hit { .. });
                assert!(is_there || *pool == PoolKind::Ephemeral, "a persistent page went by itself");
                is_there
            });
        }
    }

    fn retain(&mut self, client: usize, freed: Option<u64>, stays: impl Fn(&Handle) -> bool) {
        let before = self.models[client].len();
        self.models[client].retain(|handle, _| stays(handle));
        assert_eq!(freed, Some((before - self.models[client].len()) as u64));
    }

    fn get(&mut self, client: usize, handle: &Handle) {
        let expected = self.models[client].get(handle);
        let version = expected.map_or(1, |(version, ..)| *version);
        match (self.foreign.get(self.seats[client], handle, version), expected) {
            (Held::Hit { blob: held, .. }, Some((_, bytes, _))) => assert_eq!(held, blob(bytes)),
            (Held::Miss, None) => {}
            (held, expected) => panic!("{held:?} instead of {expected:?}"),
        }
        if expected.is_some() {
            assert_eq!(self.foreign.get(self.seats[client], handle, version + 1), Held::Stale);
        }
    }

    fn check(&mut self) {
        self.foreign.check().expect("counted right");
        for client in 0..3 {
            for handle in self.models[client].keys().copied().collect::<Vec<_>>() {
                self.get(client, &handle);
            }
        }
        let counted: Vec<u64> = (0..3)
            .map(|client| self.foreign.clients().iter().find(|count| count.owner == owner(client)).map_or(0, |count| count.pages))
            .collect();
        assert_eq!(counted, self.models.iter().map(|model| model.len() as u64).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_owner_sees_its_own_plain_map(offer_bytes in 500..60_000u64, steps in prop::collection::vec(any_step(), 1..120)) {
        let mut pair = Pair::new(offer_bytes);
        for step in &steps {
            pair.step(step);
            pair.heed_drops();
            pair.check();
        }
        for seat in pair.seats {
            pair.foreign.leave(seat, pair.now_ms);
        }
        pair.foreign.expire(pair.now_ms);
        while pair.foreign.reap(7) {}
        prop_assert_eq!(pair.foreign.used_bytes(), 0);
        prop_assert!(pair.foreign.clients().is_empty());
        pair.foreign.check().expect("counted right");
    }
}

#[test]
fn a_version_that_wrapped_is_newer() {
    let mut foreign = foreign(10_000);
    let seat = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    assert_eq!(foreign.put(seat, PoolKind::Persistent, &handle(0, 0, 0), u32::MAX, &blob(&[1])), PutStatus::Stored);
    assert_eq!(foreign.put(seat, PoolKind::Persistent, &handle(0, 0, 0), 0, &blob(&[2])), PutStatus::Stored);
    assert_eq!(foreign.put(seat, PoolKind::Persistent, &handle(0, 0, 0), u32::MAX, &blob(&[1])), PutStatus::Stale);
}

#[test]
fn a_range_at_the_very_end_of_an_object_is_flushed_to_its_last_page() {
    let mut foreign = foreign(10_000);
    let seat = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    for index in [u32::MAX, u32::MAX - 1, 5] {
        foreign.put(seat, PoolKind::Persistent, &handle(0, 0, index), 1, &blob(&[1]));
    }
    assert_eq!(foreign.flush_range(seat, &handle(0, 0, u32::MAX - 1), u32::MAX, 100), Some((2, None)));
    assert_eq!(foreign.get(seat, &handle(0, 0, 5), 1), Held::Hit { version: 1, blob: blob(&[1]) });
}

#[test]
fn a_seat_of_an_account_that_has_gone_is_harmless_to_the_next_one_in_its_slot() {
    let mut foreign = foreign(10_000);
    let before = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    foreign.goodbye(before);
    let after = foreign.arrive(&owner(2), Role::Bulk).expect("seat");
    foreign.put(after, PoolKind::Persistent, &handle(0, 0, 0), 1, &blob(&[1]));
    assert_eq!(foreign.put(before, PoolKind::Persistent, &handle(0, 0, 0), 2, &blob(&[2])), PutStatus::Gone);
    foreign.leave(before, 0);
    assert_eq!(foreign.get(after, &handle(0, 0, 0), 1), Held::Hit { version: 1, blob: blob(&[1]) });
}

#[test]
fn ephemeral_pages_go_for_persistent_ones_and_the_oldest_goes_first() {
    let mut foreign = foreign(10_000);
    let seat = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    for index in 0..5 {
        assert_eq!(foreign.put(seat, PoolKind::Ephemeral, &handle(1, 0, index), 1, &blob(&[1; 1000])), PutStatus::Stored);
    }
    // The first one is put anew: now the second one is the oldest.
    foreign.put(seat, PoolKind::Ephemeral, &handle(1, 0, 0), 2, &blob(&[1; 1000]));
    let stored = (0..50).take_while(|index| {
        let put = foreign.put(seat, PoolKind::Persistent, &handle(0, 0, *index), 1, &blob(&[2; 1000]));
        if foreign.counts.pages_dropped == 1 {
            assert_eq!(foreign.get(seat, &handle(1, 0, 1), 1), Held::Miss);
            assert!(matches!(foreign.get(seat, &handle(1, 0, 0), 2), Held::Hit { .. }));
        }
        put == PutStatus::Stored
    });
    let stored = stored.count() as u32;
    assert!(stored > 5, "{stored}");
    assert_eq!(foreign.counts.pages_dropped, 5);
    for index in 0..stored {
        assert!(matches!(foreign.get(seat, &handle(0, 0, index), 1), Held::Hit { .. }));
    }
    foreign.check().expect("counted right");
}

#[test]
fn a_smaller_offer_drops_ephemeral_pages_before_anything_is_recalled() {
    let mut foreign = foreign(100_000);
    let seat = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    for index in 0..10 {
        foreign.put(seat, PoolKind::Ephemeral, &handle(1, 0, index), 1, &blob(&[1; 1000]));
        foreign.put(seat, PoolKind::Persistent, &handle(0, 0, index), 1, &blob(&[2; 1000]));
    }
    foreign.set_offer(0);
    while foreign.shed(3) {}
    assert_eq!(foreign.counts.pages_dropped, 10);
    assert_eq!(foreign.recall_bytes(seat), 10 * 1000);
}

#[test]
fn the_order_of_ephemeral_pages_does_not_grow_with_puts_of_the_same_page() {
    let mut foreign = foreign(10_000);
    let seat = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    for version in 1..10_000 {
        foreign.put(seat, PoolKind::Ephemeral, &handle(1, 0, version % 3), version, &blob(&[1]));
    }
    assert!(foreign.droppable.len() <= 2 * 1024, "{}", foreign.droppable.len());
}

#[test]
fn only_the_newest_bulk_link_of_an_owner_changes_anything() {
    let mut foreign = foreign(100_000);
    let broken = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    let asks = foreign.arrive(&owner(1), Role::Get).expect("seat");
    assert_eq!(foreign.put(broken, PoolKind::Persistent, &handle(0, 0, 1), 1, &blob(&[1])), PutStatus::Stored);
    assert_eq!(foreign.put(asks, PoolKind::Persistent, &handle(0, 0, 2), 1, &blob(&[1])), PutStatus::Gone);
    let seat = foreign.arrive(&owner(1), Role::Bulk).expect("seat");
    let asks_later = foreign.arrive(&owner(1), Role::Get).expect("seat");
    assert_eq!(foreign.put(seat, PoolKind::Persistent, &handle(0, 0, 2), 2, &blob(&[2])), PutStatus::Stored);
    // All that the network delivers late of the broken link.
    assert_eq!(foreign.put(broken, PoolKind::Persistent, &handle(0, 0, 3), 1, &blob(&[1])), PutStatus::Gone);
    assert_eq!(foreign.flush(broken, &handle(0, 0, 1), 1), None);
    assert_eq!(foreign.flush_range(broken, &handle(0, 0, 0), 8, 8), None);
    assert_eq!(foreign.flush_object(broken, PoolId(0), handle(0, 0, 0).object), None);
    assert_eq!(foreign.destroy_pool(broken, PoolId(0)), None);
    for from in [asks, asks_later, seat] {
        assert!(matches!(foreign.get(from, &handle(0, 0, 1), 1), Held::Hit { .. }));
        assert!(matches!(foreign.get(from, &handle(0, 0, 2), 2), Held::Hit { .. }));
        assert_eq!(foreign.get(from, &handle(0, 0, 3), 1), Held::Miss);
    }
    foreign.leave(broken, 0);
    assert_eq!(foreign.destroy_pool(seat, PoolId(0)), Some(2));
    foreign.check().expect("counted right");
}
