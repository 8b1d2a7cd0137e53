//! Clients that all log in at once, each with its own address, identity and core, served by one
//! thread: what they cost is not measured, only what they cause.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use ike::io::{Command, Event};

use crate::{
    netns::Namespace,
    storm::client::{Client, down, serve, suspend, up},
};

pub(super) struct Crowd {
    clients: Vec<Client>,
}

impl Crowd {
    /// So many clients with addresses in this namespace.
    pub(super) fn new(namespace: &Namespace, gateway: Ipv4Addr, size: u16) -> Result<Self> {
        let clients = namespace.within(|| {
            (1..=size)
                .map(|number| Client::new(number, gateway))
                .collect::<Result<Vec<_>>>()
        })??;
        for client in &clients {
            client.socket().set_nonblocking(true)?;
        }
        Ok(Self { clients })
    }

    /// All log in, and it is the right kind of login for every one of them.
    pub(super) fn log_in(&mut self, by_ticket: bool) -> Result<()> {
        self.all(&up(), |event| match event {
            Event::Established { resumed, .. } => {
                ensure!(*resumed == by_ticket, "resumed: {resumed}");
                Ok(true)
            }
            Event::UpFailed { reason, .. } => bail!("not up: {}", reason.word()),
            _ => Ok(false),
        })
    }

    /// All fall asleep with their tickets. The gateway does not hear of it.
    pub(super) fn suspend(&mut self) -> Result<()> {
        self.all(&suspend(), |event| {
            Ok(matches!(event, Event::Suspended { .. }))
        })
    }

    /// All log out.
    pub(super) fn log_out(&mut self) -> Result<()> {
        self.all(&down(), |event| Ok(matches!(event, Event::Closed { .. })))
    }

    /// Gives every client a command, and waits until each has seen the event that ends it.
    fn all(&mut self, command: &Command, ends: impl Fn(&Event) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut waiting = vec![true; self.clients.len()];
        for client in &mut self.clients {
            client.command(command)?;
        }
        loop {
            for (client, waits) in self.clients.iter_mut().zip(&mut waiting) {
                for event in client.take_events() {
                    *waits &= !ends(&event)?;
                }
            }
            let left = waiting.iter().filter(|waits| **waits).count();
            if left == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{left} clients hear nothing");
            serve(&mut self.clients, TICK)?;
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(50);
