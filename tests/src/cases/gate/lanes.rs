//! Real sockets under the program for lanes: which one a datagram comes to, of both families, on both
//! ports, with the kernel taking ESP out and without, and in fragments.

use std::{
    net::{SocketAddr, UdpSocket as Sender},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::{
    cookie::{self, CookieInput},
    frames::Message,
    ike::{IKE_SA_INIT, PORT_IKE, PORT_NAT_T},
    lane::Lane,
    sip::SipKey,
    spi::OurSpi,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::socket::{MsgFlags, recv},
};
use rekindled::{
    gate::{Gate, GateOptions, Lanes, Mode, boot_clock},
    udp::{Listen, Service, Share, UdpSocket},
};

use super::{
    corpus::{self, SPI_KEY, cookie_keys},
    options, tell,
};
use crate::{netns::Namespace, suite::Lab};

const WORKERS: u8 = 2;
/// Loopback delivers at once; a busy machine takes a little longer.
const ARRIVES_WITHIN: Duration = Duration::from_millis(500);
/// How long to wait for what is not to arrive.
const QUIET: Duration = Duration::from_millis(20);
/// So that a large message comes in fragments.
const MTU: &str = "1500";
const LARGE: usize = 4000;

pub(super) fn places(lab: &mut Lab) -> Result<()> {
    let namespace = Namespace::new("lanes")?;
    namespace.ip(&format!("link set lo mtu {MTU}"))?;
    let options = GateOptions {
        mode: Mode::Off,
        ..options(lab, "lanes", &[])?
    };
    let mut gate = Gate::load(&options)?;
    tell(&mut gate)?;
    gate.set_cookie_keys(&cookie_keys())?;
    let outcome = namespace.within(|| -> Result<()> {
        for ipsec in [false, true] {
            for local in ["127.0.0.1", "::1"] {
                for (port, service) in [(PORT_IKE, Service::Ike), (PORT_NAT_T, Service::Natt)] {
                    let listen = Listen {
                        address: SocketAddr::new(local.parse()?, port),
                        service,
                    };
                    let sockets = Sockets::open(&mut gate.lanes()?, listen, ipsec)?;
                    let context = || format!("{listen:?}, ipsec {ipsec}");
                    check(&sockets).with_context(context)?;
                    without_some(sockets).with_context(context)?;
                }
            }
        }
        Ok(())
    });
    gate.detach()?;
    outcome?
}

/// Each kind of datagram, and where it has to come.
fn check(sockets: &Sockets) -> Result<()> {
    let sa_init = Message::sa_init();
    let ours = |worker| {
        let key = SipKey::from_octets(SPI_KEY);
        Message {
            spi_r: OurSpi::compose(1, worker, 77, &key).0,
            message_id: 1,
            ..Message::sa_init()
        }
    };
    let made_up = Message {
        spi_r: ours(0).spi_r ^ 1,
        ..ours(0)
    };
    // The ticket stands behind the end of the first fragment.
    let large = Message::first(38)
        .with(40, &[0x6e; 32])
        .with(43, &[0; LARGE]);
    let ticket = corpus::genuine(3).payloads.pop().context("a ticket")?;
    let large = large.with(ticket.0, &ticket.1);
    let unproven = [
        ("an IKE_SA_INIT", sa_init.octets()),
        ("a forged resumption", corpus::forged(3).octets()),
    ];
    let expected = [
        (
            "ours of the first worker",
            ours(0).octets(),
            Lane::Existing,
            Some(0),
        ),
        (
            "ours of the second",
            ours(1).octets(),
            Lane::Existing,
            Some(1),
        ),
        (
            "a resumption",
            corpus::genuine(3).octets(),
            Lane::Resume,
            None,
        ),
        (
            "a resumption in fragments",
            large.octets(),
            Lane::Resume,
            None,
        ),
        (
            "a cookie",
            sockets.with_cookie(&sa_init)?.octets(),
            Lane::CookieProven,
            None,
        ),
    ];
    for (what, message, lane, worker) in expected {
        let arrived = sockets.send(&message)?;
        let right = arrived.iter().any(|(share, reader)| {
            *share == Share::Lane(lane) && worker.is_none_or(|worker| worker == *reader)
        });
        ensure!(right && arrived.len() == 1, "{what}: {arrived:?}");
    }
    for (what, message) in unproven {
        let arrived = sockets.send(&message)?;
        let shares: Vec<_> = arrived.iter().map(|(share, _)| *share).collect();
        ensure!(
            shares == [Share::Lane(Lane::Unproven)],
            "{what}: {arrived:?}"
        );
    }
    let mut cut = sa_init.octets();
    cut.pop();
    for (what, message) in [("made up", made_up.octets()), ("cut", cut)] {
        let arrived = sockets.send(&message)?;
        ensure!(arrived == [(Share::Sink, 0)], "{what}: {arrived:?}");
    }
    if sockets.listen.service == Service::Natt {
        for payload in [&b"\xff"[..], &[7; 64]] {
            let arrived = sockets.send_bare(payload)?;
            if sockets.ipsec {
                ensure!(arrived.is_empty(), "not for us: {arrived:?}");
            } else {
                ensure!(arrived == [(Share::Sink, 0)], "{arrived:?}");
            }
        }
    }
    Ok(())
}

/// A worker's socket that is gone is replaced by the first worker's, and a lane that is gone by the
/// last one.
fn without_some(mut sockets: Sockets) -> Result<()> {
    let key = SipKey::from_octets(SPI_KEY);
    let ours = Message {
        spi_r: OurSpi::compose(1, 1, 78, &key).0,
        message_id: 1,
        ..Message::sa_init()
    };
    let existing = Share::Lane(Lane::Existing);
    for (gone, expected) in [(1, (existing, 0)), (0, (Share::Lane(Lane::Unproven), 0))] {
        let is_gone =
            |(socket, worker): &(UdpSocket, u8)| socket.share() == existing && *worker == gone;
        sockets.all.retain(|one| !is_gone(one));
        let arrived = sockets.send(&ours.octets())?;
        ensure!(arrived == [expected], "{arrived:?}");
    }
    Ok(())
}

/// One group, each socket with its worker, and a client.
struct Sockets {
    all: Vec<(UdpSocket, u8)>,
    client: Sender,
    listen: Listen,
    ipsec: bool,
}

impl Sockets {
    fn open(lanes: &mut Lanes<'_>, listen: Listen, ipsec: bool) -> Result<Self> {
        let marked = listen.service == Service::Natt;
        let group = lanes.open(listen.address, marked, WORKERS)?;
        let mut all = Vec::new();
        let shares = Lane::ALL
            .into_iter()
            .flat_map(|lane| (0..WORKERS).map(move |worker| (Share::Lane(lane), worker)));
        for (share, worker) in shares.chain([(Share::Sink, 0)]) {
            let first = all.is_empty();
            let socket = UdpSocket::open_share(listen, ipsec, share, |socket| {
                if first {
                    lanes.steer(socket).map_err(std::io::Error::other)?;
                }
                Ok(())
            })?;
            let slot = match share {
                Share::Lane(lane) => group.slot(lane, worker),
                _ => group.sink(),
            };
            lanes.place(slot, &socket)?;
            all.push((socket, worker));
        }
        let client = Sender::bind((listen.address.ip(), 0))?;
        Ok(Self {
            all,
            client,
            listen,
            ipsec,
        })
    }

    /// Sends an IKE message, and returns the sockets that it came to.
    fn send(&self, message: &[u8]) -> Result<Vec<(Share, u8)>> {
        match self.listen.service {
            Service::Ike => self.send_bare(message),
            Service::Natt => self.send_bare(&[&[0; 4], message].concat()),
        }
    }

    fn send_bare(&self, payload: &[u8]) -> Result<Vec<(Share, u8)>> {
        // Not connected: a kernel without ESP says that nobody wants it, and the next call would.
        self.client.send_to(payload, self.listen.address)?;
        let deadline = Instant::now() + ARRIVES_WITHIN;
        let mut arrived = Vec::new();
        loop {
            let mut ready: Vec<_> = self
                .all
                .iter()
                .map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            poll(&mut ready, QUIET.as_millis() as u16)?;
            let before = arrived.len();
            for (socket, worker) in &self.all {
                let mut buffer = [0; 8192];
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    Ok(octets) => {
                        ensure!(buffer.get(..octets) == Some(payload), "other octets");
                        arrived.push((socket.share(), *worker));
                    }
                    Err(Errno::EAGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let quiet = arrived.len() == before;
            if quiet && (!arrived.is_empty() || Instant::now() > deadline) {
                return Ok(arrived);
            }
        }
    }

    /// With a cookie for this client.
    fn with_cookie(&self, message: &Message) -> Result<Message> {
        let mapped = |address: SocketAddr| match address {
            SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().octets(),
            SocketAddr::V6(v6) => v6.ip().octets(),
        };
        let nonce = message.payloads.iter().find(|(kind, _)| *kind == 40);
        let nonce_head = nonce.and_then(|(_, nonce)| nonce.first_chunk().copied());
        let input = CookieInput {
            spi_i: message.spi_i.to_be_bytes(),
            source: mapped(self.client.local_addr()?),
            nonce_head: nonce_head.context("a nonce")?,
            ticket_tag: 0,
            exchange: IKE_SA_INIT,
            destination_digest: cookie::destination_digest(mapped(self.listen.address)),
        };
        let [_, (epoch, key), _] = cookie_keys();
        let seconds = boot_clock().as_secs();
        let cookie = cookie::make(epoch, 0, seconds as u16, [0; 4], &input, &key);
        Ok(message.clone().cookie(&cookie))
    }
}
