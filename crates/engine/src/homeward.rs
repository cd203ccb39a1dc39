//! Pages that come home by themselves: when the store has had room for a while, those at holders are fetched, slowly. Covers when and how many; fetching
//! them is `rebuild.rs`'s, as for a holder's recall.

use std::sync::atomic::Ordering::Relaxed;

use ramster_core::handle::HolderId;

use crate::engine::Engine;
use crate::remotifier::Remotifier;

/// So long nothing must have been sent away: whoever sends has no room, and what came home would leave again.
const QUIET_MS: u64 = 10_000;
const TICK_MS: u64 = 1000;
/// Of the room that is left, a tick takes this part: the network is the faults', and the room soon the program's.
const ROOM_SHARE: u64 = 20;
/// Less is not worth a tick.
const LEAST_BYTES: u64 = 256 << 10;
/// A gigabit link carries twice that in a tick.
const MOST_BYTES: u64 = 64 << 20;

/// The next look; the holder whose turn it is.
#[derive(Default)]
pub struct Homeward {
    again_ms: u64,
    turn: usize,
}

/// A quarter of the store stays free, for what the program puts next.
pub fn has_room(engine: &Engine) -> bool {
    room_bytes(engine) >= LEAST_BYTES
}

fn room_bytes(engine: &Engine) -> u64 {
    (engine.limits.soft_limit_bytes() / 4 * 3).saturating_sub(engine.store_bytes())
}

impl Remotifier {
    /// Lets some pages come home, if there is room. Returns when to look again; None: nothing is away, or nothing may come.
    pub(crate) fn come_home(&mut self, engine: &Engine, now_ms: u64) -> Option<u64> {
        if engine.pages_away() == 0 || !engine.limits.repatriate.load(Relaxed) {
            return None;
        }
        let look_ms = self.homeward.again_ms.max(self.sent_ms + QUIET_MS);
        if now_ms < look_ms {
            return Some(look_ms - now_ms);
        }
        self.homeward.again_ms = now_ms + TICK_MS;
        if !has_room(engine) {
            // Room that a program leaves wakes nobody.
            self.homeward.again_ms = now_ms + QUIET_MS;
        } else if self.rebuild.is_idle()
            && let Some(holder) = self.next_holder()
        {
            let bytes = (room_bytes(engine) / ROOM_SHARE).clamp(LEAST_BYTES, MOST_BYTES);
            self.rebuild.fetch_home(holder, bytes, now_ms);
        }
        Some(self.homeward.again_ms - now_ms)
    }

    /// Those with a link, in turn.
    fn next_holder(&mut self) -> Option<HolderId> {
        self.homeward.turn = self.homeward.turn.wrapping_add(1);
        self.bulks.get(self.homeward.turn % self.bulks.len().max(1)).map(|bulk| bulk.holder)
    }
}
