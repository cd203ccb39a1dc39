//! A get that waits, for doors whose callers are ordinary threads. Covers the wait; getters of one page share one request (`core::localify`).

use std::sync::Arc;

use ramster_core::backend::{Get, Keep, Loss, Lost};
use ramster_core::handle::Handle;
use ramster_core::localify::{Copy, Join};
use ramster_core::page::Page;
use ramster_sys::lock::{Bell, Lock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock::{now_ms, now_ns};
use crate::engine::Engine;
use crate::lane::{Arrival, LaneCore, Looked};
use crate::statblock::Stat;

/// Lanes kept for the next getter, with their links. More threads than that at once open links of their own, for once.
const SPARE_LANES: usize = 8;
/// Past the deadline of the one who fetches, its followers look for themselves.
const GRACE_MS: u64 = 100;

type Fetched = Result<Option<Box<Page>>, Lost>;

/// One who waits for another's fetch.
pub struct Waiter {
    outcome: Lock<Option<Fetched>>,
    bell: Bell,
}

impl Engine {
    pub(crate) fn get_blocking(&self, handle: &Handle, keep: Keep, page: &mut Page) -> Result<Get, Lost> {
        let deadline_ms = now_ms() + self.get_deadline_ms() + GRACE_MS;
        let mut lane = self.take_lane();
        loop {
            let copy = match lane.look(self, handle, keep, page) {
                Looked::Done(outcome) => {
                    self.give_lane(lane);
                    self.note_flushes();
                    return outcome;
                }
                Looked::Away(copy) => copy,
            };
            let waiter = Arc::new(Waiter { outcome: Lock::new(None), bell: Bell::new() });
            let join = self.flights.lock().join(handle, copy, keep, Arc::clone(&waiter), deadline_ms);
            let outcome = match join {
                Join::First => {
                    let wait_ms = (deadline_ms - GRACE_MS).saturating_sub(now_ms());
                    Some(self.fetch(&mut lane, handle, copy, keep, wait_ms, page))
                }
                Join::Joined => {
                    self.stats().add(Stat::GetsJoined, 1);
                    waiter.wait(deadline_ms, page)
                }
                // An older copy is in flight, or there are too many: look again in a moment.
                Join::Full => {
                    waiter.bell.wait(waiter.bell.listen(), 1);
                    None
                }
            };
            if let Some(outcome) = outcome {
                self.give_lane(lane);
                self.note_flushes();
                return outcome;
            }
            if now_ms() >= deadline_ms {
                self.give_lane(lane);
                self.stats().add(Stat::GetsDeadline, 1);
                return Err(Lost { handle: *handle, holder: Some(copy.holder), why: Loss::Deadline });
            }
        }
    }

    /// For all who joined: fetches, says so to tmem with the most that any of them wants kept, and tells them.
    fn fetch(
        &self,
        lane: &mut LaneCore,
        handle: &Handle,
        copy: Copy,
        keep: Keep,
        wait_ms: u64,
        page: &mut Page,
    ) -> Result<Get, Lost> {
        // Freeing is for the end: somebody who wants it kept may join meanwhile.
        let at_first = if keep == Keep::Free { Keep::KeepRemote } else { keep };
        let outcome = lane.fetch(self, handle, copy, at_first, wait_ms, page);
        let flight = self.flights.lock().landed(handle, copy.version);
        let (most, waiters) = flight.map_or((keep, Vec::new()), |flight| (flight.keep, flight.waiters));
        if most == Keep::Free && outcome == Ok(Get::Hit) {
            self.with_tmem(|tmem| tmem.localified(handle, copy.version, Keep::Free));
        }
        // The first is this thread itself.
        for waiter in waiters.iter().skip(1) {
            *waiter.outcome.lock() = Some(outcome.map(|get| (get == Get::Hit).then(|| Box::new(*page))));
            waiter.bell.ring();
        }
        outcome
    }

    fn take_lane(&self) -> LaneCore {
        let spare = self.lanes.lock().pop();
        spare.unwrap_or_else(|| LaneCore::new(self))
    }

    fn give_lane(&self, lane: LaneCore) {
        let mut lanes = self.lanes.lock();
        if lanes.len() < SPARE_LANES && !self.is_closed() {
            lanes.push(lane);
        }
    }
}

impl Waiter {
    /// None: the one who fetches has not come back in time.
    fn wait(&self, deadline_ms: u64, page: &mut Page) -> Option<Result<Get, Lost>> {
        loop {
            let heard = self.bell.listen();
            if let Some(outcome) = self.outcome.lock().take() {
                return Some(outcome.map(|fetched| match fetched {
                    Some(fetched) => {
                        *page = *fetched;
                        Get::Hit
                    }
                    None => Get::Miss,
                }));
            }
            let now = now_ms();
            if now >= deadline_ms {
                return None;
            }
            self.bell.wait(heard, deadline_ms - now);
        }
    }
}

impl LaneCore {
    /// Fetches one page and waits for it: what is left of its getter's time, who may have waited for an older copy's flight to end.
    fn fetch(
        &mut self,
        engine: &Engine,
        handle: &Handle,
        copy: Copy,
        keep: Keep,
        wait_ms: u64,
        page: &mut Page,
    ) -> Result<Get, Lost> {
        let lost = |why| Lost { handle: *handle, holder: Some(copy.holder), why };
        let Some(wanted) = self.queue(engine, handle, copy, keep, wait_ms) else { return Err(lost(Loss::Deadline)) };
        self.fetches.send(engine);
        let mut outcome = None;
        loop {
            // What is delivered besides is a leftover of a get that was given up.
            self.ready(engine, now_ns(), &mut |token, _, arrival| {
                if token == wanted {
                    outcome = Some(match arrival {
                        Arrival::Page(arrived) => {
                            *page = *arrived;
                            Ok(Get::Hit)
                        }
                        Arrival::Miss => Ok(Get::Miss),
                        Arrival::Lost(lost) => Err(lost),
                    });
                }
            });
            if let Some(outcome) = outcome {
                return outcome;
            }
            let left_ms = self.fetches.next_deadline_ms().unwrap_or(0).saturating_sub(now_ms());
            self.wait_readable(left_ms);
        }
    }

    fn wait_readable(&self, timeout_ms: u64) {
        let timeout = Timespec { tv_sec: (timeout_ms / 1000) as i64, tv_nsec: (timeout_ms % 1000 * 1_000_000) as i64 };
        // Whatever it says, the next look tells what came.
        let _ = match self.fetches.fd() {
            Some(fd) => poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)),
            None => poll(&mut [], Some(&timeout)),
        };
    }
}
