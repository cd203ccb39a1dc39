//! Raw anonymous memory: reserve, map, unmap, protect, advise, move. Every call is a system call of its own, never a libc symbol, since the preload
//! library takes those over. Addresses are plain numbers; that a range is ours to change is the caller's promise, kept by the pager's region table.

use core::ffi::c_void;

use rustix::io::Errno;

/// One big range of addresses that the kernel gives to nobody else. Everything managed lives in it.
pub fn reserve(len: usize) -> Result<usize, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map_raw(0, len, libc::PROT_NONE, flags)
}

/// Gives the pages of a range back and keeps its addresses reserved.
pub fn vacate(addr: usize, len: usize) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    map_raw(addr, len, libc::PROT_NONE, flags).map(drop)
}

/// Fresh zero pages at exactly this address, in place of what is there.
pub fn map_at(addr: usize, len: usize, prot: i32) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    map_raw(addr, len, prot, flags).map(drop)
}

/// At exactly this address, a mapping of a file that has no such page: every access raises SIGBUS.
pub fn map_nothing(addr: usize, len: usize) -> Result<(), Errno> {
    let empty = rustix::fs::memfd_create(c"ramster-lost", rustix::fs::MemfdFlags::CLOEXEC)?;
    let (prot, flags) =
        (rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE, rustix::mm::MapFlags::PRIVATE | rustix::mm::MapFlags::FIXED);
    // SAFETY: a fixed mapping over an address that the caller's table says is ours; the mapping keeps the file alive.
    unsafe { rustix::mm::mmap(addr as *mut c_void, len, prot, flags, &empty, 0) }.map(drop)
}

/// Memory of our own, anywhere; untouched parts cost nothing. Never given back: it holds tables that live as long as the process.
pub fn map_table(len: usize) -> Result<usize, Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map_raw(0, len, libc::PROT_READ | libc::PROT_WRITE, flags)
}

pub fn protect(addr: usize, len: usize, prot: i32) -> Result<(), Errno> {
    call(libc::SYS_mprotect, [addr, len, prot as usize, 0, 0]).map(drop)
}

pub fn advise(addr: usize, len: usize, advice: i32) -> Result<(), Errno> {
    call(libc::SYS_madvise, [addr, len, advice as usize, 0, 0]).map(drop)
}

/// Gives the pages of a range back; the next touch sees zeroes (or a userfault, where the range is registered).
pub fn discard(addr: usize, len: usize) -> Result<(), Errno> {
    advise(addr, len, libc::MADV_DONTNEED)
}

/// Moves the pages of a mapping to exactly `to`, in place of what is there; the old addresses stay mapped and empty, so that nobody else gets them.
pub fn move_to(from: usize, len: usize, to: usize) -> Result<(), Errno> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    call(libc::SYS_mremap, [from, len, len, flags as usize, to]).map(drop)
}

pub fn lock(addr: usize, len: usize) -> Result<(), Errno> {
    call(libc::SYS_mlock, [addr, len, 0, 0, 0]).map(drop)
}

pub fn unlock(addr: usize, len: usize) -> Result<(), Errno> {
    call(libc::SYS_munlock, [addr, len, 0, 0, 0]).map(drop)
}

pub fn lock_all(flags: i32) -> Result<(), Errno> {
    call(libc::SYS_mlockall, [flags as usize, 0, 0, 0, 0]).map(drop)
}

pub fn unlock_all() -> Result<(), Errno> {
    call(libc::SYS_munlockall, [0; 5]).map(drop)
}

fn map_raw(addr: usize, len: usize, prot: i32, flags: i32) -> Result<usize, Errno> {
    // SAFETY: anonymous memory at an address the kernel chooses, or at a fixed one that the caller's table says is ours.
    let got = unsafe {
        rustix::mm::mmap_anonymous(
            addr as *mut c_void,
            len,
            rustix::mm::ProtFlags::from_bits_retain(prot as u32),
            rustix::mm::MapFlags::from_bits_retain((flags & !libc::MAP_ANONYMOUS) as u32),
        )
    }?;
    Ok(got as usize)
}

fn call(number: libc::c_long, args: [usize; 5]) -> Result<usize, Errno> {
    // SAFETY: the calls made through here change only page tables of the range they name, which the caller's table says is ours.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    if result == -1 {
        return Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)));
    }
    Ok(result as usize)
}
