//! The UDP sockets: for each address and port one socket in each lane for each worker, or one for everything
//! where the kernel will not steer. They outlive every engine, and ESP flows through them meanwhile.

use std::{io, os::fd::BorrowedFd};

use gate_abi::lane::Lane;
use tracing::{info, warn};

use crate::{
    gate::{GateError, Lanes},
    kernel::OUTER_MARK,
    udp::{Listen, Service, Share, UdpError, UdpSocket},
};

/// All sockets, and why they are not in lanes, if they are not.
pub(super) struct Sockets {
    /// Each with the worker that reads it.
    read: Vec<(u8, UdpSocket)>,
    /// One for each address and port, which keep what nobody is to read.
    _sinks: Vec<UdpSocket>,
    trouble: Option<String>,
}

impl Sockets {
    /// Opens them; a port that another process has is an error. `around` keeps what they send clear of the
    /// routes that lead to interfaces of ours.
    pub(super) fn open(
        listen: &[Listen],
        ipsec: bool,
        workers: u8,
        lanes: Result<Lanes<'_>, String>,
        around: bool,
    ) -> Result<Self, UdpError> {
        let sockets = Self::open_all(listen, ipsec, workers, lanes)?;
        if around {
            for (_, socket) in &sockets.read {
                socket.mark(OUTER_MARK)?;
            }
        }
        Ok(sockets)
    }

    fn open_all(
        listen: &[Listen],
        ipsec: bool,
        workers: u8,
        lanes: Result<Lanes<'_>, String>,
    ) -> Result<Self, UdpError> {
        let whole = Self::whole(listen, ipsec)?;
        let mut lanes = match lanes {
            Ok(lanes) => lanes,
            Err(trouble) => return Ok(whole.without_lanes(trouble)),
        };
        // A shared port would be shared with another daemon just as well. That it could be had alone
        // proves that nobody else is there.
        drop(whole);
        match Self::in_lanes(listen, ipsec, workers, &mut lanes) {
            Ok(sockets) => {
                info!(groups = listen.len(), "sockets in lanes");
                Ok(sockets)
            }
            Err(error) => Ok(Self::whole(listen, ipsec)?.without_lanes(error.to_string())),
        }
    }

    /// Those that an engine reads, each with the worker that does.
    pub(super) fn read(&self) -> &[(u8, UdpSocket)] {
        &self.read
    }

    /// Why they are not in lanes.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn whole(listen: &[Listen], ipsec: bool) -> Result<Self, UdpError> {
        // One worker reads them, and hands on what is not for itself.
        let open = |listen: &Listen| Ok((0, UdpSocket::open(*listen, ipsec)?));
        Ok(Self {
            read: listen.iter().map(open).collect::<Result<_, _>>()?,
            _sinks: Vec::new(),
            trouble: None,
        })
    }

    fn without_lanes(self, trouble: String) -> Self {
        warn!("no lanes: {trouble}");
        Self {
            trouble: Some(trouble),
            ..self
        }
    }

    fn in_lanes(
        listen: &[Listen],
        ipsec: bool,
        workers: u8,
        lanes: &mut Lanes<'_>,
    ) -> Result<Self, LanesError> {
        let (mut read, mut sinks) = (Vec::new(), Vec::new());
        for listen in listen {
            let marked = listen.service == Service::Natt;
            let group = lanes.open(listen.address, marked, workers)?;
            let mut open = |share, slot| -> Result<UdpSocket, LanesError> {
                let steer = |socket: BorrowedFd<'_>| {
                    // The first one of the group brings all that follow under the program.
                    if slot == group.slot(Lane::Existing, 0) {
                        lanes.steer(socket).map_err(io::Error::other)?;
                    }
                    Ok(())
                };
                let socket = UdpSocket::open_share(*listen, ipsec, share, steer)?;
                socket.divide_queue(workers)?;
                lanes.place(slot, &socket)?;
                Ok(socket)
            };
            for lane in Lane::ALL {
                for worker in 0..group.workers {
                    let socket = open(Share::Lane(lane), group.slot(lane, worker))?;
                    read.push((worker, socket));
                }
            }
            sinks.push(open(Share::Sink, group.sink())?);
        }
        Ok(Self {
            read,
            _sinks: sinks,
            trouble: None,
        })
    }
}

#[derive(Debug, thiserror::Error)]
enum LanesError {
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Socket(#[from] UdpError),
}
