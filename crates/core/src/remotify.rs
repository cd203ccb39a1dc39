//! Step 6: how much has to leave, and to whom. Covers the choice, as pure functions of numbers; tmem picks the pages, the engine sends them.

use crate::handle::HolderId;

/// A batch is one message. 256 pages make the network nearly free (measured: 0.7 us a page at 16, waking dominates below); twice that
/// only holds more pages hostage to one answer.
pub const BATCH_PAGES: usize = 256;
pub const BATCH_BYTES: usize = 1 << 20;

/// How large one batch may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchLimit {
    pub pages: usize,
    pub bytes: usize,
}

/// Remotifying starts over the limit and goes on until this share below it, so that a store at its limit is not sending single pages for ever.
const SLACK_SHARE: u64 = 32;

/// What the next batch may take, None if nothing has to leave. `sending` says whether remotifying is under way already: then it goes on below the
/// limit, down to the slack. What is in transit counts as gone.
pub fn next_batch(used_bytes: u64, in_transit_bytes: u64, limit_bytes: u64, sending: bool) -> Option<BatchLimit> {
    let target = limit_bytes - limit_bytes / SLACK_SHARE;
    let staying = used_bytes.saturating_sub(in_transit_bytes);
    let start = if sending { target } else { limit_bytes };
    if staying <= start {
        return None;
    }
    let bytes = usize::try_from(staying - target).unwrap_or(usize::MAX);
    Some(BatchLimit { pages: BATCH_PAGES, bytes: bytes.clamp(BATCH_BYTES / 16, BATCH_BYTES) })
}

/// What a holder offers, as far as is known, less what is on its way there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    pub holder: HolderId,
    pub free_bytes: u64,
}

/// The roomier of two holders drawn at random from those that have room for `need_bytes`: nearly as even as always asking the emptiest, without
/// all owners asking the same one. `draw` is a random number of the caller's. None: nobody has room.
pub fn place(rooms: &[Room], need_bytes: u64, draw: u64) -> Option<HolderId> {
    let fits = || rooms.iter().filter(|room| room.free_bytes >= need_bytes);
    let count = fits().count() as u64;
    if count == 0 {
        return None;
    }
    let first = (draw & 0xffff_ffff) % count;
    // Another one than the first, unless there is only one.
    let second = if count == 1 { first } else { (first + 1 + (draw >> 32) % (count - 1)) % count };
    let (first, second) = (fits().nth(first as usize)?, fits().nth(second as usize)?);
    Some(if second.free_bytes > first.free_bytes { second.holder } else { first.holder })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(free: &[u64]) -> Vec<Room> {
        free.iter()
            .enumerate()
            .map(|(index, free_bytes)| Room { holder: HolderId(index as u16), free_bytes: *free_bytes })
            .collect()
    }

    fn draws() -> impl Iterator<Item = u64> {
        (1..2000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn a_full_holder_is_never_chosen_and_nobody_when_all_are_full() {
        for draw in draws() {
            assert_eq!(place(&rooms(&[10, 100, 10]), 50, draw), Some(HolderId(1)));
            assert_eq!(place(&rooms(&[10, 20]), 50, draw), None);
            assert_eq!(place(&[], 0, draw), None);
        }
    }

    #[test]
    fn roomier_holders_get_more_and_the_emptiest_not_all() {
        let mut chosen = [0; 4];
        for draw in draws() {
            let holder = place(&rooms(&[100, 200, 300, 400]), 50, draw).expect("all have room");
            chosen[usize::from(holder.0)] += 1;
        }
        assert_eq!(chosen[0], 0, "the fullest loses every comparison");
        assert!(chosen[1] > 0 && chosen[2] > chosen[1] && chosen[3] > chosen[2], "{chosen:?}");
        assert!(chosen[3] < 1500, "{chosen:?}");
    }

    #[test]
    fn remotifying_starts_over_the_limit_and_stops_below_the_slack() {
        let limit = 64 << 20;
        assert_eq!(next_batch(limit, 0, limit, false), None);
        assert!(next_batch(limit + 4096, 0, limit, false).is_some());
        assert!(next_batch(limit, 0, limit, true).is_some());
        assert_eq!(next_batch(limit - limit / 32, 0, limit, true), None);
        assert_eq!(next_batch(limit + (4 << 20), 8 << 20, limit, true), None, "what is in transit counts as gone");
    }

    #[test]
    fn a_batch_is_never_larger_than_a_message() {
        let batch = next_batch(1 << 40, 0, 0, false).expect("all has to leave");
        assert_eq!(batch, BatchLimit { pages: BATCH_PAGES, bytes: BATCH_BYTES });
    }
}
