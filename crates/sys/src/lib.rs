//! ramster-sys: all `unsafe` of the project, each piece behind a safe interface. Covers what the kernel and libc do; no policy.
#![allow(unsafe_code)]

pub mod aio;
pub mod aligned;
pub mod allocator;
pub mod core_of;
pub mod frames;
pub mod gate;
pub mod lock;
pub mod mapping;
pub mod next;
pub mod preloaded;
#[cfg(feature = "python")]
pub mod python;
pub mod quiet;
pub mod residency;
pub mod say;
pub mod shared_words;
pub mod signals;
pub mod slabs;
#[cfg(feature = "mimalloc")]
pub mod small_blocks;
pub mod staging;
pub mod table;
pub mod thread_word;
pub mod touch;
pub mod uffd;
