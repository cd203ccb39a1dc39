//! Reads of a file that nobody waits for in the kernel: the reader hands them over and hears of each by a descriptor that it polls with its others. Linux AIO,
//! for files opened past the page cache (others would be read while they are handed over). Covers the calls and the buffers, which the kernel writes into
//! meanwhile; what is read is the caller's business.
//!
//! Not io_uring, which containers commonly forbid; these calls are in their usual lists of what is allowed.

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::io::Errno;

const READ: u16 = 0;
/// The descriptor is made readable when a read has ended.
const TELL: u32 = 1;
/// What cannot be begun at once ends with AGAIN: whoever hands it over never waits (for a lock of the file, a place in the disk's queue).
const NO_WAIT: u32 = 8;

/// `struct iocb`, little endian.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    told_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Ended {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// `N` buffers, each with one read under way at most. A forked child has neither: it MUST forget the value.
pub struct Aio<const N: usize> {
    context: usize,
    base: usize,
    buffer_bytes: usize,
    busy: [bool; N],
}

impl<const N: usize> Aio<N> {
    /// Buffers of `buffer_bytes`, whole pages, which cost nothing until something is read into them. An error: not on this system, or too many are in use.
    pub fn new(buffer_bytes: usize) -> Result<Self, Errno> {
        let base = crate::mapping::map_table(N * buffer_bytes)?;
        // A child would get copies of pages that the disk is writing to. Advice: without it the child has them.
        let _ = crate::mapping::advise(base, N * buffer_bytes, libc::MADV_DONTFORK);
        let mut context = 0usize;
        // SAFETY: the kernel writes one word, to a local.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, N, &raw mut context) };
        let made = result(made);
        let aio = Aio { context, base, buffer_bytes, busy: [false; N] };
        made.map(|_| aio)
    }

    pub fn is_busy(&self, index: usize) -> bool {
        self.busy[index]
    }

    /// Begins to read `bytes` from `offset`, both in whole blocks, into the buffer, which must not be busy. `told` becomes readable when it has ended.
    pub fn read(
        &mut self,
        index: usize,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: usize,
        told: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        if self.busy[index] || bytes > self.buffer_bytes {
            return Err(Errno::INVAL);
        }
        let mut request = Request {
            data: index as u64,
            rw_flags: NO_WAIT,
            opcode: READ,
            fd: file.as_raw_fd() as u32,
            buffer: (self.base + index * self.buffer_bytes) as u64,
            bytes: bytes as u64,
            offset: offset as i64,
            flags: TELL,
            told_fd: told.as_raw_fd() as u32,
            ..Request::default()
        };
        let list = [&raw mut request];
        // SAFETY: the kernel copies the request now, and keeps both files open itself. It writes to a buffer that nobody reads or gives back while it is busy.
        result(unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_ptr()) })?;
        self.busy[index] = true;
        Ok(())
    }

    /// Tells of the reads that have ended: which buffer, and how many bytes (fewer at the end of a file), or why not.
    pub fn take(&mut self, mut ended: impl FnMut(usize, Result<usize, Errno>)) {
        let mut events = [Ended::default(); N];
        let no_time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes N events at most, to a local.
        let count = unsafe { libc::syscall(libc::SYS_io_getevents, self.context, 0, N, events.as_mut_ptr(), &raw const no_time) };
        for event in events.iter().take(result(count).unwrap_or(0)) {
            let index = event.data as usize;
            if index < N {
                self.busy[index] = false;
                ended(index, usize::try_from(event.result).map_err(|_| Errno::from_raw_os_error(-event.result as i32)));
            }
        }
    }

    /// What has been read. Nothing while a read is under way.
    pub fn bytes(&self, index: usize) -> &[u8] {
        if self.busy[index] {
            return &[];
        }
        // SAFETY: mapped by `new` and initialised by the kernel; no read into it is under way, and none begins while `self` is borrowed.
        unsafe { std::slice::from_raw_parts((self.base + index * self.buffer_bytes) as *const u8, self.buffer_bytes) }
    }
}

impl<const N: usize> Drop for Aio<N> {
    fn drop(&mut self) {
        if self.context != 0 {
            // SAFETY: made by `new`. The call returns when no read is under way any more.
            let _ = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
        }
        // SAFETY: mapped by `new`; nobody writes to it any more, and nothing borrows it.
        let _ = unsafe { rustix::mm::munmap(self.base as *mut core::ffi::c_void, N * self.buffer_bytes) };
    }
}

fn result(result: i64) -> Result<usize, Errno> {
    usize::try_from(result)
        .map_err(|_| Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
    use rustix::fd::AsFd;
    use rustix::fs::{Mode, OFlags};
    use std::io::Write;

    const DEADLINE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

    #[test]
    fn several_reads_are_under_way_at_once_and_each_lands_in_its_buffer() {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let fd = rustix::fs::open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR).expect("file");
        let mut file = std::fs::File::from(fd);
        (1..=8u8).for_each(|block| file.write_all(&[block; 4096]).expect("write"));
        file.sync_all().expect("sync");
        if rustix::fs::fcntl_setfl(&file, OFlags::RDWR | OFlags::DIRECT).is_err() {
            eprintln!("skipped: the file system of {:?} has no O_DIRECT", std::env::temp_dir());
            return;
        }
        let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
        let mut aio = Aio::<4>::new(8192).expect("aio");
        for index in 0..4 {
            aio.read(index, file.as_fd(), index as u64 * 8192, 8192, told.as_fd()).expect("read");
            assert!(aio.bytes(index).is_empty(), "nobody sees a buffer that the disk writes to");
        }
        assert_eq!(aio.read(0, file.as_fd(), 0, 4096, told.as_fd()), Err(Errno::INVAL));
        let mut left = 4;
        while left > 0 {
            assert_eq!(poll(&mut [PollFd::new(&told, PollFlags::IN)], Some(&DEADLINE)), Ok(1), "told in time");
            let _ = rustix::io::read(&told, &mut [0; 8]);
            aio.take(|index, read| {
                assert!(index < 4 && read == Ok(8192), "{index} {read:?}");
                left -= 1;
            });
        }
        for index in 0..4 {
            let (first, second) = aio.bytes(index).split_at(4096);
            assert!(
                first.iter().all(|byte| *byte == 2 * index as u8 + 1) && second.iter().all(|byte| *byte == 2 * index as u8 + 2)
            );
        }
        aio.read(1, file.as_fd(), 64 << 10, 4096, told.as_fd()).expect("read");
        assert_eq!(poll(&mut [PollFd::new(&told, PollFlags::IN)], Some(&DEADLINE)), Ok(1), "told in time");
        aio.take(|index, read| assert_eq!((index, read), (1, Ok(0)), "beyond the end there is nothing"));
    }
}
