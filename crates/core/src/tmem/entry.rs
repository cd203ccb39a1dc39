//! What is known of one page, in 32 bytes. Covers the packing of those bytes only.

use super::sites::SiteId;
use super::states::State;
use crate::backend::Loss;
use crate::compress::Kind;
use crate::handle::Version;
use crate::page::Digest;
use crate::store::SlotRef;

/// Which fields mean something depends on the state: `slot` in Local and InTransit, `site` in InTransit, Remote and Lost, `version` in
/// InTransit and Remote; `digest` holds the pattern of a same-value page.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub digest: Digest,
    pub slot: SlotRef,
    /// Names the copy that was last sent to a holder.
    pub version: Version,
    /// Who has its copies, or is to have them; of a lost page, who had the last one.
    pub site: SiteId,
    /// State in the low 3 bits. Above them, when lost, the reason; otherwise, in 2, the kind of the packed bytes, and in 3 the holders that have not
    /// acknowledged what they were sent.
    what: u8,
    /// The age of tmem when the page was put, in the low 7 bits. Above them: a getter has its bytes too.
    when: u8,
}

const _: () = assert!(size_of::<Entry>() == 32);
const NO_SLOT: SlotRef = SlotRef { slab: u32::MAX, slot: 0, len: 0 };
const STATES: [State; 6] = [State::Absent, State::Same, State::Local, State::InTransit, State::Remote, State::Lost];
const STATE: u8 = 7;
const KIND_AT: u8 = 3;
const KIND: u8 = 3 << KIND_AT;
const LOSS_AT: u8 = 3;
const MISSING_AT: u8 = 5;
const AGE: u8 = 0x7f;
const HOME: u8 = 0x80;
// A kind beyond these would need another bit.
const _: () = assert!(Kind::Lz4.tag() <= 3 && Kind::Zstd.tag() <= 3 && Kind::Raw.tag() <= 3);
const LOSSES: [Loss; 5] = [Loss::HolderDied, Loss::HolderForgot, Loss::Corrupt, Loss::Deadline, Loss::SpillFailed];

impl Entry {
    pub const ABSENT: Entry = Entry { digest: Digest(0), slot: NO_SLOT, version: 0, site: SiteId::NONE, what: 0, when: 0 };

    pub fn state(&self) -> State {
        STATES[usize::from(self.what & STATE).min(STATES.len() - 1)]
    }

    pub fn set_state(&mut self, state: State) {
        self.what = self.what & !STATE | state as u8;
    }

    pub fn same(value: u64) -> Entry {
        Entry { digest: Digest(u128::from(value)), what: State::Same as u8, ..Entry::ABSENT }
    }

    pub fn local(slot: SlotRef, digest: Digest, kind: Kind, age: u8) -> Entry {
        Entry { digest, slot, what: State::Local as u8 | kind.tag() << KIND_AT, when: age & AGE, ..Entry::ABSENT }
    }

    pub fn value(&self) -> u64 {
        self.digest.0 as u64
    }

    /// How the bytes in the slot are to be read.
    pub fn kind(&self) -> Kind {
        Kind::from_tag((self.what & KIND) >> KIND_AT).unwrap_or(Kind::Raw)
    }

    pub fn set_lost(&mut self, why: Loss) {
        self.what = State::Lost as u8 | (why as u8) << LOSS_AT;
    }

    pub fn loss(&self) -> Loss {
        LOSSES[usize::from(self.what >> LOSS_AT).min(LOSSES.len() - 1)]
    }

    pub fn set_age(&mut self, age: u8) {
        self.when = self.when & HOME | age & AGE;
    }

    /// How long ago that was, at the present age. Ages wrap at 128.
    pub fn years(&self, age: u8) -> u8 {
        age.wrapping_sub(self.when) & AGE
    }

    /// A getter has the bytes as well and will put them again: as long as that lasts, the loss of the copies loses nothing.
    pub fn set_home(&mut self, home: bool) {
        self.when = self.when & AGE | if home { HOME } else { 0 };
    }

    pub fn is_home(&self) -> bool {
        self.when & HOME != 0
    }

    /// Acknowledgements that have not come yet, while in transit.
    pub fn missing(&self) -> u8 {
        self.what >> MISSING_AT
    }

    pub fn set_missing(&mut self, count: u8) {
        self.what = self.what & (STATE | KIND) | count << MISSING_AT;
    }
}
