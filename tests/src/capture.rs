//! A packet capture in a namespace, on all its interfaces, bounded, without tools.
//!
//! A receiver also sees what its own kernel took out of ESP, as if it had come in clear. What a
//! namespace *sent* is what was on the wire, so proofs about clear text count that, on both ends.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::netns::Namespace;
use crate::packet::{Content, Packet};

/// One captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was read; a few milliseconds after it passed.
    pub at: SystemTime,
    /// Whether this namespace sent it.
    pub sent: bool,
    /// The interface's index.
    pub interface: usize,
    /// The frame from its Ethernet header on, at most [`SNAP`] octets.
    pub octets: Vec<u8>,
}

/// A running capture.
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<Vec<Frame>>>>,
}

impl Capture {
    /// Starts; every frame from now on is kept.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let socket = namespace.within(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let protocol = SockProtocol::EthAll;
            socket(AddressFamily::Packet, SockType::Raw, flags, protocol)
        })??;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::new(0, TURN_MICROSECONDS),
        )?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let reader = Some(thread::spawn(move || read(&socket, &seen)));
        Ok(Self { stop, reader })
    }

    /// Ends the capture after what is under way has been read.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.stop.store(true, Ordering::Relaxed);
        let reader = self.reader.take().context("a capture ends once")?;
        reader.join().map_err(|_| anyhow!("the capture panicked"))?
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn read(socket: &OwnedFd, stop: &AtomicBool) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; SNAP];
    loop {
        // Read first, then look at the flag: a stop must not lose what is already queued.
        let stopping = stop.load(Ordering::Relaxed);
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) => {
                ensure!(frames.len() < LIMIT, "more than {LIMIT} frames");
                let octets = buffer.get(..length).unwrap_or(&buffer).to_vec();
                let sent = from.pkttype() == PACKET_OUTGOING;
                let interface = from.ifindex();
                frames.push(Frame {
                    at: SystemTime::now(),
                    sent,
                    interface,
                    octets,
                });
            }
            Err(Errno::EAGAIN) if stopping => return Ok(frames),
            Ok((_, None)) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Packets on the wire, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// ESP over IP.
    pub esp: u64,
    /// ESP over UDP.
    pub esp_in_udp: u64,
    /// IKE messages.
    pub ike: u64,
    /// Octets of UDP payload of all IKE messages.
    pub ike_octets: u64,
    /// NAT keepalives.
    pub keepalives: u64,
    /// All else except neighbour discovery and multicast.
    pub clear: u64,
}

impl Tally {
    /// Counts what a namespace sent.
    pub fn add_sent(&mut self, frames: &[Frame]) {
        for packet in sent(frames) {
            self.add(&packet);
        }
    }

    /// Counts what a namespace sent between two addresses, in either direction.
    pub fn add_sent_between(&mut self, frames: &[Frame], one: IpAddr, other: IpAddr) {
        for packet in sent(frames).filter(|packet| packet.is_between(one, other)) {
            self.add(&packet);
        }
    }

    fn add(&mut self, packet: &Packet) {
        match packet.content {
            Content::Esp { .. } => self.esp += 1,
            Content::EspInUdp { .. } => self.esp_in_udp += 1,
            Content::Ike { length, .. } => {
                self.ike += 1;
                self.ike_octets += length as u64;
            }
            Content::Keepalive => self.keepalives += 1,
            _ if packet.is_housekeeping() => {}
            _ => self.clear += 1,
        }
    }
}

/// The IP packets that a namespace sent, in order.
pub fn sent(frames: &[Frame]) -> impl Iterator<Item = Packet> {
    frames
        .iter()
        .filter(|frame| frame.sent)
        .filter_map(|frame| Packet::parse(&frame.octets))
}

/// Writes frames as a pcap file, for a look with other tools.
pub fn write_pcap(path: &Path, frames: &[Frame]) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    for word in [
        0xa1b2_c3d4_u32,
        0x0004_0002,
        0,
        0,
        SNAP as u32,
        LINKTYPE_ETHERNET,
    ] {
        file.write_all(&word.to_le_bytes())?;
    }
    for frame in frames {
        let at = frame
            .at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let length = frame.octets.len() as u32;
        for word in [at.as_secs() as u32, at.subsec_micros(), length, length] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame.octets)?;
    }
    Ok(file.flush()?)
}

/// Octets kept of a frame.
pub const SNAP: usize = 2048;
/// Frames kept before the capture is an error.
pub const LIMIT: usize = 200_000;

const BUFFER: usize = 8 << 20;
const TURN_MICROSECONDS: i64 = 50_000;
/// From linux/if_packet.h.
const PACKET_OUTGOING: u8 = 4;
const LINKTYPE_ETHERNET: u32 = 1;
