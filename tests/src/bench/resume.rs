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
    process::settled,
    site::{Setting, Site},
    storm::{GATEWAY, gateway_connection, two_namespaces},
    suite::Lab,
};

/// Logs in so many times in each way, [`AT_ONCE`] at a time.
pub(super) fn measure(lab: &Lab, logins: u32) -> Result<Vec<Figure>> {
    let (clients_ns, gateway_ns) = two_namespaces()?;
    let setting = Setting {
        gate: "off",
        dataplane: "none",
        node: 1,
    };
    let connection = gateway_connection(Duration::from_mins(10));
    let mut gateway = Site::prepare(lab, &gateway_ns, setting, &connection)?;
    gateway.log_at("warn");
    gateway.start(lab)?;
    let processes = gateway.processes()?;
    let mut crowd = Crowd::new(&clients_ns, GATEWAY, AT_ONCE)?;
    let wire = Wire::start(lab, (&clients_ns, &gateway_ns), GATEWAY, AT_ONCE)?;

    let batches = logins.div_ceil(u32::from(AT_ONCE)) as usize;
    let (mut full, mut resume) = (Vec::new(), Vec::new());
    let (mut floors, mut wires) = (Vec::new(), Vec::new());
    for batch in 0..WARM_UP + batches {
        let of_full = cost(&mut crowd, &processes, false)?;
        crowd.suspend()?;
        let of_resume = cost(&mut crowd, &processes, true)?;
        let of_floor = floor::measure(u32::from(AT_ONCE))?;
        let of_wire = wire.measure()?;
        crowd.log_out()?;
        // The first of each kind pay for caches and pages that the others find.
        if batch >= WARM_UP {
            full.push(of_full);
            resume.push(of_resume);
            floors.push(of_floor);
            wires.push(of_wire);
        }
    }
    let status = gateway.ikectl("status")?;
    let done = status["resumed_logins"]
        .as_u64()
        .context("resumed_logins")?;
    ensure!(done >= u64::from(logins), "{status}");
    gateway.stop()?;
    Ok(vec![
        Figure::of("resume_cpu_us", &resume),
        Figure::of("crypto_floor_us", &floors),
        Figure::of("full_psk_x25519_cpu_us", &full),
        Figure::of("sockets_alone_cpu_us", &wires),
    ])
}

/// The gateway's time for one of a crowd's logins.
fn cost(crowd: &mut Crowd, gateway: &[Pid], by_ticket: bool) -> Result<Duration> {
    let before = settled(gateway)?;
    crowd.log_in(by_ticket)?;
    let spent = settled(gateway)?.saturating_sub(before);
    Ok(spent / u32::from(AT_ONCE))
}

/// Clients that log in at the same time, as after an outage.
const AT_ONCE: u16 = 64;
const WARM_UP: usize = 3;
