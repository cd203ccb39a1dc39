//! A page and its digest. Covers size, digest and the same-value test; does not know where pages live.

/// One page: 4096 bytes, the unit of every put, get and flush, whatever the machine's own page size.
pub const PAGE_BYTES: usize = 4096;
/// log2 of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 12;

pub type Page = [u8; PAGE_BYTES];

/// 128-bit keyed digest of the *uncompressed* page: XXH3-128 with a seed that each engine draws at random.
/// It is checked when a page comes back, and it decides whether a page put again is unchanged, so it must be too wide
/// to collide by chance and keyed so that nobody can make it collide on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(pub u128);

pub fn digest(page: &Page, seed: u64) -> Digest {
    Digest(xxhash_rust::xxh3::xxh3_128_with_seed(page, seed))
}

/// The 8-byte pattern that fills the page, if one does. Zero pages are the pattern 0.
pub fn same_value(page: &Page) -> Option<u64> {
    let (words, rest) = page.as_chunks::<8>();
    debug_assert!(rest.is_empty());
    let first = words[0];
    // Most pages differ early: look at a few places before walking all of it.
    if words[511] != first || words[255] != first || words[127] != first {
        return None;
    }
    words.iter().all(|word| *word == first).then(|| u64::from_le_bytes(first))
}
