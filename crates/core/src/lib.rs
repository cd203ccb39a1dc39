//! The transcendent-memory core: pure. No socket, clock, thread, random source or `unsafe`; time and bytes come in, messages go out.
//! The files are the steps of a page's journey; `docs/design.md` tells it as a story.
#![forbid(unsafe_code)]

pub mod backend;
pub mod busy_poll;
pub mod compress;
pub mod foreign;
pub mod handle;
pub mod joining;
pub mod localify;
pub mod log;
pub mod page;
pub mod remotify;
pub mod seal;
pub mod shards;
pub mod store;
pub mod tmem;
pub mod wire;
