//! The spill directory as the last holder: pages go to the file and come back whatever the cleaner does meanwhile, a full disk is no disaster, damage is found out,
//! nobody waits for the disk who need not, and the file is never seen in the directory.

mod common;

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{DEADLINE, Proxy, Random, handle, page, peers, server, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Loss, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Arrival, Durability, Engine, LaneGet, Options, PeerAddr, Stat, now_ms};
use rustix::fs::{Mode, OFlags};

fn engine(dir: &Path, peers: Vec<PeerAddr>) -> Arc<Engine> {
    let options = Options { store_bytes: Some(128 << 10), spill_dir: Some(dir.to_owned()), peers, ..Options::default() };
    Engine::start(&options).expect("engine")
}

fn put_all(engine: &Engine, pool: PoolId, count: u32, version: u32) {
    for index in 0..count {
        assert_eq!(engine.put(&handle(pool, index), &page(index, version)), Put::Stored);
    }
}

fn assert_all(engine: &Engine, pool: PoolId, count: u32, version: u32) {
    for index in 0..count {
        let mut found = [0; PAGE_BYTES];
        assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit), "page {index}");
        assert!(found == page(index, version), "page {index} is not version {version}");
    }
}

#[test]
fn pages_over_the_limit_go_to_the_file_and_come_back() {
    let dir = std::env::temp_dir();
    let engine = engine(&dir, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for version in 0..3 {
        put_all(&engine, pool, 1000, version);
        wait_at_limit(&engine);
        assert_all(&engine, pool, 1000, version);
    }
    let snapshot = engine.snapshot();
    // Of overwritten pages nothing is left: 1000 pages of some 2100 bytes.
    assert!(snapshot.spill_bytes > 1 << 20 && snapshot.spill_bytes < 4 << 20, "{snapshot:?}");
    assert_eq!(snapshot.disk, "ok");
    engine.destroy_pool(pool);
    wait_until("the file empty", || engine.snapshot().spill_bytes == 0);
}

/// A directory of its own, gone with the value.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("ramster-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        Dir(dir)
    }

    /// The file without a name in it that this process has open.
    fn file(&self) -> std::fs::File {
        let is_here = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|to| to.starts_with(&self.0));
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors");
        let path = descriptors.flatten().map(|entry| entry.path()).find(is_here).expect("the spill file");
        std::fs::OpenOptions::new().read(true).write(true).open(path).expect("open")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn room_on_the_disk_comes_back_when_pages_go() {
    let dir = Dir::new("room");
    let engine = engine(&dir.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 12_000, 0);
    wait_at_limit(&engine);
    let taken = || dir.file().metadata().expect("metadata").blocks() * 512;
    assert!(taken() > 20 << 20, "{} bytes", taken());
    engine.flush_range(&handle(pool, 0), 11_900);
    // The two heads, and what the log keeps for the next pages.
    wait_until("room on the disk", || taken() <= 8 << 20);
    for index in 11_900..12_000 {
        let mut found = [0; PAGE_BYTES];
        assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, 0));
    }
}

/// Random overwrites by one thread, gets by others all the while: the cleaner moves pages under their hands, and each get has the bytes of a put that it overlaps.
#[test]
fn while_the_cleaner_works_every_get_has_the_right_bytes() {
    const COUNT: u32 = 6000;
    let mut random = Random::new("cleaner");
    let dir = Dir::new("cleaner");
    let engine = engine(&dir.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, COUNT, 0);
    let versions: Vec<(AtomicU32, AtomicU32)> = (0..COUNT).map(|_| (AtomicU32::new(0), AtomicU32::new(0))).collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut random = random.fork();
            let (engine, versions, over) = (&engine, &versions, &over);
            scope.spawn(move || {
                while !over.load(SeqCst) {
                    let index = random.below(COUNT);
                    let (begun, done) = &versions[index as usize];
                    let before = done.load(SeqCst);
                    let mut found = [0; PAGE_BYTES];
                    assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit), "page {index}");
                    let after = begun.load(SeqCst);
                    assert!(
                        (before..=after).any(|version| found == page(index, version)),
                        "page {index}: none of {before} to {after}"
                    );
                }
            });
        }
        let start = Instant::now();
        let mut version = 0;
        while engine.snapshot().spill_moved_bytes < 4 << 20 && start.elapsed() < DEADLINE {
            for _ in 0..500 {
                // A tenth of the pages is never put again: something for the cleaner to move.
                let index = random.below(COUNT / 10 * 9);
                version += 1;
                versions[index as usize].0.store(version, SeqCst);
                assert_eq!(engine.put(&handle(pool, index), &page(index, version)), Put::Stored);
                versions[index as usize].1.store(version, SeqCst);
            }
        }
        over.store(true, SeqCst);
    });
    let snapshot = engine.snapshot();
    assert!(snapshot.spill_moved_bytes > 0, "{snapshot:?}");
    for index in 0..COUNT {
        let mut found = [0; PAGE_BYTES];
        assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, versions[index as usize].1.load(SeqCst)), "page {index}");
    }
    let stats = engine.stats();
    assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::DiskUnreadable), snapshot.spill_bad_segments), (0, 0, 0));
}

#[test]
fn a_fault_handler_never_waits_for_the_disk_and_gets_all_pages_of_a_run() {
    let dir = Dir::new("lane");
    let engine = engine(&dir.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 1000, 0);
    wait_at_limit(&engine);
    let mut lane = engine.lane();
    for start in (0..960).step_by(32) {
        let handles: Vec<_> = (start..start + 32).map(|index| handle(pool, index)).collect();
        let mut pages = vec![[0; PAGE_BYTES]; 32];
        let mut outcomes = Vec::new();
        lane.get_run(&handles, Keep::KeepRemote, &mut pages.iter_mut().collect::<Vec<_>>(), &mut outcomes);
        let mut wanted = Vec::new();
        for (index, (outcome, found)) in (start..).zip(outcomes.iter().zip(&pages)) {
            match outcome {
                LaneGet::Hit => assert!(*found == page(index, 0)),
                LaneGet::Pending(token) => {
                    assert!(lane.is_from_disk(*token));
                    wanted.push((*token, index));
                }
                other => panic!("page {index}: {other:?}"),
            }
        }
        wait_for(&mut lane, wanted);
    }
    assert!(engine.stats().get(Stat::PagesUnspilled) > 800);
}

#[test]
fn pages_that_were_read_along_with_another_are_there_at_once() {
    let dir = Dir::new("along");
    let engine = engine(&dir.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 1000, 0);
    wait_at_limit(&engine);
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DIRECT;
    if rustix::fs::open(&dir.0, flags, Mode::RUSR | Mode::WUSR).is_err() {
        eprintln!("skipped: {:?} has no O_DIRECT", dir.0);
        return;
    }
    let mut lane = engine.lane();
    let mut found = [0; PAGE_BYTES];
    let mut waited = 0;
    for index in 0..500 {
        match lane.get(&handle(pool, index), Keep::KeepRemote, &mut found) {
            LaneGet::Hit => assert!(found == page(index, 0), "page {index}"),
            LaneGet::Pending(token) => {
                waited += 1;
                wait_for(&mut lane, vec![(token, index)]);
            }
            other => panic!("page {index}: {other:?}"),
        }
    }
    let along = engine.stats().get(Stat::DiskReadAlong);
    // The others had not left.
    assert!(along > 0 && waited > 0 && along + waited <= 500, "{along} of 500 came along, {waited} were waited for");
}

fn wait_for(lane: &mut ramster_engine::Lane, mut wanted: Vec<(u64, u32)>) {
    let start = Instant::now();
    while !wanted.is_empty() {
        assert!(start.elapsed() < DEADLINE, "{} pages have not come", wanted.len());
        lane.ready(now_ms(), &mut |token, _, arrival| {
            let at = wanted.iter().position(|(wanted, _)| *wanted == token).expect("asked for, and delivered once");
            let (_, index) = wanted.swap_remove(at);
            assert!(matches!(arrival, Arrival::Page(found) if *found == page(index, 0)), "page {index}: {arrival:?}");
        });
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn damage(dir: &Dir) {
    let file = dir.file();
    let mut bytes = vec![0; file.metadata().expect("metadata").len() as usize];
    file.read_at(&mut bytes, 0).expect("read");
    bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 0x10);
    file.write_all_at(&bytes, 0).expect("write");
    file.sync_all().expect("sync");
}

#[test]
fn what_the_disk_has_changed_is_lost_loudly_and_never_delivered() {
    let dir = Dir::new("damage");
    let engine = engine(&dir.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 500, 0);
    wait_at_limit(&engine);
    damage(&dir);
    let mut lost = 0;
    for index in 0..500 {
        let mut found = [0; PAGE_BYTES];
        match engine.get(&handle(pool, index), Keep::Keep, &mut found) {
            Ok(Get::Hit) => assert!(found == page(index, 0), "page {index} came with other bytes"),
            Err(lost_page) => {
                assert_eq!(lost_page.why, Loss::SpillFailed);
                lost += 1;
            }
            Ok(Get::Miss) => panic!("page {index} is missed"),
        }
    }
    assert!(lost > 300, "{lost}");
    let stats = engine.stats();
    assert_eq!((stats.get(Stat::PagesLost), stats.get(Stat::DiskUnreadable)), (lost, lost));
    assert_eq!(engine.snapshot().disk, "failed");
}

#[test]
fn what_the_disk_has_changed_comes_from_the_peer_that_has_it_too() {
    let dir = Dir::new("damage-with-peer");
    let holder = server(1, 64 << 20);
    let proxy = Proxy::start(holder.address());
    let peer = PeerAddr { node: 1, address: proxy.address.to_string() };
    let options = Options {
        store_bytes: Some(128 << 10),
        spill_dir: Some(dir.0.clone()),
        peers: vec![peer],
        durability: Durability::Disk,
        ..Options::default()
    };
    let engine = Engine::start(&options).expect("engine");
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 500, 0);
    wait_at_limit(&engine);
    damage(&dir);
    // So that the disk is asked.
    proxy.stalled.store(true, SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the disk asked", || engine.stats().get(Stat::DiskUnreadable) > 0);
            proxy.stalled.store(false, SeqCst);
        });
        assert_all(&engine, pool, 500, 0);
    });
    assert_eq!(engine.stats().get(Stat::PagesLost), 0);
}

#[test]
fn peers_come_before_the_file() {
    let holder = server(1, 64 << 20);
    let engine = engine(&std::env::temp_dir(), peers(&[&holder]));
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    put_all(&engine, pool, 1000, 0);
    wait_at_limit(&engine);
    assert_eq!(engine.stats().get(Stat::PagesSpilled), 0);
    holder.set_offer(0);
    put_all(&engine, pool, 1000, 1);
    wait_at_limit(&engine);
    assert!(engine.stats().get(Stat::PagesSpilled) > 0);
    assert_all(&engine, pool, 1000, 1);
}

/// A tmpfs of its own, gone with the value. None where this user may not mount.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn mount(bytes: u64) -> Option<TinyDisk> {
        let dir = std::env::temp_dir().join(format!("ramster-tiny-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("directory");
        let options = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir).status();
        mounted.is_ok_and(|status| status.success()).then_some(TinyDisk(dir))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_disk_that_fills_up_keeps_what_it_has_and_the_rest_stays_here() {
    let Some(disk) = TinyDisk::mount(6 << 20) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let engine = engine(&disk.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for version in 0..3 {
        let before = engine.stats().get(Stat::SpillFull);
        put_all(&engine, pool, 5000, version);
        wait_until("the disk full", || engine.stats().get(Stat::SpillFull) > before);
        assert_all(&engine, pool, 5000, version);
        assert_eq!((engine.snapshot().disk, engine.stats().get(Stat::DiskFull)), ("full", 1));
    }
    assert!(engine.stats().get(Stat::PagesSpilled) > 1000);
    assert!(engine.store_bytes() > 128 << 10, "what did not fit is here");
    // Room on the disk is used again, although no segment became empty by itself: some pages of each are left.
    for index in (0..5000).filter(|index| index % 10 != 0) {
        engine.flush_page(&handle(pool, index));
    }
    wait_at_limit(&engine);
    let versions = |index: u32| if index.is_multiple_of(10) { 2 } else { 3 };
    for index in (0..1200).filter(|index| versions(*index) == 3) {
        assert_eq!(engine.put(&handle(pool, index), &page(index, 3)), Put::Stored);
    }
    wait_at_limit(&engine);
    for index in (0..5000).filter(|index| *index < 1200 || index % 10 == 0) {
        let mut found = [0; PAGE_BYTES];
        assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, versions(index)), "page {index}");
    }
    assert_eq!((engine.snapshot().disk, engine.stats().get(Stat::DiskFull)), ("ok", 0));
    assert_eq!(std::fs::read_dir(&disk.0).expect("directory").count(), 0, "the file has no name");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_at_the_start() {
    let options = Options { spill_dir: Some(PathBuf::from("/nowhere/at/all")), ..Options::default() };
    let error = Engine::start(&options).err().expect("an error").to_string();
    assert!(error.contains("/nowhere/at/all"), "{error}");
}
