//! The UDP sockets of IKE: port 500, and port 4500 where IKE and ESP share (RFC 3948).
//!
//! The keeper opens them and never lets go; engines come and go with duplicates. On 4500 the kernel
//! takes ESP out of the stream by itself (UDP_ENCAP). On 500 that option would swallow every IKE
//! message whose SPIi does not begin with four zero octets, so it is never set there.

use std::{
    cell::Cell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gate_abi::lane::Lane;
use ike::io::Path;
use nix::{
    cmsg_space,
    errno::Errno,
    libc, setsockopt_impl,
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            SockaddrStorage, bind, getsockname, recvmsg, sendmsg, setsockopt, socket,
            sockopt::{self, SetStruct},
        },
        time::{TimeVal, TimeValLike},
    },
};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use crate::kernel::{POLICY_INFO, socket_bypass};

/// The longest datagram we take; the core decides what is too long for IKE.
pub const MAX_DATAGRAM: usize = 65_535;
/// Datagrams read before others get their turn.
pub const BATCH: usize = 64;
/// A storm has to fit while the engine is busy or being restarted.
const RECEIVE_BUFFER: usize = 4 << 20;
/// What waits behind more than this has been repeated before it is read.
const UNPROVEN_BUFFER: usize = 2 << 20;
/// The kernel makes it as large as it has to be, which is one datagram or two.
const SINK_BUFFER: usize = 0;
/// What waits for a neighbour that never says where it is stays in our buffer. The kernel lets each
/// hold 212,992 octets (`unres_qlen_bytes`), which is its usual size: one such neighbour would silence
/// us towards everybody. The kernel doubles this, so there is room for 39 of them.
const SEND_BUFFER: usize = 4 << 20;
/// The peer has repeated, or given up, what waited longer than this.
const STALE: Duration = Duration::from_secs(5);
const NON_ESP_MARKER: [u8; 4] = [0; 4];
const KEEPALIVE: u8 = 0xff;
const UDP_ENCAP: i32 = 100;
const UDP_ENCAP_ESPINUDP: i32 = 2;
/// Receive calls in one batch, counting those whose datagram was dropped.
const MAX_READS: usize = 4 * BATCH;

/// Which of the two ports a socket serves.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Service {
    /// Port 500: IKE alone.
    Ike,
    /// Port 4500: IKE behind a marker, ESP, keepalives (RFC 3948).
    Natt,
}

/// Which datagrams of its port a socket gets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Share {
    /// Those of one lane.
    Lane(#[serde(with = "LaneShape")] Lane),
    /// All of them.
    Whole,
    /// What nobody is to read.
    Sink,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Lane")]
enum LaneShape {
    Existing,
    Resume,
    CookieProven,
    Unproven,
}

impl Share {
    const fn receive_buffer(self) -> usize {
        match self {
            Self::Lane(Lane::Unproven) => UNPROVEN_BUFFER,
            Self::Lane(_) | Self::Whole => RECEIVE_BUFFER,
            Self::Sink => SINK_BUFFER,
        }
    }
}

/// Where to listen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listen {
    /// Address, often the wildcard, and port.
    pub address: SocketAddr,
    /// What to speak there.
    pub service: Service,
}

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("UDP {address}: {step}: {source}")]
pub struct UdpError {
    /// Where it should have listened.
    pub address: SocketAddr,
    /// What was being done.
    pub step: &'static str,
    /// The kernel's answer.
    pub source: io::Error,
}

/// What happened to datagrams that never became IKE messages.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UdpCounters {
    /// NAT keepalives.
    pub keepalives: u64,
    /// On 4500 without marker, or no longer than it.
    pub not_ike: u64,
    /// Older than five seconds when read.
    pub stale: u64,
    /// Dropped by the kernel because the receive buffer was full.
    pub overflowed: u64,
    /// Not sent because the send buffer was full.
    pub send_full: u64,
    /// Not sent for another reason, such as no route.
    pub send_failed: u64,
}

/// A bound, non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    bound: SocketAddr,
    service: Service,
    share: Share,
    counters: Cell<UdpCounters>,
}

#[derive(Clone)]
struct UdpEncap;
setsockopt_impl!(
    UdpEncap,
    libc::IPPROTO_UDP,
    UDP_ENCAP,
    i32,
    SetStruct<'_, i32>
);
#[derive(Clone)]
struct Ipv4Policy;
setsockopt_impl!(
    Ipv4Policy,
    libc::IPPROTO_IP,
    libc::IP_XFRM_POLICY,
    [u8; POLICY_INFO],
    SetStruct<'_, [u8; POLICY_INFO]>
);
#[derive(Clone)]
struct Ipv6Policy;
setsockopt_impl!(
    Ipv6Policy,
    libc::IPPROTO_IPV6,
    libc::IPV6_XFRM_POLICY,
    [u8; POLICY_INFO],
    SetStruct<'_, [u8; POLICY_INFO]>
);

/// What one [`UdpSocket::receive`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// IKE messages handed over.
    pub messages: usize,
    /// Whether the socket's queue is empty now.
    pub drained: bool,
    /// How long the last of them had waited to be read.
    pub waited: Duration,
}

impl Received {
    /// Of a socket with nothing to read.
    pub const NOTHING: Self = Self {
        messages: 0,
        drained: true,
        waited: Duration::ZERO,
    };
}

impl UdpSocket {
    /// Opens and binds a socket that gets all datagrams of its port. With `ipsec`, its own packets pass
    /// the policies of this host in clear, and on 4500 the kernel takes ESP out.
    pub fn open(listen: Listen, ipsec: bool) -> Result<Self, UdpError> {
        Self::open_share(listen, ipsec, Share::Whole, |_| Ok(()))
    }

    /// Opens a socket that has the port in common with others; `before_bind` may give the group of them
    /// its program. Every one of them needs all options: ESP comes to whichever is chosen for it.
    pub fn open_share(
        listen: Listen,
        ipsec: bool,
        share: Share,
        before_bind: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<Self, UdpError> {
        let address = listen.address;
        let failed = |step| {
            move |errno: Errno| UdpError {
                address,
                step,
                source: errno.into(),
            }
        };
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Datagram, flags, None).map_err(failed("open"))?;
        if address.is_ipv4() {
            setsockopt(&fd, sockopt::Ipv4PacketInfo, &true).map_err(failed("packet info"))?;
        } else {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true).map_err(failed("IPv6 only"))?;
            setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true).map_err(failed("packet info"))?;
        }
        let buffer = share.receive_buffer();
        if setsockopt(&fd, sockopt::RcvBufForce, &buffer).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &buffer).map_err(failed("buffer"))?;
        }
        if setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER).map_err(failed("buffer"))?;
        }
        setsockopt(&fd, sockopt::ReceiveTimestamp, &true).map_err(failed("time stamps"))?;
        setsockopt(&fd, sockopt::RxqOvfl, &1).map_err(failed("overflow counter"))?;
        if ipsec {
            for outwards in [false, true] {
                let policy = socket_bypass(address.is_ipv6(), outwards);
                if address.is_ipv4() {
                    setsockopt(&fd, Ipv4Policy, &policy)
                } else {
                    setsockopt(&fd, Ipv6Policy, &policy)
                }
                .map_err(failed("IKE bypass policy"))?;
            }
            if listen.service == Service::Natt {
                setsockopt(&fd, UdpEncap, &UDP_ENCAP_ESPINUDP).map_err(failed("UDP_ENCAP"))?;
            }
        }
        if share != Share::Whole {
            setsockopt(&fd, sockopt::ReusePort, &true).map_err(failed("share the port"))?;
        }
        before_bind(fd.as_fd()).map_err(|source| UdpError {
            address,
            step: "steer",
            source,
        })?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(failed("bind"))?;
        Self::adopt(fd, listen.service, share)
    }

    /// Gives what it sends a mark.
    pub fn mark(&self, mark: u32) -> Result<(), UdpError> {
        setsockopt(&self.fd, sockopt::Mark, &mark).map_err(|errno| UdpError {
            address: self.bound,
            step: "mark",
            source: errno.into(),
        })
    }

    /// Leaves it one part of so many of the memory for what waits to be read: the others have the rest.
    pub fn divide_queue(&self, by: u8) -> Result<(), UdpError> {
        let buffer = self.share.receive_buffer() / usize::from(by.max(1));
        if setsockopt(&self.fd, sockopt::RcvBufForce, &buffer).is_err() {
            setsockopt(&self.fd, sockopt::RcvBuf, &buffer).map_err(|errno| UdpError {
                address: self.bound,
                step: "buffer",
                source: errno.into(),
            })?;
        }
        Ok(())
    }

    /// The same socket once more, to send by.
    pub fn outlet(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            bound: self.bound,
            service: self.service,
            share: Share::Sink,
            counters: Cell::default(),
        })
    }

    /// Takes over a socket that somebody else has opened this way.
    pub fn adopt(fd: OwnedFd, service: Service, share: Share) -> Result<Self, UdpError> {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let failed = |source: io::Error| UdpError {
            address: unspecified,
            step: "read back the address",
            source,
        };
        let storage: SockaddrStorage =
            getsockname(fd.as_raw_fd()).map_err(|errno| failed(errno.into()))?;
        let bound = socket_addr(&storage)
            .ok_or_else(|| failed(io::Error::other("not an internet socket")))?;
        Ok(Self {
            fd,
            bound,
            service,
            share,
            counters: Cell::default(),
        })
    }

    /// The socket with its readiness to be read watched by the present runtime. It is not watched for
    /// writing, or every message sent would wake the loop once more.
    #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
    pub fn watched(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by `fd`, which nothing replaces and only the drop of the
        // socket closes, and tokio drops the registration before that.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(Into::into)
    }

    /// The address it is bound to, and the service it was opened for.
    #[must_use]
    pub const fn listen(&self) -> Listen {
        Listen {
            address: self.bound,
            service: self.service,
        }
    }

    /// Which datagrams of its port it gets.
    #[must_use]
    pub const fn share(&self) -> Share {
        self.share
    }

    /// What did not become a message so far.
    #[must_use]
    pub const fn counters(&self) -> UdpCounters {
        self.counters.get()
    }

    /// Whether datagrams from this local address can leave here.
    #[must_use]
    pub fn serves(&self, local: &SocketAddr) -> bool {
        self.bound.port() == local.port()
            && self.bound.is_ipv4() == local.is_ipv4()
            && (self.bound.ip().is_unspecified() || self.bound.ip() == local.ip())
    }

    /// Reads at most `most` IKE messages, and never more than [`BATCH`], without the non-ESP marker. `buffer` should hold
    /// [`MAX_DATAGRAM`] octets: what is longer than it is dropped.
    pub fn receive(
        &self,
        most: usize,
        buffer: &mut [u8],
        mut each: impl FnMut(Path, &[u8]),
    ) -> io::Result<Received> {
        let mut ancillary = cmsg_space!(TimeVal, u32, libc::in6_pktinfo);
        let (mut messages, mut waited) = (0, Duration::ZERO);
        for _ in 0..MAX_READS {
            let mut parts = [IoSliceMut::new(buffer)];
            let read = recvmsg::<SockaddrStorage>(
                self.fd.as_raw_fd(),
                &mut parts,
                Some(&mut ancillary),
                MsgFlags::empty(),
            );
            let datagram = match read {
                Ok(datagram) => datagram,
                Err(Errno::EAGAIN) => {
                    return Ok(Received {
                        messages,
                        drained: true,
                        waited,
                    });
                }
                // An ICMP error about something we sent, or a signal: the next read goes on.
                Err(Errno::EINTR | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut local = self.bound;
            let mut arrived = None;
            for message in datagram.cmsgs()? {
                match message {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        local.set_ip(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        local.set_ip(IpAddr::from(info.ipi6_addr.s6_addr));
                    }
                    ControlMessageOwned::RxqOvfl(total) => {
                        self.count(|counters| counters.overflowed = u64::from(total));
                    }
                    ControlMessageOwned::ScmTimestamp(time) => arrived = Some(time),
                    _ => {}
                }
            }
            let remote = datagram.address.as_ref().and_then(socket_addr);
            let truncated = datagram.flags.contains(MsgFlags::MSG_TRUNC);
            let length = datagram.bytes;
            let (Some(remote), false) = (remote, truncated) else {
                self.count(|counters| counters.not_ike += 1);
                continue;
            };
            waited = arrived.map_or(waited, since);
            if waited > STALE {
                self.count(|counters| counters.stale += 1);
                continue;
            }
            if let Some(message) = self.ike_of(buffer.get(..length).unwrap_or_default()) {
                each(Path { local, remote }, message);
                messages += 1;
                if messages >= most.min(BATCH) {
                    break;
                }
            }
        }
        Ok(Received {
            messages,
            drained: false,
            waited,
        })
    }

    /// Sends one IKE message from the path's local address. What cannot leave now is dropped and
    /// counted: IKE repeats itself.
    pub fn send(&self, path: &Path, message: &[u8]) {
        match self.service {
            Service::Ike => self.transmit(path, &[], message),
            Service::Natt => self.transmit(path, &NON_ESP_MARKER, message),
        }
    }

    /// Sends one octet that keeps a NAT mapping alive (RFC 3948, 2.3).
    pub fn send_keepalive(&self, path: &Path) {
        self.transmit(path, &[], &[KEEPALIVE]);
    }

    fn transmit(&self, path: &Path, marker: &[u8], message: &[u8]) {
        let parts = [IoSlice::new(marker), IoSlice::new(message)];
        let to = SockaddrStorage::from(path.remote);
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = match path.local.ip() {
            IpAddr::V4(local) => {
                let from = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(local.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let from = [ControlMessage::Ipv4PacketInfo(&from)];
                sendmsg(self.fd.as_raw_fd(), &parts, &from, flags, Some(&to))
            }
            IpAddr::V6(local) => {
                let from = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: local.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                let from = [ControlMessage::Ipv6PacketInfo(&from)];
                sendmsg(self.fd.as_raw_fd(), &parts, &from, flags, Some(&to))
            }
        };
        match sent {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS) => self.count(|counters| counters.send_full += 1),
            Err(_) => self.count(|counters| counters.send_failed += 1),
        }
    }

    fn ike_of<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let message = match (self.service, datagram) {
            (Service::Ike, message) => message,
            (Service::Natt, [KEEPALIVE]) => {
                self.count(|counters| counters.keepalives += 1);
                return None;
            }
            (Service::Natt, _) => datagram.strip_prefix(&NON_ESP_MARKER).unwrap_or_default(),
        };
        if message.is_empty() {
            self.count(|counters| counters.not_ike += 1);
            return None;
        }
        Some(message)
    }

    fn count(&self, change: impl FnOnce(&mut UdpCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Has a descriptor's readiness to be read watched by the present runtime.
#[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
pub(crate) fn readiness(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open and the same until its drop, and tokio drops the
    // registration before that.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// Takes ownership of a descriptor that the kernel has just put into this process with SCM_RIGHTS.
#[expect(
    unsafe_code,
    reason = "the descriptor table is the only witness of a received number"
)]
#[must_use]
pub fn received_descriptor(raw: RawFd) -> OwnedFd {
    // SAFETY: the caller passes numbers straight from a control message that it has just read, so
    // each is open, and nobody else in this process knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn socket_addr(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::new(v4.ip(), v4.port()).into());
    }
    let v6 = storage.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id()).into())
}

fn since(arrived: TimeVal) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let arrived = Duration::from_micros(arrived.num_microseconds().unsigned_abs());
    now.saturating_sub(arrived)
}

#[cfg(test)]
mod tests;
