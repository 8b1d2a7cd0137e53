//! What the kernel says unasked: that a packet waits for a state, that a state's time is over, and that a
//! peer behind a NAT sends from elsewhere. These come on a socket of their own; what does not fit into its buffer is
//! lost, and the kernel says that something was.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_sys::{Socket, protocols::NETLINK_XFRM};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
use tracing::warn;

use super::{
    netlink::split,
    wire::{Mapping, StateId, parse_acquire, parse_expire, parse_mapping},
};

const XFRM_MSG_ACQUIRE: u16 = 0x17;
const XFRM_MSG_EXPIRE: u16 = 0x18;
const XFRM_MSG_MAPPING: u16 = 0x26;
const XFRMNLGRP_ACQUIRE: u32 = 1;
const XFRMNLGRP_EXPIRE: u32 = 2;
const XFRMNLGRP_MAPPING: u32 = 8;
/// Datagrams read before somebody else has a turn.
const MAX_TURN: usize = 64;
const BUFFER: usize = 1 << 20;
const READ: usize = 16 << 10;

/// One thing that the kernel has said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Heard {
    /// A packet waits for a state with this reqid.
    Wanted { reqid: u32 },
    /// A state has carried so much that new keys are due; or it has come to its end, and is gone.
    Expired {
        reqid: u32,
        id: StateId,
        hard: bool,
        /// Octets and packets that it has carried.
        carried: (u64, u64),
    },
    /// An authenticated packet in UDP has come from elsewhere than its state says.
    Mapped(Mapping),
    /// Something has been lost.
    Overrun,
}

/// The socket.
pub(super) struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_XFRM)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
        }
        for group in [XFRMNLGRP_ACQUIRE, XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING] {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(READ),
        })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What has come since the last time. Each datagram holds one message.
    pub(super) fn read(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for _ in 0..MAX_TURN {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                Ok((_, from)) if from.port_number() == 0 => {
                    heard.extend(parse(&self.buffer));
                }
                // Only the kernel is listened to.
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    heard.push(Heard::Overrun);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!("xfrm event socket: {error}");
                    break;
                }
            }
        }
        heard
    }
}

fn parse(datagram: &[u8]) -> Option<Heard> {
    let (kind, _, body, _) = split(datagram)?;
    match kind {
        XFRM_MSG_ACQUIRE => parse_acquire(body).map(|reqid| Heard::Wanted { reqid }),
        XFRM_MSG_EXPIRE => {
            let (state, hard) = parse_expire(body)?;
            Some(Heard::Expired {
                reqid: state.reqid,
                id: state.id,
                hard,
                carried: (state.bytes, state.packets),
            })
        }
        XFRM_MSG_MAPPING => parse_mapping(body).map(Heard::Mapped),
        _ => None,
    }
}
