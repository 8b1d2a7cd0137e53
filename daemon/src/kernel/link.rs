//! xfrm interfaces of ours (`linux/if_link.h`): made when the daemon starts, found again after a crash, and
//! taken away at the goodbye or once the configuration names them no more. The kernel's group of
//! interfaces tells ours from those of others, which are left alone.

use std::collections::BTreeMap;

use nix::errno::Errno;
use tracing::info;

use super::{
    DataplaneError,
    netlink::Netlink,
    wire::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Request, attributes, u32_at},
};

/// The group that our interfaces are in, as `ip link` shows it.
const GROUP: u32 = 5723;
const KIND: &[u8] = b"xfrm";

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_XFRM_IF_ID: u16 = 2;
const IFF_UP: u32 = 1;
/// Length of `ifinfomsg`, and where the index is in it.
const LINK_HEADER: usize = 16;
const LINK_INDEX: usize = 4;

/// An xfrm interface that the daemon makes for the Child SAs whose packets come and go by it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct XfrmInterface {
    /// As the kernel is to call it, 1 to 15 octets.
    pub name: String,
    /// The number by which policies know it, not 0.
    pub if_id: u32,
}

/// An interface of the namespace, anybody's.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Link {
    index: u32,
    name: String,
    group: u32,
    /// Of an xfrm interface.
    if_id: Option<u32>,
}

impl Link {
    fn is_ours(&self) -> bool {
        self.group == GROUP && self.if_id.is_some()
    }

    fn is(&self, wanted: &XfrmInterface) -> bool {
        self.is_ours() && self.name == wanted.name && self.if_id == Some(wanted.if_id)
    }
}

/// Makes what is wanted and not there, and takes away what is ours and wanted no more. Nothing is
/// touched if one of them cannot be ours. Returns their indexes by number.
pub(super) fn settle(
    netlink: &mut Netlink,
    wanted: &[XfrmInterface],
) -> Result<BTreeMap<u32, u32>, DataplaneError> {
    let links = netlink.dump(Request::dump_links(), parse_link)?;
    for one in wanted {
        may_have(one, &links)?;
    }
    let kept = |link: &&Link| wanted.iter().any(|one| link.is(one));
    for stale in links.iter().filter(|link| link.is_ours() && !kept(link)) {
        change(netlink, &stale.name, Request::delete_link(stale.index))?;
        info!(
            interface = stale.name,
            "taken away: nothing names it any more"
        );
    }
    for one in wanted {
        match links.iter().find(|link| link.is(one)) {
            Some(link) => change(netlink, &one.name, Request::raise_link(link.index))?,
            None => change(netlink, &one.name, Request::add_link(one))?,
        }
    }
    let links = netlink.dump(Request::dump_links(), parse_link)?;
    let ours = links.iter().filter(|link| link.is_ours());
    Ok(ours
        .filter_map(|link| Some((link.if_id?, link.index)))
        .collect())
}

/// Takes all of ours away.
pub(super) fn clear(netlink: &mut Netlink) -> Result<(), DataplaneError> {
    settle(netlink, &[]).map(drop)
}

/// Whether an interface of ours can have this name and number.
fn may_have(wanted: &XfrmInterface, links: &[Link]) -> Result<(), DataplaneError> {
    let XfrmInterface { name, if_id } = wanted;
    let mut others = links.iter().filter(|link| !link.is_ours());
    let what = others.find_map(|link| match link.if_id {
        number if link.name == *name => {
            let number = number.map_or(String::new(), |number| format!(", with if_id {number}"));
            Some(format!(
                "there is one of this name that the daemon has not made{number}; remove it, or name another"
            ))
        }
        Some(number) if number == *if_id => Some(format!(
            "if_id {number} is that of {}, which the daemon has not made; remove that, or take another number",
            link.name
        )),
        _ => None,
    });
    let name = name.clone();
    what.map_or(Ok(()), |what| Err(DataplaneError::Interface { name, what }))
}

fn change(netlink: &mut Netlink, name: &str, request: Request) -> Result<(), DataplaneError> {
    let Some(Err(refusal)) = netlink.transact(&mut [request])?.pop() else {
        return Ok(());
    };
    let hint = match refusal.errno {
        Errno::EOPNOTSUPP => "; is there a module xfrm_interface for this kernel?",
        _ => "",
    };
    Err(DataplaneError::Interface {
        name: name.to_owned(),
        what: refusal.text + hint,
    })
}

impl Request {
    fn dump_links() -> Self {
        Self::link("listing interfaces", RTM_GETLINK, NLM_F_DUMP, (0, 0)).finish()
    }

    /// It comes up with its number and in our group at once, so that none is ever left half made.
    fn add_link(wanted: &XfrmInterface) -> Self {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        let mut request = Self::link("making the interface", RTM_NEWLINK, flags, (0, IFF_UP));
        request.attribute(IFLA_IFNAME, |octets| {
            octets.extend_from_slice(wanted.name.as_bytes());
            octets.push(0);
        });
        request.number(IFLA_GROUP, GROUP);
        // Without a device below, so that ESP leaves by whatever leads to the peer.
        let mut inside = Self::new("", 0, 0);
        let start = inside.octets.len();
        inside.attribute(IFLA_INFO_KIND, |octets| octets.extend_from_slice(KIND));
        let mut data = Self::new("", 0, 0);
        data.number(IFLA_XFRM_IF_ID, wanted.if_id);
        inside.attribute(IFLA_INFO_DATA, |octets| {
            octets.extend_from_slice(data.octets.get(start..).unwrap_or_default());
        });
        request.attribute(IFLA_LINKINFO, |octets| {
            octets.extend_from_slice(inside.octets.get(start..).unwrap_or_default());
        });
        request.finish()
    }

    fn raise_link(index: u32) -> Self {
        Self::link("bringing the interface up", RTM_NEWLINK, 0, (index, IFF_UP)).finish()
    }

    fn delete_link(index: u32) -> Self {
        Self::link("removing the interface", RTM_DELLINK, 0, (index, 0)).finish()
    }

    /// The header; of the flags those are changed that are set.
    fn link(what: &'static str, kind: u16, more: u16, (index, flags): (u32, u32)) -> Self {
        let mut request = Self::new(what, kind, more);
        for field in [0, index, flags, flags] {
            request.u32(field);
        }
        request
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(body, LINK_INDEX)?,
        name: String::new(),
        group: 0,
        if_id: None,
    };
    for (kind, value) in attributes(body.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_GROUP => link.group = u32_at(value, 0)?,
            IFLA_LINKINFO => link.if_id = if_id(value),
            _ => {}
        }
    }
    Some(link)
}

/// The number in what the kernel says of a kind of interface, if it is ours.
fn if_id(info: &[u8]) -> Option<u32> {
    let of = |wanted| move |(kind, value)| (kind == wanted).then_some(value);
    let kind = attributes(info).find_map(of(IFLA_INFO_KIND))?;
    let data = attributes(info).find_map(of(IFLA_INFO_DATA))?;
    let number = attributes(data).find_map(of(IFLA_XFRM_IF_ID))?;
    (kind.strip_suffix(&[0]).unwrap_or(kind) == KIND)
        .then(|| u32_at(number, 0))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::{super::wire::HEADER, *};

    fn ipsec0() -> XfrmInterface {
        XfrmInterface {
            name: "ipsec0".into(),
            if_id: 7,
        }
    }

    fn link(name: &str, group: u32, if_id: Option<u32>) -> Link {
        Link {
            index: 3,
            name: name.into(),
            group,
            if_id,
        }
    }

    #[test]
    fn an_interface_of_ours_reads_back() {
        let request = Request::add_link(&ipsec0());
        let body = &request.octets[HEADER..];
        let read = parse_link(body).expect("whole");
        assert!(read.is(&ipsec0()), "{read:?}");
        for end in 0..body.len() {
            // Cut short it is another interface or none, and never a panic.
            let _ = parse_link(&body[..end]);
        }
    }

    #[test]
    fn what_is_not_ours_is_named_and_left_alone() {
        let refused = |there: Link| {
            let error = may_have(&ipsec0(), &[there]).err()?;
            Some(error.to_string())
        };
        assert_eq!(refused(link("ipsec0", GROUP, Some(7))), None);
        // The configuration has changed since it was made.
        assert_eq!(refused(link("ipsec0", GROUP, Some(8))), None);
        assert_eq!(refused(link("eth0", 0, None)), None);
        for (there, words) in [
            (link("ipsec0", 0, None), "ipsec0: there is one of this name"),
            (link("ipsec0", 0, Some(7)), "with if_id 7"),
            (link("vpn0", 0, Some(7)), "if_id 7 is that of vpn0"),
            // A veth of our group is not one of ours either.
            (link("ipsec0", GROUP, None), "has not made"),
        ] {
            let said = refused(there).unwrap_or_default();
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
