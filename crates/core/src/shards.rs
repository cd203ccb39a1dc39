//! Step 7 of a page that is not kept in whole copies: its sealed bytes are cut into data shards, from which parity shards are computed (Reed-Solomon over
//! bytes, by a library); any of them, as many as there are data shards, are the page again. Covers the arithmetic; who keeps which shard is
//! `tmem/sites.rs`, what travels is the engine's.

use reed_solomon_erasure::galois_8::ReedSolomon;

use crate::compress::Kind;
use crate::page::PAGE_BYTES;

/// Shards of one page. Each costs a holder's index entry and a message of each put: more would cost more than they save on pages of 4096 bytes.
pub const SHARDS_MAX: usize = 6;
/// The longest shard: half a page, for there are two data shards at least.
pub const SHARD_MAX_BYTES: usize = PAGE_BYTES / 2;

/// How many data and parity shards a page has. Shard numbers begin with the data shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Code {
    data: u8,
    parity: u8,
}

/// Some shards of a page, by number.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShardSet(u8);

impl Code {
    /// None: not two data shards and one parity shard at least, or more than [`SHARDS_MAX`] together. One data shard would be a copy.
    pub const fn new(data: u8, parity: u8) -> Option<Code> {
        let fits = data >= 2 && parity >= 1 && (data as usize) < SHARDS_MAX && data as usize + parity as usize <= SHARDS_MAX;
        if fits { Some(Code { data, parity }) } else { None }
    }

    /// Shards that suffice.
    pub const fn data(self) -> usize {
        self.data as usize
    }

    /// Shards that may be missing.
    pub const fn parity(self) -> usize {
        self.parity as usize
    }

    pub const fn shards(self) -> usize {
        self.data() + self.parity()
    }

    /// The length of each shard of so many bytes: the last data shard is filled up with zeroes.
    pub const fn shard_bytes(self, bytes: usize) -> usize {
        bytes.div_ceil(self.data())
    }

    /// How many zeroes that takes: less than there are data shards.
    pub const fn padding(self, bytes: usize) -> usize {
        self.shard_bytes(bytes) * self.data() - bytes
    }
}

/// The byte that says how a page's bytes are to be read, as it travels and is sealed: the tag of its kind and, above it, how many zeroes fill up its last
/// data shard.
pub const fn travelling_kind(kind: Kind, padding: usize) -> u8 {
    kind.tag() | (padding as u8) << 4
}

/// The other way round. None: no such kind.
pub const fn kind_and_padding(byte: u8) -> Option<(Kind, usize)> {
    match Kind::from_tag(byte & 0xf) {
        Some(kind) => Some((kind, (byte >> 4) as usize)),
        None => None,
    }
}

impl ShardSet {
    pub fn with(self, shard: u8) -> ShardSet {
        ShardSet(self.0 | 1 << shard)
    }

    pub fn without(self, shard: u8) -> ShardSet {
        ShardSet(self.0 & !(1 << shard))
    }

    pub fn has(self, shard: u8) -> bool {
        self.0 >> shard & 1 == 1
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..SHARDS_MAX as u8).filter(move |shard| self.has(*shard))
    }

    /// Those of its subsets that have `count` shards, the one with the lowest numbers first: 20 at most.
    pub fn subsets(self, count: usize) -> impl Iterator<Item = ShardSet> {
        let all = (1..1_u8 << SHARDS_MAX).map(ShardSet);
        all.filter(move |set| set.0 & !self.0 == 0 && set.count() == count)
    }
}

/// The arithmetic of one code. Keeps what it has worked out for each set of missing shards, so it allocates at the first of each kind only.
pub struct Coder {
    code: Code,
    field: ReedSolomon,
}

impl Coder {
    pub fn new(code: Code) -> Coder {
        let field = ReedSolomon::new(code.data(), code.parity()).expect("there are some shards of each kind and not too many");
        Coder { code, field }
    }

    pub fn code(&self) -> Code {
        self.code
    }

    /// The bytes from `start` on become all shards of them, one after the other. Returns the length of one.
    pub fn cut(&self, bytes: &mut Vec<u8>, start: usize) -> usize {
        let shard_bytes = self.code.shard_bytes(bytes.len() - start);
        bytes.resize(start + shard_bytes * self.code.shards(), 0);
        let data = (0..self.code.data() as u8).fold(ShardSet::default(), ShardSet::with);
        let whole = self.complete(&mut bytes[start..], data, true);
        debug_assert!(whole);
        shard_bytes
    }

    /// `shards` has room for all shards of a page, one after the other; those that it `has` are there, the missing data shards are computed from them, and
    /// with `parity` all others. False: too few, or of no length.
    pub fn complete(&self, shards: &mut [u8], has: ShardSet, parity: bool) -> bool {
        let shard_bytes = shards.len() / self.code.shards();
        if shard_bytes == 0 || has.count() < self.code.data() {
            return false;
        }
        if !parity && (0..self.code.data() as u8).all(|shard| has.has(shard)) {
            return true;
        }
        let mut slots: [(&mut [u8], bool); SHARDS_MAX] = Default::default();
        for (number, (slot, bytes)) in slots.iter_mut().zip(shards.chunks_exact_mut(shard_bytes)).enumerate() {
            *slot = (bytes, has.has(number as u8));
        }
        let slots = &mut slots[..self.code.shards()];
        let completed = if parity { self.field.reconstruct(slots) } else { self.field.reconstruct_data(slots) };
        completed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> Vec<Code> {
        (0..8).flat_map(|data| (0..8).filter_map(move |parity| Code::new(data, parity))).collect()
    }

    fn page(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * at / 7 + at) as u8).collect()
    }

    #[test]
    fn codes_have_two_data_shards_one_parity_shard_and_six_in_all_at_the_most() {
        let all: Vec<_> = codes().iter().map(|code| (code.data(), code.parity())).collect();
        assert_eq!(all, [(2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (5, 1)]);
    }

    #[test]
    fn any_shards_that_are_as_many_as_the_data_shards_are_the_page() {
        for code in codes() {
            let coder = Coder::new(code);
            for bytes in [1, 2, 7, 100, 1333, PAGE_BYTES] {
                let plain = page(bytes);
                // Behind something else, which stays as it is.
                let mut shards = [&[9; 5][..], &plain[..]].concat();
                let shard_bytes = coder.cut(&mut shards, 5);
                assert_eq!((&shards[..5], shards.len() - 5), (&[9; 5][..], shard_bytes * code.shards()));
                let shards = &shards[5..];
                assert!(shard_bytes <= SHARD_MAX_BYTES && shards.starts_with(&plain), "the data shards are the bytes themselves");
                assert_eq!(shard_bytes * code.data(), bytes + code.padding(bytes));
                let all = (0..code.shards() as u8).fold(ShardSet::default(), ShardSet::with);
                for has in (code.data()..=code.shards()).flat_map(|count| all.subsets(count).collect::<Vec<_>>()) {
                    for parity in [false, true] {
                        let mut some = vec![0xee; shards.len()];
                        for shard in has.iter() {
                            let at = usize::from(shard) * shard_bytes;
                            some[at..at + shard_bytes].copy_from_slice(&shards[at..at + shard_bytes]);
                        }
                        assert!(coder.complete(&mut some, has, parity));
                        let end = if parity { shards.len() } else { bytes };
                        assert_eq!(some[..end], shards[..end], "{code:?}, {bytes} bytes, {has:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_shard_too_few_is_no_page() {
        let coder = Coder::new(codes()[0]);
        let mut shards = page(100);
        coder.cut(&mut shards, 0);
        assert!(!coder.complete(&mut shards, ShardSet::default().with(2), false));
        assert!(!coder.complete(&mut [], ShardSet::default().with(0).with(1), true));
    }

    #[test]
    fn subsets_are_each_given_once_and_the_lowest_first() {
        let four = [0, 2, 3, 5].into_iter().fold(ShardSet::default(), ShardSet::with);
        let pairs: Vec<Vec<u8>> = four.subsets(2).map(|set| set.iter().collect()).collect();
        assert_eq!(pairs, [[0, 2], [0, 3], [2, 3], [0, 5], [2, 5], [3, 5]]);
        assert_eq!(four.without(2).subsets(3).count(), 1);
    }
}
