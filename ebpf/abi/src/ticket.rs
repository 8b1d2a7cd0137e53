//! The clear envelope at the head of every ticket: what names the ticket, when it ends, and the
//! tag by which a forged one is told from a real one without opening the body.
//!
//! The tag covers the same 23 octets of every ticket, so a forgery costs the same whatever its length:
//! all before it but the key id. Each key id has a key of its own, so what is changed there is a
//! tag under another key; and 23 octets with their length are three words, where 24 would be four
//! (`docs/decisions/0010-what-the-tags-cover.md`). The body behind the envelope is for user space alone.

use crate::sip::{Schedule, SipKey, siphash24, siphash24_scheduled, siphash24_split, tags_match};

/// Octets of the envelope.
pub const ENVELOPE_LEN: usize = 32;
/// Where the tag begins; everything before it is covered by it, but for the key id.
pub const TAG_OFFSET: usize = 24;
/// The one envelope version there is.
pub const VERSION: u8 = 1;
/// Flag: this peer's client cannot answer a COOKIE.
pub const NO_COOKIE: u8 = 1;
/// The longest ticket we issue, and so the longest we accept.
pub const MAX_TICKET: usize = 1036;
/// The shortest ticket that can be genuine: an envelope and one AEAD tag.
pub const MIN_TICKET: usize = 48;
/// Tickets by value are padded to one of these totals.
pub const PADDED_TOTALS: [usize; 5] = [192, 256, 352, 640, 1036];

/// Octets that the tag covers.
const COVERED: u64 = TAG_OFFSET as u64 - 1;
/// Octets of the nonce.
const NONCE_LEN: u64 = 12;
const KIND_AT: usize = 0;
const KEY_ID_AT: usize = 1;
const NODE_AT: usize = 2;
const FLAGS_AT: usize = 3;

/// The clear facts of one ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// How the session state travels.
    pub kind: Kind,
    /// The epoch whose keys sealed the ticket.
    pub key_id: u8,
    /// The node that issued it.
    pub node: u8,
    /// [`NO_COOKIE`]; every other bit is zero.
    pub flags: u8,
    /// Random; the AEAD nonce of the body as well.
    pub nonce: [u8; 12],
    /// The ticket's number within its epoch, which is its bit among the used ones.
    pub index: u32,
    /// End of life in minutes since the Unix epoch.
    pub expiry_minutes: u32,
}

/// Where the session state of a ticket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sealed in the ticket.
    ByValue = 1,
    /// In the gateway's store, the ticket being a random reference.
    ByReference = 2,
}

/// Why octets are not an envelope of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Neither by value nor by reference.
    Kind,
    /// Another envelope version.
    Version,
    /// A reserved flag is set.
    Flags,
    /// The tag is not the one our key makes.
    Tag,
}

impl core::fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Kind => "unknown ticket kind",
            Self::Version => "unknown envelope version",
            Self::Flags => "reserved envelope flag set",
            Self::Tag => "envelope tag is wrong",
        })
    }
}

impl core::error::Error for EnvelopeError {}

impl Envelope {
    /// Writes the envelope, masks index and expiry, and tags the whole.
    #[must_use]
    pub fn seal(&self, k_tag: &SipKey, k_mask: &SipKey) -> [u8; ENVELOPE_LEN] {
        let [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11] = self.nonce;
        let [m0, m1, m2, m3, m4, m5, m6, m7] =
            masked(self.index, self.expiry_minutes, &self.nonce, k_mask);
        let head = (self.kind as u8) << 4 | VERSION;
        let mut sealed = [
            head,
            self.key_id,
            self.node,
            self.flags,
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
            n8,
            n9,
            n10,
            n11,
            m0,
            m1,
            m2,
            m3,
            m4,
            m5,
            m6,
            m7,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        let tag = expected_tag(&sealed, &Schedule::new(k_tag));
        sealed[TAG_OFFSET..].copy_from_slice(&tag.to_le_bytes());
        sealed
    }

    /// Proves and reads an envelope. Shape comes first, then the tag; nothing is unmasked before.
    pub fn open(
        sealed: &[u8; ENVELOPE_LEN],
        k_tag: &SipKey,
        k_mask: &SipKey,
    ) -> Result<Self, EnvelopeError> {
        let kind = shape(sealed)?;
        if !tag_is_right(sealed, &Schedule::new(k_tag)) {
            return Err(EnvelopeError::Tag);
        }
        let (_, rest) = sealed.split_at(FLAGS_AT + 1);
        let nonce: [u8; 12] = core::array::from_fn(|i| rest[i]);
        let hidden: [u8; 8] = core::array::from_fn(|i| rest[12 + i]);
        let clear = u64::from_be_bytes(hidden) ^ mask(&nonce, k_mask);
        Ok(Self {
            kind,
            key_id: key_id_of(sealed),
            node: sealed[NODE_AT],
            flags: sealed[FLAGS_AT],
            nonce,
            index: (clear >> 32) as u32,
            expiry_minutes: clear as u32,
        })
    }
}

/// The epoch an envelope claims to belong to.
#[inline(always)]
#[must_use]
pub const fn key_id_of(sealed: &[u8; ENVELOPE_LEN]) -> u8 {
    sealed[KEY_ID_AT]
}

/// The tag an envelope claims.
#[inline(always)]
#[must_use]
pub const fn tag_of(sealed: &[u8; ENVELOPE_LEN]) -> u64 {
    let [.., t0, t1, t2, t3, t4, t5, t6, t7] = *sealed;
    u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7])
}

/// Whether the ticket's client cannot answer COOKIE.
#[inline(always)]
#[must_use]
pub const fn is_no_cookie(sealed: &[u8; ENVELOPE_LEN]) -> bool {
    sealed[FLAGS_AT] & NO_COOKIE != 0
}

/// Number and end of a ticket, which the envelope holds masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The ticket's number within its epoch.
    pub index: u32,
    /// End of life in minutes since the Unix epoch.
    pub expiry_minutes: u32,
}

/// Unmasks what is masked. To be asked once the tag was found right.
#[inline(always)]
#[must_use]
pub fn hidden_of(sealed: &[u8; ENVELOPE_LEN], k_mask: &SipKey) -> Hidden {
    let (words, _) = sealed.as_chunks::<4>();
    let [_, a, b, c, index, expiry, ..] = words else {
        return Hidden {
            index: u32::MAX,
            expiry_minutes: u32::MAX,
        };
    };
    // The nonce as SipHash takes it in: a whole word, and a rest under its length.
    let [a, b, c] = [a, b, c].map(|word| u64::from(u32::from_le_bytes(*word)));
    let mask = siphash24_split(k_mask, a | b << 32, c | (NONCE_LEN << 56));
    // The mask lies over a big-endian word as its octets come.
    Hidden {
        index: u32::from_be_bytes(*index) ^ (mask as u32).swap_bytes(),
        expiry_minutes: u32::from_be_bytes(*expiry) ^ ((mask >> 32) as u32).swap_bytes(),
    }
}

/// The node that issued it.
#[inline(always)]
#[must_use]
pub const fn node_of(sealed: &[u8; ENVELOPE_LEN]) -> u8 {
    sealed[NODE_AT]
}

/// Whether kind, version and reserved flags are those of an envelope: what needs no key.
#[inline(always)]
#[must_use]
pub const fn is_shaped(sealed: &[u8; ENVELOPE_LEN]) -> bool {
    let [kind, _, _, flags, ..] = *sealed;
    let same =
        u32::from_le_bytes([kind, 0, 0, flags]) & !u32::from_le_bytes([0x30, 0, 0, NO_COOKIE]);
    let kind = kind >> 4;
    same == VERSION as u32 && (kind == Kind::ByValue as u8 || kind == Kind::ByReference as u8)
}

/// Judges the same, and says what is wrong.
pub const fn shape(sealed: &[u8; ENVELOPE_LEN]) -> Result<Kind, EnvelopeError> {
    let kind = match sealed[KIND_AT] >> 4 {
        1 => Kind::ByValue,
        2 => Kind::ByReference,
        _ => return Err(EnvelopeError::Kind),
    };
    if sealed[KIND_AT] & 0x0f != VERSION {
        return Err(EnvelopeError::Version);
    }
    if sealed[FLAGS_AT] & !NO_COOKIE != 0 {
        return Err(EnvelopeError::Flags);
    }
    Ok(kind)
}

/// Whether the envelope was sealed with this key.
#[inline(always)]
#[must_use]
pub fn tag_is_right(sealed: &[u8; ENVELOPE_LEN], k_tag: &Schedule) -> bool {
    tags_match(tag_of(sealed), expected_tag(sealed, k_tag))
}

#[inline(always)]
fn expected_tag(sealed: &[u8; ENVELOPE_LEN], k_tag: &Schedule) -> u64 {
    let (words, _) = sealed.as_chunks::<8>();
    let [a, b, c, _] = words else {
        return 0;
    };
    let [head, b, c] = [a, b, c].map(|word| u64::from_le_bytes(*word));
    // The two words behind the head; then of the head what stands behind the key id, and before it.
    let last = head >> 16 | (head & 0xff) << 48 | COVERED << 56;
    siphash24_scheduled(k_tag, b, c, last)
}

fn masked(index: u32, expiry_minutes: u32, nonce: &[u8; 12], k_mask: &SipKey) -> [u8; 8] {
    let clear = u64::from(index) << 32 | u64::from(expiry_minutes);
    (clear ^ mask(nonce, k_mask)).to_be_bytes()
}

/// The mask as a big-endian word: its octets are the hash's little-endian ones, in wire order.
fn mask(nonce: &[u8; 12], k_mask: &SipKey) -> u64 {
    siphash24(k_mask, nonce).swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG_KEY: SipKey = SipKey { k0: 1, k1: 2 };
    const MASK_KEY: SipKey = SipKey { k0: 3, k1: 4 };

    fn sample() -> Envelope {
        Envelope {
            kind: Kind::ByValue,
            key_id: 77,
            node: 3,
            flags: NO_COOKIE,
            nonce: *b"twelve_octet",
            index: 0x0012_3456,
            expiry_minutes: 29_400_000,
        }
    }

    #[test]
    fn what_is_sealed_opens_to_the_same() {
        for kind in [Kind::ByValue, Kind::ByReference] {
            let envelope = Envelope { kind, ..sample() };
            let sealed = envelope.seal(&TAG_KEY, &MASK_KEY);
            assert_eq!(Envelope::open(&sealed, &TAG_KEY, &MASK_KEY), Ok(envelope));
            assert_eq!(key_id_of(&sealed), 77);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        // As of two epochs: each key id has a key of its own.
        let key_of = |sealed: &_| SipKey {
            k0: u64::from(key_id_of(sealed)),
            k1: 2,
        };
        let envelope = sample();
        let sealed = envelope.seal(
            &SipKey {
                k0: u64::from(envelope.key_id),
                k1: 2,
            },
            &MASK_KEY,
        );
        assert!(Envelope::open(&sealed, &key_of(&sealed), &MASK_KEY).is_ok());
        for bit in 0..8 * ENVELOPE_LEN {
            let mut forged = sealed;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Envelope::open(&forged, &key_of(&forged), &MASK_KEY).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn the_shape_is_right_where_nothing_is_wrong_with_it() {
        let sealed = sample().seal(&TAG_KEY, &MASK_KEY);
        for head in 0..=u8::MAX {
            for flags in 0..=u8::MAX {
                let mut other = sealed;
                (other[0], other[3]) = (head, flags);
                assert_eq!(is_shaped(&other), shape(&other).is_ok());
            }
        }
    }

    #[test]
    fn each_fault_has_its_own_reason() {
        let sealed = sample().seal(&TAG_KEY, &MASK_KEY);
        let with = |at: usize, octet: u8| {
            let mut changed = sealed;
            changed[at] = octet;
            Envelope::open(&changed, &TAG_KEY, &MASK_KEY).unwrap_err()
        };
        assert_eq!(with(0, 0x31), EnvelopeError::Kind);
        assert_eq!(with(0, 0x12), EnvelopeError::Version);
        assert_eq!(with(3, 0x03), EnvelopeError::Flags);
        assert_eq!(with(2, 4), EnvelopeError::Tag);
        assert_eq!(
            Envelope::open(&sealed, &MASK_KEY, &TAG_KEY),
            Err(EnvelopeError::Tag)
        );
    }

    #[test]
    fn number_and_expiry_are_read_without_opening_the_whole() {
        for (index, expiry_minutes) in [(0, 0), (7, 29_400_000), (u32::MAX, u32::MAX)] {
            let envelope = Envelope {
                index,
                expiry_minutes,
                ..sample()
            };
            let sealed = envelope.seal(&TAG_KEY, &MASK_KEY);
            let hidden = hidden_of(&sealed, &MASK_KEY);
            assert_eq!(
                (hidden.index, hidden.expiry_minutes),
                (index, expiry_minutes)
            );
            assert!(is_no_cookie(&sealed));
        }
    }

    #[test]
    fn the_layout_on_the_wire_is_fixed() {
        let sealed = sample().seal(&TAG_KEY, &MASK_KEY);
        assert_eq!(sealed[..4], [0x11, 77, 3, 1]);
        assert_eq!(sealed[4..16], *b"twelve_octet");
        let mask = siphash24(&MASK_KEY, b"twelve_octet").to_le_bytes();
        let mut clear = [0u8; 8];
        clear[..4].copy_from_slice(&0x0012_3456u32.to_be_bytes());
        clear[4..].copy_from_slice(&29_400_000u32.to_be_bytes());
        for (i, octet) in clear.iter().enumerate() {
            assert_eq!(sealed[16 + i], octet ^ mask[i]);
        }
        let covered = [&sealed[8..24], &sealed[2..8], &sealed[..1]].concat();
        assert_eq!(sealed[24..], siphash24(&TAG_KEY, &covered).to_le_bytes());
    }
}
