//! What a dropped packet looked like: a few each second go to the daemon, for an operator to see who
//! is turned away and why. Samples are for people; nothing is decided by them.

use crate::classify::{Frame, MAX_VLANS, Reason};
use crate::defence::SECOND;
use crate::ike::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_PPPOE, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN,
    PPP_IPV4, PPP_IPV6, PPPOE_LEN, PROTOCOL_UDP,
};

/// Ring buffer of [`Sample`]s.
pub const SAMPLES: &str = "SAMPLES";
/// Octets of the ring: a page of every machine, and some hundred samples.
pub const RING_OCTETS: usize = 1 << 16;
/// Samples in a second, of all CPUs together.
pub const PER_SECOND: u64 = 20;

/// Nanoseconds between two samples of one CPU of so many.
#[must_use]
pub const fn interval(cpus: u64) -> u64 {
    (SECOND / PER_SECOND).saturating_mul(cpus)
}

/// One dropped packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds of the boot clock, as the CPU last read it.
    pub at: u64,
    /// The number of its [`Reason`].
    pub reason: u64,
    /// Index of the interface it came in by.
    pub interface: u64,
    /// Octets, from the first header on; with [`BARE`] added if that is the IP header.
    pub octets: u64,
    /// How it began, and zeros.
    pub head: [u64; HEAD_OCTETS / 8],
}

/// Added to [`Sample::octets`] where there is no Ethernet header.
pub const BARE: u64 = 1 << 32;
/// Octets of the longest head: two VLAN tags, IPv6, UDP, and the IKE header up to its flags.
pub const HEAD_OCTETS: usize = 96;
/// What is tried in turn, because a copy has a length known beforehand: the longest head; then up to
/// the ports, over IPv6 and IPv4, with VLAN tags and without, and without Ethernet.
pub const HEADS: [usize; 6] = [HEAD_OCTETS, 70, 62, 50, 42, 28];

/// Where a packet came from and where it went to, IPv4 mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Address and UDP port that it came from.
    pub source: ([u8; 16], u16),
    /// Address and UDP port that it went to.
    pub destination: ([u8; 16], u16),
}

impl Sample {
    /// Words of a sample.
    const WORDS: usize = size_of::<Self>() / 8;

    /// Reads a sample as it lies in the ring.
    #[must_use]
    pub fn read(octets: &[u8]) -> Option<Self> {
        let (chunks, []) = octets.as_chunks::<8>() else {
            return None;
        };
        let words: &[[u8; 8]; Self::WORDS] = chunks.try_into().ok()?;
        let [at, reason, interface, octets, head @ ..] = words.map(u64::from_ne_bytes);
        Some(Self {
            at,
            reason,
            interface,
            octets,
            head,
        })
    }

    /// Why it was dropped.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        let number = usize::try_from(self.reason).ok()?;
        Reason::ALL.get(number).copied()
    }

    /// Where it came from and went to. A fragment or what has options says only the addresses.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        let mut octets = [0; HEAD_OCTETS];
        let (places, _) = octets.as_chunks_mut::<8>();
        for (place, word) in places.iter_mut().zip(self.head) {
            *place = word.to_ne_bytes();
        }
        let head = &octets[..];
        let (at, ethertype) = if self.octets & BARE == 0 {
            behind_ethernet(head)?
        } else {
            match head.load::<1>(0)? {
                [version] if version >> 4 == 4 => (0, ETHERTYPE_IPV4),
                _ => (0, ETHERTYPE_IPV6),
            }
        };
        let (source, destination, ports) = match ethertype {
            ETHERTYPE_IPV4 => {
                let [version, ..] = head.load::<1>(at)?;
                let [.., protocol] = head.load::<10>(at)?;
                let plain = version == 0x45 && protocol == PROTOCOL_UDP;
                let [source, destination] = [at + 12, at + 16].map(|at| head.load::<4>(at));
                (mapped(source?), mapped(destination?), (plain, at + 20))
            }
            ETHERTYPE_IPV6 => {
                let [.., next] = head.load::<7>(at)?;
                let [source, destination] = [at + 8, at + 24].map(|at| head.load::<16>(at));
                (source?, destination?, (next == PROTOCOL_UDP, at + 40))
            }
            _ => return None,
        };
        let (plain, udp) = ports;
        let port = |at| {
            let octets = head.load::<2>(at).filter(|_| plain);
            octets.map_or(0, u16::from_be_bytes)
        };
        Some(Ends {
            source: (source, port(udp)),
            destination: (destination, port(udp + 2)),
        })
    }
}

/// Where the IP header begins, and of which family it is.
fn behind_ethernet(head: &[u8]) -> Option<(usize, u16)> {
    let mut ethertype = head.load::<2>(ETHERTYPE_AT).map(u16::from_be_bytes)?;
    let mut at = ETHERTYPE_AT + 2;
    for _ in 0..MAX_VLANS {
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN {
            ethertype = head.load::<2>(at + 2).map(u16::from_be_bytes)?;
            at += 4;
        }
    }
    if ethertype == ETHERTYPE_PPPOE {
        let protocol = head.load::<2>(at + PPPOE_LEN - 2).map(u16::from_be_bytes)?;
        at += PPPOE_LEN;
        ethertype = match protocol {
            PPP_IPV4 => ETHERTYPE_IPV4,
            PPP_IPV6 => ETHERTYPE_IPV6,
            _ => return None,
        };
    }
    Some((at, ethertype))
}

const ETHERTYPE_AT: usize = 12;

const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

const _: () = {
    assert!(size_of::<Sample>() == 8 * Sample::WORDS && Sample::WORDS == 4 + HEAD_OCTETS / 8);
    assert!(HEADS[0] == HEAD_OCTETS);
};

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::frames::{Address, Around, Message};

    fn sample_of(frame: &[u8]) -> Sample {
        let mut head = [0; HEAD_OCTETS];
        let len = frame.len().min(HEAD_OCTETS);
        head[..len].copy_from_slice(&frame[..len]);
        let mut octets = Vec::new();
        for word in [7u64, Reason::TagWrong as u64, 3, frame.len() as u64] {
            octets.extend(word.to_ne_bytes());
        }
        octets.extend(head);
        Sample::read(&octets).expect("a sample")
    }

    #[test]
    fn a_sample_says_where_its_packet_came_from_and_went_to() {
        let v6 = Around {
            source: Address::V6([1; 16]),
            destination: Address::V6([2; 16]),
            ..Around::default()
        };
        for around in [Around::default(), v6] {
            for vlans in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
                for pppoe in [false, true] {
                    let around = Around {
                        vlans: vlans.to_vec(),
                        pppoe,
                        ..around.clone()
                    };
                    let sample = sample_of(&around.ike(&Message::sa_init().octets()));
                    assert_eq!(sample.reason(), Some(Reason::TagWrong));
                    let ends = sample.ends().expect("ends");
                    assert_eq!(ends.source, (around.source.mapped(), 4321));
                    assert_eq!(ends.destination, (around.destination.mapped(), 500));
                }
            }
            let frame = around.ike(&Message::sa_init().octets());
            let mut sample = sample_of(&frame[14..]);
            sample.octets |= BARE;
            let ends = sample.ends().expect("ends");
            assert_eq!(ends.source, (around.source.mapped(), 4321));
            assert_eq!(ends.destination, (around.destination.mapped(), 500));
        }
    }

    #[test]
    fn what_is_cut_short_or_no_ip_is_read_without_harm() {
        let whole = Around::default().ike(&Message::sa_init().octets());
        for len in 0..whole.len() {
            let _any = sample_of(&whole[..len]).ends();
        }
        assert_eq!(sample_of(&[0xff; 96]).ends(), None);
        assert_eq!(Sample::read(&[0; 8 * Sample::WORDS - 1]), None);
        assert_eq!(Sample::read(&[0; 8 * Sample::WORDS + 8]), None);
        let strange = Sample {
            reason: u64::MAX,
            ..sample_of(&whole)
        };
        assert_eq!(strange.reason(), None);
    }

    #[test]
    fn all_cpus_together_keep_to_the_rate() {
        for cpus in [1, 2, 64] {
            assert_eq!(cpus * SECOND / interval(cpus), PER_SECOND);
        }
    }
}
