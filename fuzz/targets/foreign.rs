//! Any sequence of what owners can ask of a holder: never a panic, everything counted right, nothing left when all have gone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ramster_core::foreign::Foreign;
use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind};
use ramster_core::seal::Tag;
use ramster_core::store::HeapSlabs;
use ramster_core::wire::message::{Blob, Role};

fn owner(client: u8, incarnation: u8) -> OwnerId {
    OwnerId { node: u64::from(client & 1), client: u128::from(client % 4), incarnation: u64::from(incarnation % 3) }
}

fn handle(place: u8) -> Handle {
    Handle {
        pool: PoolId(u32::from(place >> 7)),
        object: ObjectId([u64::from(place >> 5 & 3), 0, 0]),
        index: u32::from(place & 31),
    }
}

fuzz_target!(|steps: Vec<[u8; 5]>| {
    let mut foreign = Foreign::new(60_000, HeapSlabs::new(1000));
    let mut seats = Vec::new();
    for [verb, who, place, version, more] in steps {
        if seats.is_empty() || verb % 16 == 0 {
            let role = if who & 0x40 == 0 { Role::Bulk } else { Role::Get };
            seats.extend(foreign.arrive(&owner(who, version), role));
        }
        if seats.is_empty() {
            continue;
        }
        let at = usize::from(who) % seats.len();
        let (seat, handle, version) = (seats[at], handle(place), u32::from(version % 8));
        assert!(foreign.recall_bytes(seat) <= foreign.used_bytes());
        match verb % 16 {
            1..=5 => {
                let bytes = vec![verb; usize::from(more) * 16];
                let pool = if verb == 1 { PoolKind::Ephemeral } else { PoolKind::Persistent };
                foreign.put(seat, pool, &handle, version, &Blob { kind: verb, tag: Tag([1; 16]), bytes: &bytes });
            }
            6 | 7 => drop(foreign.get(seat, &handle, version)),
            8 => drop(foreign.flush(seat, &handle, version)),
            9 => drop(foreign.flush_range(seat, &handle, u32::from(more), 4)),
            10 => drop(foreign.flush_object(seat, handle.pool, handle.object)),
            11 => drop(foreign.destroy_pool(seat, handle.pool)),
            12 | 13 => drop(foreign.share(seat, &owner(more, place))),
            14 => drop(foreign.goodbye(seat)),
            15 => foreign.leave(seats.swap_remove(at), u64::from(more)),
            _ if more % 4 == 0 => foreign.expire(u64::from(place)),
            _ if more % 4 == 1 => {
                foreign.set_offer(u64::from(place) * 300);
                foreign.shed(usize::from(more));
            }
            _ => drop(foreign.reap(usize::from(more) + 1)),
        }
        foreign.check().expect("counted right");
    }
    for seat in seats {
        foreign.leave(seat, 300);
    }
    foreign.expire(300);
    while foreign.reap(3) {}
    assert_eq!(foreign.used_bytes(), 0);
    assert!(foreign.clients().is_empty());
});
