//! Notify payloads (RFC 7296, 3.10; RFC 5723, 7).

use super::{WireError, cursor::Cursor};

/// Notify message types (IANA). Below 16384 they are errors.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NotifyKind(pub u16);

/// What becomes on resumption of what a notification has said on the old SA (RFC 5723, 5).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Resumption {
    /// The ticket carries it over.
    Ticket,
    /// It is said anew in the new exchanges, or does not hold.
    NewExchange,
    /// It is gone, and is not said again.
    NotResumed,
    /// It says nothing that would last.
    NotApplicable,
}

// RFC 5723: note 6
/// Every type we send or understand has a line here, and with it a class.
macro_rules! notifies {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $class:ident;)*) => {
        impl NotifyKind {
            $($(#[doc = $doc])* pub const $name: Self = Self($number);)*

            /// All types we send or understand, with their names.
            pub const KNOWN: &'static [(Self, &'static str)] =
                &[$((Self::$name, stringify!($name)),)*];

            /// What becomes on resumption of what it said; `None` for a type we do not know, which
            /// leaves nothing behind.
            #[must_use]
            pub const fn resumption(self) -> Option<Resumption> {
                match self {
                    $(Self::$name => Some(Resumption::$class),)*
                    _ => None,
                }
            }
        }
    };
}

notifies! {
    /// A critical payload we do not know.
    UNSUPPORTED_CRITICAL_PAYLOAD = 1, NotApplicable;
    /// Nothing in the message makes sense.
    INVALID_SYNTAX = 7, NotApplicable;
    /// No IKE SA has these SPIs (RFC 7296, 2.21.4).
    INVALID_IKE_SPI = 11, NotApplicable;
    /// None of the proposals is acceptable.
    NO_PROPOSAL_CHOSEN = 14, NotApplicable;
    /// Another group is wanted; data is its number.
    INVALID_KE_PAYLOAD = 17, NotApplicable;
    /// The peer did not prove its identity.
    AUTHENTICATION_FAILED = 24, NotApplicable;
    /// No more Child SAs on this IKE SA.
    NO_ADDITIONAL_SAS = 35, NotApplicable;
    /// No inner address for the client (RFC 7296, 3.15.4).
    INTERNAL_ADDRESS_FAILURE = 36, NotApplicable;
    /// The client has to ask for an inner address (RFC 7296, 2.19).
    FAILED_CP_REQUIRED = 37, NotApplicable;
    /// No common traffic.
    TS_UNACCEPTABLE = 38, NotApplicable;
    /// The new addresses are against the responder's policy (RFC 4555, 4.1.1).
    UNACCEPTABLE_ADDRESSES = 40, NotApplicable;
    /// There is a NAT where the sender has said that there is none (RFC 4555, 4.1.2).
    UNEXPECTED_NAT_DETECTED = 41, NotApplicable;
    /// Not now.
    TEMPORARY_FAILURE = 43, NotApplicable;
    /// No Child SA has this SPI.
    CHILD_SA_NOT_FOUND = 44, NotApplicable;
    /// The sender forgets other SAs with the same identity.
    INITIAL_CONTACT = 16384, NotResumed;
    /// SHA-1 of SPIs and source address.
    NAT_DETECTION_SOURCE_IP = 16388, NewExchange;
    /// SHA-1 of SPIs and destination address.
    NAT_DETECTION_DESTINATION_IP = 16389, NewExchange;
    /// Come again with this.
    COOKIE = 16390, NewExchange;
    /// The Child SA is to be in transport mode (RFC 7296, 1.3.1).
    USE_TRANSPORT_MODE = 16391, NewExchange;
    /// The Child SA that a CREATE_CHILD_SA is to replace.
    REKEY_SA = 16393, NotApplicable;
    /// The sender can move its SAs to other addresses (RFC 4555, 4.2.1).
    MOBIKE_SUPPORTED = 16396, NewExchange;
    /// An IPv4 address of the sender besides the one it sends from (RFC 4555, 4.2.2).
    ADDITIONAL_IP4_ADDRESS = 16397, NewExchange;
    /// An IPv6 address of the same kind (RFC 4555, 4.2.2).
    ADDITIONAL_IP6_ADDRESS = 16398, NewExchange;
    /// The sender has no other addresses (RFC 4555, 4.2.3).
    NO_ADDITIONAL_ADDRESSES = 16399, NewExchange;
    /// The SAs go between the addresses of this message from now on (RFC 4555, 4.2.4).
    UPDATE_SA_ADDRESSES = 16400, NewExchange;
    /// To be returned as it is: shows that the peer is where it says (RFC 4555, 4.2.5).
    COOKIE2 = 16401, NotApplicable;
    /// The addresses of this message as the sender has written them (RFC 4555, 4.2.6).
    NO_NATS_ALLOWED = 16402, NewExchange;
    /// Seconds until the peer must authenticate again (RFC 4478, 3).
    AUTH_LIFETIME = 16403, NewExchange;
    /// The sender of a first message goes where it is sent (RFC 5685, 9.1).
    REDIRECT_SUPPORTED = 16406, NewExchange;
    /// Another gateway is to be called instead (RFC 5685, 9.2).
    REDIRECT = 16407, NotApplicable;
    /// The gateway that has sent the client here (RFC 5685, 9.3).
    REDIRECTED_FROM = 16408, NewExchange;
    /// Ticket with its lifetime (RFC 5723, 7.2).
    TICKET_LT_OPAQUE = 16409, NewExchange;
    /// The client wants a ticket (RFC 5723, 7.3).
    TICKET_REQUEST = 16410, NewExchange;
    /// The gateway cannot issue a ticket now (RFC 5723, 7.4).
    TICKET_ACK = 16411, NewExchange;
    /// The gateway refuses to issue, or to honour, a ticket (RFC 5723, 7.5).
    TICKET_NACK = 16412, NewExchange;
    /// Ticket presented by the client (RFC 5723, 7.6).
    TICKET_OPAQUE = 16413, NewExchange;
    /// The responder takes an IKE_AUTH that asks for no Child SA (RFC 6023, 3).
    CHILDLESS_IKEV2_SUPPORTED = 16418, NewExchange;
    /// Token that proves the loss of an SA (RFC 6290, 4.1).
    QCD_TOKEN = 16419, NewExchange;
    /// The sender takes messages in fragments (RFC 7383, 2.3).
    IKEV2_FRAGMENTATION_SUPPORTED = 16430, NewExchange;
    /// Hash functions for signatures (RFC 7427, 4).
    SIGNATURE_HASH_ALGORITHMS = 16431, NotApplicable;
}

impl NotifyKind {
    /// As the RFCs call it, if we send or understand it.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let known = Self::KNOWN.iter().find(|(known, _)| *known == self);
        known.map(|(_, name)| *name)
    }

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

    // RFC 5723: N47
    /// Appends the body of a notification about another SA, by its SPI.
    pub fn emit_about(protocol: u8, spi: &[u8], kind: NotifyKind, out: &mut Vec<u8>) {
        out.extend_from_slice(&[protocol, spi.len() as u8]);
        out.extend_from_slice(&kind.0.to_be_bytes());
        out.extend_from_slice(spi);
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
