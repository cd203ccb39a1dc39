//! The promises of tmem, one test each, named by the promise. The histories nobody thought of are in model.rs.

use crate::bare::*;
use crate::world::{SEED, World, page_of};
use ramster_core::backend::{Keep, Loss, Put, Refusal};
use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::{Digest, PAGE_BYTES};
use ramster_core::tmem::{Acknowledged, Answer, Batch, Fetched, Flush, FlushOrder, Site, Unfetched};

#[test]
fn put_put_get_never_returns_the_older_page() {
    let mut bare = persistent();
    for content in [1, 2, 8, 3, 7, 16, 4] {
        assert_eq!(bare.put(5, content), Put::Stored);
    }
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    bare.assert_copied(4);
}

#[test]
fn after_a_miss_come_misses_until_the_next_put() {
    let mut bare = Bare::new(PoolKind::Ephemeral, u64::MAX);
    bare.put(5, SMALL);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local, "an ephemeral get is exclusive, whatever it wants kept");
    assert_eq!(bare.get(5, Keep::Keep), Answer::Miss);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Miss);
    bare.put(5, 3);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    bare.assert_copied(3);
}

#[test]
fn a_persistent_get_keeps_the_page_unless_asked_to_free_it() {
    let mut bare = persistent();
    bare.put(5, SMALL);
    for _ in 0..3 {
        assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    }
    assert_eq!(bare.get(5, Keep::Free), Answer::Local);
    bare.assert_copied(SMALL);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Miss);
}

#[test]
fn a_refused_put_leaves_no_older_copy_here_or_at_a_holder() {
    let mut bare = persistent();
    let (handle, version) = bare.remote(5, SMALL, NODE);
    bare.tmem.set_limit_bytes(0);
    bare.tmem.compact(usize::MAX);
    assert_eq!(bare.put(5, RAW), Put::Rejected(Refusal::StoreFull));
    assert_eq!(bare.get(5, Keep::Keep), Answer::Miss);
    assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
    assert_eq!(bare.tmem.counters().puts_refused_store_full, 1);
}

#[test]
fn a_full_store_refuses_persistent_pages_and_loses_none_that_it_took() {
    let mut bare = Bare::new(PoolKind::Persistent, 20 * 4096);
    let stored: Vec<u32> = (0..40).filter(|index| bare.put(*index, 7 + index * 8) == Put::Stored).collect();
    assert_eq!(stored.len(), 20, "raw pages are as large as frames");
    for index in stored {
        assert_eq!(bare.get(index, Keep::Keep), Answer::Local);
        bare.assert_copied(7 + index * 8);
    }
    assert!(bare.tmem.bytes_used() <= 20 * 4096);
}

#[test]
fn ephemeral_pages_make_room_for_persistent_ones_and_the_oldest_go_first() {
    let mut bare = Bare::new(PoolKind::Ephemeral, 1024 * 4096);
    for index in 0..1024 {
        assert_eq!(bare.put(index, 7 + index * 8), Put::Stored, "page {index}");
    }
    bare.pool = bare.tmem.new_pool(PoolKind::Persistent).expect("a pool");
    for index in 0..100 {
        assert_eq!(bare.put(index, 7 + index * 8), Put::Stored, "page {index}");
    }
    let evicted = bare.tmem.counters().pages_evicted;
    assert!((100..=128).contains(&evicted), "{evicted}");
    bare.pool = PoolId(0);
    let gone: Vec<u32> = (0..1024).filter(|index| bare.get(*index, Keep::Keep) == Answer::Miss).collect();
    assert_eq!(gone.len() as u64, evicted);
    assert!(gone.iter().all(|index| *index < 512), "only old pages went: {gone:?}");
}

#[test]
fn an_unknown_pool_is_told_from_a_full_store() {
    let mut bare = persistent();
    bare.tmem.destroy_pool(bare.pool);
    assert_eq!(bare.put(1, SMALL), Put::Rejected(Refusal::NoSuchPool));
    assert_eq!(bare.get(1, Keep::Keep), Answer::Miss);
    assert_eq!(bare.tmem.counters().puts_refused_no_such_pool, 1);
}

#[test]
fn the_last_local_copy_is_freed_only_when_the_holder_has_acknowledged() {
    let mut bare = persistent();
    bare.put(5, SMALL);
    let (handle, version) = bare.send_all(NODE)[0];
    assert!(bare.tmem.gauges().bytes_stored > 0);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local, "in transit it is still here");
    assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Remote);
    assert_eq!(bare.tmem.gauges().bytes_stored, 0);
    let digest = bare.packer.digest(&page_of(SMALL));
    assert_eq!(bare.get(5, Keep::Keep), Answer::RemoteAt { holder: NODE, version, digest, others: false });
}

#[test]
fn an_acknowledgement_after_a_flush_becomes_a_flush_of_that_copy() {
    let mut bare = persistent();
    bare.put(5, SMALL);
    let (handle, version) = bare.send_all(NODE)[0];
    bare.tmem.flush_page(&handle);
    assert_eq!(bare.flushes(), [], "there is nothing to flush as far as is known");
    assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Stale);
    assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
}

#[test]
fn an_acknowledgement_after_a_new_put_never_frees_the_new_page() {
    let mut bare = persistent();
    bare.put(5, SMALL);
    let (handle, old) = bare.send_all(NODE)[0];
    bare.put(5, 3);
    let (_, new) = bare.send_all(OTHER)[0];
    assert_ne!(old, new);
    assert_eq!(bare.tmem.acknowledged(&handle, old, NODE), Acknowledged::Stale);
    assert_eq!(bare.tmem.acknowledged(&handle, new, NODE), Acknowledged::Stale, "another holder's word counts for nothing");
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    bare.assert_copied(3);
    assert_eq!(bare.tmem.acknowledged(&handle, new, OTHER), Acknowledged::Remote);
}

/// The kernel version never retried a page whose sending had failed, and leaked it.
#[test]
fn a_page_that_a_holder_refused_is_sent_elsewhere_and_not_leaked() {
    let mut bare = persistent();
    bare.put(5, SMALL);
    let (handle, version) = bare.send_all(NODE)[0];
    assert_eq!(bare.send_all(OTHER), [], "in transit it is not sent twice");
    bare.tmem.refused(&handle, version, NODE);
    let (again, version) = bare.send_all(OTHER)[0];
    assert_eq!(again, handle);
    bare.tmem.unanswered(&handle, version, OTHER);
    assert_eq!(bare.flushes(), [(OTHER, Flush::Copy { handle, version })], "nobody knows whether it has it");
    let (_, third) = bare.send_all(OTHER)[0];
    assert!(third > version, "so the flush of the second copy spares the third");
    assert_eq!(bare.tmem.acknowledged(&handle, third, OTHER), Acknowledged::Remote);
    bare.tmem.flush_page(&handle);
    assert_eq!(bare.flushes(), [(OTHER, Flush::Copy { handle, version: third })]);
    assert_eq!(bare.tmem.gauges().bytes_stored, 0);
}

#[test]
fn an_unchanged_page_is_neither_stored_nor_sent_again() {
    let mut bare = persistent();
    let (handle, version) = bare.remote(5, SMALL, NODE);
    assert_eq!(bare.tmem.localified(&handle, version, Keep::KeepRemote), Fetched::Current);
    assert_eq!(bare.put(5, SMALL), Put::Stored);
    let digest = bare.packer.digest(&page_of(SMALL));
    assert!(bare.tmem.put_unchanged(&handle, digest));
    assert_eq!(bare.tmem.counters().puts_unchanged, 2);
    assert_eq!((bare.tmem.gauges().bytes_stored, bare.flushes()), (0, vec![]));
    assert_eq!(bare.get(5, Keep::Keep), Answer::RemoteAt { holder: NODE, version, digest, others: false });
    assert_eq!(bare.put(5, 3), Put::Stored, "a changed one is");
    assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
}

#[test]
fn a_same_value_page_takes_no_slot_and_is_never_sent() {
    let mut bare = persistent();
    bare.put(0, 0);
    bare.put(1, 8);
    assert_eq!(bare.send_all(NODE), []);
    assert_eq!(bare.tmem.bytes_used(), 0);
    assert_eq!(bare.get(0, Keep::Keep), Answer::Same(0));
    assert_eq!(bare.get(1, Keep::Keep), Answer::Same(0x0101_0101_0101_0101));
}

/// The kernel version took a lost connection for a miss: for a swapped page that is wrong data.
#[test]
fn the_death_of_a_holder_is_a_loss_and_never_a_miss() {
    let mut bare = persistent();
    let (handle, _) = bare.remote(5, SMALL, NODE);
    bare.remote(6, SMALL, OTHER);
    bare.put(7, SMALL);
    let (_, in_transit) = bare.send_all(NODE)[0];
    assert_eq!(bare.tmem.holder_died(NODE), 1);
    for _ in 0..2 {
        let Answer::Lost(lost) = bare.get(5, Keep::Free) else { panic!("not lost") };
        assert_eq!((lost.handle, lost.holder, lost.why), (handle, Some(NODE), Loss::HolderDied));
    }
    assert!(matches!(bare.get(6, Keep::Keep), Answer::RemoteAt { holder: OTHER, .. }));
    assert_eq!(bare.get(7, Keep::Keep), Answer::Local, "what was on its way is here");
    let seventh = bare.handle(7);
    assert_eq!(bare.tmem.acknowledged(&seventh, in_transit, NODE), Acknowledged::Stale);
    bare.put(5, 3);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
}

#[test]
fn an_ephemeral_page_at_a_dead_holder_is_a_miss() {
    let mut bare = Bare::new(PoolKind::Ephemeral, u64::MAX);
    bare.put(5, SMALL);
    let mut batch = Batch::default();
    bare.tmem.begin_remotify(PoolKind::Ephemeral, Site::of(&[NODE]), ALL, &mut batch);
    let (handle, version, _) = batch.iter().next().expect("one page");
    bare.tmem.acknowledged(&handle, version, NODE);
    assert_eq!(bare.tmem.holder_died(NODE), 0);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Miss);
}

#[test]
fn a_copy_that_a_holder_forgot_or_damaged_is_a_loss_and_stays_one() {
    for why in [Loss::HolderForgot, Loss::Corrupt, Loss::SpillFailed] {
        let mut bare = persistent();
        let (handle, version) = bare.remote(5, SMALL, NODE);
        let Unfetched::Lost(lost) = bare.tmem.unfetched(&handle, version, NODE, why) else { panic!("not lost") };
        assert_eq!((lost.holder, lost.why), (Some(NODE), why));
        assert_eq!(bare.get(5, Keep::Keep), Answer::Lost(lost));
        assert_eq!(bare.tmem.unfetched(&handle, version, NODE, why), Unfetched::Stale);
        // What it has is of no use to anybody, and does not stay there.
        let mut orders = Vec::new();
        bare.tmem.take_flushes(usize::MAX, &mut orders);
        let order = FlushOrder { holder: NODE, what: Flush::Copy { handle, version } };
        assert_eq!(orders, if why == Loss::HolderForgot { vec![] } else { vec![order] });
        bare.tmem.flush_page(&handle);
        assert_eq!(bare.get(5, Keep::Keep), Answer::Miss);
    }
}

#[test]
fn a_deadline_is_a_loss_for_that_get_only() {
    let mut bare = persistent();
    let (handle, version) = bare.remote(5, SMALL, NODE);
    assert!(matches!(bare.tmem.unfetched(&handle, version, NODE, Loss::Deadline), Unfetched::Lost(_)));
    assert!(matches!(bare.get(5, Keep::Keep), Answer::RemoteAt { .. }));
}

#[test]
fn a_fetch_that_a_put_overtook_is_stale() {
    let mut bare = persistent();
    let (handle, version) = bare.remote(5, SMALL, NODE);
    bare.put(5, 3);
    assert_eq!(bare.tmem.localified(&handle, version, Keep::Free), Fetched::Stale);
    assert_eq!(bare.tmem.unfetched(&handle, version, NODE, Loss::HolderForgot), Unfetched::Stale);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    bare.assert_copied(3);
}

#[test]
fn a_range_an_object_and_a_pool_are_flushed_with_one_order_for_each_holder() {
    let mut bare = persistent();
    for index in 0..500 {
        bare.put(index, SMALL + index * 8);
    }
    for (handle, version) in bare.send_all(NODE) {
        bare.tmem.acknowledged(&handle, version, NODE);
    }
    for (handle, version) in bare.send_all(OTHER) {
        bare.tmem.acknowledged(&handle, version, OTHER);
    }
    let (handle, object) = (bare.handle(0), bare.handle(0).object);
    bare.tmem.flush_range(&handle, 100);
    assert_eq!(bare.flushes(), [(NODE, Flush::Range { handle, count: 100 })], "the other holder has none of these");
    assert_eq!(bare.get(99, Keep::Keep), Answer::Miss);
    assert!(matches!(bare.get(100, Keep::Keep), Answer::RemoteAt { .. }));
    bare.tmem.flush_object(bare.pool, object);
    let what = Flush::Object { pool: bare.pool, object };
    let mut flushes = bare.flushes();
    flushes.sort_by_key(|(holder, _)| *holder);
    assert_eq!(flushes, [(NODE, what), (OTHER, what)]);
    bare.remote(7, SMALL, NODE);
    bare.tmem.destroy_pool(bare.pool);
    assert_eq!(bare.flushes(), [(NODE, Flush::Pool(bare.pool))]);
}

#[test]
fn a_page_comes_home_when_there_is_room_and_its_remote_copy_goes() {
    let mut world = World::new(1 << 20, Codec::Lz4);
    let handle = world.handle(0, 1, 5);
    world.put(handle, SMALL);
    world.send_batch(0, &[0], false, 10);
    world.deliver(0, true, true);
    world.hear(0);
    world.tmem.set_limit_bytes(0);
    world.compact();
    assert!(!world.repatriate(0), "no room");
    world.tmem.set_limit_bytes(1 << 20);
    assert!(world.repatriate(0));
    assert_eq!(world.tmem.counters().pages_repatriated, 1);
    world.end();
}

#[test]
fn the_bytes_of_a_corrupt_copy_never_pass_for_the_page() {
    let mut packer = Packer::new(SEED);
    let page = page_of(4);
    let (digest, bytes) = {
        let packed = packer.pack(&page, Codec::Lz4);
        (packed.digest, packed.bytes.to_vec())
    };
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        let mut back = [0; PAGE_BYTES];
        let unpacked = packer.unpack(Packed { kind: Kind::Lz4, digest, bytes: &damaged }, &mut back);
        assert!(unpacked.is_err() || back == page, "byte {at}");
    }
    let zero = Packed { kind: Kind::Lz4, digest: Digest::default(), bytes: &bytes };
    assert!(packer.unpack(zero, &mut [0; PAGE_BYTES]).is_err());
}

/// The kernel version refused every page that compressed to 3977 bytes and more, for ever.
#[test]
fn pages_of_every_packed_length_are_stored_sent_and_brought_back() {
    let mut bare = persistent();
    let mut page = page_of(RAW);
    for (index, random) in (3000..=PAGE_BYTES).enumerate() {
        page = page_of(RAW);
        page[random..].fill(1);
        let handle = bare.handle(index as u32);
        assert_eq!(bare.tmem.put(&handle, bare.packer.pack(&page, Codec::Lz4)), Put::Stored);
        assert_eq!(bare.get(index as u32, Keep::Keep), Answer::Local);
        let mut back = [0; PAGE_BYTES];
        bare.packer.unpack(bare.copied.packed(), &mut back).expect("unpacks");
        assert!(back == page);
    }
    assert!(page == page_of(RAW));
    let mut sent = 0;
    loop {
        let batch = bare.send_all(NODE);
        if batch.is_empty() {
            break;
        }
        sent += batch.len();
    }
    assert_eq!(sent, PAGE_BYTES - 3000 + 1);
}

#[test]
fn too_many_pools_are_refused_and_counted() {
    let mut bare = persistent();
    let made = (0..70_000).take_while(|_| bare.tmem.new_pool(PoolKind::Ephemeral).is_ok()).count();
    assert_eq!(made, 65_535);
    assert_eq!(bare.tmem.new_pool(PoolKind::Ephemeral), Err(Refusal::TooManyPools));
    assert_eq!(bare.tmem.counters().pools_refused, 2);
    bare.tmem.destroy_pool(bare.pool);
    assert!(bare.tmem.new_pool(PoolKind::Persistent).is_ok());
}
