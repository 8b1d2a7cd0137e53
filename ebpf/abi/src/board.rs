//! The board: one array of words that the daemon's engine writes while it works, by mapping it into
//! its memory, and that the gate reads. It holds what changes with each login, where a system call
//! for each change would cost more than the change.
//!
//! ```text
//! header             16 words     key of the admissions; half-open SAs, queue delay
//! used bits    4 * 2^18 words     one bit for each ticket of an epoch, in the slot of that epoch
//! live SPIs        2^14 words     one bit for each 20 bits of a serial
//! admissions       2^16 words     first messages that were taken without a cookie
//! ```

use crate::cookie::CookieInput;
use crate::sip::{SipKey, siphash24_words};
use crate::spi::OurSpi;

/// Words of the whole.
pub const WORDS: usize = (ADMISSIONS_AT + ADMISSION_CELLS) as usize;

/// Word of the header: the key of [`admission_hash`], in this and the next.
pub const KEY_AT: u32 = 0;
/// Word of the header: half-open IKE SAs now.
pub const HALF_OPEN_AT: u32 = 2;
/// Word of the header: the longest delay in the queue of what has proved nothing since the keeper last
/// took it away, in microseconds.
pub const QUEUE_DELAY_AT: u32 = 3;
const HEADER_WORDS: u32 = 16;

/// Epochs whose used bits the gate can know.
pub const USED_SLOTS: u32 = 4;
/// Tickets of one epoch.
pub const INDEXES: u32 = 1 << 24;
const USED_AT: u32 = HEADER_WORDS;
const USED_WORDS: u32 = INDEXES / 64;

const LIVE_AT: u32 = USED_AT + USED_SLOTS * USED_WORDS;
/// Bits of live SPIs.
pub const LIVE_BITS: u32 = 1 << 20;
const LIVE_WORDS: u32 = LIVE_BITS / 64;

const ADMISSIONS_AT: u32 = LIVE_AT + LIVE_WORDS;
const ADMISSION_CELLS: u32 = 1 << 16;

/// Repetitions of an admitted message that pass.
pub const PASSES: u64 = 3;
/// Seconds for which they do: as long as its half-open SA can wait.
pub const ADMITTED_SECONDS: u16 = 30;

/// One bit of the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bit {
    /// Its word.
    pub word: u32,
    /// The bit within it.
    pub mask: u64,
}

/// Where a ticket's used bit is; `None` for an index that no ticket has, or a slot there is not.
#[inline(always)]
#[must_use]
pub const fn used_bit(slot: u32, index: u32) -> Option<Bit> {
    if slot >= USED_SLOTS || index >= INDEXES {
        return None;
    }
    Some(bit(USED_AT + slot * USED_WORDS, index))
}

/// The words of a slot's used bits.
#[must_use]
pub const fn used_words(slot: u32) -> core::ops::Range<u32> {
    let from = USED_AT + slot * USED_WORDS;
    from..from + USED_WORDS
}

/// Where the bit of a live SPI is. Two SPIs may share one: it says "dead" for certain, "live" only
/// perhaps.
#[inline(always)]
#[must_use]
pub const fn live_bit(spi: OurSpi) -> Bit {
    bit(LIVE_AT, live_index(spi))
}

/// Which of [`LIVE_BITS`] that is.
#[inline(always)]
#[must_use]
pub const fn live_index(spi: OurSpi) -> u32 {
    (spi.0 >> 16) as u32 & (LIVE_BITS - 1)
}

/// The words of all live bits.
#[must_use]
pub const fn live_words() -> core::ops::Range<u32> {
    LIVE_AT..ADMISSIONS_AT
}

/// The words of all admissions.
#[must_use]
pub const fn admission_words() -> core::ops::Range<u32> {
    ADMISSIONS_AT..WORDS as u32
}

/// The words of all live bits and all admissions: what an engine that begins makes empty.
#[must_use]
pub const fn words_of_an_engine() -> core::ops::Range<u32> {
    LIVE_AT..WORDS as u32
}

#[inline(always)]
const fn bit(from: u32, index: u32) -> Bit {
    Bit {
        word: from + index / 64,
        mask: 1 << (index % 64),
    }
}

/// What makes a first message the repetition of another: SPIi, source address, and the first 16
/// octets of Ni.
#[inline(always)]
#[must_use]
pub fn admission_hash(key: &SipKey, message: &CookieInput) -> u64 {
    let source = u128::from_le_bytes(message.source);
    let nonce = u128::from_le_bytes(message.nonce_head);
    let words = [
        u64::from_le_bytes(message.spi_i),
        source as u64,
        (source >> 64) as u64,
        nonce as u64,
        (nonce >> 64) as u64,
    ];
    siphash24_words(key, &words)
}

/// A cell of the admissions: the upper 40 bits of the hash, the second of the boot clock, modulo
/// 2^16, and how many repetitions may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission(pub u64);

impl Admission {
    /// The cell of a message. It is found by less than a hash, because most cells are empty; who aims
    /// at another's takes nothing but its passes.
    #[inline(always)]
    #[must_use]
    pub const fn word(key: &SipKey, message: &CookieInput) -> u32 {
        let source = u128::from_le_bytes(message.source);
        let nonce = u128::from_le_bytes(message.nonce_head);
        let from = (source >> 64) as u64 ^ (source as u64).rotate_left(32);
        let mixed = (u64::from_le_bytes(message.spi_i) ^ key.k0).wrapping_mul(key.k1 | 1);
        let mixed = (mixed ^ mixed >> 32 ^ from ^ nonce as u64).wrapping_mul(key.k0 | 1);
        ADMISSIONS_AT + (mixed >> 48) as u32 % ADMISSION_CELLS
    }

    /// Whether the message of this cell, whichever it is, may be repeated once more.
    #[inline(always)]
    #[must_use]
    pub const fn is_open(self, seconds: u64) -> bool {
        let age = (seconds as u16).wrapping_sub((self.0 >> 8) as u16);
        age <= ADMITTED_SECONDS && self.0 as u8 != 0
    }

    /// Of a message taken at this second.
    #[must_use]
    pub const fn new(hash: u64, seconds: u64) -> Self {
        Self(hash & HASH_BITS | (seconds & 0xffff) << 8 | PASSES)
    }

    /// The same with one repetition less, if this is the cell of that message and it has one left.
    #[inline(always)]
    #[must_use]
    pub const fn pass(self, hash: u64, seconds: u64) -> Option<Self> {
        if (self.0 ^ hash) & HASH_BITS != 0 || !self.is_open(seconds) {
            return None;
        }
        Some(Self(self.0 - 1))
    }
}

const HASH_BITS: u64 = !0 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SipKey = SipKey { k0: 3, k1: 4 };

    fn hash_of(spi_i: u8, source: u8, nonce: u8) -> u64 {
        admission_hash(&KEY, &message(spi_i, source, nonce))
    }

    fn message(spi_i: u8, source: u8, nonce: u8) -> CookieInput {
        CookieInput {
            spi_i: [spi_i; 8],
            source: [source; 16],
            nonce_head: [nonce; 16],
            ticket_tag: 5,
            exchange: 38,
            destination_digest: 6,
        }
    }

    #[test]
    fn the_parts_of_the_board_do_not_overlap() {
        let ends = |slot| [used_bit(slot, 0), used_bit(slot, INDEXES - 1)].map(Option::unwrap);
        let mut next = HEADER_WORDS;
        for slot in 0..USED_SLOTS {
            let [first, last] = ends(slot);
            assert_eq!((first.word, first.mask, last.mask), (next, 1, 1 << 63));
            assert_eq!(used_words(slot), first.word..last.word + 1);
            next = last.word + 1;
        }
        assert_eq!(used_bit(USED_SLOTS, 0), None);
        assert_eq!(used_bit(0, INDEXES), None);
        assert_eq!(
            live_bit(OurSpi(0)),
            Bit {
                word: next,
                mask: 1
            }
        );
        let last = live_bit(OurSpi(u64::MAX));
        assert_eq!((last.word + 1, last.mask), (ADMISSIONS_AT, 1 << 63));
        assert_eq!((ADMISSIONS_AT + ADMISSION_CELLS) as usize, WORDS);
        assert_eq!(words_of_an_engine(), next..WORDS as u32);
    }

    #[test]
    fn an_admitted_message_may_be_repeated_three_times() {
        let hash = hash_of(1, 2, 3);
        let mut cell = Admission::new(hash, 70_000);
        for _ in 0..PASSES {
            cell = cell.pass(hash, 70_005).expect("a pass");
        }
        assert_eq!(cell.pass(hash, 70_005), None);
    }

    #[test]
    fn an_admission_is_for_one_message_and_for_half_a_minute() {
        let hash = hash_of(1, 2, 3);
        let cell = Admission::new(hash, 0xffff);
        assert!(cell.pass(hash, 0xffff + 30).is_some());
        assert_eq!(cell.pass(hash, 0xffff + 31), None);
        assert_eq!(cell.pass(hash, 0xfffe), None);
        for other in [
            hash_of(0, 2, 3),
            hash_of(1, 0, 3),
            hash_of(1, 2, 0),
            admission_hash(&SipKey { k0: 3, k1: 5 }, &message(1, 2, 3)),
        ] {
            assert_eq!(cell.pass(other, 0xffff), None);
        }
        assert_eq!(Admission(0).pass(0, 0), None, "an empty cell admits nobody");
    }
}
