//! One link, the holder's side. Covers reading, whole frames, sending, back-pressure and deadlines; what the messages do is `answer`.
//!
//! Back-pressure is one rule: while anything is unsent, nothing more is read or answered. A client that does not take its answers fills its own
//! socket and nothing else.

use ramster_core::foreign::Seat;
use ramster_core::wire::buffer::{Inbox, Outbox};
use ramster_core::wire::error::RemoteProtocolError;
use ramster_core::wire::frame::{Header, Side};
use ramster_core::wire::message::{Message, RefuseReason};
use ramster_core::wire::session::{Session, State};
use rustix::event::epoll::EventFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::answer::{self, Answered};
use super::counters::EndReason;
use super::{Shared, Timeouts};
use crate::tls::Standing;
use crate::transport::{Received, Transport, TransportError};

/// Answers are sent once this much is written: small enough to be in the cache still, large enough that the call costs little.
const SEND_AT_BYTES: usize = 64 * 1024;
/// Reads in a row for one link before the others get their turn.
const TURN_READS: usize = 4;
/// Buffers kept for the next link that needs them.
const SPARE_BUFFERS: usize = 4;
/// A spare buffer that has grown past this (by a get of many pages) is dropped instead.
const SPARE_OUTBOX_BYTES: usize = 256 * 1024;

/// Buffers that no link is using. A link has its own only while a frame is half there or an answer half sent, so idle links cost next to
/// nothing and busy ones share what is in the cache.
#[derive(Default)]
pub struct Spare {
    inboxes: Vec<Inbox>,
    outboxes: Vec<Outbox>,
}

impl Spare {
    fn keep_inbox(&mut self, inbox: Inbox) {
        if self.inboxes.len() < SPARE_BUFFERS {
            self.inboxes.push(inbox);
        }
    }

    fn keep_outbox(&mut self, mut outbox: Outbox) {
        if self.outboxes.len() < SPARE_BUFFERS && outbox.frames().capacity() <= SPARE_OUTBOX_BYTES {
            self.outboxes.push(outbox);
        }
    }
}

pub struct Connection {
    pub socket: OwnedFd,
    pub transport: Transport,
    /// By its certificate. None: plain, or no hello yet.
    pub standing: Option<Standing>,
    /// The node that its certificate speaks for. None: plain, or no hello yet.
    pub node: Option<u64>,
    pub session: Session,
    pub seat: Option<Seat>,
    /// Its requests are served before others': a thread sleeps behind each.
    pub is_urgent: bool,
    /// Accepted beyond the limit, only to be told so.
    pub is_over_limit: bool,
    /// The holder's offer has changed since the client was told.
    pub owes_status: bool,
    /// Set: nothing more is read; the link ends when everything is sent.
    pub ending: Option<EndReason>,
    /// Handles of the first frame, a get, that are answered already.
    answered_count: usize,
    inbox: Option<Inbox>,
    outbox: Option<Outbox>,
    deadline: Option<(u64, EndReason)>,
    has_progressed: bool,
}

/// What to do next with a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Until its socket is ready.
    Wait,
    /// Again soon: whole frames are still in its inbox, and no socket will tell.
    Again,
}

impl Connection {
    pub fn new(socket: OwnedFd, transport: Transport, is_over_limit: bool, now_ms: u64, timeouts: &Timeouts) -> Self {
        Connection {
            socket,
            transport,
            standing: None,
            node: None,
            session: Session::new(Side::Server),
            seat: None,
            is_urgent: false,
            is_over_limit,
            owes_status: false,
            ending: None,
            answered_count: 0,
            inbox: None,
            outbox: None,
            deadline: Some((now_ms + timeouts.hello_ms, EndReason::HelloTimeout)),
            has_progressed: false,
        }
    }

    /// One turn: reads, answers and sends until nothing more can be done now or the turn is over.
    pub fn turn(&mut self, shared: &Shared, spare: &mut Spare, may_read: bool, now_ms: u64) -> Result<Next, EndReason> {
        self.has_progressed = false;
        let mut inbox = self.inbox.take().or_else(|| spare.inboxes.pop()).unwrap_or_default();
        let mut outbox = self.outbox.take().or_else(|| spare.outboxes.pop()).unwrap_or_default();
        let result = self.rounds(shared, &mut inbox, &mut outbox, may_read);
        if let Err(EndReason::Protocol(_)) = result {
            // As a courtesy: why. Whether it arrives is not our concern.
            answer::refuse(self, outbox.frames(), RefuseReason::Protocol);
            let _ = self.send(&mut outbox);
        }
        let is_sent = outbox.is_empty() && !self.transport.has_unsent();
        self.arm(&shared.config.timeouts, inbox.is_empty(), is_sent, now_ms);
        if inbox.is_empty() {
            spare.keep_inbox(inbox);
        } else if let Some(rest) = inbox.split_rest() {
            spare.keep_inbox(inbox);
            self.inbox = Some(rest);
        } else {
            self.inbox = Some(inbox);
        }
        match outbox.is_empty() {
            true => spare.keep_outbox(outbox),
            false => self.outbox = Some(outbox),
        }
        result
    }

    fn rounds(&mut self, shared: &Shared, inbox: &mut Inbox, outbox: &mut Outbox, mut may_read: bool) -> Result<Next, EndReason> {
        let mut reads = 0;
        loop {
            if outbox.is_empty() && !self.transport.has_unsent() {
                self.answer_frames(shared, inbox, outbox)?;
            }
            self.send(outbox)?;
            if !outbox.is_empty() || self.transport.has_unsent() {
                return Ok(Next::Wait);
            }
            if let Some(reason) = self.ending {
                return Err(reason);
            }
            if reads == TURN_READS {
                return Ok(Next::Again);
            }
            reads += 1;
            if whole_frame(inbox)?.is_some() {
                continue;
            }
            if !may_read && !self.transport.has_received() {
                return Ok(Next::Wait);
            }
            match self.transport.receive(&self.socket, inbox.space(), RecvFlags::DONTWAIT)? {
                Received::Nothing => return Ok(Next::Wait),
                Received::Closed => return Err(EndReason::PeerClosed),
                Received::Bytes { count_bytes, more } => {
                    inbox.received(count_bytes);
                    may_read = more;
                }
            }
        }
    }

    fn send(&mut self, outbox: &mut Outbox) -> Result<(), EndReason> {
        if !outbox.is_empty() || self.transport.has_unsent() {
            let sent = self.transport.send(&self.socket, outbox.pending())?;
            outbox.sent(sent.taken_bytes);
            self.has_progressed |= sent.has_moved;
        }
        Ok(())
    }

    /// Sends a last frame, if it can be sent at once and nothing is half sent.
    pub fn say_last(&mut self, frame: &[u8]) {
        if self.interest() == EventFlags::IN {
            let _ = self.transport.send(&self.socket, frame);
        }
    }

    /// Answers whole frames until enough is written to be worth sending.
    fn answer_frames(&mut self, shared: &Shared, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), EndReason> {
        if self.owes_status && self.session.state() == State::Open {
            answer::status(self, shared, outbox.frames())?;
        }
        while self.ending.is_none() && outbox.pending_bytes() < SEND_AT_BYTES {
            let Some(header) = inbox.header().map_err(|error| self.refusal_of(error, outbox))? else { break };
            self.session.may_receive(header.kind).map_err(EndReason::Protocol)?;
            let Some(body) = inbox.body(&header) else { break };
            let message = Message::decode(&header, body).map_err(EndReason::Protocol)?;
            let before = self.answered_count;
            match answer::answer(self, shared, &header, message, before, outbox.frames())? {
                Answered::Whole => {
                    self.answered_count = 0;
                    self.has_progressed = true;
                    inbox.consume(&header);
                }
                Answered::UpTo(count) => {
                    self.answered_count = count;
                    break;
                }
            }
        }
        Ok(())
    }

    /// A hello in another version is told which versions we speak; its header cannot be read any further.
    fn refusal_of(&mut self, error: RemoteProtocolError, outbox: &mut Outbox) -> EndReason {
        if error == RemoteProtocolError::BadVersion && self.session.state() == State::Opening {
            answer::refuse(self, outbox.frames(), RefuseReason::Version);
            let _ = self.send(outbox);
            return EndReason::RefusedVersion;
        }
        EndReason::Protocol(error)
    }

    /// Which events to be told of. Nothing is read while anything is unsent.
    pub fn interest(&self) -> EventFlags {
        if self.outbox.is_some() || self.transport.has_unsent() { EventFlags::OUT } else { EventFlags::IN }
    }

    pub fn deadline(&self) -> Option<(u64, EndReason)> {
        self.deadline
    }

    fn arm(&mut self, timeouts: &Timeouts, inbox_is_empty: bool, is_sent: bool, now_ms: u64) {
        let is_opening = self.session.state() == State::Opening;
        let (reason, after_ms) = if is_opening {
            (EndReason::HelloTimeout, timeouts.hello_ms)
        } else if !is_sent {
            (EndReason::NotTakingTimeout, timeouts.not_taking_ms)
        } else if !inbox_is_empty {
            (EndReason::HalfFrameTimeout, timeouts.half_frame_ms)
        } else {
            self.deadline = None;
            return;
        };
        match self.deadline {
            // A handshake that goes on and on is no progress.
            Some((_, armed)) if armed == reason && (is_opening || !self.has_progressed) => {}
            _ => self.deadline = Some((now_ms + after_ms, reason)),
        }
    }
}

fn whole_frame(inbox: &Inbox) -> Result<Option<Header>, EndReason> {
    let header = inbox.header().map_err(EndReason::Protocol)?;
    Ok(header.filter(|header| inbox.body(header).is_some()))
}

impl From<TransportError> for EndReason {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Io(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::NETDOWN) => {
                EndReason::Unreachable
            }
            TransportError::Io(_) => EndReason::SocketError,
            TransportError::Tls(_) => EndReason::TlsFailed,
        }
    }
}
