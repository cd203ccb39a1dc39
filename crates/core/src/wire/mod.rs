//! Step 7: messages to frames and back, without a socket. Covers limits, the header, the messages, the buffers and the session's state
//! table; not who reads and writes the bytes (crates/peer) and not how a holder keeps pages (`foreign`). docs/protocol.md has the byte maps.

pub mod buffer;
pub mod encode;
pub mod error;
pub mod frame;
pub mod message;
pub mod session;

use crate::page::PAGE_BYTES;

/// The only version spoken so far.
pub const PROTOCOL_VERSION: u8 = 1;

/// Pages in one message. A batch this long already hides the round trip; doubling it only doubles what a lost link has to do again.
pub const MAX_PAGES: usize = 256;

/// A page's bytes as they travel: never more than the page, or it would have gone raw. Its seal keeps the length.
pub const MAX_BLOB_BYTES: usize = PAGE_BYTES;

/// A frame with its header. A message longer than this is cut into several frames of one request id, so that a receive buffer stays small
/// enough for the second-level cache and thousands of links stay affordable. Doubling it doubles both for no speed.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;

/// The header counts neither in `length` nor in this limit: a limit that forgets the header refuses the longest pages for ever.
pub const MAX_BODY_BYTES: usize = MAX_FRAME_BYTES - frame::HEADER_BYTES;

/// Room for credentials in the handshake; empty in version 1.
pub const MAX_AUTH_BYTES: usize = 1024;

/// Requests of one link that wait for answers. More than a link needs to stay busy, few enough to search.
pub const MAX_IN_FLIGHT: usize = 1024;

// The longest single page must fit a frame, or it could never be sent.
const _: () = assert!(message::PUT_PAGE_BYTES + MAX_BLOB_BYTES <= MAX_BODY_BYTES);
// A full batch of handles must fit one frame: gets and flushes are never cut.
const _: () = assert!(message::WANTED_BYTES * MAX_PAGES <= MAX_BODY_BYTES);
