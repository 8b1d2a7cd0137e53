//! What a login of each kind costs the gateway: the scheduler's own accounting over all threads of
//! keeper and engine, read before and after each of many logins, one at a time; and of crowds that come
//! at once, as after an outage.
//!
//! There is no gate and no data plane, so the kernel's work on states and policies is not in it; nor is the
//! receiving half of the stack, which runs on whoever sent.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::unistd::Pid;

use super::findings::Cost;
use crate::{
    bench::resume::{self, AT_ONCE, Outages},
    cases::tunnel::{client_connection, gateway_connection, two_sites},
    process::settled,
    site::{Setting, Site},
    storm::two_namespaces,
    suite::Lab,
};

/// Logs in so many times in each way.
pub(super) fn measure(lab: &Lab, logins: usize) -> Result<Cost> {
    let [full, resume] = alone(lab, logins)?;
    let [full_at_once, resume_at_once] = at_once(lab)?;
    // A kernel that accounts in ticks, as user-mode Linux does, has seen most logins take no time.
    let fine = |samples: &[Duration]| median(samples) > Duration::ZERO;
    let (average, of): (_, fn(&[Duration]) -> Duration) = if fine(&full) && fine(&resume) {
        ("median", median)
    } else {
        ("mean", mean)
    };
    let [full, resume, full_at_once, resume_at_once] = [full, resume, full_at_once, resume_at_once]
        .map(|samples| of(&samples).as_secs_f64() * 1e6);
    let cost = Cost {
        kernel: lab.kernel(),
        logins,
        average: average.to_owned(),
        full,
        resume,
        at_once: AT_ONCE,
        full_at_once,
        resume_at_once,
    };
    ensure!(
        [full, resume, full_at_once, resume_at_once]
            .into_iter()
            .all(|cost| cost > 0.0),
        "this kernel's scheduler does not account for so short a time"
    );
    Ok(cost)
}

/// Logins of a client that is alone.
fn alone(lab: &Lab, logins: usize) -> Result<[Vec<Duration>; 2]> {
    let (client_ns, gateway_ns) = two_sites()?;
    let setting = |node| Setting {
        gate: "off",
        dataplane: "none",
        node,
    };
    let mut gateway = Site::prepare(lab, &gateway_ns, setting(1), &gateway_connection())?;
    let mut client = Site::prepare(lab, &client_ns, setting(2), &client_connection())?;
    for site in [&mut gateway, &mut client] {
        site.log_at("warn");
        site.start(lab)?;
    }
    let mut meter = Meter {
        processes: gateway.processes()?,
        client,
    };
    let (mut full, mut resume) = (Vec::with_capacity(logins), Vec::with_capacity(logins));
    // In turns, so that what else this machine does falls on both kinds alike.
    for turn in 0..WARM_UP + logins {
        let costs = [meter.login(false)?, meter.login(true)?];
        // The first of each kind pay for caches and pages that the others find.
        if turn >= WARM_UP {
            full.push(costs[0]);
            resume.push(costs[1]);
        }
    }
    meter.client.stop()?;
    gateway.stop()?;
    Ok([full, resume])
}

/// Logins of [`AT_ONCE`] clients at the same time, some times over.
fn at_once(lab: &Lab) -> Result<[Vec<Duration>; 2]> {
    let (clients, gateway) = two_namespaces()?;
    let mut outages = Outages::begin(lab, &clients, &gateway)?;
    let (mut full, mut resume) = (Vec::new(), Vec::new());
    for crowd in 0..resume::WARM_UP + CROWDS {
        let [of_full, of_resume] = outages.next()?;
        if crowd >= resume::WARM_UP {
            full.push(of_full);
            resume.push(of_resume);
        }
    }
    outages.end(u32::from(AT_ONCE))?;
    Ok([full, resume])
}

/// A client that logs in, and the gateway's processes that work for it.
struct Meter<'a> {
    client: Site<'a>,
    processes: [Pid; 2],
}

impl Meter<'_> {
    /// The gateway's time for a login. After a full one the client sleeps, after a resumed one it has
    /// nothing left to resume with.
    fn login(&mut self, resumed: bool) -> Result<Duration> {
        let before = settled(&self.processes)?;
        let up = self.client.ikectl("up home")?;
        ensure!(up["resumed"] == resumed, "{up}");
        let cost = settled(&self.processes)?.saturating_sub(before);
        let farewell = if resumed { "down home" } else { "suspend home" };
        self.client.ikectl(farewell)?;
        Ok(cost)
    }
}

fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn mean(samples: &[Duration]) -> Duration {
    let count = u32::try_from(samples.len()).unwrap_or(u32::MAX).max(1);
    samples.iter().sum::<Duration>() / count
}

const WARM_UP: usize = 5;
const CROWDS: usize = 15;
