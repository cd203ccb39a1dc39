//! What is known of one page, in 32 bytes. Covers the packing of those bytes only.

use super::states::State;
use crate::backend::Loss;
use crate::compress::Kind;
use crate::handle::{HolderId, Version};
use crate::page::Digest;
use crate::store::SlotRef;

/// Which fields mean something depends on the state: `slot` in Local and InTransit, `holder` in InTransit, Remote and Lost, `version` in
/// InTransit and Remote; `digest` holds the pattern of a same-value page.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub digest: Digest,
    pub slot: SlotRef,
    /// Names the copy that was last sent to a holder.
    pub version: Version,
    pub holder: HolderId,
    /// State in the low 4 bits; above them the kind of the packed bytes or, when lost, the reason.
    what: u8,
    /// The age of tmem when the page was put.
    pub age: u8,
}

const _: () = assert!(size_of::<Entry>() == 32);
const NO_SLOT: SlotRef = SlotRef { slab: u32::MAX, slot: 0, len: 0 };
const STATES: [State; 6] = [State::Absent, State::Same, State::Local, State::InTransit, State::Remote, State::Lost];
const LOSSES: [Loss; 5] = [Loss::HolderDied, Loss::HolderForgot, Loss::Corrupt, Loss::Deadline, Loss::SpillFailed];

impl Entry {
    pub const ABSENT: Entry = Entry { digest: Digest(0), slot: NO_SLOT, version: 0, holder: HolderId(u16::MAX), what: 0, age: 0 };

    pub fn state(&self) -> State {
        STATES[usize::from(self.what & 15).min(STATES.len() - 1)]
    }

    pub fn set_state(&mut self, state: State) {
        self.what = self.what & 0xf0 | state as u8;
    }

    pub fn same(value: u64) -> Entry {
        Entry { digest: Digest(u128::from(value)), what: State::Same as u8, ..Entry::ABSENT }
    }

    pub fn local(slot: SlotRef, digest: Digest, kind: Kind, age: u8) -> Entry {
        Entry { digest, slot, what: State::Local as u8 | kind.tag() << 4, age, ..Entry::ABSENT }
    }

    pub fn value(&self) -> u64 {
        self.digest.0 as u64
    }

    /// How the bytes in the slot are to be read.
    pub fn kind(&self) -> Kind {
        Kind::from_tag(self.what >> 4).unwrap_or(Kind::Raw)
    }

    pub fn set_lost(&mut self, why: Loss) {
        self.what = State::Lost as u8 | (why as u8) << 4;
    }

    pub fn loss(&self) -> Loss {
        LOSSES[usize::from(self.what >> 4).min(LOSSES.len() - 1)]
    }
}
