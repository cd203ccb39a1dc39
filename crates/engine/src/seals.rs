//! The keys of one owner: which one seals a copy that is sent, and which ones may open a copy that comes back. Covers wrapped versions and forks, where a
//! key ends and the next is derived; the cipher is `core::seal`'s. Keys never leave the process.

use std::ops::RangeInclusive;
use std::sync::Arc;

use ramster_core::handle::{Handle, OwnerId, Version};
use ramster_core::seal::{Context, Forged, KEY_BYTES, Key, Opens, Sealed, TAG_BYTES, Tag};
use ramster_sys::lock::Lock;

pub struct Seals(Lock<Keys>);

struct Keys {
    /// Newest last. Never empty.
    terms: Vec<Term>,
    /// The last version that was sealed.
    last: Version,
}

/// The versions that were sealed as one owner with one key.
struct Term {
    versions: RangeInclusive<Version>,
    seal: Arc<Seal>,
}

struct Seal {
    owner: OwnerId,
    key: Key,
}

impl Seals {
    pub fn new(owner: OwnerId, secret: [u8; KEY_BYTES]) -> Seals {
        let seal = Arc::new(Seal { owner, key: Key::new(secret) });
        Seals(Lock::new(Keys { terms: vec![Term { versions: 0..=Version::MAX, seal }], last: 0 }))
    }

    /// Encrypts in place. `kind` is the byte that travels with the bytes (`core::shards`). Versions MUST come in the order in which they were drawn, each once.
    pub fn seal(&self, handle: &Handle, version: Version, kind: u8, bytes: &mut [u8]) -> Tag {
        let seal = self.0.lock().sealing(version);
        seal.key.seal(&seal.context(handle, version, kind), bytes)
    }

    /// From here on as another owner, with a key of its own. A forked child: both would seal different pages under one version otherwise. The keys so
    /// far open what was sealed before, if it `inherits` anything.
    pub fn go_on_as(&self, owner: OwnerId, inherits: bool) {
        let mut keys = self.0.lock();
        let (client, node, life) = (owner.client.to_le_bytes(), owner.node.to_le_bytes(), owner.incarnation.to_le_bytes());
        let key = keys.newest().key.derive(&[b"fork", &client, &node, &life]);
        if !inherits {
            keys.terms.clear();
        }
        let first = keys.last.wrapping_add(1);
        keys.begin(first, Seal { owner, key });
    }

    pub fn freeze(&self) {
        self.0.freeze();
    }

    pub fn thaw(&self) {
        self.0.thaw();
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
        let end = bytes.len() + TAG_BYTES;
        if end > buffer.len() {
            return Err(Forged);
        }
        for turn in 0.. {
            let Some(seal) = self.0.lock().opening(version, turn) else { break };
            buffer[..bytes.len()].copy_from_slice(bytes);
            buffer[bytes.len()..end].copy_from_slice(&tag.0);
            if seal.key.open(&seal.context(handle, version, kind), &mut buffer[..end]).is_ok() {
                return Ok(&buffer[..bytes.len()]);
            }
        }
        Err(Forged)
    }
}

impl Keys {
    fn newest(&self) -> &Seal {
        &self.terms[self.terms.len() - 1].seal
    }

    /// The term before ends with the last version that was sealed in it.
    fn begin(&mut self, first: Version, seal: Seal) {
        if let Some(before) = self.terms.last_mut() {
            before.versions = *before.versions.start()..=self.last;
        }
        self.terms.push(Term { versions: first..=Version::MAX, seal: Arc::new(seal) });
    }

    fn sealing(&mut self, version: Version) -> Arc<Seal> {
        if version <= self.last {
            // Every version has been used: the next ones are used again, under another key.
            let next = Seal { owner: self.newest().owner, key: self.newest().key.derive(&[b"wrap"]) };
            self.begin(version, next);
        }
        self.last = version;
        Arc::clone(&self.terms[self.terms.len() - 1].seal)
    }

    /// Of the terms that have this version, newest first.
    fn opening(&self, version: Version, turn: usize) -> Option<Arc<Seal>> {
        let mut having = self.terms.iter().rev().filter(|term| term.versions.contains(&version));
        having.nth(turn).map(|term| Arc::clone(&term.seal))
    }
}

impl Seal {
    fn context(&self, handle: &Handle, version: Version, kind: u8) -> Context {
        Context { owner: self.owner, handle: *handle, version, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramster_core::compress::Kind;
    use ramster_core::handle::{ObjectId, PoolId};
    use ramster_core::page::PAGE_BYTES;

    const RAW: u8 = Kind::Raw.tag();

    const PARENT: OwnerId = OwnerId { node: 1, client: 2, incarnation: 1 };
    const CHILD: OwnerId = OwnerId { node: 1, client: 3, incarnation: 1 };
    const HANDLE: Handle = Handle { pool: PoolId(0), object: ObjectId([0; 3]), index: 7 };

    fn sealed(seals: &Seals, version: Version) -> (Tag, Vec<u8>) {
        let mut bytes = page(version).to_vec();
        let tag = seals.seal(&HANDLE, version, RAW, &mut bytes);
        (tag, bytes)
    }

    fn page(version: Version) -> [u8; 64] {
        [version as u8; 64]
    }

    fn opens(seals: &Seals, version: Version, (tag, bytes): &(Tag, Vec<u8>)) -> bool {
        let mut buffer = [0; PAGE_BYTES + TAG_BYTES];
        seals.open(&HANDLE, version, RAW, tag, bytes, &mut buffer).is_ok_and(|opened| opened == page(version))
    }

    #[test]
    fn versions_that_wrap_go_on_under_another_key_and_older_copies_still_open() {
        let seals = Seals::new(PARENT, [5; KEY_BYTES]);
        let before: Vec<_> =
            [1, 2, u32::MAX - 1, u32::MAX].into_iter().map(|version| (version, sealed(&seals, version))).collect();
        let after: Vec<_> = [1, 2, 3].into_iter().map(|version| (version, sealed(&seals, version))).collect();
        assert_ne!(before[0].1, after[0].1, "one nonce, one plaintext: it must not be the same key");
        for (version, sealed) in before.iter().chain(&after) {
            assert!(opens(&seals, *version, sealed), "{version}");
        }
        assert!(!opens(&seals, 3, &after[1].1));
    }

    /// What each seals after the fork the other does not open, not even under the version that both draw next.
    #[test]
    fn a_child_opens_what_it_inherits_and_seals_with_a_key_of_its_own() {
        let (parent, child) = (Seals::new(PARENT, [5; KEY_BYTES]), Seals::new(PARENT, [5; KEY_BYTES]));
        let inherited = sealed(&parent, 1);
        assert_eq!(inherited, sealed(&child, 1));
        child.go_on_as(CHILD, true);
        let (of_parent, of_child) = (sealed(&parent, 2), sealed(&child, 2));
        assert_ne!(of_parent, of_child);
        assert!(opens(&child, 1, &inherited) && opens(&child, 2, &of_child) && opens(&parent, 2, &of_parent));
        assert!(!opens(&child, 2, &of_parent) && !opens(&parent, 2, &of_child));
        // A child that inherits nothing keeps no key of its parent.
        child.go_on_as(OwnerId { client: 4, ..CHILD }, false);
        assert!(!opens(&child, 1, &inherited));
    }

    #[test]
    fn bytes_longer_than_a_page_are_forged() {
        let seals = Seals::new(PARENT, [5; KEY_BYTES]);
        let mut buffer = [0; PAGE_BYTES + TAG_BYTES];
        let opened = seals.open(&HANDLE, 1, RAW, &Tag::default(), &[0; PAGE_BYTES + 1], &mut buffer);
        assert_eq!(opened, Err(Forged));
    }
}
