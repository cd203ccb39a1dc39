//! Classes of pools: whose pages leave together, which are next, and which have too few copies.

use crate::bare::*;
use ramster_core::compress::Codec;
use ramster_core::handle::{Class, Classes, Handle, HolderId, ObjectId, PoolId, PoolKind};
use ramster_core::store::HeapSlabs;
use ramster_core::tmem::{Acknowledged, Batch, Site, Tmem};

use crate::world::page_of;

const OBJECT: ObjectId = ObjectId([1, 2, 3]);

fn own(number: u8) -> Class {
    Class::own(number).expect("a class")
}

/// A pool of each of these, all pages of the first put before those of the second.
fn pools(classes: &[Class], pages: u32) -> (Bare, Vec<PoolId>) {
    let mut bare = persistent();
    let pools: Vec<_> = classes.iter().map(|class| bare.tmem.new_pool(*class).expect("a pool")).collect();
    pools.iter().for_each(|pool| put_all(&mut bare, *pool, pages));
    (bare, pools)
}

fn put_all(bare: &mut Bare, pool: PoolId, pages: u32) {
    for index in 0..pages {
        let page = page_of(SMALL + 8 * index);
        let packed = bare.packer.pack(&page, Codec::Lz4);
        bare.tmem.put(&Handle { pool, object: OBJECT, index }, packed);
    }
}

fn in_line(tmem: &Tmem<HeapSlabs>, last: Class) -> Vec<Class> {
    let mut classes = Vec::new();
    tmem.classes_by_age(last, &mut classes);
    classes
}

fn send(bare: &mut Bare, class: Class, holders: &[HolderId]) -> Vec<(Handle, u32)> {
    let mut batch = Batch::default();
    bare.tmem.begin_remotify(class, Site::of(holders), ALL, &mut batch);
    batch.iter().map(|(handle, version, _)| (handle, version)).collect()
}

#[test]
fn pages_of_different_classes_never_share_a_batch() {
    let classes = [Class::RUN, own(0), own(5), Class::EPHEMERAL];
    let (mut bare, pools) = pools(&classes, 20);
    for (class, pool) in classes.into_iter().zip(pools) {
        assert!(bare.tmem.local_classes().has(class));
        let sent = send(&mut bare, class, &[NODE]);
        assert_eq!(sent.len(), 20);
        assert!(sent.iter().all(|(handle, _)| handle.pool == pool), "{class:?}");
        assert!(!bare.tmem.local_classes().has(class), "nothing of it is left");
    }
    assert_eq!(bare.tmem.local_classes(), Classes::default());
}

#[test]
fn pools_of_one_class_leave_together() {
    let (mut bare, pools) = pools(&[own(3), own(3)], 20);
    let mut sent: Vec<_> = send(&mut bare, own(3), &[NODE]).into_iter().map(|(handle, _)| handle.pool).collect();
    sent.dedup();
    assert_eq!(sent.len(), 2);
    assert!(pools.iter().all(|pool| sent.contains(pool)));
}

#[test]
fn the_class_with_the_oldest_page_is_first_and_equals_have_their_turns() {
    // So many that each pool's are some ages older than the next one's.
    let (mut bare, pools) = pools(&[own(7), Class::RUN, own(2), Class::EPHEMERAL], 4000);
    assert_eq!(in_line(&bare.tmem, Class::RUN), [own(7), Class::RUN, own(2)], "the order in which they were put");
    // Put anew, all of them: the oldest are now the youngest.
    bare.tmem.flush_object(pools[0], OBJECT);
    put_all(&mut bare, pools[0], 4000);
    assert_eq!(in_line(&bare.tmem, Class::RUN), [Class::RUN, own(2), own(7)]);

    let (bare, _) = self::pools(&[own(7), Class::RUN, own(2)], 5);
    assert_eq!(in_line(&bare.tmem, Class::RUN), [own(2), own(7), Class::RUN]);
    assert_eq!(in_line(&bare.tmem, own(2)), [own(7), Class::RUN, own(2)]);
    assert_eq!(in_line(&bare.tmem, own(7)), [Class::RUN, own(2), own(7)]);
}

#[test]
fn what_has_too_few_copies_is_asked_by_class() {
    let (mut bare, pools) = pools(&[own(0), own(4)], 10);
    for class in [own(0), own(4)] {
        for (handle, version) in send(&mut bare, class, &[NODE]) {
            assert_eq!(bare.tmem.acknowledged(&handle, version, NODE), Acknowledged::Remote);
        }
    }
    let mut thin = Vec::new();
    let too_few = |class: Class, site: &Site| class == own(4) && site.holders().len() < 2;
    bare.tmem.pages_of_class_at(&too_few, &mut 0, (usize::MAX, usize::MAX), &mut thin);
    assert_eq!(thin.len(), 10);
    assert!(thin.iter().all(|page| page.handle.pool == pools[1]));
}

/// The view of a forked child is a clone.
#[test]
fn a_clone_has_the_classes_and_a_destroyed_pools_number_never_gets_another_one() {
    let (mut bare, pools) = pools(&[own(0), own(4)], 10);
    let mut child = bare.tmem.clone();
    child.destroy_pool(pools[0]);
    assert_eq!((in_line(&child, Class::RUN), in_line(&bare.tmem, Class::RUN)), (vec![own(4)], vec![own(0), own(4)]));
    let fresh = child.new_pool(PoolKind::Persistent).expect("a pool");
    assert!(!pools.contains(&fresh));
    std::mem::swap(&mut bare.tmem, &mut child);
    put_all(&mut bare, fresh, 5);
    assert_eq!(send(&mut bare, own(0), &[NODE]), []);
    assert_eq!(send(&mut bare, Class::RUN, &[NODE]).len(), 5);
}

#[test]
fn a_class_is_its_number_and_ephemeral_pages_are_one() {
    assert_eq!((own(0).own_number(), own(29).own_number()), (Some(0), Some(29)));
    assert_eq!((Class::own(30), Class::own(255)), (None, None));
    assert_eq!((Class::RUN.own_number(), Class::EPHEMERAL.own_number()), (None, None));
    assert_eq!(Classes::ALL.iter().filter(|class| class.kind() == PoolKind::Ephemeral).count(), 1);
    let some = Classes::default().with(own(1)).with(Class::RUN);
    assert_eq!(some.iter().collect::<Vec<_>>(), [Class::RUN, own(1)]);
    assert!(some.without(own(1)).are_among(some) && !some.are_among(some.without(own(1))));
}
