//! What an engine is started with and what it may be told later. Covers the shape of the data; the words on the command line are Python's.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ramster_core::compress::Codec;
use ramster_core::handle::Class;
use ramster_core::shards::{Code, SHARDS_MAX};
use ramster_core::tmem::COPIES_MAX;
use ramster_peer::tls::{Credentials, family_of};
use serde::{Deserialize, Serialize};

/// Fixed for the life of the process. In the preload library it comes as JSON in `RAMSTER_OPTIONS`; an unknown key is an error.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Managed memory resident and compressed together stay below this.
    pub local_bytes: u64,
    /// The resident part; the rest is the store's. None: the pager decides.
    pub resident_bytes: Option<u64>,
    /// Over it pages go to holders. None: what `local_bytes` leaves beside the resident pages.
    pub store_bytes: Option<u64>,
    pub peers: Vec<PeerAddr>,
    pub spill_dir: Option<PathBuf>,
    pub durability: Durability,
    pub stat_block: Option<PathBuf>,
    pub node_socket: Option<PathBuf>,
    /// The local node's id: part of the owner identity that holders see.
    pub node: u64,
    pub codec: CodecName,
    /// For what goes to a peer. None: the bytes travel as they are stored.
    pub remote_codec: Option<CodecName>,
    /// A page that has not come by then is lost to the access that wants it. Shorter, and a busy machine ends programs; longer, and they seem to hang.
    pub get_deadline_ms: u64,
    /// The allocator under the preload library: "auto", "system" or a name. The engine does not look at it.
    pub malloc: String,
    pub program: String,
    /// Allocations from this size on are managed. The engine does not look at it.
    pub threshold_bytes: u64,
    /// None: links are plain, and to this machine only.
    pub credentials: Option<CredentialsPem>,
    /// The high half of the client's number, 16 hex digits. None: a random one.
    pub family: Option<String>,
}

impl Options {
    pub(crate) fn family(&self) -> Result<Option<u64>, StartError> {
        self.family.as_deref().map(|text| hex("family", text, 16)).transpose().map(|family| family.map(|family| family as u64))
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            local_bytes: 256 << 20,
            resident_bytes: None,
            store_bytes: None,
            peers: Vec::new(),
            spill_dir: None,
            durability: Durability::None,
            stat_block: None,
            node_socket: None,
            node: 0,
            codec: CodecName::Lz4,
            remote_codec: None,
            get_deadline_ms: 20_000,
            malloc: "auto".to_owned(),
            program: String::new(),
            threshold_bytes: 64 << 10,
            credentials: None,
            family: None,
        }
    }
}

/// What links are opened with: PEM text.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct CredentialsPem {
    /// The cluster's authorities.
    pub roots: String,
    /// The certificate of this program's family (or of its node), then those up to a root.
    pub chain: String,
    pub key: String,
    /// Whose certificate it is, where it is not that of the engine's own number: its number, 32 hex digits ...
    #[serde(default)]
    pub client: Option<String>,
    /// ... or the first 16 of them. Taken on only before the first link.
    #[serde(default)]
    pub family: Option<String>,
    /// The node whose process this is, where it was not known at the start. Taken on like the family.
    #[serde(default)]
    pub node: Option<u64>,
}

impl CredentialsPem {
    pub fn credentials(&self) -> Credentials {
        Credentials { roots_pem: self.roots.clone(), chain_pem: self.chain.clone(), key_pem: self.key.clone() }
    }

    pub(crate) fn family(&self) -> Result<Option<u64>, StartError> {
        let family = self.family.as_deref().map(|text| hex("credentials: family", text, 16)).transpose()?;
        let client = self.client.as_deref().map(|text| hex("credentials: client", text, 32)).transpose()?;
        let (family, of_client) = (family.map(|family| family as u64), client.map(family_of));
        match (family, of_client) {
            (Some(family), Some(other)) if family != other => {
                Err(StartError("credentials: client is not of that family".to_owned()))
            }
            _ => Ok(family.or(of_client)),
        }
    }
}

impl fmt::Debug for CredentialsPem {
    /// Keys do not belong in logs.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("CredentialsPem")
    }
}

fn hex(what: &str, text: &str, digits: usize) -> Result<u128, StartError> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == digits && !text.starts_with('+'));
    number.ok_or_else(|| StartError(format!("{what}: {text:?} is not a number of {digits} hex digits")))
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PeerAddr {
    pub node: u64,
    /// `IP:port`. Names are resolved in Python: a resolver inside somebody else's program is too much of a guest.
    pub address: String,
}

impl PeerAddr {
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.address.parse().ok()
    }
}

/// What a page needs before its last local copy goes. In JSON: `"none"`, `"disk"`, `"auto"`, `{"copies": 2}`, `{"ec": [2, 1]}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// One copy, at a peer or, where none takes it, in the spill file. The death of that peer loses it.
    None,
    /// A copy in the spill file, and one at a peer if one takes it, which is asked first.
    Disk,
    /// Two copies where two peers are listed; otherwise as `Disk` if there is a spill file and as `None` if not.
    Auto,
    /// That many on different nodes, at most [`COPIES_MAX`]. What peers do not take the spill file does; without one, pages stay here.
    Copies(u8),
    /// Coded: so many data and so many parity shards, each on a node of its own ([`Code`]). Where there are not as many nodes, whole pages go to the spill
    /// file; without one, they stay here.
    Ec(u8, u8),
}

/// Classes' numbers: first the words, then the copies, then the codes.
const FIRST_COPIES: u8 = 3;
const FIRST_CODE: u8 = FIRST_COPIES + COPIES_MAX as u8;
const DATA_MIN: u8 = 2;
const PARITY_MAX: u8 = SHARDS_MAX as u8 - DATA_MIN;
// The last one is the code with the most data shards and one parity shard.
const _: () = assert!((FIRST_CODE + (SHARDS_MAX as u8 - 1 - DATA_MIN) * PARITY_MAX) as usize + 2 < Class::COUNT);

impl Durability {
    pub(crate) fn to_number(self) -> u64 {
        match self {
            Durability::None => 0,
            Durability::Copies(copies) => u64::from(copies),
            Durability::Disk => 1 << 8,
            Durability::Auto => 2 << 8,
            Durability::Ec(data, parity) => 3 << 8 | u64::from(data & 0xf) << 4 | u64::from(parity & 0xf),
        }
    }

    pub(crate) fn from_number(number: u64) -> Durability {
        match number {
            0 => Durability::None,
            0x100 => Durability::Disk,
            0x200 => Durability::Auto,
            0x300.. => Durability::Ec((number >> 4) as u8 & 0xf, number as u8 & 0xf),
            copies => Durability::Copies(copies as u8),
        }
    }

    /// The class of pools that have this durability of their own. None: it cannot be ([`Durability::check`]).
    pub(crate) fn class(self) -> Option<Class> {
        Class::own(match self {
            Durability::None => 0,
            Durability::Disk => 1,
            Durability::Auto => 2,
            Durability::Copies(copies) => FIRST_COPIES + copies.checked_sub(1).filter(|more| usize::from(*more) < COPIES_MAX)?,
            Durability::Ec(data, parity) => {
                Code::new(data, parity)?;
                FIRST_CODE + (data - DATA_MIN) * PARITY_MAX + parity - 1
            }
        })
    }

    /// None: the class has none of its own.
    pub(crate) fn of_class(class: Class) -> Option<Durability> {
        Some(match class.own_number()? {
            0 => Durability::None,
            1 => Durability::Disk,
            2 => Durability::Auto,
            number if number < FIRST_CODE => Durability::Copies(number - FIRST_COPIES + 1),
            number => {
                let number = number - FIRST_CODE;
                let (data, parity) = (number / PARITY_MAX + DATA_MIN, number % PARITY_MAX + 1);
                Code::new(data, parity)?;
                Durability::Ec(data, parity)
            }
        })
    }

    pub(crate) fn check(self, has_spill: bool) -> Result<(), StartError> {
        match self {
            Durability::Copies(copies) if !(1..=COPIES_MAX).contains(&usize::from(copies)) => {
                Err(StartError(format!("durability: copies={copies}; write copies=1 to copies={COPIES_MAX}")))
            }
            Durability::Ec(data, parity) if Code::new(data, parity).is_none() => Err(StartError(format!(
                "durability: ec={data}+{parity}; write ec=K+M with K from 2, M from 1 and {SHARDS_MAX} together at most, as in ec=2+1 or ec=4+2"
            ))),
            Durability::Disk if !has_spill => {
                Err(StartError("durability: disk needs a directory; name it with spill".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CodecName {
    Lz4,
    Zstd,
}

impl CodecName {
    /// zstd -1: 1.6 times lz4's ratio on Python heaps for a microsecond or two more (docs/performance.md).
    pub fn codec(self) -> Codec {
        match self {
            CodecName::Lz4 => Codec::Lz4,
            CodecName::Zstd => Codec::Zstd(-1),
        }
    }

    pub(crate) fn from_number(number: u64) -> Option<CodecName> {
        [CodecName::Lz4, CodecName::Zstd].into_iter().find(|codec| *codec as u64 == number)
    }
}

/// Set at any time, obeyed from then on; the last ones stay when nobody sends more. What is absent stays as it was.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Directives {
    pub resident_bytes: Option<u64>,
    pub store_bytes: Option<u64>,
    /// With so much at peers nothing more is sent there; what is there stays.
    pub remote_bytes: Option<u64>,
    /// False: nothing more is sent to peers (the spill file is not affected).
    pub remotify: Option<bool>,
    /// The same for pages of persistent pools alone, and for those of ephemeral ones.
    pub remotify_persistent: Option<bool>,
    pub remotify_ephemeral: Option<bool>,
    /// Pages come home by themselves while there is room for them here.
    pub repatriate: Option<bool>,
    pub codec: Option<CodecName>,
    pub remote_codec: Option<CodecName>,
    /// For what is sent from now on.
    pub durability: Option<Durability>,
    /// All nodes that membership does not hear from: pages that others have too do without them, and get new copies.
    pub silent: Option<Vec<u64>>,
    /// All peers that take pages from now on. One that is missing keeps what it holds.
    pub peers: Option<Vec<PeerAddr>>,
    /// For all links from now on.
    pub credentials: Option<CredentialsPem>,
}

/// Why an engine did not start: one line that names the option and the cure.
#[derive(Clone, Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durability_is_the_same_after_json_and_after_its_number() {
        for (text, durability) in [
            (r#""none""#, Durability::None),
            (r#""disk""#, Durability::Disk),
            (r#""auto""#, Durability::Auto),
            (r#"{"copies":3}"#, Durability::Copies(3)),
            (r#"{"ec":[2,1]}"#, Durability::Ec(2, 1)),
            (r#"{"ec":[4,2]}"#, Durability::Ec(4, 2)),
        ] {
            assert_eq!(serde_json::from_str::<Durability>(text).expect("it parses"), durability);
            assert_eq!(serde_json::to_string(&durability).expect("it prints"), text);
            assert_eq!(Durability::from_number(durability.to_number()), durability);
        }
    }

    #[test]
    fn every_durability_has_a_class_of_its_own() {
        let codes = (0..=7).flat_map(|data| (0..=7).map(move |parity| Durability::Ec(data, parity)));
        let others = [Durability::None, Durability::Disk, Durability::Auto];
        let all = others.into_iter().chain((0..=4).map(Durability::Copies)).chain(codes);
        let mut seen = std::collections::HashSet::new();
        for durability in all {
            match durability.class() {
                Some(class) => {
                    assert_eq!(Durability::of_class(class), Some(durability));
                    assert!(seen.insert(class) && class != Class::RUN && class != Class::EPHEMERAL);
                    assert!(durability.check(true).is_ok(), "{durability:?}");
                }
                None => assert!(durability.check(true).is_err(), "{durability:?}"),
            }
        }
        assert_eq!(seen.len(), 3 + COPIES_MAX + 10, "K from 2, M from 1, 6 together: ten codes");
        assert_eq!((Durability::of_class(Class::RUN), Durability::of_class(Class::EPHEMERAL)), (None, None));
    }
}
