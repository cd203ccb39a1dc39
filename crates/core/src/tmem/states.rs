//! The states of a page and what may happen in each: one table, also printed in docs/statemachines-tmem.md. Covers which, not how.

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum State {
    /// Not under this handle, as far as anybody knows.
    Absent,
    /// Same-value page: its 8-byte pattern is all there is, and it never travels.
    Same,
    /// Packed, in a slot of the store.
    Local,
    /// In a slot, and on its way to a holder that has not acknowledged it.
    InTransit,
    /// At a holder only; or in the program and, unchanged as far as we know, at a holder.
    Remote,
    /// Was remote and cannot be brought back. Stays until flushed or put again, so that no get takes it for a miss.
    Lost,
}

/// What happens to a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Event {
    /// A put of bytes that got a slot.
    Put,
    /// A put of a same-value page.
    PutSame,
    /// A put of the very bytes that are kept.
    PutUnchanged,
    /// A put that found no room; also the end of whatever was there.
    PutRefused,
    /// Flush of page, range, object or pool; a get that frees; an exclusive get.
    Flush,
    /// An ephemeral page makes room, or was at a holder that lost it.
    Evict,
    /// Chosen for a batch to a holder.
    Send,
    /// One of several holders has it.
    AcknowledgeCopy,
    /// The last holder has it.
    Acknowledge,
    /// The holder refused it, or its answer never came.
    Refuse,
    /// A holder died, forgot it or sent it back damaged, and another one has a copy, or enough others have shards.
    LoseCopy,
    /// The same of the last copy.
    Lose,
    /// A further holder has it, in the place of one that lost it.
    Rebuild,
    /// A fetched page stays at home from now on.
    Repatriate,
}

use Event::*;
use State::*;

/// Everything that may happen. What is not here is a bug of ours; acknowledgements and answers that come too late never get this far.
pub const TABLE: &[(State, Event, State)] = &[
    (Absent, Put, Local),
    (Absent, PutSame, Same),
    (Absent, PutRefused, Absent),
    (Same, Put, Local),
    (Same, PutSame, Same),
    (Same, PutRefused, Absent),
    (Same, Flush, Absent),
    (Same, Evict, Absent),
    (Local, Put, Local),
    (Local, PutSame, Same),
    (Local, PutUnchanged, Local),
    (Local, PutRefused, Absent),
    (Local, Flush, Absent),
    (Local, Evict, Absent),
    (Local, Send, InTransit),
    (InTransit, Put, Local),
    (InTransit, PutSame, Same),
    (InTransit, PutUnchanged, InTransit),
    (InTransit, PutRefused, Absent),
    (InTransit, Flush, Absent),
    (InTransit, AcknowledgeCopy, InTransit),
    (InTransit, Acknowledge, Remote),
    (InTransit, Refuse, Local),
    (Remote, Put, Local),
    (Remote, PutSame, Same),
    (Remote, PutUnchanged, Remote),
    (Remote, PutRefused, Absent),
    (Remote, Flush, Absent),
    (Remote, Evict, Absent),
    (Remote, LoseCopy, Remote),
    (Remote, Lose, Lost),
    (Remote, Rebuild, Remote),
    (Remote, Repatriate, Local),
    (Lost, Put, Local),
    (Lost, PutSame, Same),
    (Lost, PutRefused, Absent),
    (Lost, Flush, Absent),
];

const STATES: usize = 6;
const EVENTS: usize = 14;
const FORBIDDEN: u8 = u8::MAX;

/// [`TABLE`] as a matrix, so that asking costs one load.
const MATRIX: [[u8; EVENTS]; STATES] = {
    let mut matrix = [[FORBIDDEN; EVENTS]; STATES];
    let mut row = 0;
    while row < TABLE.len() {
        let (from, event, to) = TABLE[row];
        matrix[from as usize][event as usize] = to as u8;
        row += 1;
    }
    matrix
};

impl State {
    const ALL: [State; STATES] = [Absent, Same, Local, InTransit, Remote, Lost];

    /// None when the table forbids it.
    pub fn after(self, event: Event) -> Option<State> {
        State::ALL.get(usize::from(MATRIX[self as usize][event as usize])).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_one_thing_about_each_state_and_event() {
        let mut seen = std::collections::BTreeSet::new();
        for (from, event, to) in TABLE {
            assert!(seen.insert((*from, *event)), "{from:?} {event:?} twice");
            assert_eq!(from.after(*event), Some(*to));
        }
        let allowed = State::ALL.iter().flat_map(|from| EVENTS_ALL.map(|event| from.after(event))).flatten().count();
        assert_eq!(allowed, TABLE.len());
    }

    #[test]
    fn a_put_may_come_in_every_state_and_an_acknowledgement_only_in_transit() {
        for state in State::ALL {
            assert!(state.after(Put).is_some() && state.after(PutSame).is_some() && state.after(PutRefused).is_some());
            assert_eq!(state.after(Acknowledge).is_some(), state == InTransit);
        }
    }

    #[test]
    fn the_document_has_the_same_table() {
        let document = include_str!("../../../../docs/statemachines-tmem.md");
        for (from, event, to) in TABLE {
            let row = format!("| {from:?} | {event:?} | {to:?} |");
            assert!(document.contains(&row), "docs/statemachines-tmem.md lacks {row}");
        }
        let rows =
            document.lines().filter(|line| State::ALL.iter().any(|state| line.starts_with(&format!("| {state:?} |")))).count();
        assert_eq!(rows, TABLE.len(), "the document has rows that the code has not");
    }

    const EVENTS_ALL: [Event; EVENTS] = [
        Put,
        PutSame,
        PutUnchanged,
        PutRefused,
        Flush,
        Evict,
        Send,
        AcknowledgeCopy,
        Acknowledge,
        Refuse,
        LoseCopy,
        Lose,
        Rebuild,
        Repatriate,
    ];
}
