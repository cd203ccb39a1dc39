//! ramster-sys: all `unsafe` of the project, each piece behind a safe interface. Covers what the kernel and libc do; no policy.
#![allow(unsafe_code)]

pub mod lock;
pub mod quiet;
pub mod say;
pub mod shared_words;
