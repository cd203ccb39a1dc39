//! What a program does with its pages: puts, flushes, pools. Covers the put and its patience, and drawing what to do next; mirrors engine/putter.rs and
//! verbs.rs. The get is `gets.rs`.

use ramster_core::backend::{Keep, Put, Refusal};
use ramster_core::compress::{Kind, Packed};
use ramster_core::handle::{Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::{Digest, Page, same_value};
use ramster_core::tmem::Answer;

use super::Owner;
use crate::clock::{Event, MS};
use crate::ctx::Ctx;
use crate::pages::page_of;

/// As in engine/verbs.rs.
const PUT_PATIENCE_MS: u64 = 2000;
const LOOK_AGAIN_MS: u64 = 100;
/// Pages that one step of a program touches at most.
const BURST_PAGES: u64 = 12;

/// A put that waits for room.
#[derive(Clone, Copy)]
pub struct Putting {
    handle: Handle,
    content: u32,
    deadline_ms: u64,
}

impl Owner {
    pub fn new_pool(&mut self, kind: PoolKind) {
        let pool = self.tmem.new_pool(kind).expect("pools end at 65536");
        self.model.pools.insert(pool, kind);
    }

    /// The next thing that the program does.
    pub fn program(&mut self, ctx: &mut Ctx) {
        let think_us = ctx.random.wait(self.settings.think_us);
        ctx.clock.after(think_us, Event::Program(self.who));
        let first = self.draw_handle(ctx);
        let pages = 1 + ctx.random.below(BURST_PAGES) as u32;
        match ctx.random.below(1000) {
            0..450 => self.put_burst(ctx, &first, pages),
            450..880 => {
                let keep = ctx.random.pick(&[Keep::Keep, Keep::Keep, Keep::KeepRemote, Keep::KeepRemote, Keep::Free]);
                for index in first.index..first.index.saturating_add(pages) {
                    self.get(ctx, Handle { index, ..first }, keep);
                }
            }
            880..950 => {
                self.tmem.flush_page(&first);
                self.model.forget(&first);
            }
            950..985 => {
                let count = if ctx.random.one_in(4) { u32::MAX } else { ctx.random.below(100) as u32 };
                self.tmem.flush_range(&first, count);
                self.model.forget_range(&first, count);
            }
            985..993 => {
                self.tmem.flush_object(first.pool, first.object);
                self.model.forget_object(first.pool, first.object);
            }
            993..996 => self.renew_pool(first.pool),
            _ => {
                self.tmem.compact(64 << 10);
            }
        }
        self.note_flushes(ctx);
    }

    /// Another pool of the same kind takes its place.
    fn renew_pool(&mut self, pool: PoolId) {
        let Some(kind) = self.model.pools.get(&pool).copied() else { return };
        self.tmem.destroy_pool(pool);
        self.model.forget_pool(pool);
        let handle = Handle { pool, object: ObjectId([0; 3]), index: 0 };
        let packed = Packed { kind: Kind::Same(1), digest: Digest::default(), bytes: &[] };
        assert_eq!(self.tmem.put(&handle, packed), Put::Rejected(Refusal::NoSuchPool));
        self.new_pool(kind);
    }

    pub fn destroy_pools(&mut self, ctx: &mut Ctx) {
        for pool in self.model.pools.keys().copied().collect::<Vec<_>>() {
            self.tmem.destroy_pool(pool);
            self.model.forget_pool(pool);
        }
        self.note_flushes(ctx);
    }

    fn draw_handle(&mut self, ctx: &mut Ctx) -> Handle {
        let which = ctx.random.below(self.model.pools.len() as u64) as usize;
        let pool = self.model.pools.keys().nth(which).copied().unwrap_or(PoolId(0));
        let number = ctx.random.below(self.settings.objects);
        // Some near the end of all indexes: ranges must not wrap.
        let index = ctx.random.below(u64::from(self.settings.indexes)) as u32;
        let index = if number == 0 && ctx.random.one_in(16) { u32::MAX - index % 8 } else { index };
        Handle { pool, object: ObjectId([number, !number, 7]), index }
    }

    fn put_burst(&mut self, ctx: &mut Ctx, first: &Handle, pages: u32) {
        for index in first.index..first.index.saturating_add(pages) {
            let handle = Handle { index, ..*first };
            let known = self.model.pages.get(&handle).map(|truth| truth.content);
            let content = match known {
                // The same again: nothing has to travel.
                Some(content) if ctx.random.one_in(4) => content,
                _ => {
                    self.next_content = self.next_content.wrapping_add(1);
                    self.next_content
                }
            };
            let deadline_ms = ctx.now_ms() + PUT_PATIENCE_MS;
            self.put(ctx, Putting { handle, content, deadline_ms });
        }
        ctx.tell(|| format!("owner {}: puts {pages} pages from {first:?} on", self.who.place));
        self.note_pressure(ctx);
        self.note_flushes(ctx);
    }

    pub fn put_again(&mut self, ctx: &mut Ctx, number: u64) {
        if let Some(putting) = self.puts.remove(&number) {
            // The pool may have been destroyed while the put waited.
            if self.model.pools.contains_key(&putting.handle.pool) {
                self.put(ctx, putting);
                self.note_pressure(ctx);
                self.note_flushes(ctx);
            }
        }
    }

    fn put(&mut self, ctx: &mut Ctx, putting: Putting) {
        let Putting { handle, content, deadline_ms } = putting;
        let outcome = self.put_one(&handle, &page_of(content));
        if outcome == Put::Stored {
            self.model.put(handle, content, ctx.clock.now_us);
            return;
        }
        self.model.forget(&handle);
        let answer = self.tmem.get(&handle, Keep::Keep, &mut self.copied);
        assert_eq!(answer, Answer::Miss, "P2: {outcome:?} of {handle:?}, and something is kept");
        let now_ms = ctx.now_ms();
        if self.settings.hard && now_ms < deadline_ms && !self.has_nowhere(now_ms) {
            // Pages are leaving.
            self.last_put += 1;
            self.puts.insert(self.last_put, putting);
            let delay_us = (1 + ctx.random.below(LOOK_AGAIN_MS)) * MS;
            ctx.clock.after(delay_us, Event::PutAgain(self.who, self.last_put));
        }
    }

    fn put_one(&mut self, handle: &Handle, page: &Page) -> Put {
        if let Some(value) = same_value(page) {
            let packed = Packed { kind: Kind::Same(value), digest: Digest::default(), bytes: &[] };
            return self.tmem.put(handle, packed);
        }
        let digest = self.packer.digest(page);
        if self.tmem.pages_away() > 0 && self.tmem.put_unchanged(handle, digest) {
            return Put::Stored;
        }
        let packed = self.packer.pack_digested(page, digest, self.settings.codec);
        self.tmem.put(handle, packed)
    }
}
