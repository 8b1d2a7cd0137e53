//! What the keeper is told at its start, and why it cannot do it.

use std::{ffi::OsString, io, path::PathBuf};

use nix::errno::Errno;

use crate::{
    gate::{FloodMode, GateOptions},
    kernel::{DataplaneError, XfrmInterface},
    tickets::{RingError, RingOptions},
    udp::{Listen, UdpError},
};

/// What the keeper has to know.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// Ticket ring, used bits, SPI keys, reqid journal.
    pub state_dir: PathBuf,
    /// For the engine's control socket and the gate's pins.
    pub run_dir: PathBuf,
    /// The UDP sockets.
    pub listen: Vec<Listen>,
    /// Threads of the engine: 1 to [`ike::MAX_WORKERS`].
    pub workers: u8,
    /// The gate; `None` for none.
    pub gate: Option<GateOptions>,
    /// The CPUs that work on IKE; none for whichever it comes to.
    pub steer_cpus: Vec<u32>,
    /// Who chooses the gate's level of defence.
    pub flood: FloodMode,
    /// What to run as engine: the program and its arguments.
    pub engine: Vec<OsString>,
    /// Who carries the packets.
    pub dataplane: DataplaneKind,
    /// Where addresses go that a gateway leases to us.
    pub vip_interface: String,
    /// xfrm interfaces that are to be ours.
    pub xfrm_interfaces: Vec<XfrmInterface>,
    /// Our octet in SPIs and tickets; `None` for a random one.
    pub node: Option<u8>,
    /// How tickets are kept.
    pub ring: RingOptions,
}

/// Who carries the packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DataplaneKind {
    /// The kernel's IPsec.
    Xfrm,
    /// Nobody; for measurements.
    None,
}

/// Why the keeper cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A folder or file of ours is out of reach.
    #[error("{path}: {source}", path = path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Another keeper uses the same state.
    #[error("{}: another rekindled is running with this folder", .0.display())]
    Running(PathBuf),
    /// A UDP socket.
    #[error(transparent)]
    Socket(#[from] UdpError),
    /// The kernel's IPsec.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The ticket ring or the SPI keys.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The networks that operators have denied or allowed.
    #[error(
        "{path}: damaged ({why}). Put the file back from a copy, or move it away: then what operators have \
         denied or allowed there is treated as all others",
        path = path.display()
    )]
    Networks {
        /// The file.
        path: PathBuf,
        /// In which way.
        why: &'static str,
    },
    /// Signals, clocks, poll.
    #[error("{0}")]
    System(#[from] Errno),
}
