//! The time, and ids that carry it.

use std::time::UNIX_EPOCH;

use dcbuild_model::UnixTime;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> UnixTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else takes")]
    fn now(&self) -> UnixTime {
        let passed = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixTime {
            secs: i64::try_from(passed.as_secs()).unwrap_or(i64::MAX),
            nanos: passed.subsec_nanos(),
        }
    }
}

/// Draws the 128 bits of a new id: milliseconds in the upper 48, chance in the others, as in a ULID.
pub fn new_bits(clock: &dyn Clock) -> u128 {
    let now = clock.now();
    let millis =
        u128::from(now.secs.max(0).unsigned_abs()) * 1000 + u128::from(now.nanos / 1_000_000);
    let chance = rand::random::<u128>() >> 48;
    (millis << 80) | chance
}

#[cfg(test)]
mod tests {
    use super::*;

    struct At(i64);

    impl Clock for At {
        fn now(&self) -> UnixTime {
            UnixTime { secs: self.0, nanos: 0 }
        }
    }

    #[test]
    fn later_ids_sort_later_and_no_two_are_equal() {
        assert!(new_bits(&At(10)) < new_bits(&At(11)));
        assert_ne!(new_bits(&At(10)), new_bits(&At(10)));
        assert_eq!(new_bits(&At(10)) >> 80, 10_000);
    }
}
