//! The 24 bytes before every message. Covers the header and the kinds with their length limits; not what the bodies mean.

use super::error::RemoteProtocolError;
use super::message;
use super::{MAX_AUTH_BYTES, MAX_BLOB_BYTES, MAX_BODY_BYTES, MAX_PAGES, PROTOCOL_VERSION};

pub const MAGIC: [u8; 4] = *b"RAMs";
pub const HEADER_BYTES: usize = 24;
/// The one flag there is, and only a put may have it.
const EPHEMERAL: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// Owns the pages; opens the link.
    Client,
    /// Holds the pages.
    Server,
}

/// What a frame is. The numbers are the protocol: they never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    Refuse = 3,
    Put = 4,
    PutDone = 5,
    Get = 6,
    Pages = 7,
    Flush = 8,
    FlushRange = 9,
    FlushObject = 10,
    DestroyPool = 11,
    Share = 12,
    Done = 13,
    Goodbye = 14,
    Farewell = 15,
    Ping = 16,
    Pong = 17,
    Status = 18,
}

impl Kind {
    pub const ALL: [Kind; 18] = [
        Self::Hello,
        Self::Welcome,
        Self::Refuse,
        Self::Put,
        Self::PutDone,
        Self::Get,
        Self::Pages,
        Self::Flush,
        Self::FlushRange,
        Self::FlushObject,
        Self::DestroyPool,
        Self::Share,
        Self::Done,
        Self::Goodbye,
        Self::Farewell,
        Self::Ping,
        Self::Pong,
        Self::Status,
    ];

    pub fn from_byte(byte: u8) -> Option<Kind> {
        // The numbers run from 1 without a gap, in the order of ALL; a test holds that.
        Self::ALL.get(usize::from(byte).wrapping_sub(1)).copied()
    }

    pub fn sender(self) -> Side {
        match self {
            Self::Hello | Self::Put | Self::Get | Self::Flush | Self::FlushRange | Self::FlushObject => Side::Client,
            Self::DestroyPool | Self::Share | Self::Goodbye | Self::Ping => Side::Client,
            Self::Welcome | Self::Refuse | Self::PutDone | Self::Pages | Self::Done => Side::Server,
            Self::Farewell | Self::Pong | Self::Status => Side::Server,
        }
    }

    /// The kind that answers this request.
    pub fn answer(self) -> Option<Kind> {
        match self {
            Self::Put => Some(Self::PutDone),
            Self::Get => Some(Self::Pages),
            Self::Flush | Self::FlushRange | Self::FlushObject | Self::DestroyPool | Self::Share => Some(Self::Done),
            Self::Goodbye => Some(Self::Farewell),
            Self::Ping => Some(Self::Pong),
            _ => None,
        }
    }

    pub fn is_answer(self) -> bool {
        matches!(self, Self::PutDone | Self::Pages | Self::Done | Self::Farewell | Self::Pong)
    }

    /// Shortest and longest body that makes sense for `count` pages: checked on the header alone, before any of the body is waited for.
    fn body_bounds(self, count: usize) -> (usize, usize) {
        let exact = |bytes| (bytes, bytes);
        match self {
            Self::Hello => (message::HELLO_BYTES, message::HELLO_BYTES + MAX_AUTH_BYTES),
            Self::Welcome => (message::WELCOME_BYTES, message::WELCOME_BYTES + MAX_AUTH_BYTES),
            Self::Refuse => exact(message::REFUSE_BYTES),
            Self::Put => (message::PUT_PAGE_BYTES * count, (message::PUT_PAGE_BYTES + MAX_BLOB_BYTES) * count),
            Self::PutDone => exact(message::FREE_BYTES + count),
            Self::Get | Self::Flush => exact(message::WANTED_BYTES * count),
            Self::Pages => (count, (message::HIT_BYTES + MAX_BLOB_BYTES) * count),
            Self::FlushRange => exact(message::HANDLE_BYTES + 4),
            Self::FlushObject => exact(message::OBJECT_BYTES),
            Self::DestroyPool => exact(4),
            Self::Share => exact(message::OWNER_BYTES),
            Self::Done | Self::Farewell => exact(message::DONE_BYTES),
            Self::Goodbye | Self::Ping | Self::Pong => exact(0),
            Self::Status => exact(3 * message::FREE_BYTES),
        }
    }

    /// Kinds that carry pages, handles or statuses, one for each of `count`.
    fn counts_pages(self) -> bool {
        matches!(self, Self::Put | Self::PutDone | Self::Get | Self::Pages | Self::Flush)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    /// The client's name for the request, repeated in its answers. 0 where there is none.
    pub request: u64,
    /// Of the body; the header is not counted.
    pub length_bytes: u32,
    /// Pages in this frame.
    pub count: u16,
    /// Which page of the request's batch the first one of this frame is.
    pub first_index: u16,
    /// Of a put: the holder may drop these pages when it needs room.
    pub ephemeral: bool,
}

impl Header {
    pub fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.length_bytes as usize
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = PROTOCOL_VERSION;
        bytes[5] = self.kind as u8;
        bytes[6] = u8::from(self.ephemeral) * EPHEMERAL;
        bytes[8..16].copy_from_slice(&self.request.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.count.to_le_bytes());
        bytes[22..24].copy_from_slice(&self.first_index.to_le_bytes());
        bytes
    }

    /// Everything that can be judged without the body is judged here, so that nobody waits, or makes room, for a body that cannot be right.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, RemoteProtocolError> {
        let [m0, m1, m2, m3, version, kind, f0, f1, r0, r1, r2, r3, r4, r5, r6, r7, l0, l1, l2, l3, c0, c1, i0, i1] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(RemoteProtocolError::BadMagic);
        }
        if version != PROTOCOL_VERSION {
            return Err(RemoteProtocolError::BadVersion);
        }
        let kind = Kind::from_byte(kind).ok_or(RemoteProtocolError::UnknownKind)?;
        let ephemeral = f0 == EPHEMERAL && kind == Kind::Put;
        if f1 != 0 || (f0 != 0 && !ephemeral) {
            return Err(RemoteProtocolError::BadFlags);
        }
        let header = Header {
            kind,
            request: u64::from_le_bytes([r0, r1, r2, r3, r4, r5, r6, r7]),
            length_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            count: u16::from_le_bytes([c0, c1]),
            first_index: u16::from_le_bytes([i0, i1]),
            ephemeral,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), RemoteProtocolError> {
        let (count, first) = (usize::from(self.count), usize::from(self.first_index));
        if self.length_bytes as usize > MAX_BODY_BYTES {
            return Err(RemoteProtocolError::FrameTooLong);
        }
        if count > MAX_PAGES {
            return Err(RemoteProtocolError::TooManyPages);
        }
        if self.kind.counts_pages() {
            if count == 0 || first + count > MAX_PAGES {
                return Err(RemoteProtocolError::BadPageRange);
            }
        } else if count != 0 || first != 0 {
            return Err(RemoteProtocolError::BadPageRange);
        }
        let (shortest, longest) = self.kind.body_bounds(count);
        if !(shortest..=longest).contains(&(self.length_bytes as usize)) {
            return Err(RemoteProtocolError::BadLength);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: Kind, length_bytes: usize, count: u16) -> Header {
        Header { kind, request: 7, length_bytes: length_bytes as u32, count, first_index: 0, ephemeral: false }
    }

    #[test]
    fn a_kind_is_found_by_its_number_and_no_other_number_is_a_kind() {
        for byte in 0..=255u8 {
            match Kind::from_byte(byte) {
                Some(kind) => assert_eq!(kind as u8, byte),
                None => assert!(byte == 0 || usize::from(byte) > Kind::ALL.len()),
            }
        }
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        let header = Header { first_index: 251, request: u64::MAX - 3, ..header(Kind::Get, 36 * 5, 5) };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        let ephemeral = Header { ephemeral: true, ..self::header(Kind::Put, message::PUT_PAGE_BYTES, 1) };
        assert_eq!(Header::decode(&ephemeral.encode()), Ok(ephemeral));
    }

    #[test]
    fn a_wrong_field_has_its_own_reason() {
        let good = header(Kind::Ping, 0, 0).encode();
        for (at, value, reason) in [
            (0, b'X', RemoteProtocolError::BadMagic),
            (4, 2, RemoteProtocolError::BadVersion),
            (5, 0, RemoteProtocolError::UnknownKind),
            (5, 99, RemoteProtocolError::UnknownKind),
            (6, 1, RemoteProtocolError::BadFlags),
            (6, 2, RemoteProtocolError::BadFlags),
            (7, 1, RemoteProtocolError::BadFlags),
            (16, 1, RemoteProtocolError::BadLength),
            (19, 1, RemoteProtocolError::FrameTooLong),
            (20, 1, RemoteProtocolError::BadPageRange),
            (21, 2, RemoteProtocolError::TooManyPages),
            (22, 1, RemoteProtocolError::BadPageRange),
        ] {
            let mut bytes = good;
            bytes[at] = value;
            assert_eq!(Header::decode(&bytes), Err(reason), "byte {at}");
        }
    }

    /// The kernel version's limit forgot the header: pages of 3977-4000 bytes were refused for ever.
    #[test]
    fn the_length_limit_counts_the_body_and_not_the_header() {
        let longest_page = message::PUT_PAGE_BYTES + MAX_BLOB_BYTES;
        assert!(Header::decode(&header(Kind::Put, longest_page, 1).encode()).is_ok());
        assert_eq!(Header::decode(&header(Kind::Put, longest_page + 1, 1).encode()), Err(RemoteProtocolError::BadLength));
        assert!(Header::decode(&header(Kind::Put, MAX_BODY_BYTES, 100).encode()).is_ok());
        assert_eq!(Header::decode(&header(Kind::Put, MAX_BODY_BYTES + 1, 100).encode()), Err(RemoteProtocolError::FrameTooLong));
    }

    #[test]
    fn a_batch_never_reaches_past_page_256() {
        let mut header = header(Kind::Get, message::WANTED_BYTES * 2, 2);
        header.first_index = 254;
        assert!(Header::decode(&header.encode()).is_ok());
        header.first_index = 255;
        assert_eq!(Header::decode(&header.encode()), Err(RemoteProtocolError::BadPageRange));
    }
}
