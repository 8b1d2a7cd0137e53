//! What the kernel says about a network interface: its index, its MTU, and which XDP program sits
//! on it in which mode. Neither the attach call nor a link says so; rtnetlink does.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// What is known of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) mtu: u32,
    pub(super) link: Link,
    pub(super) xdp: Option<OnInterface>,
}

/// What its frames begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// The Ethernet header.
    #[default]
    Ethernet,
    /// The IP header: a tunnel or PPP.
    Bare,
    /// Something else, by the kernel's number for such devices (`ARPHRD_*`).
    Other(u16),
}

impl Link {
    const fn of(kind: u16) -> Self {
        match kind {
            ARPHRD_ETHER | ARPHRD_LOOPBACK => Self::Ethernet,
            ARPHRD_PPP | ARPHRD_RAWIP | ARPHRD_TUNNEL | ARPHRD_TUNNEL6 | ARPHRD_SIT
            | ARPHRD_IPGRE | ARPHRD_IP6GRE | ARPHRD_NONE => Self::Bare,
            other => Self::Other(other),
        }
    }
}

/// The XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OnInterface {
    pub(super) native: bool,
    pub(super) program: u32,
}

impl Interface {
    /// Asks the kernel for an interface by name.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        let request = request(name)?;
        sendto(
            socket.as_raw_fd(),
            &request,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut answer = vec![0; ANSWER_LEN];
        let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        read(answer.get(..len).unwrap_or(&answer))
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const MESSAGE_HEADER: usize = 16;
/// `struct ifinfomsg`, which holds the kind of device at offset 2 and the index at 4.
const LINK_HEADER: usize = 16;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_PPP: u16 = 512;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_TUNNEL: u16 = 768;
const ARPHRD_TUNNEL6: u16 = 769;
const ARPHRD_LOOPBACK: u16 = 772;
const ARPHRD_SIT: u16 = 776;
const ARPHRD_IPGRE: u16 = 778;
const ARPHRD_IP6GRE: u16 = 823;
/// Of tun and WireGuard.
const ARPHRD_NONE: u16 = 0xfffe;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const XDP_ATTACHED_SKB: u8 = 2;
/// Attribute types carry two flag bits on top.
const TYPE_MASK: u16 = 0x3fff;
/// The kernel's own bound on an interface name, without its terminator.
const NAME_MAX: usize = 15;
/// Answers with many VF or statistics attributes reach some kilobytes.
const ANSWER_LEN: usize = 64 * 1024;

fn request(name: &str) -> io::Result<Vec<u8>> {
    let odd = name.contains(['\0', '/']) || matches!(name, "" | "." | "..");
    if odd || name.len() > NAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an interface name",
        ));
    }
    let attribute = 4 + name.len() + 1;
    let total = MESSAGE_HEADER + LINK_HEADER + attribute.next_multiple_of(4);
    let mut octets = Vec::with_capacity(total);
    octets.extend((total as u32).to_ne_bytes());
    octets.extend(RTM_GETLINK.to_ne_bytes());
    octets.extend(NLM_F_REQUEST.to_ne_bytes());
    octets.extend([0; 8]);
    octets.extend([0; LINK_HEADER]);
    octets.extend((attribute as u16).to_ne_bytes());
    octets.extend(IFLA_IFNAME.to_ne_bytes());
    octets.extend(name.as_bytes());
    octets.resize(total, 0);
    Ok(octets)
}

fn read(answer: &[u8]) -> io::Result<Interface> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed rtnetlink answer");
    let kind = answer
        .get(4..6)
        .and_then(|octets| octets.first_chunk().copied());
    let body = answer.get(MESSAGE_HEADER..).ok_or_else(malformed)?;
    match kind.map(u16::from_ne_bytes) {
        Some(RTM_NEWLINK) => {}
        Some(NLMSG_ERROR) => {
            let code = body
                .first_chunk()
                .map_or(0, |octets| i32::from_ne_bytes(*octets));
            return Err(io::Error::from_raw_os_error(-code));
        }
        _ => return Err(malformed()),
    }
    let index = word(body.get(4..).unwrap_or_default()).ok_or_else(malformed)?;
    let kind = body.get(2..).and_then(|octets| octets.first_chunk());
    let mut interface = Interface {
        index,
        link: Link::of(u16::from_ne_bytes(*kind.ok_or_else(malformed)?)),
        ..Interface::default()
    };
    for (kind, value) in attributes(body.get(LINK_HEADER..).ok_or_else(malformed)?) {
        match kind {
            IFLA_MTU => interface.mtu = word(value).ok_or_else(malformed)?,
            IFLA_XDP => interface.xdp = on_interface(value),
            _ => {}
        }
    }
    Ok(interface)
}

fn on_interface(nested: &[u8]) -> Option<OnInterface> {
    let find = |wanted| {
        attributes(nested)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, v)| v)
    };
    let attached = find(IFLA_XDP_ATTACHED).and_then(<[u8]>::first).copied()?;
    // With programs in several modes at once, only the mode's own attribute is there.
    let program = [IFLA_XDP_PROG_ID, IFLA_XDP_PROG_ID + 1, IFLA_XDP_SKB_PROG_ID]
        .into_iter()
        .find_map(|kind| find(kind).and_then(word))?;
    Some(OnInterface {
        native: attached != XDP_ATTACHED_SKB,
        program,
    })
}

/// The attributes of a message, up to the first that does not fit.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value))
    })
}

fn word(value: &[u8]) -> Option<u32> {
    value
        .first_chunk()
        .map(|octets| u32::from_ne_bytes(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_with_its_mtu() {
        let lo = Interface::find("lo").unwrap();
        assert_eq!(lo.index, 1);
        assert_eq!(lo.link, Link::Ethernet);
        assert!(lo.mtu > 0);
    }

    #[test]
    fn devices_are_told_apart_by_what_their_frames_begin_with() {
        assert_eq!(Link::of(ARPHRD_ETHER), Link::Ethernet);
        assert_eq!(Link::of(ARPHRD_NONE), Link::Bare);
        assert_eq!(Link::of(ARPHRD_PPP), Link::Bare);
        // InfiniBand has a header of its own.
        assert_eq!(Link::of(32), Link::Other(32));
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(Interface::find("nothere0").is_err());
        assert!(Interface::find("").is_err());
        assert!(Interface::find("../v1").is_err());
        assert!(Interface::find("a-name-that-is-too-long").is_err());
    }

    #[test]
    fn mode_and_program_are_read_from_the_nested_attribute() {
        let attribute = |kind: u16, value: &[u8]| {
            let mut octets = Vec::new();
            octets.extend((4 + value.len() as u16).to_ne_bytes());
            octets.extend(kind.to_ne_bytes());
            octets.extend(value);
            octets.resize(octets.len().next_multiple_of(4), 0);
            octets
        };
        let generic = [
            attribute(IFLA_XDP_ATTACHED, &[XDP_ATTACHED_SKB]),
            attribute(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes()),
        ]
        .concat();
        let expected = OnInterface {
            native: false,
            program: 77,
        };
        assert_eq!(on_interface(&generic), Some(expected));
        assert_eq!(on_interface(&attribute(IFLA_XDP_ATTACHED, &[0])), None);
        for len in 0..generic.len() {
            let _ = on_interface(&generic[..len]);
        }
    }
}
