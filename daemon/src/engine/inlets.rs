//! The order in which the network is heard: lane by lane, and in each turn no more of one than leaves
//! the others their share. Whoever floods a lane waits for himself.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{self, Poll, Waker},
    time::Duration,
};

use gate_abi::lane::Lane;
use ike::io::Path;
use tokio::io::unix::AsyncFd;

use crate::udp::{BATCH, Received, Share, UdpSocket};

/// Datagrams of a turn from peers that are being served already.
const FOR_EXISTING: usize = 32;
/// And from clients with a ticket.
const FOR_RESUME: usize = 16;
/// And from those that have shown where they are.
const FOR_COOKIE_PROVEN: usize = 8;
/// And from all others, who are never left out altogether.
const FOR_UNPROVEN: usize = 8;
const _: () = assert!(FOR_EXISTING + FOR_RESUME + FOR_COOKIE_PROVEN + FOR_UNPROVEN == BATCH);

const fn share_of_turn(share: Share) -> usize {
    match share {
        Share::Lane(Lane::Existing) => FOR_EXISTING,
        Share::Lane(Lane::Resume) => FOR_RESUME,
        Share::Lane(Lane::CookieProven) => FOR_COOKIE_PROVEN,
        Share::Lane(Lane::Unproven) => FOR_UNPROVEN,
        Share::Whole => BATCH,
        Share::Sink => 0,
    }
}

/// All sockets of a worker, first lane first.
pub(super) struct Inlets {
    sockets: Vec<AsyncFd<UdpSocket>>,
    /// What others read, to send by.
    outlets: Vec<UdpSocket>,
    turns: usize,
    delay: Duration,
}

impl Inlets {
    pub(super) fn new(mut sockets: Vec<UdpSocket>) -> io::Result<Self> {
        sockets.sort_by_key(UdpSocket::share);
        let (sockets, outlets): (Vec<_>, Vec<_>) = sockets
            .into_iter()
            .partition(|socket| socket.share() != Share::Sink);
        Ok(Self {
            sockets: sockets
                .into_iter()
                .map(UdpSocket::watched)
                .collect::<io::Result<_>>()?,
            outlets,
            turns: 0,
            delay: Duration::ZERO,
        })
    }

    /// Whether one of the sockets gets everything that comes to its port.
    pub(super) fn has_whole(&self) -> bool {
        let whole = |socket: &AsyncFd<UdpSocket>| socket.get_ref().share() == Share::Whole;
        self.sockets.iter().any(whole)
    }

    /// Waits until there is something to read. A socket that failed counts as well: its read says why.
    pub(super) async fn ready(&self) {
        poll_fn(|cx| {
            let ready = |socket: &AsyncFd<UdpSocket>| socket.poll_read_ready(cx).is_ready();
            if self.sockets.iter().any(ready) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Hands on what one turn may take.
    pub(super) fn turn(
        &mut self,
        buffer: &mut [u8],
        mut each: impl FnMut(Path, &[u8]),
    ) -> io::Result<()> {
        self.turns = self.turns.wrapping_add(1);
        let lanes = |a: &AsyncFd<UdpSocket>, b: &AsyncFd<UdpSocket>| {
            a.get_ref().share() == b.get_ref().share()
        };
        let mut nobody_waits = true;
        for lane in self.sockets.chunk_by(lanes) {
            let mut left = lane
                .first()
                .map_or(0, |socket| share_of_turn(socket.get_ref().share()));
            // Another address and port comes first in each turn.
            let (behind, before) = lane.split_at(self.turns % lane.len());
            for socket in before.iter().chain(behind) {
                if left == 0 {
                    break;
                }
                let received = read(socket, left, buffer, &mut each)?;
                left = left.saturating_sub(received.messages);
                if !is_unproven(socket.get_ref().share()) {
                    continue;
                }
                nobody_waits &= received.messages == 0 && received.drained;
                if received.messages > 0 {
                    self.delay = smoothed(self.delay, &received);
                }
            }
        }
        // How long the last one waited says nothing any more, and may be all that is ever heard.
        if nobody_waits {
            self.delay = Duration::ZERO;
        }
        Ok(())
    }

    /// How long what has proved nothing waits to be read, of late. A cookie asked of everybody makes
    /// that queue shorter; those of the proven are as long as the work they bring.
    pub(super) const fn delay(&self) -> Duration {
        self.delay
    }

    /// The socket that datagrams from a local address leave by.
    pub(super) fn outlet(&self, local: &SocketAddr) -> Option<&UdpSocket> {
        let read = self.sockets.iter().map(AsyncFd::get_ref);
        read.chain(&self.outlets)
            .find(|socket| socket.serves(local))
    }
}

/// Without lanes nobody has proved anything before it is read.
const fn is_unproven(share: Share) -> bool {
    matches!(share, Share::Lane(Lane::Unproven) | Share::Whole)
}

/// A quarter of each new value, so that one pause of the thread is no queue; once the queue is empty, no
/// more than that.
fn smoothed(before: Duration, new: &Received) -> Duration {
    let smoothed = (before * 3 + new.waited) / 4;
    if new.drained {
        smoothed.min(new.waited)
    } else {
        smoothed
    }
}

fn read(
    socket: &AsyncFd<UdpSocket>,
    most: usize,
    buffer: &mut [u8],
    each: impl FnMut(Path, &[u8]),
) -> io::Result<Received> {
    // The guard comes before the read: what arrives between an empty read and the clearing of its
    // readiness would else be forgotten until the next datagram.
    let mut unwoken = task::Context::from_waker(Waker::noop());
    let Poll::Ready(guard) = socket.poll_read_ready(&mut unwoken) else {
        return Ok(Received::NOTHING);
    };
    let received = socket.get_ref().receive(most, buffer, each)?;
    if received.drained {
        guard?.clear_ready();
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::UdpSocket as Peer, time::Duration};

    use super::*;
    use crate::udp::{Listen, MAX_DATAGRAM, Service};

    /// A socket on loopback as if in this lane, with so many datagrams in its queue.
    fn full(share: Share, datagrams: usize) -> UdpSocket {
        let listen = Listen {
            address: "127.0.0.1:0".parse().expect("an address"),
            service: Service::Ike,
        };
        let socket = UdpSocket::open_share(listen, false, share, |_| Ok(())).expect("open");
        let peer = Peer::bind("127.0.0.1:0").expect("bind");
        for _ in 0..datagrams {
            peer.send_to(b"x", socket.listen().address).expect("send");
        }
        socket
    }

    async fn one_turn(inlets: &mut Inlets) -> BTreeMap<u16, usize> {
        // Loopback delivers from a soft interrupt, which a busy machine puts off.
        tokio::time::sleep(Duration::from_millis(100)).await;
        inlets.ready().await;
        let (mut counts, mut buffer) = (BTreeMap::new(), vec![0; MAX_DATAGRAM]);
        let turn = inlets.turn(&mut buffer, |path, _| {
            *counts.entry(path.local.port()).or_insert(0) += 1;
        });
        turn.expect("a turn");
        counts
    }

    #[tokio::test]
    async fn no_lane_takes_a_turn_from_another() {
        let flooded: Vec<_> = Lane::ALL
            .into_iter()
            .rev()
            .map(|lane| full(Share::Lane(lane), 2 * BATCH))
            .collect();
        let ports: Vec<_> = flooded
            .iter()
            .map(|one| one.listen().address.port())
            .collect();
        let mut inlets = Inlets::new(flooded).expect("inlets");
        let counts = one_turn(&mut inlets).await;
        let in_order: Vec<_> = ports.iter().rev().map(|port| counts[port]).collect();
        assert_eq!(in_order, [32, 16, 8, 8]);
    }

    #[tokio::test]
    async fn ports_of_one_lane_take_turns() {
        let share = Share::Lane(Lane::Unproven);
        let sockets = vec![full(share, 20), full(share, 20)];
        let mut inlets = Inlets::new(sockets).expect("inlets");
        let mut total = BTreeMap::new();
        for _ in 0..2 {
            let counts = one_turn(&mut inlets).await;
            assert_eq!(counts.values().sum::<usize>(), FOR_UNPROVEN);
            total.extend(counts);
        }
        assert_eq!(total.len(), 2, "both were heard: {total:?}");
    }

    #[tokio::test]
    async fn what_has_proved_nothing_says_how_long_it_waits() {
        for (share, counts) in [
            (Share::Lane(Lane::Unproven), true),
            (Share::Whole, true),
            (Share::Lane(Lane::Existing), false),
        ] {
            let mut inlets = Inlets::new(vec![full(share, 1)]).expect("inlets");
            one_turn(&mut inlets).await;
            // It lies there for a tenth of a second, of which a quarter counts.
            let seen = inlets.delay() >= Duration::from_millis(25);
            assert_eq!(seen, counts, "{share:?} {:?}", inlets.delay());
        }
    }

    #[tokio::test]
    async fn once_nothing_unproven_is_left_nothing_waits() {
        let unproven = full(Share::Lane(Lane::Unproven), FOR_UNPROVEN);
        let existing = full(Share::Lane(Lane::Existing), 2 * FOR_EXISTING);
        let mut inlets = Inlets::new(vec![unproven, existing]).expect("inlets");
        // As a flood leaves it.
        inlets.delay = Duration::from_secs(1);
        one_turn(&mut inlets).await;
        assert!(inlets.delay() >= Duration::from_millis(750));
        // The next turn is for the peers of SAs alone.
        one_turn(&mut inlets).await;
        assert_eq!(inlets.delay(), Duration::ZERO);
    }

    #[tokio::test]
    async fn without_lanes_a_turn_takes_what_there_is() {
        let mut inlets = Inlets::new(vec![full(Share::Whole, 2 * BATCH)]).expect("inlets");
        assert_eq!(
            one_turn(&mut inlets).await.into_values().sum::<usize>(),
            BATCH
        );
    }
}
