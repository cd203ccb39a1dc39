//! Step 7, the seal: a page's packed bytes are encrypted by their owner before they leave, so that a holder neither learns nor changes them. Covers one
//! key and what it vouches for; which key belongs to which copy is the engine's.
//!
//! AES-256-GCM (NIST SP 800-38D). Its nonce MUST never serve two plaintexts under one key. Here it is the version, which names one copy that was sent
//! ([`crate::handle::Version`]); an owner whose versions wrap, or that forks, goes on with a key derived from the one before.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::handle::{Handle, OwnerId, Version};
use crate::page::PAGE_BYTES;

pub const KEY_BYTES: usize = 32;
pub const TAG_BYTES: usize = 16;
/// Owner 32, handle 32, version 4, kind 1.
const CONTEXT_BYTES: usize = 32 + 32 + 4 + 1;

/// What AES-GCM computes over ciphertext and context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tag(pub [u8; TAG_BYTES]);

/// What a seal vouches for beside the bytes: the copy of which page it is, whose, and how its bytes are to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    pub owner: OwnerId,
    pub handle: Handle,
    pub version: Version,
    /// The tag of [`crate::compress::Kind`].
    pub kind: u8,
}

/// The bytes are not those that were sealed with this key in this context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forged;

/// Packed bytes and their tag, as they are opened.
pub type Sealed = [u8; PAGE_BYTES + TAG_BYTES];

/// Who has the keys: which of them sealed what is for it to know.
pub trait Opens {
    /// Decrypts into `buffer`; returns the bytes there. After an error it holds garbage. Bytes longer than a page are [`Forged`]. `kind`: as it travels.
    fn open<'a>(
        &self,
        handle: &Handle,
        version: Version,
        kind: u8,
        tag: &Tag,
        bytes: &[u8],
        buffer: &'a mut Sealed,
    ) -> Result<&'a [u8], Forged>;
}

pub struct Key {
    secret: [u8; KEY_BYTES],
    aead: LessSafeKey,
}

impl Key {
    pub fn new(secret: [u8; KEY_BYTES]) -> Key {
        let key = UnboundKey::new(&AES_256_GCM, &secret).expect("a key of AES-256 has 32 bytes");
        Key { secret, aead: LessSafeKey::new(key) }
    }

    /// Another key, which does not tell this one (HKDF, RFC 5869). Different purposes give different keys.
    pub fn derive(&self, purpose: &[&[u8]]) -> Key {
        let mut secret = [0; KEY_BYTES];
        Salt::new(HKDF_SHA256, b"ramster page key")
            .extract(&self.secret)
            .expand(purpose, Bytes(KEY_BYTES))
            .and_then(|derived| derived.fill(&mut secret))
            .expect("HKDF gives 32 bytes");
        Key::new(secret)
    }

    /// Encrypts in place. MUST be called once at most for each version.
    pub fn seal(&self, context: &Context, bytes: &mut [u8]) -> Tag {
        let sealed = self.aead.seal_in_place_separate_tag(nonce(context.version), Aad::from(context.bytes()), bytes);
        // It fails beyond 64 GiB only.
        let tag = sealed.expect("a page is not too long to be sealed");
        Tag(tag.as_ref().try_into().expect("a tag of AES-GCM has 16 bytes"))
    }

    /// Decrypts the bytes before the last [`TAG_BYTES`], which are the tag, in place. After an error `sealed` holds garbage.
    pub fn open<'a>(&self, context: &Context, sealed: &'a mut [u8]) -> Result<&'a [u8], Forged> {
        let opened = self.aead.open_in_place(nonce(context.version), Aad::from(context.bytes()), sealed);
        opened.map(|bytes| &*bytes).map_err(|_| Forged)
    }
}

impl Context {
    fn bytes(&self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        let mut rest = &mut bytes[..];
        let mut put = |piece: &[u8]| {
            let (here, after) = std::mem::take(&mut rest).split_at_mut(piece.len());
            here.copy_from_slice(piece);
            rest = after;
        };
        put(&self.owner.node.to_le_bytes());
        put(&self.owner.client.to_le_bytes());
        put(&self.owner.incarnation.to_le_bytes());
        put(&self.handle.pool.0.to_le_bytes());
        self.handle.object.0.iter().for_each(|word| put(&word.to_le_bytes()));
        put(&self.handle.index.to_le_bytes());
        put(&self.version.to_le_bytes());
        put(&[self.kind]);
        bytes
    }
}

fn nonce(version: Version) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..4].copy_from_slice(&version.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::{ObjectId, PoolId};

    fn context() -> Context {
        let handle = Handle { pool: PoolId(1), object: ObjectId([2, 3, 4]), index: 5 };
        Context { owner: OwnerId { node: 6, client: 7, incarnation: 8 }, handle, version: 9, kind: 3 }
    }

    fn sealed(key: &Key, context: &Context, bytes: &[u8]) -> Vec<u8> {
        let mut sealed = bytes.to_vec();
        let tag = key.seal(context, &mut sealed);
        sealed.extend_from_slice(&tag.0);
        sealed
    }

    #[test]
    fn what_was_sealed_opens_and_shows_nothing_of_itself() {
        let key = Key::new([1; KEY_BYTES]);
        for length in [1, 17, 4096] {
            let plain = vec![0x5a; length];
            let mut bytes = sealed(&key, &context(), &plain);
            assert_eq!(bytes.len(), length + TAG_BYTES);
            assert!(length < 16 || !bytes.windows(8).any(|window| window == [0x5a; 8]));
            assert_eq!(key.open(&context(), &mut bytes), Ok(&plain[..]));
        }
    }

    /// Promise 9: changed, swapped, replayed or another's bytes are found out.
    #[test]
    fn nothing_opens_in_another_context_or_changed_in_one_bit() {
        let key = Key::new([1; KEY_BYTES]);
        let plain = [0x5a; 33];
        let right = context();
        let mut others = vec![right; 9];
        others[0].owner.node += 1;
        others[1].owner.client += 1;
        others[2].owner.incarnation += 1;
        others[3].handle.pool.0 += 1;
        others[4].handle.object.0[0] += 1;
        others[5].handle.object.0[2] += 1;
        others[6].handle.index += 1;
        others[7].version += 1;
        others[8].kind += 1;
        for other in &others {
            assert_eq!(key.open(other, &mut sealed(&key, &right, &plain)), Err(Forged), "{other:?}");
        }
        for bit in 0..(plain.len() + TAG_BYTES) * 8 {
            let mut bytes = sealed(&key, &right, &plain);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&right, &mut bytes), Err(Forged), "bit {bit}");
        }
        assert_eq!(key.open(&right, &mut [0; TAG_BYTES - 1]), Err(Forged));
    }

    #[test]
    fn derived_keys_differ_by_purpose_and_from_their_origin() {
        let key = Key::new([1; KEY_BYTES]);
        let derived = [key.derive(&[b"a"]), key.derive(&[b"b"]), key.derive(&[b"a", b"b"])];
        let secrets: Vec<_> = derived.iter().map(|key| key.secret).chain([key.secret]).collect();
        for (index, secret) in secrets.iter().enumerate() {
            assert!(!secrets[..index].contains(secret));
        }
        assert_eq!(key.derive(&[b"a"]).secret, secrets[0]);
        assert_eq!(derived[0].open(&context(), &mut sealed(&key, &context(), b"page")), Err(Forged));
    }
}
