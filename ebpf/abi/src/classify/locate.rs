//! From the Ethernet header to the IKE message: VLAN tags, PPPoE, IPv4 or IPv6, UDP, and on port 4500
//! the marker. What is not certainly a datagram for us ends here with its verdict.

use core::hint::cold_path;

use super::{Frame, Knowledge, Reason, Span, Verdict, doubled, within};
use crate::defence::Budget;
use crate::ike::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_PPPOE, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN,
    EXTENSION_HEADERS, KEEPALIVE, MARKER_LEN, PORT_IKE, PORT_NAT_T, PPP_IPV4, PPP_IPV6, PPPOE_LEN,
    PPPOE_SESSION, PROTOCOL_ESP, PROTOCOL_FRAGMENT, PROTOCOL_UDP,
};
use crate::maps::{CHECK_LOCAL, DENIES, OUR_ADDRESS};
use crate::networks::Rule;

/// VLAN tags looked behind.
pub const MAX_VLANS: usize = 2;

/// Octets of an Ethernet header without tags.
const ETHERNET_LEN: usize = 14;
const ETHERTYPE_AT: usize = ETHERNET_LEN - 2;
const VLAN_LEN: usize = 4;
/// Octets of an IPv4 header without options.
pub(super) const IPV4_LEN: usize = 20;
/// Octets of an IPv6 header without extensions.
pub(super) const IPV6_LEN: usize = 40;
pub(super) const UDP_LEN: usize = 8;
/// SPI and sequence number. The kernel hands to the socket what is not longer than this.
const ESP_HEADER_LEN: usize = 8;
/// "More fragments" or any offset, in the second word as it is read.
const IPV4_FRAGMENT: u32 = u32::from_le_bytes([0, 0, 0x3f, 0xff]);

/// [`PORT_IKE`] and [`PORT_NAT_T`] as little-endian words have them: what is only compared need not be turned
/// round.
const IKE_READ: u16 = PORT_IKE.swap_bytes();
const NAT_T_READ: u16 = PORT_NAT_T.swap_bytes();

/// Where the parts of a datagram for us are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Located {
    /// Where the IP header begins.
    pub ip: usize,
    /// Octets of the IP header, which tell the family too.
    pub ip_len: usize,
    /// The IKE message.
    pub message: Span,
}

/// Nothing of ours, or nothing that can be read.
const NOT_IKE: Verdict = Verdict::Pass(Reason::NotIke);

/// Goes from the first header to the IKE message of a datagram that is for us.
#[inline(always)]
pub(super) fn locate<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    known: &K,
) -> Result<Located, Verdict> {
    let (at, ethertype) = if F::BARE {
        bare(frame)?
    } else {
        behind_ethernet(frame)?
    };
    match ethertype {
        ETHERTYPE_IPV4 => {
            let ip = frame.header(at).ok_or(NOT_IKE)?;
            find_in_ipv4(frame, at, ip, known)
        }
        ETHERTYPE_IPV6 => {
            let ip = frame.header(at).ok_or(NOT_IKE)?;
            find_in_ipv6(frame, at, ip, known)
        }
        _ => Err(NOT_IKE),
    }
}

/// The family of a frame that begins with its IP header.
#[inline(always)]
fn bare<F: Frame + ?Sized>(frame: &F) -> Result<(usize, u16), Verdict> {
    let at = frame.settle(0);
    let [version] = frame.load::<1>(at).ok_or(NOT_IKE)?;
    match version >> 4 {
        4 => Ok((at, ETHERTYPE_IPV4)),
        6 => Ok((at, ETHERTYPE_IPV6)),
        _ => Err(NOT_IKE),
    }
}

/// Where the IP header begins, and of which family it is.
#[inline(always)]
fn behind_ethernet<F: Frame + ?Sized>(frame: &F) -> Result<(usize, u16), Verdict> {
    // Every read begins at a settled place: a read at a known one would tell the verifier how much of
    // the frame there is, and set paths apart that are alike in all else.
    let ethertype = frame.load::<2>(frame.settle(ETHERTYPE_AT));
    let mut ethertype = u16::from_be_bytes(ethertype.ok_or(NOT_IKE)?);
    let mut at = ETHERNET_LEN;
    for _ in 0..MAX_VLANS {
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN {
            cold_path();
            let tag = frame.load::<VLAN_LEN>(frame.settle(at));
            let [_, _, e0, e1] = tag.ok_or(NOT_IKE)?;
            ethertype = u16::from_be_bytes([e0, e1]);
            at += VLAN_LEN;
        }
    }
    if ethertype == ETHERTYPE_PPPOE {
        cold_path();
        let head = frame.load::<PPPOE_LEN>(frame.settle(at)).ok_or(NOT_IKE)?;
        let [version, code, _, _, _, _, p0, p1] = head;
        // The same packets as ever, under another number: those of PPP.
        ethertype = match u16::from_be_bytes([p0, p1]) {
            PPP_IPV4 if [version, code] == PPPOE_SESSION => ETHERTYPE_IPV4,
            PPP_IPV6 if [version, code] == PPPOE_SESSION => ETHERTYPE_IPV6,
            _ => return Err(NOT_IKE),
        };
        at += PPPOE_LEN;
    }
    Ok((frame.settle(at), ethertype))
}

#[inline(always)]
fn find_in_ipv4<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    at: usize,
    [head, fragment, carried, _, destination]: [u32; IPV4_LEN / 4],
    known: &K,
) -> Result<Located, Verdict> {
    let destination = mapped(u64::from(destination));
    match (carried >> 8) as u8 {
        PROTOCOL_UDP => {}
        PROTOCOL_ESP => return Err(Verdict::Pass(Reason::Esp)),
        _ => return Err(Verdict::Pass(Reason::NotIke)),
    }
    if fragment & IPV4_FRAGMENT != 0 {
        return Err(irregular(&destination, FRAGMENT, known));
    }
    if head as u8 != 0x45 {
        return Err(irregular(&destination, OPTIONS, known));
    }
    let total = usize::from(((head >> 16) as u16).swap_bytes());
    find_in_udp(frame, (at, IPV4_LEN), total, &destination, known)
}

#[inline(always)]
fn find_in_ipv6<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    at: usize,
    [_, head, _, _, _, _, d0, d1, d2, d3]: [u32; IPV6_LEN / 4],
    known: &K,
) -> Result<Located, Verdict> {
    let destination = joined(doubled(d0, d1), doubled(d2, d3));
    match (head >> 16) as u8 {
        PROTOCOL_UDP => {
            let total = IPV6_LEN + usize::from((head as u16).swap_bytes());
            find_in_udp(frame, (at, IPV6_LEN), total, &destination, known)
        }
        PROTOCOL_ESP => Err(Verdict::Pass(Reason::Esp)),
        PROTOCOL_FRAGMENT => {
            // Each fragment says what it is one of, but only the first is believed when they are
            // put together (RFC 8200, 4.5). Others may lie their way past the budget: without a
            // first one that says UDP, and is charged for it, no UDP comes of them.
            let of = frame.copy::<1>(frame.settle(at + IPV6_LEN));
            Err(match of {
                Some([PROTOCOL_ESP]) => Verdict::Pass(Reason::Esp),
                Some([of]) if may_hide_udp(of) => irregular(&destination, FRAGMENT, known),
                _ => NOT_IKE,
            })
        }
        other if EXTENSION_HEADERS.contains(&other) => Err(irregular(&destination, OPTIONS, known)),
        _ => Err(NOT_IKE),
    }
}

/// Whether UDP may be in a fragment that says it is of this.
#[inline(always)]
fn may_hide_udp(of: u8) -> bool {
    of == PROTOCOL_UDP || of == PROTOCOL_FRAGMENT || EXTENSION_HEADERS.contains(&of)
}

#[inline(always)]
fn find_in_udp<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    (ip, ip_len): (usize, usize),
    total: usize,
    destination: &[u8; 16],
    known: &K,
) -> Result<Located, Verdict> {
    let at = ip + ip_len;
    let located = |message| Located {
        ip,
        ip_len,
        message,
    };
    let [ports, udp]: [u32; UDP_LEN / 4] = frame.header(at).ok_or(NOT_IKE)?;
    let port = (ports >> 16) as u16;
    if port != IKE_READ && port != NAT_T_READ {
        return Err(NOT_IKE);
    }
    let len = usize::from((udp as u16).swap_bytes());
    let payload = at + UDP_LEN;
    // Not an `Option`: older verifiers refuse a load of the value that `None` leaves undefined.
    let mut marker = 0;
    let mut marker_missing = false;
    if port == NAT_T_READ {
        match frame.header(payload) {
            Some([word]) => marker = word,
            None => marker_missing = true,
        }
    }
    // ESP first: it is the bulk, and it passes whoever it is for.
    if marker != 0 && len > UDP_LEN + ESP_HEADER_LEN {
        return Err(Verdict::Pass(Reason::Esp));
    }
    if !is_ours(destination, known) {
        return Err(Verdict::Pass(Reason::NotLocal));
    }
    if known.flags() & DENIES != 0 {
        cold_path();
        if is_denied(frame, (ip, ip_len), known) {
            return Err(Verdict::Drop(Reason::Denied));
        }
    }
    if len < UDP_LEN || ip_len + len > total || at + len > frame.octets() {
        return Err(Verdict::Drop(Reason::Truncated));
    }
    if port == IKE_READ {
        return Ok(located(Span {
            at: payload,
            len: len - UDP_LEN,
        }));
    }
    if len == UDP_LEN + 1 && frame.load::<1>(payload) == Some([KEEPALIVE]) {
        return Err(Verdict::Drop(Reason::Keepalive));
    }
    if len < UDP_LEN + MARKER_LEN || marker_missing || marker != 0 {
        return Err(Verdict::Drop(Reason::Truncated));
    }
    Ok(located(Span {
        at: payload + MARKER_LEN,
        len: len - UDP_LEN - MARKER_LEN,
    }))
}

/// An address from its two halves as little-endian words.
#[inline(always)]
pub(super) const fn joined(first: u64, second: u64) -> [u8; 16] {
    (first as u128 | (second as u128) << 64).to_le_bytes()
}

/// The IPv4 address in the lower half of a little-endian word, mapped into IPv6.
#[inline(always)]
pub(super) const fn mapped(word: u64) -> [u8; 16] {
    joined(0, word << 32 | 0xffff_0000)
}

#[inline(always)]
fn is_ours<K: Knowledge>(destination: &[u8; 16], known: &K) -> bool {
    known.flags() & CHECK_LOCAL == 0 || known.address(destination) & OUR_ADDRESS != 0
}

/// Whether it comes from a network that is denied.
#[inline(always)]
fn is_denied<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    (ip, ip_len): (usize, usize),
    known: &K,
) -> bool {
    let source = if ip_len == IPV4_LEN {
        let v4 = frame.copy::<4>(frame.settle(ip + IPV4_SOURCE));
        v4.map(|source| mapped(u64::from(u32::from_le_bytes(source))))
    } else {
        frame.copy::<16>(frame.settle(ip + IPV6_SOURCE))
    };
    source.is_some_and(|source| known.rule(&source) == Some(Rule::Deny))
}

/// Where the source stands in an IPv4 header.
const IPV4_SOURCE: usize = 12;
/// And in one of IPv6.
const IPV6_SOURCE: usize = 8;

/// Within the level's budget, and beyond it.
type Irregular = (Reason, Reason);
const FRAGMENT: Irregular = (Reason::Fragment, Reason::FragmentOver);
const OPTIONS: Irregular = (Reason::Options, Reason::OptionsOver);

/// What hides its ports, or is more work than other packets: in a flood only so much of it.
#[inline(always)]
fn irregular<K: Knowledge>(
    destination: &[u8; 16],
    (reason, over): Irregular,
    known: &K,
) -> Verdict {
    if !is_ours(destination, known) {
        return Verdict::Pass(Reason::NotLocal);
    }
    within(Budget::Irregular, reason, over, known)
}
