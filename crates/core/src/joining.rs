//! Step 13 for a coded page: shards that came back become the page again. Covers putting them together, and finding out which of them are not what their
//! holder was sent: the seal is the whole page's, so a shard proves itself only together with others. Asking for shards is the engine's.

use crate::compress::Kind;
use crate::handle::{Handle, Version};
use crate::page::PAGE_BYTES;
use crate::seal::{Opens, Sealed, TAG_BYTES, Tag};
use crate::shards::{Code, Coder, SHARD_MAX_BYTES, SHARDS_MAX, ShardSet, kind_and_padding};
use crate::wire::message::Blob;

/// Shards of one page that have come, by number. Allocates when made.
pub struct Landed {
    code: Code,
    set: ShardSet,
    heads: [Head; SHARDS_MAX],
    bytes: Box<[[u8; SHARD_MAX_BYTES]; SHARDS_MAX]>,
}

/// What came with a shard's bytes: the same for all shards of a page.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Head {
    kind: u8,
    tag: Tag,
    shard_bytes: usize,
}

/// A page that was put together.
pub struct Joined<'a> {
    /// As it travels.
    pub kind: u8,
    pub tag: Tag,
    /// How the opened bytes are to be read.
    pub packed_kind: Kind,
    /// Opened.
    pub bytes: &'a [u8],
    /// Shards that came and are not this page's.
    pub forged: ShardSet,
    /// A data shard was missing, or forged.
    pub decoded: bool,
}

/// Buffers and arithmetic of one thread.
pub struct Joiner {
    /// Of each code that was met: one, unless the durability is changed at run time.
    coders: Vec<Coder>,
    shards: Vec<u8>,
    shard_bytes: usize,
    opened: Box<Sealed>,
}

impl Landed {
    pub fn new(code: Code) -> Landed {
        let bytes = Box::new([[0; SHARD_MAX_BYTES]; SHARDS_MAX]);
        Landed { code, set: ShardSet::default(), heads: Default::default(), bytes }
    }

    pub fn clear(&mut self, code: Code) {
        (self.code, self.set) = (code, ShardSet::default());
    }

    /// False: no shard of a page looks like this.
    pub fn put(&mut self, shard: u8, blob: &Blob<'_>) -> bool {
        let shard_bytes = blob.bytes.len();
        if shard_bytes == 0 || shard_bytes > self.code.shard_bytes(PAGE_BYTES) || kind_and_padding(blob.kind).is_none() {
            return false;
        }
        let at = usize::from(shard);
        self.heads[at] = Head { kind: blob.kind, tag: blob.tag, shard_bytes };
        self.bytes[at][..shard_bytes].copy_from_slice(blob.bytes);
        self.set = self.set.with(shard);
        true
    }

    pub fn set(&self) -> ShardSet {
        self.set
    }

    pub fn is_enough(&self) -> bool {
        self.set.count() >= self.code.data()
    }

    fn shard(&self, shard: u8) -> &[u8] {
        &self.bytes[usize::from(shard)][..self.heads[usize::from(shard)].shard_bytes]
    }
}

impl Default for Joiner {
    fn default() -> Joiner {
        let (coders, shards) = (Vec::new(), Vec::with_capacity(SHARDS_MAX * SHARD_MAX_BYTES));
        Joiner { coders, shards, shard_bytes: 0, opened: Box::new([0; PAGE_BYTES + TAG_BYTES]) }
    }
}

impl Joiner {
    /// With as many shards as suffice there is one way; with more, every choice among them is tried until one opens: 20 at most. None: none does. With `all`
    /// the shards that did not come are worked out too, for [`Joiner::shard`].
    pub fn join(
        &mut self,
        seals: &impl Opens,
        handle: &Handle,
        version: Version,
        landed: &Landed,
        all: bool,
    ) -> Option<Joined<'_>> {
        let code = landed.code;
        let compares = landed.set.count() > code.data();
        let found = landed.set.subsets(code.data()).find_map(|set| {
            let opened = self.open(seals, handle, version, landed, set, all || compares)?;
            Some((set, opened))
        });
        let (set, (head, packed_kind, length)) = found?;
        let is_forged = |shard: &u8| landed.heads[usize::from(*shard)] != head || landed.shard(*shard) != self.shard(*shard);
        let others = landed.set.iter().filter(|shard| compares && !set.has(*shard));
        let forged = others.filter(is_forged).fold(ShardSet::default(), ShardSet::with);
        let decoded = (0..code.data() as u8).any(|shard| !set.has(shard));
        let Head { kind, tag, .. } = head;
        Some(Joined { kind, tag, packed_kind, bytes: &self.opened[..length], forged, decoded })
    }

    /// One of the page that was joined last, with all its shards.
    pub fn shard(&self, shard: u8) -> &[u8] {
        let start = usize::from(shard) * self.shard_bytes;
        &self.shards[start..start + self.shard_bytes]
    }

    /// The page of exactly these shards, opened into the buffer: how it travels, how it is read, how long it is.
    fn open(
        &mut self,
        seals: &impl Opens,
        handle: &Handle,
        version: Version,
        landed: &Landed,
        set: ShardSet,
        all: bool,
    ) -> Option<(Head, Kind, usize)> {
        let code = landed.code;
        let head = landed.heads[usize::from(set.iter().next()?)];
        if set.iter().any(|shard| landed.heads[usize::from(shard)] != head) {
            return None;
        }
        let (kind, padding) = kind_and_padding(head.kind)?;
        let length = (head.shard_bytes * code.data()).checked_sub(padding)?;
        self.shard_bytes = head.shard_bytes;
        self.shards.resize(head.shard_bytes * code.shards(), 0);
        for shard in set.iter() {
            let start = usize::from(shard) * head.shard_bytes;
            self.shards[start..start + head.shard_bytes].copy_from_slice(landed.shard(shard));
        }
        let at = self.coders.iter().position(|coder| coder.code() == code).unwrap_or_else(|| {
            self.coders.push(Coder::new(code));
            self.coders.len() - 1
        });
        if !self.coders[at].complete(&mut self.shards, set, all) {
            return None;
        }
        // The seal says nothing of what fills up the last data shard, and parity is worked out from that too.
        let (sealed, padding) = self.shards[..head.shard_bytes * code.data()].split_at(length);
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        seals.open(handle, version, head.kind, &head.tag, sealed, &mut self.opened).ok()?;
        Some((head, kind, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{ObjectId, OwnerId, PoolId};
    use crate::seal::{Context, Forged, KEY_BYTES, Key};
    use crate::shards::travelling_kind;

    const HANDLE: Handle = Handle { pool: PoolId(0), object: ObjectId([1, 2, 3]), index: 7 };
    const BYTES: usize = 1001;

    /// An owner with one key.
    struct Seals(OwnerId, Key);

    impl Seals {
        fn context(&self, handle: &Handle, version: Version, kind: u8) -> Context {
            Context { owner: self.0, handle: *handle, version, kind }
        }
    }

    impl Opens for Seals {
        fn open<'a>(
            &self,
            handle: &Handle,
            version: Version,
            kind: u8,
            tag: &Tag,
            bytes: &[u8],
            buffer: &'a mut Sealed,
        ) -> Result<&'a [u8], Forged> {
            let sealed = &mut buffer[..bytes.len() + TAG_BYTES];
            sealed[..bytes.len()].copy_from_slice(bytes);
            sealed[bytes.len()..].copy_from_slice(&tag.0);
            self.1.open(&self.context(handle, version, kind), sealed)
        }
    }

    /// A sealed page of 1001 bytes, cut by 4+2: three zeroes fill it up.
    struct Page {
        seals: Seals,
        code: Code,
        kind: u8,
        tag: Tag,
        shards: Vec<Vec<u8>>,
    }

    impl Page {
        fn new() -> Page {
            let seals = Seals(OwnerId { node: 1, client: 2, incarnation: 3 }, Key::new([5; KEY_BYTES]));
            let code = Code::new(4, 2).expect("a code");
            let kind = travelling_kind(Kind::Zstd, code.padding(BYTES));
            let mut bytes = plain();
            let tag = seals.1.seal(&seals.context(&HANDLE, 9, kind), &mut bytes);
            let shard_bytes = Coder::new(code).cut(&mut bytes, 0);
            let shards = bytes.chunks(shard_bytes).map(<[u8]>::to_vec).collect();
            Page { seals, code, kind, tag, shards }
        }

        fn landed(&self, shards: &[u8]) -> Landed {
            let mut landed = Landed::new(self.code);
            for shard in shards {
                let bytes = &self.shards[usize::from(*shard)];
                assert!(landed.put(*shard, &Blob { kind: self.kind, tag: self.tag, bytes }));
            }
            landed
        }

        /// What was found forged, if the page was had at all.
        fn join(&self, landed: &Landed) -> Option<Vec<u8>> {
            let mut joiner = Joiner::default();
            let joined = joiner.join(&self.seals, &HANDLE, 9, landed, true)?;
            assert_eq!(
                (joined.bytes, joined.packed_kind, joined.kind, joined.tag),
                (&plain()[..], Kind::Zstd, self.kind, self.tag)
            );
            let forged = joined.forged.iter().collect();
            for (shard, bytes) in self.shards.iter().enumerate() {
                assert_eq!(joiner.shard(shard as u8), bytes, "shard {shard} as it was sent");
            }
            Some(forged)
        }
    }

    fn plain() -> Vec<u8> {
        (0..BYTES).map(|at| (at * 31 / 7) as u8).collect()
    }

    #[test]
    fn any_four_of_six_are_the_page_and_three_are_not() {
        let page = Page::new();
        for shards in [[0, 1, 2, 3], [2, 3, 4, 5], [0, 2, 4, 5], [0, 1, 3, 4]] {
            assert_eq!(page.join(&page.landed(&shards)), Some(vec![]));
            assert_eq!(page.join(&page.landed(&shards[1..])), None);
        }
    }

    /// Each byte of a shard, what came with it, and the zeroes that the seal says nothing of.
    #[test]
    fn forged_shards_are_told_from_true_ones_wherever_they_were_changed() {
        let page = Page::new();
        let last = page.shards[0].len() - 1;
        for at in [0, last / 2, last] {
            for liars in [vec![0], vec![3], vec![5], vec![0, 3], vec![4, 5], vec![2, 4]] {
                let mut landed = page.landed(&[0, 1, 2, 3, 4, 5]);
                liars.iter().for_each(|liar| landed.bytes[usize::from(*liar)][at] ^= 1);
                assert_eq!(page.join(&landed), Some(liars.clone()), "byte {at}");
                // Were they believed, the page would be another: so it is none.
                let honest = (0..6).filter(|shard| !liars.contains(shard));
                let believed: Vec<u8> = liars.iter().copied().chain(honest).take(4).collect();
                let mut landed = page.landed(&believed);
                liars.iter().for_each(|liar| landed.bytes[usize::from(*liar)][at] ^= 1);
                assert_eq!(page.join(&landed), None, "byte {at} of {liars:?}");
            }
            let mut landed = page.landed(&[0, 1, 2, 3, 4, 5]);
            [1, 2, 5].iter().for_each(|liar: &usize| landed.bytes[*liar][at] ^= 1);
            assert_eq!(page.join(&landed), None, "three lies are one too many");
        }
        let head = Head { kind: page.kind, tag: page.tag, shard_bytes: page.shards[0].len() };
        for head in [Head { kind: page.kind ^ 0x10, ..head }, Head { tag: Tag([1; TAG_BYTES]), ..head }] {
            let mut landed = page.landed(&[0, 1, 2, 3, 4]);
            landed.heads[2] = head;
            assert_eq!(page.join(&landed), Some(vec![2]));
        }
    }

    #[test]
    fn what_no_shard_can_look_like_is_not_taken() {
        let page = Page::new();
        let mut landed = Landed::new(page.code);
        for (kind, length) in [(page.kind, 0), (page.kind, 1025), (0, 10), (9, 10)] {
            assert!(!landed.put(0, &Blob { kind, tag: page.tag, bytes: &vec![0; length] }));
        }
        assert_eq!(landed.set(), ShardSet::default());
    }
}
