//! Numbered datagrams at a steady rate from one namespace to another, and which of them arrived.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Namespace;

/// Datagrams on their way, until [`Stream::stop`].
pub struct Stream {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<u32>>>,
    receiver: Option<JoinHandle<Result<Vec<u32>>>>,
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Flow {
    /// Datagrams sent; one that the kernel refused counts too, for it was due.
    pub sent: u32,
    /// Of these, how many did not arrive.
    pub lost: u32,
    /// The most that are missing in a row.
    pub gap: u32,
    /// The first of these.
    pub gap_at: u32,
    /// How many came twice.
    pub doubled: u32,
}

impl Stream {
    /// Begins to send `rate` datagrams a second of 64 octets from one address to the other, both being
    /// in their namespaces already.
    pub fn start(
        (from, source): (&Namespace, &str),
        (to, destination): (&Namespace, &str),
        rate: u32,
    ) -> Result<Self> {
        let (source, destination): (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
        let there = SocketAddr::new(destination, PORT);
        let sending = from.within(|| UdpSocket::bind(SocketAddr::new(source, 0)))??;
        let receiving = to.within(|| UdpSocket::bind(there))??;
        setsockopt(&receiving, sockopt::RcvBufForce, &BUFFER)?;
        receiving.set_read_timeout(Some(TURN))?;
        sending.connect(there)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let total = Arc::new(OnceLock::new());
        let told = Arc::clone(&total);
        let sender = thread::spawn(move || {
            let sent = send(&sending, rate, &seen);
            let _first = told.set(*sent.as_ref().unwrap_or(&0));
            sent
        });
        Ok(Self {
            stop,
            sender: Some(sender),
            receiver: Some(thread::spawn(move || receive(&receiving, &total))),
        })
    }

    /// Ends it, once what is under way has arrived.
    pub fn stop(mut self) -> Result<Flow> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = || anyhow!("a stream ends once, and does not panic");
        let sender = self.sender.take().ok_or_else(ended)?;
        let receiver = self.receiver.take().ok_or_else(ended)?;
        let sent = sender.join().map_err(|_| ended())??;
        let numbers = receiver.join().map_err(|_| ended())??;
        Ok(Flow::of(sent, numbers))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Flow {
    fn of(sent: u32, mut numbers: Vec<u32>) -> Self {
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        let (mut gap, mut gap_at, mut next) = (0, 0, 0);
        for number in numbers.iter().copied().chain([sent]) {
            if number.saturating_sub(next) > gap {
                (gap, gap_at) = (number - next, next);
            }
            next = number + 1;
        }
        Self {
            sent,
            lost: sent - numbers.len() as u32,
            gap,
            gap_at,
            doubled: (all - numbers.len()) as u32,
        }
    }
}

fn send(socket: &UdpSocket, rate: u32, stop: &AtomicBool) -> Result<u32> {
    let start = Instant::now();
    let mut sent = 0_u32;
    let mut octets = [0; LENGTH];
    while !stop.load(Ordering::Relaxed) {
        ensure!(start.elapsed() < LONGEST, "nobody has stopped the stream");
        let due = start.elapsed().as_micros() * u128::from(rate) / 1_000_000;
        while u128::from(sent) < due {
            octets[..4].copy_from_slice(&sent.to_be_bytes());
            // A block policy refuses it, and an ICMP error shows up here: a datagram that is lost.
            let _refused = socket.send(&octets);
            sent += 1;
        }
        thread::sleep(Duration::from_secs(1) / rate);
    }
    Ok(sent)
}

/// Until the last has come, or a silence says that it does not come any more.
fn receive(socket: &UdpSocket, total: &OnceLock<u32>) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    let mut octets = [0; LENGTH];
    let (mut awaited, mut silent) = (0, 0);
    loop {
        // Read first: what is under way when the sender ends is still to come.
        let ended = total.get();
        match socket.recv(&mut octets) {
            Ok(LENGTH) => {
                ensure!(numbers.len() < LIMIT, "more than {LIMIT} datagrams");
                let number = u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]);
                numbers.push(number);
                awaited = awaited.max(number + 1);
                silent = 0;
            }
            Ok(_) => {}
            Err(_) => {
                silent += 1;
                if ended.is_some_and(|total| *total == awaited || silent >= SILENT) {
                    return Ok(numbers);
                }
            }
        }
    }
}

const PORT: u16 = 7000;
const LENGTH: usize = 64;
const BUFFER: usize = 4 << 20;
const TURN: Duration = Duration::from_millis(500);
/// Turns without a datagram: longer than anything takes to arrive on a machine that stood still.
const SILENT: u32 = 10;
const LONGEST: Duration = Duration::from_mins(2);
const LIMIT: usize = 500_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_wherever_they_are() {
        let flow = Flow::of(10, vec![0, 1, 5, 4, 5, 6, 8]);
        assert_eq!(
            flow,
            Flow {
                sent: 10,
                lost: 4,
                gap: 2,
                gap_at: 2,
                doubled: 1
            }
        );
        let all = Flow::of(3, vec![2, 0, 1]);
        assert_eq!((all.lost, all.gap, all.doubled), (0, 0, 0));
        assert_eq!(Flow::of(3, Vec::new()).gap, 3);
    }
}
