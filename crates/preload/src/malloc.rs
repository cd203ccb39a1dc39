//! The malloc family as the program sees it: which allocator gets a request, and who owns a block. Covers C's rules (zero sizes, alignments, overflow,
//! errno); the allocators are `small`, `big` and libc's own.
#![allow(unsafe_code)] // the attributes of exported names, nothing else

use std::arch::naked_asm;

use ramster_sys::next;

use crate::start::{State, for_new_block, started};
use crate::{big, small};

/// From here on a block is a mapping of its own. libc's own limit is the same; half of it and a program of 100 KiB buffers would map and unmap all day, double and
/// growing by `realloc` copies more.
const BIG_BYTES: usize = 128 << 10;
/// A big block that shrinks stays one down to here, so that one going back and forth over the limit is not copied each time.
const STILL_BIG_BYTES: usize = BIG_BYTES / 2;
const MOST_BYTES: usize = isize::MAX as usize;

/// The allocating functions that the dynamic linker calls hand on who called them: the return address, as one more argument.
macro_rules! with_caller {
    ($name:ident, $x86_64:literal, $aarch64:literal, $to:ident) => {
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            naked_asm!(concat!("mov ", $x86_64, ", qword ptr [rsp]"), "jmp {}", sym $to);
            #[cfg(target_arch = "aarch64")]
            naked_asm!(concat!("mov ", $aarch64, ", x30"), "b {}", sym $to);
        }
    };
}

with_caller!(malloc, "rsi", "x1", malloc_from);
with_caller!(calloc, "rdx", "x2", calloc_from);
with_caller!(realloc, "rdx", "x2", realloc_from);

extern "C" fn malloc_from(size: usize, caller: usize) -> usize {
    match for_new_block(caller) {
        Some(state) if size >= BIG_BYTES => big_or_libc(state, size, false),
        Some(state) if state.small => small::alloc(size),
        _ => next::libc_malloc(size),
    }
}

extern "C" fn calloc_from(count: usize, size: usize, caller: usize) -> usize {
    let Some(state) = for_new_block(caller) else { return next::libc_calloc(count, size) };
    match count.checked_mul(size) {
        None => no_memory(),
        Some(bytes) if bytes >= BIG_BYTES => big_or_libc(state, bytes, true),
        Some(bytes) if state.small => small::alloc_zeroed(bytes),
        Some(bytes) => next::libc_calloc(1, bytes),
    }
}

extern "C" fn realloc_from(block: usize, size: usize, caller: usize) -> usize {
    if block == 0 {
        return malloc_from(size, caller);
    }
    let owner = started().filter(|state| state.arena.contains(&block));
    if size == 0 {
        // glibc's choice: the block is freed and there is no new one.
        free(block);
        return 0;
    }
    match owner {
        Some(state) => match big::len(block) {
            Some(len) if (STILL_BIG_BYTES..=MOST_BYTES).contains(&size) => big::resize(state, block, len, size).unwrap_or(0),
            Some(len) => move_block(block, len, size, caller),
            None if size < BIG_BYTES => small::realloc(block, size),
            None => move_block(block, small::usable_size(block), size, caller),
        },
        None if size >= BIG_BYTES && for_new_block(caller).is_some() => {
            move_block(block, next::libc_usable_size(block), size, caller)
        }
        None => next::libc_realloc(block, size),
    }
}

/// From one allocator to another. On failure the old block is as it was.
fn move_block(block: usize, old_len: usize, size: usize, caller: usize) -> usize {
    let new = malloc_from(size, caller);
    if new != 0 {
        next::copy(block, new, old_len.min(size));
        free(block);
    }
    new
}

#[cold]
fn big_or_libc(state: &State, size: usize, zeroed: bool) -> usize {
    if size > MOST_BYTES {
        return no_memory();
    }
    // What the arena cannot hold the kernel may, or it will say why not.
    big::alloc(state, size, 1, zeroed).unwrap_or_else(|| next::libc_calloc(1, size))
}

fn no_memory() -> usize {
    next::set_errno(libc::ENOMEM);
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn free(block: usize) {
    match started() {
        Some(state) if state.arena.contains(&block) => {
            if !big::free(state, block) {
                small::free(block);
            }
        }
        _ => next::libc_free(block),
    }
}

/// C23's hints; the block is found by its address anyway.
#[unsafe(no_mangle)]
pub extern "C" fn free_sized(block: usize, _size: usize) {
    free(block);
}

#[unsafe(no_mangle)]
pub extern "C" fn free_aligned_sized(block: usize, _alignment: usize, _size: usize) {
    free(block);
}

#[unsafe(no_mangle)]
pub extern "C" fn malloc_usable_size(block: usize) -> usize {
    match started() {
        Some(state) if state.arena.contains(&block) => big::len(block).unwrap_or_else(|| small::usable_size(block)),
        _ if block == 0 => 0,
        _ => next::libc_usable_size(block),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn reallocarray(block: usize, count: usize, size: usize) -> usize {
    match count.checked_mul(size) {
        Some(bytes) => realloc_from(block, bytes, 0),
        None => no_memory(),
    }
}

/// `alignment` is a power of two.
fn aligned(alignment: usize, size: usize) -> usize {
    if size > MOST_BYTES - alignment {
        return no_memory();
    }
    match for_new_block(0) {
        Some(state) if size >= BIG_BYTES || alignment >= BIG_BYTES => {
            big::alloc(state, size.max(1), alignment, false).unwrap_or_else(|| next::libc_memalign(alignment, size))
        }
        Some(state) if state.small => small::alloc_aligned(size, alignment),
        _ => next::libc_memalign(alignment, size),
    }
}

/// An alignment that is no power of two is rounded up to one, as glibc does.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(alignment: usize, size: usize) -> usize {
    match alignment.checked_next_power_of_two() {
        Some(alignment) if alignment <= MOST_BYTES => aligned(alignment, size),
        _ => {
            next::set_errno(libc::EINVAL);
            0
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(alignment: usize, size: usize) -> usize {
    memalign(alignment, size)
}

#[unsafe(no_mangle)]
pub extern "C" fn posix_memalign(target: usize, alignment: usize, size: usize) -> i32 {
    if !alignment.is_power_of_two() || !alignment.is_multiple_of(size_of::<usize>()) {
        return libc::EINVAL;
    }
    let before = next::errno();
    let block = if alignment <= MOST_BYTES { aligned(alignment, size) } else { 0 };
    next::set_errno(before);
    if block == 0 {
        return libc::ENOMEM;
    }
    next::store(target, block);
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> usize {
    memalign(next::PAGE_BYTES, size)
}

#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> usize {
    match size.checked_next_multiple_of(next::PAGE_BYTES) {
        Some(size) => memalign(next::PAGE_BYTES, size),
        None => no_memory(),
    }
}
