//! mimalloc, which keeps small blocks of a preloaded program. Its memory comes from the `mmap` that it is linked with: the preload library's,
//! so small blocks are managed too. Covers the calls and the settings; who may call when is the preload crate's gate.

use std::ffi::c_void;

use libmimalloc_sys as mi;

// Numbers of mimalloc 2's options, in the order of its header.
const ARENA_EAGER_COMMIT: i32 = 4;
const DESTROY_ON_EXIT: i32 = 22;
const ARENA_RESERVE_KIB: i32 = 23;

/// To be called once, before the first block.
pub fn set_up() {
    // SAFETY: options are plain words; nothing else runs in mimalloc yet.
    unsafe {
        // One read-write arena instead of a PROT_NONE one that is opened piece by piece: fewer, larger mappings. Untouched pages cost nothing.
        mi::mi_option_set(ARENA_EAGER_COMMIT, 1);
        // mimalloc's default of 1 GiB would be asked for by every little tool of a shell pipeline. It doubles as a program grows.
        mi::mi_option_set(ARENA_RESERVE_KIB, 128 << 10);
        // 2: do nothing at exit. Otherwise it would walk through all its pages, evicted ones included, to free what exit frees anyway.
        mi::mi_option_set(DESTROY_ON_EXIT, 2);
    }
}

pub fn alloc(size: usize) -> usize {
    // SAFETY: any size is fine.
    unsafe { mi::mi_malloc(size) as usize }
}

pub fn alloc_zeroed(size: usize) -> usize {
    // SAFETY: any size is fine.
    unsafe { mi::mi_zalloc(size) as usize }
}

/// `alignment` must be a power of two.
pub fn alloc_aligned(size: usize, alignment: usize) -> usize {
    // SAFETY: any size is fine; a bad alignment gives null.
    unsafe { mi::mi_malloc_aligned(size, alignment) as usize }
}

pub fn realloc(block: usize, size: usize) -> usize {
    // SAFETY: the C caller says that `block` is a live block; it lies in the arena and is no big one, so mimalloc made it.
    unsafe { mi::mi_realloc(block as *mut c_void, size) as usize }
}

pub fn usable_size(block: usize) -> usize {
    // SAFETY: as for realloc.
    unsafe { mi::mi_usable_size(block as *const c_void) }
}

pub fn free(block: usize) {
    // SAFETY: as for realloc.
    unsafe { mi::mi_free(block as *mut c_void) }
}
