//! Notify payloads (RFC 7296, 3.10; RFC 5723, 7).

use super::{WireError, cursor::Cursor};

/// Notify message types (IANA). Below 16384 they are errors.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NotifyKind(pub u16);

impl NotifyKind {
    /// A critical payload we do not know.
    pub const UNSUPPORTED_CRITICAL_PAYLOAD: Self = Self(1);
    /// Nothing in the message makes sense.
    pub const INVALID_SYNTAX: Self = Self(7);
    /// None of the proposals is acceptable.
    pub const NO_PROPOSAL_CHOSEN: Self = Self(14);
    /// Another group is wanted; data is its number.
    pub const INVALID_KE_PAYLOAD: Self = Self(17);
    /// The peer did not prove its identity.
    pub const AUTHENTICATION_FAILED: Self = Self(24);
    /// No more Child SAs on this IKE SA.
    pub const NO_ADDITIONAL_SAS: Self = Self(35);
    /// No common traffic.
    pub const TS_UNACCEPTABLE: Self = Self(38);
    /// Not now.
    pub const TEMPORARY_FAILURE: Self = Self(43);
    /// The sender forgets other SAs with the same identity.
    pub const INITIAL_CONTACT: Self = Self(16384);
    /// SHA-1 of SPIs and source address.
    pub const NAT_DETECTION_SOURCE_IP: Self = Self(16388);
    /// SHA-1 of SPIs and destination address.
    pub const NAT_DETECTION_DESTINATION_IP: Self = Self(16389);
    /// Come again with this.
    pub const COOKIE: Self = Self(16390);
    /// Ticket with its lifetime (RFC 5723, 7.2).
    pub const TICKET_LT_OPAQUE: Self = Self(16409);
    /// The client wants a ticket (RFC 5723, 7.3).
    pub const TICKET_REQUEST: Self = Self(16410);
    /// The gateway cannot issue a ticket now (RFC 5723, 7.4).
    pub const TICKET_ACK: Self = Self(16411);
    /// The gateway refuses to issue, or to honour, a ticket (RFC 5723, 7.5).
    pub const TICKET_NACK: Self = Self(16412);
    /// Ticket presented by the client (RFC 5723, 7.6).
    pub const TICKET_OPAQUE: Self = Self(16413);
    /// Hash functions for signatures (RFC 7427, 4).
    pub const SIGNATURE_HASH_ALGORITHMS: Self = Self(16431);

    /// Whether the sender says that something failed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}

/// One notification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Notify<'a> {
    /// 0 for the IKE SA, 3 for ESP.
    pub protocol: u8,
    /// SPI it is about, empty for the IKE SA.
    pub spi: &'a [u8],
    /// What it says.
    pub kind: NotifyKind,
    /// Data of the kind.
    pub data: &'a [u8],
}

impl<'a> Notify<'a> {
    /// Reads the body of a Notify payload.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let [protocol, spi_size] = cursor.array()?;
        let kind = NotifyKind(cursor.u16()?);
        let spi = cursor.take(usize::from(spi_size))?;
        Ok(Self {
            protocol,
            spi,
            kind,
            data: cursor.rest(),
        })
    }

    /// Appends the body of a notification about the IKE SA.
    pub fn emit(kind: NotifyKind, data: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&kind.0.to_be_bytes());
        out.extend_from_slice(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_reads_back() {
        let mut body = Vec::new();
        Notify::emit(NotifyKind::COOKIE, b"biscuit", &mut body);
        let notify = Notify::parse(&body).expect("well formed");
        assert_eq!(
            (notify.kind, notify.data),
            (NotifyKind::COOKIE, &b"biscuit"[..])
        );
        assert_eq!((notify.protocol, notify.spi), (0, &[][..]));
    }

    #[test]
    fn an_spi_longer_than_the_payload_is_refused() {
        assert!(Notify::parse(&[3, 4, 0x40, 0x06, 1, 2]).is_err());
        assert!(Notify::parse(&[0, 0, 1]).is_err());
    }
}
