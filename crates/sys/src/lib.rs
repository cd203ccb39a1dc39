//! ramster-sys: all `unsafe` of the project, each piece behind a safe interface. Covers what the kernel and libc do; no policy.
#![allow(unsafe_code)]

pub mod allocator;
pub mod lock;
pub mod next;
pub mod quiet;
pub mod say;
pub mod shared_words;
#[cfg(feature = "mimalloc")]
pub mod small_blocks;
pub mod thread_word;
