//! Traffic selector payloads, TSi and TSr (RFC 7296, 3.13), and the narrowing of RFC 7296, 2.9.

mod text;

use std::net::IpAddr;

pub use text::SelectorError;

use super::{WireError, cursor::Cursor};

/// The protocol ICMP, whose types and codes stand where others have ports.
pub const ICMP: u8 = 1;
/// The same of IPv6.
pub const ICMPV6: u8 = 58;
const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;
/// Octets of what every type begins with: type, protocol and length.
const TS_HEADER: usize = 4;

/// One range of addresses, ports and one protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrafficSelector {
    /// IP protocol; 0 for any.
    pub protocol: u8,
    /// First port; 0 together with `end_port` 65535 means any. For ICMP and ICMPv6 the type is in the
    /// upper octet and the code in the lower (RFC 7296, 3.13.1).
    pub start_port: u16,
    /// Last port.
    pub end_port: u16,
    /// First address.
    pub start: IpAddr,
    /// Last address, of the same family.
    pub end: IpAddr,
}

impl TrafficSelector {
    /// Selectors accepted in one payload; peers send one to four.
    pub const MAX: usize = 16;

    /// Everything to or from one network.
    #[must_use]
    pub fn network(address: IpAddr, prefix: u8) -> Self {
        let (start, end) = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(prefix.min(32)))
                    .unwrap_or(0);
                let first = u32::from(v4) & mask;
                (IpAddr::V4(first.into()), IpAddr::V4((first | !mask).into()))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(prefix.min(128)))
                    .unwrap_or(0);
                let first = u128::from(v6) & mask;
                (IpAddr::V6(first.into()), IpAddr::V6((first | !mask).into()))
            }
        };
        Self {
            protocol: 0,
            start_port: 0,
            end_port: u16::MAX,
            start,
            end,
        }
    }

    /// Network address and prefix length that cover the range. Exact for ranges that are a prefix;
    /// the kernel's policies know nothing else.
    #[must_use]
    pub fn prefix(&self) -> (IpAddr, u8) {
        match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => (
                self.start,
                (u32::from(start) ^ u32::from(end)).leading_zeros() as u8,
            ),
            (IpAddr::V6(start), IpAddr::V6(end)) => (
                self.start,
                (u128::from(start) ^ u128::from(end)).leading_zeros() as u8,
            ),
            _ => (self.start, if self.start.is_ipv4() { 32 } else { 128 }),
        }
    }

    /// What both selectors cover, if anything (RFC 7296, 2.9).
    #[must_use]
    pub fn narrow(&self, other: &Self) -> Option<Self> {
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (0, protocol) | (protocol, 0) => protocol,
            (a, b) if a == b => a,
            _ => return None,
        };
        let both = Self {
            protocol,
            start_port: self.start_port.max(other.start_port),
            end_port: self.end_port.min(other.end_port),
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        (both.start <= both.end && both.start_port <= both.end_port).then_some(both)
    }

    /// Reads the body of a TSi or TSr payload: the first [`Self::MAX`] of the types we know. A responder may
    /// leave out what it cannot take (RFC 7296, 2.9).
    pub fn parse_all(body: &[u8]) -> Result<Vec<Self>, WireError> {
        let mut cursor = Cursor::new(body);
        let [count, ..]: [u8; 4] = cursor.array()?;
        let count = usize::from(count);
        if count == 0 {
            return Err(WireError::Value {
                field: "number of TSs",
                value: 0,
            });
        }
        let mut selectors = Vec::new();
        for _ in 0..count {
            let known = Self::parse(&mut cursor)?;
            selectors.extend(known.filter(|_| selectors.len() < Self::MAX));
        }
        if cursor.is_empty() {
            Ok(selectors)
        } else {
            Err(WireError::Length { at: 0 })
        }
    }

    /// `None` if it is of a type we do not know.
    fn parse(cursor: &mut Cursor<'_>) -> Result<Option<Self>, WireError> {
        let at = cursor.position();
        let [kind, protocol] = cursor.array()?;
        let length = cursor.u16()?;
        if !matches!(kind, TS_IPV4_ADDR_RANGE | TS_IPV6_ADDR_RANGE) {
            let rest = usize::from(length).checked_sub(TS_HEADER);
            cursor.take(rest.ok_or(WireError::Length { at })?)?;
            return Ok(None);
        }
        let (start_port, end_port) = (cursor.u16()?, cursor.u16()?);
        let (start, end) = match (kind, length) {
            (TS_IPV4_ADDR_RANGE, 16) => (
                IpAddr::from(cursor.array::<4>()?),
                IpAddr::from(cursor.array::<4>()?),
            ),
            (TS_IPV6_ADDR_RANGE, 40) => (
                IpAddr::from(cursor.array::<16>()?),
                IpAddr::from(cursor.array::<16>()?),
            ),
            _ => return Err(WireError::Length { at }),
        };
        if start > end {
            return Err(WireError::Value {
                field: "TS address range",
                value: 0,
            });
        }
        // OPAQUE ports (65535..0) are treated as any: no policy of ours can name a port-less packet.
        let (start_port, end_port) = if start_port > end_port {
            (0, u16::MAX)
        } else {
            (start_port, end_port)
        };
        Ok(Some(Self {
            protocol,
            start_port,
            end_port,
            start,
            end,
        }))
    }

    /// Appends the body of a TSi or TSr payload. At most [`Self::MAX`] selectors are written.
    pub fn emit_all(selectors: &[Self], out: &mut Vec<u8>) {
        let count = selectors.len().min(Self::MAX);
        out.extend_from_slice(&[count as u8, 0, 0, 0]);
        for selector in selectors.iter().take(count) {
            let (kind, length): (u8, u16) = match selector.start {
                IpAddr::V4(_) => (TS_IPV4_ADDR_RANGE, 16),
                IpAddr::V6(_) => (TS_IPV6_ADDR_RANGE, 40),
            };
            out.extend_from_slice(&[kind, selector.protocol]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&selector.start_port.to_be_bytes());
            out.extend_from_slice(&selector.end_port.to_be_bytes());
            for address in [selector.start, selector.end] {
                match address {
                    IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> TrafficSelector {
        TrafficSelector::from_text(text).expect("valid network")
    }

    #[test]
    fn networks_read_back() {
        for text in [
            "10.1.0.0/16",
            "0.0.0.0/0",
            "192.0.2.1/32",
            "2001:db8::/32",
            "::/0",
            "10.1.0.0/16[tcp/443]",
            "10.1.0.0/16[udp/1024-2047]",
            "10.1.0.0/16[icmp/2048-2303]",
            "::/0[icmpv6]",
            "0.0.0.0/0[89]",
            "10.2.0.5-10.2.0.20",
            "2001:db8::1-2001:db8::2[tcp/443]",
        ] {
            assert_eq!(net(text).to_string(), text);
            let mut body = Vec::new();
            TrafficSelector::emit_all(&[net(text)], &mut body);
            assert_eq!(TrafficSelector::parse_all(&body), Ok(vec![net(text)]));
        }
    }

    #[test]
    fn narrowing_is_the_intersection() {
        assert_eq!(
            net("0.0.0.0/0").narrow(&net("10.1.0.0/16")),
            Some(net("10.1.0.0/16"))
        );
        assert_eq!(net("10.2.0.0/16").narrow(&net("10.1.0.0/16")), None);
        assert_eq!(net("::/0").narrow(&net("10.1.0.0/16")), None);
        for (ours, theirs, both) in [
            ("10.1.0.0/16", "10.0.0.0/8[tcp]", Some("10.1.0.0/16[tcp]")),
            (
                "10.1.0.0/16[tcp/443]",
                "10.1.0.0/16[tcp]",
                Some("10.1.0.0/16[tcp/443]"),
            ),
            (
                "10.1.0.0/16[udp/1-1023]",
                "10.1.2.0/24[udp/500-4500]",
                Some("10.1.2.0/24[udp/500-1023]"),
            ),
            ("10.1.0.0/16[tcp/443]", "10.1.0.0/16[tcp/80]", None),
            ("10.1.0.0/16[tcp/443]", "10.1.0.0/16[udp/443]", None),
            (
                "2001:db8::/32[tcp/443]",
                "::/0",
                Some("2001:db8::/32[tcp/443]"),
            ),
            (
                "::/0[icmpv6/32768]",
                "2001:db8::/32[icmpv6]",
                Some("2001:db8::/32[icmpv6/32768]"),
            ),
        ] {
            let narrowed = net(ours).narrow(&net(theirs));
            assert_eq!(narrowed, both.map(net), "{ours} and {theirs}");
            assert_eq!(net(theirs).narrow(&net(ours)), narrowed);
        }
    }

    #[test]
    fn counts_and_lengths_that_lie_are_refused() {
        let mut body = Vec::new();
        TrafficSelector::emit_all(&[net("10.1.0.0/16")], &mut body);
        for end in 0..body.len() {
            assert!(TrafficSelector::parse_all(&body[..end]).is_err());
        }
        body[0] = 255;
        assert!(TrafficSelector::parse_all(&body).is_err());
        body[0] = 0;
        assert!(TrafficSelector::parse_all(&body).is_err());
    }

    #[test]
    fn what_is_too_much_or_unknown_is_left_out() {
        let one = net("10.1.0.0/16");
        let mut body = Vec::new();
        TrafficSelector::emit_all(&[one], &mut body);
        // A type for security labels (RFC 9478), with two octets in it.
        body.extend_from_slice(&[10, 0, 0, 6, 1, 2]);
        body[0] = 2;
        assert_eq!(TrafficSelector::parse_all(&body), Ok(vec![one]));
        for length in [0, 3, 7] {
            let at = body.len() - 3;
            body[at] = length;
            assert!(TrafficSelector::parse_all(&body).is_err(), "{length}");
        }
        let mut body = vec![TrafficSelector::MAX as u8 + 1, 0, 0, 0];
        for third in 0..=TrafficSelector::MAX as u8 {
            let mut single = Vec::new();
            TrafficSelector::emit_all(&[net(&format!("10.1.{third}.0/24"))], &mut single);
            body.extend_from_slice(&single[4..]);
        }
        let read = TrafficSelector::parse_all(&body).expect("one more than is kept");
        assert_eq!(read.len(), TrafficSelector::MAX);
        assert!(TrafficSelector::parse_all(&body[..body.len() - 1]).is_err());
    }
}
