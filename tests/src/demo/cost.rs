//! What a login of each kind costs the gateway: the scheduler's own accounting over all threads of
//! keeper and engine, read before and after each of many logins, one at a time.
//!
//! There is no data plane, so the kernel's work on states and policies is not in it; nor is the
//! receiving half of the stack, which runs on whoever sent.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

use super::findings::Cost;
use crate::{
    cases::tunnel::{client_connection, gateway_connection, two_sites},
    site::{Setting, Site},
    suite::Lab,
};

/// Logs in so many times in each way.
pub(super) fn measure(lab: &Lab, logins: usize) -> Result<Cost> {
    let (client_ns, gateway_ns) = two_sites()?;
    let setting = |node| Setting {
        gate: "auto",
        dataplane: "none",
        node,
    };
    let mut gateway = Site::prepare(lab, &gateway_ns, setting(1), &gateway_connection())?;
    let mut client = Site::prepare(lab, &client_ns, setting(2), &client_connection())?;
    for site in [&mut gateway, &mut client] {
        site.log_at("warn");
        site.start(lab)?;
    }
    // The first of each kind pays for caches and pages that the others find.
    series(&client, &gateway, "down home", WARM_UP)?;
    let full = series(&client, &gateway, "down home", logins)?;
    client.ikectl("up home")?;
    client.ikectl("suspend home")?;
    series(&client, &gateway, "suspend home", WARM_UP)?;
    let resume = series(&client, &gateway, "suspend home", logins)?;
    client.stop()?;
    gateway.stop()?;
    Ok(Cost {
        kernel: lab.kernel(),
        logins,
        full,
        resume,
    })
}

/// Median microseconds of the gateway for `logins` logins that end with `farewell`.
fn series(client: &Site<'_>, gateway: &Site<'_>, farewell: &str, logins: usize) -> Result<f64> {
    let resumed = farewell.starts_with("suspend");
    let processes = gateway.processes()?;
    let mut samples = Vec::with_capacity(logins);
    for _ in 0..logins {
        let before = settled(processes)?;
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == resumed, "{up}");
        samples.push(settled(processes)?.saturating_sub(before));
        client.ikectl(farewell)?;
    }
    samples.sort_unstable();
    let median = samples.get(logins / 2).context("no logins")?;
    Ok(median.as_secs_f64() * 1e6)
}

/// The time the processes have run for, once they have nothing more to do.
fn settled(processes: [Pid; 2]) -> Result<Duration> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = run_time(processes)?;
    loop {
        thread::sleep(QUIET);
        let next = run_time(processes)?;
        if next == last || Instant::now() >= deadline {
            return Ok(next);
        }
        last = next;
    }
}

fn run_time(processes: [Pid; 2]) -> Result<Duration> {
    let mut nanoseconds = 0;
    for process in processes {
        let folder = format!("/proc/{process}/task");
        for thread in fs::read_dir(&folder).context(folder.clone())? {
            let file = thread?.path().join("schedstat");
            let text = fs::read_to_string(&file)
                .with_context(|| format!("{}: no scheduler accounting", file.display()))?;
            let field: Option<u64> = text.split(' ').next().and_then(|field| field.parse().ok());
            nanoseconds += field.with_context(|| text.clone())?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

const WARM_UP: usize = 5;
/// Without a change for so long, the work of a login is done.
const QUIET: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_millis(200);
