//! Configuration payloads in IKE_AUTH (RFC 7296, 2.19 and 3.15): the client asks for inner addresses
//! and name servers, the gateway leases some to whoever has proved who it is, and what is protected is
//! narrowed to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::judge::Denied;
use crate::{
    endpoint::{Context, Endpoint},
    failure::Cause,
    io::Output,
    lease::{Granted, LeaseRequest, Leased, NoLease},
    peer::Connection,
    wire::{
        cp::{Attribute, CfgType, Configuration},
        id::Identity,
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// Name servers, and domains, that a client takes from its gateway.
const MAX_TAKEN: usize = 16;

/// What a client has asked for.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// One address for each family; unspecified for any.
    addresses: Vec<IpAddr>,
    asked: Vec<Attribute>,
}

/// Addresses granted to a client, and what it is to be told.
#[derive(Debug)]
pub(super) struct Grant {
    pub granted: Granted,
    wishes: Wishes,
}

// RFC 5723: N32, T14
/// Client: asks for what the connection wants, by preference for the addresses it had before.
pub(super) fn emit_request(chain: &mut ChainWriter, connection: &Connection, former: &[IpAddr]) {
    if connection.vips.is_empty() {
        return;
    }
    let mut attributes = Vec::new();
    for vip in &connection.vips {
        let of_family = |address: &&IpAddr| address.is_ipv4() == vip.is_ipv4();
        let former = former.iter().find(of_family);
        let known = Some(*vip).filter(|vip| !vip.is_unspecified());
        attributes.extend(match (vip, known.or(former.copied())) {
            (_, Some(IpAddr::V4(v4))) => [Attribute::Ip4Address(Some(v4)), Attribute::Ip4Dns(None)],
            (_, Some(IpAddr::V6(v6))) => [
                Attribute::Ip6Address(Some((v6, 128))),
                Attribute::Ip6Dns(None),
            ],
            (IpAddr::V4(_), None) => [Attribute::Ip4Address(None), Attribute::Ip4Dns(None)],
            (IpAddr::V6(_), None) => [Attribute::Ip6Address(None), Attribute::Ip6Dns(None)],
        });
    }
    attributes.push(Attribute::DnsDomain(None));
    emit(chain, CfgType::Request, attributes);
}

/// Client: whatever it asks for, the gateway may give another address of the family.
pub(crate) fn any(vips: &[IpAddr]) -> Vec<IpAddr> {
    let any = |vip: &IpAddr| match vip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    vips.iter().map(any).collect()
}

/// Gateway: what the client asks for; nothing without a CFG_REQUEST.
fn wishes(chain: &Chain<'_>) -> Result<Wishes, NotifyKind> {
    let mut wishes = Wishes::default();
    let Some(body) = chain.one(PayloadKind::CP) else {
        return Ok(wishes);
    };
    let request = Configuration::parse(body).map_err(|_| NotifyKind::INVALID_SYNTAX)?;
    // CFG_SET may be ignored (RFC 7296, 3.15.1).
    if request.kind != CfgType::Request {
        return Ok(wishes);
    }
    for attribute in &request.attributes {
        let address: IpAddr = match attribute {
            Attribute::Ip4Address(v4) => v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            Attribute::Ip6Address(v6) => v6.map_or(Ipv6Addr::UNSPECIFIED, |(v6, _)| v6).into(),
            _ => continue,
        };
        // Of several of one family the first counts: nobody gets more than one.
        let same = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        if !wishes.addresses.iter().any(same) {
            wishes.addresses.push(address);
        }
    }
    wishes.asked = request.attributes;
    Ok(wishes)
}

/// Gateway: leases addresses to a client that has proved who it is; `None` where the connection has
/// no pools, and what is asked for is passed over.
pub(super) fn grant(
    connection: &Connection,
    peer: &Identity,
    chain: &Chain<'_>,
    cx: &mut Context<'_>,
) -> Result<Option<Grant>, Denied> {
    if connection.pools.is_empty() {
        return Ok(None);
    }
    let wishes = wishes(chain).map_err(Denied::from)?;
    if wishes.addresses.is_empty() {
        return Err(NotifyKind::FAILED_CP_REQUIRED.into());
    }
    let granted = cx.leases.grant(&LeaseRequest {
        connection,
        peer,
        wanted: &wishes.addresses,
        now: cx.now,
    });
    let granted = granted.map_err(|why| {
        let cause = match why {
            NoLease::Exhausted => Cause::NoAddress,
            NoLease::Enough(most) => Cause::EnoughAddresses { most },
        };
        Denied::new(NotifyKind::INTERNAL_ADDRESS_FAILURE, cause)
    })?;
    Ok(Some(Grant { granted, wishes }))
}

// RFC 5723: T15
/// Gateway: the addresses, and today's name servers.
pub(super) fn emit_reply(chain: &mut ChainWriter, connection: &Connection, grant: &Grant) {
    let Grant { granted, wishes } = grant;
    let mut attributes = Vec::new();
    for address in &granted.addresses {
        match address {
            IpAddr::V4(v4) => {
                attributes.push(Attribute::Ip4Address(Some(*v4)));
                if wishes.include(|one| matches!(one, Attribute::Ip4Netmask(_))) {
                    attributes.push(Attribute::Ip4Netmask(Some(Ipv4Addr::BROADCAST)));
                }
            }
            IpAddr::V6(v6) => attributes.push(Attribute::Ip6Address(Some((*v6, 128)))),
        }
    }
    let before = attributes.len();
    let dns4 = wishes.include(|one| matches!(one, Attribute::Ip4Dns(_)));
    let dns6 = wishes.include(|one| matches!(one, Attribute::Ip6Dns(_)));
    let domains = wishes.include(|one| matches!(one, Attribute::DnsDomain(_)));
    for server in connection.pools.iter().flat_map(|pool| &pool.dns) {
        let attribute = match server {
            IpAddr::V4(v4) => dns4.then_some(Attribute::Ip4Dns(Some(*v4))),
            IpAddr::V6(v6) => dns6.then_some(Attribute::Ip6Dns(Some(*v6))),
        };
        attributes.extend(attribute.filter(|attribute| !attributes.contains(attribute)));
    }
    // A domain without a server to ask for it says nothing (RFC 8598, 3.1).
    if domains && attributes.len() > before {
        for domain in connection.pools.iter().flat_map(|pool| &pool.domains) {
            let attribute = Attribute::DnsDomain(Some(domain.clone()));
            attributes.extend(Some(attribute).filter(|one| !attributes.contains(one)));
        }
    }
    emit(chain, CfgType::Reply, attributes);
}

/// Client: what the gateway gives; `None` if a client that wants addresses gets none it can use.
pub(super) fn received(chain: &Chain<'_>, vips: &[IpAddr]) -> Option<Leased> {
    let mut leased = Leased::default();
    if vips.is_empty() {
        return Some(leased);
    }
    let reply = Configuration::parse(chain.one(PayloadKind::CP)?).ok()?;
    if reply.kind != CfgType::Reply {
        return None;
    }
    for attribute in reply.attributes {
        match attribute {
            Attribute::Ip4Address(Some(v4)) => leased.take(v4.into(), vips),
            Attribute::Ip6Address(Some((v6, _))) => leased.take(v6.into(), vips),
            Attribute::Ip4Dns(Some(v4)) if leased.dns.len() < MAX_TAKEN => {
                leased.dns.push(v4.into());
            }
            Attribute::Ip6Dns(Some(v6)) if leased.dns.len() < MAX_TAKEN => {
                leased.dns.push(v6.into());
            }
            Attribute::DnsDomain(Some(domain)) if leased.domains.len() < MAX_TAKEN => {
                leased.domains.push(domain);
            }
            _ => {}
        }
    }
    if leased.dns.is_empty() {
        leased.domains.clear();
    }
    Some(leased).filter(|leased| !leased.addresses.is_empty())
}

impl Wishes {
    fn include(&self, wish: impl Fn(&Attribute) -> bool) -> bool {
        self.asked.iter().any(wish)
    }
}

impl Leased {
    /// Takes an address of a family that was asked for, if it can be an interface's.
    fn take(&mut self, address: IpAddr, vips: &[IpAddr]) {
        let same = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        let wanted = vips.iter().any(same) && !self.addresses.iter().any(same);
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        let odd = address.is_unspecified() || address.is_loopback() || address.is_multicast();
        if wanted && !broadcast && !odd {
            self.addresses.push(address);
        }
    }
}

fn emit(chain: &mut ChainWriter, kind: CfgType, attributes: Vec<Attribute>) {
    let configuration = Configuration { kind, attributes };
    chain.payload(PayloadKind::CP, |out| configuration.emit(out));
}

impl Endpoint {
    /// Gateway: nothing comes of a grant.
    pub(super) fn take_back(&mut self, grant: Option<&Grant>) {
        if let Some(grant) = grant {
            self.output(Output::LeaseEnded(grant.granted.id));
        }
    }

    /// Gateway: an SA ends, or may not be used any more. Its peer may come back to its addresses.
    pub(crate) fn end_lease(&mut self, sa: u64) {
        if let Some(lease) = self.held_leases.remove(&sa) {
            self.output(Output::LeaseEnded(lease));
        }
    }

    /// Gateway: a rekey has put an SA in the place of another.
    pub(crate) fn hand_lease_on(&mut self, old: u64, new: u64) {
        if let Some(lease) = self.held_leases.remove(&old) {
            self.held_leases.insert(new, lease);
        }
    }
}
