//! Answers made in place: the frame of a first message becomes the frame of a COOKIE or a
//! TICKET_NACK, on its way back to where it came from. Nothing in it is longer than what it answers.
//!
//! Ethernet and IP addresses and the ports change sides, VLAN tags, PPPoE and the marker of port 4500
//! stay.
//! The message is the IKE header and one notification (RFC 7296, 2.6; RFC 5723, 4.3.2).

use crate::classify::Frame;
use crate::cookie::COOKIE_LEN;
use crate::ike::{
    COOKIE, FLAG_RESPONSE, HEADER_LEN, MAJOR_VERSION, NOTIFY_HEADER_LEN, PAYLOAD_NOTIFY, PPP_IPV4,
    PPP_IPV6, PROTOCOL_UDP, TICKET_NACK,
};

/// A frame that can be written to and made shorter.
pub trait FrameMut: Frame {
    /// Writes words, in the machine's order, at `at`. `false` if they do not fit.
    fn store<const N: usize>(&mut self, at: usize, words: [u32; N]) -> bool;
    /// Leaves off what is behind the first `len` octets. `false` if it cannot.
    fn cut(&mut self, len: usize) -> bool;
}

/// The two addresses that an Ethernet header begins with, as little-endian words.
#[derive(Clone, Copy, Debug)]
pub struct Stations(pub [u32; 3]);

impl Stations {
    /// Whether it goes to more than one, or claims to come from more than one.
    #[inline(always)]
    #[must_use]
    pub const fn is_any_a_group(&self) -> bool {
        let [a, b, _] = self.0;
        (a | b >> 16) & 1 != 0
    }

    /// The other way round, in the machine's order: each is a word and a half.
    #[inline(always)]
    fn turned(&self) -> [u32; 3] {
        let [a, b, c] = self.0;
        [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16].map(u32::to_le)
    }
}

/// What to answer, and where the parts of the frame are that become the answer.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    /// Between whom the frame goes.
    pub stations: Stations,
    /// Where the IP header begins.
    pub ip: usize,
    /// Octets of the IP header: that of IPv4 or of IPv6, without options.
    pub ip_len: usize,
    /// Where the IKE header begins.
    pub message: usize,
    /// The exchange type.
    pub exchange: u8,
    /// COOKIE with these octets; else TICKET_NACK.
    pub with_cookie: bool,
    /// The cookie.
    pub cookie: [u8; COOKIE_LEN],
}

/// Octets of an IKE message with TICKET_NACK.
pub const NACK_LEN: usize = HEADER_LEN + NOTIFY_HEADER_LEN;
/// Octets of an IKE message with COOKIE.
pub const COOKIE_REPLY_LEN: usize = NACK_LEN + COOKIE_LEN;

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const HOP_LIMIT: u8 = 64;
/// From the last four octets of SPIr on, which are zero in a request as in its answer.
const TAIL_AT: usize = 12;

impl Reply {
    /// No answer at all; for verdicts that are none.
    pub const NONE: Self = Self {
        stations: Stations([0; 3]),
        ip: 0,
        ip_len: 0,
        message: 0,
        exchange: 0,
        with_cookie: false,
        cookie: [0; COOKIE_LEN],
    };

    /// Turns the frame around. `false` if it could not be done; the frame is then good for nothing.
    #[inline(always)]
    pub fn write<F: FrameMut>(&self, frame: &mut F) -> bool {
        self.turn_around(frame).is_some()
    }

    #[inline(always)]
    fn turn_around<F: FrameMut>(&self, frame: &mut F) -> Option<()> {
        let udp_at = self.ip + self.ip_len;
        let payload = self.message - udp_at - UDP_LEN;
        let message_len = if self.with_cookie {
            COOKIE_REPLY_LEN
        } else {
            NACK_LEN
        };
        let udp_len = UDP_LEN + payload + message_len;

        let spi: [u32; 2] = frame.header(self.message)?;
        let [spi_a, spi_b] = spi.map(u32::to_le);
        let tail = self.tail();
        let [u0, u1] = (udp_len as u16).to_be_bytes();
        let mut sum = add(0, u32::from_ne_bytes([0, PROTOCOL_UDP, u0, u1]));
        for word in [u32::from_ne_bytes([u0, u1, 0, 0]), spi_a, spi_b] {
            sum = add(sum, word);
        }
        for word in tail {
            sum = add(sum, word);
        }

        // Addresses and ports count alike from either side.
        if self.ip_len == IPV4_LEN {
            let before: [u32; (IPV4_LEN + UDP_LEN) / 4] = frame.header(self.ip)?;
            let [_, _, _, from, to, ports, _] = before.map(u32::to_le);
            for word in [from, to, ports] {
                sum = add(sum, word);
            }
            let [t0, t1] = ((IPV4_LEN + udp_len) as u16).to_be_bytes();
            let total = u32::from_ne_bytes([0x45, 0, t0, t1]);
            // Never fragmented.
            let fragment = u32::from_ne_bytes([0, 0, 0x40, 0]);
            let carried = u32::from_ne_bytes([HOP_LIMIT, PROTOCOL_UDP, 0, 0]);
            let mut header_sum = 0;
            for word in [total, fragment, carried, to, from] {
                header_sum = add(header_sum, word);
            }
            let [c0, c1] = (!fold(header_sum)).to_ne_bytes();
            let carried = u32::from_ne_bytes([HOP_LIMIT, PROTOCOL_UDP, c0, c1]);
            let ports = ports.rotate_left(16);
            let udp = checked(u0, u1, sum);
            stored(frame.store(self.ip, [total, fragment, carried, to, from, ports, udp]))?;
        } else {
            let before: [u32; (IPV6_LEN + UDP_LEN) / 4] = frame.header(self.ip)?;
            let [_, _, s0, s1, s2, s3, d0, d1, d2, d3, ports, _] = before.map(u32::to_le);
            for word in [s0, s1, s2, s3, d0, d1, d2, d3, ports] {
                sum = add(sum, word);
            }
            let header = [
                u32::from_ne_bytes([0x60, 0, 0, 0]),
                u32::from_ne_bytes([u0, u1, PROTOCOL_UDP, HOP_LIMIT]),
                d0,
                d1,
                d2,
                d3,
                s0,
                s1,
                s2,
                s3,
                ports.rotate_left(16),
                checked(u0, u1, sum),
            ];
            stored(frame.store(self.ip, header))?;
        }
        if self.with_cookie {
            stored(frame.store(self.message + TAIL_AT, tail))?;
        } else {
            let [t0, t1, t2, t3, t4, t5, ..] = tail;
            stored(frame.store(self.message + TAIL_AT, [t0, t1, t2, t3, t4, t5]))?;
        }
        // What stands before IP is an EtherType, or the protocol of PPP behind the length of all.
        let before = frame.settle(self.ip.wrapping_sub(4));
        let [word] = frame.header(before)?;
        if matches!(((word >> 16) as u16).swap_bytes(), PPP_IPV4 | PPP_IPV6) {
            let [_, _, p0, p1] = word.to_le_bytes();
            let [l0, l1] = ((2 + self.ip_len + udp_len) as u16).to_be_bytes();
            stored(frame.store(before, [u32::from_ne_bytes([l0, l1, p0, p1])]))?;
        }
        let start = frame.settle(0);
        stored(frame.store(start, self.stations.turned()))?;
        stored(frame.cut(udp_at + udp_len))
    }

    /// The message from the end of SPIr on; the words of a cookie that is none are zero.
    #[inline(always)]
    fn tail(&self) -> [u32; 10] {
        let (message_len, payload_len, kind) = if self.with_cookie {
            (COOKIE_REPLY_LEN, NOTIFY_HEADER_LEN + COOKIE_LEN, COOKIE)
        } else {
            (NACK_LEN, NOTIFY_HEADER_LEN, TICKET_NACK)
        };
        let [k0, k1] = kind.to_be_bytes();
        let version = MAJOR_VERSION << 4;
        let (cookie, _) = self.cookie.as_chunks::<4>();
        let word = |at: usize| cookie.get(at).map_or(0, |word| u32::from_ne_bytes(*word));
        [
            0,
            u32::from_ne_bytes([PAYLOAD_NOTIFY, version, self.exchange, FLAG_RESPONSE]),
            0,
            u32::from_ne_bytes((message_len as u32).to_be_bytes()),
            u32::from_ne_bytes([0, 0, 0, payload_len as u8]),
            u32::from_ne_bytes([0, 0, k0, k1]),
            word(0),
            word(1),
            word(2),
            word(3),
        ]
    }
}

#[inline(always)]
const fn stored(done: bool) -> Option<()> {
    if done { Some(()) } else { None }
}

/// Adds two halves at once: they may be told apart when all are added. One's complement does not care
/// about the order of octets, so the machine's own will do (RFC 1071).
#[inline(always)]
const fn add(sum: u64, word: u32) -> u64 {
    sum + word as u64
}

/// Of fewer than 2^15 words.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The second word of a UDP header, its length and what all comes to.
#[inline(always)]
const fn checked(u0: u8, u1: u8, sum: u64) -> u32 {
    // Zero on the wire would mean that there is none (RFC 768).
    let checksum = match !fold(sum) {
        0 => 0xffff,
        sum => sum,
    };
    let [c0, c1] = checksum.to_ne_bytes();
    u32::from_ne_bytes([u0, u1, c0, c1])
}

#[cfg(any(test, feature = "frames"))]
impl Frame for alloc::vec::Vec<u8> {
    fn octets(&self) -> usize {
        self.len()
    }

    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self[..].load(at)
    }

    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self[..].words(at)
    }
}

#[cfg(any(test, feature = "frames"))]
impl FrameMut for alloc::vec::Vec<u8> {
    fn store<const N: usize>(&mut self, at: usize, words: [u32; N]) -> bool {
        let Some(place) = self.get_mut(at..at + 4 * N) else {
            return false;
        };
        for (to, word) in place.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        true
    }

    fn cut(&mut self, len: usize) -> bool {
        if len > self.len() {
            return false;
        }
        self.truncate(len);
        true
    }
}
