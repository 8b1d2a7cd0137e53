//! Forged resumptions in bulk: copies of one genuine request that pass every test of shape and fail
//! the one with a key. What a flood of them does to a gateway is for the cases, and the demo, to say.

use std::{
    ops::Range,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use gate_abi::{
    ike::{
        FLAG_RESPONSE, GENERIC_HEADER_LEN, HEADER_LEN, IKE_SESSION_RESUME, MARKER_LEN,
        NOTIFY_HEADER_LEN, PAYLOAD_NONE, PAYLOAD_NOTIFY, PORT_NAT_T, TICKET_OPAQUE,
    },
    ticket::{ENVELOPE_LEN, TAG_OFFSET},
};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use crate::{
    capture::{self, Frame},
    chance::Chance,
    netns::Namespace,
    packet::{Content, Packet},
};

/// Makes forged requests from a recorded one.
#[derive(Clone, Debug)]
pub struct Forger {
    frame: Vec<u8>,
    /// UDP header and payload.
    udp: Range<usize>,
    /// The octets that differ from copy to copy.
    fresh: [Range<usize>; 4],
    chance: Chance,
}

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Frames in a second, evenly.
    pub per_second: u32,
}

/// What left.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Frames that the interface took.
    pub frames: u32,
    /// Frames that it had no room for.
    pub refused: u32,
    /// From the first to the last.
    pub took: Duration,
}

impl Forger {
    /// Reads an IKE_SESSION_RESUME request from its Ethernet header on. Addresses, ports, key id and
    /// index stay what they are in it; IPv4 without options only.
    pub fn from_request(frame: &[u8]) -> Result<Self> {
        let total = match frame.get(ETHERNET..ETHERNET + IPV4 + UDP) {
            Some([0x45, _, a, b, _, _, 0 | 0x40, 0, _, 17, ..]) if frame[12..14] == [8, 0] => {
                usize::from(u16::from_be_bytes([*a, *b]))
            }
            _ => bail!("no whole IPv4 datagram"),
        };
        // Ethernet pads what is short; the copies need not.
        let end = ETHERNET + total;
        let frame = frame.get(..end).context("a cut frame")?.to_vec();
        let udp = ETHERNET + IPV4;
        let port = u16::from_be_bytes([frame[udp + 2], frame[udp + 3]]);
        let marker = if port == PORT_NAT_T { MARKER_LEN } else { 0 };
        let message = udp + UDP + marker;
        let header = frame.get(message..message + HEADER_LEN);
        let header = header.context("no IKE header")?;
        ensure!(
            header[18] == IKE_SESSION_RESUME && header[19] & FLAG_RESPONSE == 0,
            "exchange {}, flags {:#x}: no request for a resumption",
            header[18],
            header[19]
        );
        let (nonce, ticket) = find(&frame, message + HEADER_LEN, header[16])?;
        let fresh = [
            message..message + SPI,
            nonce,
            ticket + ENVELOPE_NONCE.start..ticket + ENVELOPE_NONCE.end,
            ticket + TAG_OFFSET..ticket + ENVELOPE_LEN,
        ];
        let udp = udp..end;
        Ok(Self {
            frame,
            udp,
            fresh,
            chance: Chance::fresh(),
        })
    }

    /// The first request for a resumption that a capture's own namespace sent.
    pub fn from_capture(frames: &[Frame]) -> Result<Self> {
        let request = frames.iter().filter(|frame| frame.sent).find(|frame| {
            matches!(
                Packet::parse(&frame.octets).map(|packet| packet.content),
                Some(Content::Ike {
                    exchange: IKE_SESSION_RESUME,
                    response: false,
                    ..
                })
            )
        });
        let request = request.context("no request for a resumption was captured")?;
        ensure!(request.octets.len() < capture::SNAP, "a cut frame");
        Self::from_request(&request.octets)
    }

    /// The next forged frame: another SPIi, another Ni, another ticket that nobody has issued.
    pub fn forge(&mut self) -> &[u8] {
        for range in &self.fresh {
            self.chance.fill(&mut self.frame[range.clone()]);
        }
        // An SPIi of zero is no SPI (RFC 7296, 3.1).
        self.frame[self.fresh[0].start] |= 1;
        let sum = udp_checksum(&self.frame, &self.udp);
        let at = self.udp.start + UDP_CHECKSUM;
        self.frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        &self.frame
    }

    /// Sends `count` frames out of an interface of a namespace, beneath its IP stack. It takes as long
    /// as the pace says, and gives up after twice that and [`GRACE`].
    pub fn send(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        count: u32,
        pace: Pace,
    ) -> Result<Sent> {
        send(namespace, interface, count, pace, |frame| {
            frame.clear();
            frame.extend_from_slice(self.forge());
        })
    }
}

/// Sends `count` frames as [`Forger::send`] does; `next` makes each in a buffer that holds the last.
pub fn send(
    namespace: &Namespace,
    interface: &str,
    count: u32,
    pace: Pace,
    next: impl FnMut(&mut Vec<u8>) + Send,
) -> Result<Sent> {
    ensure!(pace.per_second > 0, "a pace of nothing");
    namespace.within(|| send_here(interface, count, pace, next))?
}

fn send_here(
    interface: &str,
    count: u32,
    pace: Pace,
    mut next: impl FnMut(&mut Vec<u8>),
) -> Result<Sent> {
    let link = link(interface)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let out = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    let (mut frames, mut refused) = (0, 0);
    let mut frame = Vec::new();
    let start = Instant::now();
    let gap = Duration::from_secs(1) / pace.per_second;
    let limit = gap * count * 2 + GRACE;
    for number in 0..count {
        let due = gap * number;
        let ahead = due.saturating_sub(start.elapsed());
        if ahead > LEAST_SLEEP {
            thread::sleep(ahead);
        }
        ensure!(start.elapsed() < limit, "{frames} of {count} in {limit:?}");
        next(&mut frame);
        match sendto(out.as_raw_fd(), &frame, &link, MsgFlags::empty()) {
            Ok(_) => frames += 1,
            Err(Errno::ENOBUFS) => refused += 1,
            Err(error) => return Err(error).context("send"),
        }
    }
    let took = start.elapsed();
    Ok(Sent {
        frames,
        refused,
        took,
    })
}

/// An interface of this namespace, for sockets beneath IP.
pub(crate) fn link(interface: &str) -> Result<LinkAddr> {
    let link_of = |found: nix::ifaddrs::InterfaceAddress| {
        let is_it = found.interface_name == interface;
        is_it.then(|| found.address?.as_link_addr().copied())?
    };
    let link = getifaddrs()?.find_map(link_of);
    link.with_context(|| format!("no interface {interface}"))
}

/// The body of the nonce, and where the ticket's envelope begins.
fn find(frame: &[u8], first: usize, kind: u8) -> Result<(Range<usize>, usize)> {
    let (mut at, mut kind) = (first, kind);
    let (mut nonce, mut ticket) = (None, None);
    while kind != PAYLOAD_NONE {
        let Some([next, _, a, b]) = frame.get(at..at + GENERIC_HEADER_LEN) else {
            bail!("a payload chain beyond the frame")
        };
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        ensure!(
            length >= GENERIC_HEADER_LEN && at + length <= frame.len(),
            "a payload of {length} octets"
        );
        let body = at + GENERIC_HEADER_LEN..at + length;
        match kind {
            PAYLOAD_NONCE => nonce = Some(body),
            PAYLOAD_NOTIFY
                if frame[body.clone()].get(2..4) == Some(&TICKET_OPAQUE.to_be_bytes()) =>
            {
                ensure!(length >= NOTIFY_HEADER_LEN + ENVELOPE_LEN, "a short ticket");
                ticket = Some(at + NOTIFY_HEADER_LEN);
            }
            _ => {}
        }
        kind = *next;
        at += length;
    }
    Ok((nonce.context("no nonce")?, ticket.context("no ticket")?))
}

/// RFC 768, over the pseudo header of IPv4; the checksum's own octets count as zero.
fn udp_checksum(frame: &[u8], udp: &Range<usize>) -> u16 {
    let addresses = &frame[ETHERNET + IPV4_ADDRESSES..ETHERNET + IPV4];
    let at = udp.start + UDP_CHECKSUM;
    let words = [addresses, &frame[udp.start..at], &frame[at + 2..udp.end]];
    let mut sum = 17 + udp.len() as u64;
    for octets in words {
        for pair in octets.chunks(2) {
            let [high, low] = [pair[0], pair.get(1).copied().unwrap_or(0)];
            sum += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        // Zero on the wire means that there is none.
        0 => 0xffff,
        sum => sum,
    }
}

/// What a flood may take beyond twice the time that its pace asks for.
pub const GRACE: Duration = Duration::from_secs(10);

/// Shorter waits than this are made up for later: a sleep costs more.
const LEAST_SLEEP: Duration = Duration::from_micros(500);
const PAYLOAD_NONCE: u8 = 40;
const SPI: usize = 8;
/// The envelope's nonce; what is before it names the key, and stays.
const ENVELOPE_NONCE: Range<usize> = 4..16;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV4_ADDRESSES: usize = 12;
const UDP: usize = 8;
const UDP_CHECKSUM: usize = 6;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use gate_abi::{
        classify::{Knowledge, Reason, Verdict, classify},
        defence::{Budget, Level, Meter},
        frames::{self, Around, Message},
        maps::{OUR_ADDRESS, TicketKeySlot, TicketKeys},
        networks::Rule,
        sip::SipKey,
    };

    use super::*;

    const TAG_KEY: SipKey = SipKey { k0: 1, k1: 2 };
    const KEY_ID: u8 = 77;

    /// A gateway with one live ticket key.
    struct Told;

    impl Knowledge for Told {
        fn flags(&self) -> u64 {
            gate_abi::maps::TICKET_KEYS_SET
        }
        fn level(&self) -> Level {
            Level::Calm
        }
        fn ticket_keys(&self, key_id: u8) -> Option<&TicketKeySlot> {
            static LIVE: TicketKeySlot = TicketKeySlot::live(&TicketKeys {
                tag: TAG_KEY,
                mask: frames::MASK_KEY,
                used_slot: None,
            });
            (key_id == KEY_ID).then_some(&LIVE)
        }
        fn spi_key(&self, _: u32) -> Option<SipKey> {
            None
        }
        fn cookie_key(&self, _: u8) -> Option<SipKey> {
            None
        }
        fn address(&self, _: &[u8; 16]) -> u64 {
            OUR_ADDRESS
        }
        fn rule(&self, _: &[u8; 16]) -> Option<Rule> {
            None
        }
        fn now(&self) -> u64 {
            0
        }
        fn last_beat(&self) -> u64 {
            0
        }
        fn wall_minus_boot(&self) -> Option<u64> {
            Some(0)
        }
        fn node(&self) -> u8 {
            1
        }
        fn board(&self, _: u32) -> u64 {
            0
        }
        fn set_board(&self, _: u32, _: u64) {}
        fn meter_key(&self) -> SipKey {
            SipKey { k0: 0, k1: 0 }
        }
        fn spend(&self, _: Budget, _: u64) -> bool {
            false
        }
        fn charge(&self, _: Meter, _: u64, _: u64) -> bool {
            true
        }
    }

    fn genuine(port: u16) -> Vec<u8> {
        let ticket = frames::ticket(KEY_ID, 5, &TAG_KEY, 256);
        let around = Around {
            port,
            ..Around::default()
        };
        // An odd length, and a notification behind the ticket as our client sends it.
        around.ike(&Message::resume(&ticket).notify(16_388, &[7; 19]).octets())
    }

    #[test]
    fn a_forged_request_fails_at_its_tag_and_nowhere_else() {
        for port in [500, 4500] {
            let genuine = genuine(port);
            assert_eq!(
                classify(&genuine[..], &Told).verdict,
                Verdict::Pass(Reason::ResumeProven)
            );
            let mut forger = Forger::from_request(&genuine).unwrap();
            for _ in 0..100 {
                let forged = forger.forge();
                assert_eq!(
                    classify(forged, &Told).verdict,
                    Verdict::Drop(Reason::TagWrong)
                );
                assert_eq!(forged.len(), genuine.len());
            }
        }
    }

    #[test]
    fn no_two_are_alike_and_all_checksums_are_right() {
        let mut forger = Forger::from_request(&genuine(500)).unwrap();
        let udp = forger.udp.clone();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let forged = forger.forge().to_vec();
            let mut pseudo = forged[ETHERNET + IPV4_ADDRESSES..ETHERNET + IPV4].to_vec();
            pseudo.extend([0, 17]);
            pseudo.extend((udp.len() as u16).to_be_bytes());
            pseudo.extend(&forged[udp.clone()]);
            pseudo.push(0);
            // One's complement: data and checksum add up to all ones.
            let sum = pseudo.chunks_exact(2).fold(0u32, |sum, pair| {
                let sum = sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]));
                (sum & 0xffff) + (sum >> 16)
            });
            assert_eq!(sum, 0xffff);
            assert!(seen.insert(forged[udp.start + UDP..][..SPI].to_vec()));
        }
    }

    #[test]
    fn what_is_no_request_for_a_resumption_is_refused() {
        let init = Around::default().ike(&Message::sa_init().octets());
        assert!(Forger::from_request(&init).is_err());
        let bare = Around::default().ike(&Message::first(IKE_SESSION_RESUME).octets());
        assert!(Forger::from_request(&bare).is_err());
        let whole = genuine(500);
        for length in 0..whole.len() {
            assert!(Forger::from_request(&whole[..length]).is_err(), "{length}");
        }
    }
}
