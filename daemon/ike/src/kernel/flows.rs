//! How many flows a Child SA is to a kernel, which knows networks and blocks of ports where IKE has ranges
//! (RFC 7296, 3.13.1), and a bound for them: each takes policies of its own.

use std::net::IpAddr;

use crate::wire::ts::{ICMP, ICMPV6, TrafficSelector};

/// Flows of one Child SA as the kernel can tell them apart.
pub const MAX_FLOWS: usize = 64;

/// What both selectors of a pair are about; `None` if no packet is of two protocols.
#[must_use]
pub const fn protocol_of(one: &TrafficSelector, other: &TrafficSelector) -> Option<u8> {
    match (one.protocol, other.protocol) {
        (0, protocol) | (protocol, 0) => Some(protocol),
        (a, b) if a == b => Some(a),
        _ => None,
    }
}

/// Whether a protocol has type and code where others have ports. They belong to the packet and not to one
/// end of it.
#[must_use]
pub const fn has_types(protocol: u8) -> bool {
    matches!(protocol, ICMP | ICMPV6)
}

/// Aligned powers of two that make up a range, the fewest there are: (first, size).
///
/// For ports 30 at most, for addresses of IPv4 62, of IPv6 254.
fn blocks(first: u128, last: u128) -> impl Iterator<Item = (u128, u32)> {
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let start = next.filter(|start| *start <= last)?;
        // Of all 2^128 addresses one less is told apart from them by nothing but this.
        let left = (last - start).checked_add(1).map_or(128, u128::ilog2);
        let bits = start.trailing_zeros().min(left);
        next = 1_u128
            .checked_shl(bits)
            .and_then(|size| start.checked_add(size));
        Some((start, bits))
    })
}

/// The fewest networks, address and prefix length, that make up a selector's addresses.
pub fn networks(ts: &TrafficSelector) -> impl Iterator<Item = (IpAddr, u8)> + use<> {
    let (first, last, longest) = match (ts.start, ts.end) {
        (IpAddr::V4(start), IpAddr::V4(end)) => {
            (u32::from(start).into(), u32::from(end).into(), 32)
        }
        (IpAddr::V6(start), IpAddr::V6(end)) => (start.into(), end.into(), 128),
        // A selector is of one family.
        _ => (1, 0, 0),
    };
    blocks(first, last).map(move |(address, bits)| {
        let address = match u32::try_from(address) {
            Ok(v4) if longest == 32 => IpAddr::V4(v4.into()),
            _ => IpAddr::V6(address.into()),
        };
        (address, (longest - bits) as u8)
    })
}

/// The fewest ports with a mask each that make up a range.
pub fn ports(first: u16, last: u16) -> impl Iterator<Item = (u16, u16)> {
    blocks(first.into(), last.into())
        .map(|(port, bits)| (port as u16, u16::MAX.checked_shl(bits).unwrap_or(0)))
}

/// How many flows there are between these.
#[must_use]
pub fn count(local: &[TrafficSelector], remote: &[TrafficSelector]) -> usize {
    let pairs = local
        .iter()
        .flat_map(|ours| remote.iter().map(move |theirs| (ours, theirs)));
    pairs.map(|(ours, theirs)| of_pair(ours, theirs)).sum()
}

fn of_pair(ours: &TrafficSelector, theirs: &TrafficSelector) -> usize {
    if ours.start.is_ipv4() != theirs.start.is_ipv4() {
        return 0;
    }
    let Some(protocol) = protocol_of(ours, theirs) else {
        return 0;
    };
    let ports = if has_types(protocol) {
        let first = ours.start_port.max(theirs.start_port);
        ports(first, ours.end_port.min(theirs.end_port)).count()
    } else {
        let of = |ts: &TrafficSelector| ports(ts.start_port, ts.end_port).count();
        of(ours) * of(theirs)
    };
    networks(ours).count() * networks(theirs).count() * ports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        TrafficSelector::from_text(text).expect("a selector")
    }

    #[test]
    fn ranges_are_made_up_of_networks() {
        for (range, all) in [
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            (
                "10.2.0.5-10.2.0.20",
                "10.2.0.5/32 10.2.0.6/31 10.2.0.8/29 10.2.0.16/30 10.2.0.20/32",
            ),
            ("255.255.255.254-255.255.255.255", "255.255.255.254/31"),
            ("2001:db8::1-2001:db8::3", "2001:db8::1/128 2001:db8::2/127"),
        ] {
            let all_of =
                networks(&ts(range)).map(|(address, prefix)| format!("{address}/{prefix}"));
            assert_eq!(all_of.collect::<Vec<_>>().join(" "), all);
        }
        let most = |range| networks(&ts(range)).count();
        assert_eq!(most("0.0.0.1-255.255.255.254"), 62);
        assert_eq!(most("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"), 254);
    }

    #[test]
    fn flows_are_counted_as_the_kernel_has_them() {
        let any = [ts("0.0.0.0/0")];
        for (local, flows) in [
            ("10.0.0.0/8", 1),
            ("10.2.0.5-10.2.0.20", 5),
            ("10.0.0.0/8[tcp/1024-2047]", 1),
            ("10.0.0.0/8[tcp/1-65534]", 30),
            ("10.2.0.5-10.2.0.20[tcp/1-2]", 10),
            ("10.0.0.0/8[icmp/2048-2303]", 1),
            ("::/0", 0),
        ] {
            assert_eq!(count(&[ts(local)], &any), flows, "{local}");
        }
        assert_eq!(count(&[ts("10.0.0.0/8[tcp]")], &[ts("0.0.0.0/0[udp]")]), 0);
        assert_eq!(count(&vec![any[0]; 9], &vec![any[0]; 9]), 81);
    }
}
