//! The last holder: slots in a file on the simulated disk. Covers slots, writing, reading and the flushes that it hears; mirrors engine/spill.rs. Whether what
//! is read is right the page's own digest says.

use std::collections::BTreeMap;

use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, Version};
use ramster_core::tmem::{Batch, Flush};

use super::disk::{Disk, DiskError, SimDisk};
use crate::random::Random;

const SECTOR_BYTES: u64 = 512;
const CLASSES: usize = 8;

#[derive(Clone, Copy)]
struct Place {
    sector: u64,
    bytes: usize,
    kind: Kind,
    version: Version,
}

#[derive(Clone)]
pub struct Spill {
    pub disk: SimDisk,
    places: BTreeMap<Handle, Place>,
    free: [Vec<u64>; CLASSES],
    end_sector: u64,
    /// After a fork what was there belongs to both: it is never written over.
    shared_sectors: u64,
}

impl Spill {
    pub fn new(disk: SimDisk) -> Self {
        Spill { disk, places: BTreeMap::new(), free: Default::default(), end_sector: 0, shared_sectors: 0 }
    }

    /// Says of each page whether it is in the file now.
    pub fn write(&mut self, random: &mut Random, batch: &Batch) -> Vec<bool> {
        let mut stored = Vec::new();
        for (handle, version, packed) in batch.iter() {
            let sectors = (packed.bytes.len() as u64).div_ceil(SECTOR_BYTES);
            let free = &mut self.free[sectors as usize - 1];
            let (sector, fresh) = match free.pop() {
                Some(sector) => (sector, false),
                None => (self.end_sector, true),
            };
            let written = self.disk.write(random, sector * SECTOR_BYTES, packed.bytes);
            stored.push(written.is_ok());
            match written {
                Ok(()) => {
                    self.end_sector = self.end_sector.max(sector + sectors);
                    self.remove(&handle);
                    let place = Place { sector, bytes: packed.bytes.len(), kind: packed.kind, version };
                    self.places.insert(handle, place);
                }
                // The slot is used again, whatever a torn write left there.
                Err(_) if !fresh => self.free[sectors as usize - 1].push(sector),
                Err(_) => {}
            }
        }
        stored
    }

    /// None: the file has no such version (any more).
    pub fn read(&mut self, random: &mut Random, handle: &Handle, version: Version) -> Option<Result<(Kind, Vec<u8>), DiskError>> {
        let place = *self.places.get(handle).filter(|place| place.version == version)?;
        let mut bytes = vec![0; place.bytes];
        Some(self.disk.read(random, place.sector * SECTOR_BYTES, &mut bytes).map(|()| (place.kind, bytes)))
    }

    pub fn has(&self, handle: &Handle, version: Version) -> bool {
        self.places.get(handle).is_some_and(|place| place.version == version)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn flush(&mut self, what: &Flush) {
        match *what {
            Flush::Copy { handle, version } => {
                if self.has(&handle, version) {
                    self.remove(&handle);
                }
            }
            Flush::Range { handle, count } => {
                let end = u64::from(handle.index) + u64::from(count);
                let inside = |other: &Handle| (u64::from(handle.index)..end).contains(&u64::from(other.index));
                self.remove_where(|other| (other.pool, other.object) == (handle.pool, handle.object) && inside(other));
            }
            Flush::Object { pool, object } => self.remove_where(|other| (other.pool, other.object) == (pool, object)),
            Flush::Pool(pool) => self.remove_where(|other| other.pool == pool),
        }
    }

    pub fn part_with_fork(&mut self) {
        self.shared_sectors = self.end_sector;
        self.free = Default::default();
    }

    fn remove(&mut self, handle: &Handle) {
        if let Some(place) = self.places.remove(handle)
            && place.sector >= self.shared_sectors
        {
            let sectors = (place.bytes as u64).div_ceil(SECTOR_BYTES);
            self.free[sectors as usize - 1].push(place.sector);
        }
    }

    fn remove_where(&mut self, gone: impl Fn(&Handle) -> bool) {
        let gone: Vec<Handle> = self.places.keys().filter(|handle| gone(handle)).copied().collect();
        gone.iter().for_each(|handle| self.remove(handle));
    }
}
