//! The store against a plain map: every byte right, no frame counted wrongly, and dense again after compaction.

use ramster_core::store::{FRAME_BYTES, HeapSlabs, Moved, SlabMemory, SlotRef, Store};
use std::collections::HashMap;
use std::ops::Range;

/// Heap memory that minds being asked for nothing.
struct Watched(HeapSlabs);

impl SlabMemory for Watched {
    fn slab_count(&self) -> u32 {
        self.0.slab_count()
    }

    fn slab(&self, slab: u32) -> &[u8] {
        self.0.slab(slab)
    }

    fn slab_mut(&mut self, slab: u32) -> &mut [u8] {
        self.0.slab_mut(slab)
    }

    fn release(&mut self, slab: u32, frames: Range<usize>) {
        assert!(!frames.is_empty(), "a system call for nothing");
        self.0.release(slab, frames);
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

struct Model {
    store: Store<Watched>,
    kept: HashMap<u32, (SlotRef, Vec<u8>)>,
    next_owner: u32,
}

impl Model {
    fn new(limit_bytes: u64) -> Model {
        let memory = Watched(HeapSlabs::new(256));
        Model { store: Store::new(memory, limit_bytes), kept: HashMap::new(), next_owner: 0 }
    }

    fn put(&mut self, length: usize, random: &mut Random) -> bool {
        let owner = self.next_owner;
        self.next_owner += 1;
        let seed = random.below(u64::MAX);
        let bytes: Vec<u8> = (0..length as u64).map(|at| (seed.wrapping_mul(at + 1) >> 32) as u8).collect();
        let slot = self.store.put(&bytes, owner);
        if let Some(slot) = slot {
            self.kept.insert(owner, (slot, bytes));
        }
        slot.is_some()
    }

    fn free_one(&mut self, random: &mut Random) {
        let owners: Vec<u32> = self.kept.keys().copied().collect();
        if let Some(owner) = owners.get(random.below(owners.len().max(1) as u64) as usize) {
            let (slot, _) = self.kept.remove(owner).expect("it is kept");
            self.store.free(slot);
        }
    }

    fn compact(&mut self, budget_bytes: usize) -> usize {
        let Model { store, kept, .. } = self;
        let compacted = store.compact(budget_bytes, &mut |moved: Moved| {
            let (slot, _) = kept.get_mut(&moved.owner).expect("only what is kept moves");
            *slot = slot.at(moved);
        });
        compacted.freed_bytes
    }

    fn check(&self) {
        let mut stored = 0;
        for (owner, (slot, bytes)) in &self.kept {
            assert!(self.store.bytes(*slot) == &bytes[..], "owner {owner}");
            stored += bytes.len() as u64;
        }
        assert_eq!(self.store.stored_bytes(), stored);
        assert!(self.store.used_bytes() >= stored);
    }
}

#[test]
fn random_histories_keep_every_byte_and_end_dense() {
    let first = u64::from(std::process::id());
    for seed in first..first + 8 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let limit = 64 << 10 << random.below(6);
        let mut model = Model::new(limit);
        for step in 0..4000 {
            match random.below(100) {
                0..55 => {
                    let longest = [64, 600, 4096][random.below(3) as usize];
                    let length = 1 + random.below(longest) as usize;
                    model.put(length, &mut random);
                    assert!(model.store.used_bytes() <= limit);
                }
                55..97 => model.free_one(&mut random),
                _ => {
                    model.compact(random.below(20_000) as usize);
                    assert!(model.store.used_bytes() <= limit);
                }
            }
            if step % 500 == 0 {
                model.check();
            }
        }
        while model.compact(usize::MAX) > 0 {}
        assert_eq!(model.store.wasted_bytes(), 0);
        model.check();
        while !model.kept.is_empty() {
            model.free_one(&mut random);
        }
        model.compact(usize::MAX);
        assert_eq!((model.store.used_bytes(), model.store.stored_bytes()), (0, 0), "all memory is given back");
    }
}

#[test]
fn holes_of_three_quarters_are_compacted_away_within_the_budget() {
    let mut random = Random(1);
    let mut model = Model::new(u64::MAX);
    for _ in 0..3000 {
        assert!(model.put(2000, &mut random));
    }
    let full = model.store.used_bytes();
    let mut owners: Vec<u32> = model.kept.keys().copied().collect();
    owners.sort_unstable();
    for owner in owners.into_iter().filter(|owner| owner % 4 != 0) {
        let (slot, _) = model.kept.remove(&owner).expect("it is kept");
        model.store.free(slot);
    }
    assert!(model.store.used_bytes() * 10 > full * 9, "holes everywhere: nothing could be given back");
    let mut steps = 0;
    while model.store.wasted_bytes() > 0 {
        let before: HashMap<u32, SlotRef> = model.kept.iter().map(|(owner, (slot, _))| (*owner, *slot)).collect();
        model.compact(20_000);
        let moved = model.kept.iter().filter(|(owner, (slot, _))| before[owner] != *slot).count();
        assert!(moved <= 11, "{moved} moves for 20 000 bytes");
        steps += 1;
        assert!(steps < 1000, "compaction does not end");
    }
    model.check();
    assert!(model.store.used_bytes() * 100 < full * 27, "{} of {full}", model.store.used_bytes());
}

#[test]
fn the_limit_counts_whole_frames_and_is_never_passed() {
    let mut random = Random(2);
    let mut model = Model::new(3 * FRAME_BYTES as u64 + 100);
    assert!(model.put(4096, &mut random) && model.put(4000, &mut random) && model.put(10, &mut random));
    assert!(model.put(16, &mut random), "the frame of the small ones has room");
    assert!(!model.put(2000, &mut random));
    assert_eq!(model.store.used_bytes(), 3 * FRAME_BYTES as u64);
    model.check();
}

#[test]
fn nothing_and_more_than_a_page_are_not_stored() {
    let mut model = Model::new(u64::MAX);
    assert!(model.store.put(&[], 0).is_none());
    assert!(model.store.put(&[0; 4097], 0).is_none());
    assert_eq!(model.store.used_bytes(), 0);
}

#[test]
fn memory_without_another_slab_is_a_full_store() {
    let mut store = Store::new(HeapSlabs::new(2), u64::MAX);
    assert!(store.put(&[1; 100], 0).is_some() && store.put(&[1; 4000], 1).is_some());
    assert!(store.put(&[1; 2000], 2).is_none());
    assert!(store.put(&[1; 100], 3).is_some());
}

/// A page freed and put again at the edge of a slab must not give the slab back and ask for it again each time.
#[test]
fn an_emptied_slab_is_kept_for_the_next_put() {
    struct Counting(HeapSlabs, usize);
    impl SlabMemory for Counting {
        fn slab_count(&self) -> u32 {
            self.0.slab_count()
        }
        fn slab(&self, slab: u32) -> &[u8] {
            self.0.slab(slab)
        }
        fn slab_mut(&mut self, slab: u32) -> &mut [u8] {
            self.0.slab_mut(slab)
        }
        fn release(&mut self, slab: u32, frames: Range<usize>) {
            self.1 += 1;
            self.0.release(slab, frames);
        }
    }
    let mut store = Store::new(Counting(HeapSlabs::new(8), 0), u64::MAX);
    for owner in 0..1000 {
        let slot = store.put(&[1; 3000], owner).expect("room");
        store.free(slot);
    }
    assert_eq!(store.memory().1, 0);
    store.compact(0, &mut |_| {});
    assert_eq!((store.memory().1, store.used_bytes()), (1, 0), "but not when memory is wanted");
}
