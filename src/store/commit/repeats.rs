//! Whether operations that were decided before are to be expected.
//!
//! To look for each one's verdict costs as much as to store it, and nearly always finds nothing. But repeats
//! come together: when links or instances failed, many clients send again what had no answer. So one that was not
//! expected makes its commit begin anew, and those that follow look first.

use std::sync::atomic::{AtomicU32, Ordering};

/// How many commits look first after the last repeat.
const WARY: u32 = 64;

#[derive(Debug, Default)]
pub(in super::super) struct Repeats(AtomicU32);

impl Repeats {
    /// Whether the next commit should look for verdicts before it decides.
    pub(super) fn expected(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// There was one, or there may be.
    pub(super) fn met(&self) {
        self.0.store(WARY, Ordering::Relaxed);
    }
}
