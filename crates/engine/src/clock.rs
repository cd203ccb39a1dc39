//! The engine's clock, CLOCK_MONOTONIC. Passed into `core`, which has none of its own.

use rustix::time::{ClockId, clock_gettime};

pub fn now_ms() -> u64 {
    now_us() / 1000
}

pub fn now_us() -> u64 {
    now_ns() / 1000
}

pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
