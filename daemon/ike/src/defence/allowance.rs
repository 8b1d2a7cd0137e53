//! How many answers strangers get in one second. An answer to whoever has proved nothing goes to an
//! address that may be forged, so its rate is bounded even where each is shorter than what asked for it
//! (RFC 7296, 2.21.4).

use std::time::Duration;

/// So many in each second of the boot clock.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    per_second: u32,
    second: u64,
    given: u32,
}

impl Allowance {
    /// Nothing given yet.
    #[must_use]
    pub const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            second: 0,
            given: 0,
        }
    }

    /// Whether one more may be given now; if so, it is.
    pub const fn take(&mut self, now: Duration) -> bool {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.given = 0;
        }
        if self.given >= self.per_second {
            return false;
        }
        self.given += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_share() {
        let mut allowance = Allowance::new(2);
        let at = Duration::from_millis;
        assert!(allowance.take(at(1000)) && allowance.take(at(1999)));
        assert!(!allowance.take(at(1999)));
        assert!(allowance.take(at(2000)));
    }
}
