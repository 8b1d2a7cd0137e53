//! Frames made by hand for the tests of both sides: the same ones go through the kernel's program
//! and through the classifier in user space.

use alloc::vec::Vec;

use crate::ike::{
    COOKIE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_PPPOE, FLAG_INITIATOR, IKE_SA_INIT,
    IKE_SESSION_RESUME, PAYLOAD_NOTIFY, PORT_IKE, PORT_NAT_T, PPP_IPV4, PPP_IPV6, PPPOE_SESSION,
    TICKET_OPAQUE,
};
use crate::sip::SipKey;
use crate::ticket::{Envelope, Kind};

/// Payload type Nonce.
pub const NONCE: u8 = crate::ike::PAYLOAD_NONCE;
/// Payload type Security Association.
pub const SECURITY_ASSOCIATION: u8 = 33;

/// An address of either family, as it stands in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

impl Address {
    /// As the gate's map of local addresses has it.
    #[must_use]
    pub const fn mapped(self) -> [u8; 16] {
        match self {
            Self::V4([a, b, c, d]) => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
            Self::V6(octets) => octets,
        }
    }
}

/// What lies around a datagram.
#[derive(Clone, Debug)]
pub struct Around {
    /// EtherTypes of the VLAN tags, outermost first.
    pub vlans: Vec<u16>,
    /// Whether it goes by a PPPoE session.
    pub pppoe: bool,
    /// Where it comes from.
    pub source: Address,
    /// Where it goes to; of the same family.
    pub destination: Address,
    /// The UDP port it goes to.
    pub port: u16,
}

impl Around {
    /// Wraps a UDP payload up to the Ethernet header, with right lengths and IPv4 checksum.
    #[must_use]
    pub fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        let mut udp = Vec::new();
        udp.extend(4321u16.to_be_bytes());
        udp.extend(self.port.to_be_bytes());
        udp.extend((8 + payload.len() as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        self.packet(17, &udp)
    }

    /// Wraps any IP payload.
    #[must_use]
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        for tag in &self.vlans {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        let behind = |frame: &mut Vec<u8>, ethertype: u16, protocol: u16, len: usize| {
            if self.pppoe {
                frame.extend(ETHERTYPE_PPPOE.to_be_bytes());
                frame.extend(PPPOE_SESSION);
                frame.extend([0, 9]);
                frame.extend((2 + len as u16).to_be_bytes());
                frame.extend(protocol.to_be_bytes());
            } else {
                frame.extend(ethertype.to_be_bytes());
            }
        };
        match (self.source, self.destination) {
            (Address::V4(from), Address::V4(to)) => {
                behind(&mut frame, ETHERTYPE_IPV4, PPP_IPV4, 20 + payload.len());
                let mut ip = Vec::from([0x45, 0]);
                ip.extend((20 + payload.len() as u16).to_be_bytes());
                ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
                ip.extend(from);
                ip.extend(to);
                let sum = internet_checksum(&ip);
                ip.splice(10..12, sum.to_be_bytes());
                frame.extend(ip);
            }
            (from, to) => {
                behind(&mut frame, ETHERTYPE_IPV6, PPP_IPV6, 40 + payload.len());
                frame.extend([0x60, 0, 0, 0]);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([protocol, 64]);
                frame.extend(from.mapped());
                frame.extend(to.mapped());
            }
        }
        frame.extend(payload);
        frame
    }

    /// Wraps an IKE message, behind the marker where the port asks for it.
    #[must_use]
    pub fn ike(&self, message: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        if self.port == PORT_NAT_T {
            payload.extend([0; 4]);
        }
        payload.extend(message);
        self.datagram(&payload)
    }
}

impl Default for Around {
    fn default() -> Self {
        Self {
            vlans: Vec::new(),
            pppoe: false,
            source: Address::V4([192, 0, 2, 1]),
            destination: Address::V4([192, 0, 2, 2]),
            port: PORT_IKE,
        }
    }
}

/// An IKE message in clear.
#[derive(Clone, Debug)]
pub struct Message {
    /// The initiator's SPI.
    pub spi_i: u64,
    /// The responder's SPI.
    pub spi_r: u64,
    /// Version octet.
    pub version: u8,
    /// Exchange type.
    pub exchange: u8,
    /// Flags.
    pub flags: u8,
    /// Message ID.
    pub message_id: u32,
    /// Payload types and bodies, in order.
    pub payloads: Vec<(u8, Vec<u8>)>,
}

impl Message {
    /// A first message without payloads.
    #[must_use]
    pub fn first(exchange: u8) -> Self {
        Self {
            spi_i: 0x1122_3344_5566_7788,
            spi_r: 0,
            version: 0x20,
            exchange,
            flags: FLAG_INITIATOR,
            message_id: 0,
            payloads: Vec::new(),
        }
    }

    /// An IKE_SA_INIT that looks like one.
    #[must_use]
    pub fn sa_init() -> Self {
        Self::first(IKE_SA_INIT)
            .with(SECURITY_ASSOCIATION, &[0; 44])
            .with(NONCE, &[0x6e; 32])
    }

    /// An IKE_SESSION_RESUME with this ticket.
    #[must_use]
    pub fn resume(ticket: &[u8]) -> Self {
        Self::first(IKE_SESSION_RESUME)
            .with(NONCE, &[0x6e; 32])
            .notify(TICKET_OPAQUE, ticket)
    }

    /// With one payload more at the end.
    #[must_use]
    pub fn with(mut self, kind: u8, body: &[u8]) -> Self {
        self.payloads.push((kind, body.to_vec()));
        self
    }

    /// With one notification more at the end.
    #[must_use]
    pub fn notify(self, kind: u16, data: &[u8]) -> Self {
        let mut body = Vec::from([0, 0]);
        body.extend(kind.to_be_bytes());
        body.extend(data);
        self.with(PAYLOAD_NOTIFY, &body)
    }

    /// With a cookie in front, as RFC 7296, 2.6 wants it repeated.
    #[must_use]
    pub fn cookie(mut self, cookie: &[u8]) -> Self {
        let appended = self.notify(COOKIE, cookie);
        self = appended;
        self.payloads.rotate_right(1);
        self
    }

    /// The octets on the wire.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        let kinds = self.payloads.iter().map(|(kind, _)| *kind);
        let mut next = kinds.skip(1).chain([0]);
        let mut chain = Vec::new();
        for (_, body) in &self.payloads {
            chain.extend([next.next().unwrap_or(0), 0]);
            chain.extend((4 + body.len() as u16).to_be_bytes());
            chain.extend(body);
        }
        let mut message = Vec::new();
        message.extend(self.spi_i.to_be_bytes());
        message.extend(self.spi_r.to_be_bytes());
        message.push(self.payloads.first().map_or(0, |(kind, _)| *kind));
        message.extend([self.version, self.exchange, self.flags]);
        message.extend(self.message_id.to_be_bytes());
        message.extend((28 + chain.len() as u32).to_be_bytes());
        message.extend(chain);
        message
    }
}

/// `k_mask` of [`ticket`]s.
pub const MASK_KEY: SipKey = SipKey { k0: 8, k1: 9 };
/// When [`ticket`]s end, in minutes since the Unix epoch.
pub const EXPIRY_MINUTES: u32 = 30_000_000;

/// A ticket by value: a genuine envelope before a body that nobody here opens.
#[must_use]
pub fn ticket(key_id: u8, index: u32, k_tag: &SipKey, len: usize) -> Vec<u8> {
    let envelope = Envelope {
        kind: Kind::ByValue,
        key_id,
        node: 1,
        flags: 0,
        nonce: *b"frames_nonce",
        index,
        expiry_minutes: EXPIRY_MINUTES,
    };
    let mut ticket = envelope.seal(k_tag, &MASK_KEY).to_vec();
    ticket.resize(len, 0xb0);
    ticket
}

fn internet_checksum(octets: &[u8]) -> u16 {
    let (words, _) = octets.as_chunks::<2>();
    let sum: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
