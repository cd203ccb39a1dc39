//! Whether the preload library is in this process, asked from outside of it: by the one name that it exports for this. Covers the look-up.

use std::ffi::c_void;
use std::mem::transmute;

/// Writes up to `count` words of the stat block and returns how many; 0 when the library is there but has no pager.
type ReadStats = unsafe extern "C" fn(*mut u64, usize) -> usize;

fn reader() -> Option<ReadStats> {
    // SAFETY: a plain look-up by name; RTLD_DEFAULT needs no handle.
    let found: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"ramster_preload_stats".as_ptr()) };
    // SAFETY: only the preload library exports this name, with this type.
    (!found.is_null()).then(|| unsafe { transmute::<*mut c_void, ReadStats>(found) })
}

/// The library is here and its pager runs.
pub fn is_active() -> bool {
    read_stats(&mut [0])
}

/// Fills `words` from the stat block of the library's pager. False: there is none.
pub fn read_stats(words: &mut [u64]) -> bool {
    // SAFETY: the length belongs to the slice.
    reader().is_some_and(|read| unsafe { read(words.as_mut_ptr(), words.len()) } > 0)
}

/// For the library itself, which must not say `unsafe`: fills the words that [`read_stats`] passed.
#[expect(clippy::not_unsafe_ptr_arg_deref, reason = "the preload crate may not say unsafe; its caller is a C function's caller")]
pub fn write_words(values: impl Iterator<Item = u64>, words: *mut u64, count: usize) -> usize {
    // SAFETY: the caller is `read_stats` in another shared object, which passes a slice.
    let words = if words.is_null() { &mut [][..] } else { unsafe { std::slice::from_raw_parts_mut(words, count) } };
    words.iter_mut().zip(values).map(|(word, value)| *word = value).count()
}
