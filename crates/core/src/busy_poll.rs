//! How long to look for what is awaited before sleeping: adaptive busy polling, by the rule of the kernel's haltpoll governor
//! (drivers/cpuidle/governors/haltpoll.c). Covers the decision; who waits looks, sleeps and measures.
//!
//! Looking pays where the wait is shorter than waking an idle core takes, 50 to 200 us on a virtual machine. Both ends of a link look for each other, so one that sleeps
//! too early makes the other's wait long: what is measured is the whole wait, and the bound is so high that two sleepers find out of it.

/// Who waits longer sleeps at once: two wake-ups of idle cores and a turn of the network.
pub const MOST_US: u32 = 400;
const FIRST_US: u32 = 50;

pub struct BusyPoll {
    us: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        Self { us: FIRST_US }
    }
}

impl BusyPoll {
    /// Look for so long this time. 0: sleep at once.
    pub fn us(&self) -> u32 {
        self.us
    }

    /// It came after so long, looked for or slept for.
    pub fn came_after(&mut self, us: u64) {
        if us > u64::from(MOST_US) {
            self.us = if self.us / 2 < FIRST_US { 0 } else { self.us / 2 };
        } else if us > u64::from(self.us) {
            self.us = (self.us * 2).clamp(FIRST_US, MOST_US);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(waits_us: &[u64]) -> u32 {
        let mut poll = BusyPoll::default();
        waits_us.iter().for_each(|us| poll.came_after(*us));
        poll.us()
    }

    #[test]
    fn it_looks_as_long_as_waits_are_and_not_for_ever() {
        assert_eq!(after(&[40, 40]), FIRST_US, "found in time: long enough");
        assert_eq!(after(&[70, 40]), 100);
        assert_eq!(after(&[390; 9]), MOST_US);
    }

    #[test]
    fn a_few_long_waits_end_the_looking_and_one_short_one_begins_it_again() {
        assert_eq!(after(&[10_000]), 0);
        assert_eq!(after(&[300, 300, 300, 10_000]), 200, "one long wait among short ones costs little");
        assert_eq!(after(&[300, 300, 300, 10_000, 10_000, 10_000, 10_000]), 0);
        assert_eq!(after(&[10_000, 10_000, 399]), FIRST_US);
    }
}
