//! Identification payloads, IDi and IDr (RFC 7296, 3.5), and how an operator writes an identity.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{WireError, cursor::Cursor, name};

/// What says of which kind the rest is, as swanctl has it.
const PREFIXES: &[(&str, IdKind)] = &[
    ("keyid:", IdKind::KeyId),
    ("fqdn:", IdKind::Fqdn),
    ("email:", IdKind::Email),
    ("rfc822:", IdKind::Email),
    ("dn:", IdKind::Dn),
    ("asn1dn:", IdKind::Dn),
    ("@@", IdKind::Email),
];

/// ID types (RFC 7296, 3.5).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum IdKind {
    /// ID_IPV4_ADDR: 4 octets.
    Ipv4,
    /// ID_FQDN: a host name without terminator.
    Fqdn,
    /// ID_RFC822_ADDR: an e-mail address.
    Email,
    /// ID_IPV6_ADDR: 16 octets.
    Ipv6,
    /// ID_DER_ASN1_DN: a distinguished name in DER.
    Dn,
    /// ID_KEY_ID: opaque octets.
    KeyId,
}

impl IdKind {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 1,
            Self::Fqdn => 2,
            Self::Email => 3,
            Self::Ipv6 => 5,
            Self::Dn => 9,
            Self::KeyId => 11,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Ipv4,
            2 => Self::Fqdn,
            3 => Self::Email,
            5 => Self::Ipv6,
            9 => Self::Dn,
            11 => Self::KeyId,
            _ => return None,
        })
    }
}

/// Who somebody claims to be. Authenticated only once IKE_AUTH has said so.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Identity {
    kind: IdKind,
    data: Vec<u8>,
}

impl Identity {
    /// Longest identity we take, in octets; distinguished names in the field stay below half of it.
    pub const MAX_LEN: usize = 512;

    /// An identity of the given kind; `None` if the octets cannot be one.
    #[must_use]
    pub fn new(kind: IdKind, data: &[u8]) -> Option<Self> {
        let fits = match kind {
            IdKind::Ipv4 => data.len() == 4,
            IdKind::Ipv6 => data.len() == 16,
            IdKind::Fqdn | IdKind::Email => std::str::from_utf8(data).is_ok(),
            IdKind::Dn | IdKind::KeyId => true,
        };
        (fits && !data.is_empty() && data.len() <= Self::MAX_LEN).then(|| Self {
            kind,
            data: data.to_vec(),
        })
    }

    /// Reads an identity as operators of other gateways write it: an address, `name@host`, a
    /// distinguished name such as `O=Example, CN=gw`, else a host name; or with its kind in front, as
    /// `keyid:NAME`, `fqdn:`, `email:` or `dn:`. `@NAME` is a host name too, `@@NAME` an e-mail address,
    /// and `@#` a key id in hexadecimal digits.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::from(address));
        }
        if let Some(digits) = text.strip_prefix("@#") {
            return Self::new(IdKind::KeyId, &unhex(digits)?);
        }
        for (prefix, kind) in PREFIXES {
            if let Some(name) = text.strip_prefix(prefix) {
                return match kind {
                    IdKind::Dn => Self::new(*kind, &name::from_text(name)?),
                    _ => Self::new(*kind, name.as_bytes()),
                };
            }
        }
        match text.strip_prefix('@') {
            Some(name) => Self::new(IdKind::Fqdn, name.as_bytes()),
            None if text.contains('@') && !text.contains('=') => {
                Self::new(IdKind::Email, text.as_bytes())
            }
            None if text.contains('=') => Self::new(IdKind::Dn, &name::from_text(text)?),
            None => Self::new(IdKind::Fqdn, text.as_bytes()),
        }
    }

    /// Reads the body of an IDi or IDr payload.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let [number, ..]: [u8; 4] = cursor.array()?;
        let unknown = WireError::Value {
            field: "ID type",
            value: u32::from(number),
        };
        let kind = IdKind::from_number(number).ok_or(unknown)?;
        Self::new(kind, cursor.rest()).ok_or(WireError::Length { at: 0 })
    }

    /// RestOfIDi or RestOfIDr of RFC 7296, 2.15: the payload's body without its generic header.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![self.kind.number(), 0, 0, 0];
        body.extend_from_slice(&self.data);
        body
    }

    /// Whether both are the same: distinguished names may be encoded in different ways, host names and
    /// e-mail addresses be in capitals; all else is compared octet for octet.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let same_name = || match self.kind {
            IdKind::Dn => name::same(&self.data, &other.data),
            IdKind::Fqdn | IdKind::Email => self.data.eq_ignore_ascii_case(&other.data),
            _ => false,
        };
        self.kind == other.kind && (self.data == other.data || same_name())
    }

    /// What kind of name this is.
    #[must_use]
    pub const fn kind(&self) -> IdKind {
        self.kind
    }

    /// The identification data alone.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

/// Octets from their hexadecimal digits.
fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |one: &u8| char::from(*one).to_digit(16);
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let octet = |[high, low]: &[u8; 2]| Some((digit(high)? << 4 | digit(low)?) as u8);
    pairs.iter().map(octet).collect()
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self {
                kind: IdKind::Ipv4,
                data: v4.octets().to_vec(),
            },
            IpAddr::V6(v6) => Self {
                kind: IdKind::Ipv6,
                data: v6.octets().to_vec(),
            },
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            IdKind::Ipv4 => match <[u8; 4]>::try_from(self.data.as_slice()) {
                Ok(octets) => write!(f, "{}", Ipv4Addr::from(octets)),
                Err(_) => f.write_str("?"),
            },
            IdKind::Ipv6 => match <[u8; 16]>::try_from(self.data.as_slice()) {
                Ok(octets) => write!(f, "{}", Ipv6Addr::from(octets)),
                Err(_) => f.write_str("?"),
            },
            // Peer-controlled text never reaches a terminal or a log unescaped.
            IdKind::Fqdn | IdKind::Email => write!(f, "{}", self.data.escape_ascii()),
            IdKind::Dn => match name::to_text(&self.data) {
                Some(text) => f.write_str(&text),
                None => f.write_str("?"),
            },
            IdKind::KeyId => write!(f, "keyid:{}", self.data.escape_ascii()),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_as_operators_write_it() {
        let kind = |text| Identity::from_text(text).map(|id| id.kind());
        assert_eq!(kind("gw.example"), Some(IdKind::Fqdn));
        assert_eq!(kind("@west"), Some(IdKind::Fqdn));
        assert_eq!(kind("alice@example.net"), Some(IdKind::Email));
        assert_eq!(kind("192.0.2.1"), Some(IdKind::Ipv4));
        assert_eq!(kind("2001:db8::1"), Some(IdKind::Ipv6));
        assert_eq!(kind("O=Example, CN=alice"), Some(IdKind::Dn));
        assert_eq!(kind("nonsense=alice"), None);
        for (text, same) in [
            ("fqdn:192.0.2.1", "@192.0.2.1"),
            ("email:alice", "@@alice"),
            ("rfc822:alice", "@@alice"),
            ("dn:CN=alice", "CN=alice"),
            ("asn1dn:CN=alice", "CN=alice"),
            ("keyid:west", "@#77657374"),
        ] {
            let id = Identity::from_text(text);
            assert!(id.is_some() && id == Identity::from_text(same), "{text}");
        }
        for text in ["@#7", "@#7g", "@#", "dn:west", "fqdn:"] {
            assert_eq!(kind(text), None, "{text}");
        }
    }

    #[test]
    fn host_names_and_mail_addresses_are_the_same_in_capitals() {
        let is = |one, other| {
            let read = |text| Identity::from_text(text).expect("valid text");
            read(one).is(&read(other))
        };
        assert!(is("GW.example", "gw.EXAMPLE") && is("Alice@example.net", "alice@Example.net"));
        assert!(!is("keyid:gw", "keyid:GW") && !is("gw.example", "fqdn:gw2.example"));
        assert!(!is("fqdn:alice@example.net", "alice@example.net"));
    }

    #[test]
    fn a_body_reads_back() {
        for text in [
            "gw.example",
            "alice@example.net",
            "192.0.2.1",
            "2001:db8::1",
            "keyid:x",
            "O=Example, CN=alice",
        ] {
            let id = Identity::from_text(text).expect("valid text");
            assert_eq!(Identity::parse(&id.body()), Ok(id));
        }
    }

    #[test]
    fn an_address_of_the_wrong_length_is_refused() {
        assert!(Identity::parse(&[1, 0, 0, 0, 192, 0, 2]).is_err());
        assert!(Identity::parse(&[5, 0, 0, 0, 1, 2, 3, 4]).is_err());
        assert!(Identity::parse(&[2, 0, 0, 0]).is_err());
        assert!(Identity::parse(&[77, 0, 0, 0, 1]).is_err());
    }
}
