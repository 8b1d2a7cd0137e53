//! How often one authenticated peer may ask for what costs us more than it does the peer (RFC 8019, 5). A
//! peer that keeps to the RFCs never notices; one that does not is put off, and its tunnel stays up.

use std::time::Duration;

/// So many at once, and one more each time a span has passed.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    most: u32,
    every: Duration,
    left: u32,
    /// When the last one was added, on the boot clock.
    since: Duration,
}

impl Pace {
    /// All of them at hand.
    #[must_use]
    pub const fn new(most: u32, every: Duration) -> Self {
        Self {
            most,
            every,
            left: most,
            since: Duration::ZERO,
        }
    }

    /// Whether one more may be had now; if so, it is.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_nanos();
        let more = passed / self.every.as_nanos().max(1);
        let missing = self.most - self.left;
        match u32::try_from(more).ok().filter(|more| *more < missing) {
            Some(more) => {
                self.left += more;
                self.since += self.every * more;
            }
            None => {
                self.left = self.most;
                self.since = now;
            }
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        true
    }
}

/// What an SA's peer may ask for, and that of the SAs that a rekey puts in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paces {
    /// Requests of any kind; one beyond is not answered, and comes again.
    pub requests: Pace,
    /// New keys and Child SAs, each with a key exchange and changes in the kernel.
    pub exchanges: Pace,
    /// Moves behind a NAT, each of which makes states anew in the kernel.
    pub mappings: Pace,
    /// Tickets: of those, every epoch has 2^24.
    pub tickets: Pace,
}

impl Paces {
    pub(crate) const fn new() -> Self {
        Self {
            requests: Pace::new(256, Duration::from_millis(8)),
            exchanges: Pace::new(32, Duration::from_secs(2)),
            mappings: Pace::new(8, Duration::from_secs(10)),
            tickets: Pace::new(8, Duration::from_mins(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_up_is_had_at_once_and_then_one_at_a_time() {
        let mut pace = Pace::new(3, Duration::from_secs(2));
        let at = Duration::from_millis;
        assert!((0..3).all(|_| pace.take(at(100_000))));
        assert!(!pace.take(at(100_000)) && !pace.take(at(101_999)));
        assert!(pace.take(at(102_000)) && !pace.take(at(103_999)));
        assert!(pace.take(at(104_000)));
        // What is left of a span counts, and no more is saved up than there may be.
        assert!(!pace.take(at(105_000)));
        assert!(pace.take(at(106_000)));
        assert!((0..3).all(|_| pace.take(at(1_000_000))) && !pace.take(at(1_000_000)));
    }
}
