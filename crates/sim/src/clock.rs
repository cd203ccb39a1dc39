//! Simulated time: events in a heap, and a clock that jumps from one to the next. Covers order and what an event is; acting on one is `world.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ramster_core::wire::frame::Side;

use crate::net::WireId;

pub const MS: u64 = 1000;
pub const SECOND: u64 = 1000 * MS;
pub const HOUR: u64 = 3600 * SECOND;

/// Owners and holders are named by place and life: what was meant for an earlier life is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    pub place: usize,
    pub life: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Bytes, or the end of them, have reached this side of a wire.
    Arrive(WireId, Side),
    /// This side may write again.
    Room(WireId, Side),
    /// This side sees that the wire is dead.
    Broken(WireId, Side),
    /// The program of an owner does the next thing.
    Program(Who),
    /// A put that found a full store is tried again.
    PutAgain(Who, u64),
    Remotify(Who),
    Lane(Who),
    /// A link that is being opened may have taken too long.
    Opening(Who),
    Fork(Who),
    /// The disk has taken a batch.
    Written(Who),
    /// What membership says reaches an owner.
    View(Who),
    /// A holder has whole frames left to answer on that link.
    HolderTurn(Who, WireId),
    /// A deadline of a holder's links may be over.
    HolderSweep(Who),
    /// The script of failures goes on.
    Fault,
    /// Wires of a pair that is still cut are dead.
    Silence,
    /// A failure ends.
    Over(u64),
    /// A holder is looked at, whether it may stop.
    Drain(Who),
    /// An owner's place is taken again.
    Start(usize),
}

struct Queued {
    at_us: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Default)]
pub struct Clock {
    pub now_us: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
}

impl Clock {
    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    pub fn at(&mut self, at_us: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Queued { at_us: at_us.max(self.now_us), number: self.number, event }));
    }

    /// The clock jumps to the next event.
    pub fn next(&mut self) -> Option<Event> {
        let Reverse(Queued { at_us, event, .. }) = self.queue.pop()?;
        self.now_us = at_us;
        Some(event)
    }
}
