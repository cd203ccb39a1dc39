//! The log on a simulated disk against plain maps: random puts, flushes, cleans, forks, full, broken and lying disks, each step counted again. What
//! cleaning costs is `tests/cost.rs`.

mod cost;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::record::{HEADER_BYTES, PAYLOAD_MAX_BYTES};
use super::*;

const SEGMENT: u32 = 8 * BLOCK_BYTES;

/// xorshift, from a seed that is printed.
struct Random(u64);

impl Random {
    fn new(test: &str, run: u64) -> Random {
        let given = std::env::var("RAMSTER_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = given.unwrap_or(run.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        eprintln!("{test}: RAMSTER_SEED={seed}");
        Random(seed | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % end
    }
}

/// A file: its bytes, which blocks have room, and whether anybody may still write to it.
#[derive(Default)]
struct File {
    bytes: RefCell<Vec<u8>>,
    room: RefCell<BTreeSet<u64>>,
    shared: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Full,
    Broken,
}

/// A log with its disk and what it ought to hold.
struct World {
    log: Log,
    files: BTreeMap<u8, Rc<File>>,
    expected: BTreeMap<Handle, (Version, Vec<u8>)>,
    mood: Mood,
    now_ms: u64,
    next_version: Version,
    buffer: Vec<u8>,
}

fn handle(object: u64, index: u32) -> Handle {
    Handle { pool: PoolId(object as u32 % 2), object: ObjectId([object, 0, 7]), index }
}

fn config() -> Config {
    Config { segment_bytes: SEGMENT, segments_max: 40, ..Config::new(99) }
}

impl World {
    fn new(config: Config) -> World {
        let buffer = vec![0xee; config.segment_bytes as usize];
        let (files, expected) = (BTreeMap::new(), BTreeMap::new());
        World { log: Log::new(config), files, expected, mood: Mood::Well, now_ms: 0, next_version: 1, buffer }
    }

    fn make_file(&mut self) -> bool {
        if self.log.current().is_none() {
            self.close_ended();
            match self.log.begin_file() {
                Some(file) => assert!(self.files.insert(file, Rc::default()).is_none(), "a number that is in use"),
                None => return false,
            }
        }
        true
    }

    /// Puts some pages in one write.
    fn put(&mut self, pages: &[(Handle, Vec<u8>)]) -> bool {
        if !self.make_file() {
            return false;
        }
        let Some(mut write) = self.log.begin_write(Purpose::Put, self.now_ms) else { return false };
        let mut stored = Vec::new();
        for (handle, bytes) in pages {
            let version = self.next_version;
            self.next_version += 1;
            if write.push(&Record { handle: *handle, version, kind: 3, bytes }, None, &mut self.buffer) {
                stored.push((*handle, (version, bytes.clone())));
            }
        }
        let done = self.write(write);
        if done {
            self.expected.extend(stored);
        }
        done
    }

    fn write(&mut self, write: Write) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.write_from(write, &mut buffer);
        self.buffer = buffer;
        done
    }

    fn write_from(&mut self, write: Write, buffer: &mut [u8]) -> bool {
        let (spot, why) = match self.mood {
            Mood::Well => (write.spot(), None),
            Mood::Broken => (write.spot(), Some(Trouble::Failed)),
            // What has room can be written.
            Mood::Full => (write.spot(), write.fresh.then_some(Trouble::Full)),
        };
        if let Some(why) = why {
            self.log.not_written(write, why, self.now_ms);
            return false;
        }
        let file = &self.files[&spot.file];
        assert!(!file.shared.get() || write.is_empty(), "a file that a fork has shared is written");
        let bytes = write.finish(buffer);
        let start = spot.offset as usize;
        let mut disk = file.bytes.borrow_mut();
        if disk.len() < start + bytes.len() {
            disk.resize(start + bytes.len(), 0);
        }
        disk[start..start + bytes.len()].copy_from_slice(bytes);
        file.room.borrow_mut().insert(write.segment_spot().offset);
        drop(disk);
        self.log.written(write);
        true
    }

    fn read(&self, spot: Spot) -> Vec<u8> {
        let disk = self.files[&spot.file].bytes.borrow();
        let mut bytes = vec![0; spot.bytes as usize];
        let start = (spot.offset as usize).min(disk.len());
        let end = (start + bytes.len()).min(disk.len());
        bytes[..end - start].copy_from_slice(&disk[start..end]);
        bytes
    }

    fn get(&self, handle: &Handle, version: Version) -> Option<Option<Vec<u8>>> {
        let place = self.log.find(handle, version)?;
        let bytes = self.read(self.log.spot(&place));
        Some(self.log.check(handle, version, &bytes).map(|record| record.bytes.to_vec()))
    }

    fn flush(&mut self, what: Flush) {
        self.log.flush(&what);
        self.expected.retain(|found, (version, _)| match what {
            Flush::Copy { handle, version: flushed } => *found != handle || *version != flushed,
            Flush::Range { handle, count } => {
                let inside =
                    (u64::from(handle.index)..u64::from(handle.index) + u64::from(count)).contains(&u64::from(found.index));
                (found.pool, found.object) != (handle.pool, handle.object) || !inside
            }
            Flush::Object { pool, object } => (found.pool, found.object) != (pool, object),
            Flush::Pool(pool) => found.pool != pool,
        });
    }

    /// True: a segment was cleaned. `meanwhile`: what happens while its records are on their way.
    fn clean(&mut self, meanwhile: &mut dyn FnMut(&mut World)) -> bool {
        let Some(victim) = self.log.begin_clean() else { return false };
        let bytes = self.read(victim.spot);
        let mut found = records_in(self.log.seed(), &bytes);
        self.log.retain_live(&victim, &mut found);
        let mut buffer = self.buffer.clone();
        let (mut next, mut finished) = (0, true);
        while finished && next < found.len() {
            let Some(mut write) = self.log.begin_write(Purpose::Clean, self.now_ms) else {
                finished = false;
                break;
            };
            let first = next;
            while let Some((_, place)) = found.get(next) {
                let record = record_at(self.log.seed(), &bytes, place).expect("found just now");
                if !write.push(&record, Some((&victim, *place)), &mut buffer) {
                    break;
                }
                next += 1;
            }
            assert!(next > first, "a head always has room for one record");
            meanwhile(self);
            finished = self.write_from(write, &mut buffer);
        }
        self.log.end_clean(victim, finished);
        finished
    }

    fn give_back(&mut self) {
        while let Some(spot) = self.log.give_back() {
            let file = &self.files[&spot.file];
            let mut disk = file.bytes.borrow_mut();
            let (start, end) = (spot.offset as usize, (spot.offset as usize + spot.bytes as usize).min(disk.len()));
            disk[start.min(end)..end].fill(0);
            file.room.borrow_mut().remove(&spot.offset);
        }
    }

    fn close_ended(&mut self) {
        for file in self.log.take_ended() {
            assert!(self.files.remove(&file).is_some(), "file {file} ended twice");
        }
    }

    fn check(&mut self) {
        self.close_ended();
        assert_eq!(self.log.pages(), self.expected.len());
        let mut by_segment: BTreeMap<u32, u32> = BTreeMap::new();
        let mut live = 0;
        for (handle, place) in &self.log.places {
            live += u64::from(place.bytes);
            assert!(self.files.contains_key(&place.file), "a page in a file that has ended: {handle:?}");
            if Some(place.file) == self.log.current {
                *by_segment.entry(place.segment).or_default() += u32::from(place.bytes);
            }
        }
        assert_eq!(self.log.live_bytes(), live);
        let mut used = 0;
        for (index, segment) in self.log.segments.all().iter().enumerate() {
            assert_eq!(segment.live_bytes, by_segment.get(&(index as u32)).copied().unwrap_or(0), "segment {index}");
            assert!(segment.end_bytes <= SEGMENT && segment.live_bytes <= segment.end_bytes);
            used += u32::from(segment.state != SegmentState::Free);
        }
        assert_eq!(self.log.segments.used, used);
        assert_eq!(self.log.segments.live_bytes, by_segment.values().map(|bytes| u64::from(*bytes)).sum::<u64>());
    }

    fn check_all(&self) {
        for (handle, (version, bytes)) in &self.expected {
            assert_eq!(self.get(handle, *version), Some(Some(bytes.clone())), "{handle:?} version {version}");
        }
    }

    /// The other side of a fork: the same pages, no file that it writes.
    fn fork(&mut self) -> World {
        let mut child = World {
            log: self.log.clone(),
            files: self.files.clone(),
            expected: self.expected.clone(),
            mood: self.mood,
            now_ms: self.now_ms,
            next_version: self.next_version,
            buffer: self.buffer.clone(),
        };
        let before = self.log.current();
        self.log.part_with_fork(false);
        child.log.part_with_fork(true);
        if let Some(file) = before.filter(|_| self.log.current().is_none()) {
            self.files.get(&file).or(child.files.get(&file)).expect("a file").shared.set(true);
        }
        child
    }

    fn step(&mut self, random: &mut Random) {
        self.now_ms += random.below(300);
        match random.below(100) {
            0..55 => {
                let pages: Vec<(Handle, Vec<u8>)> =
                    (0..1 + random.below(8)).map(|_| (any_handle(random), any_bytes(random))).collect();
                if self.log.takes_puts(self.now_ms) {
                    self.put(&pages);
                }
            }
            55..70 => {
                let handle = any_handle(random);
                let version = self.expected.get(&handle).map_or(7, |(version, _)| *version);
                self.flush(Flush::Copy { handle, version });
            }
            70..74 => self.flush(Flush::Range { handle: any_handle(random), count: random.below(30) as u32 }),
            74 => {
                let Handle { pool, object, .. } = any_handle(random);
                self.flush(if random.below(4) == 0 { Flush::Pool(pool) } else { Flush::Object { pool, object } });
            }
            75..90 => {
                self.clean(&mut |world| {
                    for _ in 0..random.below(20) {
                        let handle = any_handle(random);
                        let version = world.expected.get(&handle).map_or(7, |(version, _)| *version);
                        match random.below(2) {
                            0 => world.flush(Flush::Copy { handle, version }),
                            _ => drop(world.put(&[(handle, any_bytes(random))])),
                        }
                    }
                });
            }
            90..94 => self.give_back(),
            94 => self.mood = [Mood::Well, Mood::Full, Mood::Broken][random.below(3) as usize],
            95..99 => self.mood = Mood::Well,
            _ => self.check_all(),
        }
        self.check();
    }
}

fn any_handle(random: &mut Random) -> Handle {
    handle(random.below(3), random.below(60) as u32)
}

fn any_bytes(random: &mut Random) -> Vec<u8> {
    let length = 1 + random.below(PAYLOAD_MAX_BYTES as u64) as usize;
    let first = random.below(256) as u8;
    (0..length).map(|at| first.wrapping_add(at as u8)).collect()
}

#[test]
fn any_history_on_a_moody_disk_ends_with_the_right_bytes_and_right_books() {
    for run in 1..=15 {
        let mut random = Random::new("moody disk", run);
        let mut world = World::new(config());
        for _ in 0..600 {
            world.step(&mut random);
        }
        world.check_all();
        world.flush(Flush::Pool(PoolId(0)));
        world.flush(Flush::Pool(PoolId(1)));
        world.check();
        assert_eq!(world.log.live_bytes(), 0);
        // The two heads and what they keep for a better day.
        world.give_back();
        let left: usize = world.files.values().map(|file| file.room.borrow().len()).sum();
        assert!(left <= segments::KEEP_SEGMENTS + 2, "{left} segments of an empty log have room on the disk");
    }
}

#[test]
fn both_sides_of_any_forks_have_all_pages_and_neither_writes_what_both_have() {
    for run in 1..=20 {
        let mut random = Random::new("forks", run);
        let mut worlds = vec![World::new(config())];
        for _ in 0..400 {
            let index = random.below(worlds.len() as u64) as usize;
            worlds[index].step(&mut random);
            if random.below(40) == 0 && worlds.len() < 6 {
                let child = worlds[index].fork();
                worlds.push(child);
            }
            if random.below(60) == 0 && worlds.len() > 1 {
                worlds.remove(index);
            }
        }
        worlds.iter_mut().for_each(|world| (world.check(), world.check_all()).1);
    }
}

#[test]
fn a_record_that_was_torn_or_changed_anywhere_is_found_out_and_never_returned() {
    let mut world = World::new(config());
    let page: Vec<u8> = (0..900_u32).map(|at| at as u8 ^ 0x5a).collect();
    assert!(world.put(&[(handle(1, 1), page.clone()), (handle(1, 2), page.clone())]));
    let place = world.log.find(&handle(1, 2), 2).expect("stored");
    let spot = world.log.spot(&place);
    for bit in 0..spot.bytes as usize * 8 {
        let flip = |world: &World| {
            world.files[&spot.file].bytes.borrow_mut()[spot.offset as usize + bit / 8] ^= 1 << (bit % 8);
        };
        flip(&world);
        assert_eq!(world.get(&handle(1, 2), 2), Some(None), "bit {bit}");
        assert_eq!(world.get(&handle(1, 1), 1), Some(Some(page.clone())));
        flip(&world);
    }
    // Torn: the end is what was there before.
    let start = spot.offset as usize + HEADER_BYTES + 100;
    world.files[&spot.file].bytes.borrow_mut()[start..].fill(0);
    assert_eq!(world.get(&handle(1, 2), 2), Some(None));
    // Another record in its place, whole: another page, or an older copy of this one.
    assert!(Record { handle: handle(1, 2), version: 1, kind: 3, bytes: &page }.encode(99, &mut world.buffer));
    let older = &world.buffer[..spot.bytes as usize];
    assert_eq!(check(99, &handle(1, 2), 2, older), None);
    assert!(check(99, &handle(1, 2), 1, older).is_some());
    assert_eq!(check(98, &handle(1, 2), 1, older), None, "another log's");
}

#[test]
fn a_victim_with_a_damaged_record_gives_up_the_others_and_is_never_used_again() {
    let mut world = World::new(Config { segments_max: 400, ..config() });
    let page = vec![9; 1000];
    for round in 0..60 {
        let pages: Vec<(Handle, Vec<u8>)> = (0..16).map(|index| (handle(1, index + 16 * round), page.clone())).collect();
        assert!(world.put(&pages));
    }
    // A page or two of each segment are left, so that cleaning is due.
    let stored: Vec<(Handle, Version)> = world.expected.iter().map(|(handle, (version, _))| (*handle, *version)).collect();
    for (handle, version) in stored.iter().copied().filter(|(handle, _)| handle.index % 16 != 0) {
        world.flush(Flush::Copy { handle, version });
    }
    let lost = handle(1, 320);
    let (version, place) = (world.expected[&lost].0, world.log.places[&lost]);
    world.files[&place.file].bytes.borrow_mut()[world.log.spot(&place).offset as usize + 50] ^= 1;
    let mut rounds = 0;
    while world.log.counters.segments_bad == 0 && rounds < 200 {
        world.clean(&mut |_| {});
        rounds += 1;
    }
    assert_eq!(world.log.counters.segments_bad, 1, "after {rounds} rounds");
    assert_eq!(world.get(&lost, version), Some(None));
    world.expected.remove(&lost);
    world.check_all();
    world.log.flush(&Flush::Copy { handle: lost, version });
    world.check();
    let bad = world.log.segments.get(place.segment).map(|segment| segment.state);
    assert_eq!(bad, Some(SegmentState::Bad));
}

#[test]
fn a_full_disk_says_so_keeps_what_it_has_and_is_tried_again_a_second_later() {
    let mut world = World::new(config());
    let page = vec![7; 4000];
    let mut index = 0;
    while world.put(&[(handle(1, index), page.clone())]) {
        index += 1;
        assert!(index < 1000, "the limit holds");
    }
    assert!(world.log.used_bytes() <= u64::from(40 * SEGMENT));
    assert!(index > 250, "{index} pages of 4 KiB under a limit of 1.25 MiB");
    assert_eq!(world.log.condition(), Condition::Full { since_ms: 0 });
    assert!(!world.log.takes_puts(999) && world.log.takes_puts(1000));
    world.now_ms = 1000;
    assert!(!world.put(&[(handle(1, index), page.clone())]));
    assert_eq!(world.log.condition(), Condition::Full { since_ms: 0 }, "since the first time");
    world.check_all();
    // Room: one page of every second segment is not enough, all but one of each is, once the cleaner has been there.
    for gone in (0..index).filter(|index| index % 7 != 0) {
        let version = world.expected[&handle(1, gone)].0;
        world.flush(Flush::Copy { handle: handle(1, gone), version });
    }
    for _ in 0..40 {
        world.clean(&mut |_| {});
    }
    assert!(world.log.takes_puts(1001), "{:?}", world.log.segments.free_count());
    assert!(world.put(&[(handle(1, index), page.clone())]));
    assert_eq!(world.log.condition(), Condition::Ok);
    world.check();
    world.check_all();
}

#[test]
fn a_broken_disk_is_left_alone_for_ten_seconds_and_then_tried_elsewhere() {
    let mut world = World::new(config());
    assert!(world.put(&[(handle(1, 0), vec![1; 100])]));
    world.mood = Mood::Broken;
    world.now_ms = 5;
    assert!(!world.put(&[(handle(1, 1), vec![1; 100])]));
    assert_eq!(world.log.condition(), Condition::Failed { since_ms: 5 });
    assert!(!world.log.takes_puts(10_004) && world.log.takes_puts(10_005));
    world.mood = Mood::Well;
    assert!(world.put(&[(handle(1, 1), vec![1; 100])]));
    let places = [handle(1, 0), handle(1, 1)].map(|handle| world.log.places[&handle]);
    assert_ne!(places[0].segment, places[1].segment);
    assert_eq!(world.log.condition(), Condition::Ok);
    world.check_all();
}
