//! What a login of each kind costs the gateway when many come at once: the scheduler's accounting
//! over all threads of keeper and engine; and in the same run the floors of the arithmetic and of the
//! sockets.
//!
//! There is no data plane and no gate. The used bits are synced as always.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

use super::{Figure, crowd::Crowd, floor, wire::Wire};
use crate::{
    netns::Namespace,
    process::settled,
    site::{Setting, Site},
    storm::{GATEWAY, gateway_connection, two_namespaces},
    suite::Lab,
};

/// Logs in so many times in each way, [`AT_ONCE`] at a time.
pub(super) fn measure(lab: &Lab, logins: u32) -> Result<Vec<Figure>> {
    let (clients_ns, gateway_ns) = two_namespaces()?;
    let mut outages = Outages::begin(lab, &clients_ns, &gateway_ns)?;
    let wire = Wire::start(lab, (&clients_ns, &gateway_ns), GATEWAY, AT_ONCE)?;
    let batches = logins.div_ceil(u32::from(AT_ONCE)) as usize;
    let (mut full, mut resume) = (Vec::new(), Vec::new());
    let (mut floors, mut wires) = (Vec::new(), Vec::new());
    for batch in 0..WARM_UP + batches {
        let [of_full, of_resume] = outages.next()?;
        let of_floor = floor::measure(u32::from(AT_ONCE))?;
        let of_wire = wire.measure()?;
        if batch >= WARM_UP {
            full.push(of_full);
            resume.push(of_resume);
            floors.push(of_floor);
            wires.push(of_wire);
        }
    }
    outages.end(logins)?;
    Ok(vec![
        Figure::of("resume_cpu_us", &resume),
        Figure::of("crypto_floor_us", &floors),
        Figure::of("full_psk_x25519_cpu_us", &full),
        Figure::of("sockets_alone_cpu_us", &wires),
    ])
}

/// A gateway, and a crowd of clients that log in at the same time, as after an outage.
pub(crate) struct Outages<'a> {
    gateway: Site<'a>,
    processes: [Pid; 2],
    crowd: Crowd,
}

impl<'a> Outages<'a> {
    pub(crate) fn begin(lab: &'a Lab, clients: &Namespace, gateway: &'a Namespace) -> Result<Self> {
        let setting = Setting {
            gate: "off",
            dataplane: "none",
            node: 1,
        };
        let connection = gateway_connection(Duration::from_mins(10));
        let mut gateway = Site::prepare(lab, gateway, setting, &connection)?;
        gateway.log_at("warn");
        gateway.start(lab)?;
        Ok(Self {
            processes: gateway.processes()?,
            gateway,
            crowd: Crowd::new(clients, GATEWAY, AT_ONCE)?,
        })
    }

    /// The gateway's time for one of the crowd's full logins, and for one by ticket.
    pub(crate) fn next(&mut self) -> Result<[Duration; 2]> {
        let full = self.cost(false)?;
        self.crowd.suspend()?;
        let resumed = self.cost(true)?;
        self.crowd.log_out()?;
        Ok([full, resumed])
    }

    /// By the gateway's own count there were that many by ticket at the least.
    pub(crate) fn end(mut self, logins: u32) -> Result<()> {
        let status = self.gateway.ikectl("status")?;
        let done = status["resumed_logins"]
            .as_u64()
            .context("resumed_logins")?;
        ensure!(done >= u64::from(logins), "{status}");
        self.gateway.stop()
    }

    fn cost(&mut self, by_ticket: bool) -> Result<Duration> {
        let before = settled(&self.processes)?;
        self.crowd.log_in(by_ticket)?;
        let spent = settled(&self.processes)?.saturating_sub(before);
        Ok(spent / u32::from(AT_ONCE))
    }
}

pub(crate) const AT_ONCE: u16 = 64;
/// The first of each kind pay for caches and pages that the others find.
pub(crate) const WARM_UP: usize = 3;
