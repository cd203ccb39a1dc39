//! Bytes on their way in and out of a link. Covers finding whole frames in what has been received, and what is left to send; not the socket.

use super::MAX_FRAME_BYTES;
use super::error::RemoteProtocolError;
use super::frame::{HEADER_BYTES, Header};

/// What a fresh inbox can take: an answer of one raw page with room to spare.
const FIRST_BYTES: usize = 8 * 1024;
/// Two frames: a frame that was cut anywhere can be moved to the front and still be completed.
pub const INBOX_LIMIT_BYTES: usize = 2 * MAX_FRAME_BYTES;

/// Received bytes. Memory follows the bytes that came, never the length that a header claims, and never passes [`INBOX_LIMIT_BYTES`].
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    pub fn new() -> Self {
        Inbox { bytes: vec![0; FIRST_BYTES], start: 0, end: 0 }
    }

    /// Where to receive the next bytes. Never empty as long as whole frames are consumed before it is asked for again.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        // The last read filled everything: more is coming than this holds.
        if self.end == self.bytes.len() && self.bytes.len() < INBOX_LIMIT_BYTES {
            self.bytes.resize((self.bytes.len() * 2).min(INBOX_LIMIT_BYTES), 0);
        }
        &mut self.bytes[self.end..]
    }

    pub fn received(&mut self, count_bytes: usize) {
        debug_assert!(count_bytes <= self.bytes.len() - self.end);
        self.end = (self.end + count_bytes).min(self.bytes.len());
    }

    /// Header of the first frame, as soon as it is there.
    pub fn header(&self) -> Result<Option<Header>, RemoteProtocolError> {
        match self.bytes[self.start..self.end].first_chunk::<HEADER_BYTES>() {
            Some(bytes) => Header::decode(bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Body of the first frame, once all of it is there.
    pub fn body(&self, header: &Header) -> Option<&[u8]> {
        self.bytes[self.start..self.end].get(HEADER_BYTES..header.frame_bytes())
    }

    pub fn consume(&mut self, header: &Header) {
        self.start = (self.start + header.frame_bytes()).min(self.end);
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn capacity_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Moves a small rest into an inbox of its own, so that this one, grown large, can serve another link. None: the rest is too long for that.
    pub fn split_rest(&mut self) -> Option<Inbox> {
        let rest = &self.bytes[self.start..self.end];
        if rest.len() > FIRST_BYTES / 2 {
            return None;
        }
        let mut inbox = Inbox::new();
        inbox.bytes[..rest.len()].copy_from_slice(rest);
        inbox.end = rest.len();
        (self.start, self.end) = (0, 0);
        Some(inbox)
    }
}

/// Bytes to send. Its limits are its users': they ask `pending_bytes` before they write more.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub fn new() -> Self {
        Self::default()
    }

    /// Frames are written at its end, whole, one after another: that is why two never interleave.
    pub fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub fn pending_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub fn is_empty(&self) -> bool {
        self.pending_bytes() == 0
    }

    pub fn sent(&mut self, count_bytes: usize) {
        self.sent = (self.sent + count_bytes).min(self.bytes.len());
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 && self.sent >= MAX_FRAME_BYTES {
            // Most of it is on its way: give the front back before the end grows further.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::super::frame::Kind;
    use super::*;

    #[test]
    fn a_frame_that_comes_byte_by_byte_is_seen_once_it_is_whole() {
        let mut frame = Vec::new();
        encode::destroy_pool(&mut frame, 9, crate::handle::PoolId(3));
        let mut inbox = Inbox::new();
        for (at, byte) in frame.iter().enumerate() {
            inbox.space()[0] = *byte;
            inbox.received(1);
            let whole = inbox.header().unwrap().is_some_and(|header| inbox.body(&header).is_some());
            assert_eq!(whole, at + 1 == frame.len());
        }
        let header = inbox.header().unwrap().unwrap();
        assert_eq!((header.kind, header.request), (Kind::DestroyPool, 9));
        inbox.consume(&header);
        assert!(inbox.is_empty());
    }

    #[test]
    fn an_inbox_grows_with_what_came_and_not_with_what_a_header_claims() {
        let claim = Header { kind: Kind::Put, request: 1, length_bytes: 60_000, count: 100, first_index: 0, ephemeral: false };
        let mut inbox = Inbox::new();
        inbox.space()[..HEADER_BYTES].copy_from_slice(&claim.encode());
        inbox.received(HEADER_BYTES);
        inbox.space();
        assert_eq!(inbox.capacity_bytes(), FIRST_BYTES);
        let mut came = HEADER_BYTES;
        while inbox.body(&inbox.header().unwrap().unwrap()).is_none() {
            let space = inbox.space().len();
            assert!(space > 0);
            inbox.received(space.min(1000));
            came += space.min(1000);
            assert!(inbox.capacity_bytes() <= (2 * came).max(FIRST_BYTES));
        }
        assert!(inbox.capacity_bytes() <= INBOX_LIMIT_BYTES);
    }

    #[test]
    fn an_outbox_gives_bytes_in_order_however_little_is_taken() {
        let mut outbox = Outbox::new();
        let mut expected = Vec::new();
        let mut seen = Vec::new();
        for round in 0..2000u32 {
            outbox.frames().extend_from_slice(&[round as u8; 300]);
            expected.extend_from_slice(&[round as u8; 300]);
            let take = outbox.pending_bytes().min(197);
            seen.extend_from_slice(&outbox.pending()[..take]);
            outbox.sent(take);
        }
        seen.extend_from_slice(outbox.pending());
        assert!(seen == expected);
    }
}
