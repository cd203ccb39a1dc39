//! An array of 64-bit words shared by all processes that map one file: the statistics of a process tree. Without a file: private to the process.
//! Covers mapping and atomic access; the meaning of each word is the engine's.

use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

pub struct SharedWords {
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping lives as long as the value, and every access is atomic.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `count` words of the file, which is made or lengthened as needed; whoever maps it first finds zeroes.
    pub fn open(path: Option<&Path>, count: usize) -> io::Result<Self> {
        let bytes = count * 8;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let base = match path {
            None => {
                // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
                unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::PRIVATE)? }
            }
            Some(path) => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
                let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
                if rustix::fs::fstat(&file)?.st_size < bytes as i64 {
                    rustix::fs::ftruncate(&file, bytes as u64)?;
                }
                // SAFETY: a fresh shared mapping at an address of the kernel's choice; the file is long enough.
                unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, &file, 0)? }
            }
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedWords { base, count })
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `count` words are mapped at `base`, page aligned, until drop; atomics may be shared with other processes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.count * 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn two_mappings_of_one_file_see_each_others_words() {
        let path = std::env::temp_dir().join(format!("ramster-words-{}", std::process::id()));
        let one = SharedWords::open(Some(&path), 64).expect("map");
        let two = SharedWords::open(Some(&path), 64).expect("map again");
        one.words()[63].fetch_add(7, Ordering::Relaxed);
        assert_eq!(two.words()[63].load(Ordering::Relaxed), 7);
        std::fs::remove_file(&path).expect("remove");
    }
}
