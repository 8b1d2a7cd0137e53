//! The SPIs this node hands out: they say which node and worker own them, and carry a check that
//! a packet with a made-up SPI fails before any table is looked at.
//!
//! ```text
//! node 8 | worker 8 | serial 32 | check 16        big-endian on the wire
//! ```

use crate::sip::{SipKey, State, siphash24_words, tags_match};

/// How many `k_spi` are good at a time: the present one and the one before.
pub const LIVE_SPI_KEYS: usize = 2;

const ROUNDS: u64 = 6;

/// An SPI of ours, or one that claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OurSpi(pub u64);

impl OurSpi {
    /// Makes an SPI. `serial` comes from [`permute32`] over a counter, so none repeats.
    #[must_use]
    pub fn compose(node: u8, worker: u8, serial: u32, key: &SipKey) -> Self {
        let named = u64::from(node) << 56 | u64::from(worker) << 48 | u64::from(serial) << 16;
        Self(named | check_of(named, key))
    }

    /// Reads an SPI from its place in an IKE header.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(octets: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(octets))
    }

    /// The octets that go on the wire.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The node that handed it out.
    #[must_use]
    pub const fn node(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The worker that owns its IKE SA.
    #[must_use]
    pub const fn worker(self) -> u8 {
        (self.0 >> 48) as u8
    }

    /// Whether the check is right. That proves only that somebody saw an SPI of ours.
    #[inline(always)]
    #[must_use]
    pub fn check_is_right(&self, key: &SipKey) -> bool {
        tags_match(check_of(self.0, key), self.0 & 0xffff)
    }
}

/// The 16 bits that belong to the first six octets: the low ones of their SipHash-2-4.
#[inline(always)]
fn check_of(spi: u64, key: &SipKey) -> u64 {
    // Six octets fit the final word, which also carries the length.
    let mut state = State::new(key);
    state.absorb((spi & !0xffff).swap_bytes() | 6 << 56);
    state.finish() & 0xffff
}

/// A keyed permutation of 32 bits: a counter goes in, values without repeats and without visible
/// order come out. A Feistel network whose round function is SipHash.
#[must_use]
pub fn permute32(key: &SipKey, counter: u32) -> u32 {
    let (mut left, mut right) = (counter >> 16, counter & 0xffff);
    for round in 0..ROUNDS {
        let mixed = siphash24_words(key, &[round << 32 | u64::from(right)]) as u32 & 0xffff;
        (left, right) = (right, left ^ mixed);
    }
    left << 16 | right
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sip::siphash24;

    const KEY: SipKey = SipKey {
        k0: 0x1122,
        k1: 0x3344,
    };

    #[test]
    fn an_spi_says_who_made_it() {
        let spi = OurSpi::compose(9, 200, 0xdead_beef, &KEY);
        assert_eq!((spi.node(), spi.worker()), (9, 200));
        assert_eq!(spi.to_wire()[..6], [9, 200, 0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(OurSpi::from_wire(spi.to_wire()), spi);
        assert!(spi.check_is_right(&KEY));
    }

    #[test]
    fn the_check_is_the_hash_of_the_six_octets_before_it() {
        let spi = OurSpi::compose(1, 2, 3, &KEY);
        assert_eq!(
            spi.0 & 0xffff,
            siphash24(&KEY, &spi.to_wire()[..6]) & 0xffff
        );
    }

    #[test]
    fn every_flipped_bit_or_another_key_fails_the_check() {
        let spi = OurSpi::compose(1, 0, 0x0102_0304, &KEY);
        for bit in 0..64 {
            assert!(!OurSpi(spi.0 ^ 1 << bit).check_is_right(&KEY), "bit {bit}");
        }
        assert!(!spi.check_is_right(&SipKey {
            k0: 0x1122,
            k1: 0x3345
        }));
    }

    #[test]
    fn no_serial_repeats() {
        let mut seen = HashSet::new();
        for counter in (0..40_000).chain(u32::MAX - 40_000..=u32::MAX) {
            assert!(seen.insert(permute32(&KEY, counter)), "counter {counter}");
        }
        assert_ne!(permute32(&KEY, 1), permute32(&SipKey { k0: 1, k1: 1 }, 1));
    }
}
