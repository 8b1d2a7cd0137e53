//! Where this host's own packets to a peer's networks come from. A policy is for packets whose source is
//! among the tunnel's networks, and the routing table would take the address of the interface that leads
//! towards the peer; so for each of the peer's networks there is a route that names an own address which the
//! tunnel is for.
//!
//! They are in a table of their own, to which only packets that begin at this host are led: what is forwarded
//! has its source already, and goes where it always went. Whose a route is its metric says, as in
//! [`super::inner`]. None is worth a Child SA: what the kernel refuses is told and left out.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use ike::{kernel::flows, wire::ts::TrafficSelector};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use tracing::{info, warn};

use super::{
    DataplaneError,
    inner::{FAMILIES, Flow, covers},
    netlink::Netlink,
    policy::Network,
    route::{
        Led, NLM_F_REPLACE, ROUTE_HEADER, RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, RTA_DST, RTA_GATEWAY,
        RTA_OIF, RTA_PREFSRC, RTA_PRIORITY, RTA_TABLE, RTM_DELROUTE, RTM_NEWROUTE, RTN_THROW,
        RTN_UNICAST, longest, parse_address,
    },
    wire::{NLM_F_CREATE, NLM_F_EXCL, Request, address_at, attributes, family, u32_at},
};

const TABLE: u32 = 5724;
/// Who made what is in it.
const PROTOCOL: u8 = 59;

/// All routes that name a source, by reqid.
pub(super) struct Sources {
    netlink: Netlink,
    held: BTreeMap<u32, Vec<SourceRoute>>,
    /// Whether the rule that leads to our table has been put in.
    ruled: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct SourceRoute {
    reqid: u32,
    destination: Network,
    /// `None` sends on to the next rule: what is nearer than the tunnel.
    way: Option<Way>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Way {
    source: IpAddr,
    hop: Hop,
}

/// The way to the peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Hop {
    interface: u32,
    gateway: Option<IpAddr>,
}

impl Sources {
    /// Opens the socket and finds what an earlier run left.
    pub(super) fn open() -> Result<Self, DataplaneError> {
        let mut netlink = Netlink::open(NETLINK_ROUTE)?;
        let mut held: BTreeMap<u32, Vec<SourceRoute>> = BTreeMap::new();
        for family in FAMILIES {
            for route in netlink.dump(Request::dump_routes(family), SourceRoute::parse)? {
                held.entry(route.reqid).or_default().push(route);
            }
        }
        if !held.is_empty() {
            info!(owners = held.len(), "adopted sources of an earlier run");
        }
        Ok(Self {
            netlink,
            held,
            ruled: false,
        })
    }

    /// Lets this host's packets of an owner's flow come from an address that its tunnel is for, in the place
    /// of what the owner had.
    pub(super) fn lead(&mut self, reqid: u32, flow: &Flow<'_>) {
        let fresh = if flow.carriage.source_route {
            self.routes(reqid, flow)
        } else {
            Ok(Vec::new())
        };
        match fresh {
            Ok(fresh) => self.replace(reqid, fresh),
            Err(error) => warn!("routes that name a source: {error}"),
        }
    }

    /// The peer is reached there from now on.
    pub(super) fn relocate(&mut self, reqid: u32, peer: IpAddr) {
        let Some(old) = self.held.get(&reqid).filter(|old| !old.is_empty()) else {
            return;
        };
        // Only a peer is left out by its whole address.
        let to_peer = |route: &SourceRoute| {
            route.way.is_none() && route.destination.prefix == longest(route.destination.address)
        };
        let mut routes: Vec<_> = old
            .iter()
            .filter(|route| !to_peer(route))
            .copied()
            .collect();
        let led = |route: &SourceRoute| route.way.is_some() && contains(&route.destination, peer);
        let around = around(reqid, peer);
        if routes.iter().any(led) {
            routes.push(around);
        }
        let hop = match self.hop(&around) {
            Ok(hop) => hop,
            Err(error) => return warn!("routes that name a source: {error}"),
        };
        for way in routes.iter_mut().filter_map(|route| route.way.as_mut()) {
            way.hop = hop.for_source(way.source);
        }
        self.replace(reqid, routes);
    }

    /// Puts in what is missing of what it holds, as far as that can be yet.
    pub(super) fn put_back(&mut self) {
        let held = self.held.values().flatten();
        let requests = held.map(SourceRoute::add).collect();
        self.netlink.offer(requests);
    }

    /// Takes everything of one owner away.
    pub(super) fn release(&mut self, reqid: u32) {
        if let Some(routes) = self.held.remove(&reqid) {
            self.carry_out(routes.iter().map(SourceRoute::delete).collect());
        }
    }

    /// Takes away what belongs to no owner of these.
    pub(super) fn retain(&mut self, owners: &HashSet<u32>) {
        let strangers: Vec<u32> = self.held.keys().copied().collect();
        for reqid in strangers.into_iter().filter(|one| !owners.contains(one)) {
            self.release(reqid);
        }
    }

    /// Takes everything away.
    pub(super) fn clear(&mut self) {
        self.retain(&HashSet::new());
        // An earlier run may have left them.
        self.ruled = false;
        let rules = FAMILIES.map(|family| Request::delete_rule(family, Led::Own(TABLE)));
        self.carry_out(rules.into());
    }

    fn routes(&mut self, reqid: u32, flow: &Flow<'_>) -> Result<Vec<SourceRoute>, DataplaneError> {
        let mut routes = Vec::new();
        for of in FAMILIES {
            // A part of the traffic, or everything there is, is nothing to lead by a route.
            let alike = |ts: &&TrafficSelector| {
                ts.start.is_ipv4() == of.is_ipv4() && ts.protocol == 0 && ts.prefix().1 > 0
            };
            let networks: Vec<Network> = flow
                .remote_ts
                .iter()
                .filter(alike)
                .flat_map(flows::networks)
                .map(|(address, prefix)| Network { address, prefix })
                .collect();
            if networks.is_empty() || !flow.local_ts.iter().any(|ts| alike(&ts)) {
                continue;
            }
            let own = self.netlink.dump(Request::dump_addresses(of), |body| {
                let prefix = *body.get(1)?;
                parse_address(body).map(|address| (address, prefix))
            })?;
            let meant = |address: &IpAddr| {
                let mut local = flow.local_ts.iter().filter(alike);
                local.any(|ts| covers(ts, *address))
            };
            let source = own.iter().map(|(address, _)| *address).find(meant);
            let Some(source) = source else { continue };
            let around = around(reqid, flow.peer);
            if networks.iter().any(|network| contains(network, flow.peer)) {
                routes.push(around);
            }
            let hop = self.hop(&around)?.for_source(source);
            // A network that we are in ourselves is nearer than the tunnel.
            let nearer = own
                .iter()
                .filter(|(address, prefix)| *prefix < longest(*address))
                .map(|(address, prefix)| network(*address, *prefix))
                .filter(|near| {
                    let inside =
                        |far: &Network| contains(far, near.address) && far.prefix < near.prefix;
                    networks.iter().any(inside)
                });
            let nearer = nearer.map(|destination| (destination, None));
            let led = networks
                .iter()
                .filter(|network| **network != around.destination)
                .map(|network| (*network, Some(Way { source, hop })));
            for (destination, way) in nearer.chain(led) {
                let route = SourceRoute {
                    reqid,
                    destination,
                    way,
                };
                if !routes.contains(&route) {
                    routes.push(route);
                }
            }
        }
        Ok(routes)
    }

    /// How a peer is reached. Where routes of ours lead to it by mistake, its own one is put in first.
    fn hop(&mut self, around: &SourceRoute) -> Result<Hop, DataplaneError> {
        let led = |route: &SourceRoute| {
            route.way.is_some() && contains(&route.destination, around.destination.address)
        };
        if self.held.values().flatten().any(led) {
            let held = self.held.entry(around.reqid).or_default();
            if !held.contains(around) {
                held.push(*around);
            }
            self.carry_out(vec![around.put()]);
        }
        let asked = Request::way_to(around.destination.address);
        let hop = self.netlink.query(asked, parse_hop)?;
        hop.ok_or_else(|| DataplaneError::Refused {
            what: "looking up the way to the peer",
            text: "no interface leads there".into(),
        })
    }

    fn replace(&mut self, reqid: u32, fresh: Vec<SourceRoute>) {
        let old = self.held.remove(&reqid).unwrap_or_default();
        let stays = |old: &&SourceRoute| {
            let mut same = fresh.iter();
            // Of another kind it is another route to the kernel, with its own place.
            same.any(|new| {
                new.destination == old.destination && new.way.is_some() == old.way.is_some()
            })
        };
        let stale = old.iter().filter(|route| !stays(route));
        let mut requests: Vec<_> = stale.map(SourceRoute::delete).collect();
        if !fresh.is_empty() && !self.ruled {
            // A kernel without IPv6 needs no rule for it.
            let rules = FAMILIES.map(|family| Request::add_rule(family, Led::Own(TABLE)));
            requests.extend(rules);
            self.ruled = true;
        }
        requests.extend(fresh.iter().map(SourceRoute::put));
        self.carry_out(requests);
        if !fresh.is_empty() {
            self.held.insert(reqid, fresh);
        }
    }

    /// Requests whose failure is no reason to do without the rest.
    fn carry_out(&mut self, mut requests: Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        let refusals = match self.netlink.transact(&mut requests) {
            Ok(results) => results.into_iter().filter_map(Result::err),
            Err(error) => return warn!("route netlink socket: {error}"),
        };
        // With an address or an interface the kernel drops its routes by itself.
        let settled = |errno| {
            matches!(
                errno,
                Errno::EEXIST | Errno::ESRCH | Errno::ENOENT | Errno::EAFNOSUPPORT
            )
        };
        for refusal in refusals.filter(|refusal| !settled(refusal.errno)) {
            warn!("{} (table {TABLE})", refusal.text);
        }
    }
}

impl Hop {
    /// A gateway of the other family can be none for these packets.
    fn for_source(self, source: IpAddr) -> Self {
        let alike = |gateway: &IpAddr| gateway.is_ipv4() == source.is_ipv4();
        Self {
            gateway: self.gateway.filter(alike),
            ..self
        }
    }
}

impl SourceRoute {
    fn put(&self) -> Request {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.message("adding a route that names a source", RTM_NEWROUTE, flags)
    }

    /// One that is there already stays as it is.
    fn add(&self) -> Request {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.message("adding a route that names a source", RTM_NEWROUTE, flags)
    }

    fn delete(&self) -> Request {
        self.message("removing a route that names a source", RTM_DELROUTE, 0)
    }

    fn message(&self, what: &'static str, kind: u16, flags: u16) -> Request {
        let Network { address, prefix } = self.destination;
        let (form, scope) = match self.way {
            None => (RTN_THROW, RT_SCOPE_UNIVERSE),
            Some(way) if way.hop.gateway.is_none() && address.is_ipv4() => {
                (RTN_UNICAST, RT_SCOPE_LINK)
            }
            Some(_) => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
        };
        let mut request = Request::new(what, kind, flags);
        let of = family(address) as u8;
        let head = [of, prefix, 0, 0, 0, PROTOCOL, scope, form];
        request.octets.extend_from_slice(&head);
        request.u32(0);
        request.bare_address(RTA_DST, address);
        request.number(RTA_TABLE, TABLE);
        request.number(RTA_PRIORITY, self.reqid);
        if let Some(Way { source, hop }) = self.way {
            request.bare_address(RTA_PREFSRC, source);
            request.number(RTA_OIF, hop.interface);
            if let Some(gateway) = hop.gateway {
                request.bare_address(RTA_GATEWAY, gateway);
            }
        }
        request.finish()
    }

    /// Reads a route of ours; `None` for everybody else's.
    fn parse(body: &[u8]) -> Option<Self> {
        let [of, prefix, _, _, _, protocol, _, form]: [u8; 8] = *body.first_chunk()?;
        let (mut table, mut reqid) = (0, 0);
        let (mut destination, mut source) = (None, None);
        for (kind, value) in attributes(body.get(ROUTE_HEADER..)?) {
            match kind {
                RTA_TABLE => table = u32_at(value, 0)?,
                RTA_PRIORITY => reqid = u32_at(value, 0)?,
                RTA_DST => destination = address_at(value, 0, of.into()),
                RTA_PREFSRC => source = address_at(value, 0, of.into()),
                _ => {}
            }
        }
        let way = match (form, source) {
            (RTN_UNICAST, Some(source)) => Some(Way {
                source,
                hop: parse_hop(body)?,
            }),
            (RTN_THROW, _) => None,
            _ => return None,
        };
        let ours = table == TABLE && protocol == PROTOCOL;
        ours.then_some(Self {
            reqid,
            destination: Network {
                address: destination?,
                prefix,
            },
            way,
        })
    }
}

fn parse_hop(body: &[u8]) -> Option<Hop> {
    let of = u16::from(*body.first()?);
    let (mut interface, mut gateway) = (None, None);
    for (kind, value) in attributes(body.get(ROUTE_HEADER..)?) {
        match kind {
            RTA_OIF => interface = u32_at(value, 0),
            RTA_GATEWAY => gateway = address_at(value, 0, of),
            _ => {}
        }
    }
    Some(Hop {
        interface: interface?,
        gateway,
    })
}

/// What leaves a peer to the rules that come after ours.
const fn around(reqid: u32, peer: IpAddr) -> SourceRoute {
    SourceRoute {
        reqid,
        destination: Network {
            address: peer,
            prefix: longest(peer),
        },
        way: None,
    }
}

fn contains(network: &Network, address: IpAddr) -> bool {
    covers(
        &TrafficSelector::network(network.address, network.prefix),
        address,
    )
}

/// The network that an address with a prefix length is in.
fn network(address: IpAddr, prefix: u8) -> Network {
    let start = TrafficSelector::network(address, prefix).start;
    Network {
        address: start,
        prefix,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::HEADER, *};

    fn network_of(text: &str) -> Network {
        let (address, prefix) = text.split_once('/').expect("a network");
        network(
            address.parse().expect("address"),
            prefix.parse().expect("prefix"),
        )
    }

    #[test]
    fn routes_that_name_a_source_read_back() {
        let way = |source: &str, gateway: &str| {
            Some(Way {
                source: source.parse().expect("address"),
                hop: Hop {
                    interface: 7,
                    gateway: gateway.parse().ok(),
                },
            })
        };
        for (destination, way) in [
            ("10.1.0.0/16", way("10.2.0.1", "198.51.100.1")),
            ("10.1.0.0/16", way("10.2.0.1", "none")),
            ("2001:db8:1::/48", way("2001:db8:2::1", "fe80::1")),
            ("192.0.2.7/32", None),
        ] {
            let route = SourceRoute {
                reqid: 0x5200_0003,
                destination: network_of(destination),
                way,
            };
            let body = route.put().octets[HEADER..].to_vec();
            assert_eq!(SourceRoute::parse(&body), Some(route));
            for end in 0..body.len() {
                // Cut short it is another route or none, and never a panic.
                let _ = SourceRoute::parse(&body[..end]);
            }
            for protocol in [4, 57, 58] {
                let mut foreign = body.clone();
                foreign[5] = protocol;
                assert_eq!(SourceRoute::parse(&foreign), None, "somebody else's");
            }
            assert_eq!(super::super::route::parse_route(&body), None);
        }
    }

    #[test]
    fn a_host_bit_is_no_part_of_a_network() {
        assert_eq!(network_of("10.2.3.4/16"), network_of("10.2.0.0/16"));
        assert!(contains(&network_of("10.0.0.0/8"), [10, 9, 8, 7].into()));
        assert!(!contains(&network_of("10.0.0.0/9"), [10, 200, 0, 1].into()));
    }
}
