//! A lease that moves while packets are under way: a client is started anew, resumes with either worker of
//! its gateway, and what its kernels carry meanwhile goes on.

use std::{collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    leases::{
        INNER4, INNER6, client_connection, gateway_connection, has_address, ping_both, remote_site,
    },
    tunnel::{CLIENT, OFFICE, REAL},
    workers::{by_worker, worker_of},
};
use crate::{
    capture::{Capture, Tally},
    netns::Namespace,
    site::{Setting, Site},
    stream::Stream,
    suite::{Case, Lab},
};

/// On a kernel with ESP.
pub const LOADED: Case = Case {
    name: "a_lease_moves_to_new_states_under_1000_packets_a_second_each_way",
    run: loaded,
};

/// On a kernel with ESP.
pub const APART: Case = Case {
    name: "two_workers_lease_no_address_twice",
    run: apart,
};

const RATE: u32 = 1000;
/// Of the cable, each way.
const DELAY_MILLISECONDS: u32 = 100;
/// Of a resumption.
const ROUND_TRIPS: f64 = 2.0;
const BACKLOG: &str = "20000";
/// At least, and at most until each worker has had the client.
const RESUMPTIONS: u16 = 2;
const MOST_RESUMPTIONS: u16 = 12;
/// Of undisturbed packets, before and after.
const STEADY: Duration = Duration::from_secs(1);
/// Logged in until each worker has so many.
const PER_WORKER: usize = 2;
const MOST_CLIENTS: u8 = 16;

fn loaded(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    // A slow machine must not lose in its own queues what is to be counted elsewhere.
    fs::write("/proc/sys/net/core/netdev_max_backlog", BACKLOG)?;
    for namespace in [&client_ns, &gateway_ns] {
        namespace.run(
            "tc",
            &format!("qdisc add dev eth0 root netem limit 5000 delay {DELAY_MILLISECONDS}ms"),
        )?;
    }
    // Nobody is to be taken for dead because its new start takes long.
    let patient =
        |connection: String| connection.replace("dpd_delay = \"30s\"", "dpd_delay = \"10m\"");
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &patient(gateway_connection()))?;
    gateway.set("workers", 2)?;
    let own = Setting { node: 2, ..REAL };
    let connection = patient(client_connection()).replacen("vips", "suspend = \"disk\"\nvips", 1);
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    for site in [&mut gateway, &mut client] {
        site.log_at("info");
        site.start(lab)?;
    }
    client.ikectl("up home")?;
    ping_both(&client_ns)?;
    let mut workers = vec![worker_of(&gateway.established()?)?];
    let mut tally = Tally::default();
    for round in 0..MOST_RESUMPTIONS {
        let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
        let overrun = || -> Result<[u64; 2]> {
            let of = |side: &Namespace| side.link_count("eth0", "TX", "dropped");
            Ok([of(&client_ns)?, of(&gateway_ns)?])
        };
        let before = overrun()?;
        let there = Stream::start((&client_ns, INNER4), (&gateway_ns, OFFICE), RATE)?;
        let back = Stream::start((&gateway_ns, OFFICE), (&client_ns, INNER4), RATE)?;
        thread::sleep(STEADY);
        // What it had in the kernel carries on without it.
        client.kill()?;
        client.set("ike_port", 501 + round)?;
        client.start(lab)?;
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == true, "{up}");
        let sa = client.established()?;
        ensure!(
            sa["local"]["vips"] == Value::from(vec![INNER4, INNER6]),
            "{sa}"
        );
        // As this login had it: on a busy machine it is longer than the cable.
        let setup = up["setup_seconds"].as_f64().context("how long it took")?;
        let round_trip = setup / ROUND_TRIPS;
        let cable = f64::from(2 * DELAY_MILLISECONDS) / 1000.0;
        ensure!(round_trip >= cable, "{up}");
        workers.push(worker_of(&newest(&gateway)?)?);
        thread::sleep(STEADY);
        let (there, back) = (there.stop()?, back.stop()?);
        let carried = f64::from(RATE) * round_trip;
        println!("      to the gateway {there:?}, to the client {back:?}; {round_trip:.3} s");
        for (flow, (before, after)) in [there, back]
            .into_iter()
            .zip(before.into_iter().zip(overrun()?))
        {
            // What a busy machine holds up it delivers at once, and the cable's queue is short.
            let overrun = (after - before) as u32;
            // A machine that is too slow for the rate would lose less.
            ensure!(flow.sent > RATE, "{flow:?}");
            let lost = flow.lost.saturating_sub(overrun);
            ensure!(f64::from(lost) <= carried, "{flow:?} {overrun}");
            ensure!(flow.doubled == 0, "{flow:?}");
        }
        for capture in captures {
            tally.add_sent(&capture.stop()?);
        }
        let both = workers.iter().any(|worker| *worker != workers[0]);
        if round >= RESUMPTIONS && both {
            break;
        }
    }
    println!("      by the workers {workers:?}; {tally:?}");
    ensure!(
        workers.iter().any(|worker| *worker != workers[0]),
        "always the same worker"
    );
    ensure!(tally.clear == 0 && tally.esp > u64::from(RATE), "{tally:?}");
    for address in [INNER4, INNER6] {
        ensure!(has_address(&client_ns, "lo", address)?, "{address}");
    }
    let leases = gateway.ikectl("pool leases")?;
    ensure!(
        leases.as_array().is_some_and(|all| all.len() == 2),
        "{leases}"
    );
    client.stop()?;
    gateway.stop()
}

/// Its youngest SA: a worker that has lost one to the other may show it for a moment.
fn newest(gateway: &Site<'_>) -> Result<Value> {
    let all = by_worker(gateway)?;
    let youngest = all
        .into_values()
        .flatten()
        .max_by_key(|sa| sa["id"].as_u64());
    youngest.context("an established SA")
}

fn apart(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    gateway.set("workers", 2)?;
    let own = Setting { node: 2, ..REAL };
    let connections: String = (0..MOST_CLIENTS).map(caller).collect();
    let mut clients = Site::prepare(lab, &client_ns, own, &connections)?;
    for number in 0..MOST_CLIENTS {
        client_ns.ip(&format!("address add {}/24 dev eth0", address(number)))?;
    }
    gateway.start(lab)?;
    clients.start(lab)?;

    // The kernel chooses the worker by the caller's address.
    let mut callers = Vec::new();
    let many = |workers: &BTreeMap<u8, Vec<Value>>| {
        workers.len() == 2 && workers.values().all(|sas| sas.len() >= PER_WORKER)
    };
    while !many(&by_worker(&gateway)?) {
        let number = callers.len() as u8;
        ensure!(number < MOST_CLIENTS, "always the same worker");
        clients.ikectl(&format!("up caller{number}"))?;
        callers.push(number);
    }
    let leased = |online: bool| -> Result<BTreeMap<String, String>> {
        let leases = gateway.ikectl("pool leases")?;
        let mut by_address = BTreeMap::new();
        for lease in leases.as_array().context("a list")? {
            ensure!(lease["online"] == online, "{lease}");
            let text = |key: &str| lease[key].as_str().unwrap_or_default().to_owned();
            let twice = by_address.insert(text("addr"), text("peer"));
            ensure!(twice.is_none(), "{leases}");
        }
        ensure!(by_address.len() == 2 * callers.len(), "{leases}");
        Ok(by_address)
    };
    let first = leased(true)?;
    let through = || -> Result<()> {
        for address in first.keys().filter(|address| address.contains('.')) {
            client_ns.run("ping", &format!("-n -q -c 1 -W 5 -I {address} {OFFICE}"))?;
        }
        Ok(())
    };
    through()?;
    for number in &callers {
        clients.ikectl(&format!("suspend caller{number}"))?;
    }
    // In the other order, so that whoever took the next free one would take another's.
    for number in callers.iter().rev() {
        let up = clients.ikectl(&format!("up caller{number}"))?;
        ensure!(up["resumed"] == true, "{up}");
    }
    ensure!(leased(true)? == first, "not the same leases");
    through()?;
    println!("      {} clients of two workers", callers.len());
    clients.stop()?;
    gateway.stop()
}

/// A client's outer address.
fn address(number: u8) -> String {
    format!("192.0.2.{}", 20 + number)
}

/// The client of this number.
fn caller(number: u8) -> String {
    client_connection()
        .replace("connections.home", &format!("connections.caller{number}"))
        .replace("client.example", &format!("caller{number}.example"))
        .replace(CLIENT, &address(number))
}
