//! The bodies of the frames. Covers reading each message without copying or allocating, and the statuses; writing is `encode`. A decoded
//! message is checked to its last byte, so its iterators end exactly where the frame does.

use super::error::RemoteProtocolError as Wrong;
use super::frame::{Header, Kind};
use super::{MAX_AUTH_BYTES, MAX_BLOB_BYTES};
use crate::handle::{Handle, ObjectId, OwnerId, PoolId, Version};
use crate::seal::{TAG_BYTES, Tag};

pub const HANDLE_BYTES: usize = 4 + 24 + 4;
pub const OBJECT_BYTES: usize = 4 + 24;
pub const OWNER_BYTES: usize = 8 + 16 + 8;
/// A handle and the version wanted.
pub const WANTED_BYTES: usize = HANDLE_BYTES + 4;
/// What precedes a page's bytes wherever they go: kind, tag, length.
pub const BLOB_HEADER_BYTES: usize = 1 + TAG_BYTES + 2;
pub const PUT_PAGE_BYTES: usize = WANTED_BYTES + BLOB_HEADER_BYTES;
/// A hit without the page's bytes: status, version, blob header.
pub const HIT_BYTES: usize = 1 + 4 + BLOB_HEADER_BYTES;
pub const FREE_BYTES: usize = 8;
pub const DONE_BYTES: usize = 1 + 8 + FREE_BYTES;
pub const HELLO_BYTES: usize = OWNER_BYTES + 6;
pub const WELCOME_BYTES: usize = 4 + 5 * 8;
pub const REFUSE_BYTES: usize = 3;

/// A page's bytes as their owner sealed them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blob<'a> {
    pub kind: u8,
    pub tag: Tag,
    pub bytes: &'a [u8],
}

/// One page of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PutPage<'a> {
    pub handle: Handle,
    pub version: Version,
    pub blob: Blob<'a>,
}

/// The holder's answer for one page of a get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    Hit {
        version: Version,
        blob: Blob<'a>,
    },
    /// No such page here.
    Miss,
    /// The owner has no pages here any more: it said goodbye, or a later incarnation of it arrived.
    Gone,
    /// Held in another version.
    Stale,
    /// Not answered, for a reason that is not the page's.
    Refused,
}

/// The holder's answer for one page of a put. Unless stored, nothing is kept under this handle, older copies included; `Stale` alone leaves
/// the newer copy that it found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum PutStatus {
    Stored = 0,
    RefusedFull = 1,
    Gone = 2,
    Stale = 3,
    Refused = 4,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum DoneStatus {
    Done = 0,
    Gone = 1,
    Refused = 2,
}

/// What a link is for. A holder serves `Get` links first: a thread sleeps behind each of their requests. Only an owner's newest `Bulk` link changes what is
/// held for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Role {
    Get = 0,
    Bulk = 1,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RefuseReason {
    /// No version in common; the refusal carries the holder's range.
    Version = 1,
    /// A later incarnation of this client has been here.
    Incarnation = 2,
    TooManyLinks = 3,
    Auth = 4,
    Protocol = 5,
    /// The link sat in the way: half a frame, no hello, or answers not taken.
    Timeout = 6,
    Stopping = 7,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello<'a> {
    pub owner: OwnerId,
    pub role: Role,
    pub lowest_version: u8,
    pub highest_version: u8,
    /// 0: none, and `auth` is empty.
    pub auth_scheme: u8,
    pub auth: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome<'a> {
    pub version: u8,
    pub auth_scheme: u8,
    pub auth: &'a [u8],
    pub node: u64,
    /// Which life of the holder.
    pub incarnation: u64,
    /// Names the owner's stay at this holder. Another number after a reconnect: every page put before is gone.
    pub account: u64,
    pub offer_bytes: u64,
    pub free_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refuse {
    pub reason: RefuseReason,
    pub lowest_version: u8,
    pub highest_version: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    pub status: DoneStatus,
    /// Freed by a flush, seen by the child after a share.
    pub pages: u64,
    pub free_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Message<'a> {
    Hello(Hello<'a>),
    Welcome(Welcome<'a>),
    Refuse(Refuse),
    Put(Puts<'a>),
    PutDone { free_bytes: u64, statuses: Statuses<'a> },
    Get(Wanted<'a>),
    Pages(Answers<'a>),
    Flush(Wanted<'a>),
    FlushRange { first: Handle, count: u32 },
    FlushObject { pool: PoolId, object: ObjectId },
    DestroyPool(PoolId),
    Share(OwnerId),
    Done(Done),
    Goodbye,
    Farewell(Done),
    Ping,
    Pong,
    Status { offer_bytes: u64, free_bytes: u64, recall_bytes: u64 },
}

impl<'a> Message<'a> {
    /// MUST be given the header's own body. Nothing of it is believed that was not checked here.
    pub fn decode(header: &Header, body: &'a [u8]) -> Result<Message<'a>, Wrong> {
        let mut cursor = Cursor { rest: body };
        let count = usize::from(header.count);
        let message = match header.kind {
            Kind::Hello => Message::Hello(cursor.hello()?),
            Kind::Welcome => Message::Welcome(cursor.welcome()?),
            Kind::Refuse => Message::Refuse(cursor.refuse()?),
            Kind::Put => Message::Put(Puts::checked(cursor.take_rest(), count)?),
            Kind::PutDone => {
                Message::PutDone { free_bytes: cursor.u64()?, statuses: Statuses::checked(cursor.take_rest(), count)? }
            }
            Kind::Get => Message::Get(Wanted::checked(cursor.take_rest(), count)?),
            Kind::Pages => Message::Pages(Answers::checked(cursor.take_rest(), count)?),
            Kind::Flush => Message::Flush(Wanted::checked(cursor.take_rest(), count)?),
            Kind::FlushRange => Message::FlushRange { first: cursor.handle()?, count: cursor.u32()? },
            Kind::FlushObject => Message::FlushObject { pool: PoolId(cursor.u32()?), object: cursor.object()? },
            Kind::DestroyPool => Message::DestroyPool(PoolId(cursor.u32()?)),
            Kind::Share => Message::Share(cursor.owner()?),
            Kind::Done => Message::Done(cursor.done()?),
            Kind::Goodbye => Message::Goodbye,
            Kind::Farewell => Message::Farewell(cursor.done()?),
            Kind::Ping => Message::Ping,
            Kind::Pong => Message::Pong,
            Kind::Status => {
                Message::Status { offer_bytes: cursor.u64()?, free_bytes: cursor.u64()?, recall_bytes: cursor.u64()? }
            }
        };
        if cursor.rest.is_empty() { Ok(message) } else { Err(Wrong::BadLength) }
    }
}

/// The pages of a put frame.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Puts<'a>(Cursor<'a>);

/// The handles of a get or a flush.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Wanted<'a>(Cursor<'a>);

/// The answers of a get, in the order of its handles.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answers<'a>(Cursor<'a>);

/// The statuses of a put, in the order of its pages.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Statuses<'a>(Cursor<'a>);

/// Walks all of `rest` once, so that the walk that acts on it cannot fail half way.
fn walk<'a, T>(rest: &'a [u8], count: usize, next: impl Fn(&mut Cursor<'a>) -> Result<T, Wrong>) -> Result<Cursor<'a>, Wrong> {
    let mut cursor = Cursor { rest };
    for _ in 0..count {
        next(&mut cursor)?;
    }
    if cursor.rest.is_empty() { Ok(Cursor { rest }) } else { Err(Wrong::BadLength) }
}

impl<'a> Puts<'a> {
    fn checked(rest: &'a [u8], count: usize) -> Result<Self, Wrong> {
        walk(rest, count, Cursor::put_page).map(Puts)
    }
}

impl<'a> Wanted<'a> {
    fn checked(rest: &'a [u8], count: usize) -> Result<Self, Wrong> {
        if rest.len() == count * WANTED_BYTES { Ok(Wanted(Cursor { rest })) } else { Err(Wrong::BadLength) }
    }

    /// From page `index` of this frame on: how an answer that did not fit is taken up again.
    pub fn skip_to(self, index: usize) -> Self {
        Wanted(Cursor { rest: self.0.rest.get(index * WANTED_BYTES..).unwrap_or_default() })
    }
}

impl<'a> Answers<'a> {
    fn checked(rest: &'a [u8], count: usize) -> Result<Self, Wrong> {
        walk(rest, count, Cursor::found).map(Answers)
    }
}

impl<'a> Statuses<'a> {
    fn checked(rest: &'a [u8], count: usize) -> Result<Self, Wrong> {
        walk(rest, count, Cursor::put_status).map(Statuses)
    }
}

impl<'a> Iterator for Puts<'a> {
    type Item = PutPage<'a>;
    fn next(&mut self) -> Option<PutPage<'a>> {
        self.0.put_page().ok()
    }
}

impl Iterator for Wanted<'_> {
    type Item = (Handle, Version);
    fn next(&mut self) -> Option<(Handle, Version)> {
        self.0.wanted().ok()
    }
}

impl<'a> Iterator for Answers<'a> {
    type Item = Found<'a>;
    fn next(&mut self) -> Option<Found<'a>> {
        self.0.found().ok()
    }
}

impl Iterator for Statuses<'_> {
    type Item = PutStatus;
    fn next(&mut self) -> Option<PutStatus> {
        self.0.put_status().ok()
    }
}

/// Takes fields off the front; a field that is not all there is `BadLength`.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Wrong::BadLength)?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Wrong::BadLength)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Wrong> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Wrong> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Wrong> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, Wrong> {
        self.array().map(u128::from_le_bytes)
    }

    fn object(&mut self) -> Result<ObjectId, Wrong> {
        Ok(ObjectId([self.u64()?, self.u64()?, self.u64()?]))
    }

    fn handle(&mut self) -> Result<Handle, Wrong> {
        Ok(Handle { pool: PoolId(self.u32()?), object: self.object()?, index: self.u32()? })
    }

    fn owner(&mut self) -> Result<OwnerId, Wrong> {
        Ok(OwnerId { node: self.u64()?, client: self.u128()?, incarnation: self.u64()? })
    }

    fn wanted(&mut self) -> Result<(Handle, Version), Wrong> {
        Ok((self.handle()?, self.u32()?))
    }

    fn blob(&mut self) -> Result<Blob<'a>, Wrong> {
        let (kind, tag, length) = (self.u8()?, Tag(self.u128()?.to_le_bytes()), usize::from(self.u16()?));
        if length > MAX_BLOB_BYTES {
            return Err(Wrong::BlobTooLong);
        }
        Ok(Blob { kind, tag, bytes: self.take(length)? })
    }

    fn put_page(&mut self) -> Result<PutPage<'a>, Wrong> {
        let (handle, version) = self.wanted()?;
        Ok(PutPage { handle, version, blob: self.blob()? })
    }

    fn found(&mut self) -> Result<Found<'a>, Wrong> {
        match self.u8()? {
            0 => Ok(Found::Hit { version: self.u32()?, blob: self.blob()? }),
            1 => Ok(Found::Miss),
            2 => Ok(Found::Gone),
            3 => Ok(Found::Stale),
            4 => Ok(Found::Refused),
            _ => Err(Wrong::BadStatus),
        }
    }

    fn put_status(&mut self) -> Result<PutStatus, Wrong> {
        match self.u8()? {
            0 => Ok(PutStatus::Stored),
            1 => Ok(PutStatus::RefusedFull),
            2 => Ok(PutStatus::Gone),
            3 => Ok(PutStatus::Stale),
            4 => Ok(PutStatus::Refused),
            _ => Err(Wrong::BadStatus),
        }
    }

    fn done(&mut self) -> Result<Done, Wrong> {
        let status = match self.u8()? {
            0 => DoneStatus::Done,
            1 => DoneStatus::Gone,
            2 => DoneStatus::Refused,
            _ => return Err(Wrong::BadStatus),
        };
        Ok(Done { status, pages: self.u64()?, free_bytes: self.u64()? })
    }

    fn auth(&mut self) -> Result<&'a [u8], Wrong> {
        let length = usize::from(self.u16()?);
        if length > MAX_AUTH_BYTES {
            return Err(Wrong::BadLength);
        }
        self.take(length)
    }

    fn hello(&mut self) -> Result<Hello<'a>, Wrong> {
        let owner = self.owner()?;
        let role = match self.u8()? {
            0 => Role::Get,
            1 => Role::Bulk,
            _ => return Err(Wrong::BadRole),
        };
        let (lowest_version, highest_version, auth_scheme) = (self.u8()?, self.u8()?, self.u8()?);
        Ok(Hello { owner, role, lowest_version, highest_version, auth_scheme, auth: self.auth()? })
    }

    fn welcome(&mut self) -> Result<Welcome<'a>, Wrong> {
        let (version, auth_scheme, auth_length) = (self.u8()?, self.u8()?, usize::from(self.u16()?));
        let (node, incarnation, account) = (self.u64()?, self.u64()?, self.u64()?);
        let (offer_bytes, free_bytes) = (self.u64()?, self.u64()?);
        Ok(Welcome { version, auth_scheme, auth: self.take(auth_length)?, node, incarnation, account, offer_bytes, free_bytes })
    }

    fn refuse(&mut self) -> Result<Refuse, Wrong> {
        let reason = match self.u8()? {
            1 => RefuseReason::Version,
            2 => RefuseReason::Incarnation,
            3 => RefuseReason::TooManyLinks,
            4 => RefuseReason::Auth,
            5 => RefuseReason::Protocol,
            6 => RefuseReason::Timeout,
            7 => RefuseReason::Stopping,
            _ => return Err(Wrong::BadStatus),
        };
        Ok(Refuse { reason, lowest_version: self.u8()?, highest_version: self.u8()? })
    }
}
