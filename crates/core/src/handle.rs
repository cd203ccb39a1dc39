//! The three-level key of transcendent memory: pool, object, index. Covers the key and who owns it; not where a page is.

/// A pool of one client. Pools are ephemeral (pages may vanish) or persistent (pages must come back).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PoolId(pub u32);

/// 192 bits, meaning whatever the door wants: a region of the pager, an inode, a name's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectId(pub [u64; 3]);

/// Names one page of one owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Handle {
    pub pool: PoolId,
    pub object: ObjectId,
    pub index: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PoolKind {
    /// Pages may vanish at any time; a get is exclusive (it removes the page).
    Ephemeral,
    /// Pages may be refused at put and are never lost after; a get keeps the page unless asked to free it.
    Persistent,
}

/// Who owns a page: the node and client process, and which life of that client. A holder never mixes two incarnations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OwnerId {
    pub node: u64,
    pub client: u128,
    pub incarnation: u64,
}

/// A peer that holds foreign pages. Index into the engine's table of holders, never sent on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HolderId(pub u16);

/// Names one copy that was sent to a holder: drawn when a page is remotified. A holder's answer with another version is refused.
pub type Version = u32;
