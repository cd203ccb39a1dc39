//! The last things that happened, for the day when something happens that must not. Covers a small ring and the telling of one page's story.

use super::states::{Event, State};
use crate::handle::Handle;
use std::fmt::Write;

/// Some milliseconds of a busy engine; 32 KiB. A story is wanted from the moment before a bug, so more would hardly help.
const RING: usize = 1024;

#[derive(Clone, Copy)]
struct Line {
    object: u32,
    index: u32,
    version: u32,
    from: State,
    event: Event,
}

#[derive(Clone)]
pub struct Story {
    lines: Box<[Line]>,
    told: usize,
}

impl Story {
    pub fn new() -> Self {
        let nothing = Line { object: u32::MAX, index: 0, version: 0, from: State::Absent, event: Event::Flush };
        Story { lines: vec![nothing; RING].into_boxed_slice(), told: 0 }
    }

    pub fn tell(&mut self, object: u32, index: u32, version: u32, from: State, event: Event) {
        self.lines[self.told % RING] = Line { object, index, version, from, event };
        self.told += 1;
    }

    /// Oldest first: what happened to this page, as far as the ring remembers.
    pub fn of(&self, object: u32, handle: &Handle) -> String {
        let mut story = format!("pool {} object {:x?} index {}:", handle.pool.0, handle.object.0, handle.index);
        for step in self.told.saturating_sub(RING)..self.told {
            let line = &self.lines[step % RING];
            if (line.object, line.index) == (object, handle.index) {
                let _ = write!(story, " {:?}+{:?}(v{})", line.from, line.event, line.version);
            }
        }
        story
    }
}
