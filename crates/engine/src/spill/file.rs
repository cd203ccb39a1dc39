//! One spill file: opened without a name, read and written in blocks past the page cache where the file system can. Covers the system calls; what lies where is
//! `core::log`'s.

use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use ramster_core::log::{BLOCK_BYTES, Spot, Trouble};
use ramster_sys::aligned::Aligned;
use ramster_sys::quiet::move_high;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::clock::now_ms;

/// What of all files is under way to or from the disk, and since when none of it has ended: nothing else tells of a disk that hangs.
#[derive(Default)]
pub struct Progress {
    under_way: AtomicU32,
    since_ms: AtomicU64,
}

impl Progress {
    pub fn begin(&self) {
        if self.under_way.load(Relaxed) == 0 {
            self.since_ms.store(now_ms(), Relaxed);
        }
        self.under_way.fetch_add(1, Relaxed);
    }

    /// Of more than have begun the rest was the parent's of a fork.
    pub fn end(&self) {
        self.since_ms.store(now_ms(), Relaxed);
        let _ = self.under_way.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }

    pub fn forget(&self) {
        self.under_way.store(0, Relaxed);
    }

    /// How long something has been under way, and nothing ended.
    pub fn stands_still_ms(&self) -> u64 {
        if self.under_way.load(Relaxed) == 0 { 0 } else { now_ms().saturating_sub(self.since_ms.load(Relaxed)) }
    }
}

pub struct File {
    fd: OwnedFd,
    progress: Arc<Progress>,
    /// Past the page cache. False: through it, and dropped from it once it is on the disk.
    direct: bool,
    /// The file system sets room aside, and takes it back.
    allocates: AtomicBool,
    punches: AtomicBool,
}

impl File {
    pub fn make(dir: &Path, progress: &Arc<Progress>) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(fd) => fd,
            // Overlay and network file systems without O_TMPFILE: make one and unlink it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = dir.join(format!("ramster-spill-{}-{}", rustix::process::getpid().as_raw_nonzero(), crate::now_ms()));
                let fd = rustix::fs::open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
                rustix::fs::unlink(&name)?;
                fd
            }
            Err(error) => return Err(error.into()),
        };
        let fd = move_high(fd);
        let direct = is_direct(&fd);
        if !direct {
            // One page is wanted at a time: what lies behind it would push other things out of memory. Advice; a refusal changes nothing.
            let _ = rustix::fs::fadvise(&fd, 0, None, Advice::Random);
        }
        let progress = Arc::clone(progress);
        Ok(File { fd, progress, direct, allocates: AtomicBool::new(true), punches: AtomicBool::new(true) })
    }

    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// For reads that are handed over to the kernel.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// To be told of those.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Room on the disk, so that no write finds it full half way. Where the file system cannot promise any, writes tell.
    pub fn allocate(&self, spot: &Spot) -> io::Result<()> {
        if !self.allocates.load(Relaxed) {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), spot.offset, u64::from(spot.bytes)) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    self.allocates.store(false, Relaxed);
                    return Ok(());
                }
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// False: the file system keeps it.
    pub fn give_back(&self, spot: &Spot) -> bool {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let given =
            self.punches.load(Relaxed) && rustix::fs::fallocate(&self.fd, flags, spot.offset, u64::from(spot.bytes)).is_ok();
        self.punches.store(given, Relaxed);
        given
    }

    /// Whole blocks, and done when it returns.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.progress.begin();
        let written = self.write_through(offset, bytes);
        self.progress.end();
        written
    }

    fn write_through(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_all_at(&self.fd, bytes, offset)?;
        if !self.direct {
            // Only what is on the disk can be dropped, and only then is its error known.
            rustix::fs::fdatasync(&self.fd)?;
            let _ = rustix::fs::fadvise(&self.fd, offset, NonZeroU64::new(bytes.len() as u64), Advice::DontNeed);
        }
        Ok(())
    }

    /// Whole blocks. Beyond the end of the file there are zeroes.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.progress.begin();
        let read = read_all_at(&self.fd, buffer, offset);
        self.progress.end();
        read
    }
}

/// What an error of the disk means: no room, or no good.
pub fn trouble(error: &io::Error) -> Trouble {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Trouble::Full,
        _ => Trouble::Failed,
    }
}

/// Whole blocks around a spot: what is read, and where in it the spot begins.
pub fn blocks(spot: &Spot) -> (u64, usize, usize) {
    let block = u64::from(BLOCK_BYTES);
    let start = spot.offset / block * block;
    let end = (spot.offset + u64::from(spot.bytes)).next_multiple_of(block);
    (start, (end - start) as usize, (spot.offset - start) as usize)
}

/// Turns O_DIRECT on, if a block can be written and read so: some file systems take the flag and refuse the write (FUSE), others the flag.
fn is_direct(fd: &OwnedFd) -> bool {
    let Ok(mut block) = Aligned::new(BLOCK_BYTES as usize) else { return false };
    let Ok(flags) = rustix::fs::fcntl_getfl(fd) else { return false };
    if rustix::fs::fcntl_setfl(fd, flags | OFlags::DIRECT).is_err() {
        return false;
    }
    // A full disk says nothing about the flag.
    let written = rustix::io::pwrite(fd, &block, 0).map_or_else(|errno| errno == Errno::NOSPC, |count| count == block.len());
    let works = written && rustix::io::pread(fd, &mut *block, 0).is_ok();
    if !works {
        let _ = rustix::fs::fcntl_setfl(fd, flags);
    }
    works
}

fn write_all_at(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => (bytes, offset) = (&bytes[count..], offset + count as u64),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_all_at(fd: &OwnedFd, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match rustix::io::pread(fd, &mut *buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(count) => (buffer, offset) = (&mut buffer[count..], offset + count as u64),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_past_the_page_cache_and_through_it() {
        for direct in [true, false] {
            let mut file = File::make(&std::env::temp_dir(), &Arc::default()).expect("file");
            if direct && !file.is_direct() {
                eprintln!("skipped: the file system of {:?} has no O_DIRECT", std::env::temp_dir());
                continue;
            }
            let flags = rustix::fs::fcntl_getfl(&file.fd).expect("flags");
            rustix::fs::fcntl_setfl(&file.fd, if direct { flags } else { flags - OFlags::DIRECT }).expect("flags");
            file.direct = direct;
            let segment = Spot { file: 0, offset: 1 << 20, bytes: 1 << 20 };
            file.allocate(&segment).expect("room");
            let mut buffer = Aligned::new(8192).expect("memory");
            buffer.fill(7);
            file.write(segment.offset, &buffer).expect("write");
            buffer.fill(1);
            file.read(segment.offset, &mut buffer).expect("read");
            assert!(buffer.iter().all(|byte| *byte == 7));
            assert!(file.give_back(&segment), "the file system takes room back");
            file.read(segment.offset, &mut buffer).expect("read");
            assert!(buffer.iter().all(|byte| *byte == 0));
            buffer.fill(1);
            file.read(4 << 20, &mut buffer).expect("read beyond the end");
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }
}
