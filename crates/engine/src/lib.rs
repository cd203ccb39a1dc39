//! The engine of one process: tmem behind a lock, lanes that fetch, a remotifier that sends, an optional file as the last holder, a link to the node.
//! Implements `Backend` for every door. Covers mechanism; how much, when and to whom comes in as [`Directives`].
#![forbid(unsafe_code)]

mod blocking;
mod brain;
mod bulk;
mod clock;
mod engine;
mod fetches;
mod fork;
mod gather;
mod histograms;
mod holders;
mod homeward;
mod identity;
mod land_shards;
mod lane;
mod limits;
mod links;
mod mending;
mod options;
mod packing;
mod placement;
mod putter;
mod random;
mod rebuild;
mod relink;
mod remotifier;
mod seals;
mod sending;
mod snapshot;
mod spill;
mod statblock;
mod threads;
mod verbs;

pub use clock::{now_ms, now_ns, now_us};
pub use engine::Engine;
pub use histograms::{HISTOGRAMS, Timed, ends_s};
pub use lane::{Arrival, Lane, LaneGet};
pub use options::{CodecName, CredentialsPem, Directives, Durability, Options, PeerAddr, StartError};
pub use putter::Putter;
pub use snapshot::{HolderSnapshot, Snapshot};
pub use statblock::{STAT_FIELDS, Stat, StatBlock};
