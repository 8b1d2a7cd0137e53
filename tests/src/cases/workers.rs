//! A gateway whose engine has two workers: the kernel shares clients out between them, and to operators and
//! clients they are one, also when a client comes back by the other one.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    storm::log_in,
    tunnel::{
        OFFICE, REAL, client_connection, drained, gateway_connection as one_gateway, two_sites,
    },
};
use crate::{
    ping::ping,
    site::{Setting, Site},
    storm::{Happened, LIVENESS, Report, Swarm, gateway_connection, two_namespaces},
    suite::{Case, Lab},
};

/// Clients, operators and a restart.
pub const AS_ONE: Case = Case {
    name: "two_workers_share_clients_and_answer_as_one",
    run: |lab| as_one(lab, true),
};
/// The same on a kernel that shares nothing out.
pub const ONE_QUEUE: Case = Case {
    name: "two_workers_behind_one_socket_share_clients_as_well",
    run: |lab| as_one(lab, false),
};
/// A client changes workers.
pub const MOVES: Case = Case {
    name: "a_session_of_one_worker_is_resumed_with_the_other",
    run: |lab| moves(lab, NO_ESP),
};
/// And its packets with it, on a kernel with ESP.
pub const MOVES_ESP: Case = Case {
    name: "a_tunnel_of_one_worker_is_resumed_with_the_other",
    run: |lab| moves(lab, REAL),
};

const NO_ESP: Setting<'static> = Setting {
    gate: "native",
    dataplane: "none",
    node: 1,
};
const CLIENTS: usize = 16;
/// Silence, the spread of 2 s, a refused ticket's 2 s, and a slow machine.
const BACK_WITHIN: Duration = Duration::from_secs(25);
const DELETED_WITHIN: Duration = Duration::from_secs(10);
/// How long a worker may take to hear that a session is another's.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Each goes to either worker with the same chance.
const MOST_MOVES: u16 = 24;
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Established SAs by the worker that their SPI names. A gateway's SPI is the responder's.
pub(super) fn by_worker(gateway: &Site<'_>) -> Result<BTreeMap<u8, Vec<Value>>> {
    let mut workers: BTreeMap<u8, Vec<Value>> = BTreeMap::new();
    let sas = gateway.ikectl("sa")?;
    for sa in sas.as_array().context("a list")? {
        if sa["state"] == "established" {
            workers.entry(worker_of(sa)?).or_default().push(sa.clone());
        }
    }
    Ok(workers)
}

/// The worker that an SA of a gateway's lives with.
pub(super) fn worker_of(sa: &Value) -> Result<u8> {
    let digits = sa["spi_r"].as_str().and_then(|spi| spi.get(2..4));
    Ok(u8::from_str_radix(digits.context("an SPI")?, 16)?)
}

fn as_one(lab: &mut Lab, lanes: bool) -> Result<()> {
    let (clients_ns, gateway_ns) = two_namespaces()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, NO_ESP, &gateway_connection(LIVENESS))?;
    gateway.set("workers", 2)?;
    if !lanes {
        gateway.without_objects()?;
    }
    gateway.start(lab)?;
    let mut swarm = Swarm::new(lab, &clients_ns)?;
    log_in(&mut swarm, CLIENTS)?;

    let workers = by_worker(&gateway)?;
    let all: Vec<&Value> = workers.values().flatten().collect();
    ensure!(workers.len() == 2, "SAs of {} workers", workers.len());
    let numbers: BTreeSet<_> = all.iter().filter_map(|sa| sa["id"].as_u64()).collect();
    ensure!(numbers.len() == CLIENTS, "{} numbers", numbers.len());
    for id in &numbers {
        let shown = gateway.ikectl(&format!("sa show {id}"))?;
        ensure!(shown[0]["id"] == *id, "{shown}");
    }
    let status = gateway.ikectl("status")?;
    ensure!(status["full_logins"] == CLIENTS, "{status}");
    ensure!(status["ike_sas_established"] == CLIENTS, "{status}");
    let handed_on = status["counters"]["handed_on"].as_u64().unwrap_or(0);
    ensure!((handed_on > 0) != lanes, "{handed_on} handed on: {status}");
    for sas in workers.values() {
        let peer = sas[0]["remote"]["id"].as_str().context("an identity")?;
        let done = gateway.ikectl(&format!("ticket revoke {peer}"))?;
        ensure!(done["revoked"] == 1, "{done}");
    }

    gateway.kill()?;
    gateway.start(lab)?;
    let (mut resumed, mut full) = (0, 0);
    let deadline = Instant::now() + BACK_WITHIN;
    while resumed + full < CLIENTS {
        match swarm.report_until(deadline)? {
            Report {
                happened: Happened::Up { resumed: true, .. },
                ..
            } => resumed += 1,
            Report {
                happened: Happened::Up { resumed: false, .. },
                ..
            } => full += 1,
            Report {
                happened: Happened::Closed(_),
                ..
            } => {}
            report => bail!("{report:?}"),
        }
    }
    println!("      {resumed} resumed, {full} whose tickets were revoked logged in anew");
    ensure!((resumed, full) == (CLIENTS - 2, 2), "{resumed} and {full}");
    let workers = by_worker(&gateway)?;
    ensure!(workers.len() == 2, "SAs of {} workers", workers.len());
    let tickets = gateway.ikectl("ticket")?;
    ensure!(tickets["honoured"] == CLIENTS - 2, "{tickets}");

    gateway.ikectl("down swarm")?;
    let deadline = Instant::now() + DELETED_WITHIN;
    let mut deleted = BTreeSet::new();
    while deleted.len() < CLIENTS {
        let report = swarm
            .report_until(deadline)
            .with_context(|| format!("{} of {CLIENTS} were deleted", deleted.len()))?;
        if matches!(report.happened, Happened::Closed(_)) {
            deleted.insert(report.client);
        }
    }
    drop(swarm);
    gateway.stop()
}

fn moves(lab: &mut Lab, setting: Setting<'_>) -> Result<()> {
    const PLACE: &str = "dpd_delay = \"30s\"\n";
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, setting, &one_gateway())?;
    gateway.set("workers", 2)?;
    gateway.start(lab)?;
    let own = Setting { node: 2, ..setting };
    let connection = client_connection().replace(PLACE, &format!("{PLACE}suspend = \"disk\"\n"));
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    let mut at = worker_of(&gateway.established()?)?;
    let mut seen = BTreeSet::new();
    let mut tries = 0;
    // There and back.
    while seen.len() < 2 {
        tries += 1;
        ensure!(tries <= MOST_MOVES, "always the same worker");
        client.ikectl("suspend home")?;
        client.kill()?;
        // The kernel chooses the worker by addresses and ports.
        client.set("ike_port", 500 + tries)?;
        client.start(lab)?;
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == true, "{up}");
        let sa = the_one(&gateway)?;
        if worker_of(&sa)? == at {
            continue;
        }
        at = worker_of(&sa)?;
        seen.insert(at);
        if setting.dataplane == "none" {
            continue;
        }
        let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
        ensure!(reply.all(), "through worker {at}: {reply:?}");
        drained(&gateway_ns)?;
        let policies = gateway_ns.ip("xfrm policy")?;
        ensure!(policies.matches("tmpl").count() == 3, "{policies}");
    }
    println!("      {tries} resumptions, to worker {seen:?}");
    let status = gateway.ikectl("status")?;
    ensure!(status["full_logins"] == 1, "{status}");
    ensure!(status["resumed_logins"] == u64::from(tries), "{status}");
    client.ikectl("down home")?;
    let deadline = Instant::now() + TOLD_WITHIN;
    while gateway.established().is_ok() {
        ensure!(Instant::now() < deadline, "still there");
        thread::sleep(POLL);
    }
    if setting.dataplane != "none" {
        let left = gateway_ns.ip("xfrm state")?;
        ensure!(!left.contains("proto esp"), "{left}");
    }
    client.stop()?;
    gateway.stop()
}

/// The gateway's one SA, once the worker that had the one before has heard.
fn the_one(gateway: &Site<'_>) -> Result<Value> {
    let deadline = Instant::now() + TOLD_WITHIN;
    loop {
        match gateway.established() {
            Ok(sa) => return Ok(sa),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(POLL),
        }
    }
}
