//! The keys of one owner: which one seals a copy, and which may open one. Mirrors engine/seals.rs; the cipher is core's.

use std::rc::Rc;

use ramster_core::compress::Kind;
use ramster_core::handle::{Handle, OwnerId, Version};
use ramster_core::seal::{Context, Forged, KEY_BYTES, Key, TAG_BYTES, Tag};

#[derive(Clone)]
pub struct Seals {
    /// Newest last: the versions that were sealed as one owner with one key.
    terms: Vec<(Version, Version, Rc<Seal>)>,
    last: Version,
}

struct Seal {
    owner: OwnerId,
    key: Key,
}

impl Seal {
    fn context(&self, handle: &Handle, version: Version, kind: Kind) -> Context {
        Context { owner: self.owner, handle: *handle, version, kind: kind.tag() }
    }
}

impl Seals {
    pub fn new(owner: OwnerId, secret: [u8; KEY_BYTES]) -> Seals {
        let seal = Rc::new(Seal { owner, key: Key::new(secret) });
        Seals { terms: vec![(0, Version::MAX, seal)], last: 0 }
    }

    /// Promise 4, and the cipher's: a version names one copy, so none is sealed twice. No history here is long enough for versions to wrap.
    pub fn seal(&mut self, handle: &Handle, version: Version, kind: Kind, bytes: &mut [u8]) -> Tag {
        assert!(version > self.last, "P4: version {version} is given to a second copy, {handle:?}");
        self.last = version;
        let (.., seal) = &self.terms[self.terms.len() - 1];
        seal.key.seal(&seal.context(handle, version, kind), bytes)
    }

    pub fn open(&self, handle: &Handle, version: Version, kind: Kind, tag: &Tag, bytes: &[u8]) -> Result<Vec<u8>, Forged> {
        for (first, last, seal) in self.terms.iter().rev() {
            if !(*first..=*last).contains(&version) {
                continue;
            }
            let mut sealed = Vec::with_capacity(bytes.len() + TAG_BYTES);
            sealed.extend_from_slice(bytes);
            sealed.extend_from_slice(&tag.0);
            if let Ok(opened) = seal.key.open(&seal.context(handle, version, kind), &mut sealed) {
                return Ok(opened.to_vec());
            }
        }
        Err(Forged)
    }

    /// A forked child.
    pub fn go_on_as(&mut self, owner: OwnerId) {
        let newest = self.terms.len() - 1;
        let (client, node, life) = (owner.client.to_le_bytes(), owner.node.to_le_bytes(), owner.incarnation.to_le_bytes());
        let key = self.terms[newest].2.key.derive(&[b"fork", &client, &node, &life]);
        self.terms[newest].1 = self.last;
        self.terms.push((self.last.wrapping_add(1), Version::MAX, Rc::new(Seal { owner, key })));
    }
}
