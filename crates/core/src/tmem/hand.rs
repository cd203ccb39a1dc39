//! Which local pages are old: a hand goes round the chunks that have any. Covers order and age; what is done to an old page is not its business.
//!
//! A list of single pages would cost 8 bytes and three cache misses a page. Instead every page carries the age of tmem at its put, one byte that
//! grows with the puts; the hand takes from the chunk before it the pages that are old, and leaves the young for its next round.
//! Neighbours so travel together, which is what a later read-ahead wants.

use std::cmp::Reverse;

use super::entry::Entry;
use super::objects::{At, CHUNK_PAGES, NONE, Objects};
use super::states::State;
use crate::handle::Class;

/// The chunks that have local pages, in a circle; `head` is before the hand.
#[derive(Clone, Copy)]
pub struct Ring {
    pub head: u32,
    pub len: u32,
}

impl Ring {
    pub const EMPTY: Ring = Ring { head: NONE, len: 0 };
}

/// Ages that a page must have seen to be old at the first look, the second, the last.
const OLD: [u8; 3] = [2, 1, 0];
/// Chunks looked at in one round: 64 cost some microseconds under the lock.
const LOOK_CHUNKS: u32 = 64;

impl Objects {
    /// A page became local: its chunk joins the ring, at the far end.
    pub fn count_local(&mut self, at: At) {
        let chunk = &mut self.chunks[at.chunk as usize];
        chunk.local += 1;
        if chunk.local == 1 {
            self.link(at.chunk);
        }
    }

    /// A page is local no more.
    pub fn uncount_local(&mut self, at: At) {
        let chunk = &mut self.chunks[at.chunk as usize];
        chunk.local -= 1;
        if chunk.local == 0 {
            self.unlink(at.chunk);
        }
    }

    /// Old local pages, oldest first, until `take` says false. It must not change the ring.
    pub fn old_pages(&mut self, class: Class, age: u8, take: &mut dyn FnMut(At, &Entry) -> bool) {
        let mut taken = false;
        for old in OLD {
            for _ in 0..self.rings[class.index()].len.min(LOOK_CHUNKS) {
                let chunk = self.rings[class.index()].head;
                let mut bits = self.present(chunk);
                while bits != 0 {
                    let at = At { chunk, bit: bits.trailing_zeros() };
                    bits &= bits - 1;
                    let entry = self.entry(at);
                    if entry.state() == State::Local && entry.years(age) >= old {
                        if !take(at, entry) {
                            return;
                        }
                        taken = true;
                    }
                }
                // What is left of this chunk has its turn after all others.
                self.rings[class.index()].head = self.chunks[chunk as usize].ring_next;
            }
            if taken {
                return;
            }
        }
    }

    /// The persistent classes that have local pages, the one whose hand is before the oldest page first; equals in turn, from the one after `last` on.
    /// Looks at one chunk of each.
    pub fn classes_by_age(&self, age: u8, last: Class, out: &mut Vec<Class>) {
        out.clear();
        out.extend(self.local_classes.without(Class::EPHEMERAL).iter());
        if out.len() > 1 {
            let turn = |class: &Class| (class.index() + Class::COUNT - last.index() - 1) % Class::COUNT;
            out.sort_by_cached_key(|class| (Reverse(self.age_before_hand(*class, age)), turn(class)));
        }
    }

    fn age_before_hand(&self, class: Class, age: u8) -> u8 {
        let head = self.rings[class.index()].head;
        if head == NONE {
            return 0;
        }
        let local = self.pages_of(head).map(|at| self.entry(at)).filter(|entry| entry.state() == State::Local);
        local.map(|entry| entry.years(age)).max().unwrap_or(0)
    }

    fn link(&mut self, chunk: u32) {
        let class = self.chunks[chunk as usize].class;
        let ring = &mut self.rings[class.index()];
        ring.len += 1;
        if ring.head == NONE {
            ring.head = chunk;
            self.local_classes = self.local_classes.with(class);
            (self.chunks[chunk as usize].ring_prev, self.chunks[chunk as usize].ring_next) = (chunk, chunk);
            return;
        }
        let head = ring.head;
        let last = self.chunks[head as usize].ring_prev;
        (self.chunks[chunk as usize].ring_prev, self.chunks[chunk as usize].ring_next) = (last, head);
        self.chunks[last as usize].ring_next = chunk;
        self.chunks[head as usize].ring_prev = chunk;
    }

    fn unlink(&mut self, chunk: u32) {
        let (prev, next, class) = {
            let chunk = &self.chunks[chunk as usize];
            (chunk.ring_prev, chunk.ring_next, chunk.class)
        };
        let ring = &mut self.rings[class.index()];
        ring.len -= 1;
        if ring.len == 0 {
            ring.head = NONE;
            self.local_classes = self.local_classes.without(class);
            return;
        }
        if ring.head == chunk {
            ring.head = next;
        }
        self.chunks[prev as usize].ring_next = next;
        self.chunks[next as usize].ring_prev = prev;
    }
}

const _: () = assert!(CHUNK_PAGES == 64);
