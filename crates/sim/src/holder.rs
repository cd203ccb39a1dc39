//! Step 9: a node that holds pages, with core's foreign store behind core's sessions. Covers one life of it: its links, turns, deadlines and what must hold
//! after each of its steps; what the messages do is `answer.rs`. Mirrors peer/server/worker.rs and connection.rs.

use std::collections::BTreeMap;

use ramster_core::foreign::{Foreign, Held, Seat};
use ramster_core::handle::{Handle, OwnerId, Version};
use ramster_core::store::HeapSlabs;
use ramster_core::wire::buffer::{INBOX_LIMIT_BYTES, Inbox, Outbox};
use ramster_core::wire::frame::Side;
use ramster_core::wire::message::{Message, RefuseReason};
use ramster_core::wire::session::{Session, State};

use crate::answer::{self, Answered, End};
use crate::clock::{Event, MS, SECOND, Who};
use crate::ctx::{Ctx, name};
use crate::net::{Received, WireId};

/// As in peer/server.
/// As in peer/server.rs.
const CLOSED_GRACE_US: u64 = 10 * SECOND;
const SILENT_GRACE_US: u64 = 75 * SECOND;
const SEND_AT_BYTES: usize = 64 * 1024;
const TURN_READS: usize = 4;
const HELLO_US: u64 = 5 * SECOND;
const HALF_FRAME_US: u64 = 10 * SECOND;
const NOT_TAKING_US: u64 = 30 * SECOND;
/// What one round of answers adds to an outbox over [`SEND_AT_BYTES`]: a frame, and a round of a get.
const OUTBOX_LIMIT_BYTES: usize = 3 * 64 * 1024;
/// Slabs of one holder: more than any offer here fills.
const SLABS: u32 = 4096;
const REAP_PAGES: usize = 64;

pub struct Conn {
    pub owner: Option<OwnerId>,
    pub seat: Option<Seat>,
    pub session: Session,
    pub owes_status: bool,
    pub ending: bool,
    answered_count: usize,
    inbox: Inbox,
    pub outbox: Outbox,
    deadline: Option<(u64, &'static str)>,
    progressed: bool,
}

pub struct Holder {
    pub who: Who,
    pub node: u64,
    pub incarnation: u64,
    pub foreign: Foreign<HeapSlabs>,
    pub conns: BTreeMap<WireId, Conn>,
    /// Gives back other bytes than it was given, now and then.
    pub lies: bool,
    /// Blobs seen before, for lies that are old truths.
    pub old: Vec<(u8, [u8; 16], Vec<u8>)>,
    pub suspended: bool,
    pub draining: bool,
    swept_us: Option<u64>,
}

impl Holder {
    pub fn new(who: Who, node: u64, incarnation: u64, offer_bytes: u64) -> Self {
        Holder {
            who,
            node,
            incarnation,
            foreign: Foreign::new(offer_bytes, HeapSlabs::new(SLABS)),
            conns: BTreeMap::new(),
            lies: false,
            old: Vec::new(),
            suspended: false,
            draining: false,
            swept_us: None,
        }
    }

    /// Something may be read on this wire, or written again.
    pub fn turn(&mut self, ctx: &mut Ctx, wire: WireId) {
        let now_us = ctx.clock.now_us;
        let mut conn = self.conns.remove(&wire).unwrap_or_else(|| Conn::new(now_us));
        conn.progressed = false;
        let result = self.rounds(ctx, wire, &mut conn);
        match result {
            Ok(again) => {
                conn.arm(now_us);
                let inbox_bytes = conn.inbox.capacity_bytes();
                assert!(inbox_bytes <= INBOX_LIMIT_BYTES, "P7: a holder's inbox of {inbox_bytes} bytes");
                let unsent = conn.outbox.pending_bytes();
                assert!(unsent <= OUTBOX_LIMIT_BYTES, "P7: {unsent} unsent bytes of a holder");
                self.conns.insert(wire, conn);
                if again {
                    ctx.clock.after(1 + ctx.random.below(20), Event::HolderTurn(self.who, wire));
                }
            }
            Err(end) => {
                if let End::Protocol(error) = end {
                    panic!("P8: {error} said by an owner that keeps to the protocol");
                }
                self.end(ctx, wire, conn, &format!("{end:?}"));
            }
        }
        self.see_to_sweep(ctx);
    }

    /// True: whole frames are left, and no wire will tell.
    fn rounds(&mut self, ctx: &mut Ctx, wire: WireId, conn: &mut Conn) -> Result<bool, End> {
        let mut reads = 0;
        loop {
            if conn.outbox.is_empty() {
                self.answer_frames(ctx, conn)?;
            }
            let taken = ctx.send(wire, Side::Server, conn.outbox.pending());
            conn.outbox.sent(taken);
            conn.progressed |= taken > 0;
            if !conn.outbox.is_empty() {
                return Ok(false);
            }
            if conn.ending {
                return Err(End::Asked);
            }
            if reads == TURN_READS {
                return Ok(true);
            }
            reads += 1;
            if conn.whole_frame()? {
                continue;
            }
            match ctx.receive(wire, Side::Server, conn.inbox.space()) {
                Received::Nothing => return Ok(false),
                Received::Closed => return Err(End::PeerClosed),
                Received::Broken => return Err(End::Broken),
                Received::Bytes(count) => conn.inbox.received(count),
            }
        }
    }

    fn answer_frames(&mut self, ctx: &mut Ctx, conn: &mut Conn) -> Result<(), End> {
        if conn.owes_status && conn.session.state() == State::Open {
            answer::status(self, conn);
        }
        while !conn.ending && conn.outbox.pending_bytes() < SEND_AT_BYTES {
            let Some(header) = conn.inbox.header()? else { break };
            conn.session.may_receive(header.kind)?;
            let Some(body) = conn.inbox.body(&header).map(<[u8]>::to_vec) else { break };
            let message = Message::decode(&header, &body)?;
            let skip = conn.answered_count;
            match answer::answer(self, ctx, conn, &header, message, skip)? {
                Answered::Whole => {
                    conn.answered_count = 0;
                    conn.progressed = true;
                    conn.inbox.consume(&header);
                }
                Answered::UpTo(count) => {
                    conn.answered_count = count;
                    break;
                }
            }
        }
        Ok(())
    }

    /// The wire is dead.
    pub fn broken(&mut self, ctx: &mut Ctx, wire: WireId) {
        match self.conns.remove(&wire) {
            Some(conn) => self.end(ctx, wire, conn, "reset"),
            None => ctx.close(wire, Side::Server, true),
        }
        self.see_to_sweep(ctx);
    }

    fn end(&mut self, ctx: &mut Ctx, wire: WireId, conn: Conn, why: &str) {
        ctx.tell(|| {
            let who = conn.owner.map_or("nobody".to_owned(), |owner| name(&owner));
            format!("holder {}: link {} of {who} ends: {why}", self.who.place, wire.0)
        });
        if let Some(seat) = conn.seat {
            let grace_us = if why == "PeerClosed" { CLOSED_GRACE_US } else { SILENT_GRACE_US };
            self.foreign.leave(seat, (ctx.clock.now_us + grace_us) / MS);
            self.expire(ctx);
        }
        ctx.close(wire, Side::Server, false);
    }

    /// Pages of owners that did not come back go.
    fn expire(&mut self, ctx: &Ctx) {
        self.foreign.expire(ctx.clock.now_us / MS);
        self.reap();
    }

    pub fn reap(&mut self) {
        while self.foreign.reap(REAP_PAGES) {}
    }

    pub fn set_offer(&mut self, ctx: &mut Ctx, offer_bytes: u64) {
        self.foreign.set_offer(offer_bytes);
        let wires: Vec<WireId> = self.conns.keys().copied().collect();
        for wire in wires {
            if let Some(conn) = self.conns.get_mut(&wire) {
                conn.owes_status = true;
            }
            self.turn(ctx, wire);
        }
    }

    /// All links end with a word; what it held is gone with it.
    pub fn stop(mut self, ctx: &mut Ctx) {
        for (wire, mut conn) in std::mem::take(&mut self.conns) {
            if conn.outbox.is_empty() && answer::refuse(&mut conn, RefuseReason::Stopping) {
                ctx.send(wire, Side::Server, conn.outbox.pending());
            }
            ctx.close(wire, Side::Server, false);
        }
    }

    /// Killed: nothing more is said.
    pub fn die(self, ctx: &mut Ctx) {
        for wire in ctx.net.wires_of(|wire| wire.holder == self.who) {
            ctx.close(wire, Side::Server, true);
        }
    }

    fn see_to_sweep(&mut self, ctx: &mut Ctx) {
        let expiry_us = self.foreign.next_expiry_ms().map(|at_ms| at_ms * MS);
        let deadlines = self.conns.values().filter_map(|conn| conn.deadline).map(|(at_us, _)| at_us);
        let next_us = deadlines.chain(expiry_us).min();
        if let Some(at_us) = next_us
            && self.swept_us.is_none_or(|swept_us| swept_us > at_us || swept_us <= ctx.clock.now_us)
        {
            // Deadlines are looked at once a second.
            let at_us = at_us.max(ctx.clock.now_us + SECOND);
            self.swept_us = Some(at_us);
            ctx.clock.at(at_us, Event::HolderSweep(self.who));
        }
    }

    pub fn sweep(&mut self, ctx: &mut Ctx) {
        let now_us = ctx.clock.now_us;
        self.expire(ctx);
        let late = |conn: &Conn| conn.deadline.filter(|(at_us, _)| *at_us <= now_us).map(|(_, why)| why);
        let over: Vec<_> = self.conns.iter().filter_map(|(wire, conn)| late(conn).map(|why| (*wire, why))).collect();
        for (wire, why) in over {
            if let Some(mut conn) = self.conns.remove(&wire) {
                if conn.outbox.is_empty() && answer::refuse(&mut conn, RefuseReason::Timeout) {
                    ctx.send(wire, Side::Server, conn.outbox.pending());
                }
                self.end(ctx, wire, conn, why);
            }
        }
        self.swept_us = None;
        self.see_to_sweep(ctx);
    }

    /// Awake again, or the clock has jumped: everything that came meanwhile is there at once.
    pub fn look_everywhere(&mut self, ctx: &mut Ctx) {
        for wire in ctx.net.wires_of(|wire| wire.holder == self.who) {
            let delay_us = ctx.random.below(2 * MS);
            ctx.clock.after(delay_us, Event::HolderTurn(self.who, wire));
        }
        self.sweep(ctx);
    }

    /// Whether this owner's account is that one and the copy there. None: the account is another one, or gone.
    pub fn has(&mut self, owner: &OwnerId, account: u64, handle: &Handle, version: Version) -> Option<bool> {
        let same = |conn: &&Conn| conn.owner == Some(*owner) && conn.seat.is_some_and(|seat| seat.account() == account);
        let seat = self.conns.values().find(same)?.seat?;
        match self.foreign.get(seat, handle, version) {
            Held::Hit { .. } => Some(true),
            Held::Gone => None,
            _ => Some(false),
        }
    }

    /// Whether it has any version of that page of this owner.
    pub fn has_any(&mut self, owner: &OwnerId, handle: &Handle) -> bool {
        let Some(seat) = self.conns.values().find(|conn| conn.owner == Some(*owner)).and_then(|conn| conn.seat) else {
            return false;
        };
        !matches!(self.foreign.get(seat, handle, 0), Held::Miss | Held::Gone)
    }

    /// Promise 10, after each step: accounts are of owners with links, as many as they have, or in their grace time; without an account nothing is held.
    pub fn check_accounts(&mut self) {
        let mut links: BTreeMap<OwnerId, u32> = BTreeMap::new();
        for owner in self.conns.values().filter(|conn| conn.seat.is_some()).filter_map(|conn| conn.owner) {
            *links.entry(owner).or_default() += 1;
        }
        let clients = self.foreign.clients();
        for client in &clients {
            let open = links.get(&client.owner).copied().unwrap_or(0);
            let (node, who) = (self.node, name(&client.owner));
            // Its last page may have been dropped, being ephemeral, since its links went: the account ends all the same when its time is over.
            let waits = client.links == 0 && self.foreign.next_expiry_ms().is_some();
            assert!(open > 0 || waits, "P10: holder {node} keeps {} pages of {who}, which has no link there", client.pages);
            assert!(client.links <= open, "P10: holder {node} counts {} links of {who}, there are {open}", client.links);
        }
        if clients.is_empty() {
            let (used, resident) = (self.foreign.used_bytes(), self.foreign.resident_bytes());
            assert!(used == 0 && resident == 0, "P10: holder {}: {used} bytes used, {resident} resident, for nobody", self.node);
        }
    }

    /// What is held is what is accounted for. Looks at every page.
    pub fn check_all(&self) {
        if let Err(wrong) = self.foreign.check() {
            panic!("holder {}: {wrong}", self.node);
        }
    }
}

impl Conn {
    fn new(now_us: u64) -> Self {
        Conn {
            owner: None,
            seat: None,
            session: Session::new(Side::Server),
            owes_status: false,
            ending: false,
            answered_count: 0,
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            deadline: Some((now_us + HELLO_US, "hello timeout")),
            progressed: false,
        }
    }

    fn whole_frame(&self) -> Result<bool, End> {
        let header = self.inbox.header()?;
        Ok(header.is_some_and(|header| self.inbox.body(&header).is_some()))
    }

    fn arm(&mut self, now_us: u64) {
        let is_opening = self.session.state() == State::Opening;
        let (reason, after_us) = if is_opening {
            ("hello timeout", HELLO_US)
        } else if !self.outbox.is_empty() {
            ("answers not taken", NOT_TAKING_US)
        } else if !self.inbox.is_empty() {
            ("half a frame", HALF_FRAME_US)
        } else {
            self.deadline = None;
            return;
        };
        match self.deadline {
            Some((_, armed)) if armed == reason && (is_opening || !self.progressed) => {}
            _ => self.deadline = Some((now_us + after_us, reason)),
        }
    }
}
