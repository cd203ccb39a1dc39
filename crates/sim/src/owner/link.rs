//! Step 8, the owner's side of one wire, with core's session, buffers and frames. Covers requests and answers; mirrors peer/client.rs without its socket.

use ramster_core::handle::{Handle, OwnerId, PoolKind, Version};
use ramster_core::tmem::Flush;
use ramster_core::wire::buffer::{INBOX_LIMIT_BYTES, Inbox, Outbox};
use ramster_core::wire::error::{LocalProtocolError, RemoteProtocolError};
use ramster_core::wire::frame::{Header, Kind, Side};
use ramster_core::wire::message::{DoneStatus, Found, Hello, Message, PutPage, PutStatus, RefuseReason, Role};
use ramster_core::wire::session::{InFlight, Session, State};
use ramster_core::wire::{MAX_IN_FLIGHT, PROTOCOL_VERSION, encode};

use crate::ctx::Ctx;
use crate::net::{Received, WireId};

/// As in peer/client.rs.
pub const UNSENT_LIMIT_BYTES: usize = 2 << 20;
/// What one request adds at most: a batch of raw pages with their headers.
const REQUEST_BYTES: usize = 2 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkError {
    Closed,
    Refused(RefuseReason),
    Remote(RemoteProtocolError),
    Local(LocalProtocolError),
}

impl From<LocalProtocolError> for LinkError {
    fn from(error: LocalProtocolError) -> Self {
        LinkError::Local(error)
    }
}

impl From<RemoteProtocolError> for LinkError {
    fn from(error: RemoteProtocolError) -> Self {
        LinkError::Remote(error)
    }
}

/// What the holder said.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Said<'a> {
    Page { request: u64, index: usize, found: Found<'a> },
    Put { request: u64, index: usize, status: PutStatus },
    Done { request: u64, status: DoneStatus },
}

pub struct Link {
    pub wire: WireId,
    pub broken: bool,
    pub session: Session,
    inbox: Inbox,
    outbox: Outbox,
    in_flight: InFlight,
    /// The holder's node, life, and the account there.
    pub facts: (u64, u64, u64),
    pub free_bytes: u64,
    recall_bytes: u64,
    /// Of its holder, before it was asked for the link.
    pub deaths: u64,
}

impl Link {
    /// Says hello.
    pub fn greet(ctx: &mut Ctx, wire: WireId, me: &OwnerId, role: Role) -> Link {
        let mut link = Link {
            wire,
            broken: false,
            session: Session::new(Side::Client),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            in_flight: InFlight::new(),
            facts: (0, 0, 0),
            free_bytes: 0,
            recall_bytes: 0,
            deaths: 0,
        };
        let hello = Hello {
            owner: *me,
            role,
            lowest_version: PROTOCOL_VERSION,
            highest_version: PROTOCOL_VERSION,
            auth_scheme: 0,
            auth: &[],
        };
        link.session.send(Kind::Hello).expect("nothing was said yet");
        encode::hello(link.outbox.frames(), &hello).expect("no credentials");
        link.flush_out(ctx);
        link
    }

    pub fn is_open(&self) -> bool {
        self.session.state() == State::Open
    }

    pub fn is_closed(&self) -> bool {
        self.session.state() == State::Closed
    }

    pub fn put(&mut self, ctx: &mut Ctx, request: u64, pool: PoolKind, pages: &[PutPage<'_>]) -> Result<(), LinkError> {
        self.request(ctx, request, Kind::Put, pages.len(), |out| encode::put(out, request, pool, pages))
    }

    pub fn get(&mut self, ctx: &mut Ctx, request: u64, pages: &[(Handle, Version)]) -> Result<(), LinkError> {
        self.request(ctx, request, Kind::Get, pages.len(), |out| encode::get(out, request, pages))
    }

    pub fn flush_copies(&mut self, ctx: &mut Ctx, request: u64, pages: &[(Handle, Version)]) -> Result<(), LinkError> {
        self.request(ctx, request, Kind::Flush, 0, |out| encode::flush(out, request, pages))
    }

    pub fn flush(&mut self, ctx: &mut Ctx, request: u64, what: &Flush) -> Result<(), LinkError> {
        match what {
            Flush::Copy { handle, version } => self.flush_copies(ctx, request, &[(*handle, *version)]),
            Flush::Range { handle, count } => self.request(ctx, request, Kind::FlushRange, 0, |out| {
                encode::flush_range(out, request, handle, *count);
                Ok(())
            }),
            Flush::Object { pool, object } => self.request(ctx, request, Kind::FlushObject, 0, |out| {
                encode::flush_object(out, request, *pool, *object);
                Ok(())
            }),
            Flush::Pool(pool) => self.request(ctx, request, Kind::DestroyPool, 0, |out| {
                encode::destroy_pool(out, request, *pool);
                Ok(())
            }),
        }
    }

    pub fn share(&mut self, ctx: &mut Ctx, request: u64, child: &OwnerId) -> Result<(), LinkError> {
        self.request(ctx, request, Kind::Share, 0, |out| {
            encode::share(out, request, child);
            Ok(())
        })
    }

    pub fn goodbye(&mut self, ctx: &mut Ctx, request: u64) -> Result<(), LinkError> {
        self.request(ctx, request, Kind::Goodbye, 0, |out| {
            encode::bare(out, Kind::Goodbye, request);
            Ok(())
        })
    }

    fn request(
        &mut self,
        ctx: &mut Ctx,
        request: u64,
        kind: Kind,
        pages: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), LocalProtocolError>,
    ) -> Result<(), LinkError> {
        if self.broken {
            return Err(LinkError::Closed);
        }
        self.in_flight.check(request, pages)?;
        if self.outbox.pending_bytes() > UNSENT_LIMIT_BYTES {
            return Err(LinkError::Local(LocalProtocolError::OutboxFull));
        }
        if self.session.state() != State::Open {
            return Err(LinkError::Local(LocalProtocolError::UnexpectedMessage));
        }
        write(self.outbox.frames())?;
        self.session.send(kind)?;
        self.in_flight.asked(request, kind, pages);
        self.flush_out(ctx);
        Ok(())
    }

    pub fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub fn flush_out(&mut self, ctx: &mut Ctx) {
        if !self.outbox.is_empty() && !self.broken {
            let taken = ctx.send(self.wire, Side::Client, self.outbox.pending());
            self.outbox.sent(taken);
        }
    }

    pub fn take_recall_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.recall_bytes)
    }

    /// Takes what has come and delivers it.
    pub fn receive(&mut self, ctx: &mut Ctx, deliver: &mut dyn FnMut(Said<'_>)) -> Result<(), LinkError> {
        loop {
            match ctx.receive(self.wire, Side::Client, self.inbox.space()) {
                Received::Nothing => break,
                Received::Broken => return Err(LinkError::Closed),
                Received::Closed if self.session.state() == State::Closed => break,
                Received::Closed => return Err(LinkError::Closed),
                Received::Bytes(count) => {
                    self.inbox.received(count);
                    self.deliver_frames(deliver)?;
                }
            }
        }
        self.flush_out(ctx);
        if self.broken { Err(LinkError::Closed) } else { Ok(()) }
    }

    fn deliver_frames(&mut self, deliver: &mut dyn FnMut(Said<'_>)) -> Result<(), LinkError> {
        while let Some(header) = self.inbox.header()? {
            self.session.may_receive(header.kind)?;
            let Some(body) = self.inbox.body(&header) else { break };
            let message = Message::decode(&header, body)?;
            self.session.receive(header.kind)?;
            let is_done = header.kind.is_answer() && self.in_flight.answered(&header)?;
            match message {
                Message::Welcome(welcome) => {
                    self.facts = (welcome.node, welcome.incarnation, welcome.account);
                    self.free_bytes = welcome.free_bytes;
                }
                Message::Refuse(refuse) => return Err(LinkError::Refused(refuse.reason)),
                Message::Status { free_bytes, recall_bytes, .. } => {
                    (self.free_bytes, self.recall_bytes) = (free_bytes, recall_bytes);
                }
                Message::PutDone { free_bytes, .. } => self.free_bytes = free_bytes,
                Message::Done(done) | Message::Farewell(done) => self.free_bytes = done.free_bytes,
                _ => {}
            }
            tell(&header, message, is_done, deliver);
            self.inbox.consume(&header);
        }
        Ok(())
    }

    /// Promise 7, for this link.
    pub fn check_limits(&self) {
        assert!(self.in_flight.len() <= MAX_IN_FLIGHT, "P7: {} requests in flight", self.in_flight.len());
        assert!(self.inbox.capacity_bytes() <= INBOX_LIMIT_BYTES, "P7: an inbox of {} bytes", self.inbox.capacity_bytes());
        let unsent = self.outbox.pending_bytes();
        assert!(unsent <= UNSENT_LIMIT_BYTES + REQUEST_BYTES, "P7: {unsent} unsent bytes");
    }
}

/// Turns an answer into events.
fn tell(header: &Header, message: Message<'_>, is_done: bool, deliver: &mut dyn FnMut(Said<'_>)) {
    let (request, first) = (header.request, usize::from(header.first_index));
    let mut outcome = DoneStatus::Done;
    match message {
        Message::Pages(answers) => {
            for (offset, found) in answers.enumerate() {
                deliver(Said::Page { request, index: first + offset, found });
            }
        }
        Message::PutDone { statuses, .. } => {
            for (offset, status) in statuses.enumerate() {
                deliver(Said::Put { request, index: first + offset, status });
            }
        }
        Message::Done(done) | Message::Farewell(done) => outcome = done.status,
        _ => return,
    }
    if is_done {
        deliver(Said::Done { request, status: outcome });
    }
}
