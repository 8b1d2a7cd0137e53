//! `[pools.NAME]` to [`ike::lease::Pool`], and what connections say of inner addresses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    sync::Arc,
};

use ike::{
    lease::Pool,
    wire::{cp::Domain, ts::TrafficSelector},
};

use super::{
    connection::{bad_name, is_name},
    document::quoted,
    section::{Entry, Section},
};

/// Pools of one daemon.
pub const MAX_POOLS: usize = 256;
/// Ranges of one pool.
pub const MAX_RANGES: usize = 8;
/// Networks that a range may come to; each is a policy while its clients are gone.
const MAX_NETWORKS: usize = 16;
/// Name servers, or domains, of one pool.
const MAX_SERVERS: usize = 8;

pub(super) const KEYS: &[&str] = &["addrs", "dns", "domains"];

/// All pools, by name.
#[derive(Default)]
pub(super) struct Pools(BTreeMap<Arc<str>, Arc<Pool>>);

impl Pools {
    /// Reads the pools of one file.
    pub(super) fn take(&mut self, root: &Section<'_>) {
        let Some(table) = root.entry("pools").and_then(Entry::table) else {
            return;
        };
        for (name, entry) in table.entries() {
            if self.0.contains_key(name) {
                entry.fail("is defined in an earlier file already; rename one");
            } else if self.0.len() >= MAX_POOLS {
                entry.fail(format!("is one more than {MAX_POOLS} pools"));
                return;
            } else if !is_name(name) {
                entry.fail(bad_name());
            } else if let Some(pool) = self.read(name, entry) {
                self.0.insert(Arc::clone(&pool.name), Arc::new(pool));
            }
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Pool>> {
        self.0.values().cloned().collect()
    }

    /// The pools that a connection names.
    pub(super) fn named(&self, entry: &Entry<'_>) -> Option<Vec<Arc<Pool>>> {
        let texts = entry.strings()?;
        if texts.is_empty() {
            entry.fail("is empty; name a pool, or leave it out");
            return None;
        }
        let mut pools: Vec<Arc<Pool>> = Vec::new();
        let mut sound = true;
        for (name, element) in texts {
            match self.0.get(name) {
                Some(pool) if pools.contains(pool) => {
                    element.fail(format!("{} is named twice; drop one", quoted(name)));
                    sound = false;
                }
                Some(pool) => pools.push(Arc::clone(pool)),
                None => {
                    element.fail(format!(
                        "no pool is called {}; add a table pools.NAME with addrs, without mistakes",
                        quoted(name)
                    ));
                    sound = false;
                }
            }
        }
        sound.then_some(pools)
    }

    fn read(&self, name: &str, entry: Entry<'_>) -> Option<Pool> {
        let section = entry.table()?.only(KEYS);
        let addrs = self.ranges(&section);
        let dns = listed(&section, "dns", |text, element| {
            let server = text.parse::<IpAddr>().ok();
            if server.is_none() {
                element.fail(format!("{} is not an IP address", quoted(text)));
            }
            server
        });
        let domains = listed(&section, "domains", |text, element| {
            let domain = Domain::from_text(text);
            if domain.is_none() {
                element.fail(format!(
                    "{} is not a domain; write corp.example, others as their A-label",
                    quoted(text)
                ));
            }
            domain
        });
        let ((ranges, networks), dns, domains) = (addrs?, dns?, domains?);
        if dns.is_empty() && !domains.is_empty() {
            if let Some(entry) = section.entry("domains") {
                entry.fail("needs dns, the servers to ask for them (RFC 8598, 3.1)");
            }
            return None;
        }
        Some(Pool {
            name: name.into(),
            ranges,
            networks,
            dns,
            domains,
        })
    }

    fn ranges(&self, section: &Section<'_>) -> Option<(Ranges, Vec<TrafficSelector>)> {
        let Some(entry) = section.entry("addrs") else {
            section.fail(
                "addrs",
                "is missing; write a network, \"10.3.0.0/24\", or \"10.3.0.10-10.3.0.99\"",
            );
            return None;
        };
        let texts = entry.strings()?;
        if !(1..=MAX_RANGES).contains(&texts.len()) {
            entry.fail(format!("takes 1 to {MAX_RANGES} networks or ranges"));
            return None;
        }
        let (mut ranges, mut networks) = (Vec::new(), Vec::new());
        let mut sound = true;
        for (text, element) in texts {
            let read = range(text).and_then(|(range, covering)| {
                let others = self.0.values().map(|pool| (&*pool.name, &pool.ranges));
                let others = others.chain([("this one", &ranges)]);
                for (name, others) in others {
                    if let Some(other) = others.iter().find(|other| overlap(other, &range)) {
                        let (first, last) = (other.start(), other.end());
                        return Err(format!(
                            "{} overlaps {first}-{last} of pool {name}; an address belongs to one \
                             pool, shorten one of them",
                            quoted(text)
                        ));
                    }
                }
                Ok((range, covering))
            });
            match read {
                Ok((range, covering)) => {
                    ranges.push(range);
                    networks.extend(covering);
                }
                Err(what) => {
                    element.fail(what);
                    sound = false;
                }
            }
        }
        sound.then_some((ranges, networks))
    }
}

type Ranges = Vec<RangeInclusive<IpAddr>>;

/// `vips` of a connection.
pub(super) fn vips(entry: &Entry<'_>) -> Option<Vec<IpAddr>> {
    const CURE: &str = "write \"0.0.0.0\" for any IPv4 address, \"::\" for any IPv6 address";
    let texts = entry.strings()?;
    if texts.is_empty() {
        entry.fail(format!("is empty; {CURE}"));
        return None;
    }
    let mut vips: Vec<IpAddr> = Vec::new();
    for (text, element) in texts {
        let vip = text.parse::<IpAddr>().ok();
        let Some(vip) = vip.filter(|vip| !vip.is_loopback() && !vip.is_multicast()) else {
            element.fail(format!("{} cannot be asked for; {CURE}", quoted(text)));
            return None;
        };
        if vips.iter().any(|other| other.is_ipv4() == vip.is_ipv4()) {
            element.fail("is a second address of its family; one of each can be asked for");
            return None;
        }
        vips.push(vip);
    }
    Some(vips)
}

fn listed<'a, T>(
    section: &Section<'a>,
    key: &str,
    read: impl Fn(&str, &Entry<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(entry) = section.entry(key) else {
        return Some(Vec::new());
    };
    let texts = entry.strings()?;
    if texts.len() > MAX_SERVERS {
        entry.fail(format!("takes up to {MAX_SERVERS}"));
        return None;
    }
    let all: Vec<_> = texts.iter().map(|(text, one)| read(text, one)).collect();
    all.into_iter().collect()
}

/// The addresses to lease, and the networks that cover them: `10.3.0.0/24` without its first and last
/// address, `10.3.0.10-10.3.0.99` with both.
fn range(text: &str) -> Result<(RangeInclusive<IpAddr>, Vec<TrafficSelector>), String> {
    if let Some((first, last)) = text.split_once('-') {
        let read = |text: &str| text.trim().parse::<IpAddr>().ok();
        let (Some(first), Some(last)) = (read(first), read(last)) else {
            return Err(no_range(text));
        };
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!(
                "{} begins and ends in different families",
                quoted(text)
            ));
        }
        if first > last {
            return Err(format!(
                "{} ends before it begins; turn it around",
                quoted(text)
            ));
        }
        let networks = covering(first, last);
        if networks.len() > MAX_NETWORKS {
            return Err(format!(
                "{} is {} networks and may be {MAX_NETWORKS}; begin and end it at rounder addresses",
                quoted(text),
                networks.len()
            ));
        }
        return usable(text, first..=last, networks);
    }
    let network = TrafficSelector::from_text(text).ok();
    let network = network.filter(|network| network.protocol == 0);
    let network = network.ok_or_else(|| no_range(text))?;
    let (address, prefix) = network.prefix();
    let written = text.split('/').next().and_then(|text| text.parse().ok());
    if written != Some(address) {
        return Err(format!(
            "{} is not where a network of that length begins; write {address}/{prefix}",
            quoted(text)
        ));
    }
    let longest: u8 = if address.is_ipv4() { 32 } else { 128 };
    let (mut first, mut last) = (network.start, network.end);
    if longest - prefix >= 2 {
        // Network and broadcast address; in IPv6 the routers' anycast address (RFC 4291, 2.6.1).
        (first, last) = (step(first, 1), step(last, -1));
    }
    usable(text, first..=last, vec![network])
}

fn usable(
    text: &str,
    range: RangeInclusive<IpAddr>,
    networks: Vec<TrafficSelector>,
) -> Result<(RangeInclusive<IpAddr>, Vec<TrafficSelector>), String> {
    let odd = |address: &IpAddr| {
        address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || *address == IpAddr::V4(Ipv4Addr::BROADCAST)
    };
    if odd(range.start()) || odd(range.end()) {
        return Err(format!(
            "{} holds addresses that no interface can have",
            quoted(text)
        ));
    }
    Ok((range, networks))
}

fn no_range(text: &str) -> String {
    format!(
        "{} is neither a network, 10.3.0.0/24, nor a range, 10.3.0.10-10.3.0.99",
        quoted(text)
    )
}

fn overlap(a: &RangeInclusive<IpAddr>, b: &RangeInclusive<IpAddr>) -> bool {
    a.start().is_ipv4() == b.start().is_ipv4() && a.start() <= b.end() && b.start() <= a.end()
}

fn step(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).saturating_add_signed(by.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).saturating_add_signed(by.into())).into(),
    }
}

/// The fewest networks that are together these addresses.
fn covering(first: IpAddr, last: IpAddr) -> Vec<TrafficSelector> {
    let (bits, mut next, end) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (
            32,
            u128::from(u32::from(first)),
            u128::from(u32::from(last)),
        ),
        (IpAddr::V6(first), IpAddr::V6(last)) => (128, u128::from(first), u128::from(last)),
        _ => return Vec::new(),
    };
    let mut networks = Vec::new();
    loop {
        let mut size = next.trailing_zeros().min(bits);
        // As large as the alignment allows and the end does.
        while size > 0 && end - next < u128::MAX.checked_shr(128 - size).unwrap_or(0) {
            size -= 1;
        }
        let address = if bits == 32 {
            IpAddr::V4(Ipv4Addr::from(next as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from(next))
        };
        networks.push(TrafficSelector::network(address, (bits - size) as u8));
        let after = 1_u128
            .checked_shl(size)
            .and_then(|size| next.checked_add(size));
        match after.filter(|after| *after <= end) {
            Some(after) => next = after,
            None => return networks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(first: &str, last: &str) -> String {
        let [first, last] = [first, last].map(|text| text.parse().expect("address"));
        let networks = covering(first, last);
        let texts: Vec<_> = networks.iter().map(ToString::to_string).collect();
        texts.join(" ")
    }

    #[test]
    fn a_range_is_as_few_networks_as_can_be() {
        assert_eq!(shown("10.3.0.0", "10.3.0.255"), "10.3.0.0/24");
        assert_eq!(shown("10.3.0.7", "10.3.0.7"), "10.3.0.7/32");
        assert_eq!(
            shown("10.3.0.10", "10.3.0.20"),
            "10.3.0.10/31 10.3.0.12/30 10.3.0.16/30 10.3.0.20/32"
        );
        assert_eq!(shown("0.0.0.0", "255.255.255.255"), "0.0.0.0/0");
        assert_eq!(shown("2001:db8::", "2001:db8::1ff"), "2001:db8::/119");
        let all = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        assert_eq!(shown("::", all), "::/0");
    }
}
