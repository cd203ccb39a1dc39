//! Ephemeral pages in the order of their puts: those that may go when room is needed, oldest first. A get of one takes it away from here, so the oldest put is
//! also the one that nobody has wanted for longest. Covers the order alone; an entry may be out of date, and whoever drops looks at the page itself.

use std::collections::VecDeque;

use super::Seat;
use crate::handle::{Handle, Version};

/// Below this it is not worth sorting out what is out of date.
const LEAST: usize = 1024;

#[derive(Clone, Copy)]
pub(super) struct Dropped {
    pub seat: Seat,
    pub handle: Handle,
    pub version: Version,
}

pub(super) struct Droppable {
    queue: VecDeque<Dropped>,
    /// At this length what is out of date is sorted out: so there is never more than twice of what is needed.
    sort_at: usize,
}

impl Default for Droppable {
    fn default() -> Self {
        Droppable { queue: VecDeque::new(), sort_at: LEAST }
    }
}

impl Droppable {
    pub fn push(&mut self, dropped: Dropped) {
        self.queue.push_back(dropped);
    }

    pub fn is_to_be_sorted(&self) -> bool {
        self.queue.len() >= self.sort_at
    }

    pub fn sort_out(&mut self, is_current: impl FnMut(&Dropped) -> bool) {
        self.queue.retain(is_current);
        self.queue.shrink_to(self.queue.len() * 2);
        self.sort_at = (self.queue.len() * 2).max(LEAST);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// The oldest, which may be out of date.
    pub fn pop(&mut self) -> Option<Dropped> {
        self.queue.pop_front()
    }
}
