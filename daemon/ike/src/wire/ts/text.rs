//! Traffic selectors as operators write them and see them, in swanctl's form: `10.1.0.0/16`,
//! `10.1.0.0/16[tcp/443]`, `2001:db8::/32[udp/1024-2047]`, `10.1.0.0/16[icmp]`, `10.1.0.5-10.1.0.20`.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use thiserror::Error;

use super::{ICMP, ICMPV6, TrafficSelector};

/// Protocols that have a name here (IANA).
const NAMES: &[(u8, &str)] = &[
    (1, "icmp"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "icmpv6"),
    (132, "sctp"),
    (136, "udplite"),
];
/// Those with ports, or with types and codes in their place.
const WITH_PORTS: &[u8] = &[1, 6, 17, 33, 58, 132, 136];
const ANY_PORT: RangeInclusive<u16> = 0..=u16::MAX;

/// Why a text is no traffic selector.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SelectorError {
    /// In front of the bracket.
    #[error("is not a network; write 10.1.0.0/24, or a range, 10.1.0.5-10.1.0.20")]
    Network,
    /// In the bracket.
    #[error("names no protocol; write [tcp], [udp/53] or a number from 1 to 255")]
    Protocol,
    /// Behind the slash in it.
    #[error("names no port; write a number, or a range such as [tcp/1024-2047]")]
    Port,
    /// A port of something that has none.
    #[error("names a port of a protocol without ports")]
    Portless,
    /// ICMP of the other family.
    #[error("is of another family than its ICMP; icmp is IPv4's and icmpv6 IPv6's")]
    Family,
}

impl TrafficSelector {
    /// Reads a network, a single address or a range, and behind it what of its traffic is meant, if not all.
    pub fn from_text(text: &str) -> Result<Self, SelectorError> {
        let (network, inside) = match text.split_once('[') {
            Some((network, rest)) => {
                let inside = rest.strip_suffix(']').ok_or(SelectorError::Protocol)?;
                (network, Some(inside))
            }
            None => (text, None),
        };
        let network = read_network(network).ok_or(SelectorError::Network)?;
        let Some(inside) = inside else {
            return Ok(network);
        };
        let (protocol, ports) = match inside.split_once('/') {
            Some((protocol, ports)) => (protocol, Some(ports)),
            None => (inside, None),
        };
        let protocol = read_protocol(protocol).ok_or(SelectorError::Protocol)?;
        let ports = match ports {
            Some(_) if !WITH_PORTS.contains(&protocol) => return Err(SelectorError::Portless),
            Some(ports) => read_ports(ports).ok_or(SelectorError::Port)?,
            None => ANY_PORT,
        };
        let strange = match protocol {
            ICMP => network.start.is_ipv6(),
            ICMPV6 => network.start.is_ipv4(),
            _ => false,
        };
        if strange {
            return Err(SelectorError::Family);
        }
        Ok(Self {
            protocol,
            start_port: *ports.start(),
            end_port: *ports.end(),
            ..network
        })
    }
}

fn read_network(text: &str) -> Option<TrafficSelector> {
    if let Some((start, end)) = text.split_once('-') {
        let (start, end): (IpAddr, IpAddr) = (start.parse().ok()?, end.parse().ok()?);
        let is_range = start.is_ipv4() == end.is_ipv4() && start <= end;
        let whole = TrafficSelector::network(start, 0);
        return is_range.then_some(TrafficSelector {
            start,
            end,
            ..whole
        });
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse().ok()?, Some(prefix.parse::<u8>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(longest);
    (prefix <= longest).then(|| TrafficSelector::network(address, prefix))
}

fn read_protocol(text: &str) -> Option<u8> {
    let named = NAMES.iter().find(|(_, name)| *name == text);
    let number = named
        .map(|(number, _)| *number)
        .or_else(|| text.parse().ok());
    number.filter(|number| *number != 0)
}

fn read_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = first.parse().ok()?..=last.parse().ok()?;
    (!ports.is_empty()).then_some(ports)
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, prefix) = self.prefix();
        let network = Self::network(address, prefix);
        if (network.start, network.end) == (self.start, self.end) {
            write!(f, "{address}/{prefix}")?;
        } else {
            write!(f, "{}-{}", self.start, self.end)?;
        }
        let (first, last) = (self.start_port, self.end_port);
        let any_port = (first..=last) == ANY_PORT;
        if self.protocol == 0 && any_port {
            return Ok(());
        }
        match NAMES.iter().find(|(number, _)| *number == self.protocol) {
            Some((_, name)) => write!(f, "[{name}")?,
            None => write!(f, "[{}", self.protocol)?,
        }
        if !any_port {
            write!(f, "/{first}")?;
            if last != first {
                write!(f, "-{last}")?;
            }
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_selector_is_told_why() {
        for (text, why) in [
            ("10.0.0.0/33", SelectorError::Network),
            ("10.0.0.0/8 ", SelectorError::Network),
            ("[tcp]", SelectorError::Network),
            ("10.0.0.2-10.0.0.1", SelectorError::Network),
            ("10.0.0.2-::3", SelectorError::Network),
            ("10.0.0.0-10.0.0.0/8", SelectorError::Network),
            ("10.0.0.0/8[", SelectorError::Protocol),
            ("10.0.0.0/8[]", SelectorError::Protocol),
            ("10.0.0.0/8[tcp]x", SelectorError::Protocol),
            ("10.0.0.0/8[http]", SelectorError::Protocol),
            ("10.0.0.0/8[0/80]", SelectorError::Protocol),
            ("10.0.0.0/8[256]", SelectorError::Protocol),
            ("10.0.0.0/8[tcp/]", SelectorError::Port),
            ("10.0.0.0/8[tcp/65536]", SelectorError::Port),
            ("10.0.0.0/8[tcp/443-80]", SelectorError::Port),
            ("10.0.0.0/8[tcp/http]", SelectorError::Port),
            ("10.0.0.0/8[gre/1]", SelectorError::Portless),
            ("10.0.0.0/8[icmpv6]", SelectorError::Family),
            ("::/0[icmp]", SelectorError::Family),
        ] {
            assert_eq!(TrafficSelector::from_text(text), Err(why), "{text}");
        }
        let by_number = TrafficSelector::from_text("10.0.0.0/8[6/443]");
        assert_eq!(
            by_number,
            TrafficSelector::from_text("10.0.0.0/8[tcp/443-443]")
        );
    }
}
