//! The mmap family as the program sees it. Decides whether a call is the pager's, the kernel's, or has to be cut in two; results and errno are what the
//! kernel's own would be.
#![allow(unsafe_code)] // the attribute of exported names, nothing else

use std::ops::Range;

use ramster_pager::Pager;
use ramster_sys::next::{self, FAILED};
use rustix::io::Errno;

use crate::quiesce;
use crate::span::{HIGHEST, cut, pages, touches};
use crate::start::{State, for_new_memory, started, with_pager};

/// Mappings with one of these are not ours: their memory must be where the kernel put it, or is not plain memory.
const NOT_MANAGED: i32 = libc::MAP_STACK | libc::MAP_GROWSDOWN | libc::MAP_HUGETLB | libc::MAP_LOCKED | libc::MAP_32BIT;
const ANY_FIXED: i32 = libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE;

#[unsafe(no_mangle)]
pub extern "C" fn mmap(addr: usize, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> usize {
    let raw = || next::mmap(addr, len, prot, flags, fd, offset);
    if flags & ANY_FIXED != 0 {
        return match (started(), pages(addr, len)) {
            (Some(state), Some(range)) if touches(&range, &state.arena) => map_fixed(state, range, prot, flags, fd, offset),
            _ => raw(),
        };
    }
    let Some(state) = for_new_memory() else { return raw() };
    let plain = is_plain(flags) && prot & libc::PROT_EXEC == 0 && offset % 4096 == 0;
    let Some(range) = pages(0, len).filter(|range| plain && range.end >= state.threshold_bytes) else { return raw() };
    match with_pager(state, |pager| pager.map(range.end, prot, None)) {
        Some(at) => at,
        // Larger than the arena, perhaps: the kernel's answer is the right one. But blocks of mimalloc are told by lying in the arena.
        None if quiesce::is_inside() => FAILED,
        None => raw(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn mmap64(addr: usize, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> usize {
    mmap(addr, len, prot, flags, fd, offset)
}

fn is_plain(flags: i32) -> bool {
    flags & libc::MAP_TYPE == libc::MAP_PRIVATE && flags & libc::MAP_ANONYMOUS != 0 && flags & NOT_MANAGED == 0
}

/// A mapping at an address that somebody chose, touching the arena: plain memory stays managed, anything else takes its part of the arena away.
fn map_fixed(state: &State, range: Range<usize>, prot: i32, flags: i32, fd: i32, offset: i64) -> usize {
    if flags & libc::MAP_FIXED_NOREPLACE == libc::MAP_FIXED_NOREPLACE {
        // Every address of the arena is mapped, if only reserved.
        next::set_errno(libc::EEXIST);
        return FAILED;
    }
    if !is_plain(flags) && !would_work(range.len(), prot, flags, fd, offset) {
        return FAILED; // and what was there stays
    }
    for part in cut(range.clone(), &state.arena) {
        let (at, len) = (part.range.start, part.len());
        let offset = offset.wrapping_add((at - range.start) as i64);
        let done = if part.managed && is_plain(flags) {
            with_pager(state, |pager| pager.map(len, prot, Some(at))).unwrap_or(FAILED)
        } else if part.managed {
            with_pager(state, |pager| pager.map_foreign(at, len, || raw_at(at, len, prot, flags, fd, offset))).unwrap_or(FAILED)
        } else {
            next::mmap(at, len, prot, flags, fd, offset)
        };
        if done == FAILED {
            return FAILED;
        }
    }
    range.start
}

/// Tries a mapping elsewhere: one that the kernel refuses (a bad descriptor, say) must not cost the program what it would have replaced.
fn would_work(len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> bool {
    let at = next::mmap(0, len, prot, flags & !ANY_FIXED, fd, offset);
    at != FAILED && next::munmap(at, len) == 0
}

fn raw_at(at: usize, len: usize, prot: i32, flags: i32, fd: i32, offset: i64) -> Result<usize, Errno> {
    match next::mmap(at, len, prot, flags, fd, offset) {
        FAILED => Err(Errno::from_raw_os_error(next::errno())),
        at => Ok(at),
    }
}

/// Runs `raw` on the parts outside the arena and `managed` on the part inside, in order, up to the first failure.
fn each_part(
    addr: usize,
    len: usize,
    raw: impl Fn(usize, usize) -> i32,
    managed: impl Fn(&Pager, usize, usize) -> Result<(), Errno>,
) -> i32 {
    let Some((state, range)) = started().zip(pages(addr, len)).filter(|(state, range)| touches(range, &state.arena)) else {
        return raw(addr, len);
    };
    for part in cut(range, &state.arena) {
        let (at, len) = (part.range.start, part.len());
        let done =
            if part.managed { with_pager(state, |pager| managed(pager, at, len)).map_or(-1, |()| 0) } else { raw(at, len) };
        if done != 0 {
            return done;
        }
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn munmap(addr: usize, len: usize) -> i32 {
    each_part(addr, len, next::munmap, Pager::unmap)
}

#[unsafe(no_mangle)]
pub extern "C" fn mprotect(addr: usize, len: usize, prot: i32) -> i32 {
    each_part(addr, len, |at, len| next::mprotect(at, len, prot), |pager, at, len| pager.protect(at, len, prot))
}

#[unsafe(no_mangle)]
pub extern "C" fn madvise(addr: usize, len: usize, advice: i32) -> i32 {
    each_part(addr, len, |at, len| next::madvise(at, len, advice), |pager, at, len| pager.advise(at, len, advice))
}

/// Returns the error instead of setting errno. Like libc's, it does nothing for DONTNEED: POSIX's may not lose data, Linux's does.
#[unsafe(no_mangle)]
pub extern "C" fn posix_madvise(addr: usize, len: usize, advice: i32) -> i32 {
    if advice == libc::POSIX_MADV_DONTNEED {
        return 0;
    }
    let before = next::errno();
    let error = if madvise(addr, len, advice) == 0 { 0 } else { next::errno() };
    next::set_errno(before);
    error
}

/// mlock and its kin take any address and round it down.
fn from_page_start(addr: usize, len: usize) -> (usize, usize) {
    let into_page = addr % next::PAGE_BYTES;
    (addr - into_page, len.saturating_add(into_page))
}

#[unsafe(no_mangle)]
pub extern "C" fn mlock(addr: usize, len: usize) -> i32 {
    let (addr, len) = from_page_start(addr, len);
    each_part(addr, len, next::mlock, Pager::lock)
}

/// `MLOCK_ONFAULT` would lock pages as they are touched; in managed memory they are locked at once, which only costs memory.
#[unsafe(no_mangle)]
pub extern "C" fn mlock2(addr: usize, len: usize, flags: u32) -> i32 {
    if flags & !libc::MLOCK_ONFAULT != 0 {
        return next::mlock2(addr, len, flags);
    }
    let (addr, len) = from_page_start(addr, len);
    each_part(addr, len, |at, len| next::mlock2(at, len, flags), Pager::lock)
}

#[unsafe(no_mangle)]
pub extern "C" fn munlock(addr: usize, len: usize) -> i32 {
    let (addr, len) = from_page_start(addr, len);
    each_part(addr, len, next::munlock, Pager::unlock)
}

#[unsafe(no_mangle)]
pub extern "C" fn mlockall(flags: i32) -> i32 {
    match started() {
        Some(state) => with_pager(state, |pager| pager.lock_all(flags)).map_or(-1, |()| 0),
        None => next::mlockall(flags),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn munlockall() -> i32 {
    match started() {
        Some(state) => with_pager(state, Pager::unlock_all).map_or(-1, |()| 0),
        None => next::munlockall(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn mremap(old: usize, old_len: usize, new_len: usize, flags: i32, new: usize) -> usize {
    let raw = || next::mremap(old, old_len, new_len, flags, new);
    let Some((state, from)) = started().zip(pages(old, old_len)) else { return raw() };
    let fixed = flags & libc::MREMAP_FIXED != 0;
    let to = if fixed { pages(new, new_len) } else { None };
    let from_managed = touches(&from, &state.arena);
    let to_managed = to.as_ref().is_some_and(|to| touches(to, &state.arena));
    if !from_managed && !to_managed {
        return raw();
    }
    if !has_sense(&from, new_len, flags, fixed, to.as_ref()) {
        next::set_errno(libc::EINVAL);
        return FAILED;
    }
    let new_len = new_len.next_multiple_of(next::PAGE_BYTES);
    let within = |range: &Range<usize>| state.arena.start <= range.start && range.end <= state.arena.end;
    if !within(&from) && from_managed {
        next::set_errno(libc::EFAULT); // two mappings: the kernel moves only within one
        return FAILED;
    }
    let keep = flags & libc::MREMAP_DONTUNMAP != 0;
    let may_move = flags & libc::MREMAP_MAYMOVE != 0;
    let moved = match to {
        Some(to) if !from_managed => {
            with_pager(state, |pager| pager.map_foreign(to.start, to.len(), || raw_move(old, old_len, new_len, flags, new)))
        }
        Some(to) if !within(&to) => move_out(state, &from, &to, keep),
        to if keep => move_and_keep(state, &from, to.map(|to| to.start)),
        to => with_pager(state, |pager| pager.remap(old, from.len(), new_len, may_move, to.map(|to| to.start))),
    };
    moved.unwrap_or(FAILED)
}

/// The combinations that the kernel refuses with EINVAL.
fn has_sense(from: &Range<usize>, new_len: usize, flags: i32, fixed: bool, to: Option<&Range<usize>>) -> bool {
    let known = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    let may_move = flags & libc::MREMAP_MAYMOVE != 0;
    let keep = flags & libc::MREMAP_DONTUNMAP != 0;
    let same_len = new_len.checked_next_multiple_of(next::PAGE_BYTES) == Some(from.len());
    flags & !known == 0
        && (1..=HIGHEST).contains(&new_len)
        && (may_move || !(fixed || keep))
        && (same_len || !keep)
        && (!fixed || to.is_some_and(|to| !touches(to, from)))
}

fn raw_move(old: usize, old_len: usize, new_len: usize, flags: i32, new: usize) -> Result<usize, Errno> {
    match next::mremap(old, old_len, new_len, flags, new) {
        FAILED => Err(Errno::from_raw_os_error(next::errno())),
        at => Ok(at),
    }
}

/// MREMAP_DONTUNMAP: the pages move, the old addresses stay mapped and read as zeroes.
fn move_and_keep(state: &State, from: &Range<usize>, to: Option<usize>) -> Option<usize> {
    with_pager(state, |pager| pager.remap_keep(from.start, from.len(), to))
}

/// Managed pages to an address outside the arena: they are copied and managed no more. Rare; nobody's hot path.
fn move_out(state: &State, from: &Range<usize>, to: &Range<usize>, keep: bool) -> Option<usize> {
    if touches(to, &state.arena) {
        next::set_errno(libc::EFAULT);
        return None;
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    if next::mmap(to.start, to.len(), libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) == FAILED {
        return None;
    }
    next::copy(from.start, to.start, from.len().min(to.len()));
    let emptied = with_pager(state, |pager| {
        if keep { pager.advise(from.start, from.len(), libc::MADV_DONTNEED) } else { pager.unmap(from.start, from.len()) }
    });
    emptied.map(|()| to.start)
}
