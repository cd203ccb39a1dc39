//! What pages contain: decided by a number, so that a page can be told from any other. Covers bytes only.

use ramster_core::compress::fill;
use ramster_core::page::{PAGE_BYTES, Page};

/// In every page but same-value ones; no holder may ever see it. lz4 and zstd leave it readable: it follows bytes that are not repeated.
pub const MARK: &[u8; 16] = b"this is secret: ";

/// Same-value, well compressible, half, badly and not at all compressible pages: the content decides.
pub fn page_of(content: u32) -> Page {
    let mut page = [0; PAGE_BYTES];
    if content.is_multiple_of(16) {
        fill(&mut page, u64::from(content / 16 % 3) * 0x0101_0101_0101_0101);
        return page;
    }
    let random = [40, 40, 300, 1024, 2000, 3000, 3960, PAGE_BYTES][content as usize % 8];
    let mut x = u64::from(content).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in page[..random].as_chunks_mut::<8>().0 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *word = x.to_le_bytes();
    }
    page[random..].fill(content as u8 | 1);
    page[..4].copy_from_slice(&content.to_le_bytes());
    page[8..24].copy_from_slice(MARK);
    page
}

/// Whether the mark can be read in these bytes.
pub fn shows_mark(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == MARK[0]) {
        if rest[at..].starts_with(MARK) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
