//! When a link comes back. With one that goes down the kernel drops the routes that lead over it, and some
//! addresses; ours too, and nobody else would put those in again.

use std::{io, time::Duration};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tracing::warn;

/// Of links, and of addresses of either family (`linux/rtnetlink.h`). Not of routes: ours are among them.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// Notices thrown away in one turn.
const MAX_TURN: usize = 256;
/// Notices are read into this. What does not fit is cut, for nobody looks at it.
const READ: usize = 4096;
/// One change comes with others, and a storm of them is to cost little.
const SETTLE: Duration = Duration::from_secs(1);

/// The socket on which the kernel says that something about links or addresses has changed.
pub(super) struct Outage {
    socket: Socket,
    buffer: Vec<u8>,
    over_at: Option<Duration>,
}

impl Outage {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(READ),
            over_at: None,
        })
    }

    /// Whether there may have been one, and it is time to put back what it took. What has changed does not
    /// matter.
    pub(super) fn is_over(&mut self, now: Duration) -> bool {
        if self.has_notices() {
            self.over_at.get_or_insert(now + SETTLE);
        }
        self.over_at.take_if(|at| *at <= now).is_some()
    }

    fn has_notices(&mut self) -> bool {
        let mut any = false;
        for _ in 0..MAX_TURN {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                Ok((_, from)) => any |= from.port_number() == 0,
                // Too many for the socket are as good as one.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => any = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!("route event socket: {error}");
                    break;
                }
            }
        }
        any
    }
}
