//! The clocks: the one place of the program that reads them.
//!
//! Owns the two readings and their conversion to the shared vocabulary. Refuses to know what time is used for;
//! everyone else takes a [`Now`] as an argument. Cannot fail: both clocks exist on every supported kernel.

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::core::vocab::{Mono, Now, Wall};

/// CLOCK_REALTIME and CLOCK_MONOTONIC, read one after the other (clock_gettime(2)).
pub fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    Now { wall: Wall(wall.tv_sec * 1_000_000 + wall.tv_nsec / 1_000), mono: mono() }
}

/// CLOCK_MONOTONIC alone.
pub(super) fn mono() -> Mono {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Monotonic);
    // The clock starts at boot, so neither part is ever negative.
    Mono(tv_sec.unsigned_abs() * 1_000_000_000 + tv_nsec.unsigned_abs())
}

/// Microseconds since boot, suspend included: what start times of processes count by.
pub(super) fn since_boot_us() -> i64 {
    #[cfg(target_os = "linux")]
    let up = clock_gettime(ClockId::Boottime);
    #[cfg(not(target_os = "linux"))]
    let up = clock_gettime(ClockId::Monotonic);
    up.tv_sec * 1_000_000 + up.tv_nsec / 1_000
}
