//! Reads and writes of memory by its address, as a program would: what the pager's tests do to managed memory. An address that is not mapped ends the
//! process with SIGSEGV, one whose page is lost with SIGBUS; nothing else of this process may live there.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use ramster_core::page::{PAGE_BYTES, Page};
use rustix::io::Errno;

fn word(addr: usize) -> &'static AtomicU64 {
    assert!(addr.is_multiple_of(8), "not the address of a word");
    // SAFETY: aligned; the caller names memory that it mapped for itself, which no other reference covers; atomics may race.
    unsafe { &*(addr as *const AtomicU64) }
}

pub fn load(addr: usize) -> u64 {
    word(addr).load(Ordering::Acquire)
}

pub fn store(addr: usize, value: u64) {
    word(addr).store(value, Ordering::Release);
}

pub fn write_page(addr: usize, page: &Page) {
    for (index, bytes) in page.as_chunks::<8>().0.iter().enumerate() {
        store(addr + index * 8, u64::from_ne_bytes(*bytes));
    }
}

pub fn read_page(addr: usize) -> Page {
    let mut page = [0; PAGE_BYTES];
    for (index, bytes) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *bytes = load(addr + index * 8).to_ne_bytes();
    }
    page
}

/// read(2) into the memory at `addr`, by the kernel's own hand.
pub fn read_into(fd: BorrowedFd<'_>, addr: usize, len: usize) -> Result<usize, Errno> {
    // SAFETY: the kernel checks the addresses; the caller names memory that it mapped for itself.
    result(unsafe { libc::read(fd.as_raw_fd(), addr as *mut libc::c_void, len) })
}

/// write(2) of the memory at `addr`. What is not mapped is an error (EFAULT), not a signal.
pub fn write_from(fd: BorrowedFd<'_>, addr: usize, len: usize) -> Result<usize, Errno> {
    // SAFETY: as above, and only read.
    result(unsafe { libc::write(fd.as_raw_fd(), addr as *const libc::c_void, len) })
}

fn result(done: isize) -> Result<usize, Errno> {
    if done < 0 {
        return Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)));
    }
    Ok(done as usize)
}
