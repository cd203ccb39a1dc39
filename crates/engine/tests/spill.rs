//! The spill directory as the last holder: pages go to the file and come back, a full disk is no disaster, and the file is never seen in the directory.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{handle, page, peers, server, wait_at_limit, wait_until};
use ramster_core::backend::{Backend, Get, Keep, Put};
use ramster_core::handle::{PoolId, PoolKind};
use ramster_core::page::PAGE_BYTES;
use ramster_engine::{Engine, Options, PeerAddr, Stat};

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
    // Overwritten pages gave their slots back: 1000 pages of some 2100 bytes in slots of 512.
    assert!(snapshot.spill_bytes > 1 << 20 && snapshot.spill_bytes < 4 << 20, "{snapshot:?}");
    engine.destroy_pool(pool);
    wait_until("the file empty", || engine.snapshot().spill_bytes == 0);
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
    let Some(disk) = TinyDisk::mount(1 << 20) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let engine = engine(&disk.0, Vec::new());
    let pool = engine.new_pool(PoolKind::Persistent).expect("pool");
    for version in 0..3 {
        put_all(&engine, pool, 1500, version);
        wait_until("the disk full", || engine.stats().get(Stat::SpillFull) > 0);
        assert_all(&engine, pool, 1500, version);
    }
    assert!(engine.stats().get(Stat::PagesSpilled) > 100);
    assert!(engine.store_bytes() > 128 << 10, "what did not fit is here");
    // Room on the disk is used again.
    engine.flush_range(&handle(pool, 0), 1400);
    wait_at_limit(&engine);
    for index in 1400..1500 {
        let mut found = [0; PAGE_BYTES];
        assert_eq!(engine.get(&handle(pool, index), Keep::Keep, &mut found), Ok(Get::Hit));
        assert!(found == page(index, 2));
    }
    assert_eq!(std::fs::read_dir(&disk.0).expect("directory").count(), 0, "the file has no name");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_at_the_start() {
    let options = Options { spill_dir: Some(PathBuf::from("/nowhere/at/all")), ..Options::default() };
    let error = Engine::start(&options).err().expect("an error").to_string();
    assert!(error.contains("/nowhere/at/all"), "{error}");
}
