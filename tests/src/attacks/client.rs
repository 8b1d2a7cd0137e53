//! The legitimate clients: while a flood runs they log in, sleep, resume and log out, again and again,
//! and keep count of what worked and how long it took.
//!
//! Where it is asked what share of them is served, they begin by the clock and not when the last attempt
//! is over. Else a gateway that serves nobody for seconds would look good: whoever waits for it makes few
//! attempts. Where it is asked how many are served, they begin as soon as they can.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ike::io::Event;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::recorded::asks_for_cookie;
use crate::{
    netns::Namespace,
    storm::client::{Client, down, suspend, up},
};

/// What came of a client's attempts.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    /// How many there were.
    pub(super) made: u32,
    /// Those that had an IKE SA within [`IN_TIME`], and how long they took.
    pub(super) up: Vec<Duration>,
    /// Those of the latter that were to resume and had to log in anew.
    pub(super) anew: u32,
    /// Requests for a cookie that the client received.
    pub(super) cookies: u32,
}

impl Attempts {
    /// From 0 to 1; an attempt of which there was none has not worked.
    pub(super) fn success(&self) -> f64 {
        f64::from(self.up.len() as u32) / f64::from(self.made.max(1))
    }

    /// The time that so many percent of those that worked did not exceed, in milliseconds.
    pub(super) fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.up.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent).div_ceil(100).checked_sub(1)?;
        Some(sorted.get(index)?.as_secs_f64() * 1e3)
    }

    /// Takes over what another client has done.
    pub(super) fn add(&mut self, other: Self) {
        self.made += other.made;
        self.up.extend(other.up);
        self.anew += other.anew;
        self.cookies += other.cookies;
    }
}

/// What a client does again and again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cycle {
    /// A login, a resumption and the goodbye.
    Whole,
    /// A resumption by the ticket that it sleeps on.
    Resume,
}

impl Cycle {
    const fn attempts(self) -> u32 {
        match self {
            Self::Whole => 2,
            Self::Resume => 1,
        }
    }
}

/// A client and its record.
pub(super) struct Legitimate<'a> {
    namespace: &'a Namespace,
    number: u16,
    gateway: Ipv4Addr,
    client: Client,
    pub(super) attempts: Attempts,
}

impl<'a> Legitimate<'a> {
    /// A client with its own address in the namespace; it has not called yet.
    pub(super) fn new(namespace: &'a Namespace, number: u16, gateway: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            namespace,
            number,
            gateway,
            client: open(namespace, number, gateway)?,
            attempts: Attempts::default(),
        })
    }

    /// A cycle in every [`PERIOD`] until told to stop, the first after `offset`; the one under way is
    /// finished.
    pub(super) fn run(&mut self, stop: &AtomicBool, kind: Cycle, offset: Duration) -> Result<()> {
        let start = Instant::now() + offset;
        let mut cycle = 0;
        loop {
            let due = start + PERIOD * cycle;
            while Instant::now() < due {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let left = due.saturating_duration_since(Instant::now());
                thread::sleep(left.min(GLANCE));
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let served = match kind {
                Cycle::Whole => self.cycle()?,
                Cycle::Resume => self.come_back(PAUSE)?,
            };
            let begun = (start.elapsed().as_nanos() / PERIOD.as_nanos()) as u32 + 1;
            let missed = begun.saturating_sub(cycle + 1);
            cycle += 1 + missed;
            if !served {
                // Whoever had called meanwhile would have met the same.
                self.attempts.made += kind.attempts() * missed;
            }
        }
    }

    /// Resumptions until told to stop, each as soon as it sleeps again.
    pub(super) fn keep_coming_back(&mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.come_back(Duration::ZERO)?;
        }
        Ok(())
    }

    /// One login, one resumption, and the goodbye. Whether both worked.
    pub(super) fn cycle(&mut self) -> Result<bool> {
        for by_ticket in [false, true] {
            self.begin()?;
            if !self.attempt(by_ticket)? {
                self.start_anew()?;
                return Ok(false);
            }
            thread::sleep(PAUSE);
            let farewell = if by_ticket { down() } else { suspend() };
            self.client.command(&farewell)?;
            let gone = |event: &Event| {
                matches!(event, Event::Closed { .. } | Event::Suspended { .. }).then_some(())
            };
            if self.wait_for(FAREWELL, gone)?.is_none() {
                self.start_anew()?;
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// One resumption by the ticket that it sleeps on, and asleep again after so long. Whether that
    /// worked; if not, it begins anew with a login that does not count.
    fn come_back(&mut self, pause: Duration) -> Result<bool> {
        self.begin()?;
        if self.attempt(true)? {
            thread::sleep(pause);
            self.client.command(&suspend())?;
            let asleep = |event: &Event| matches!(event, Event::Suspended { .. }).then_some(());
            if self.wait_for(FAREWELL, asleep)?.is_some() {
                return Ok(true);
            }
        }
        self.start_anew()?;
        let attempts = self.attempts.clone();
        self.fall_asleep()?;
        self.attempts = attempts;
        Ok(false)
    }

    /// Logs in to sleep on a ticket; whether that worked.
    pub(super) fn fall_asleep(&mut self) -> Result<bool> {
        self.begin()?;
        let up = self.attempt(false)?;
        if up {
            self.sleep()?;
        }
        Ok(up)
    }

    /// Sends the first message of a login, by ticket if there is one.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.client.command(&up())
    }

    /// Goes to sleep with a ticket.
    pub(super) fn sleep(&mut self) -> Result<()> {
        self.client.command(&suspend())?;
        let asleep = |event: &Event| matches!(event, Event::Suspended { .. }).then_some(());
        let asleep = self.wait_for(FAREWELL, asleep)?;
        ensure!(asleep.is_some(), "the client does not fall asleep");
        Ok(())
    }

    /// Waits for the end of an attempt that has begun: whether it is up in time.
    pub(super) fn attempt(&mut self, by_ticket: bool) -> Result<bool> {
        let start = Instant::now();
        self.attempts.made += 1;
        let ended = self.wait_for(IN_TIME, |event| match event {
            Event::Established { resumed, .. } => Some(Some(*resumed)),
            Event::UpFailed { .. } => Some(None),
            _ => None,
        })?;
        let Some(Some(resumed)) = ended else {
            return Ok(false);
        };
        self.attempts.up.push(start.elapsed());
        self.attempts.anew += u32::from(by_ticket && !resumed);
        Ok(true)
    }

    /// Serves the client until an event is the right one or the time is over.
    fn wait_for<T>(
        &mut self,
        limit: Duration,
        mut is_it: impl FnMut(&Event) -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            let events = self.client.take_events();
            if let Some(found) = events.iter().find_map(&mut is_it) {
                return Ok(Some(found));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let mut sockets = [PollFd::new(self.client.socket().as_fd(), PollFlags::POLLIN)];
            poll(&mut sockets, PollTimeout::from(TICK_MS))?;
            let mut head = [0; HEAD];
            if let Ok((length, _)) = self.client.socket().peek_from(&mut head) {
                self.attempts.cookies += u32::from(asks_for_cookie(&head[..length]));
            }
            self.client.turn()?;
        }
    }

    /// A fresh client in the place of one that has got stuck, which may yet answer to nothing.
    fn start_anew(&mut self) -> Result<()> {
        let spare = open(self.namespace, SPARE + self.number, self.gateway)?;
        drop(std::mem::replace(&mut self.client, spare));
        self.client = open(self.namespace, self.number, self.gateway)?;
        Ok(())
    }
}

/// A process that this one has forked and that has not yet become another program still has the socket
/// of the client before, and with it the address.
fn open(namespace: &Namespace, number: u16, gateway: Ipv4Addr) -> Result<Client> {
    let deadline = Instant::now() + HANDOVER;
    let client = loop {
        match namespace.within(|| Client::new(number, gateway))? {
            Err(error) if is_taken(&error) && Instant::now() < deadline => thread::sleep(GLANCE),
            opened => break opened?,
        }
    };
    client.socket().set_nonblocking(true)?;
    Ok(client)
}

fn is_taken(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// What a user puts up with.
pub(super) const IN_TIME: Duration = Duration::from_secs(3);
/// Of each client, between the beginnings of two cycles.
pub(super) const PERIOD: Duration = Duration::from_millis(500);
/// Between two looks whether it is over.
const GLANCE: Duration = Duration::from_millis(20);
/// For an address to be free again.
const HANDOVER: Duration = Duration::from_secs(1);
/// For an answer to the goodbye.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between an SA and its end.
const PAUSE: Duration = Duration::from_millis(10);
const TICK_MS: u16 = 10;
/// Octets of a datagram that tell a request for a cookie.
const HEAD: usize = 64;
/// Numbers of clients that only hold a place while the old socket closes.
const SPARE: u16 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_those_that_worked() {
        let mut attempts = Attempts {
            made: 4,
            ..Attempts::default()
        };
        assert_eq!(attempts.percentile(50), None);
        attempts.up = [3, 1, 2].map(Duration::from_millis).to_vec();
        assert_eq!(attempts.percentile(50), Some(2.0));
        assert_eq!(attempts.percentile(99), Some(3.0));
        assert!((attempts.success() - 0.75).abs() < 1e-9);
        assert!(Attempts::default().success() < 1e-9);
    }
}
