//! Addresses that a gateway leases to us: on an interface, and the source of what goes to the gateway's
//! side. The routes are in a table of our own with the owner's reqid as their metric, so that what an
//! earlier run left is found again and nobody else's routes are touched.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use ike::{
    kernel::{ChildInstall, KernelFailed, flows},
    wire::ts::TrafficSelector,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::{errno::Errno, net::if_::if_nametoindex};
use tracing::{info, warn};

use super::{
    DataplaneError, failed,
    netlink::{Netlink, Refusal},
    policy::Network,
    route::{Route, TABLE, Way, longest, parse_interface, parse_route},
    wire::Request,
};

const FAMILIES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
];

/// All leased addresses and their routes, by reqid.
pub(super) struct Inner {
    netlink: Netlink,
    interface: String,
    held: BTreeMap<u32, Vec<Route>>,
    /// Whether the rule that leads to our table has been put in.
    ruled: bool,
}

impl Inner {
    /// Opens the socket and finds what an earlier run left.
    pub(super) fn open(interface: &str) -> Result<Self, DataplaneError> {
        let mut netlink = Netlink::open(NETLINK_ROUTE)?;
        let mut held: BTreeMap<u32, Vec<Route>> = BTreeMap::new();
        for family in FAMILIES {
            for route in netlink.dump(Request::dump_routes(family), parse_route)? {
                held.entry(route.reqid).or_default().push(route);
            }
        }
        if !held.is_empty() {
            info!(
                owners = held.len(),
                "adopted leased addresses of an earlier run"
            );
        }
        Ok(Self {
            netlink,
            interface: interface.to_owned(),
            held,
            ruled: false,
        })
    }

    /// The addresses that an owner has.
    pub(super) fn addresses(&self, reqid: u32) -> Vec<IpAddr> {
        let routes = self.held.get(&reqid).into_iter().flatten();
        let from = routes.filter_map(|route| match route.way {
            Way::From(source, _) => Some(source),
            Way::Elsewhere => None,
        });
        from.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Puts the owner's addresses on the interface and leads what goes to the peer's side through them,
    /// in the place of what the owner had. `true` if it had none.
    pub(super) fn install(
        &mut self,
        reqid: u32,
        child: &ChildInstall,
    ) -> Result<bool, KernelFailed> {
        let ChildInstall {
            leased, remote_ts, ..
        } = child;
        let (_, peer) = child.addresses();
        if leased.is_empty() && !self.held.contains_key(&reqid) {
            return Ok(false);
        }
        let before = self.addresses(reqid);
        let routes = if leased.is_empty() {
            Vec::new()
        } else {
            self.put_rules()?;
            self.routes(reqid, leased, remote_ts, peer)?
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
        let fresh = gone.is_empty() && new.len() == leased.len();
        self.take_away(&gone, &stale);
        Ok(fresh)
    }

    /// The peer is reached there from now on: the owner's routes lead through whatever interface does.
    pub(super) fn relocate(&mut self, reqid: u32, peer: IpAddr) -> Result<(), KernelFailed> {
        let Some(old) = self.held.get(&reqid).filter(|old| !old.is_empty()) else {
            return Ok(());
        };
        let old = old.clone();
        let through = self.interface_to(peer)?;
        let moved = |route: &Route| match route.way {
            Way::From(source, _) => Route {
                way: Way::From(source, through),
                ..*route
            },
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

    pub(super) fn interface_to(&mut self, peer: IpAddr) -> Result<u32, KernelFailed> {
        let way = self.netlink.query(Request::way_to(peer), parse_interface);
        let way = way.map_err(|error| failed(&error.to_string()))?;
        way.ok_or_else(|| failed("no interface leads to the peer"))
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
        if std::mem::take(&mut self.ruled) {
            self.clean_up(FAMILIES.map(Request::delete_rule).into());
        }
    }

    fn routes(
        &mut self,
        reqid: u32,
        leased: &[IpAddr],
        remote_ts: &[TrafficSelector],
        peer: IpAddr,
    ) -> Result<Vec<Route>, KernelFailed> {
        let interface = self.interface_to(peer)?;
        let mut routes = Vec::new();
        let covers = |ts: &TrafficSelector| (ts.start..=ts.end).contains(&peer);
        if remote_ts
            .iter()
            .any(|ts| ts.start.is_ipv4() == peer.is_ipv4() && covers(ts))
        {
            routes.push(Route {
                reqid,
                destination: Network {
                    address: peer,
                    prefix: longest(peer),
                },
                way: Way::Elsewhere,
            });
        }
        for source in leased {
            let family = |ts: &&TrafficSelector| ts.start.is_ipv4() == source.is_ipv4();
            let networks = remote_ts.iter().filter(family).flat_map(flows::networks);
            for (address, prefix) in networks {
                let route = Route {
                    reqid,
                    destination: Network { address, prefix },
                    way: Way::From(*source, interface),
                };
                if !routes.contains(&route) {
                    routes.push(route);
                }
            }
        }
        Ok(routes)
    }

    fn put_rules(&mut self) -> Result<(), KernelFailed> {
        if self.ruled {
            return Ok(());
        }
        // A kernel without IPv6 needs no rule for it.
        let mut rules = FAMILIES.map(Request::add_rule);
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
