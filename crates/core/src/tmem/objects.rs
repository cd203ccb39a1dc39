//! Pool, object, index: how an entry is found. Pages are kept in chunks of 64 neighbouring indexes. Covers finding, inserting and removing;
//! what an entry means is not its business.

use super::entry::Entry;
use super::hand::Ring;
use super::hash::Keyed;
use crate::handle::{Class, Classes, Handle, ObjectId, PoolId};
use std::collections::HashMap;

pub const CHUNK_PAGES: u32 = 64;
pub const NONE: u32 = u32::MAX;
/// Far beyond any use; what breaks without a limit is a program that forgets to destroy its pools.
pub const POOLS_MAX: usize = 65_536;

/// Where an entry is: a chunk and a bit of it. Fits the 32 bits that the store remembers per slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    pub chunk: u32,
    pub bit: u32,
}

impl At {
    pub fn owner(self) -> u32 {
        self.chunk * CHUNK_PAGES + self.bit
    }

    pub fn from_owner(owner: u32) -> At {
        At { chunk: owner / CHUNK_PAGES, bit: owner % CHUNK_PAGES }
    }
}

#[derive(Clone)]
pub struct Pool {
    class: Class,
    objects: HashMap<ObjectId, u32, Keyed>,
}

#[derive(Clone)]
struct Object {
    pool: PoolId,
    id: ObjectId,
    /// Its chunks, linked, and how many.
    first: u32,
    chunks: u32,
}

#[derive(Clone)]
pub struct Chunk {
    pub object: u32,
    /// index / 64 of its pages.
    pub number: u32,
    /// Which of the 64 pages have an entry; `entries` has one for each bit, in order.
    present: u64,
    entries: Vec<Entry>,
    sibling_prev: u32,
    sibling_next: u32,
    pub ring_prev: u32,
    pub ring_next: u32,
    /// Entries in state Local: a chunk without any is not in the ring.
    pub local: u8,
    pub class: Class,
}

#[derive(Clone)]
pub struct Objects {
    pub pools: HashMap<PoolId, Pool, Keyed>,
    next_pool: u32,
    objects: Vec<Object>,
    free_objects: Vec<u32>,
    pub chunks: Vec<Chunk>,
    free_chunks: Vec<u32>,
    /// (object, number) to chunk.
    numbers: HashMap<u64, u32, Keyed>,
    pub rings: [Ring; Class::COUNT],
    /// Those whose ring is not empty.
    pub local_classes: Classes,
    /// The object and chunk last found: neighbours come together.
    last_object: (PoolId, ObjectId, u32),
    last_chunk: (u64, u32),
    key: Keyed,
}

impl Objects {
    pub fn new(seed: u64) -> Self {
        let key = Keyed(seed);
        Objects {
            pools: HashMap::with_hasher(key),
            next_pool: 0,
            objects: Vec::new(),
            free_objects: Vec::new(),
            chunks: Vec::new(),
            free_chunks: Vec::new(),
            numbers: HashMap::with_hasher(key),
            rings: [Ring::EMPTY; Class::COUNT],
            local_classes: Classes::default(),
            last_object: (PoolId(NONE), ObjectId([0; 3]), NONE),
            last_chunk: (u64::MAX, NONE),
            key,
        }
    }

    /// None when there are too many. Numbers are never used twice: a holder may still hear of the old pool's end.
    pub fn new_pool(&mut self, class: Class) -> Option<PoolId> {
        if self.pools.len() >= POOLS_MAX || self.next_pool == NONE {
            return None;
        }
        let pool = PoolId(self.next_pool);
        self.next_pool += 1;
        self.pools.insert(pool, Pool { class, objects: HashMap::with_hasher(self.key) });
        Some(pool)
    }

    pub fn object(&mut self, pool: PoolId, id: ObjectId) -> Option<u32> {
        if (self.last_object.0, self.last_object.1) == (pool, id) && self.last_object.2 != NONE {
            return Some(self.last_object.2);
        }
        let object = *self.pools.get(&pool)?.objects.get(&id)?;
        self.last_object = (pool, id, object);
        Some(object)
    }

    pub fn chunk(&mut self, object: u32, number: u32) -> Option<u32> {
        let key = key_of(object, number);
        if self.last_chunk.0 == key {
            return Some(self.last_chunk.1);
        }
        let chunk = *self.numbers.get(&key)?;
        self.last_chunk = (key, chunk);
        Some(chunk)
    }

    pub fn find(&mut self, handle: &Handle) -> Option<At> {
        let object = self.object(handle.pool, handle.object)?;
        let chunk = self.chunk(object, handle.index / CHUNK_PAGES)?;
        let bit = handle.index % CHUNK_PAGES;
        (self.chunks[chunk as usize].present >> bit & 1 == 1).then_some(At { chunk, bit })
    }

    pub fn entry(&self, at: At) -> &Entry {
        let chunk = &self.chunks[at.chunk as usize];
        &chunk.entries[rank(chunk.present, at.bit)]
    }

    pub fn entry_mut(&mut self, at: At) -> &mut Entry {
        let chunk = &mut self.chunks[at.chunk as usize];
        &mut chunk.entries[rank(chunk.present, at.bit)]
    }

    pub fn handle(&self, at: At) -> Handle {
        let chunk = &self.chunks[at.chunk as usize];
        let object = &self.objects[chunk.object as usize];
        Handle { pool: object.pool, object: object.id, index: chunk.number * CHUNK_PAGES + at.bit }
    }

    /// The entries of a chunk.
    pub fn pages_of(&self, chunk: u32) -> impl Iterator<Item = At> + use<> {
        let present = self.chunks[chunk as usize].present;
        (0..CHUNK_PAGES).filter(move |bit| present >> bit & 1 == 1).map(move |bit| At { chunk, bit })
    }

    /// Pages of a chunk that have an entry, as a bit mask.
    pub fn present(&self, chunk: u32) -> u64 {
        self.chunks[chunk as usize].present
    }

    /// Makes room for an entry that is not there yet. The pool must exist. None when the chunk numbers are used up (16 TiB of pages).
    pub fn insert(&mut self, handle: &Handle, entry: Entry) -> Option<At> {
        let object = match self.object(handle.pool, handle.object) {
            Some(object) => object,
            None => self.new_object(handle.pool, handle.object)?,
        };
        let number = handle.index / CHUNK_PAGES;
        let chunk = match self.chunk(object, number) {
            Some(chunk) => chunk,
            None => self.new_chunk(object, number)?,
        };
        let bit = handle.index % CHUNK_PAGES;
        let target = &mut self.chunks[chunk as usize];
        target.entries.insert(rank(target.present, bit), entry);
        target.present |= 1 << bit;
        Some(At { chunk, bit })
    }

    /// The entry goes, and with the last one of a chunk the chunk, and with the last chunk the object.
    pub fn remove(&mut self, at: At) {
        let chunk = &mut self.chunks[at.chunk as usize];
        chunk.entries.remove(rank(chunk.present, at.bit));
        chunk.present &= !(1 << at.bit);
        if chunk.present == 0 {
            self.drop_chunk(at.chunk);
        }
    }

    /// The chunks of an object that have pages between the indexes `first` and `end`; looked up, or picked from all, whichever is less work.
    pub fn chunks_between(&mut self, object: u32, first: u64, end: u64) -> Vec<u32> {
        if first >= end {
            return Vec::new();
        }
        let numbers = first / u64::from(CHUNK_PAGES)..(end - 1) / u64::from(CHUNK_PAGES) + 1;
        if numbers.end - numbers.start <= u64::from(self.objects[object as usize].chunks) {
            return numbers.filter_map(|number| self.chunk(object, number as u32)).collect();
        }
        let mut chunks = self.chunks_of(object);
        chunks.retain(|chunk| numbers.contains(&u64::from(self.chunks[*chunk as usize].number)));
        chunks
    }

    /// The chunks of an object.
    pub fn chunks_of(&self, object: u32) -> Vec<u32> {
        let mut chunks = Vec::new();
        let mut chunk = self.objects[object as usize].first;
        while chunk != NONE {
            chunks.push(chunk);
            chunk = self.chunks[chunk as usize].sibling_next;
        }
        chunks
    }

    pub fn objects_of(&self, pool: PoolId) -> Vec<u32> {
        self.pools.get(&pool).map(|pool| pool.objects.values().copied().collect()).unwrap_or_default()
    }

    pub fn metadata_bytes(&self) -> u64 {
        let entries: usize = self.chunks.iter().map(|chunk| chunk.entries.capacity() * size_of::<Entry>()).sum();
        let maps = self.numbers.capacity() * 8 / 7 * 17
            + self.pools.values().map(|pool| pool.objects.capacity() * 8 / 7 * 33).sum::<usize>();
        let lists = self.chunks.capacity() * size_of::<Chunk>() + self.objects.capacity() * size_of::<Object>();
        (entries + maps + lists) as u64
    }

    fn new_object(&mut self, pool: PoolId, id: ObjectId) -> Option<u32> {
        let fresh = Object { pool, id, first: NONE, chunks: 0 };
        let object = match self.free_objects.pop() {
            Some(object) => {
                self.objects[object as usize] = fresh;
                object
            }
            None => {
                self.objects.push(fresh);
                u32::try_from(self.objects.len() - 1).ok()?
            }
        };
        self.pools.get_mut(&pool)?.objects.insert(id, object);
        self.last_object = (pool, id, object);
        Some(object)
    }

    fn new_chunk(&mut self, object: u32, number: u32) -> Option<u32> {
        let chunk = match self.free_chunks.pop() {
            Some(chunk) => chunk,
            None if self.chunks.len() < (NONE / CHUNK_PAGES) as usize => self.chunks.len() as u32,
            None => return None,
        };
        let owner = &mut self.objects[object as usize];
        let class = self.pools.get(&owner.pool)?.class;
        let next = std::mem::replace(&mut owner.first, chunk);
        owner.chunks += 1;
        if next != NONE {
            self.chunks[next as usize].sibling_prev = chunk;
        }
        let fresh = Chunk {
            object,
            number,
            present: 0,
            entries: Vec::new(),
            sibling_prev: NONE,
            sibling_next: next,
            ring_prev: NONE,
            ring_next: NONE,
            local: 0,
            class,
        };
        if chunk as usize == self.chunks.len() {
            self.chunks.push(fresh);
        } else {
            self.chunks[chunk as usize] = fresh;
        }
        self.numbers.insert(key_of(object, number), chunk);
        self.last_chunk = (key_of(object, number), chunk);
        Some(chunk)
    }

    fn drop_chunk(&mut self, chunk: u32) {
        let old = &mut self.chunks[chunk as usize];
        old.entries = Vec::new();
        let (object, number, prev, next) = (old.object, old.number, old.sibling_prev, old.sibling_next);
        self.objects[object as usize].chunks -= 1;
        if prev == NONE {
            self.objects[object as usize].first = next;
        } else {
            self.chunks[prev as usize].sibling_next = next;
        }
        if next != NONE {
            self.chunks[next as usize].sibling_prev = prev;
        }
        self.numbers.remove(&key_of(object, number));
        self.last_chunk = (u64::MAX, NONE);
        self.free_chunks.push(chunk);
        if self.objects[object as usize].first == NONE {
            let Object { pool, id, .. } = self.objects[object as usize];
            if let Some(pool) = self.pools.get_mut(&pool) {
                pool.objects.remove(&id);
            }
            self.last_object.2 = NONE;
            self.free_objects.push(object);
        }
    }
}

fn key_of(object: u32, number: u32) -> u64 {
    u64::from(object) << 32 | u64::from(number)
}

fn rank(present: u64, bit: u32) -> usize {
    (present & ((1 << bit) - 1)).count_ones() as usize
}
