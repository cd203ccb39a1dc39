//! libramster_preload.so: put under an unmodified program by LD_PRELOAD, it takes over anonymous `mmap` and the malloc family, so that the program's
//! big data lives in memory that the pager manages. Needs no Python. Covers which call goes where; what happens to managed memory is the pager's.
//!
//! A call goes to the kernel or to libc, unchanged, when
//! - the library has not started: no `RAMSTER_OPTIONS` in the environment, or too early in the life of the process;
//! - the thread is inside this library, or is one of its own (`thread_word`): what libc and the dynamic linker need for those threads must never be
//!   managed, or a thread that answers page faults could wait for itself;
//! - the dynamic linker makes it: its TLS vectors and link maps are read by every thread, ours included (`linker_range`).
//!
//! No recursion: our code never calls an exported function of this library except from mimalloc, whose mmap becomes a pager call; the pager's
//! own calls are inside, and its heap is [`HEAP`], which asks the kernel directly. A block's address says who made it: outside the arena libc,
//! inside it the table of big blocks, else mimalloc.

mod big;
mod fork;
mod malloc;
mod maps;
mod quiesce;
mod small;
mod span;
mod start;
mod stats;

#[global_allocator]
static HEAP: ramster_sys::allocator::OwnHeap = ramster_sys::allocator::OwnHeap::new();
