//! rtnetlink messages octet by octet: addresses, routes and the rule that leads to a table of our own
//! (`linux/rtnetlink.h`, `linux/if_addr.h`, `linux/fib_rules.h`).

use std::net::IpAddr;

use super::{
    policy::Network,
    wire::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, address_at, attributes, family, u32_at},
};

/// Our table, by whose number the rule that leads to it is placed, and who made what is in it: for addresses that
/// are leased to us, or for addresses and interfaces that stay when the route goes.
pub(super) const TABLE: u32 = 5723;
/// The mark of packets that are not to go by our table: IKE of ours, and our ESP.
pub(crate) const OUTER_MARK: u32 = 5723;
const LEASED: u8 = 57;
const OWN: u8 = 58;

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the gateway sees to that.
const IFA_F_NODAD: u8 = 2;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
pub(super) const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTAX_ADVMSS: u16 = 8;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
/// The rule is for packets that have another mark than it names.
const FIB_RULE_INVERT: u32 = 2;

pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
pub(super) const RTN_THROW: u8 = 9;
pub(super) const RT_SCOPE_UNIVERSE: u8 = 0;
pub(super) const RT_SCOPE_LINK: u8 = 253;
const FR_ACT_TO_TBL: u8 = 1;
pub(super) const ROUTE_HEADER: usize = 12;
const ADDRESS_HEADER: usize = 8;

/// A route in our table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Route {
    /// Its metric, by which we know whose it is.
    pub(super) reqid: u32,
    pub(super) destination: Network,
    pub(super) way: Way,
    /// Largest segment that TCP of this host offers by it, in octets; 0 for what the kernel takes.
    pub(super) mss: u16,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Way {
    /// Through an interface, from this address that is leased to us.
    Leased(IpAddr, u32),
    /// Through an xfrm interface of ours, from an address of this host's, if there is one for it.
    Own(Option<IpAddr>, u32),
    /// To the next rule: our own tunnel does not go through itself.
    Elsewhere,
}

/// Whose packets a rule leads to a table of ours.
#[derive(Clone, Copy, Debug)]
pub(super) enum Led {
    /// Everybody's, to [`TABLE`].
    All,
    /// Those that begin at this host, to this table.
    Own(u32),
}

impl Request {
    pub(super) fn add_address(address: IpAddr, interface: u32) -> Self {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        Self::address_message(
            "adding a leased address",
            RTM_NEWADDR,
            flags,
            address,
            interface,
        )
    }

    pub(super) fn delete_address(address: IpAddr, interface: u32) -> Self {
        Self::address_message(
            "removing a leased address",
            RTM_DELADDR,
            0,
            address,
            interface,
        )
    }

    fn address_message(
        what: &'static str,
        kind: u16,
        flags: u16,
        address: IpAddr,
        interface: u32,
    ) -> Self {
        let mut request = Self::new(what, kind, flags);
        let nodad = if address.is_ipv4() { 0 } else { IFA_F_NODAD };
        let head = [family(address) as u8, longest(address), nodad, 0];
        request.octets.extend_from_slice(&head);
        request.u32(interface);
        request.bare_address(IFA_LOCAL, address);
        request.bare_address(IFA_ADDRESS, address);
        request.finish()
    }

    /// Puts a route of ours in, whether or not it is there.
    pub(super) fn put_route(route: &Route) -> Self {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        Self::route_message("adding a route", RTM_NEWROUTE, flags, route)
    }

    /// Puts a route of ours in unless it is there: to replace one by itself would cost all flows their
    /// cached way.
    pub(super) fn add_route(route: &Route) -> Self {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        Self::route_message("adding a route", RTM_NEWROUTE, flags, route)
    }

    pub(super) fn delete_route(route: &Route) -> Self {
        Self::route_message("removing a route", RTM_DELROUTE, 0, route)
    }

    fn route_message(what: &'static str, kind: u16, flags: u16, route: &Route) -> Self {
        let Network { address, prefix } = route.destination;
        let (form, scope) = match route.way {
            Way::Elsewhere => (RTN_THROW, RT_SCOPE_UNIVERSE),
            _ if address.is_ipv4() => (RTN_UNICAST, RT_SCOPE_LINK),
            _ => (RTN_UNICAST, RT_SCOPE_UNIVERSE),
        };
        let protocol = match route.way {
            Way::Own(..) => OWN,
            Way::Leased(..) | Way::Elsewhere => LEASED,
        };
        let mut request = Self::new(what, kind, flags);
        let head = [
            family(address) as u8,
            prefix,
            0,
            0,
            0,
            protocol,
            scope,
            form,
        ];
        request.octets.extend_from_slice(&head);
        request.u32(0);
        request.bare_address(RTA_DST, address);
        request.number(RTA_TABLE, TABLE);
        request.number(RTA_PRIORITY, route.reqid);
        let (source, interface) = match route.way {
            Way::Leased(source, interface) => (Some(source), Some(interface)),
            Way::Own(source, interface) => (source, Some(interface)),
            Way::Elsewhere => (None, None),
        };
        if let Some(source) = source {
            request.bare_address(RTA_PREFSRC, source);
        }
        if let Some(interface) = interface {
            request.number(RTA_OIF, interface);
        }
        if route.mss != 0 {
            // One attribute within another, with its own header of two times two octets.
            request.attribute(RTA_METRICS, |octets| {
                octets.extend_from_slice(&8_u16.to_ne_bytes());
                octets.extend_from_slice(&RTAX_ADVMSS.to_ne_bytes());
                octets.extend_from_slice(&u32::from(route.mss).to_ne_bytes());
            });
        }
        request.finish()
    }

    /// Asks for the way to an address, as IKE would go; answered by a route.
    pub(super) fn way_to(address: IpAddr) -> Self {
        let mut request = Self::new("looking up the way to the peer", RTM_GETROUTE, 0);
        let head = [family(address) as u8, longest(address), 0, 0, 0, 0, 0, 0];
        request.octets.extend_from_slice(&head);
        request.u32(0);
        request.bare_address(RTA_DST, address);
        request.number(RTA_MARK, OUTER_MARK);
        request.finish()
    }

    /// Asks for all routes of the family.
    pub(super) fn dump_routes(of: IpAddr) -> Self {
        let mut request = Self::new("listing routes", RTM_GETROUTE, NLM_F_DUMP);
        request
            .octets
            .extend_from_slice(&[family(of) as u8, 0, 0, 0, 0, 0, 0, 0]);
        request.u32(0);
        request.finish()
    }

    /// Asks for all addresses of the family.
    pub(super) fn dump_addresses(of: IpAddr) -> Self {
        let mut request = Self::new("listing addresses", RTM_GETADDR, NLM_F_DUMP);
        request
            .octets
            .extend_from_slice(&[family(of) as u8, 0, 0, 0, 0, 0, 0, 0]);
        request.finish()
    }

    pub(super) fn add_rule(of: IpAddr, to: Led) -> Self {
        Self::rule(
            "adding the rule of our routes",
            RTM_NEWRULE,
            NLM_F_CREATE | NLM_F_EXCL,
            of,
            to,
        )
    }

    pub(super) fn delete_rule(of: IpAddr, to: Led) -> Self {
        Self::rule("removing the rule of our routes", RTM_DELRULE, 0, of, to)
    }

    fn rule(what: &'static str, kind: u16, flags: u16, of: IpAddr, to: Led) -> Self {
        let mut request = Self::new(what, kind, flags);
        let head = [family(of) as u8, 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL];
        request.octets.extend_from_slice(&head);
        let table = match to {
            Led::All => {
                request.u32(FIB_RULE_INVERT);
                request.number(FRA_FWMARK, OUTER_MARK);
                TABLE
            }
            // What is turned round is all that a rule asks for, so this one cannot leave out a mark.
            Led::Own(table) => {
                request.u32(0);
                request.attribute(FRA_IIFNAME, |octets| octets.extend_from_slice(b"lo\0"));
                table
            }
        };
        // The priority is the table's number.
        request.number(FRA_PRIORITY, table);
        request.number(FRA_TABLE, table);
        request.finish()
    }

    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, |octets| {
            octets.extend_from_slice(&value.to_ne_bytes());
        });
    }

    pub(super) fn bare_address(&mut self, kind: u16, address: IpAddr) {
        self.attribute(kind, |octets| match address {
            IpAddr::V4(v4) => octets.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => octets.extend_from_slice(&v6.octets()),
        });
    }
}

/// Reads the interface out of the answer to [`Request::way_to`].
pub(super) fn parse_interface(body: &[u8]) -> Option<u32> {
    let mut attributes = attributes(body.get(ROUTE_HEADER..)?);
    let (_, value) = attributes.find(|(kind, _)| *kind == RTA_OIF)?;
    u32_at(value, 0)
}

/// Likewise the address that packets leave from.
pub(super) fn parse_source(body: &[u8]) -> Option<IpAddr> {
    let [family, _, _, _, _, _, _, form]: [u8; 8] = *body.first_chunk()?;
    let mut attributes = attributes(body.get(ROUTE_HEADER..)?);
    let (_, value) = attributes.find(|(kind, _)| *kind == RTA_PREFSRC)?;
    let leads = matches!(form, RTN_UNICAST | RTN_LOCAL);
    address_at(value, 0, family.into()).filter(|_| leads)
}

/// Reads a route of ours; `None` for everybody else's.
pub(super) fn parse_route(body: &[u8]) -> Option<Route> {
    let [family, prefix, _, _, _, protocol, _, form]: [u8; 8] = *body.first_chunk()?;
    let family = u16::from(family);
    let (mut table, mut reqid, mut interface) = (0, 0, 0);
    let (mut destination, mut source) = (None, None);
    let mut mss = 0;
    for (kind, value) in attributes(body.get(ROUTE_HEADER..)?) {
        match kind {
            RTA_TABLE => table = u32_at(value, 0)?,
            RTA_PRIORITY => reqid = u32_at(value, 0)?,
            RTA_OIF => interface = u32_at(value, 0)?,
            RTA_DST => destination = address_at(value, 0, family),
            RTA_PREFSRC => source = address_at(value, 0, family),
            RTA_METRICS => {
                let mut metrics = attributes(value);
                let of_segment = metrics.find(|(kind, _)| *kind == RTAX_ADVMSS);
                let octets = of_segment.and_then(|(_, value)| u32_at(value, 0));
                mss = octets.unwrap_or(0) as u16;
            }
            _ => {}
        }
    }
    let any = if family == super::wire::AF_INET {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    let way = match (form, protocol, source) {
        (RTN_UNICAST, LEASED, Some(source)) => Way::Leased(source, interface),
        (RTN_UNICAST, OWN, source) => Way::Own(source, interface),
        (RTN_THROW, LEASED, _) => Way::Elsewhere,
        _ => return None,
    };
    (table == TABLE).then_some(Route {
        reqid,
        destination: Network {
            address: destination.unwrap_or(any),
            prefix,
        },
        way,
        mss,
    })
}

/// Reads an address of this host's that others can reach.
pub(super) fn parse_address(body: &[u8]) -> Option<IpAddr> {
    let [family, _, _, scope]: [u8; 4] = *body.first_chunk()?;
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes(body.get(ADDRESS_HEADER..)?) {
        match kind {
            IFA_ADDRESS => address = address_at(value, 0, family.into()),
            // On a link between two, the other one is the other's.
            IFA_LOCAL => local = address_at(value, 0, family.into()),
            _ => {}
        }
    }
    local.or(address).filter(|_| scope < RT_SCOPE_LINK)
}

pub(super) const fn longest(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::HEADER, *};

    #[test]
    fn routes_read_back() {
        let network = |address: &str, prefix| Network {
            address: address.parse().expect("address"),
            prefix,
        };
        let leased = |address: &str| Way::Leased(address.parse().expect("address"), 7);
        let own = |address: &str| Way::Own(address.parse().ok(), 8);
        let routes = [
            (network("10.1.0.0", 16), leased("10.3.0.1")),
            (network("2001:db8::", 32), leased("2001:db8:3::1")),
            (network("10.1.0.0", 16), own("10.2.0.1")),
            (network("10.1.0.0", 16), own("none")),
            (network("198.51.100.1", 32), Way::Elsewhere),
        ];
        for (destination, way) in routes {
            let route = Route {
                reqid: 0x5200_0003,
                destination,
                way,
                mss: if way == Way::Elsewhere { 0 } else { 1360 },
            };
            let request = Request::put_route(&route);
            assert_eq!(parse_route(&request.octets[HEADER..]), Some(route));
            for end in 0..request.octets.len() - HEADER {
                // Cut short it is another route or none, and never a panic.
                let _ = parse_route(&request.octets[HEADER..HEADER + end]);
            }
            let mut foreign = request.octets[HEADER..].to_vec();
            foreign[5] = 4;
            assert_eq!(parse_route(&foreign), None, "somebody else's");
        }
        let way = Request::way_to([198, 51, 100, 1].into());
        assert_eq!(parse_interface(&way.octets[HEADER..]), None);
    }

    #[test]
    fn a_source_is_one_of_a_way_that_leads_somewhere() {
        let source: IpAddr = [192, 0, 2, 10].into();
        for (form, wanted) in [
            (RTN_UNICAST, Some(source)),
            (RTN_LOCAL, Some(source)),
            (7, None),
        ] {
            let mut request = Request::new("a way", RTM_NEWROUTE, 0);
            let head = [2, 32, 0, 0, 0, 0, 0, form, 0, 0, 0, 0];
            request.octets.extend_from_slice(&head);
            request.number(RTA_OIF, 7);
            request.bare_address(RTA_PREFSRC, source);
            let body = &request.octets[HEADER..];
            assert_eq!(parse_source(body), wanted);
            for end in 0..body.len() {
                assert_eq!(parse_source(&body[..end]), None);
            }
        }
    }
}
