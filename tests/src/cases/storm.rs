//! A gateway dies with all its clients on it and comes back: each of them learns that from a token,
//! and each resumes. Nobody logs in anew.

use std::{
    collections::BTreeMap,
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rekindled::gate::boot_clock;
use serde_json::Value;

use super::workers::by_worker;
use crate::{
    process::run_time,
    site::{Setting, Site},
    storm::{Happened, LIVENESS, Report, Swarm, gateway_connection, two_namespaces},
    suite::{Case, Lab, Skip},
};

/// What fits any machine and any patience.
pub const HUNDRED: Case = Case {
    name: "a_hundred_clients_resume_after_the_gateway_was_killed",
    run: |lab| storm(lab, FEW, 1),
};
/// The same with the work shared out.
pub const HUNDRED_OF_TWO: Case = Case {
    name: "a_hundred_clients_of_two_workers_resume_after_the_gateway_was_killed",
    run: |lab| storm(lab, FEW, 2),
};
/// The long variant.
pub const THOUSAND: Case = Case {
    name: "a_thousand_clients_resume_after_the_gateway_was_killed",
    run: |lab| {
        if env::var_os(FULL).is_none() {
            return Err(Skip("a long variant: `cargo xtask test --full`".into()).into());
        }
        storm(lab, MANY, 2)
    },
};

const FEW: u16 = 100;
const MANY: u16 = 1000;
/// Set for long variants.
const FULL: &str = "REKINDLE_FULL";
/// Clients that log in at once, so that the first logins are not the storm.
const AT_ONCE: usize = 24;
const LOGIN_WITHIN: Duration = Duration::from_secs(20);
/// How long there is no gateway.
const DEAD_FOR: Duration = Duration::from_secs(1);
/// Silence, a retransmission that finds the gateway back, the spread of 2 s, and a slow machine.
const RESUMED_WITHIN: Duration = Duration::from_secs(20);
/// The gateway's seven transmissions after the silence.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(LIVENESS.as_secs() + 45);
const POLL: Duration = Duration::from_millis(250);

fn storm(lab: &mut Lab, count: u16, workers: u16) -> Result<()> {
    let (clients_ns, gateway_ns) = two_namespaces()?;
    let setting = Setting {
        gate: "native",
        dataplane: "none",
        node: 1,
    };
    let mut gateway = Site::prepare(lab, &gateway_ns, setting, &gateway_connection(LIVENESS))?;
    gateway.set("workers", workers)?;
    gateway.log_at("warn");
    gateway.start(lab)?;
    let fresh = run_time(&gateway.processes()?)?;
    let mut swarm = Swarm::new(lab, &clients_ns)?;
    log_in(&mut swarm, count.into())?;
    let full_cost = run_time(&gateway.processes()?)?.saturating_sub(fresh);
    let status = gateway.ikectl("status")?;
    ensure!(
        number(&status, "full_logins")? == u64::from(count),
        "{status}"
    );
    ensure!(
        number(&status, "ike_sas_established")? == u64::from(count),
        "{status}"
    );

    gateway.kill()?;
    thread::sleep(DEAD_FOR);
    let restart = boot_clock();
    gateway.start(lab)?;
    let answers = boot_clock().saturating_sub(restart);
    let fresh = run_time(&gateway.processes()?)?;
    let tally = resumptions(&mut swarm, restart)?;
    let resume_cost = run_time(&gateway.processes()?)?.saturating_sub(fresh);

    let status = gateway.ikectl("status")?;
    let asked = Instant::now();
    let of_workers = by_worker(&gateway)?;
    let listing = asked.elapsed();
    let listed = of_workers.values().map(Vec::len).sum::<usize>();
    let lost = [&gateway_ns, &clients_ns].map(|namespace| namespace.udp_count("RcvbufErrors"));
    let [lost_gateway, lost_clients] = lost;
    let (lost_gateway, lost_clients) = (lost_gateway?, lost_clients?);
    tally.print(answers);
    println!(
        "      {} liveness checks sent again before the token came, {} datagrams after it; \
         full queues dropped {lost_gateway} at the gateway, {lost_clients} at the clients",
        tally.repeated_before, tally.repeated
    );
    let each = |cost: Duration| (cost / u32::from(count)).as_secs_f64() * 1e6;
    println!(
        "      gateway CPU for each: {:.0} us full, {:.0} us crash and resume, all told; `ikectl sa` \
         took {:.0} ms; {} KB private to all clients",
        each(full_cost),
        each(resume_cost),
        listing.as_secs_f64() * 1e3,
        swarm.memory()? >> 10,
    );
    ensure!(number(&status, "full_logins")? == 0, "{status}");
    ensure!(
        number(&status, "resumed_logins")? == u64::from(count),
        "{status}"
    );
    ensure!(number(&status, "tickets_refused")? == 0, "{status}");
    ensure!(listed == usize::from(count), "{listed} SAs");
    ensure!(
        of_workers.len() == usize::from(workers),
        "SAs of {} workers",
        of_workers.len()
    );
    drop(swarm);
    if count == MANY {
        forgotten(&gateway)?;
    }
    gateway.stop()
}

/// Starts so many clients and waits until they are up.
pub(super) fn log_in(swarm: &mut Swarm<'_>, count: usize) -> Result<()> {
    let mut up = 0;
    while up < count {
        while swarm.len() < count && swarm.len() < up + AT_ONCE {
            swarm.add()?;
        }
        let report = swarm.report_until(Instant::now() + LOGIN_WITHIN)?;
        match report.happened {
            Happened::Up { resumed: false, .. } => up += 1,
            _ => bail!("while all log in: {report:?}"),
        }
    }
    Ok(())
}

/// What the clients' reports after the restart amount to.
#[derive(Default)]
struct Tally {
    /// From the restart to each client's resumption.
    resumed: Vec<Duration>,
    /// From the first message of each resumption to its SA.
    took: Vec<Duration>,
    repeated_before: u32,
    repeated: u32,
}

/// Waits until every client has resumed. Anything else that happens to one is a failure.
fn resumptions(swarm: &mut Swarm<'_>, restart: Duration) -> Result<Tally> {
    let deadline = Instant::now() + RESUMED_WITHIN;
    let mut tally = Tally::default();
    let mut reasons = BTreeMap::new();
    while tally.resumed.len() < swarm.len() {
        let report = swarm
            .report_until(deadline)
            .with_context(|| format!("{} of {} have resumed", tally.resumed.len(), swarm.len()))?;
        let Report {
            client,
            at_us,
            repeated,
            happened,
        } = report;
        match happened {
            Happened::Closed(reason) => {
                ensure!(reason == "peer_crashed", "client {client}: {reason}");
                ensure!(
                    reasons.insert(client, reason).is_none(),
                    "client {client} has lost its SA twice"
                );
                tally.repeated_before += repeated;
            }
            Happened::Up {
                resumed: true,
                took_us,
            } => {
                tally
                    .resumed
                    .push(Duration::from_micros(at_us).saturating_sub(restart));
                tally.took.push(Duration::from_micros(took_us));
                tally.repeated += repeated;
            }
            Happened::Up { resumed: false, .. } => bail!("client {client} logged in anew"),
            Happened::Failed(reason) => bail!("client {client} gave up: {reason}"),
        }
    }
    tally.resumed.sort_unstable();
    tally.took.sort_unstable();
    Ok(tally)
}

impl Tally {
    fn print(&self, answers: Duration) {
        let [half, most, last] = [50, 99, 100].map(|part| at(&self.resumed, part).as_secs_f64());
        let [quick, slow] = [50, 99].map(|part| at(&self.took, part).as_secs_f64() * 1e3);
        println!(
            "      {} resumed, 0 logged in anew: from the restart {half:.2} s (p50), {most:.2} s \
             (p99), {last:.2} s (last), of which {:.2} s until the gateway answered; one resumption \
             {quick:.1} ms (p50), {slow:.1} ms (p99)",
            self.resumed.len(),
            answers.as_secs_f64()
        );
    }
}

/// The part of a sorted row that so many percent do not exceed.
fn at(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

/// Clients that went without a word leave nothing behind.
fn forgotten(gateway: &Site<'_>) -> Result<()> {
    let gone = Instant::now();
    loop {
        let status = gateway.ikectl("status")?;
        let left = number(&status, "ike_sas_established")? + number(&status, "ike_sas_half_open")?;
        if left == 0 {
            break;
        }
        ensure!(
            gone.elapsed() < FORGOTTEN_WITHIN,
            "{left} SAs of dead clients are left"
        );
        thread::sleep(POLL);
    }
    let listed = gateway.ikectl("sa")?;
    ensure!(listed.as_array().is_some_and(Vec::is_empty), "{listed}");
    println!(
        "      all clients killed: no SA of theirs after {:.1} s",
        gone.elapsed().as_secs_f64()
    );
    Ok(())
}

fn number(status: &Value, name: &str) -> Result<u64> {
    status[name].as_u64().with_context(|| name.to_owned())
}
