//! What leads packets into a tunnel: addresses that a gateway leases to us, on an interface and the source
//! of what goes to the gateway's side, and xfrm interfaces of ours. The routes are in a table of our own
//! with the owner's reqid as their metric, so that what an earlier run left is found again and nobody
//! else's routes are touched.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use ike::{
    kernel::{Carriage, ChildInstall, KernelFailed, flows},
    wire::ts::TrafficSelector,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{errno::Errno, net::if_::if_nametoindex};
use tracing::{info, warn};

use super::{
    DataplaneError, failed,
    link::{self, XfrmInterface},
    netlink::{Netlink, Refusal},
    policy::Network,
    route::{Led, Route, TABLE, Way, longest, parse_address, parse_interface, parse_route},
    wire::Request,
};

pub(super) const FAMILIES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
];

/// All leased addresses and all routes, by reqid.
pub(super) struct Inner {
    netlink: Netlink,
    /// Where leased addresses go.
    interface: String,
    /// Indexes of our xfrm interfaces, by their number.
    links: BTreeMap<u32, u32>,
    held: BTreeMap<u32, Vec<Route>>,
    /// Whether the rule that leads to our table has been put in.
    ruled: bool,
}

/// What an owner's routes follow from.
pub(super) struct Flow<'a> {
    pub(super) carriage: &'a Carriage,
    pub(super) local_ts: &'a [TrafficSelector],
    pub(super) remote_ts: &'a [TrafficSelector],
    /// Addresses of ours that the peer has leased.
    pub(super) leased: &'a [IpAddr],
    /// The outer address of the peer, which no route of ours leads to.
    pub(super) peer: IpAddr,
}

impl<'a> Flow<'a> {
    /// One that no Child SA carries yet.
    pub(super) fn waiting(
        carriage: &'a Carriage,
        peer: IpAddr,
        local_ts: &'a [TrafficSelector],
        remote_ts: &'a [TrafficSelector],
    ) -> Self {
        Self {
            carriage,
            local_ts,
            remote_ts,
            leased: &[],
            peer,
        }
    }
}

impl Inner {
    /// Opens the socket, makes the xfrm interfaces that are to be ours, and finds what an earlier run left.
    pub(super) fn open(
        interface: &str,
        interfaces: &[XfrmInterface],
    ) -> Result<Self, DataplaneError> {
        let mut netlink = Netlink::open(NETLINK_ROUTE)?;
        let links = link::settle(&mut netlink, interfaces)?;
        let mut held: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        for family in FAMILIES {
            for route in netlink.dump(Request::dump_routes(family), parse_route)? {
                held.entry(route.reqid).or_default().push(route);
            }
        }
        if !held.is_empty() {
            info!(owners = held.len(), "adopted routes of an earlier run");
        }
        Ok(Self {
            netlink,
            interface: interface.to_owned(),
            links,
            held,
            ruled: false,
        })
    }

    /// The leased addresses that an owner has.
    pub(super) fn addresses(&self, reqid: u32) -> Vec<IpAddr> {
        let routes = self.held.get(&reqid).into_iter().flatten();
        let from = routes.filter_map(|route| match route.way {
            Way::Leased(source, _) => Some(source),
            Way::Own(..) | Way::Elsewhere => None,
        });
        from.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Puts the owner's addresses on the interface and leads what goes to the peer's side through them, or to
    /// the xfrm interface of ours that it is for, in the place of what the owner had. `true` if it had
    /// nothing.
    pub(super) fn install(
        &mut self,
        reqid: u32,
        child: &ChildInstall,
    ) -> Result<bool, KernelFailed> {
        let leased = &child.leased;
        let flow = Flow {
            carriage: &child.carriage,
            local_ts: &child.local_ts,
            remote_ts: &child.remote_ts,
            leased,
            peer: child.addresses().1,
        };
        let led = !leased.is_empty() || self.through(flow.carriage).is_some();
        let fresh = !self.held.contains_key(&reqid);
        if !led && fresh {
            return Ok(false);
        }
        let before = self.addresses(reqid);
        let routes = if led {
            self.put_rules()?;
            self.routes(reqid, &flow)?
        } else {
            Vec::new()
        };
        let new = leased.iter().filter(|address| !before.contains(address));
        let new: Vec<IpAddr> = new.copied().collect();
        let mut requests = Vec::new();
        for address in &new {
            requests.push(Request::add_address(*address, self.index()?));
        }
        requests.extend(routes.iter().map(Request::put_route));
        if let Err(error) = self.carry_out(requests) {
            // Routes of an address that is gone are gone, too.
            self.take_away(&new, &[]);
            return Err(error);
        }
        let old = self.held.insert(reqid, routes.clone()).unwrap_or_default();
        let gone: Vec<_> = before
            .into_iter()
            .filter(|address| !leased.contains(address))
            .collect();
        // A route through another interface than before has been replaced, not added.
        let stays = |old: &Route| {
            let mut same = routes.iter();
            same.any(|new| new.destination == old.destination)
        };
        let stale: Vec<_> = old.into_iter().filter(|route| !stays(route)).collect();
        self.take_away(&gone, &stale);
        Ok(fresh)
    }

    /// Leads what no Child SA carries yet to the xfrm interface of ours that it is for, where the owner's
    /// policies say what becomes of it. What the owner has already stays.
    pub(super) fn lead(&mut self, reqid: u32, flow: &Flow<'_>) -> Result<(), KernelFailed> {
        if self.through(flow.carriage).is_none() || self.held.contains_key(&reqid) {
            return Ok(());
        }
        self.put_rules()?;
        let routes = self.routes(reqid, flow)?;
        self.carry_out(routes.iter().map(Request::put_route).collect())?;
        self.held.insert(reqid, routes);
        Ok(())
    }

    /// The xfrm interface of ours that is meant.
    fn through(&self, carriage: &Carriage) -> Option<u32> {
        self.links.get(&carriage.if_id.outbound).copied()
    }

    /// The peer is reached there from now on: the owner's routes lead through whatever interface does.
    pub(super) fn relocate(&mut self, reqid: u32, peer: IpAddr) -> Result<(), KernelFailed> {
        let Some(old) = self.held.get(&reqid).filter(|old| !old.is_empty()) else {
            return Ok(());
        };
        let old = old.clone();
        let through = self.interface_to(peer)?;
        let ours: Vec<u32> = self.links.values().copied().collect();
        let moved = |route: &Route| match route.way {
            Way::Leased(source, old) if !ours.contains(&old) => Route {
                way: Way::Leased(source, through),
                ..*route
            },
            Way::Leased(..) | Way::Own(..) => *route,
            Way::Elsewhere => Route {
                destination: Network {
                    address: peer,
                    prefix: longest(peer),
                },
                ..*route
            },
        };
        let routes: Vec<_> = old.iter().map(moved).collect();
        self.carry_out(routes.iter().map(Request::put_route).collect())?;
        let stays = |old: &Route| {
            let mut same = routes.iter();
            same.any(|new| new.destination == old.destination)
        };
        let stale: Vec<_> = old.into_iter().filter(|route| !stays(route)).collect();
        self.held.insert(reqid, routes);
        self.take_away(&[], &stale);
        Ok(())
    }

    /// Whether routes of ours may lead what is ESP already into an interface of ours.
    pub(super) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    pub(super) fn interface_to(&mut self, peer: IpAddr) -> Result<u32, KernelFailed> {
        let way = self.netlink.query(Request::way_to(peer), parse_interface);
        let way = way.map_err(|error| failed(&error.to_string()))?;
        way.ok_or_else(|| failed("no interface leads to the peer"))
    }

    /// Puts in what is missing of what it holds. What cannot be yet may be when a link says more.
    pub(super) fn put_back(&mut self) {
        let owners: Vec<u32> = self.held.keys().copied().collect();
        let mut requests = Vec::new();
        if let Ok(index) = self.index() {
            let addresses = owners.into_iter().flat_map(|reqid| self.addresses(reqid));
            requests.extend(addresses.map(|address| Request::add_address(address, index)));
        }
        requests.extend(self.held.values().flatten().map(Request::add_route));
        self.netlink.offer(requests);
    }

    /// Takes everything of one owner away.
    pub(super) fn release(&mut self, reqid: u32) {
        let addresses = self.addresses(reqid);
        if let Some(routes) = self.held.remove(&reqid) {
            self.take_away(&addresses, &routes);
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
        let rules = FAMILIES.map(|family| Request::delete_rule(family, Led::All));
        self.clean_up(rules.into());
        if let Err(error) = link::clear(&mut self.netlink) {
            warn!("{error}");
        }
    }

    fn routes(&mut self, reqid: u32, flow: &Flow<'_>) -> Result<Vec<Route>, KernelFailed> {
        let through = self.through(flow.carriage);
        let Flow {
            leased,
            remote_ts,
            peer,
            ..
        } = *flow;
        let mut ways = Vec::new();
        if !leased.is_empty() {
            let interface = match through {
                Some(interface) => interface,
                None => self.interface_to(peer)?,
            };
            let from = |source: &IpAddr| (*source, Way::Leased(*source, interface));
            ways.extend(leased.iter().map(from));
        }
        for family in FAMILIES {
            let alike = |address: IpAddr| address.is_ipv4() == family.is_ipv4();
            if let Some(interface) = through
                && remote_ts.iter().any(|ts| alike(ts.start))
                && !ways.iter().any(|(of, _)| alike(*of))
            {
                let source = self.own_address(family, flow.local_ts)?;
                ways.push((family, Way::Own(source, interface)));
            }
        }
        let around = Network {
            address: peer,
            prefix: longest(peer),
        };
        let mut routes = Vec::new();
        if remote_ts.iter().any(|ts| covers(ts, peer)) {
            routes.push(Route {
                reqid,
                destination: around,
                way: Way::Elsewhere,
                mss: 0,
            });
        }
        for (family, way) in ways {
            let alike = |ts: &&TrafficSelector| ts.start.is_ipv4() == family.is_ipv4();
            let networks = remote_ts.iter().filter(alike).flat_map(flows::networks);
            for (address, prefix) in networks {
                let destination = Network { address, prefix };
                let route = Route {
                    reqid,
                    destination,
                    way,
                    mss: flow.carriage.mss,
                };
                // ESP itself would go to the interface.
                let loops = through.is_some() && destination == around;
                if !loops && !routes.contains(&route) {
                    routes.push(route);
                }
            }
        }
        Ok(routes)
    }

    /// The first address of this host's that is in one of these networks; where all are meant, whichever the
    /// kernel takes.
    fn own_address(
        &mut self,
        family: IpAddr,
        local_ts: &[TrafficSelector],
    ) -> Result<Option<IpAddr>, KernelFailed> {
        let dump = Request::dump_addresses(family);
        let addresses = self.netlink.dump(dump, parse_address);
        let addresses = addresses.map_err(|error| failed(&error.to_string()))?;
        let networks = || local_ts.iter().filter(|ts| ts.prefix().1 > 0);
        let is_inside = |address: &IpAddr| networks().any(|ts| covers(ts, *address));
        Ok(addresses.into_iter().find(is_inside))
    }

    fn put_rules(&mut self) -> Result<(), KernelFailed> {
        if self.ruled {
            return Ok(());
        }
        // A kernel without IPv6 needs no rule for it.
        let mut rules = FAMILIES.map(|family| Request::add_rule(family, Led::All));
        let results = self.netlink.transact(&mut rules);
        let results =
            results.map_err(|error| failed(&DataplaneError::Netlink(error).to_string()))?;
        let unknown =
            |refusal: &Refusal| !matches!(refusal.errno, Errno::EEXIST | Errno::EAFNOSUPPORT);
        if let Some(refusal) = results.into_iter().filter_map(Result::err).find(unknown) {
            return Err(failed(&format!("{} (table {TABLE})", refusal.text)));
        }
        self.ruled = true;
        Ok(())
    }

    fn index(&self) -> Result<u32, KernelFailed> {
        if_nametoindex(self.interface.as_str()).map_err(|errno| {
            failed(&format!(
                "{}: {}; see install_virtual_ip_on",
                self.interface,
                errno.desc()
            ))
        })
    }

    /// Everything, or an error. An address that is there already is as good as one of ours.
    fn carry_out(&mut self, mut requests: Vec<Request>) -> Result<(), KernelFailed> {
        let results = self.netlink.transact(&mut requests);
        let results =
            results.map_err(|error| failed(&DataplaneError::Netlink(error).to_string()))?;
        let refusals = results.into_iter().filter_map(Result::err);
        let mut refusals = refusals.filter(|refusal| refusal.errno != Errno::EEXIST);
        refusals
            .next()
            .map_or(Ok(()), |refusal| Err(failed(&refusal.text)))
    }

    fn take_away(&mut self, addresses: &[IpAddr], routes: &[Route]) {
        let mut requests: Vec<_> = routes.iter().map(Request::delete_route).collect();
        let in_use = |address: &&IpAddr| {
            let mut others = self.held.keys();
            others.any(|reqid| self.addresses(*reqid).contains(address))
        };
        let addresses: Vec<_> = addresses.iter().filter(|one| !in_use(one)).collect();
        if let Ok(index) = self.index() {
            requests.extend(
                addresses
                    .iter()
                    .map(|one| Request::delete_address(**one, index)),
            );
        }
        self.clean_up(requests);
    }

    /// Requests whose failure changes nothing: with an address the kernel drops its routes by itself.
    fn clean_up(&mut self, mut requests: Vec<Request>) {
        let gone = |refusal: &Refusal| {
            matches!(
                refusal.errno,
                Errno::ESRCH | Errno::ENOENT | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT
            )
        };
        if requests.is_empty() {
            return;
        }
        match self.netlink.transact(&mut requests) {
            Ok(results) => {
                for refusal in results.iter().filter_map(|result| result.as_ref().err()) {
                    if !gone(refusal) {
                        warn!("{}", refusal.text);
                    }
                }
            }
            Err(error) => warn!("route netlink socket: {error}"),
        }
    }
}

pub(super) fn covers(ts: &TrafficSelector, address: IpAddr) -> bool {
    ts.start.is_ipv4() == address.is_ipv4() && (ts.start..=ts.end).contains(&address)
}
