//! The gate's board, mapped: what changes with each login goes straight from the engine into the
//! memory that the gate reads. The layout is [`gate_abi::board`]'s.
//!
//! The keeper makes the board ready before it tells gate or engine of it, and clears what it gives
//! to another epoch; everything else the engine writes.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gate_abi::board::{
    self as abi, Admission, Bit, HALF_OPEN_AT, KEY_AT, QUEUE_DELAY_AT, admission_hash, live_bit,
    used_bit, used_words,
};
use gate_abi::cookie::CookieInput;
use gate_abi::sip::SipKey;
use gate_abi::spi::OurSpi;
use memmap2::{MmapOptions, MmapRaw};

/// A mapping of the board.
#[derive(Debug)]
pub struct Board {
    map: MmapRaw,
}

impl Board {
    /// Maps the board that this descriptor is of.
    pub fn map(descriptor: impl AsFd) -> io::Result<Self> {
        // The kernel refuses whatever is no map of this size that may be mapped.
        let map = MmapOptions::new()
            .len(abi::WORDS * size_of::<u64>())
            .map_raw(descriptor.as_fd().as_raw_fd())?;
        Ok(Self { map })
    }

    /// What repetitions are known by, for the engine as for the gate.
    #[must_use]
    pub fn key(&self) -> SipKey {
        SipKey {
            k0: self.word(KEY_AT),
            k1: self.word(KEY_AT + 1),
        }
    }

    pub(super) fn set_key(&self, key: SipKey) {
        self.set_word(KEY_AT, key.k0);
        self.set_word(KEY_AT + 1, key.k1);
    }

    /// Sets a ticket's used bit. An index that no ticket has is not there to be set.
    pub fn set_used(&self, slot: u32, index: u32) {
        if let Some(bit) = used_bit(slot, index) {
            self.set(bit);
        }
    }

    /// Whether a ticket is used, as far as the gate knows.
    #[must_use]
    pub fn is_used(&self, slot: u32, index: u32) -> bool {
        used_bit(slot, index).is_some_and(|bit| self.word(bit.word) & bit.mask != 0)
    }

    /// Makes all bits of a slot zero: its epoch is over, or has just begun.
    pub fn clear_used(&self, slot: u32) {
        self.clear(used_words(slot));
    }

    /// Adds the bits of a slot's epoch, eight octets at a time, in the order of their indexes.
    pub fn add_used(&self, slot: u32, bits: impl Iterator<Item = [u8; 8]>) {
        for (at, octets) in used_words(slot).zip(bits) {
            let more = u64::from_le_bytes(octets);
            if more != 0
                && let Some(word) = self.place(at)
            {
                word.fetch_or(more, Ordering::Relaxed);
            }
        }
    }

    /// Marks an SPI of ours live or dead. Who shares its bit is for the caller to know.
    pub fn set_live(&self, spi: OurSpi, live: bool) {
        let bit = live_bit(spi);
        let Some(word) = self.place(bit.word) else {
            return;
        };
        // In one order with the counts of who shares it.
        if live {
            word.fetch_or(bit.mask, Ordering::SeqCst);
        } else {
            word.fetch_and(!bit.mask, Ordering::SeqCst);
        }
    }

    /// Whether an SPI of ours may be live, as far as the gate knows.
    #[must_use]
    pub fn is_live(&self, spi: OurSpi) -> bool {
        let bit = live_bit(spi);
        self.word(bit.word) & bit.mask != 0
    }

    /// How many SPIs of ours are live. Of two that share a bit it counts one.
    #[must_use]
    pub fn live(&self) -> u64 {
        let ones = abi::live_words().map(|at| u64::from(self.word(at).count_ones()));
        ones.sum()
    }

    /// How many first messages may be repeated without a cookie.
    #[must_use]
    pub fn admitted(&self, boot_seconds: u64) -> u64 {
        let open = |at: &u32| Admission(self.word(*at)).is_open(boot_seconds);
        abi::admission_words().filter(open).count() as u64
    }

    /// Lets repetitions of a first message pass that was taken without a cookie.
    pub fn admit(&self, message: &CookieInput, boot_seconds: u64) {
        let key = self.key();
        let admission = Admission::new(admission_hash(&key, message), boot_seconds);
        self.set_word(Admission::word(&key, message), admission.0);
    }

    /// A worker has so many half-open IKE SAs now, and had so many when it said so last.
    pub fn set_half_open(&self, count: u64, before: u64) {
        if let Some(word) = self.place(HALF_OPEN_AT) {
            word.fetch_add(count.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// Half-open IKE SAs of all workers.
    #[must_use]
    pub fn half_open(&self) -> u64 {
        self.word(HALF_OPEN_AT)
    }

    /// What has proved nothing waits so long for a worker now.
    pub fn report_queue_delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        // Most turns find a longer one there.
        if self.word(QUEUE_DELAY_AT) < micros
            && let Some(word) = self.place(QUEUE_DELAY_AT)
        {
            word.fetch_max(micros, Ordering::Relaxed);
        }
    }

    /// The longest delay that a worker has reported since this was last asked.
    #[must_use]
    pub fn take_queue_delay(&self) -> Duration {
        let micros = self.place(QUEUE_DELAY_AT);
        Duration::from_micros(micros.map_or(0, |word| word.swap(0, Ordering::Relaxed)))
    }

    /// Forgets what an engine said that is gone.
    pub fn clear_engine(&self) {
        self.set_word(HALF_OPEN_AT, 0);
        self.set_word(QUEUE_DELAY_AT, 0);
        self.clear(abi::words_of_an_engine());
    }

    fn clear(&self, words: Range<u32>) {
        for at in words {
            // A page that was never written need not be now.
            if self.word(at) != 0 {
                self.set_word(at, 0);
            }
        }
    }

    fn set(&self, bit: Bit) {
        if let Some(word) = self.place(bit.word) {
            word.fetch_or(bit.mask, Ordering::Relaxed);
        }
    }

    /// One word, as the gate would read it.
    #[must_use]
    pub fn word(&self, at: u32) -> u64 {
        self.place(at)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn set_word(&self, at: u32, value: u64) {
        if let Some(word) = self.place(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    #[expect(unsafe_code, reason = "docs/decisions/0004-the-gates-board.md")]
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "a mapping begins at a page, and every word at a multiple of its size"
    )]
    fn place(&self, at: u32) -> Option<&AtomicU64> {
        let at = at as usize;
        if at >= abi::WORDS {
            return None;
        }
        // SAFETY: the word lies within the mapping, which lives as long as `self`, is writable and
        // shared, and begins at a page; every access to it in any process or program is atomic.
        Some(unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(at)) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Any memory that can be mapped will do.
    fn board() -> (File, Board) {
        let file = tempfile::tempfile().expect("file");
        file.set_len((abi::WORDS * 8) as u64).expect("length");
        let board = Board::map(&file).expect("map");
        (file, board)
    }

    #[test]
    fn used_bits_are_where_the_gate_looks_for_them() {
        let (file, board) = board();
        board.set_used(1, 64);
        board.set_used(1, abi::INDEXES);
        // Index 3 and index 8, as the bitmap of an epoch has them.
        board.add_used(1, [[0x08, 1, 0, 0, 0, 0, 0, 0]].into_iter());
        let seen = Board::map(&file).expect("map");
        let is_used = |slot, index| seen.is_used(slot, index);
        for index in [3, 8, 64] {
            assert!(is_used(1, index) && !is_used(0, index) && !is_used(2, index));
        }
        assert!(!is_used(1, 4) && !is_used(1, 9));
        board.clear_used(1);
        assert!(!is_used(1, 3) && !is_used(1, 64));
    }

    #[test]
    fn a_new_engine_begins_without_live_spis_and_admissions() {
        let (_file, board) = board();
        let spi = OurSpi(0x0102_0304_0506_0708);
        let message = CookieInput {
            spi_i: [1; 8],
            source: [2; 16],
            nonce_head: [3; 16],
            ticket_tag: 0,
            exchange: 0,
            destination_digest: 0,
        };
        board.set_key(SipKey { k0: 5, k1: 6 });
        board.set_used(0, 7);
        let hash = admission_hash(&board.key(), &message);
        let cell = Admission::word(&board.key(), &message);
        let admitted = || Admission(board.word(cell)).pass(hash, 99);
        let live = || board.is_live(spi);
        board.set_live(spi, true);
        board.admit(&message, 99);
        board.set_half_open(3, 0);
        board.set_half_open(5, 0);
        board.set_half_open(1, 5);
        board.report_queue_delay(Duration::from_millis(7));
        assert!(live() && admitted().is_some());
        board.clear_engine();
        assert!(!live() && admitted().is_none() && board.half_open() == 0);
        assert_eq!(board.take_queue_delay(), Duration::ZERO);
        let used = used_bit(0, 7).expect("bit");
        assert_eq!(board.word(used.word), used.mask, "the keeper's");
        assert_eq!((board.key().k0, board.key().k1), (5, 6));
    }

    #[test]
    fn the_longest_delay_is_told_once() {
        let (_file, board) = board();
        for millis in [3, 40, 20] {
            board.report_queue_delay(Duration::from_millis(millis));
        }
        assert_eq!(board.take_queue_delay(), Duration::from_millis(40));
        assert_eq!(board.take_queue_delay(), Duration::ZERO);
    }

    #[test]
    fn a_board_of_another_size_is_not_mapped() {
        // Of a file; of a BPF map the kernel says the same.
        assert!(Board::map(File::open("/dev/null").expect("open")).is_err());
    }
}
