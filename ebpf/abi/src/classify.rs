//! What is this frame to us? One classifier for both sides of the kernel line: the XDP program
//! runs it over a packet, the daemon over octets.
//!
//! The order is shape, then keyed proof; there is no state yet. Whatever is not certainly ours
//! passes untouched.

mod reason;
#[cfg(test)]
mod tests;

use core::ops::RangeInclusive;

use crate::ike::{
    COOKIE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN,
    EXTENSION_HEADERS, FLAG_INITIATOR, FLAG_RESPONSE, GENERIC_HEADER_LEN, HEADER_LEN, IKE_SA_INIT,
    IKE_SESSION_RESUME, KEEPALIVE, MAJOR_VERSION, MARKER_LEN, NOTIFY_HEADER_LEN, PAYLOAD_NONE,
    PAYLOAD_NOTIFY, PORT_IKE, PORT_NAT_T, PROTOCOL_ESP, PROTOCOL_FRAGMENT, PROTOCOL_UDP,
    TICKET_OPAQUE,
};
use crate::maps::{CHECK_LOCAL, CHECK_OWN_SPI, SPI_KEYS_ENTRIES, TICKET_KEYS_SET};
use crate::sip::SipKey;
use crate::spi::OurSpi;
use crate::ticket;

pub use self::reason::{Reason, Verdict};

/// Payloads looked at in search of the ticket, which RFC 5723 puts second or third.
pub const MAX_WALK: usize = 12;
/// VLAN tags looked behind.
pub const MAX_VLANS: usize = 2;
/// Seconds of silence after which first messages are dropped: nobody would answer them.
pub const SILENT_AFTER: u64 = 10;
/// Seconds of silence after which everything passes, so that a gate left behind blinds nobody.
pub const ASLEEP_AFTER: u64 = 15 * 60;

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
/// SPI and sequence number. The kernel hands to the socket what is not longer than this.
const ESP_HEADER_LEN: usize = 8;
/// Lengths of a notification that holds a ticket.
const TICKET_NOTIFY: RangeInclusive<usize> =
    NOTIFY_HEADER_LEN + ticket::MIN_TICKET..=NOTIFY_HEADER_LEN + ticket::MAX_TICKET;
/// "More fragments" or any offset.
const IPV4_FRAGMENT: u16 = 0x3fff;

/// Octets that may be shorter than they claim to be.
pub trait Frame {
    /// How many octets there are.
    fn octets(&self) -> usize;
    /// The `N` octets at `at`, if there are so many.
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Returns `at`. In the kernel it also makes the verifier forget how `at` came about, so that
    /// paths that differ in it alone meet again and are not followed one by one to the end.
    #[inline(always)]
    fn settle(&self, at: usize) -> usize {
        at
    }
}

/// What the daemon has told whoever classifies.
pub trait Knowledge {
    /// The flags of [`crate::maps::Config`].
    fn flags(&self) -> u64;
    /// `k_tag` of a key id.
    fn ticket_key(&self, key_id: u8) -> Option<SipKey>;
    /// `k_spi`, by slot.
    fn spi_key(&self, slot: u32) -> Option<SipKey>;
    /// Whether an address, IPv4 mapped into IPv6, is ours.
    fn is_local(&self, address: &[u8; 16]) -> bool;
    /// Seconds since the daemon's last heartbeat.
    fn silence(&self) -> u64;
}

impl Frame for [u8] {
    fn octets(&self) -> usize {
        self.len()
    }

    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..)?.first_chunk().copied()
    }
}

/// Judges a frame from its Ethernet header on.
#[inline(always)]
pub fn classify<F: Frame + ?Sized, K: Knowledge>(frame: &F, known: &K) -> Verdict {
    let verdict = match find_message(frame, known) {
        Ok(message) => {
            let at = frame.settle(message.at);
            let len = frame.settle(message.len);
            classify_message(frame, Span { at, len }, known)
        }
        Err(verdict) => verdict,
    };
    with_daemon_alive(verdict, known)
}

/// Judges an IKE message that lies at `message` in `frame`, without the port 4500 marker.
#[inline(always)]
pub fn classify_message<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    message: Span,
    known: &K,
) -> Verdict {
    let Some(header) = frame.load::<HEADER_LEN>(message.at) else {
        return Verdict::Drop(Reason::Truncated);
    };
    let header = Header::read(&header);
    if message.len < HEADER_LEN {
        return Verdict::Drop(Reason::Truncated);
    }
    if header.version >> 4 != MAJOR_VERSION {
        return Verdict::Drop(Reason::Version);
    }
    if header.length as usize != message.len {
        return Verdict::Drop(Reason::Length);
    }
    if header.spi_i.0 == 0 {
        return Verdict::Drop(Reason::ZeroSpi);
    }
    if header.flags & FLAG_INITIATOR == 0 {
        return own_spi(header.spi_i, known);
    }
    if header.spi_r.0 != 0 {
        return own_spi(header.spi_r, known);
    }
    // RFC 7296, 2.2: the first message of either kind has message ID 0, retries with a cookie too.
    if header.flags & FLAG_RESPONSE != 0 || header.message_id != 0 {
        return Verdict::Drop(Reason::NotFirst);
    }
    match header.exchange {
        IKE_SA_INIT if header.next_payload != PAYLOAD_NONE => Verdict::Pass(Reason::SaInit),
        IKE_SA_INIT => Verdict::Drop(Reason::PayloadShape),
        IKE_SESSION_RESUME => match find_ticket(frame, message, header.next_payload) {
            Ok(at) => prove_ticket(frame, at, known),
            Err(verdict) => verdict,
        },
        _ => Verdict::Drop(Reason::NotFirst),
    }
}

/// A stretch of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub at: usize,
    /// How many octets it has.
    pub len: usize,
}

/// The gate outlives its daemon: what it does then depends on how long ago that died.
#[inline(always)]
fn with_daemon_alive<K: Knowledge>(verdict: Verdict, known: &K) -> Verdict {
    let opens_session = matches!(
        verdict,
        Verdict::Pass(
            Reason::SaInit
                | Reason::ResumeProven
                | Reason::ResumeUnchecked
                | Reason::TicketNotFound
        )
    );
    // The clock is read only where its answer can matter.
    if !opens_session && matches!(verdict, Verdict::Pass(_)) {
        return verdict;
    }
    let silence = known.silence();
    if silence > ASLEEP_AFTER {
        return Verdict::Pass(Reason::GateAsleep);
    }
    if opens_session && silence > SILENT_AFTER {
        return Verdict::Drop(Reason::DaemonSilent);
    }
    verdict
}

/// Goes from the Ethernet header to the IKE message of a datagram that is for us.
#[inline(always)]
fn find_message<F: Frame + ?Sized, K: Knowledge>(frame: &F, known: &K) -> Result<Span, Verdict> {
    const NOT_IKE: Verdict = Verdict::Pass(Reason::NotIke);
    let [.., e0, e1] = frame.load::<ETHERNET_LEN>(0).ok_or(NOT_IKE)?;
    let mut ethertype = u16::from_be_bytes([e0, e1]);
    let mut at = ETHERNET_LEN;
    for _ in 0..MAX_VLANS {
        if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN {
            let [_, _, e0, e1] = frame.load::<VLAN_LEN>(at).ok_or(NOT_IKE)?;
            ethertype = u16::from_be_bytes([e0, e1]);
            at += VLAN_LEN;
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => {
            let ip = frame.load::<IPV4_LEN>(at).ok_or(NOT_IKE)?;
            find_in_ipv4(frame, at, &ip, known)
        }
        ETHERTYPE_IPV6 => {
            let ip = frame.load::<IPV6_LEN>(at).ok_or(NOT_IKE)?;
            find_in_ipv6(frame, at, &ip, known)
        }
        _ => Err(NOT_IKE),
    }
}

#[inline(always)]
fn find_in_ipv4<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    at: usize,
    ip: &[u8; IPV4_LEN],
    known: &K,
) -> Result<Span, Verdict> {
    let [
        version,
        _,
        l0,
        l1,
        _,
        _,
        f0,
        f1,
        _,
        protocol,
        ..,
        d0,
        d1,
        d2,
        d3,
    ] = *ip;
    let destination = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, d0, d1, d2, d3];
    match protocol {
        PROTOCOL_UDP => {}
        PROTOCOL_ESP => return Err(Verdict::Pass(Reason::Esp)),
        _ => return Err(Verdict::Pass(Reason::NotIke)),
    }
    if u16::from_be_bytes([f0, f1]) & IPV4_FRAGMENT != 0 {
        return Err(towards_us(&destination, Reason::Fragment, known));
    }
    if version != 0x45 {
        return Err(towards_us(&destination, Reason::Options, known));
    }
    let total = usize::from(u16::from_be_bytes([l0, l1]));
    find_in_udp(
        frame,
        at + IPV4_LEN,
        total.saturating_sub(IPV4_LEN),
        &destination,
        known,
    )
}

#[inline(always)]
fn find_in_ipv6<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    at: usize,
    ip: &[u8; IPV6_LEN],
    known: &K,
) -> Result<Span, Verdict> {
    let [_, _, _, _, l0, l1, next, ..] = *ip;
    let [
        ..,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        d6,
        d7,
        d8,
        d9,
        d10,
        d11,
        d12,
        d13,
        d14,
        d15,
    ] = *ip;
    let destination = [
        d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15,
    ];
    match next {
        PROTOCOL_UDP => {
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            find_in_udp(frame, at + IPV6_LEN, len, &destination, known)
        }
        PROTOCOL_ESP => Err(Verdict::Pass(Reason::Esp)),
        PROTOCOL_FRAGMENT => Err(towards_us(&destination, Reason::Fragment, known)),
        other if EXTENSION_HEADERS.contains(&other) => {
            Err(towards_us(&destination, Reason::Options, known))
        }
        _ => Err(Verdict::Pass(Reason::NotIke)),
    }
}

#[inline(always)]
fn find_in_udp<F: Frame + ?Sized, K: Knowledge>(
    frame: &F,
    at: usize,
    room: usize,
    destination: &[u8; 16],
    known: &K,
) -> Result<Span, Verdict> {
    let [_, _, p0, p1, l0, l1, ..] = frame
        .load::<UDP_LEN>(at)
        .ok_or(Verdict::Pass(Reason::NotIke))?;
    let port = u16::from_be_bytes([p0, p1]);
    if port != PORT_IKE && port != PORT_NAT_T {
        return Err(Verdict::Pass(Reason::NotIke));
    }
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let payload = at + UDP_LEN;
    // Not an `Option`: older verifiers refuse a load of the value that `None` leaves undefined.
    let mut marker = 0;
    let mut marker_missing = false;
    if port == PORT_NAT_T {
        match frame.load::<MARKER_LEN>(payload) {
            Some(octets) => marker = u32::from_be_bytes(octets),
            None => marker_missing = true,
        }
    }
    // ESP first: it is the bulk, and it passes whoever it is for.
    if marker != 0 && len > UDP_LEN + ESP_HEADER_LEN {
        return Err(Verdict::Pass(Reason::Esp));
    }
    if let Verdict::Pass(Reason::NotLocal) = towards_us(destination, Reason::Options, known) {
        return Err(Verdict::Pass(Reason::NotLocal));
    }
    if len < UDP_LEN || len > room || at + len > frame.octets() {
        return Err(Verdict::Drop(Reason::Truncated));
    }
    if port == PORT_IKE {
        return Ok(Span {
            at: payload,
            len: len - UDP_LEN,
        });
    }
    if len == UDP_LEN + 1 && frame.load::<1>(payload) == Some([KEEPALIVE]) {
        return Err(Verdict::Drop(Reason::Keepalive));
    }
    if len < UDP_LEN + MARKER_LEN || marker_missing || marker != 0 {
        return Err(Verdict::Drop(Reason::Truncated));
    }
    Ok(Span {
        at: payload + MARKER_LEN,
        len: len - UDP_LEN - MARKER_LEN,
    })
}

/// Passes with `reason` what is for us, and as not ours what is not.
#[inline(always)]
fn towards_us<K: Knowledge>(destination: &[u8; 16], reason: Reason, known: &K) -> Verdict {
    if known.flags() & CHECK_LOCAL != 0 && !known.is_local(destination) {
        Verdict::Pass(Reason::NotLocal)
    } else {
        Verdict::Pass(reason)
    }
}

#[inline(always)]
fn own_spi<K: Knowledge>(spi: OurSpi, known: &K) -> Verdict {
    if known.flags() & CHECK_OWN_SPI == 0 {
        return Verdict::Pass(Reason::OwnSpiUnchecked);
    }
    let mut any_key = false;
    for slot in 0..SPI_KEYS_ENTRIES as u32 {
        let Some(key) = known.spi_key(slot) else {
            continue;
        };
        if spi.check_is_right(&key) {
            return Verdict::Pass(Reason::OwnSpi);
        }
        any_key = true;
    }
    if any_key {
        Verdict::Drop(Reason::ForeignSpi)
    } else {
        Verdict::Pass(Reason::OwnSpiUnchecked)
    }
}

/// Walks the payloads to the ticket. The walk goes on behind it, because a second ticket or a
/// chain that does not end with the message gives the whole away.
#[inline(always)]
fn find_ticket<F: Frame + ?Sized>(frame: &F, message: Span, first: u8) -> Result<usize, Verdict> {
    const SHAPE: Verdict = Verdict::Drop(Reason::PayloadShape);
    let end = message.at + message.len;
    let mut at = message.at + HEADER_LEN;
    let mut kind = first;
    let mut ticket_at = 0;
    let mut cookie_seen = false;
    for _ in 0..MAX_WALK {
        if kind == PAYLOAD_NONE {
            break;
        }
        let [next, _, l0, l1] = frame.load::<GENERIC_HEADER_LEN>(at).ok_or(SHAPE)?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if len < GENERIC_HEADER_LEN || at + len > end {
            return Err(SHAPE);
        }
        if kind == PAYLOAD_NOTIFY {
            let [_, spi_size, t0, t1] = frame.load::<4>(at + GENERIC_HEADER_LEN).ok_or(SHAPE)?;
            if len < NOTIFY_HEADER_LEN {
                return Err(SHAPE);
            }
            match u16::from_be_bytes([t0, t1]) {
                TICKET_OPAQUE => {
                    if ticket_at != 0 {
                        return Err(Verdict::Drop(Reason::TwoTickets));
                    }
                    if spi_size != 0 {
                        return Err(SHAPE);
                    }
                    if !TICKET_NOTIFY.contains(&len) {
                        return Err(Verdict::Drop(Reason::TicketLength));
                    }
                    ticket_at = at + NOTIFY_HEADER_LEN;
                }
                COOKIE => {
                    if cookie_seen {
                        return Err(Verdict::Drop(Reason::TwoCookies));
                    }
                    cookie_seen = true;
                }
                _ => {}
            }
        }
        kind = next;
        at = frame.settle(at + len);
    }
    if kind == PAYLOAD_NONE && at != end {
        return Err(SHAPE);
    }
    match (ticket_at, kind) {
        (0, PAYLOAD_NONE) => Err(Verdict::Drop(Reason::NoTicket)),
        (0, _) => Err(Verdict::Pass(Reason::TicketNotFound)),
        (at, _) => Ok(at),
    }
}

/// Turns away a ticket that this gateway did not seal. The sealed body is for the daemon.
#[inline(always)]
fn prove_ticket<F: Frame + ?Sized, K: Knowledge>(frame: &F, at: usize, known: &K) -> Verdict {
    let Some(envelope) = frame.load::<{ ticket::ENVELOPE_LEN }>(at) else {
        return Verdict::Drop(Reason::Truncated);
    };
    if ticket::shape(&envelope).is_err() {
        return Verdict::Drop(Reason::EnvelopeShape);
    }
    let Some(key) = known.ticket_key(ticket::key_id_of(&envelope)) else {
        return if known.flags() & TICKET_KEYS_SET == 0 {
            Verdict::Pass(Reason::ResumeUnchecked)
        } else {
            Verdict::Drop(Reason::UnknownKeyId)
        };
    };
    if ticket::tag_is_right(&envelope, &key) {
        Verdict::Pass(Reason::ResumeProven)
    } else {
        Verdict::Drop(Reason::TagWrong)
    }
}

/// The IKE header, read.
struct Header {
    spi_i: OurSpi,
    spi_r: OurSpi,
    next_payload: u8,
    version: u8,
    exchange: u8,
    flags: u8,
    message_id: u32,
    length: u32,
}

impl Header {
    #[inline(always)]
    fn read(octets: &[u8; HEADER_LEN]) -> Self {
        let [
            i0,
            i1,
            i2,
            i3,
            i4,
            i5,
            i6,
            i7,
            r0,
            r1,
            r2,
            r3,
            r4,
            r5,
            r6,
            r7,
            next_payload,
            version,
            exchange,
            flags,
            m0,
            m1,
            m2,
            m3,
            l0,
            l1,
            l2,
            l3,
        ] = *octets;
        Self {
            spi_i: OurSpi::from_wire([i0, i1, i2, i3, i4, i5, i6, i7]),
            spi_r: OurSpi::from_wire([r0, r1, r2, r3, r4, r5, r6, r7]),
            next_payload,
            version,
            exchange,
            flags,
            message_id: u32::from_be_bytes([m0, m1, m2, m3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        }
    }
}
