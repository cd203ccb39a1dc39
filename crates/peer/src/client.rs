//! Step 8, the owner's side: one TCP link to one holder. Covers opening, requests, answers; not which holder to ask nor what to do about a dead
//! one. Plain or TLS is the transport's. There is no thread in here: whoever owns the link does its input and output, one write a request, one read an answer.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId, PoolKind, Version};
use ramster_core::wire::buffer::{Inbox, Outbox};
use ramster_core::wire::error::{LocalProtocolError, RemoteProtocolError};
use ramster_core::wire::frame::{Header, Kind, Side};
use ramster_core::wire::message::{DoneStatus, Found, Hello, Message, PutPage, PutStatus, RefuseReason, Role};
use ramster_core::wire::session::{InFlight, Session, State};
use ramster_core::wire::{PROTOCOL_VERSION, encode};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::socket;
use crate::tls::{Secured, TlsError};
use crate::transport::{Received, Transport, TransportError};

/// Unsent bytes over which requests are turned down: two batches of raw pages. The holder is slow; more would only wait here instead of there.
pub const UNSENT_LIMIT_BYTES: usize = 2 << 20;

/// After any of these but `Local` the link is dead: drop it. Its requests without an answer may have been done or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkError {
    Io(Errno),
    /// The holder closed the link.
    Closed,
    /// The holder does not want this link.
    Refused(RefuseReason),
    /// Not connected and welcomed in time.
    Deadline,
    /// The certificate or the speech of one side did not suit the other.
    Tls(TlsError),
    Remote(RemoteProtocolError),
    /// Nothing was sent; the link goes on.
    Local(LocalProtocolError),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(errno) => write!(f, "{errno}"),
            Self::Closed => write!(f, "the holder closed the link"),
            Self::Refused(reason) => write!(f, "the holder refused the link: {reason:?}"),
            Self::Deadline => write!(f, "the holder did not answer in time"),
            Self::Tls(error) => error.fmt(f),
            Self::Remote(error) => error.fmt(f),
            Self::Local(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<Errno> for LinkError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::CONNRESET | Errno::PIPE => LinkError::Closed,
            errno => LinkError::Io(errno),
        }
    }
}

impl From<TransportError> for LinkError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Io(errno) => errno.into(),
            TransportError::Tls(error) => LinkError::Tls(error),
        }
    }
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

/// What the holder said. Borrows from the receive buffer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event<'a> {
    /// One page of a get: the `index`th handle of the request.
    Page { request: u64, index: usize, found: Found<'a> },
    /// One page of a put.
    Put { request: u64, index: usize, status: PutStatus },
    /// Comes once for every request, after its pages if it has any. `pages`: freed by a flush or goodbye, seen by the child after a share.
    Done { request: u64, status: DoneStatus, pages: u64 },
}

/// What the holder said of itself when the link was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HolderFacts {
    pub node: u64,
    /// Which life of the holder.
    pub incarnation: u64,
    /// Names this owner's stay there. When a later link has another one, every page put before is gone.
    pub account: u64,
}

pub struct Link {
    socket: OwnedFd,
    transport: Transport,
    session: Session,
    inbox: Inbox,
    outbox: Outbox,
    in_flight: InFlight,
    facts: HolderFacts,
    offer_bytes: u64,
    free_bytes: u64,
    recall_bytes: u64,
    /// The receive timeout that the socket has.
    timeout_set_ms: Option<u64>,
}

impl Link {
    /// Without TLS. Blocks until the holder welcomes us, at most `timeout_ms`.
    pub fn connect(address: &SocketAddr, me: &OwnerId, role: Role, timeout_ms: u64) -> Result<Link, LinkError> {
        Self::connect_by(None, address, me, role, timeout_ms)
    }

    /// The same over TLS with the node that is named, unless `secured` is None.
    pub fn connect_by(
        secured: Option<Secured<'_>>,
        address: &SocketAddr,
        me: &OwnerId,
        role: Role,
        timeout_ms: u64,
    ) -> Result<Link, LinkError> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let socket = socket::connect(address, deadline)?.ok_or(LinkError::Deadline)?;
        let transport = match &secured {
            None => Transport::Plain,
            Some(secured) => Transport::client(secured).map_err(LinkError::Tls)?,
        };
        let mut link = Link {
            socket,
            transport,
            session: Session::new(Side::Client),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            in_flight: InFlight::new(),
            facts: HolderFacts { node: 0, incarnation: 0, account: 0 },
            offer_bytes: 0,
            free_bytes: 0,
            recall_bytes: 0,
            timeout_set_ms: None,
        };
        socket::set_blocking(&link.socket)?;
        link.greet(me, role, deadline)?;
        match secured {
            // It has the certificate of one node and says that it is another.
            Some(secured) if secured.node != link.facts.node => Err(LinkError::Tls(TlsError::WrongName)),
            _ => Ok(link),
        }
    }

    fn greet(&mut self, me: &OwnerId, role: Role, deadline: Instant) -> Result<(), LinkError> {
        self.session.send(Kind::Hello)?;
        let hello = Hello {
            owner: *me,
            role,
            lowest_version: PROTOCOL_VERSION,
            highest_version: PROTOCOL_VERSION,
            auth_scheme: 0,
            auth: &[],
        };
        encode::hello(self.outbox.frames(), &hello)?;
        self.flush_out()?;
        while self.session.state() != State::Open {
            if !socket::wait_for(&self.socket, self.interest(), deadline)? {
                return Err(LinkError::Deadline);
            }
            self.flush_out()?;
            self.on_readable(&mut |_| {})?;
        }
        Ok(())
    }

    /// For a fork: a link of the child-to-be through which it sees every page that `me` has at this holder now. The child inherits it; the
    /// parent drops its copy, and MUST NOT send anything by it: under TLS both would go on with one key. The holder keeps the child's view as long as
    /// either has it open.
    pub fn connect_for_child(
        secured: Option<Secured<'_>>,
        address: &SocketAddr,
        me: &OwnerId,
        child: &OwnerId,
        timeout_ms: u64,
    ) -> Result<Link, LinkError> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let left_ms = || deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        let child_link = Link::connect_by(secured, address, child, Role::Bulk, timeout_ms)?;
        // Not a bulk link: it would take the place of the one that `me` writes by.
        let mut own_link = Link::connect_by(secured, address, me, Role::Get, left_ms())?;
        own_link.send_share(0, child)?;
        let mut outcome = None;
        while outcome.is_none() {
            let delivered = own_link.wait(left_ms(), &mut |event| {
                if let Event::Done { status, .. } = event {
                    outcome = Some(status);
                }
            })?;
            if !delivered {
                return Err(LinkError::Deadline);
            }
        }
        match outcome {
            Some(DoneStatus::Done) => Ok(child_link),
            _ => Err(LinkError::Refused(RefuseReason::Incarnation)),
        }
    }

    /// Pages of an ephemeral pool the holder may drop when it needs room.
    pub fn send_put(&mut self, request: u64, pool: PoolKind, pages: &[PutPage<'_>]) -> Result<(), LinkError> {
        self.request(request, Kind::Put, pages.len(), |out| encode::put(out, request, pool, pages))
    }

    pub fn send_get(&mut self, request: u64, pages: &[(Handle, Version)]) -> Result<(), LinkError> {
        self.request(request, Kind::Get, pages.len(), |out| encode::get(out, request, pages))
    }

    /// Frees pages at the holder, unless it has got newer versions of them meanwhile.
    pub fn send_flush(&mut self, request: u64, pages: &[(Handle, Version)]) -> Result<(), LinkError> {
        self.request(request, Kind::Flush, 0, |out| encode::flush(out, request, pages))
    }

    pub fn send_flush_range(&mut self, request: u64, first: &Handle, count: u32) -> Result<(), LinkError> {
        self.whole(request, Kind::FlushRange, |out| encode::flush_range(out, request, first, count))
    }

    pub fn send_flush_object(&mut self, request: u64, pool: PoolId, object: ObjectId) -> Result<(), LinkError> {
        self.whole(request, Kind::FlushObject, |out| encode::flush_object(out, request, pool, object))
    }

    pub fn send_destroy_pool(&mut self, request: u64, pool: PoolId) -> Result<(), LinkError> {
        self.whole(request, Kind::DestroyPool, |out| encode::destroy_pool(out, request, pool))
    }

    /// Gives `child`, which MUST have a link open and no pages, a copy-on-write view of all our pages at this holder.
    pub fn send_share(&mut self, request: u64, child: &OwnerId) -> Result<(), LinkError> {
        self.whole(request, Kind::Share, |out| encode::share(out, request, child))
    }

    pub fn send_ping(&mut self, request: u64) -> Result<(), LinkError> {
        self.whole(request, Kind::Ping, |out| encode::bare(out, Kind::Ping, request))
    }

    /// The owner leaves: all its pages at this holder go, whatever other links it has. Nothing can be asked after this; the answers under way
    /// still come, then `Done`, then the holder closes.
    pub fn send_goodbye(&mut self, request: u64) -> Result<(), LinkError> {
        self.whole(request, Kind::Goodbye, |out| encode::bare(out, Kind::Goodbye, request))
    }

    /// Sends what could not be sent before. Needed only while `has_unsent`, when the descriptor is writable.
    pub fn flush_out(&mut self) -> Result<(), LinkError> {
        if self.has_unsent() {
            let sent = self.transport.send(&self.socket, self.outbox.pending())?;
            self.outbox.sent(sent.taken_bytes);
        }
        Ok(())
    }

    pub fn has_unsent(&self) -> bool {
        !self.outbox.is_empty() || self.transport.has_unsent()
    }

    fn interest(&self) -> PollFlags {
        if self.has_unsent() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    /// Takes what has come, without blocking, and delivers it. Returns whether anything was delivered. Nothing is left that the descriptor would not
    /// tell of.
    pub fn on_readable(&mut self, deliver: &mut dyn FnMut(Event<'_>)) -> Result<bool, LinkError> {
        let mut delivered = false;
        loop {
            let received = self.transport.receive(&self.socket, self.inbox.space(), RecvFlags::DONTWAIT)?;
            delivered |= self.take(received, deliver)?;
            if !matches!(received, Received::Bytes { more: true, .. }) {
                return Ok(delivered);
            }
        }
    }

    /// Blocks until something was delivered (true) or the time is up (false). Sends meanwhile what could not be sent before.
    pub fn wait(&mut self, timeout_ms: u64, deliver: &mut dyn FnMut(Event<'_>)) -> Result<bool, LinkError> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        if !self.has_unsent() {
            // The usual case: the answer comes whole, with one system call.
            socket::set_patience(&self.socket, timeout_ms, &mut self.timeout_set_ms)?;
            let received = self.transport.receive(&self.socket, self.inbox.space(), RecvFlags::empty())?;
            let mut delivered = self.take(received, deliver)?;
            if self.transport.has_received() {
                delivered |= self.on_readable(deliver)?;
            }
            if delivered || self.session.state() == State::Closed {
                return Ok(true);
            }
        }
        loop {
            if !socket::wait_for(&self.socket, self.interest(), deadline)? {
                return Ok(false);
            }
            self.flush_out()?;
            if self.on_readable(deliver)? || self.session.state() == State::Closed {
                return Ok(true);
            }
        }
    }

    fn take(&mut self, received: Received, deliver: &mut dyn FnMut(Event<'_>)) -> Result<bool, LinkError> {
        match received {
            Received::Nothing => Ok(false),
            Received::Closed if self.session.state() == State::Closed => Ok(false),
            Received::Closed => Err(LinkError::Closed),
            Received::Bytes { count_bytes, .. } => {
                self.inbox.received(count_bytes);
                self.deliver_frames(deliver)
            }
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// As the holder last said: with every put and flush answered, and when its offer changes.
    pub fn holder_free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// What the holder wants this owner to take away, as it said last; once.
    pub fn take_recall_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.recall_bytes)
    }

    pub fn holder_offer_bytes(&self) -> u64 {
        self.offer_bytes
    }

    pub fn holder(&self) -> HolderFacts {
        self.facts
    }

    fn whole(&mut self, request: u64, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), LinkError> {
        self.request(request, kind, 0, |out| {
            write(out);
            Ok(())
        })
    }

    fn request(
        &mut self,
        request: u64,
        kind: Kind,
        pages: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), LocalProtocolError>,
    ) -> Result<(), LinkError> {
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
        self.flush_out()
    }

    fn deliver_frames(&mut self, deliver: &mut dyn FnMut(Event<'_>)) -> Result<bool, LinkError> {
        let mut delivered = false;
        while let Some(header) = self.inbox.header()? {
            self.session.may_receive(header.kind)?;
            let Some(body) = self.inbox.body(&header) else { break };
            let message = Message::decode(&header, body)?;
            self.session.receive(header.kind)?;
            let is_done = header.kind.is_answer() && self.in_flight.answered(&header)?;
            match message {
                Message::Welcome(welcome) => {
                    if welcome.version != PROTOCOL_VERSION {
                        return Err(RemoteProtocolError::BadVersion.into());
                    }
                    let (node, incarnation, account) = (welcome.node, welcome.incarnation, welcome.account);
                    self.facts = HolderFacts { node, incarnation, account };
                    (self.offer_bytes, self.free_bytes) = (welcome.offer_bytes, welcome.free_bytes);
                }
                Message::Refuse(refuse) => return Err(LinkError::Refused(refuse.reason)),
                Message::Status { offer_bytes, free_bytes, recall_bytes } => {
                    (self.offer_bytes, self.free_bytes, self.recall_bytes) = (offer_bytes, free_bytes, recall_bytes);
                }
                Message::PutDone { free_bytes, .. } => self.free_bytes = free_bytes,
                Message::Done(done) | Message::Farewell(done) => self.free_bytes = done.free_bytes,
                _ => {}
            }
            delivered |= tell(&header, message, is_done, deliver);
            self.inbox.consume(&header);
        }
        Ok(delivered)
    }
}

/// Turns an answer into events. False: it was not an answer.
fn tell(header: &Header, message: Message<'_>, is_done: bool, deliver: &mut dyn FnMut(Event<'_>)) -> bool {
    let (request, first) = (header.request, usize::from(header.first_index));
    let mut outcome = (DoneStatus::Done, 0);
    match message {
        Message::Pages(answers) => {
            for (offset, found) in answers.enumerate() {
                deliver(Event::Page { request, index: first + offset, found });
            }
        }
        Message::PutDone { statuses, .. } => {
            for (offset, status) in statuses.enumerate() {
                deliver(Event::Put { request, index: first + offset, status });
            }
        }
        Message::Done(done) | Message::Farewell(done) => outcome = (done.status, done.pages),
        Message::Pong => {}
        _ => return false,
    }
    if is_done {
        deliver(Event::Done { request, status: outcome.0, pages: outcome.1 });
    }
    true
}
