//! Shards that came back become the page again. Covers putting them together, and finding out which of them are not what their holder was sent: the seal is
//! the whole page's, so a shard proves itself only together with others. Asking for shards is `gather.rs` and `rebuild.rs`.

use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, Version};
use ramster_core::page::PAGE_BYTES;
use ramster_core::seal::{TAG_BYTES, Tag};
use ramster_core::shards::{Code, Coder, SHARD_MAX_BYTES, SHARDS_MAX, ShardSet, kind_and_padding};
use ramster_core::wire::message::Blob;

use crate::engine::Engine;
use crate::seals;

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
    opened: Box<seals::Sealed>,
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

impl Joiner {
    pub fn new() -> Joiner {
        let (coders, shards) = (Vec::new(), Vec::with_capacity(SHARDS_MAX * SHARD_MAX_BYTES));
        Joiner { coders, shards, shard_bytes: 0, opened: Box::new([0; PAGE_BYTES + TAG_BYTES]) }
    }

    /// With as many shards as suffice there is one way; with more, every choice among them is tried until one opens: 20 at most. None: none does. With `all`
    /// the shards that did not come are worked out too, for [`Joiner::shard`].
    pub fn join(&mut self, engine: &Engine, handle: &Handle, version: Version, landed: &Landed, all: bool) -> Option<Joined<'_>> {
        let code = landed.code;
        let compares = landed.set.count() > code.data();
        let found = landed.set.subsets(code.data()).find_map(|set| {
            let opened = self.open(engine, handle, version, landed, set, all || compares)?;
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
        engine: &Engine,
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
        engine.seals().open(handle, version, head.kind, &head.tag, sealed, &mut self.opened).ok()?;
        Some((head, kind, length))
    }
}
