//! The cookie by which a client shows that it receives what is sent to its address. It is made
//! and checked without any memory of the client, by the gate and by the daemon alike: what one
//! makes, the other accepts.
//!
//! ```text
//! epoch 1 | level 1 | time 2 | info 4 | tag 8
//! ```

use crate::ike::IKE_SA_INIT;
use crate::sip::{SipKey, State, tags_match};

/// Octets of a cookie.
pub const COOKIE_LEN: usize = 16;

/// A cookie is good for so many seconds of the boot clock.
pub const LIFE_SECONDS: u16 = 30;
/// The clock of who made a cookie may be this much ahead of the clock of who checks it, which may
/// have been read a few milliseconds ago.
const AHEAD_SECONDS: u16 = 1;
/// Each secret makes cookies for so many seconds of the boot clock; the one before it stays good
/// for a cookie's life.
pub const SECRET_SECONDS: u64 = 120;

/// Everything of a first message that a cookie binds, besides its own first eight octets.
///
/// Binding the ticket tag makes one round trip buy one guess at a ticket. Port and key exchange
/// are not bound: a NAT may move the one, INVALID_KE_PAYLOAD the other.
#[derive(Clone, Copy, Debug)]
pub struct CookieInput {
    /// The initiator's SPI, as on the wire.
    pub spi_i: [u8; 8],
    /// The source address, IPv4 mapped into IPv6.
    pub source: [u8; 16],
    /// The first 16 octets of Ni, which is never shorter (RFC 7296, 3.9).
    pub nonce_head: [u8; 16],
    /// The tag of the envelope, or 0 without a ticket.
    pub ticket_tag: u64,
    /// The exchange type.
    pub exchange: u8,
    /// [`destination_digest`] of the address the message was sent to.
    pub destination_digest: u64,
}

/// Makes a cookie. `time` is in seconds of the boot clock, modulo 2^16.
#[inline(always)]
#[must_use]
pub fn make(
    epoch: u8,
    level: u8,
    time: u16,
    info: [u8; 4],
    input: &CookieInput,
    key: &SipKey,
) -> [u8; COOKIE_LEN] {
    let head = head_of(epoch, level, time, info);
    Begun::new(head, input.destination_digest, key).make(input)
}

/// The eight octets before the tag.
#[inline(always)]
#[must_use]
pub const fn head_of(epoch: u8, level: u8, time: u16, info: [u8; 4]) -> [u8; 8] {
    let [t0, t1] = time.to_be_bytes();
    let [i0, i1, i2, i3] = info;
    [epoch, level, t0, t1, i0, i1, i2, i3]
}

/// A cookie as far as no message has a part in it but by where it was sent to: all that are made in a moment
/// at one address begin alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun {
    head: u64,
    destination_digest: u64,
    state: State,
}

impl Begun {
    /// How many words it has.
    pub const WORDS: usize = 6;

    /// Begins a cookie with these octets. Apart from its caller: it comes about once in a while.
    #[cfg_attr(target_arch = "bpf", inline(never))]
    #[cfg_attr(not(target_arch = "bpf"), inline)]
    #[must_use]
    pub fn new(head: [u8; 8], destination_digest: u64, key: &SipKey) -> Self {
        let head = u64::from_le_bytes(head);
        let mut state = State::new(key);
        state.absorb(head);
        state.absorb(destination_digest);
        Self {
            head,
            destination_digest,
            state,
        }
    }

    /// Whether it was begun for this address.
    #[inline(always)]
    #[must_use]
    pub const fn is_at(&self, destination_digest: u64) -> bool {
        self.head != 0 && self.destination_digest == destination_digest
    }

    /// Whether it is but room for one.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.head == 0
    }

    /// Leaves but room for one.
    #[inline(always)]
    pub const fn forget(&mut self) {
        self.head = 0;
    }

    /// The cookie for a message.
    #[inline(always)]
    #[must_use]
    pub fn make(&self, input: &CookieInput) -> [u8; COOKIE_LEN] {
        let [h0, h1, h2, h3, h4, h5, h6, h7] = self.head.to_le_bytes();
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.tag(input).to_le_bytes();
        [
            h0, h1, h2, h3, h4, h5, h6, h7, t0, t1, t2, t3, t4, t5, t6, t7,
        ]
    }

    #[inline(always)]
    fn tag(&self, input: &CookieInput) -> u64 {
        let covered = Covered {
            spi_i: u64::from_le_bytes(input.spi_i),
            source: halves(input.source),
            nonce_head: halves(input.nonce_head),
            ticket_tag: input.ticket_tag,
            exchange: u64::from(input.exchange),
        };
        covered.hash(&self.state)
    }
}

/// Whether a cookie was made with this key for this message. Its age is for the caller to judge.
#[inline(always)]
#[must_use]
pub fn check(cookie: &[u8; COOKIE_LEN], input: &CookieInput, key: &SipKey) -> bool {
    let [
        h0,
        h1,
        h2,
        h3,
        h4,
        h5,
        h6,
        h7,
        t0,
        t1,
        t2,
        t3,
        t4,
        t5,
        t6,
        t7,
    ] = *cookie;
    let tag = Begun::new(
        [h0, h1, h2, h3, h4, h5, h6, h7],
        input.destination_digest,
        key,
    )
    .tag(input);
    tags_match(u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]), tag)
}

/// The secret a cookie claims to be made with.
#[inline(always)]
#[must_use]
pub const fn epoch_of(cookie: &[u8; COOKIE_LEN]) -> u8 {
    cookie[0]
}

/// The level the gate was at when it made the cookie.
#[inline(always)]
#[must_use]
pub const fn level_of(cookie: &[u8; COOKIE_LEN]) -> u8 {
    cookie[1]
}

/// When it was made: seconds of the boot clock, modulo 2^16.
#[inline(always)]
#[must_use]
pub const fn time_of(cookie: &[u8; COOKIE_LEN]) -> u16 {
    u16::from_be_bytes([cookie[2], cookie[3]])
}

/// The four octets the maker put in for itself.
#[inline(always)]
#[must_use]
pub const fn info_of(cookie: &[u8; COOKIE_LEN]) -> [u8; 4] {
    [cookie[4], cookie[5], cookie[6], cookie[7]]
}

/// Its tag, which is as good as random to whoever has not the key.
#[inline(always)]
#[must_use]
pub const fn tag_of_cookie(cookie: &[u8; COOKIE_LEN]) -> u64 {
    let [.., t0, t1, t2, t3, t4, t5, t6, t7] = *cookie;
    u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7])
}

/// The interval of the boot clock that a moment lies in; each has a secret of its own.
#[inline(always)]
#[must_use]
pub const fn interval_at(boot_seconds: u64) -> u64 {
    boot_seconds / SECRET_SECONDS
}

/// The epoch that cookies of an interval name. It comes round after eight hours, with another
/// secret behind it.
#[inline(always)]
#[must_use]
pub const fn epoch_of_interval(interval: u64) -> u8 {
    interval as u8
}

/// The epoch of cookies that are made at a moment.
#[inline(always)]
#[must_use]
pub const fn epoch_at(boot_seconds: u64) -> u8 {
    epoch_of_interval(interval_at(boot_seconds))
}

/// Whether a cookie is no older than [`LIFE_SECONDS`]. Says nothing about who made it.
#[inline(always)]
#[must_use]
pub const fn is_young(cookie: &[u8; COOKIE_LEN], boot_seconds: u64) -> bool {
    let age = (boot_seconds as u16).wrapping_sub(time_of(cookie));
    age.wrapping_add(AHEAD_SECONDS) <= LIFE_SECONDS + AHEAD_SECONDS
}

/// What stands for the address a message was sent to, IPv4 mapped into IPv6. No hash is needed: it
/// keeps a cookie from being spent at another address of ours, and nobody else chooses those.
#[inline(always)]
#[must_use]
pub const fn destination_digest(address: [u8; 16]) -> u64 {
    let [high, low] = halves(address);
    high.wrapping_mul(DIGEST_FACTOR) ^ low
}

/// Odd, so that no two upper halves come to the same.
pub(crate) const DIGEST_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the tag covers behind what is begun, as words.
struct Covered {
    spi_i: u64,
    source: [u64; 2],
    nonce_head: [u64; 2],
    ticket_tag: u64,
    exchange: u64,
}

impl Covered {
    /// Leaves out what says nothing: of an IPv4 address all but its four octets, of IKE_SA_INIT the ticket's
    /// tag. No two kinds of message have the same length.
    ///
    /// Apart from its caller: a hash takes all the registers that BPF has.
    #[cfg_attr(target_arch = "bpf", inline(never))]
    #[cfg_attr(not(target_arch = "bpf"), inline)]
    fn hash(&self, begun: &State) -> u64 {
        let [upper, lower] = self.source;
        let [nonce_a, nonce_b] = self.nonce_head;
        let mut state = *begun;
        state.absorb(self.spi_i);
        state.absorb(nonce_a);
        state.absorb(nonce_b);
        let mut len = 5 * 8;
        if self.exchange != u64::from(IKE_SA_INIT) {
            state.absorb(self.ticket_tag);
            len += 8;
        }
        let mut last = self.exchange;
        if upper == 0 && lower as u32 == V4_MAPPED {
            last |= lower >> 32 << 8;
            len += 4 + 1;
        } else {
            state.absorb(upper);
            state.absorb(lower);
            len += 16 + 1;
        }
        state.absorb(last | len << 56);
        state.finish()
    }
}

/// The octets between the zeros and the address of an IPv4 address mapped into IPv6, as a word has them.
const V4_MAPPED: u32 = u32::from_le_bytes([0, 0, 0xff, 0xff]);

#[inline(always)]
const fn halves(octets: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_le_bytes(octets);
    [whole as u64, (whole >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher;
    use std::vec::Vec;

    use siphasher::sip::SipHasher24;

    use super::*;

    const KEY: SipKey = SipKey { k0: 5, k1: 6 };
    /// Found with another implementation, once; it changes only with the format.
    const KNOWN_TAGS: [u64; 4] = [
        12_084_333_090_834_104_177,
        10_068_502_475_887_489_202,
        3_410_150_487_197_948_374,
        2_881_342_537_150_333_570,
    ];

    fn input() -> CookieInput {
        CookieInput {
            spi_i: *b"initiato",
            source: *b"source_address__",
            nonce_head: *b"nonce_head______",
            ticket_tag: 7,
            exchange: 38,
            destination_digest: 8,
        }
    }

    #[test]
    fn a_cookie_is_read_back_and_accepted() {
        let cookie = make(200, 2, 0xabcd, *b"info", &input(), &KEY);
        assert_eq!((epoch_of(&cookie), level_of(&cookie)), (200, 2));
        assert_eq!((time_of(&cookie), info_of(&cookie)), (0xabcd, *b"info"));
        assert!(check(&cookie, &input(), &KEY));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let cookie = make(1, 0, 99, [0; 4], &input(), &KEY);
        for bit in 0..8 * COOKIE_LEN {
            let mut forged = cookie;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!check(&forged, &input(), &KEY), "bit {bit}");
        }
    }

    #[test]
    fn a_cookie_is_good_for_one_message_alone() {
        let cookie = make(1, 0, 99, [0; 4], &input(), &KEY);
        let others = [
            CookieInput {
                spi_i: [0; 8],
                ..input()
            },
            CookieInput {
                source: [0; 16],
                ..input()
            },
            CookieInput {
                nonce_head: [0; 16],
                ..input()
            },
            CookieInput {
                ticket_tag: 0,
                ..input()
            },
            CookieInput {
                exchange: 34,
                ..input()
            },
            CookieInput {
                destination_digest: 0,
                ..input()
            },
        ];
        for other in others {
            assert!(!check(&cookie, &other, &KEY), "{other:?}");
        }
        assert!(!check(&cookie, &input(), &SipKey { k0: 5, k1: 7 }));
    }

    #[test]
    fn the_layout_and_the_tag_are_those_of_another_implementation() {
        let v4 = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01";
        let mut known = Vec::new();
        for exchange in [34, 38] {
            for source in [*b"source_address__", v4] {
                let input = CookieInput {
                    source,
                    exchange,
                    destination_digest: 0x0102_0304_0506_0708,
                    ..input()
                };
                let cookie = make(3, 1, 0x0102, [4, 5, 6, 7], &input, &KEY);
                let mut covered = Vec::from([3, 1, 1, 2, 4, 5, 6, 7]);
                covered.extend([8, 7, 6, 5, 4, 3, 2, 1]);
                covered.extend(*b"initiato");
                covered.extend(*b"nonce_head______");
                if exchange == 38 {
                    covered.extend(7u64.to_le_bytes());
                }
                if source == v4 {
                    covered.push(exchange);
                    covered.extend(&source[12..]);
                } else {
                    covered.extend(source);
                    covered.push(exchange);
                }
                let mut key = [0; 16];
                (key[0], key[8]) = (5, 6);
                let mut oracle = SipHasher24::new_with_key(&key);
                oracle.write(&covered);
                assert_eq!(cookie[..8], covered[..8]);
                assert_eq!(cookie[8..], oracle.finish().to_le_bytes());
                known.push(oracle.finish());
            }
        }
        assert_eq!(known, KNOWN_TAGS);
    }

    #[test]
    fn age_is_counted_across_the_turn_of_the_clock() {
        for made in [0, 100, 0xffff, 0x1_0000, 0x1_ffff_u64] {
            let cookie = make(0, 0, made as u16, [0; 4], &input(), &KEY);
            let life = u64::from(LIFE_SECONDS);
            for age in [0, 1, life] {
                assert!(is_young(&cookie, made + age), "{made} + {age}");
            }
            for age in [life + 1, 0x8000, 0xfffe] {
                assert!(!is_young(&cookie, made + age), "{made} + {age}");
            }
            // Made by a clock that was read later; two seconds from the future is eighteen hours ago.
            assert!(made == 0 || is_young(&cookie, made - 1));
            assert!(made < 2 || !is_young(&cookie, made - 2));
        }
    }

    #[test]
    fn addresses_that_differ_in_one_half_differ_in_their_digest() {
        for half in [0..8, 8..16] {
            let mut seen = Vec::new();
            for octet in half {
                for bit in 0..8 {
                    let mut address = *b"our own address.";
                    address[octet] ^= 1 << bit;
                    seen.push(destination_digest(address));
                }
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 64);
        }
    }
}
