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
    Put { client: usize, handle: Handle, version: u32, length: usize },
    Get { client: usize, handle: Handle },
    Flush { client: usize, handle: Handle, version: u32 },
    FlushRange { client: usize, handle: Handle, count: u32 },
    FlushObject { client: usize, pool: u32, object: u64 },
    DestroyPool { client: usize, pool: u32 },
    Share { parent: usize, child: usize },
    Goodbye { client: usize },
    Reap { limit: usize },
}

fn any_handle() -> impl Strategy<Value = Handle> {
    (0..2u32, 0..OBJECTS, 0..12u32).prop_map(|(pool, object, index)| handle(pool, object, index))
}

fn any_step() -> impl Strategy<Value = Step> {
    let client = 0..3usize;
    prop_oneof![
        8 => (client.clone(), any_handle(), 1..6u32, 0..1200usize)
            .prop_map(|(client, handle, version, length)| Step::Put { client, handle, version, length }),
        4 => (client.clone(), any_handle()).prop_map(|(client, handle)| Step::Get { client, handle }),
        3 => (client.clone(), any_handle(), 1..6u32).prop_map(|(client, handle, version)| Step::Flush { client, handle, version }),
        1 => (client.clone(), any_handle(), 0..20u32).prop_map(|(client, handle, count)| Step::FlushRange { client, handle, count }),
        1 => (client.clone(), 0..2u32, 0..OBJECTS).prop_map(|(client, pool, object)| Step::FlushObject { client, pool, object }),
        1 => (client.clone(), 0..2u32).prop_map(|(client, pool)| Step::DestroyPool { client, pool }),
        2 => (client.clone(), client.clone()).prop_map(|(parent, child)| Step::Share { parent, child }),
        1 => client.prop_map(|client| Step::Goodbye { client }),
        1 => (1..5usize).prop_map(|limit| Step::Reap { limit }),
    ]
}

type Model = BTreeMap<Handle, (u32, Vec<u8>)>;

struct Pair {
    foreign: Foreign<HeapSlabs>,
    seats: [Seat; 3],
    models: [Model; 3],
    written: u8,
}

impl Pair {
    fn new(offer_bytes: u64) -> Pair {
        let mut foreign = foreign(offer_bytes);
        let seats = [0, 1, 2].map(|client| foreign.arrive(&owner(client)).expect("seat"));
        Pair { foreign, seats, models: Default::default(), written: 0 }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Put { client, handle, version, length } => {
                self.written = self.written.wrapping_add(1);
                let bytes = vec![self.written; length];
                let model = &mut self.models[client];
                let held = model.get(&handle).map(|(version, _)| *version);
                match self.foreign.put(self.seats[client], &handle, version, &blob(&bytes)) {
                    PutStatus::Stored => {
                        assert!(held.is_none_or(|held| held <= version));
                        model.insert(handle, (version, bytes));
                    }
                    PutStatus::Stale => assert!(held.is_some_and(|held| held > version)),
                    PutStatus::RefusedFull => drop(model.remove(&handle)),
                    other => panic!("{other:?}"),
                }
            }
            Step::Get { client, handle } => self.get(client, &handle),
            Step::Flush { client, handle, version } => {
                let freed = self.foreign.flush(self.seats[client], &handle, version);
                let goes = self.models[client].get(&handle).is_some_and(|(held, _)| *held <= version);
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
                self.seats[client] = self.foreign.arrive(&owner(client as u128)).expect("seat");
            }
            Step::Reap { limit } => drop(self.foreign.reap(limit)),
        }
    }

    fn retain(&mut self, client: usize, freed: Option<u64>, stays: impl Fn(&Handle) -> bool) {
        let before = self.models[client].len();
        self.models[client].retain(|handle, _| stays(handle));
        assert_eq!(freed, Some((before - self.models[client].len()) as u64));
    }

    fn get(&mut self, client: usize, handle: &Handle) {
        let expected = self.models[client].get(handle);
        let version = expected.map_or(1, |(version, _)| *version);
        match (self.foreign.get(self.seats[client], handle, version), expected) {
            (Held::Hit { blob: held, .. }, Some((_, bytes))) => assert_eq!(held, blob(bytes)),
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
            pair.check();
        }
        for seat in pair.seats {
            pair.foreign.leave(seat);
        }
        while pair.foreign.reap(7) {}
        prop_assert_eq!(pair.foreign.used_bytes(), 0);
        prop_assert!(pair.foreign.clients().is_empty());
        pair.foreign.check().expect("counted right");
    }
}

#[test]
fn a_version_that_wrapped_is_newer() {
    let mut foreign = foreign(10_000);
    let seat = foreign.arrive(&owner(1)).expect("seat");
    assert_eq!(foreign.put(seat, &handle(0, 0, 0), u32::MAX, &blob(&[1])), PutStatus::Stored);
    assert_eq!(foreign.put(seat, &handle(0, 0, 0), 0, &blob(&[2])), PutStatus::Stored);
    assert_eq!(foreign.put(seat, &handle(0, 0, 0), u32::MAX, &blob(&[1])), PutStatus::Stale);
}

#[test]
fn a_range_at_the_very_end_of_an_object_is_flushed_to_its_last_page() {
    let mut foreign = foreign(10_000);
    let seat = foreign.arrive(&owner(1)).expect("seat");
    for index in [u32::MAX, u32::MAX - 1, 5] {
        foreign.put(seat, &handle(0, 0, index), 1, &blob(&[1]));
    }
    assert_eq!(foreign.flush_range(seat, &handle(0, 0, u32::MAX - 1), u32::MAX, 100), Some((2, None)));
    assert_eq!(foreign.get(seat, &handle(0, 0, 5), 1), Held::Hit { version: 1, blob: blob(&[1]) });
}

#[test]
fn a_seat_of_an_account_that_has_gone_is_harmless_to_the_next_one_in_its_slot() {
    let mut foreign = foreign(10_000);
    let before = foreign.arrive(&owner(1)).expect("seat");
    foreign.goodbye(before);
    let after = foreign.arrive(&owner(2)).expect("seat");
    foreign.put(after, &handle(0, 0, 0), 1, &blob(&[1]));
    assert_eq!(foreign.put(before, &handle(0, 0, 0), 2, &blob(&[2])), PutStatus::Gone);
    foreign.leave(before);
    assert_eq!(foreign.get(after, &handle(0, 0, 0), 1), Held::Hit { version: 1, blob: blob(&[1]) });
}
