//! IKE messages out of a capture, whole, for a look inside and for sending them again.

use std::net::{IpAddr, SocketAddr};

use ike::wire::{
    header::{Exchange, Header},
    notify::NotifyKind,
    payload::Chain,
};

use crate::{
    capture::Frame,
    packet::{Content, Packet},
};

/// A captured IKE message.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// The message, without the marker of port 4500.
    pub message: Vec<u8>,
}

impl Datagram {
    /// Reads an Ethernet frame with IPv4 and no IP options; `None` for all that is not IKE in UDP.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = Packet::parse(frame)?;
        let (Content::Ike { length, .. }, IpAddr::V4(_)) = (packet.content, packet.source) else {
            return None;
        };
        let port = |at| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
        let (from, to) = (port(UDP)?, port(UDP + 2)?);
        let marker = if from == 500 || to == 500 { 0 } else { 4 };
        let payload = frame.get(UDP + 8..UDP + 8 + length)?;
        Some(Self {
            from: (packet.source, from).into(),
            to: (packet.destination, to).into(),
            message: payload.get(marker..)?.to_vec(),
        })
    }

    /// Exchange type and whether it is a response; `None` if it has no right header.
    #[must_use]
    pub fn kind(&self) -> Option<(Exchange, bool)> {
        let (header, _) = Header::parse(&self.message).ok()?;
        Some((header.exchange, header.response))
    }

    /// Whether a notification of this kind stands in it in clear.
    #[must_use]
    pub fn notifies(&self, kind: NotifyKind) -> bool {
        Header::parse(&self.message)
            .and_then(|(header, payloads)| Chain::parse(header.next, payloads))
            .is_ok_and(|chain| chain.notifies().any(|notify| notify.kind == kind))
    }
}

/// What a capture's own namespace sent of IKE, in order.
pub fn sent(frames: &[Frame]) -> impl Iterator<Item = Datagram> {
    frames
        .iter()
        .filter(|frame| frame.sent)
        .filter_map(|frame| Datagram::parse(&frame.octets))
}

/// Ethernet and IPv4 headers before it.
const UDP: usize = 34;

#[cfg(test)]
mod tests {
    use gate_abi::frames::{Around, Message};

    use super::*;

    #[test]
    fn the_marker_is_not_part_of_the_message() {
        let octets = Message::sa_init().octets();
        for port in [500, 4500] {
            let around = Around {
                port,
                ..Around::default()
            };
            let read = Datagram::parse(&around.ike(&octets)).unwrap();
            assert_eq!(read.message, octets);
            assert_eq!(read.to.port(), port);
            assert_eq!(read.kind(), Some((Exchange::IkeSaInit, false)));
        }
    }
}
