//! Which local pages are old: a hand goes round the chunks that have any. Covers order and age; what is done to an old page is not its business.
//!
//! A list of single pages would cost 8 bytes and three cache misses a page. Instead every page carries the age of tmem at its put, one byte that
//! grows with the puts; the hand takes from the chunk before it the pages that are old, and leaves the young for its next round.
//! Neighbours so travel together, which is what a later read-ahead wants.

use super::entry::Entry;
use super::objects::{At, CHUNK_PAGES, NONE, Objects};
use super::states::State;
use crate::handle::PoolKind;

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
    pub fn old_pages(&mut self, kind: PoolKind, age: u8, take: &mut dyn FnMut(At, &Entry) -> bool) {
        let mut taken = false;
        for old in OLD {
            for _ in 0..self.rings[kind as usize].len.min(LOOK_CHUNKS) {
                let chunk = self.rings[kind as usize].head;
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
                self.rings[kind as usize].head = self.chunks[chunk as usize].ring_next;
            }
            if taken {
                return;
            }
        }
    }

    fn link(&mut self, chunk: u32) {
        let kind = self.chunks[chunk as usize].kind;
        let ring = &mut self.rings[kind as usize];
        ring.len += 1;
        if ring.head == NONE {
            ring.head = chunk;
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
        let (prev, next, kind) = {
            let chunk = &self.chunks[chunk as usize];
            (chunk.ring_prev, chunk.ring_next, chunk.kind)
        };
        let ring = &mut self.rings[kind as usize];
        ring.len -= 1;
        if ring.len == 0 {
            ring.head = NONE;
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
