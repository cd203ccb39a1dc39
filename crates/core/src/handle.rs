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

/// What a pool's pages have in common when they leave: pages of different classes never share a batch. Ephemeral pools are one class, persistent ones with
/// the durability of the whole run another; those above are for pools with a durability of their own, and what each number means is the engine's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Class(u8);

impl Class {
    pub const EPHEMERAL: Class = Class(0);
    pub const RUN: Class = Class(1);
    /// A set of them is a word. The engine needs 22; each costs a ring of 8 bytes.
    pub const COUNT: usize = 32;

    /// A persistent class with the engine's number. None: there are not as many.
    pub const fn own(number: u8) -> Option<Class> {
        if (number as usize) < Self::COUNT - 2 { Some(Class(number + 2)) } else { None }
    }

    /// The number that [`Class::own`] was given. None: it has none.
    pub const fn own_number(self) -> Option<u8> {
        self.0.checked_sub(2)
    }

    pub const fn of(kind: PoolKind) -> Class {
        match kind {
            PoolKind::Ephemeral => Class::EPHEMERAL,
            PoolKind::Persistent => Class::RUN,
        }
    }

    pub const fn kind(self) -> PoolKind {
        match self {
            Class::EPHEMERAL => PoolKind::Ephemeral,
            _ => PoolKind::Persistent,
        }
    }

    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<PoolKind> for Class {
    fn from(kind: PoolKind) -> Class {
        Class::of(kind)
    }
}

/// Some of the classes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Classes(pub u32);

const _: () = assert!(Class::COUNT <= u32::BITS as usize);

impl Classes {
    pub const ALL: Classes = Classes(u32::MAX);

    pub const fn with(self, class: Class) -> Classes {
        Classes(self.0 | 1 << class.0)
    }

    pub const fn without(self, class: Class) -> Classes {
        Classes(self.0 & !(1 << class.0))
    }

    pub const fn has(self, class: Class) -> bool {
        self.0 >> class.0 & 1 == 1
    }

    /// Whether all of them are among `others`.
    pub const fn are_among(self, others: Classes) -> bool {
        self.0 & !others.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Class> {
        (0..Class::COUNT as u8).map(Class).filter(move |class| self.has(*class))
    }
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
