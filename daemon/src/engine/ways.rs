//! Which of our addresses packets to a peer leave from, where the configuration leaves that to the routing
//! table; and that this may have changed. What changed does not matter: the table is asked again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use ike::peer::Connection;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::{kernel::source_towards, udp::readiness};

/// A change of addresses comes with changes of routes, one after another. They are waited for.
const SETTLE: Duration = Duration::from_millis(100);
/// Links, and addresses and routes of both families (`linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Notices read at once. What does not fit is cut, for nobody looks at it.
const NOTICE: usize = 4096;
/// Notices thrown away in one turn.
const MAX_NOTICES: usize = 256;

/// The ways to the peers that a worker may call.
#[derive(Debug)]
pub(super) struct Ways {
    dialled: Vec<Dialled>,
    /// `None` if the kernel does not tell.
    notices: Option<AsyncFd<OwnedFd>>,
    look_at: Option<Duration>,
}

/// A connection without an address of its own.
#[derive(Debug)]
struct Dialled {
    connection: Arc<str>,
    /// `None` if it has to be looked up; then it is where it was called last.
    remote: Option<SocketAddr>,
    port: u16,
    /// The address that its peer would see, when the table was asked last.
    local: Option<IpAddr>,
}

impl Ways {
    /// To the peers of these connections. Must be called within the runtime that will run it.
    pub(super) fn new<'a>(connections: impl IntoIterator<Item = &'a Arc<Connection>>) -> Self {
        let dialled: Vec<_> = connections
            .into_iter()
            .filter(|connection| connection.local_addr.is_none())
            .filter(|connection| connection.may_dial())
            .map(|connection| Dialled {
                connection: Arc::clone(&connection.name),
                remote: connection
                    .remote_addr
                    .map(|remote| SocketAddr::new(remote, connection.remote_port)),
                port: connection.remote_port,
                local: None,
            })
            .collect();
        let notices = if dialled.is_empty() {
            None
        } else {
            subscribe()
                .inspect_err(|error| warn!("changes of addresses go unnoticed: {error}"))
                .ok()
        };
        Self {
            dialled,
            notices,
            look_at: None,
        }
    }

    /// The address that the connection's peer would see.
    pub(super) fn source_of(&mut self, connection: &str) -> Option<IpAddr> {
        let mut dialled = self.dialled.iter_mut();
        let way = dialled.find(|way| *way.connection == *connection)?;
        let local = source_address(way.remote?).ok()?;
        way.local = Some(local);
        way.local
    }

    /// Waits until something about addresses or routes has changed.
    pub(super) async fn changed(&self) {
        match &self.notices {
            // Cleared before they are read: what comes meanwhile is noticed again.
            Some(notices) => match notices.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Something has changed; there will be a time to look at it.
    pub(super) fn note(&mut self, now: Duration) {
        let Some(notices) = &self.notices else {
            return;
        };
        let mut buffer = [0; NOTICE];
        for _ in 0..MAX_NOTICES {
            let read = notices.get_ref().as_raw_fd();
            match recv(read, &mut buffer, MsgFlags::MSG_DONTWAIT) {
                // Too many for the buffer is as good as one.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.look_at.get_or_insert(now + SETTLE);
    }

    /// When to look.
    pub(super) const fn look_at(&self) -> Option<Duration> {
        self.look_at
    }

    /// Connections whose peers would see another address than before, or there is a way to them again, if it
    /// is time to look.
    pub(super) fn look(
        &mut self,
        now: Duration,
        called: impl Fn(&str) -> Option<IpAddr>,
    ) -> Vec<(Arc<str>, IpAddr)> {
        if self.look_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.look_at = None;
        let differs = |way: &mut Dialled| {
            let found = || Some(SocketAddr::new(called(&way.connection)?, way.port));
            let before = way.local;
            way.local = source_address(way.remote.or_else(found)?).ok();
            // No way at all is not another one.
            let local = way.local.filter(|_| way.local != before)?;
            Some((Arc::clone(&way.connection), local))
        };
        self.dialled.iter_mut().filter_map(differs).collect()
    }
}

fn subscribe() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkRoute;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
    readiness(fd)
}

/// Asks the routing table. Nothing is sent.
pub(super) fn source_address(remote: SocketAddr) -> io::Result<IpAddr> {
    source_towards(remote.ip())
}
