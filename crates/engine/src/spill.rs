//! The last holder: an unlinked file in a directory of the user's choice. Covers slots, free lists, reading and writing packed pages, and the
//! fork; checksums are the pages' own digests, checked by whoever unpacks. Holder number 0 in tmem is always this one, configured or not.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ramster_core::compress::{Kind, Packed};
use ramster_core::handle::{Handle, Version};
use ramster_core::page::PAGE_BYTES;
use ramster_core::tmem::{Batch, Flush};
use ramster_sys::lock::Lock;
use ramster_sys::quiet::move_high;
use ramster_sys::say::say;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// Slots are multiples of this: half of it is lost a page on average, and no disk reads less.
const SECTOR_BYTES: usize = 512;
const CLASSES: usize = PAGE_BYTES / SECTOR_BYTES;
/// Each fork with pages on disk leaves one file that is never written again. Twice as many would do no harm but open descriptors.
const MAX_FILES: usize = 32;

pub struct Spill {
    dir: PathBuf,
    state: Lock<State>,
}

struct State {
    /// A file's index never changes while a page is in it.
    files: Vec<Option<File>>,
    /// The one that is written.
    current: Option<u8>,
    places: HashMap<Handle, Place>,
    bytes: u64,
    said_full: bool,
}

struct File {
    fd: Arc<OwnedFd>,
    /// Pages in it or on their way there.
    live: u32,
    end_sector: u32,
    /// Free slots by size in sectors, less one.
    free: [Vec<u32>; CLASSES],
    /// The file cannot grow (ENOSPC): only free slots are used.
    full: bool,
}

#[derive(Clone, Copy)]
struct Place {
    file: u8,
    sector: u32,
    bytes: u16,
    kind: Kind,
    version: Version,
}

/// A packed page on its way to the file.
struct SpillPage<'a> {
    handle: Handle,
    version: Version,
    packed: Packed<'a>,
}

/// How a page that was read is to be unpacked.
#[derive(Clone, Copy, Debug)]
pub struct SpillRead {
    pub kind: Kind,
    pub len: usize,
}

impl Spill {
    /// Makes the first file at once, so that a directory that cannot be written is found at the start.
    pub fn open(dir: &Path) -> io::Result<Spill> {
        let state =
            State { files: vec![Some(File::make(dir)?)], current: Some(0), places: HashMap::new(), bytes: 0, said_full: false };
        Ok(Spill { dir: dir.to_owned(), state: Lock::new(state) })
    }

    /// Writes a batch, holding no lock meanwhile; called by one thread only. Says of each page whether it is in the file now.
    pub fn write(&self, batch: &Batch) -> Vec<bool> {
        let pages: Vec<SpillPage<'_>> =
            batch.iter().map(|(handle, version, packed)| SpillPage { handle, version, packed }).collect();
        let mut stored = Vec::with_capacity(pages.len());
        let mut run = Run::default();
        for (index, page) in pages.iter().enumerate() {
            let slot = self.state.lock().allocate(&self.dir, page.packed.bytes.len());
            stored.push(slot.is_some());
            let Some(slot) = slot else { continue };
            if !run.takes(&slot) {
                self.write_run(&mut run, &pages, &mut stored);
            }
            run.push(index, slot, page.packed.bytes);
        }
        self.write_run(&mut run, &pages, &mut stored);
        stored
    }

    fn write_run(&self, run: &mut Run, pages: &[SpillPage<'_>], stored: &mut [bool]) {
        let Some(first) = run.slots.first() else { return };
        let written = write_all_at(&first.1.fd, &run.bytes, first.1.sector as u64 * SECTOR_BYTES as u64);
        let mut state = self.state.lock();
        match written {
            Ok(()) => run.slots.drain(..).for_each(|(index, slot)| state.keep(&pages[index], &slot)),
            Err(error) => {
                state.give_up(run.slots.iter().map(|(_, slot)| slot), error, &self.dir);
                run.slots.drain(..).for_each(|(index, _)| stored[index] = false);
            }
        }
        run.bytes.clear();
    }

    /// Reads the packed bytes of that version into `buffer`. None: the file has no such version (any more). The bytes may be torn when the page is
    /// flushed meanwhile; the digest tells, and tmem then knows better.
    pub fn read(&self, handle: &Handle, version: Version, buffer: &mut [u8; PAGE_BYTES]) -> Option<io::Result<SpillRead>> {
        let (place, fd) = {
            let state = self.state.lock();
            let place = *state.places.get(handle).filter(|place| place.version == version)?;
            let file = state.files.get(place.file as usize)?.as_ref()?;
            (place, Arc::clone(&file.fd))
        };
        let len = usize::from(place.bytes);
        let read = read_all_at(&fd, &mut buffer[..len], place.sector as u64 * SECTOR_BYTES as u64);
        Some(read.map(|()| SpillRead { kind: place.kind, len }))
    }

    pub fn flush(&self, what: &Flush) {
        let mut state = self.state.lock();
        match *what {
            Flush::Copy { handle, version } => {
                if state.places.get(&handle).is_some_and(|place| place.version == version) {
                    state.remove(&handle);
                }
            }
            Flush::Range { handle, count } => {
                let end = u64::from(handle.index) + u64::from(count);
                let inside = |other: &Handle| (u64::from(handle.index)..end).contains(&u64::from(other.index));
                state.remove_where(|other| (other.pool, other.object) == (handle.pool, handle.object) && inside(other));
            }
            Flush::Object { pool, object } => state.remove_where(|other| (other.pool, other.object) == (pool, object)),
            Flush::Pool(pool) => state.remove_where(|other| other.pool == pool),
        }
    }

    /// Bytes in slots that pages occupy.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    pub fn freeze(&self) {
        self.state.freeze();
    }

    pub fn thaw(&self) {
        self.state.thaw();
    }

    /// After a fork, on both sides: a file with pages belongs to both now, so neither ever writes to it again. New pages go to a new file, and the
    /// old one ends when both have no page in it. An empty one stays the parent's.
    pub fn part_with_fork(&self, is_child: bool) {
        let mut state = self.state.lock();
        if is_child || !state.places.is_empty() {
            state.current = None;
            state.drop_empty_files();
        }
    }
}

impl State {
    fn allocate(&mut self, dir: &Path, bytes: usize) -> Option<Slot> {
        if bytes == 0 || bytes > PAGE_BYTES {
            return None;
        }
        let sectors = bytes.div_ceil(SECTOR_BYTES);
        let index = self.writable_file(dir)?;
        let file = self.files[usize::from(index)].as_mut()?;
        let (sector, fresh) = match file.free[sectors - 1].pop() {
            Some(sector) => (sector, false),
            None if file.full => return None,
            None => {
                let sector = file.end_sector;
                file.end_sector = sector.checked_add(sectors as u32)?;
                (sector, true)
            }
        };
        file.live += 1;
        Some(Slot { fd: Arc::clone(&file.fd), file: index, sector, sectors: sectors as u32, fresh })
    }

    fn writable_file(&mut self, dir: &Path) -> Option<u8> {
        if let Some(index) = self.current {
            return Some(index);
        }
        let index = match self.files.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.files.len() < MAX_FILES => {
                self.files.push(None);
                self.files.len() - 1
            }
            None => return None,
        };
        self.files[index] = Some(File::make(dir).ok()?);
        self.current = Some(index as u8);
        self.current
    }

    fn keep(&mut self, page: &SpillPage<'_>, slot: &Slot) {
        self.remove(&page.handle);
        self.bytes += u64::from(slot.sectors) * SECTOR_BYTES as u64;
        let (bytes, kind) = (page.packed.bytes.len() as u16, page.packed.kind);
        let place = Place { file: slot.file, sector: slot.sector, bytes, kind, version: page.version };
        self.places.insert(page.handle, place);
    }

    fn remove(&mut self, handle: &Handle) {
        let Some(place) = self.places.remove(handle) else { return };
        let sectors = usize::from(place.bytes).div_ceil(SECTOR_BYTES);
        self.bytes -= (sectors * SECTOR_BYTES) as u64;
        let Some(file) = self.files[usize::from(place.file)].as_mut() else { return };
        file.live -= 1;
        if self.current == Some(place.file) {
            file.free[sectors - 1].push(place.sector);
        } else if file.live == 0 {
            self.files[usize::from(place.file)] = None;
        }
    }

    /// Walks all pages in the file: ranges, objects and pools end rarely.
    fn remove_where(&mut self, gone: impl Fn(&Handle) -> bool) {
        let gone: Vec<Handle> = self.places.keys().filter(|handle| gone(handle)).copied().collect();
        gone.iter().for_each(|handle| self.remove(handle));
    }

    /// The slots of a run that could not be written. Fresh ones are the file's tail: it ends before them again.
    fn give_up<'a>(&mut self, slots: impl Iterator<Item = &'a Slot>, error: io::Error, dir: &Path) {
        for slot in slots {
            let Some(file) = self.files[usize::from(slot.file)].as_mut() else { continue };
            file.live -= 1;
            if slot.fresh {
                file.end_sector = file.end_sector.min(slot.sector);
                file.full = true;
            }
        }
        if !std::mem::replace(&mut self.said_full, true) {
            say(format_args!("spill directory {}: {error}; nothing more is spilled there", dir.display()));
        }
    }

    fn drop_empty_files(&mut self) {
        for file in &mut self.files {
            if file.as_ref().is_some_and(|file| file.live == 0) {
                *file = None;
            }
        }
    }
}

impl File {
    fn make(dir: &Path) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(fd) => fd,
            // Overlay and network file systems without O_TMPFILE: make one and unlink it.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                let name = dir.join(format!("ramster-spill-{}-{}", rustix::process::getpid().as_raw_nonzero(), crate::now_ms()));
                let fd = rustix::fs::open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
                rustix::fs::unlink(&name)?;
                fd
            }
            Err(error) => return Err(error.into()),
        };
        Ok(File { fd: Arc::new(move_high(fd)), live: 0, end_sector: 0, free: Default::default(), full: false })
    }
}

struct Slot {
    fd: Arc<OwnedFd>,
    file: u8,
    sector: u32,
    sectors: u32,
    fresh: bool,
}

/// Neighbouring slots, written by one call.
#[derive(Default)]
struct Run {
    slots: Vec<(usize, Slot)>,
    bytes: Vec<u8>,
}

impl Run {
    fn takes(&self, slot: &Slot) -> bool {
        self.slots.last().is_none_or(|(_, last)| {
            last.file == slot.file && last.sector + last.sectors == slot.sector && last.fresh == slot.fresh
        })
    }

    fn push(&mut self, index: usize, slot: Slot, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR_BYTES), 0);
        self.slots.push((index, slot));
    }
}

fn write_all_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => (bytes, offset) = (&bytes[count..], offset + count as u64),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_all_at(fd: &OwnedFd, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match rustix::io::pread(fd, &mut *buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => (buffer, offset) = (&mut buffer[count..], offset + count as u64),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
