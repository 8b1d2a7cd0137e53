//! Configuration payloads (RFC 7296, 3.15): what a client asks of the network behind the gateway and
//! what it gets, its split DNS (RFC 8598) included. Attributes that nobody here uses are passed over.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str,
    sync::Arc,
};

use super::{WireError, cursor::Cursor};

const INTERNAL_IP4_ADDRESS: u16 = 1;
const INTERNAL_IP4_NETMASK: u16 = 2;
const INTERNAL_IP4_DNS: u16 = 3;
const INTERNAL_IP6_ADDRESS: u16 = 8;
const INTERNAL_IP6_DNS: u16 = 10;
const INTERNAL_DNS_DOMAIN: u16 = 25;
/// The bit before the type, which has no meaning (RFC 7296, 3.15.1).
const RESERVED: u16 = 0x8000;

/// Octets of a domain name in presentation format (RFC 1035, 2.3.4).
const MAX_DOMAIN: usize = 253;
/// Octets of one label.
const MAX_LABEL: usize = 63;

/// Which half of which exchange a payload is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CfgType {
    /// CFG_REQUEST.
    Request,
    /// CFG_REPLY.
    Reply,
    /// CFG_SET, for which nobody has found a use.
    Set,
    /// CFG_ACK.
    Ack,
}

impl CfgType {
    const fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Set => 3,
            Self::Ack => 4,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Reply),
            3 => Some(Self::Set),
            4 => Some(Self::Ack),
            _ => None,
        }
    }
}

/// One attribute. Without a value it asks for one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attribute {
    /// INTERNAL_IP4_ADDRESS.
    Ip4Address(Option<Ipv4Addr>),
    /// INTERNAL_IP4_NETMASK.
    Ip4Netmask(Option<Ipv4Addr>),
    /// INTERNAL_IP4_DNS.
    Ip4Dns(Option<Ipv4Addr>),
    /// INTERNAL_IP6_ADDRESS, with the length of its prefix.
    Ip6Address(Option<(Ipv6Addr, u8)>),
    /// INTERNAL_IP6_DNS.
    Ip6Dns(Option<Ipv6Addr>),
    /// INTERNAL_DNS_DOMAIN (RFC 8598, 4.1).
    DnsDomain(Option<Domain>),
}

/// A domain name in presentation format, lower case and without a final dot, printable as it is.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Reads a name of letters, digits, hyphens and underscores; others have an A-label (RFC 8598, 4.1).
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_".contains(&octet);
            (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain)
        };
        let good = text.len() <= MAX_DOMAIN && text.split('.').all(label);
        good.then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A Configuration payload, as far as it is of use here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Configuration {
    /// Which half of which exchange.
    pub kind: CfgType,
    /// In wire order.
    pub attributes: Vec<Attribute>,
}

impl Configuration {
    /// Attributes accepted in one payload, unknown ones included. strongSwan sends about ten.
    pub const MAX: usize = 64;

    /// Reads the body of a CP payload.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let [kind, _, _, _] = cursor.array()?;
        let kind = CfgType::from_number(kind).ok_or(WireError::Value {
            field: "CFG type",
            value: u32::from(kind),
        })?;
        let mut attributes = Vec::new();
        let mut count = 0;
        while !cursor.is_empty() {
            count += 1;
            if count > Self::MAX {
                return Err(WireError::TooMany {
                    what: "configuration attributes",
                    limit: Self::MAX,
                });
            }
            attributes.extend(Attribute::parse(&mut cursor)?);
        }
        Ok(Self { kind, attributes })
    }

    /// Appends the body of a CP payload. At most [`Self::MAX`] attributes are written.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind.number(), 0, 0, 0]);
        for attribute in self.attributes.iter().take(Self::MAX) {
            attribute.emit(out);
        }
    }
}

impl Attribute {
    /// `None` for one that is not for us. A length that its type does not have is an error.
    fn parse(cursor: &mut Cursor<'_>) -> Result<Option<Self>, WireError> {
        let at = cursor.position();
        let kind = cursor.u16()? & !RESERVED;
        let length = cursor.u16()?;
        let value = cursor.take(usize::from(length))?;
        let attribute = match kind {
            INTERNAL_IP4_ADDRESS => Self::Ip4Address(fixed(value, at)?.map(Ipv4Addr::from_octets)),
            INTERNAL_IP4_NETMASK => Self::Ip4Netmask(fixed(value, at)?.map(Ipv4Addr::from_octets)),
            INTERNAL_IP4_DNS => Self::Ip4Dns(fixed(value, at)?.map(Ipv4Addr::from_octets)),
            INTERNAL_IP6_ADDRESS => Self::Ip6Address(address_and_prefix(value, at)?),
            INTERNAL_IP6_DNS => Self::Ip6Dns(fixed(value, at)?.map(Ipv6Addr::from_octets)),
            INTERNAL_DNS_DOMAIN if value.is_empty() => Self::DnsDomain(None),
            INTERNAL_DNS_DOMAIN => {
                // What is no name is no use, and no reason to fail (RFC 8598, 5).
                let text = str::from_utf8(value).ok();
                let Some(domain) = text.and_then(Domain::from_text) else {
                    return Ok(None);
                };
                Self::DnsDomain(Some(domain))
            }
            _ => return Ok(None),
        };
        Ok(Some(attribute))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        let (kind, value) = match self {
            Self::Ip4Address(address) => (INTERNAL_IP4_ADDRESS, octets(*address)),
            Self::Ip4Netmask(mask) => (INTERNAL_IP4_NETMASK, octets(*mask)),
            Self::Ip4Dns(server) => (INTERNAL_IP4_DNS, octets(*server)),
            Self::Ip6Address(address) => {
                let mut value = octets(address.map(|(address, _)| address));
                value.extend(address.map(|(_, prefix)| prefix));
                (INTERNAL_IP6_ADDRESS, value)
            }
            Self::Ip6Dns(server) => (INTERNAL_IP6_DNS, octets(*server)),
            Self::DnsDomain(domain) => {
                let text = domain.as_ref().map_or("", Domain::as_str);
                (INTERNAL_DNS_DOMAIN, text.as_bytes().to_vec())
            }
        };
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(&value);
    }
}

/// A value of one length, or none at all.
fn fixed<const N: usize>(value: &[u8], at: usize) -> Result<Option<[u8; N]>, WireError> {
    if value.is_empty() {
        return Ok(None);
    }
    value
        .try_into()
        .map(Some)
        .map_err(|_| WireError::Length { at })
}

fn address_and_prefix(value: &[u8], at: usize) -> Result<Option<(Ipv6Addr, u8)>, WireError> {
    let Some((prefix, address)) = value.split_last() else {
        return Ok(None);
    };
    let address = fixed(address, at)?.ok_or(WireError::Length { at })?;
    if *prefix > 128 {
        return Err(WireError::Value {
            field: "prefix length",
            value: u32::from(*prefix),
        });
    }
    Ok(Some((Ipv6Addr::from_octets(address), *prefix)))
}

fn octets(address: Option<impl Into<IpAddr>>) -> Vec<u8> {
    match address.map(Into::into) {
        None => Vec::new(),
        Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Configuration {
        let v6 = "2001:db8::7".parse().expect("address");
        Configuration {
            kind: CfgType::Reply,
            attributes: vec![
                Attribute::Ip4Address(Some(Ipv4Addr::new(10, 3, 0, 1))),
                Attribute::Ip4Netmask(Some(Ipv4Addr::BROADCAST)),
                Attribute::Ip4Dns(None),
                Attribute::Ip6Address(Some((v6, 128))),
                Attribute::Ip6Address(None),
                Attribute::Ip6Dns(Some(v6)),
                Attribute::DnsDomain(Domain::from_text("Corp.Example.")),
                Attribute::DnsDomain(None),
            ],
        }
    }

    fn octets_of(configuration: &Configuration) -> Vec<u8> {
        let mut out = Vec::new();
        configuration.emit(&mut out);
        out
    }

    #[test]
    fn attributes_read_back_and_unknown_ones_are_passed_over() {
        let mut octets = octets_of(&sample());
        assert_eq!(Configuration::parse(&octets), Ok(sample()));
        // APPLICATION_VERSION, with the reserved bit set.
        octets.extend_from_slice(&[0x80, 7, 0, 2, b'h', b'i']);
        assert_eq!(Configuration::parse(&octets), Ok(sample()));
    }

    #[test]
    fn the_reserved_bit_is_ignored() {
        let body = [1, 0, 0, 0, 0x80, 1, 0, 0];
        let read = Configuration::parse(&body).expect("well formed");
        assert_eq!(read.attributes, [Attribute::Ip4Address(None)]);
    }

    #[test]
    fn every_truncation_is_an_error_or_fewer_attributes() {
        let octets = octets_of(&sample());
        for end in 0..octets.len() {
            let read = Configuration::parse(&octets[..end]);
            let whole = sample().attributes;
            assert!(read.is_err() || read.is_ok_and(|read| read.attributes.len() < whole.len()));
        }
        for bit in 0..octets.len() * 8 {
            let mut changed = octets.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = Configuration::parse(&changed) {
                assert_eq!(Configuration::parse(&octets_of(&read)), Ok(read));
            }
        }
    }

    #[test]
    fn lengths_that_no_address_has_are_refused() {
        for (kind, length) in [(1, 3), (1, 5), (2, 1), (3, 16), (8, 16), (8, 18), (10, 17)] {
            let mut body = vec![1, 0, 0, 0, 0, kind, 0, length];
            body.extend(vec![0; usize::from(length)]);
            assert!(
                Configuration::parse(&body).is_err(),
                "type {kind}, length {length}"
            );
        }
        let mut long = vec![1, 0, 0, 0, 0, 8, 0, 17];
        long.extend([0; 16]);
        long.push(129);
        assert!(Configuration::parse(&long).is_err());
        assert!(Configuration::parse(&[9, 0, 0, 0]).is_err(), "CFG type");
    }

    #[test]
    fn sixty_five_attributes_are_too_many_even_if_unknown() {
        for kind in [1, 200] {
            let mut body = vec![1, 0, 0, 0];
            for _ in 0..Configuration::MAX {
                body.extend([0, kind, 0, 0]);
            }
            assert!(Configuration::parse(&body).is_ok());
            body.extend([0, kind, 0, 0]);
            assert!(matches!(
                Configuration::parse(&body),
                Err(WireError::TooMany { .. })
            ));
        }
    }

    #[test]
    fn a_domain_is_printable_or_nothing() {
        for bad in [
            "",
            ".",
            "a..b",
            "a b",
            "caf\u{e9}.example",
            "x\n",
            "nul\0",
            &"a".repeat(64),
        ] {
            assert_eq!(Domain::from_text(bad), None, "{bad:?}");
        }
        assert_eq!(Domain::from_text(&"abcd.".repeat(60)), None);
        let name = Domain::from_text("_ldap.Corp.example.").expect("a name");
        assert_eq!(name.as_str(), "_ldap.corp.example");
        let body = [2, 0, 0, 0, 0, 25, 0, 3, b'a', 0, b'b'];
        let read = Configuration::parse(&body).expect("well formed");
        assert!(read.attributes.is_empty());
    }
}
