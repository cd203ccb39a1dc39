//! What each message does. Covers the handshake's decisions and the way from a message to the foreign store and back; not bytes or sockets.

use ramster_core::foreign::{Held, Seat};
use ramster_core::handle::PoolKind;
use ramster_core::wire::error::LocalProtocolError;
use ramster_core::wire::frame::{Header, Kind};
use ramster_core::wire::message::{Done, DoneStatus, Found, Hello, Message, Puts, Refuse, RefuseReason, Role, Wanted, Welcome};
use ramster_core::wire::{PROTOCOL_VERSION, encode};

use super::Shared;
use super::connection::Connection;
use super::counters::EndReason;
use crate::tls::Standing;

/// Pages freed under one hold of the lock. A hundred microseconds or so; doubling it doubles how long a fault can wait for somebody's goodbye.
pub const SLICE_PAGES: usize = 1024;
/// What a get writes before it is sent and taken up again.
const GET_ROUND_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    Whole,
    /// A get whose first pages are answered: the rest comes when these are sent.
    UpTo(usize),
}

/// `skip`: pages of this get that are answered already; its message was received then.
pub fn answer(
    link: &mut Connection,
    shared: &Shared,
    header: &Header,
    message: Message<'_>,
    skip: usize,
    out: &mut Vec<u8>,
) -> Result<Answered, EndReason> {
    link.session.receive(header.kind).map_err(EndReason::Protocol)?;
    if let Some(kind) = header.kind.answer() {
        link.session.send(kind).map_err(own_error)?;
    }
    let request = header.request;
    let Some(seat) = link.seat else {
        if let Message::Hello(hello) = message {
            greet(link, shared, &hello, out)?;
        }
        return Ok(Answered::Whole);
    };
    match message {
        Message::Put(pages) => put(shared, seat, header, pages, out),
        Message::Get(wanted) => return Ok(get(shared, seat, header, wanted, skip, out)),
        Message::Flush(wanted) => encode::done(out, request, &flush(shared, seat, wanted)),
        Message::FlushRange { first, count } => {
            let mut freed = Some(0);
            let mut next = Some(first);
            let end = u64::from(first.index) + u64::from(count);
            while let Some(from) = next {
                let slice = shared.foreign.lock().flush_range(seat, &from, (end - u64::from(from.index)) as u32, SLICE_PAGES);
                freed = freed.zip(slice).map(|(sum, (pages, _))| sum + pages);
                next = slice.and_then(|(_, next)| next);
            }
            encode::done(out, request, &done(shared, freed));
        }
        Message::FlushObject { pool, object } => {
            let freed = shared.foreign.lock().flush_object(seat, pool, object);
            encode::done(out, request, &done(shared, freed));
        }
        Message::DestroyPool(pool) => {
            let freed = shared.foreign.lock().destroy_pool(seat, pool);
            encode::done(out, request, &done(shared, freed));
        }
        Message::Share(child) => {
            let may = link.standing.is_none_or(|standing| standing.may_share_with(child.client));
            let (status, pages) = match &mut *shared.foreign.lock() {
                foreign if may => foreign.share(seat, &child),
                foreign => foreign.refuse_share(),
            };
            encode::done(out, request, &Done { status, ..done(shared, Some(pages)) });
        }
        Message::Ping => encode::bare(out, Kind::Pong, request),
        Message::Goodbye => {
            let freed = shared.foreign.lock().goodbye(seat);
            encode::farewell(out, request, &done(shared, freed));
            link.ending = Some(EndReason::Goodbye);
        }
        // The session lets nothing else in.
        _ => return Err(EndReason::OwnError),
    }
    Ok(Answered::Whole)
}

fn own_error(_: LocalProtocolError) -> EndReason {
    EndReason::OwnError
}

/// Says so and lets the link end. Harmless where the session does not allow it any more.
pub fn refuse(link: &mut Connection, out: &mut Vec<u8>, reason: RefuseReason) {
    if link.session.send(Kind::Refuse).is_ok() {
        encode::refuse(out, &Refuse { reason, lowest_version: PROTOCOL_VERSION, highest_version: PROTOCOL_VERSION });
    }
}

pub fn status(link: &mut Connection, shared: &Shared, out: &mut Vec<u8>) -> Result<(), EndReason> {
    link.session.send(Kind::Status).map_err(own_error)?;
    link.owes_status = false;
    let foreign = shared.foreign.lock();
    let recall_bytes = link.seat.map_or(0, |seat| foreign.recall_bytes(seat));
    encode::status(out, foreign.offer_bytes(), foreign.free_bytes(), recall_bytes);
    Ok(())
}

fn greet(link: &mut Connection, shared: &Shared, hello: &Hello<'_>, out: &mut Vec<u8>) -> Result<(), EndReason> {
    let seat = match admit(link, shared, hello) {
        Ok(seat) => seat,
        Err((reason, end)) => {
            refuse(link, out, reason);
            link.ending = Some(end);
            return Ok(());
        }
    };
    // It may have taken the place of an earlier incarnation: that one's pages go now.
    reap(shared);
    link.seat = Some(seat);
    link.is_urgent = hello.role == Role::Get;
    link.session.send(Kind::Welcome).map_err(own_error)?;
    let foreign = shared.foreign.lock();
    let welcome = Welcome {
        version: PROTOCOL_VERSION,
        auth_scheme: 0,
        auth: &[],
        node: shared.config.node,
        incarnation: shared.config.incarnation,
        account: seat.account(),
        offer_bytes: foreign.offer_bytes(),
        free_bytes: foreign.free_bytes(),
    };
    encode::welcome(out, &welcome).map_err(own_error)
}

fn admit(link: &mut Connection, shared: &Shared, hello: &Hello<'_>) -> Result<Seat, (RefuseReason, EndReason)> {
    if !(hello.lowest_version..=hello.highest_version).contains(&PROTOCOL_VERSION) {
        return Err((RefuseReason::Version, EndReason::RefusedVersion));
    }
    if link.is_over_limit {
        return Err((RefuseReason::TooManyLinks, EndReason::RefusedTooManyLinks));
    }
    // Who speaks is what TLS has shown. Credentials in the hello, that nobody checks, are turned away rather than ignored.
    if hello.auth_scheme != 0 || !hello.auth.is_empty() {
        return Err((RefuseReason::Auth, EndReason::RefusedAuth));
    }
    if link.transport.is_tls() {
        link.standing = link.transport.certificate().and_then(|certificate| Standing::of(certificate, &hello.owner));
        if link.standing.is_none() {
            return Err((RefuseReason::Auth, EndReason::RefusedAuth));
        }
        link.node = Some(hello.owner.node);
        if shared.is_revoked(link) {
            return Err((RefuseReason::Auth, EndReason::RefusedRevoked));
        }
    }
    let arrived = shared.foreign.lock().arrive(&hello.owner, hello.role);
    arrived.map_err(|_| (RefuseReason::Incarnation, EndReason::RefusedIncarnation))
}

fn put(shared: &Shared, seat: Seat, header: &Header, pages: Puts<'_>, out: &mut Vec<u8>) {
    let kind = if header.ephemeral { PoolKind::Ephemeral } else { PoolKind::Persistent };
    let mut answer = encode::PutDoneWriter::begin(out, header.request, header.first_index);
    for page in pages {
        answer.push(shared.foreign.lock().put(seat, kind, &page.handle, page.version, &page.blob));
    }
    answer.finish(shared.foreign.lock().free_bytes());
}

fn get(shared: &Shared, seat: Seat, header: &Header, wanted: Wanted<'_>, skip: usize, out: &mut Vec<u8>) -> Answered {
    let mut count = skip;
    let mut wanted = wanted.skip_to(skip).peekable();
    while wanted.peek().is_some() {
        if out.len() >= GET_ROUND_BYTES {
            return Answered::UpTo(count);
        }
        let mut answer = encode::PagesWriter::begin(out, header.request, header.first_index + count as u16);
        while let Some((handle, version)) = wanted.peek() {
            let mut foreign = shared.foreign.lock();
            let has_fit = answer.push(&match foreign.get(seat, handle, *version) {
                Held::Hit { version, blob } => Found::Hit { version, blob },
                Held::Miss => Found::Miss,
                Held::Gone => Found::Gone,
                Held::Stale => Found::Stale,
            });
            if !has_fit {
                break;
            }
            wanted.next();
            count += 1;
        }
        answer.finish();
    }
    Answered::Whole
}

fn flush(shared: &Shared, seat: Seat, wanted: Wanted<'_>) -> Done {
    let mut freed = Some(0);
    for (handle, version) in wanted {
        freed = freed.zip(shared.foreign.lock().flush(seat, &handle, version)).map(|(sum, pages)| sum + pages);
    }
    done(shared, freed)
}

/// None: the account has gone. What was dropped is freed before the answer, so that the free bytes in it are true.
fn done(shared: &Shared, freed: Option<u64>) -> Done {
    reap(shared);
    let status = if freed.is_some() { DoneStatus::Done } else { DoneStatus::Gone };
    Done { status, pages: freed.unwrap_or(0), free_bytes: shared.foreign.lock().free_bytes() }
}

/// Frees what nobody sees any more, giving other links the lock between slices.
pub fn reap(shared: &Shared) {
    while shared.foreign.lock().reap(SLICE_PAGES) {}
}
