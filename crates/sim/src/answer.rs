//! What each message does at a holder. Covers the way from a message to core's foreign store and back; mirrors peer/server/answer.rs. A holder that lies
//! changes what it gives back here.

use ramster_core::foreign::Held;
use ramster_core::handle::{OwnerId, PoolKind};
use ramster_core::seal::Tag;
use ramster_core::wire::error::RemoteProtocolError;
use ramster_core::wire::frame::{Header, Kind};
use ramster_core::wire::message::{
    Blob, Done, DoneStatus, Found, Message, PutStatus, Puts, Refuse, RefuseReason, Role, Wanted, Welcome,
};
use ramster_core::wire::{PROTOCOL_VERSION, encode};

use crate::ctx::{Ctx, name};
use crate::holder::{Conn, Holder};
use crate::pages::shows_mark;

/// As in peer/server/answer.rs, but small, so that ranges are cut.
const SLICE_PAGES: usize = 8;
const GET_ROUND_BYTES: usize = 64 * 1024;
/// One answer in so many of a holder that lies.
const LIE_ONE_IN: u64 = 4;
const OLD_BLOBS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    Whole,
    UpTo(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was asked to end, or has refused.
    Asked,
    PeerClosed,
    Broken,
    Protocol(RemoteProtocolError),
}

impl From<RemoteProtocolError> for End {
    fn from(error: RemoteProtocolError) -> Self {
        End::Protocol(error)
    }
}

pub fn answer(
    holder: &mut Holder,
    ctx: &mut Ctx,
    conn: &mut Conn,
    header: &Header,
    message: Message<'_>,
    skip: usize,
) -> Result<Answered, End> {
    conn.session.receive(header.kind)?;
    if let Some(kind) = header.kind.answer() {
        conn.session.send(kind).expect("a request may be answered");
    }
    let request = header.request;
    let Some(seat) = conn.seat else {
        if let Message::Hello(hello) = message {
            greet(holder, ctx, conn, &hello.owner, hello.role);
        }
        return Ok(Answered::Whole);
    };
    let freed = match message {
        Message::Put(pages) => {
            put(holder, ctx, conn, header, pages);
            return Ok(Answered::Whole);
        }
        Message::Get(wanted) => return Ok(get(holder, ctx, conn, header, wanted, skip)),
        Message::Flush(wanted) => {
            let mut freed = Some(0);
            for (handle, version) in wanted {
                freed = freed.zip(holder.foreign.flush(seat, &handle, version)).map(|(sum, pages)| sum + pages);
            }
            freed
        }
        Message::FlushRange { first, count } => {
            let (mut freed, mut next) = (Some(0), Some(first));
            let end = u64::from(first.index) + u64::from(count);
            while let Some(from) = next {
                let slice = holder.foreign.flush_range(seat, &from, (end - u64::from(from.index)) as u32, SLICE_PAGES);
                freed = freed.zip(slice).map(|(sum, (pages, _))| sum + pages);
                next = slice.and_then(|(_, next)| next);
            }
            freed
        }
        Message::FlushObject { pool, object } => holder.foreign.flush_object(seat, pool, object),
        Message::DestroyPool(pool) => holder.foreign.destroy_pool(seat, pool),
        Message::Share(child) => {
            let (status, pages) = holder.foreign.share(seat, &child);
            ctx.tell(|| format!("holder {}: shares {pages} pages with {}: {status:?}", holder.who.place, name(&child)));
            let answer = Done { status, ..done(holder, Some(pages)) };
            encode::done(conn.outbox.frames(), request, &answer);
            return Ok(Answered::Whole);
        }
        Message::Goodbye => {
            let freed = holder.foreign.goodbye(seat);
            encode::farewell(conn.outbox.frames(), request, &done(holder, freed));
            conn.ending = true;
            return Ok(Answered::Whole);
        }
        _ => panic!("P8: the session let {:?} in", header.kind),
    };
    encode::done(conn.outbox.frames(), request, &done(holder, freed));
    Ok(Answered::Whole)
}

/// False: the session does not allow it any more.
pub fn refuse(conn: &mut Conn, reason: RefuseReason) -> bool {
    let may = conn.session.send(Kind::Refuse).is_ok();
    if may {
        let refusal = Refuse { reason, lowest_version: PROTOCOL_VERSION, highest_version: PROTOCOL_VERSION };
        encode::refuse(conn.outbox.frames(), &refusal);
    }
    may
}

pub fn status(holder: &Holder, conn: &mut Conn) {
    conn.session.send(Kind::Status).expect("the link is open");
    conn.owes_status = false;
    let foreign = &holder.foreign;
    let recall_bytes = conn.seat.map_or(0, |seat| foreign.recall_bytes(seat));
    encode::status(conn.outbox.frames(), foreign.offer_bytes(), foreign.free_bytes(), recall_bytes);
}

fn greet(holder: &mut Holder, ctx: &mut Ctx, conn: &mut Conn, owner: &OwnerId, role: Role) {
    let Ok(seat) = holder.foreign.arrive(owner, role) else {
        refuse(conn, RefuseReason::Incarnation);
        conn.ending = true;
        return;
    };
    // It may have taken the place of an earlier incarnation: that one's pages go now.
    holder.reap();
    ctx.tell(|| format!("holder {}: welcomes {} to account {}", holder.who.place, name(owner), seat.account()));
    (conn.seat, conn.owner) = (Some(seat), Some(*owner));
    conn.session.send(Kind::Welcome).expect("it was greeted");
    let welcome = Welcome {
        version: PROTOCOL_VERSION,
        auth_scheme: 0,
        auth: &[],
        node: holder.node,
        incarnation: holder.incarnation,
        account: seat.account(),
        offer_bytes: holder.foreign.offer_bytes(),
        free_bytes: holder.foreign.free_bytes(),
    };
    encode::welcome(conn.outbox.frames(), &welcome).expect("no credentials");
}

fn put(holder: &mut Holder, ctx: &mut Ctx, conn: &mut Conn, header: &Header, pages: Puts<'_>) {
    let Some(seat) = conn.seat else { return };
    let mut answer = encode::PutDoneWriter::begin(conn.outbox.frames(), header.request, header.first_index);
    let (mut stored, mut refused) = (0u64, 0u64);
    let kind = if header.ephemeral { PoolKind::Ephemeral } else { PoolKind::Persistent };
    for page in pages {
        assert!(!shows_mark(page.blob.bytes), "P9: a holder is given a page that it can read, {:?}", page.handle);
        let held_before = holder.foreign.used_bytes();
        let status = holder.foreign.put(seat, kind, &page.handle, page.version, &page.blob);
        let (used, offer) = (holder.foreign.used_bytes(), holder.foreign.offer_bytes());
        match status {
            PutStatus::Stored => {
                stored += 1;
                assert!(used <= offer.max(held_before), "P7: {used} bytes held, {offer} offered");
            }
            // By a link that has been replaced, or of an owner that said goodbye: it changes nothing.
            PutStatus::Gone => refused += 1,
            // Promise 2 at a holder: nothing is kept under the handle, older copies included.
            _ => {
                refused += 1;
                let held = holder.foreign.get(seat, &page.handle, page.version);
                let kept = status != PutStatus::Stale && !matches!(held, Held::Miss | Held::Gone);
                assert!(!kept, "P2: {status:?}, and a copy of {:?} is kept", page.handle);
            }
        }
        if holder.lies && holder.old.len() < OLD_BLOBS {
            holder.old.push((page.blob.kind, page.blob.tag.0, page.blob.bytes.to_vec()));
        }
        answer.push(status);
    }
    ctx.mark(&[stored, refused, holder.foreign.used_bytes()]);
    answer.finish(holder.foreign.free_bytes());
}

fn get(holder: &mut Holder, ctx: &mut Ctx, conn: &mut Conn, header: &Header, wanted: Wanted<'_>, skip: usize) -> Answered {
    let Some(seat) = conn.seat else { return Answered::Whole };
    let out = conn.outbox.frames();
    let mut count = skip;
    let mut wanted = wanted.skip_to(skip).peekable();
    while wanted.peek().is_some() {
        if out.len() >= GET_ROUND_BYTES {
            return Answered::UpTo(count);
        }
        let mut answer = encode::PagesWriter::begin(out, header.request, header.first_index + count as u16);
        while let Some((handle, version)) = wanted.peek() {
            let found = match holder.foreign.get(seat, handle, *version) {
                Held::Hit { version, blob } => Found::Hit { version, blob },
                Held::Miss => Found::Miss,
                Held::Gone => Found::Gone,
                Held::Stale => Found::Stale,
            };
            let lie = match &found {
                Found::Hit { blob, .. } if holder.lies && ctx.random.one_in(LIE_ONE_IN) => Some(lie(ctx, &holder.old, blob)),
                _ => None,
            };
            let told = match (&lie, found) {
                (Some((kind, tag, bytes)), Found::Hit { version, .. }) => {
                    Found::Hit { version, blob: Blob { kind: *kind, tag: Tag(*tag), bytes } }
                }
                (_, found) => found,
            };
            if !answer.push(&told) {
                break;
            }
            wanted.next();
            count += 1;
        }
        answer.finish();
    }
    Answered::Whole
}

/// Changed in a bit, of another length or kind, another page's or an older one's.
fn lie(ctx: &mut Ctx, old: &[(u8, [u8; 16], Vec<u8>)], blob: &Blob<'_>) -> (u8, [u8; 16], Vec<u8>) {
    let (mut kind, mut tag, mut bytes) = (blob.kind, blob.tag.0, blob.bytes.to_vec());
    match ctx.random.below(5) {
        0 if !bytes.is_empty() => {
            let at = ctx.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << ctx.random.below(8);
        }
        1 => tag[ctx.random.below(16) as usize] ^= 1,
        2 => kind = 1 + (kind + 1) % 3,
        3 if bytes.len() > 1 => bytes.truncate(bytes.len() - 1),
        _ if !old.is_empty() => return old[ctx.random.below(old.len() as u64) as usize].clone(),
        _ => tag[0] ^= 1,
    }
    (kind, tag, bytes)
}

/// None: the account has gone. What was dropped is freed before the answer, so that the free bytes in it are true.
fn done(holder: &mut Holder, freed: Option<u64>) -> Done {
    holder.reap();
    let status = if freed.is_some() { DoneStatus::Done } else { DoneStatus::Gone };
    Done { status, pages: freed.unwrap_or(0), free_bytes: holder.foreign.free_bytes() }
}
