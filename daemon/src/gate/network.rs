//! Networks as people write them: an address and its number of bits, or an address alone.

use std::net::{IpAddr, Ipv6Addr};

use gate_abi::networks::Prefix;
use ike::wire::ts::TrafficSelector;

use super::mapped;

/// What IPv4 addresses have in front of them within IPv6.
const MAPPED_BITS: u32 = 96;

/// Reads one; `None` for what is none, or has bits set beyond those that count.
#[must_use]
pub fn network_from_text(text: &str) -> Option<Prefix> {
    // What follows a bracket would be ports.
    let whole = Some(text).filter(|text| !text.contains('['))?;
    let (address, bits) = TrafficSelector::from_text(whole).ok()?.prefix();
    // What was written, not the network that it lies in.
    let written = whole.split('/').next()?.parse::<IpAddr>().ok()?;
    let before = if address.is_ipv4() {
        MAPPED_BITS as u8
    } else {
        0
    };
    Prefix::new(mapped(&written), before + bits)
}

/// Writes one, as [`network_from_text`] reads it.
#[must_use]
pub fn network_to_text(network: Prefix) -> String {
    let (bits, address) = network.key();
    let address = Ipv6Addr::from(address);
    match (address.to_ipv4_mapped(), bits.checked_sub(MAPPED_BITS)) {
        (Some(v4), Some(bits)) => format!("{v4}/{bits}"),
        _ => format!("{address}/{bits}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again() {
        for (text, written) in [
            ("203.0.113.0/24", "203.0.113.0/24"),
            ("198.51.100.7", "198.51.100.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8:bad::/48", "2001:db8:bad::/48"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("::/0", "::/0"),
        ] {
            let network = network_from_text(text).expect(text);
            assert_eq!(network_to_text(network), written);
        }
    }

    #[test]
    fn what_is_no_network_is_not_read() {
        for text in [
            "",
            "203.0.113.1/24",
            "203.0.113.0/33",
            "host",
            "10.0.0.0/8[udp/500]",
        ] {
            assert_eq!(network_from_text(text), None, "{text}");
        }
    }
}
