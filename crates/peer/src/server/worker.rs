//! One thread of the server: many links, one epoll. Covers accepting, turns, deadlines and waking; what happens on a link is `connection`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ramster_core::busy_poll::BusyPoll;
use ramster_core::wire::message::RefuseReason;
use ramster_sys::lock::Lock;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::connection::{Connection, Next, Spare};
use super::counters::EndReason;
use super::{Shared, answer};
use crate::socket;
use crate::transport::Transport;

const WAKE: u64 = u64::MAX;
const LISTEN: u64 = u64::MAX - 1;
/// Events taken in one call.
const EVENTS: usize = 128;
/// Links accepted in a row before others get their turn.
const ACCEPTS: usize = 64;
/// Links beyond the limit that are read far enough to be told so; more are closed at once.
const OVER_LIMIT_LINKS: usize = 64;
/// How long accepting rests when descriptors have run out.
const ACCEPT_PAUSE_MS: u64 = 100;
/// Deadlines are looked at this often, and only while a link has one.
const SWEEP_MS: u64 = 1000;

/// How other threads reach a worker.
pub struct Mailbox {
    arrivals: Lock<Vec<Connection>>,
    wake: OwnedFd,
}

impl Mailbox {
    pub fn new() -> io::Result<Mailbox> {
        Ok(Mailbox { arrivals: Lock::new(Vec::new()), wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    pub fn wake(&self) {
        // EAGAIN means that it is full, so it is ringing already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

struct Slot {
    link: Connection,
    interest: EventFlags,
}

pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    /// The first worker's: it accepts for all.
    listener: Option<OwnedFd>,
    accept_again_ms: Option<u64>,
    next_worker: usize,
    slots: Vec<Option<Slot>>,
    vacant: Vec<usize>,
    /// Links with whole frames left to answer.
    unfinished: Vec<usize>,
    deadlines: usize,
    swept_ms: u64,
    offer_changes: u64,
    spare: Spare,
    /// The last turn was a fault's.
    was_urgent: bool,
    /// After a page for a fault, for the next request: a thread that walks through cold memory asks again soon.
    busy_poll: BusyPoll,
}

/// How many there are; none when a signal came first.
fn wait_for_events(epoll: &OwnedFd, events: &mut Vec<Event>, timeout: Option<&Timespec>) -> Result<usize, Errno> {
    match epoll::wait(epoll, spare_capacity(events), timeout) {
        Err(Errno::INTR) => Ok(0),
        other => other,
    }
}

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>, listener: Option<OwnedFd>) -> io::Result<Worker> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.mailboxes[index].wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        if let Some(listener) = &listener {
            epoll::add(&epoll, listener, EventData::new_u64(LISTEN), EventFlags::IN)?;
        }
        Ok(Worker {
            index,
            shared,
            epoll,
            listener,
            accept_again_ms: None,
            next_worker: 0,
            slots: Vec::new(),
            vacant: Vec::new(),
            unfinished: Vec::new(),
            deadlines: 0,
            swept_ms: 0,
            offer_changes: 0,
            spare: Spare::default(),
            was_urgent: false,
            busy_poll: BusyPoll::default(),
        })
    }

    pub fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        while !self.shared.stopping.load(Ordering::SeqCst) {
            events.clear();
            if let Err(errno) = self.wait(&mut events) {
                ramster_sys::say::say(format_args!("the holder's links cannot be waited for: {errno}"));
                break;
            }
            let now_ms = self.shared.now_ms();
            self.was_urgent = false;
            // Twice over the few events: a fault waits behind an urgent link, nobody behind the others.
            for urgent in [true, false] {
                for event in &events {
                    let (token, flags) = (event.data.u64(), event.flags);
                    match token {
                        WAKE | LISTEN if urgent => {}
                        WAKE => self.woken(now_ms),
                        LISTEN => self.accept(now_ms),
                        _ if self.is_urgent(token as usize) == Some(urgent) => {
                            self.was_urgent |= urgent;
                            let may_read = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
                            self.turn(token as usize, may_read, now_ms);
                        }
                        _ => {}
                    }
                }
            }
            for index in std::mem::take(&mut self.unfinished) {
                self.turn(index, true, now_ms);
            }
            self.sweep(now_ms);
        }
        self.end_all();
    }

    fn wait(&mut self, events: &mut Vec<Event>) -> Result<(), Errno> {
        let timeout = self.timeout();
        if !self.was_urgent {
            return wait_for_events(&self.epoll, events, timeout.as_ref()).map(drop);
        }
        let begun = Instant::now();
        let waited_us = || begun.elapsed().as_micros() as u64;
        let mut found = 0;
        while found == 0 && waited_us() < u64::from(self.busy_poll.us()) {
            found = wait_for_events(&self.epoll, events, Some(&Timespec::default()))?;
            if found == 0 {
                std::thread::yield_now();
            }
        }
        if found == 0 {
            wait_for_events(&self.epoll, events, timeout.as_ref())?;
        }
        self.busy_poll.came_after(waited_us());
        Ok(())
    }

    /// None: nothing to do before something happens. An idle server never wakes.
    fn timeout(&self) -> Option<Timespec> {
        let expire_at_ms = self.shared.expire_at_ms.load(Ordering::SeqCst);
        let expire_ms = (expire_at_ms < u64::MAX).then(|| expire_at_ms.saturating_sub(self.shared.now_ms()).max(1));
        let other_ms = match () {
            () if !self.unfinished.is_empty() => Some(0),
            () if self.accept_again_ms.is_some() => Some(ACCEPT_PAUSE_MS),
            () if self.deadlines > 0 => Some(self.sweep_ms()),
            () => None,
        };
        let wait_ms = expire_ms.into_iter().chain(other_ms).min()?;
        Some(Timespec { tv_sec: (wait_ms / 1000) as i64, tv_nsec: (wait_ms % 1000 * 1_000_000) as i64 })
    }

    fn sweep_ms(&self) -> u64 {
        let timeouts = &self.shared.config.timeouts;
        let shortest_ms = timeouts.hello_ms.min(timeouts.half_frame_ms).min(timeouts.not_taking_ms);
        (shortest_ms / 4).clamp(10, SWEEP_MS)
    }

    fn is_urgent(&self, index: usize) -> Option<bool> {
        self.slots.get(index)?.as_ref().map(|slot| slot.link.is_urgent)
    }

    fn turn(&mut self, index: usize, may_read: bool, now_ms: u64) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        let had_deadline = slot.link.deadline().is_some();
        let result = slot.link.turn(&self.shared, &mut self.spare, may_read, now_ms);
        self.deadlines = self.deadlines - usize::from(had_deadline) + usize::from(slot.link.deadline().is_some());
        let interest = slot.link.interest();
        match result {
            Err(reason) => return self.end(index, reason),
            Ok(Next::Again) => self.unfinished.push(index),
            Ok(Next::Wait) => {}
        }
        if interest != slot.interest {
            slot.interest = interest;
            let token = EventData::new_u64(index as u64);
            if epoll::modify(&self.epoll, &slot.link.socket, token, interest).is_err() {
                self.end(index, EndReason::SocketError);
            }
        }
    }

    fn end(&mut self, index: usize, reason: EndReason) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        self.vacant.push(index);
        self.deadlines -= usize::from(slot.link.deadline().is_some());
        self.shared.counters.count_end(reason);
        if let Some(seat) = slot.link.seat {
            let now_ms = self.shared.now_ms();
            let keep_until_ms = now_ms + self.shared.config.timeouts.grace_ms(reason);
            self.shared.foreign.lock().leave(seat, keep_until_ms);
            self.expire(now_ms);
        }
        // The socket closes before the link is given back: whoever sees the count fall sees the descriptor free.
        drop(slot);
        self.shared.links.fetch_sub(1, Ordering::SeqCst);
    }

    /// Pages of owners that did not come back go. Whichever worker sees it is time does it.
    fn expire(&mut self, now_ms: u64) {
        let mut foreign = self.shared.foreign.lock();
        foreign.expire(now_ms);
        self.shared.expire_at_ms.store(foreign.next_expiry_ms().unwrap_or(u64::MAX), Ordering::SeqCst);
        drop(foreign);
        answer::reap(&self.shared);
    }

    fn woken(&mut self, now_ms: u64) {
        let shared = Arc::clone(&self.shared);
        let mailbox = &shared.mailboxes[self.index];
        let _ = rustix::io::read(&mailbox.wake, &mut [0u8; 8]);
        let arrivals = std::mem::take(&mut *mailbox.arrivals.lock());
        for link in arrivals {
            self.enter(link);
        }
        let changes = shared.offer_changes.load(Ordering::SeqCst);
        if changes != self.offer_changes {
            self.offer_changes = changes;
            for index in 0..self.slots.len() {
                let Some(slot) = &mut self.slots[index] else { continue };
                if shared.is_revoked(&slot.link) {
                    self.say_goodbye(index, RefuseReason::Auth);
                    self.end(index, EndReason::RefusedRevoked);
                    continue;
                }
                slot.link.owes_status = true;
                self.turn(index, false, now_ms);
            }
        }
    }

    fn accept(&mut self, now_ms: u64) {
        for _ in 0..ACCEPTS {
            let Some(listener) = &self.listener else { return };
            match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => self.accepted(socket, now_ms),
                Err(Errno::AGAIN) => return,
                // The client went away between connecting and being accepted, or a signal came.
                Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO | Errno::NETDOWN | Errno::HOSTUNREACH) => {}
                Err(_) => {
                    // No descriptors or memory left. The listener stays readable, so leave it alone for a while instead of spinning.
                    self.shared.counters.accepts_paused.fetch_add(1, Ordering::Relaxed);
                    let _ = epoll::delete(&self.epoll, listener);
                    self.accept_again_ms = Some(now_ms + ACCEPT_PAUSE_MS);
                    return;
                }
            }
        }
    }

    fn accepted(&mut self, socket: OwnedFd, now_ms: u64) {
        self.shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let max_links = self.shared.config.max_links;
        let links = self.shared.links.fetch_add(1, Ordering::SeqCst);
        if links >= max_links + OVER_LIMIT_LINKS {
            self.shared.counters.count_end(EndReason::RefusedTooManyLinks);
            self.shared.links.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        if socket::tune(&socket).is_err() {
            self.shared.counters.count_end(EndReason::SocketError);
            self.shared.links.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let tls = self.shared.tls.lock().clone();
        let Ok(transport) = Transport::server(tls) else {
            self.shared.counters.count_end(EndReason::OwnError);
            self.shared.links.fetch_sub(1, Ordering::SeqCst);
            return;
        };
        let link = Connection::new(socket, transport, links >= max_links, now_ms, &self.shared.config.timeouts);
        self.next_worker = (self.next_worker + 1) % self.shared.mailboxes.len();
        if self.next_worker == self.index {
            return self.enter(link);
        }
        let mailbox = &self.shared.mailboxes[self.next_worker];
        mailbox.arrivals.lock().push(link);
        mailbox.wake();
    }

    fn enter(&mut self, link: Connection) {
        let index = self.vacant.pop().unwrap_or(self.slots.len());
        if index == self.slots.len() {
            self.slots.push(None);
        }
        let interest = link.interest();
        let added = epoll::add(&self.epoll, &link.socket, EventData::new_u64(index as u64), interest);
        self.deadlines += usize::from(link.deadline().is_some());
        self.slots[index] = Some(Slot { link, interest });
        if added.is_err() {
            self.end(index, EndReason::SocketError);
        }
    }

    fn sweep(&mut self, now_ms: u64) {
        if let (Some(again_ms), Some(listener)) = (self.accept_again_ms, &self.listener)
            && now_ms >= again_ms
            && epoll::add(&self.epoll, listener, EventData::new_u64(LISTEN), EventFlags::IN).is_ok()
        {
            self.accept_again_ms = None;
        }
        if self.shared.expire_at_ms.load(Ordering::SeqCst) <= now_ms {
            self.expire(now_ms);
        }
        if self.deadlines == 0 || now_ms < self.swept_ms + self.sweep_ms() {
            return;
        }
        self.swept_ms = now_ms;
        for index in 0..self.slots.len() {
            let deadline = self.slots[index].as_ref().and_then(|slot| slot.link.deadline());
            if let Some((deadline_ms, reason)) = deadline
                && now_ms >= deadline_ms
            {
                self.say_goodbye(index, RefuseReason::Timeout);
                self.end(index, reason);
            }
        }
    }

    fn end_all(&mut self) {
        self.listener = None;
        let arrivals = std::mem::take(&mut *self.shared.mailboxes[self.index].arrivals.lock());
        for link in arrivals {
            self.enter(link);
        }
        for index in 0..self.slots.len() {
            if self.slots[index].is_some() {
                self.say_goodbye(index, RefuseReason::Stopping);
                self.end(index, EndReason::Stopping);
            }
        }
    }

    /// Tells a client why, if it can be told at once and is not in the middle of an answer.
    fn say_goodbye(&mut self, index: usize, reason: RefuseReason) {
        let Some(slot) = &mut self.slots[index] else { return };
        let mut frame = Vec::new();
        answer::refuse(&mut slot.link, &mut frame, reason);
        slot.link.say_last(&frame);
    }
}
