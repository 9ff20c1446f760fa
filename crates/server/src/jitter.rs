//! Times that are a little off, so that what began together does not go on together.

use std::time::Duration;

/// Between three quarters and five quarters of it.
pub(crate) fn jittered(time: Duration) -> Duration {
    let mut random = [0_u8; 4];
    // Without randomness the time itself is right too.
    let part =
        getrandom::fill(&mut random).map_or(0.5, |()| f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX));
    time.mul_f64(0.75 + part / 2.0)
}
