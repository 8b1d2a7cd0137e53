//! Attackers at addresses of their own: they hear what they are answered, and give cookies back as an
//! honest client does. What they are let into they leave half-open.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::{
    frames::Address,
    ike::{COOKIE, HEADER_LEN, NOTIFY_HEADER_LEN, PAYLOAD_NOTIFY},
};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
        setsockopt, socket, sockopt,
    },
};

use super::{
    recorded::{SPI, Wrapping, asks_for_cookie},
    scene::{CABLE, Scene},
};
use crate::{capture::SNAP, chance::Chance, datagram::Datagram, flood};

/// All bots of one attack.
pub(super) struct Bots<'a> {
    scene: &'a Scene<'a>,
    socket: OwnedFd,
    link: LinkAddr,
    wrapping: Wrapping,
    /// First messages that may yet be answered with a cookie, by their SPIi.
    waiting: HashMap<[u8; SPI], First>,
    sent: u64,
}

struct First {
    source: Ipv4Addr,
    /// Nothing if it has been sent again with a cookie.
    message: Option<Vec<u8>>,
}

/// A first message was accepted: there is a half-open SA.
pub(super) struct Accepted {
    pub(super) source: Ipv4Addr,
    pub(super) spi_i: [u8; SPI],
    pub(super) spi_r: [u8; SPI],
}

impl<'a> Bots<'a> {
    /// None has called yet.
    pub(super) fn gather(scene: &'a Scene<'_>) -> Result<Self> {
        let (socket, link) = scene.ground.attacker.within(|| -> Result<_> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            // With this protocol it hears what comes in, and not itself.
            let protocol = SockProtocol::EthIp;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol)?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok((socket, flood::link(CABLE)?))
        })??;
        Ok(Self {
            scene,
            socket,
            link,
            wrapping: scene.wrapping.clone(),
            waiting: HashMap::new(),
            sent: 0,
        })
    }

    /// Frames that left so far.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// For so long, and so often in a second, lets a bot send a first message that `make` gives with its
    /// address; `accepted` is told what came of each.
    pub(super) fn attack(
        &mut self,
        per_second: u32,
        lasts: Duration,
        mut make: impl FnMut(&mut Chance) -> (Ipv4Addr, Vec<u8>),
        mut accepted: impl FnMut(&mut Self, &mut Chance, &Accepted) -> Result<()>,
    ) -> Result<()> {
        let (mut chance, mut pace) = (Chance::fresh(), Pacer::new(per_second));
        while pace.elapsed() < lasts {
            for one in self.hear()? {
                self.scene.let_in(1);
                accepted(self, &mut chance, &one)?;
            }
            let (source, message) = make(&mut chance);
            self.call(source, message)?;
            pace.wait();
        }
        for _ in self.hear()? {
            self.scene.let_in(1);
        }
        Ok(())
    }

    /// Sends a first message that may be answered.
    pub(super) fn call(&mut self, source: Ipv4Addr, message: Vec<u8>) -> Result<()> {
        self.send(source, &message)?;
        let spi = message.first_chunk().copied().context("an SPI")?;
        if self.waiting.len() < MAX_WAITING {
            let message = Some(message);
            self.waiting.insert(spi, First { source, message });
        }
        Ok(())
    }

    /// Sends any message.
    pub(super) fn send(&mut self, source: Ipv4Addr, message: &[u8]) -> Result<()> {
        self.wrapping.around.source = Address::V4(source.octets());
        let frame = self.wrapping.ike(message);
        match sendto(
            self.socket.as_raw_fd(),
            &frame,
            &self.link,
            MsgFlags::empty(),
        ) {
            Ok(_) => self.sent += 1,
            // The cable is full; a bot does not mind.
            Err(Errno::ENOBUFS | Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("send"),
        }
        Ok(())
    }

    /// Reads all answers: cookies are given back at once, what was accepted is returned.
    fn hear(&mut self) -> Result<Vec<Accepted>> {
        let mut accepted = Vec::new();
        while let Some((to, message)) = self.answer()? {
            let Some(spi_i) = message.first_chunk().copied() else {
                continue;
            };
            let Some(first) = self.waiting.remove(&spi_i) else {
                continue;
            };
            ensure!(first.source == to, "an answer to the wrong address");
            match (cookie_of(&message), first.message) {
                (Some(cookie), Some(first)) => {
                    self.send(to, &with_cookie(&first, cookie))?;
                    let (source, message) = (to, None);
                    self.waiting.insert(spi_i, First { source, message });
                }
                // Asked twice: a bot gives up.
                (Some(_), None) => {}
                (None, _) => accepted.extend(half_open(to, &message)),
            }
        }
        Ok(accepted)
    }

    /// The next IKE message to a bot, if there is one.
    pub(super) fn answer(&self) -> Result<Option<(Ipv4Addr, Vec<u8>)>> {
        let mut buffer = [0; SNAP];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, _)) => {
                    let frame = buffer.get(..length).unwrap_or(&buffer);
                    if let Some(read) = Datagram::parse(frame)
                        && let IpAddr::V4(to) = read.to.ip()
                    {
                        return Ok(Some((to, read.message)));
                    }
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("receive"),
            }
        }
    }
}

/// The cookie that an answer asks for.
pub(super) fn cookie_of(message: &[u8]) -> Option<&[u8]> {
    if !asks_for_cookie(message) {
        return None;
    }
    message.get(HEADER_LEN + NOTIFY_HEADER_LEN..)
}

/// The same message with a cookie in front (RFC 7296, 2.6).
pub(super) fn with_cookie(message: &[u8], cookie: &[u8]) -> Vec<u8> {
    let length = NOTIFY_HEADER_LEN + cookie.len();
    let mut out = message.to_vec();
    let first = std::mem::replace(&mut out[FIRST_PAYLOAD], PAYLOAD_NOTIFY);
    let mut payload = vec![first, 0];
    payload.extend((length as u16).to_be_bytes());
    payload.extend([0, 0]);
    payload.extend(COOKIE.to_be_bytes());
    payload.extend(cookie);
    out.splice(HEADER_LEN..HEADER_LEN, payload);
    let total = out.len() as u32;
    out[LENGTH..HEADER_LEN].copy_from_slice(&total.to_be_bytes());
    out
}

/// What a bot has if its first message was answered with a nonce: an SPI of the gateway's.
pub(super) fn half_open(source: Ipv4Addr, answer: &[u8]) -> Option<Accepted> {
    let spi_i = answer.first_chunk().copied()?;
    let spi_r = answer.get(SPI..)?.first_chunk().copied()?;
    (spi_r != [0; SPI]).then_some(Accepted {
        source,
        spi_i,
        spi_r,
    })
}

/// The address of a bot: each is in a network of its own, none is in the clients'.
pub(super) const fn address_of(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 32 | high & 0x1f, low, 7)
}

/// So many steps in a second. What a late thread has missed is made up for.
pub(super) struct Pacer {
    start: Instant,
    gap: Duration,
    steps: u32,
}

impl Pacer {
    /// Begins now.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            start: Instant::now(),
            gap: Duration::from_secs(1) / per_second,
            steps: 0,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// One step more is done: waits until the next is due.
    pub(super) fn wait(&mut self) {
        self.steps += 1;
        let ahead = (self.gap * self.steps).saturating_sub(self.elapsed());
        // Shorter waits are made up for later: a sleep costs more.
        if ahead > LEAST_SLEEP {
            thread::sleep(ahead);
        }
    }
}

/// First messages that a bot remembers; who asks for a cookie later than that gets none.
const MAX_WAITING: usize = 1 << 16;
const LEAST_SLEEP: Duration = Duration::from_micros(500);
/// Answers to all bots, while their one thread sends.
const RECEIVE_BUFFER: usize = 4 << 20;
/// In the IKE header.
const FIRST_PAYLOAD: usize = 16;
const LENGTH: usize = 24;

#[cfg(test)]
mod tests {
    use gate_abi::frames::Message;

    use super::*;

    #[test]
    fn a_cookie_is_put_in_front_and_found_again() {
        let plain = Message::sa_init();
        let cookie = [7; 16];
        let with = with_cookie(&plain.octets(), &cookie);
        assert_eq!(cookie_of(&plain.octets()), None);
        assert_eq!(with, plain.cookie(&cookie).octets());
        let asked = Message::first(34).notify(COOKIE, &cookie).octets();
        assert_eq!(cookie_of(&asked), Some(&cookie[..]));
    }

    #[test]
    fn only_an_answer_with_an_spi_of_the_gateway_is_an_sa() {
        let source = address_of(3);
        assert!(half_open(source, &Message::sa_init().octets()).is_none());
        let mut message = Message::sa_init();
        message.spi_r = 9;
        let accepted = half_open(source, &message.octets()).unwrap();
        assert_eq!(accepted.spi_r, 9u64.to_be_bytes());
        assert_ne!(address_of(3), address_of(4));
    }
}
