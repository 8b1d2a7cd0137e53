//! Just enough parsing to tell, of a captured frame, who sent what to whom: ESP, ESP in UDP, IKE or
//! clear text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Protocol 50.
    Esp {
        /// Security parameter index.
        spi: u32,
        /// Lower half of the sequence number.
        sequence: u32,
    },
    /// ESP behind a UDP header (RFC 3948).
    EspInUdp {
        /// Security parameter index.
        spi: u32,
        /// Lower half of the sequence number.
        sequence: u32,
    },
    /// ICMP or ICMPv6, in clear.
    Icmp {
        /// Its type field.
        kind: u8,
    },
    /// IKE on port 500, or 4500 behind the non-ESP marker.
    Ike {
        /// The header's exchange type.
        exchange: u8,
        /// Whether the response flag is set.
        response: bool,
        /// Octets of UDP payload, the marker included.
        length: usize,
    },
    /// A NAT keepalive (RFC 3948, 2.3).
    Keepalive,
    /// Anything else, by protocol number.
    Other(u8),
}

/// An IP packet's addresses and content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What it carries; later fragments count as [`Content::Other`].
    pub content: Content,
}

impl Packet {
    /// Reads an Ethernet frame; `None` if it is not a whole IP packet.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        match frame.get(12..14)? {
            [0x08, 0x00] => ipv4(packet),
            [0x86, 0xdd] => ipv6(packet),
            _ => None,
        }
    }

    /// Whether this is neighbour discovery or multicast housekeeping, which no policy protects.
    #[must_use]
    pub fn is_housekeeping(&self) -> bool {
        let discovery = matches!(
            self.content,
            Content::Icmp {
                kind: 130..=137 | 143
            }
        );
        self.destination.is_multicast() || (self.source.is_ipv6() && discovery)
    }

    /// Whether it runs between these two addresses, in either direction.
    #[must_use]
    pub fn is_between(&self, one: IpAddr, other: IpAddr) -> bool {
        (self.source, self.destination) == (one, other)
            || (self.source, self.destination) == (other, one)
    }
}

fn ipv4(packet: &[u8]) -> Option<Packet> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16_at(packet, 2)?);
    let body = packet.get(header..total)?;
    let later_fragment = u16_at(packet, 6)? & 0x1fff != 0;
    let protocol = *packet.get(9)?;
    let address = |at| array(packet, at).map(|octets| IpAddr::V4(Ipv4Addr::from_octets(octets)));
    let content = if later_fragment {
        Content::Other(protocol)
    } else {
        content(protocol, body)?
    };
    Some(Packet {
        source: address(12)?,
        destination: address(16)?,
        content,
    })
}

fn ipv6(packet: &[u8]) -> Option<Packet> {
    let length = usize::from(u16_at(packet, 4)?);
    let body = packet.get(40..40usize.checked_add(length)?)?;
    let address = |at| array(packet, at).map(|octets| IpAddr::V6(Ipv6Addr::from_octets(octets)));
    let content = content(*packet.get(6)?, body)?;
    Some(Packet {
        source: address(8)?,
        destination: address(24)?,
        content,
    })
}

fn content(protocol: u8, body: &[u8]) -> Option<Content> {
    Some(match protocol {
        50 => Content::Esp {
            spi: u32_at(body, 0)?,
            sequence: u32_at(body, 4)?,
        },
        1 | 58 => Content::Icmp {
            kind: *body.first()?,
        },
        17 => udp(body)?,
        other => Content::Other(other),
    })
}

fn udp(body: &[u8]) -> Option<Content> {
    let ports = [u16_at(body, 0)?, u16_at(body, 2)?];
    let payload = body.get(8..)?;
    if ports.contains(&500) {
        return ike(payload, 0);
    }
    if !ports.contains(&4500) {
        return Some(Content::Other(17));
    }
    match (payload, u32_at(payload, 0)) {
        ([0xff], _) => Some(Content::Keepalive),
        (_, Some(0)) => ike(payload, 4),
        (_, Some(spi)) => Some(Content::EspInUdp {
            spi,
            sequence: u32_at(payload, 4)?,
        }),
        _ => None,
    }
}

fn ike(payload: &[u8], marker: usize) -> Option<Content> {
    let header = payload.get(marker..)?;
    let response = header.get(19)? & 0x20 != 0;
    Some(Content::Ike {
        exchange: *header.get(18)?,
        response,
        length: payload.len(),
    })
}

fn array<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..)?.first_chunk().copied()
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    array(octets, at).map(u16::from_be_bytes)
}

fn u32_at(octets: &[u8], at: usize) -> Option<u32> {
    array(octets, at).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + body.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(body);
        // What Ethernet pads a short frame with is not the packet's.
        frame.extend([0; 6]);
        frame
    }

    fn udp_frame(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut body = [port.to_be_bytes(), port.to_be_bytes(), [0, 0], [0, 0]].concat();
        body.extend(payload);
        frame(17, &body)
    }

    fn content_of(frame: &[u8]) -> Option<Content> {
        Packet::parse(frame).map(|packet| packet.content)
    }

    #[test]
    fn the_marker_tells_ike_from_esp_on_4500() {
        let mut message = [0; 32];
        message[22..24].copy_from_slice(&[34, 0x20]);
        let ike = Content::Ike {
            exchange: 34,
            response: true,
            length: 32,
        };
        assert_eq!(content_of(&udp_frame(4500, &message)), Some(ike));
        message[3] = 7;
        let esp = Content::EspInUdp {
            spi: 7,
            sequence: 0,
        };
        assert_eq!(content_of(&udp_frame(4500, &message)), Some(esp));
        assert_eq!(
            content_of(&udp_frame(4500, &[0xff])),
            Some(Content::Keepalive)
        );
    }

    #[test]
    fn esp_and_clear_text_are_told_apart() {
        let esp = Content::Esp {
            spi: 0x1001,
            sequence: 2,
        };
        assert_eq!(
            content_of(&frame(50, &[0, 0, 0x10, 1, 0, 0, 0, 2])),
            Some(esp)
        );
        assert_eq!(
            content_of(&frame(1, &[8, 0, 0, 0])),
            Some(Content::Icmp { kind: 8 })
        );
    }

    #[test]
    fn a_frame_cut_anywhere_is_no_packet_and_no_panic() {
        let whole = frame(50, &[0, 0, 0x10, 1, 0, 0, 0, 2]);
        for length in 0..whole.len() - 6 {
            assert_eq!(Packet::parse(&whole[..length]), None, "{length}");
        }
    }
}
