//! The one name that this library exports for others: `ramster_preload_stats`, by which the Python module finds it and reads the stat block.

#![allow(unsafe_code)] // the attribute of an exported name, nothing else

use ramster_sys::preloaded::write_words;

use crate::start;

#[unsafe(no_mangle)]
pub extern "C" fn ramster_preload_stats(words: *mut u64, count: usize) -> usize {
    start::started().map_or(0, |state| write_words(state.pager.engine().stats().read().map(|(_, value)| value), words, count))
}
