//! Which gateway to go to instead, and which one sent us (RFC 5685, 9.2 and 9.3).

use std::{fmt, net::IpAddr, sync::Arc};

use super::{WireError, cursor::Cursor};

/// Octets of the longest name in the DNS, as text.
const MAX_NAME: usize = 253;

/// A gateway as REDIRECT names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GatewayId {
    /// Its address, which is one host's.
    Address(IpAddr),
    /// Its name in the DNS: letters, digits, dots, hyphens and underscores.
    Name(Arc<str>),
}

impl GatewayId {
    /// Reads an address or a name as an operator writes it.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text.parse() {
            Ok(address) => one_host(address).then_some(Self::Address(address)),
            Err(_) => is_name(text).then(|| Self::Name(Arc::from(text))),
        }
    }

    /// Appends type, length and identity.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let mut put = |kind: u8, octets: &[u8]| {
            out.extend_from_slice(&[kind, octets.len() as u8]);
            out.extend_from_slice(octets);
        };
        match self {
            Self::Address(IpAddr::V4(v4)) => put(1, &v4.octets()),
            Self::Address(IpAddr::V6(v6)) => put(2, &v6.octets()),
            Self::Name(name) => put(3, name.as_bytes()),
        }
    }

    fn parse(cursor: &mut Cursor<'_>) -> Result<Self, WireError> {
        let [kind, length] = cursor.array()?;
        let octets = cursor.take(usize::from(length))?;
        let wrong = WireError::Value {
            field: "GW Ident Type",
            value: u32::from(kind),
        };
        let address = match kind {
            1 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
            2 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
            3 => {
                let name = std::str::from_utf8(octets)
                    .ok()
                    .filter(|name| is_name(name));
                return name.map(|name| Self::Name(Arc::from(name))).ok_or(wrong);
            }
            _ => return Err(wrong),
        };
        let address = address.filter(|address| one_host(*address));
        address.map(Self::Address).ok_or(wrong)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// The data of REDIRECT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect<'a> {
    /// Where to go.
    pub gateway: GatewayId,
    /// The nonce of the request; empty in protected messages.
    pub nonce: &'a [u8],
}

impl<'a> Redirect<'a> {
    /// Reads the data of a REDIRECT.
    pub fn parse(data: &'a [u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(data);
        let gateway = GatewayId::parse(&mut cursor)?;
        let nonce = cursor.rest();
        Ok(Self { gateway, nonce })
    }

    /// The data of a REDIRECT.
    #[must_use]
    pub fn data(gateway: &GatewayId, nonce: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        gateway.emit(&mut data);
        data.extend_from_slice(nonce);
        data
    }
}

/// Reads the data of a REDIRECTED_FROM: an address, and nothing after it.
pub fn redirected_from(data: &[u8]) -> Result<IpAddr, WireError> {
    let mut cursor = Cursor::new(data);
    match GatewayId::parse(&mut cursor)? {
        GatewayId::Address(address) if cursor.is_empty() => Ok(address),
        _ => Err(WireError::Length { at: 0 }),
    }
}

/// Whether one host can have the address, so that no message of ours goes to a whole network.
const fn one_host(address: IpAddr) -> bool {
    let broadcast = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(_) => false,
    };
    !(broadcast || address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

/// What may be printed and given to a resolver.
fn is_name(text: &str) -> bool {
    let known = |octet: u8| octet.is_ascii_alphanumeric() || b".-_".contains(&octet);
    (1..=MAX_NAME).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(known)
        && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_gateway_reads_back_with_its_nonce() {
        for text in ["198.51.100.2", "2001:db8::2", "gw2.example"] {
            let gateway = GatewayId::from_text(text).expect("a gateway");
            assert_eq!(gateway.to_string(), text);
            for nonce in [&[][..], &[7; 32]] {
                let data = Redirect::data(&gateway, nonce);
                let read = Redirect::parse(&data).expect("our own");
                assert_eq!((read.gateway, read.nonce), (gateway.clone(), nonce));
            }
        }
        // RFC 5685, 9.2: type, length, identity, nonce.
        let gateway = GatewayId::from_text("198.51.100.2").expect("a gateway");
        assert_eq!(
            Redirect::data(&gateway, &[9, 9]),
            [1, 4, 198, 51, 100, 2, 9, 9]
        );
    }

    #[test]
    fn what_is_no_one_hosts_address_or_no_name_is_refused() {
        for text in [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "::",
            "::1",
            "ff02::1",
            "",
            ".example",
            "-gw",
            "a..b",
            "gw example",
            "gw\nexample",
            "gw%example",
        ] {
            assert_eq!(GatewayId::from_text(text), None, "{text:?}");
        }
        assert!(GatewayId::from_text(&"a".repeat(MAX_NAME)).is_some());
        assert!(GatewayId::from_text(&"a".repeat(MAX_NAME + 1)).is_none());
        for data in [
            &[][..],
            &[1],
            &[1, 3, 198, 51, 100],
            &[1, 5, 198, 51, 100, 2, 1],
            &[1, 4, 198, 51, 100],
            &[1, 4, 224, 0, 0, 1],
            &[2, 4, 198, 51, 100, 2],
            &[3, 0],
            &[3, 2, b'\n', b'a'],
            &[3, 2, 0xff, b'a'],
            &[4, 4, 198, 51, 100, 2],
            &[0, 0],
        ] {
            assert!(Redirect::parse(data).is_err(), "{data:?}");
        }
    }

    #[test]
    fn who_sent_us_is_an_address_and_nothing_else() {
        assert_eq!(
            redirected_from(&[1, 4, 198, 51, 100, 1]),
            Ok(IpAddr::from([198, 51, 100, 1]))
        );
        assert!(redirected_from(&[1, 4, 198, 51, 100, 1, 0]).is_err());
        assert!(redirected_from(&[3, 2, b'g', b'w']).is_err());
    }
}
