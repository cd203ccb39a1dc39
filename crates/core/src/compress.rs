//! Steps 4 and 13: a page becomes packed bytes and comes back. Covers the codecs, the same-value test, the digest and its check; not where
//! packed bytes are kept.

use crate::page::{self, Digest, PAGE_BYTES, Page};
use lzzzz::lz4;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat};

/// Packed bytes longer than this are not worth an inflation: the page is kept raw, and never refused for that.
/// 64 bytes are what a slot of the largest class but four would save, 1.5 % of a page; twice that loses real savings on half-random pages.
pub const PACKED_MAX_BYTES: usize = PAGE_BYTES - 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    Lz4,
    /// zstd's level; negative ones are its fast modes.
    Zstd(i32),
}

/// How packed bytes are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Every 8 bytes of the page are this pattern (little endian); there are no packed bytes.
    Same(u64),
    Lz4,
    Zstd,
    Raw,
}

impl Kind {
    /// The tag on wire and disk.
    pub const fn tag(self) -> u8 {
        match self {
            Kind::Same(_) => 0,
            Kind::Lz4 => 1,
            Kind::Zstd => 2,
            Kind::Raw => 3,
        }
    }

    /// None for an unknown tag and for 0: same-value pages keep their pattern at home and are never sent.
    pub const fn from_tag(tag: u8) -> Option<Kind> {
        match tag {
            1 => Some(Kind::Lz4),
            2 => Some(Kind::Zstd),
            3 => Some(Kind::Raw),
            _ => None,
        }
    }
}

/// A page ready to be kept or sent. A same-value page has no bytes and a digest of 0: its pattern says everything.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    pub kind: Kind,
    pub digest: Digest,
    pub bytes: &'a [u8],
}

/// Why packed bytes are not the page that was packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Corrupt {
    /// The bytes are too long, too short, or inflate to something that is not one page.
    Length,
    /// The codec does not understand them.
    Codec,
    /// They inflate to another page.
    Digest,
}

/// Contexts and buffers of one thread. Allocates when made, and once more at the first zstd page and a thread's first lz4 page
/// (all from Rust's allocator, never from libc's malloc).
pub struct Packer {
    seed: u64,
    packed: Box<[u8; PACKED_MAX_BYTES]>,
    deflate: Option<Deflate>,
    inflate: Option<DCtx<'static>>,
}

struct Deflate {
    context: CCtx<'static>,
    level: i32,
}

impl Packer {
    /// `seed` keys the digests: the same for all packers of one engine.
    pub fn new(seed: u64) -> Self {
        Packer { seed, packed: Box::new([0; PACKED_MAX_BYTES]), deflate: None, inflate: None }
    }

    pub fn digest(&self, page: &Page) -> Digest {
        page::digest(page, self.seed)
    }

    pub fn pack<'a>(&'a mut self, page: &'a Page, codec: Codec) -> Packed<'a> {
        if let Some(value) = page::same_value(page) {
            return Packed { kind: Kind::Same(value), digest: Digest::default(), bytes: &[] };
        }
        let digest = self.digest(page);
        self.pack_digested(page, digest, codec)
    }

    /// For who has asked for the digest already (to see whether the page is unchanged) and knows that the page is not same-valued.
    pub fn pack_digested<'a>(&'a mut self, page: &'a Page, digest: Digest, codec: Codec) -> Packed<'a> {
        let (kind, length) = match codec {
            Codec::Lz4 => (Kind::Lz4, lz4::compress(page, &mut self.packed[..], lz4::ACC_LEVEL_DEFAULT).ok()),
            Codec::Zstd(level) => (Kind::Zstd, self.deflate(page, level)),
        };
        match length {
            Some(length) => Packed { kind, digest, bytes: &self.packed[..length] },
            None => Packed { kind: Kind::Raw, digest, bytes: page },
        }
    }

    /// After an error `page` holds garbage; after success it MUST be the page that was packed.
    pub fn unpack(&mut self, packed: Packed<'_>, page: &mut Page) -> Result<(), Corrupt> {
        let length = match packed.kind {
            Kind::Same(value) => {
                fill(page, value);
                return if packed.bytes.is_empty() { Ok(()) } else { Err(Corrupt::Length) };
            }
            _ if packed.bytes.is_empty() || packed.bytes.len() > PAGE_BYTES => return Err(Corrupt::Length),
            Kind::Lz4 => lz4::decompress(packed.bytes, page).map_err(|_| Corrupt::Codec)?,
            Kind::Zstd => self.inflate(packed.bytes, page)?,
            Kind::Raw => {
                if packed.bytes.len() == PAGE_BYTES {
                    page.copy_from_slice(packed.bytes);
                }
                packed.bytes.len()
            }
        };
        if length != PAGE_BYTES {
            return Err(Corrupt::Length);
        }
        if self.digest(page) == packed.digest { Ok(()) } else { Err(Corrupt::Digest) }
    }

    fn deflate(&mut self, page: &Page, level: i32) -> Option<usize> {
        if self.deflate.is_none() {
            self.deflate = Some(Deflate { context: new_deflate()?, level: 0 });
        }
        let deflate = self.deflate.as_mut()?;
        if deflate.level != level {
            deflate.context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
            deflate.level = level;
        }
        // An error here means that the result would not fit, which is to say: raw.
        deflate.context.compress2(&mut self.packed[..], page).ok()
    }

    fn inflate(&mut self, bytes: &[u8], page: &mut Page) -> Result<usize, Corrupt> {
        if self.inflate.is_none() {
            let mut context = DCtx::try_create().ok_or(Corrupt::Codec)?;
            context.set_parameter(DParameter::Format(FrameFormat::Magicless)).map_err(|_| Corrupt::Codec)?;
            self.inflate = Some(context);
        }
        let context = self.inflate.as_mut().ok_or(Corrupt::Codec)?;
        context.decompress(&mut page[..], bytes).map_err(|_| Corrupt::Codec)
    }
}

/// The frame says only what we do not know already: no magic number, length, checksum or dictionary, which saves 7 bytes a page.
fn new_deflate() -> Option<CCtx<'static>> {
    let mut context = CCtx::try_create()?;
    for parameter in [
        CParameter::Format(FrameFormat::Magicless),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
        CParameter::DictIdFlag(false),
    ] {
        context.set_parameter(parameter).ok()?;
    }
    Some(context)
}

pub fn fill(page: &mut Page, value: u64) {
    for word in page.as_chunks_mut::<8>().0 {
        *word = value.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 0x5eed;

    /// A page of `random` incompressible bytes, then one repeated letter.
    fn page_with(random: usize) -> Page {
        let mut page = [b'r'; PAGE_BYTES];
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in &mut page[..random] {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            *byte = x as u8;
        }
        page
    }

    fn all_codecs() -> [Codec; 4] {
        [Codec::Lz4, Codec::Zstd(-1), Codec::Zstd(1), Codec::Zstd(3)]
    }

    #[test]
    fn every_codec_brings_every_page_back() {
        let mut packer = Packer::new(SEED);
        for codec in all_codecs() {
            for random in (0..=PAGE_BYTES).step_by(61) {
                let page = page_with(random);
                let packed = packer.pack(&page, codec);
                let (kind, digest, bytes) = (packed.kind, packed.digest, packed.bytes.to_vec());
                let mut back = [0xee; PAGE_BYTES];
                packer.unpack(Packed { kind, digest, bytes: &bytes }, &mut back).expect("what was packed unpacks");
                assert!(back == page, "codec {codec:?}, {random} random bytes");
            }
        }
    }

    /// The kernel version's limit forgot its header: pages that compressed to 3977 bytes and more were refused, every time.
    #[test]
    fn a_page_that_compresses_to_nearly_its_own_size_is_never_refused() {
        let mut packer = Packer::new(SEED);
        let mut lengths = std::collections::BTreeSet::new();
        for random in 3900..=PAGE_BYTES {
            let page = page_with(random);
            let packed = packer.pack(&page, Codec::Lz4);
            assert!(packed.bytes.len() <= PACKED_MAX_BYTES || packed.kind == Kind::Raw);
            lengths.insert(packed.bytes.len());
            let (kind, digest, bytes) = (packed.kind, packed.digest, packed.bytes.to_vec());
            let mut back = [0; PAGE_BYTES];
            packer.unpack(Packed { kind, digest, bytes: &bytes }, &mut back).expect("what was packed unpacks");
            assert!(back == page);
        }
        assert!((3977..=PACKED_MAX_BYTES).all(|length| lengths.contains(&length)), "every length up to the limit occurs");
        assert!(lengths.contains(&PAGE_BYTES));
    }

    #[test]
    fn a_page_of_one_repeated_pattern_packs_to_nothing() {
        let mut packer = Packer::new(SEED);
        for value in [0, u64::MAX, 0x0102_0304_0506_0708] {
            let mut page = [0; PAGE_BYTES];
            fill(&mut page, value);
            let packed = packer.pack(&page, Codec::Lz4);
            assert_eq!((packed.kind, packed.bytes.len()), (Kind::Same(value), 0));
            let mut back = [0xee; PAGE_BYTES];
            packer.unpack(Packed { kind: Kind::Same(value), digest: Digest::default(), bytes: &[] }, &mut back).expect("unpacks");
            assert!(back == page);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let mut packer = Packer::new(SEED);
        for codec in [Codec::Lz4, Codec::Zstd(1)] {
            for random in [40, 1000] {
                let page = page_with(random);
                let packed = packer.pack(&page, codec);
                let (kind, digest, mut bytes) = (packed.kind, packed.digest, packed.bytes.to_vec());
                for bit in (0..bytes.len() * 8).step_by(5) {
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    let mut back = [0; PAGE_BYTES];
                    // A flip in bits that the codec ignores gives the right page all the same: that is no corruption.
                    if packer.unpack(Packed { kind, digest, bytes: &bytes }, &mut back).is_ok() {
                        assert!(back == page);
                    }
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_kinds_and_digests_are_told_apart() {
        let mut packer = Packer::new(SEED);
        let page = page_with(2000);
        let packed = packer.pack(&page, Codec::Lz4);
        let (digest, bytes) = (packed.digest, packed.bytes.to_vec());
        let mut back = [0; PAGE_BYTES];
        let mut unpack = |kind, digest, bytes: &[u8]| packer.unpack(Packed { kind, digest, bytes }, &mut back);
        assert_eq!(unpack(Kind::Lz4, digest, &bytes), Ok(()));
        assert_eq!(unpack(Kind::Lz4, Digest(digest.0 ^ 1), &bytes), Err(Corrupt::Digest));
        assert_eq!(unpack(Kind::Lz4, digest, &[]), Err(Corrupt::Length));
        assert!(unpack(Kind::Lz4, digest, &bytes[..bytes.len() - 1]).is_err());
        assert!(unpack(Kind::Zstd, digest, &bytes).is_err());
        assert_eq!(unpack(Kind::Raw, digest, &bytes), Err(Corrupt::Length));
        assert_eq!(unpack(Kind::Raw, digest, &page[..]), Ok(()));
        assert_eq!(unpack(Kind::Raw, digest, &[7; PAGE_BYTES + 1]), Err(Corrupt::Length));
        assert_eq!(unpack(Kind::Same(3), digest, &[1]), Err(Corrupt::Length));
    }
}
