//! SipHash-2-4, with 64 and 128 bits of output, over octets and over whole words.
//!
//! The word form has a length known to the compiler, so that it unrolls without a branch: that is
//! what the kernel's verifier and its cost per packet ask for.

/// A SipHash key: its two little-endian halves, in native words.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SipKey {
    /// Octets 0 to 7 of the key.
    pub k0: u64,
    /// Octets 8 to 15 of the key.
    pub k1: u64,
}

impl SipKey {
    /// Reads a key as SipHash defines it: two little-endian words.
    #[must_use]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(octets);
        Self {
            k0: whole as u64,
            k1: (whole >> 64) as u64,
        }
    }
}

// A key is a secret: nothing of it may reach a log by way of a derived `Debug`.
impl core::fmt::Debug for SipKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SipKey(..)")
    }
}

/// SipHash-2-4 of any octets. The result goes on the wire with `to_le_bytes`.
#[must_use]
pub fn siphash24(key: &SipKey, data: &[u8]) -> u64 {
    absorb(State::new(key), data).finish()
}

/// SipHash-2-4 of exactly `8 * N` octets, given as little-endian words.
#[inline(always)]
#[must_use]
pub fn siphash24_words<const N: usize>(key: &SipKey, words: &[u64; N]) -> u64 {
    apart(key.k0, key.k1, words)
}

/// Apart from its caller: four words in progress and what they are made from take all the registers
/// that BPF has.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline(always))]
fn apart<const N: usize>(k0: u64, k1: u64, words: &[u64; N]) -> u64 {
    let mut state = State::new(&SipKey { k0, k1 });
    for &word in words {
        state.absorb(word);
    }
    state.absorb(((8 * N) as u64) << 56);
    state.finish()
}

/// SipHash-2-4 of a whole word and a rest that has the length above it, as the last word of any
/// message does.
#[inline(always)]
#[must_use]
pub fn siphash24_split(key: &SipKey, word: u64, last: u64) -> u64 {
    let mut state = State::new(key);
    state.absorb(word);
    state.absorb(last);
    state.finish()
}

/// SipHash-2-4 of two whole words and a rest that has the length above it. Apart from its caller, as above.
#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
#[must_use]
pub fn siphash24_scheduled(schedule: &Schedule, first: u64, second: u64, last: u64) -> u64 {
    let Schedule(mut state) = *schedule;
    state.v3 ^= first;
    state.right();
    state.across();
    state.round();
    state.v0 ^= first;
    state.absorb(second);
    state.absorb(last);
    state.finish()
}

/// SipHash-2-4 with 128 bits of output.
#[must_use]
pub fn siphash24_128(key: &SipKey, data: &[u8]) -> [u8; 16] {
    let mut state = State::new(key);
    state.v1 ^= 0xee;
    let mut state = absorb(state, data);
    state.v2 ^= 0xee;
    state.rounds::<4>();
    let low = state.fold();
    state.v1 ^= 0xdd;
    state.rounds::<4>();
    let high = state.fold();
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

/// Whether two tags are equal, in time that does not depend on where they differ.
#[inline(always)]
#[must_use]
pub const fn tags_match(a: u64, b: u64) -> bool {
    a ^ b == 0
}

fn absorb(mut state: State, data: &[u8]) -> State {
    let (words, tail) = data.as_chunks::<8>();
    for word in words {
        state.absorb(u64::from_le_bytes(*word));
    }
    let mut last = (data.len() as u64) << 56;
    for (place, octet) in tail.iter().enumerate() {
        last |= u64::from(*octet) << (8 * place);
    }
    state.absorb(last);
    state
}

/// A key after what of the first round does not depend on the message: what is asked of each packet is
/// prepared once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule(State);

impl Schedule {
    /// How many words it has.
    pub const WORDS: usize = 4;

    /// Prepares a key.
    #[must_use]
    pub const fn new(key: &SipKey) -> Self {
        let mut state = State::new(key);
        state.left();
        Self(state)
    }

    /// As it is written to a map.
    #[must_use]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        let State { v0, v1, v2, v3 } = self.0;
        [v0, v1, v2, v3]
    }
}

// What came of a key says as much as the key.
impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("State(..)")
    }
}

/// The four words of a hash in progress.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    pub(crate) const fn new(key: &SipKey) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    pub(crate) fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.rounds::<2>();
        self.v0 ^= word;
    }

    #[inline(always)]
    pub(crate) fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.rounds::<4>();
        self.fold()
    }

    #[inline(always)]
    const fn fold(&self) -> u64 {
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline(always)]
    fn rounds<const N: usize>(&mut self) {
        for _ in 0..N {
            self.round();
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.left();
        self.right();
        self.across();
    }

    #[inline(always)]
    const fn left(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
    }

    #[inline(always)]
    const fn right(&mut self) {
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
    }

    #[inline(always)]
    const fn across(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;
    use std::vec::Vec;

    use siphasher::sip::SipHasher24;
    use siphasher::sip128::SipHasher24 as SipHasher24x128;

    use super::*;

    fn key_octets() -> [u8; 16] {
        core::array::from_fn(|i| i as u8)
    }

    #[test]
    fn the_published_vectors_come_out() {
        let key = SipKey::from_octets(key_octets());
        let fifteen: [u8; 15] = core::array::from_fn(|i| i as u8);
        assert_eq!(siphash24(&key, &fifteen), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash24(&key, &[]), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn every_length_agrees_with_another_implementation() {
        let key = SipKey::from_octets(key_octets());
        let data: Vec<u8> = (0..1100u32).map(|i| (i * 7 + 3) as u8).collect();
        for len in 0..data.len() {
            let data = &data[..len];
            let mut oracle = SipHasher24::new_with_key(&key_octets());
            oracle.write(data);
            assert_eq!(siphash24(&key, data), oracle.finish(), "length {len}");
            let oracle = SipHasher24x128::new_with_key(&key_octets()).hash(data);
            assert_eq!(siphash24_128(&key, data), oracle.as_bytes(), "length {len}");
        }
    }

    #[test]
    fn the_word_form_equals_the_octet_form() {
        let key = SipKey::from_octets([0x5a; 16]);
        let octets: [u8; 24] = core::array::from_fn(|i| (i * 11) as u8);
        let (chunks, _) = octets.as_chunks::<8>();
        let words: [u64; 3] = core::array::from_fn(|i| u64::from_le_bytes(chunks[i]));
        assert_eq!(siphash24_words(&key, &words), siphash24(&key, &octets));
    }

    #[test]
    fn a_schedule_says_what_its_key_does() {
        let key = SipKey::from_octets([0xa5; 16]);
        let octets: [u8; 23] = core::array::from_fn(|i| (i * 13 + 1) as u8);
        let (chunks, rest) = octets.as_chunks::<8>();
        let mut last = [0, 0, 0, 0, 0, 0, 0, 23];
        last[..7].copy_from_slice(rest);
        let [first, second, last] = [chunks[0], chunks[1], last].map(u64::from_le_bytes);
        assert_eq!(
            siphash24_scheduled(&Schedule::new(&key), first, second, last),
            siphash24(&key, &octets)
        );
    }
}
