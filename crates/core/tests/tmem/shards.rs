//! The promises of tmem about coded pages, one test each.

use crate::bare::*;
use ramster_core::backend::{Keep, Loss, Put};
use ramster_core::handle::{Handle, HolderId, PoolKind};
use ramster_core::shards::Code;
use ramster_core::tmem::{Acknowledged, Answer, Batch, Flush, Site, Unfetched};

fn holders(count: u16) -> Vec<HolderId> {
    (0..count).map(HolderId).collect()
}

/// The page's shards are on their way to as many holders, from number 0 on.
fn sent(bare: &mut Bare, index: u32, (data, parity): (u8, u8)) -> (Handle, u32, Site) {
    assert_eq!(bare.put(index, SMALL), Put::Stored);
    let site = Site::coded(Code::new(data, parity).expect("a code"), &holders(u16::from(data + parity))).expect("a site");
    let mut batch = Batch::default();
    bare.tmem.begin_remotify(PoolKind::Persistent, site, ALL, &mut batch);
    let (handle, version, _) = batch.iter().next().expect("a page");
    (handle, version, site)
}

fn away(bare: &mut Bare, index: u32, code: (u8, u8)) -> (Handle, u32, Site) {
    let (handle, version, site) = sent(bare, index, code);
    for holder in site.holders() {
        bare.tmem.acknowledged(&handle, version, *holder);
    }
    (handle, version, site)
}

fn flush(holder: u16, handle: Handle, version: u32) -> (HolderId, Flush) {
    (HolderId(holder), Flush::Copy { handle, version })
}

/// Promise 3 with the largest code.
#[test]
fn the_last_local_copy_is_freed_only_when_every_shard_is_acknowledged() {
    let mut bare = persistent();
    let (handle, version, site) = sent(&mut bare, 5, (4, 2));
    for holder in site.holders().iter().rev() {
        assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
        bare.assert_copied(SMALL);
        let last = *holder == HolderId(0);
        let expected = if last { Acknowledged::Remote } else { Acknowledged::Waiting };
        assert_eq!(bare.tmem.acknowledged(&handle, version, *holder), expected);
    }
    assert!(matches!(bare.get(5, Keep::Keep), Answer::ShardsAt { site: found, .. } if found == site));
    assert_eq!((bare.tmem.bytes_in_transit(), bare.flushes()), (0, vec![]));
}

#[test]
fn a_shard_that_one_holder_refused_brings_the_page_back_and_the_others_flush_theirs() {
    let mut bare = persistent();
    let (handle, version, _) = sent(&mut bare, 5, (2, 1));
    bare.tmem.acknowledged(&handle, version, HolderId(2));
    bare.tmem.refused(&handle, version, HolderId(0));
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    bare.flushes();
    assert_eq!(bare.tmem.acknowledged(&handle, version, HolderId(1)), Acknowledged::Stale);
    assert_eq!(bare.flushes(), [flush(1, handle, version)]);
}

#[test]
fn a_page_outlives_as_many_holders_as_it_has_parity_shards_and_the_next_death_leaves_nothing_behind() {
    let mut bare = persistent();
    let (handle, version, _) = away(&mut bare, 5, (3, 2));
    assert_eq!((bare.tmem.holder_died(HolderId(1)), bare.tmem.holder_died(HolderId(4))), (0, 0));
    assert!(matches!(bare.get(5, Keep::Keep), Answer::ShardsAt { site, .. } if site.holders().len() == 3));
    assert_eq!((bare.tmem.counters().copies_lost, bare.flushes()), (2, vec![]));
    assert_eq!(bare.tmem.holder_died(HolderId(2)), 1);
    assert_eq!(bare.flushes(), [flush(0, handle, version), flush(3, handle, version)], "two shards are no page");
    assert!(
        matches!(bare.get(5, Keep::Keep), Answer::Lost(lost) if lost.holder == Some(HolderId(2)) && lost.why == Loss::HolderDied)
    );
}

#[test]
fn a_bad_shard_is_given_up_and_without_enough_others_the_page_is_lost() {
    let mut bare = persistent();
    let (handle, version, site) = away(&mut bare, 5, (2, 1));
    assert_eq!(bare.tmem.unfetched(&handle, version, HolderId(0), Loss::Corrupt), Unfetched::Elsewhere(HolderId(1)));
    assert_eq!(bare.flushes(), [flush(0, handle, version)]);
    assert_eq!(bare.tmem.site_of(&handle, version), Some(site.without(HolderId(0))));
    let lost = bare.tmem.unfetched(&handle, version, HolderId(2), Loss::HolderForgot);
    assert!(matches!(lost, Unfetched::Lost(lost) if lost.why == Loss::HolderForgot));
    assert_eq!(bare.flushes(), [flush(1, handle, version), flush(2, handle, version)]);
    assert_eq!(bare.tmem.site_of(&handle, version), None);
}

/// It may only be suspended: nothing that it has is given up unless the others suffice.
#[test]
fn silent_holders_are_given_up_as_long_as_the_others_suffice() {
    let mut bare = persistent();
    let (handle, version, site) = away(&mut bare, 5, (2, 1));
    assert_eq!((bare.tmem.give_up_copies(HolderId(1)), bare.tmem.give_up_copies(HolderId(2))), (1, 0));
    assert_eq!(bare.tmem.site_of(&handle, version), Some(site.without(HolderId(1))));
    assert_eq!(bare.flushes(), [flush(1, handle, version)]);
}

#[test]
fn a_shard_is_rebuilt_where_it_is_missing_and_nowhere_else() {
    let mut bare = persistent();
    let (handle, version, site) = away(&mut bare, 5, (2, 2));
    bare.tmem.holder_died(HolderId(3));
    bare.tmem.holder_died(HolderId(0));
    // Both are on their way; the later one is heard first.
    assert!(bare.tmem.rebuilt_shard(&handle, version, HolderId(8), 3));
    assert!(bare.tmem.rebuilt_shard(&handle, version, HolderId(9), 0));
    let whole = Site::coded(site.code().expect("a code"), &[HolderId(9), HolderId(1), HolderId(2), HolderId(8)]);
    assert_eq!(bare.tmem.site_of(&handle, version), whole);
    // A second try of the same, sent when it was not known that the first would be heard.
    assert!(!bare.tmem.rebuilt_shard(&handle, version, HolderId(7), 0));
    assert_eq!(bare.flushes(), [flush(7, handle, version)]);
    assert!(!bare.tmem.rebuilt(&handle, version, HolderId(7)), "a copy is no shard");
    assert_eq!((bare.tmem.counters().copies_lost, bare.tmem.counters().copies_rebuilt), (2, 2));
}
