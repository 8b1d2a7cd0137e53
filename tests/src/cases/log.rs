//! The log of a gateway that is looked at by programs: an object a line, an account of each session with what
//! the kernel has counted for it, and, while somebody looks on, each message of one peer.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::tunnel::{
    CLIENT, OFFICE, REAL, client_connection, drained, gateway_connection, two_sites,
};
use crate::{
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const LOGGED: Case = Case {
    name: "each_session_has_an_account_and_a_watched_peer_is_told_message_by_message",
    run: logged,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Every line, each of which must be an object with a message.
fn lines(site: &Site<'_>) -> Result<Vec<Value>> {
    let text = site.log()?;
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(
            line["message"].is_string() && line["level"].is_string(),
            "{line}"
        );
        Ok(line)
    };
    text.lines().map(read).collect()
}

fn named(site: &Site<'_>, event: &str) -> Result<Vec<Value>> {
    let all = lines(site)?.into_iter();
    Ok(all.filter(|line| line["event"] == event).collect())
}

/// The accounts, once there are so many.
fn accounts(site: &Site<'_>, wanted: usize) -> Result<Vec<Value>> {
    until("the sessions have accounts", PATIENCE, || {
        Ok(named(site, "account")?.len() >= wanted)
    })?;
    let all = named(site, "account")?;
    ensure!(all.len() == wanted, "{all:#?}");
    Ok(all)
}

fn pinged(from: &crate::netns::Namespace, packets: u32) -> Result<()> {
    let reply = ping(from, OFFICE, packets, PATIENCE)?;
    ensure!(reply.all(), "{reply:?}");
    Ok(())
}

fn logged(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    gateway.log_as_json()?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    client.log_as_json()?;
    gateway.start(lab)?;
    client.start(lab)?;

    let log = gateway.ikectl("log")?;
    ensure!(
        log == json!({ "level": "debug", "configured": "debug", "watched": [] }),
        "{log}"
    );
    let log = gateway.ikectl(&format!("log debug --peer {CLIENT} --for 1m"))?;
    ensure!(log["watched"][0]["peer"] == CLIENT, "{log}");

    // A login, with new keys on the way: one session.
    client.ikectl("up home")?;
    pinged(&client_ns, 3)?;
    client.ikectl("rekey home --child")?;
    pinged(&client_ns, 2)?;
    drained(&gateway_ns)?;
    let sa = gateway.established()?;
    ensure!(sa["children"][0]["in_packets"] == 5, "over new keys: {sa}");
    client.ikectl("suspend home")?;
    // A resumption: another one.
    client.ikectl("up home")?;
    pinged(&client_ns, 4)?;
    client.ikectl("down home")?;

    for (site, reasons) in [
        (&gateway, ["replaced", "peer_deleted"]),
        (&client, ["suspended", "down"]),
    ] {
        let all = accounts(site, 2)?;
        for (number, account) in all.iter().enumerate() {
            let packets = [5, 4][number];
            ensure!(
                account["packets_in"] == packets && account["packets_out"] == packets,
                "{all:#?}"
            );
            let octets = account["octets_in"].as_u64().unwrap_or(0);
            ensure!(octets > 60 * packets, "{account}");
            ensure!(account["resumptions"] == number, "{account}");
            ensure!(account["reason"] == reasons[number], "{account}");
            ensure!(account["seconds"].is_u64(), "{account}");
        }
    }
    let all = accounts(&gateway, 2)?;
    ensure!(
        all[0]["peer"] == "client.example" && all[0]["connection"] == "rw",
        "{all:#?}"
    );
    ensure!(
        all[0]["octets_in"] != all[1]["octets_in"],
        "each its own: {all:#?}"
    );
    let up = named(&gateway, "established")?;
    let resumed: Vec<_> = up.iter().map(|line| line["resumed"].clone()).collect();
    ensure!(resumed == [json!(false), json!(true)], "{up:#?}");

    let carried = gateway.ikectl("traffic")?;
    ensure!(
        carried[0]["connection"] == "rw"
            && carried[0]["in_packets"] == 9
            && carried[0]["out_packets"] == 9,
        "over all sessions: {carried}"
    );

    // The peer that was looked on at.
    let received = named(&gateway, "received")?;
    for part in [
        "-> IKE_SA_INIT request 0",
        "-> IKE_AUTH request 1",
        "-> CREATE_CHILD_SA request 2",
        "-> IKE_SESSION_RESUME request 0",
        "D(IKE)",
    ] {
        let has = |line: &Value| {
            line["message"]
                .as_str()
                .is_some_and(|text| text.contains(part))
        };
        ensure!(received.iter().any(has), "no {part} in {received:#?}");
    }
    ensure!(
        received.iter().all(|line| line["from"]
            .as_str()
            .is_some_and(|from| from.starts_with(CLIENT))),
        "{received:#?}"
    );
    ensure!(!named(&gateway, "sent")?.is_empty());
    ensure!(named(&client, "received")?.is_empty(), "nobody asked there");
    let said = gateway.log()? + &client.log()?;
    ensure!(!said.contains("horse"), "a secret in the log");

    // Less of it, and no more of the peer.
    gateway.ikectl(&format!("log configured --peer {CLIENT}"))?;
    let log = gateway.ikectl("log warn --for 1h")?;
    ensure!(
        log["level"] == "warn" && log["configured"] == "debug" && log["watched"] == json!([]),
        "{log}"
    );
    // The keeper logs as before.
    let of_the_engine = || -> Result<usize> {
        let all = lines(&gateway)?.into_iter();
        Ok(all.filter(|line| line["event"].is_string()).count())
    };
    let before = of_the_engine()?;
    client.ikectl("up home")?;
    ensure!(of_the_engine()? == before, "{}", gateway.log()?);
    gateway.ikectl("log configured")?;
    client.ikectl("down home")?;
    accounts(&gateway, 3)?;
    let nobody = gateway.ikectl("log configured --peer nobody");
    ensure!(nobody.is_err_and(|error| error.to_string().contains("nobody is not watched")));
    ensure!(gateway.ikectl("log loud").is_err());

    // The goodbye of a daemon that ends has its accounts, too.
    client.ikectl("up home")?;
    pinged(&client_ns, 1)?;
    gateway.stop()?;
    let last = accounts(&gateway, 4)?.pop().context("four")?;
    ensure!(
        last["reason"] == "down" && last["packets_in"] == 1,
        "{last}"
    );
    client.stop()
}
