//! The promises of tmem about pages with several copies, one test each.

use crate::bare::*;
use ramster_core::backend::{Keep, Loss, Put};
use ramster_core::handle::{Handle, HolderId};
use ramster_core::tmem::{Acknowledged, Answer, Flush, Site, Unfetched};

fn sent_to_two(bare: &mut Bare, index: u32) -> (Handle, u32) {
    assert_eq!(bare.put(index, SMALL), Put::Stored);
    bare.send_to(&[NODE, OTHER])[0]
}

/// As `sent_to_two`, and both have acknowledged.
fn at_two(bare: &mut Bare, index: u32) -> (Handle, u32) {
    let (handle, version) = sent_to_two(bare, index);
    assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Waiting);
    assert_eq!(bare.tmem.acknowledged(&handle, version, OTHER), Acknowledged::Remote);
    (handle, version)
}

/// Promise 3 with several copies.
#[test]
fn the_last_local_copy_is_freed_only_when_every_holder_has_acknowledged() {
    let mut bare = persistent();
    let (handle, version) = sent_to_two(&mut bare, 5);
    assert_eq!(bare.tmem.acknowledged(&handle, version, OTHER), Acknowledged::Waiting);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    bare.assert_copied(SMALL);
    assert_eq!(bare.tmem.gauges().pages_in_transit, 1);
    assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Remote);
    assert_eq!(bare.tmem.bytes_in_transit(), 0);
    assert!(matches!(bare.get(5, Keep::Keep), Answer::RemoteAt { holder: NODE, others: true, .. }));
}

#[test]
fn a_copy_that_one_holder_refused_brings_the_page_back_and_the_other_flushes_it() {
    let mut bare = persistent();
    let (handle, version) = sent_to_two(&mut bare, 5);
    bare.tmem.acknowledged(&handle, version, NODE);
    bare.tmem.refused(&handle, version, OTHER);
    assert_eq!(bare.get(5, Keep::Keep), Answer::Local);
    assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
    // The other way round: the acknowledgement comes after the refusal.
    let (handle, version) = sent_to_two(&mut bare, 6);
    bare.tmem.refused(&handle, version, OTHER);
    assert_eq!(bare.flushes(), []);
    assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Stale);
    assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
}

#[test]
fn a_flush_of_a_page_that_one_of_two_holders_has_reaches_both() {
    let mut bare = persistent();
    for whole in [false, true] {
        let (handle, version) = sent_to_two(&mut bare, 5);
        bare.tmem.acknowledged(&handle, version, OTHER);
        if whole {
            bare.tmem.flush_object(handle.pool, handle.object);
            let what = Flush::Object { pool: handle.pool, object: handle.object };
            assert_eq!(bare.flushes(), [(NODE, what), (OTHER, what)]);
        } else {
            bare.tmem.flush_page(&handle);
            let what = Flush::Copy { handle, version };
            assert_eq!(bare.flushes(), [(NODE, what), (OTHER, what)]);
        }
        assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Stale);
        assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
    }
}

#[test]
fn a_page_with_two_copies_outlives_either_holder_but_not_both() {
    for first in [NODE, OTHER] {
        let second = if first == NODE { OTHER } else { NODE };
        let mut bare = persistent();
        at_two(&mut bare, 5);
        let (handle, version) = sent_to_two(&mut bare, 6);
        bare.tmem.acknowledged(&handle, version, second);
        assert_eq!(bare.tmem.holder_died(first), 0);
        assert!(matches!(bare.get(5, Keep::Keep), Answer::RemoteAt { holder, others: false, .. } if holder == second));
        assert_eq!(bare.get(6, Keep::Keep), Answer::Local, "what was on its way is here");
        assert_eq!(bare.flushes(), [(second, Flush::Copy { handle, version })]);
        assert_eq!(bare.tmem.holder_died(second), 1);
        assert!(matches!(bare.get(5, Keep::Keep), Answer::Lost(lost) if lost.holder == Some(second)));
    }
}

#[test]
fn a_get_that_one_holder_cannot_serve_is_sent_to_the_other() {
    let mut bare = persistent();
    let (handle, version) = at_two(&mut bare, 5);
    assert_eq!(bare.tmem.unfetched(&handle, version, NODE, Loss::Deadline), Unfetched::Elsewhere(OTHER));
    assert_eq!(bare.tmem.unfetched(&handle, version, OTHER, Loss::Deadline), Unfetched::Elsewhere(NODE), "nobody lost it");
    assert_eq!(bare.tmem.unfetched(&handle, version, NODE, Loss::Corrupt), Unfetched::Elsewhere(OTHER));
    assert_eq!(bare.flushes(), [(NODE, Flush::Copy { handle, version })]);
    assert_eq!(bare.tmem.unfetched(&handle, version, NODE, Loss::HolderDied), Unfetched::Elsewhere(OTHER), "a late word");
    assert_eq!(bare.tmem.counters().copies_lost, 1);
    assert!(matches!(bare.tmem.unfetched(&handle, version, OTHER, Loss::HolderForgot), Unfetched::Lost(_)));
}

#[test]
fn a_copy_is_rebuilt_from_the_one_that_is_left() {
    let third = HolderId(2);
    let mut bare = persistent();
    let (handle, version) = at_two(&mut bare, 5);
    let thin = |bare: &Bare| {
        let mut out = Vec::new();
        bare.tmem.pages_at(&|site| site.holders().len() < 2, &mut 0, (usize::MAX, 10), &mut out);
        out
    };
    assert!(thin(&bare).is_empty());
    bare.tmem.holder_died(NODE);
    let [away] = thin(&bare)[..] else { panic!("one page") };
    assert_eq!((away.handle, away.version, away.site), (handle, version, Site::of(&[OTHER])));
    assert!(bare.tmem.rebuilt(&handle, version, third));
    assert!(thin(&bare).is_empty());
    assert_eq!(bare.tmem.holder_died(OTHER), 0);
    assert!(matches!(bare.get(5, Keep::Keep), Answer::RemoteAt { holder, .. } if holder == third));
    // Put again meanwhile: what comes late is flushed.
    bare.put(5, 3);
    bare.flushes();
    assert!(!bare.tmem.rebuilt(&handle, version, NODE));
    bare.tmem.not_rebuilt(&handle, version, OTHER);
    assert_eq!(bare.flushes(), [NODE, OTHER].map(|holder| (holder, Flush::Copy { handle, version })));
    // Sent again, in a newer version: the older is no copy of that.
    let (_, newer) = bare.send_all(NODE)[0];
    bare.tmem.acknowledged(&handle, newer, NODE);
    assert!(!bare.tmem.rebuilt(&handle, version, third));
    assert!(matches!(bare.get(5, Keep::Keep), Answer::RemoteAt { holder: NODE, others: false, .. }));
}
