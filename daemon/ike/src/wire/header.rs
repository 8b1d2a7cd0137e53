//! The IKE header (RFC 7296, 3.1): 28 octets in front of every message.

use super::{WireError, cursor::Cursor, payload::PayloadKind};

/// Octets of the header.
pub const HEADER_LEN: usize = 28;

/// Octets of an IKE SPI.
pub type Spi = [u8; 8];

/// Exchange types (IANA).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Exchange {
    /// First exchange of a full handshake.
    IkeSaInit,
    /// Authentication, after either first exchange.
    IkeAuth,
    /// New keys, new Child SAs.
    CreateChildSa,
    /// Deletes, liveness, notifications.
    Informational,
    /// First exchange of a resumption (RFC 5723).
    IkeSessionResume,
}

impl Exchange {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::IkeSaInit => 34,
            Self::IkeAuth => 35,
            Self::CreateChildSa => 36,
            Self::Informational => 37,
            Self::IkeSessionResume => 38,
        }
    }

    /// As the RFCs call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IkeSaInit => "IKE_SA_INIT",
            Self::IkeAuth => "IKE_AUTH",
            Self::CreateChildSa => "CREATE_CHILD_SA",
            Self::Informational => "INFORMATIONAL",
            Self::IkeSessionResume => "IKE_SESSION_RESUME",
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            34 => Self::IkeSaInit,
            35 => Self::IkeAuth,
            36 => Self::CreateChildSa,
            37 => Self::Informational,
            38 => Self::IkeSessionResume,
            _ => return None,
        })
    }
}

/// The fields of a header that mean something; version is 2.0 and the length is the datagram's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// SPI of whoever initiated the IKE SA.
    pub spi_i: Spi,
    /// SPI of the responder; zero in first messages.
    pub spi_r: Spi,
    /// Kind of the first payload.
    pub next: PayloadKind,
    /// Exchange type.
    pub exchange: Exchange,
    /// I flag: the sender is the original initiator.
    pub from_initiator: bool,
    /// R flag: this is a response.
    pub response: bool,
    /// Message ID.
    pub message_id: u32,
}

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_RESPONSE: u8 = 0x20;
const VERSION: u8 = 0x20;

impl Header {
    /// Splits a datagram into header and payloads. The length field must be the datagram's length.
    pub fn parse(message: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut cursor = Cursor::new(message);
        let (spi_i, spi_r) = (cursor.array()?, cursor.array()?);
        let [next, version, exchange, flags] = cursor.array()?;
        let (message_id, length) = (cursor.u32()?, cursor.u32()?);
        if version >> 4 != 2 {
            return Err(WireError::Version(version >> 4));
        }
        if length as usize != message.len() {
            return Err(WireError::Length { at: 24 });
        }
        if spi_i == [0; 8] {
            return Err(WireError::Value {
                field: "IKE SA Initiator's SPI",
                value: 0,
            });
        }
        let unknown = WireError::Value {
            field: "exchange type",
            value: u32::from(exchange),
        };
        let header = Self {
            spi_i,
            spi_r,
            next: PayloadKind(next),
            exchange: Exchange::from_number(exchange).ok_or(unknown)?,
            from_initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        };
        Ok((header, cursor.rest()))
    }

    /// The header's octets for a message of `length` octets in all.
    #[must_use]
    pub fn emit(&self, length: usize) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let flags = if self.from_initiator {
            FLAG_INITIATOR
        } else {
            0
        } | if self.response { FLAG_RESPONSE } else { 0 };
        let (spis, rest) = out.split_at_mut(16);
        let (spi_i, spi_r) = spis.split_at_mut(8);
        spi_i.copy_from_slice(&self.spi_i);
        spi_r.copy_from_slice(&self.spi_r);
        let (kinds, numbers) = rest.split_at_mut(4);
        kinds.copy_from_slice(&[self.next.0, VERSION, self.exchange.number(), flags]);
        let (message_id, total) = numbers.split_at_mut(4);
        message_id.copy_from_slice(&self.message_id.to_be_bytes());
        total.copy_from_slice(&(length as u32).to_be_bytes());
        out
    }
}
