//! One end of the pair between keeper and engine: whole messages or nothing, with descriptors, in
//! buffers that are wiped because ticket roots and ESP keys pass through them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
            recvmsg, sendmsg, setsockopt, socketpair, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;
use zeroize::{Zeroize, Zeroizing};

use super::protocol::{MAX_DESCRIPTORS, MAX_MESSAGE};
use crate::udp::{readiness, received_descriptor};

/// An engine that does not read for so long is not going to.
const SEND_PATIENCE_SECONDS: i64 = 2;

/// Why a message did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other end is gone, or the socket broke.
    #[error("keeper and engine have lost each other: {0}")]
    Socket(#[from] io::Error),
    /// A message that is too long or makes no sense.
    #[error("a message between keeper and engine is too long or malformed")]
    Message,
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        Self::Socket(errno.into())
    }
}

/// One end.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
    buffer: Zeroizing<Vec<u8>>,
    ancillary: Vec<u8>,
}

/// What a look at the channel brought.
#[derive(Debug)]
pub(super) enum Received<T> {
    /// A message, and the descriptors beside it.
    Message(T, Vec<OwnedFd>),
    /// Nothing yet.
    Nothing,
    /// The other end is closed.
    Closed,
}

impl Channel {
    /// The keeper's end, and what becomes the engine's.
    pub(super) fn pair() -> Result<(Self, OwnedFd), ChannelError> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        setsockopt(
            &ours,
            sockopt::SendTimeout,
            &TimeVal::seconds(SEND_PATIENCE_SECONDS),
        )?;
        Ok((Self::new(ours), theirs))
    }

    /// An end that was inherited.
    #[must_use]
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            buffer: Zeroizing::new(vec![0; MAX_MESSAGE]),
            ancillary: cmsg_space!([RawFd; MAX_DESCRIPTORS]),
        }
    }

    /// The same end once more, so that one thread can send while another receives.
    pub(super) fn duplicate(&self) -> Result<Self, ChannelError> {
        Ok(Self::new(self.fd.try_clone()?))
    }

    /// Sends one message.
    pub(super) fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let Ok(used) = postcard::to_slice(message, &mut self.buffer) else {
            self.buffer.as_mut_slice().zeroize();
            return Err(ChannelError::Message);
        };
        let sent = loop {
            let parts = [IoSlice::new(used)];
            match sendmsg::<()>(
                self.fd.as_raw_fd(),
                &parts,
                rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        used.zeroize();
        sent?;
        Ok(())
    }

    /// Waits for one message; `None` when the other end is closed.
    pub(super) fn receive<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        match self.read(MsgFlags::empty())? {
            Received::Message(message, descriptors) => Ok(Some((message, descriptors))),
            Received::Closed => Ok(None),
            Received::Nothing => Err(Errno::EAGAIN.into()),
        }
    }

    /// Takes one message if there is one.
    pub(super) fn receive_now<T: DeserializeOwned>(&mut self) -> Result<Received<T>, ChannelError> {
        self.read(MsgFlags::MSG_DONTWAIT)
    }

    fn read<T: DeserializeOwned>(&mut self, flags: MsgFlags) -> Result<Received<T>, ChannelError> {
        let mut descriptors = Vec::new();
        let (length, truncated) = loop {
            let mut parts = [IoSliceMut::new(&mut self.buffer)];
            let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
            let ancillary = Some(self.ancillary.as_mut_slice());
            match recvmsg::<()>(self.fd.as_raw_fd(), &mut parts, ancillary, flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(errno) => return Err(errno.into()),
                Ok(message) => {
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = part {
                            descriptors.extend(raw.into_iter().map(received_descriptor));
                        }
                    }
                    let truncated = message.flags.contains(MsgFlags::MSG_TRUNC);
                    break (message.bytes, truncated);
                }
            }
        };
        if length == 0 {
            return Ok(Received::Closed);
        }
        let octets = self.buffer.get_mut(..length).ok_or(ChannelError::Message)?;
        let message = postcard::from_bytes(octets);
        octets.zeroize();
        match message {
            Ok(message) if !truncated => Ok(Received::Message(message, descriptors)),
            _ => Err(ChannelError::Message),
        }
    }

    /// Watches for messages on the present runtime.
    pub(super) fn readiness(&self) -> io::Result<AsyncFd<OwnedFd>> {
        readiness(self.fd.try_clone()?)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
