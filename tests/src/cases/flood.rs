//! Forged resumptions against two running daemons: what the gate takes off the engine, and what
//! reaches it without.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use gate_abi::defence::{Budget, Level};
use serde_json::Value;

use super::tunnel::{CLIENT, client_connection, gateway_connection, two_sites};
use crate::{
    attacks::{Mode, Silence},
    capture::Capture,
    flood::{Forger, Pace, Sent},
    netns::Namespace,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// With the gate.
pub const TURNED_AWAY: Case = Case {
    name: "forged_resumptions_do_not_reach_the_daemon_and_a_genuine_one_among_them_does",
    run: turned_away,
};
/// The control run, without.
pub const CONTROL: Case = Case {
    name: "without_the_gate_forged_resumptions_reach_the_daemon",
    run: control,
};

/// Answers that can never leave.
pub const SILENT: Case = Case {
    name: "a_source_whose_neighbour_never_resolves_costs_other_clients_nothing",
    run: silent,
};

const FORGED: u32 = 20_000;
const PACE: Pace = Pace { per_second: 5000 };
/// Into the flood before the client calls.
const BEFORE_THE_CALL: Duration = Duration::from_millis(500);
/// A resumption among forged ones.
const RESUMES_WITHIN: Duration = Duration::from_secs(3);
/// What the kernel has queued for the engine when the flood ends.
const DRAINED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// The long form is `cargo xtask flood`'s.
const SILENT_FOR: Duration = Duration::from_secs(4);

fn turned_away(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let (client, gateway) = sites(lab, [&client_ns, &gateway_ns], "native")?;
    ensure!(gateway.ikectl("gate")?["mode"] == "native");
    let mut forger = recorded(&client, &client_ns)?;
    let refused = refused(&gateway)?;
    let before = turned_away_so_far(&gateway)?;

    let (sent, up, took, flood) = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| forger.send(&client_ns, "eth0", FORGED, PACE));
        thread::sleep(BEFORE_THE_CALL);
        let call = Instant::now();
        let up = client.ikectl("up home");
        let (took, under_way) = (call.elapsed(), !flood.is_finished());
        let sent = joined(flood)?;
        ensure!(under_way, "the flood was over before the client was up");
        // While what was spent is of the latest second.
        Ok((sent, up?, took, gateway.ikectl("flood")?))
    })?;
    ensure!(up["resumed"] == true, "{up}");
    named_by_flood(&flood)?;
    ensure!(took < RESUMES_WITHIN, "{took:?}");
    ensure!(sent.frames == FORGED, "{sent:?}");
    let [dropped, answered] = {
        let after = turned_away_so_far(&gateway)?;
        [after[0] - before[0], after[1] - before[1]]
    };
    let reached = self::refused(&gateway)? - refused;
    println!(
        "      {} forged at {:.0} per s: {dropped} dropped, {answered} answered with TICKET_NACK, \
         {reached} reached the daemon; resumed in {:.0} ms meanwhile",
        sent.frames,
        f64::from(sent.frames) / sent.took.as_secs_f64(),
        took.as_secs_f64() * 1e3
    );
    ensure!(
        dropped + answered == u64::from(FORGED),
        "{dropped} dropped, {answered} answered"
    );
    // Every CPU begins its seconds when it likes.
    let cpus = thread::available_parallelism()?.get() as u64;
    let budget = (sent.took.as_secs() + 2) * cpus * Budget::TagWrong.per_second(Level::Calm);
    ensure!(
        (1..=budget).contains(&answered),
        "{answered} answered of {budget} allowed"
    );
    ensure!(reached == 0, "{reached} reached the daemon");
    Ok(())
}

/// Whoever sends most is named, and what is sent back is counted against its budget.
fn named_by_flood(flood: &Value) -> Result<()> {
    let gate = &flood["gate"];
    let first = &gate["refused"][0];
    ensure!(
        first["network"] == format!("{CLIENT}/32") && first["reason"] == "tag_wrong",
        "{flood}"
    );
    ensure!(first["percent"].as_u64() > Some(90), "{flood}");
    let budgets = gate["budgets"].as_array().context("budgets")?;
    let spent = |reply: &str| -> Result<u64> {
        let one = budgets.iter().find(|one| one["reply"] == reply);
        one.and_then(|one| one["spent"].as_u64()).context("spent")
    };
    let most = Budget::TagWrong.per_second(Level::Calm);
    ensure!((1..=most).contains(&spent("nack_tag_wrong")?), "{flood}");
    ensure!(spent("nack_expired")? == 0, "{flood}");
    Ok(())
}

/// Forged resumptions that the gate has dropped, and that it has answered.
fn turned_away_so_far(gateway: &Site<'_>) -> Result<[u64; 2]> {
    Ok([
        gateway.gate_count("tag_wrong")?,
        gateway.gate_count("nack_tag_wrong")?,
    ])
}

fn control(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let (client, gateway) = sites(lab, [&client_ns, &gateway_ns], "off")?;
    ensure!(gateway.ikectl("gate")?["mode"] == "none");
    let mut forger = recorded(&client, &client_ns)?;
    let (refused, overflowed) = (refused(&gateway)?, overflowed(&gateway_ns)?);

    let sent = forger.send(&client_ns, "eth0", FORGED, PACE)?;
    ensure!(sent.frames == FORGED, "{sent:?}");
    let deadline = Instant::now() + DRAINED_WITHIN;
    loop {
        // What a full socket queue turned away was not delivered. A frame lost elsewhere, to a wrong
        // checksum for one, would be our own fault and counts against us.
        let lost = self::overflowed(&gateway_ns)? - overflowed;
        let delivered = u64::from(FORGED).saturating_sub(lost);
        ensure!(delivered > 0, "the kernel delivered nothing");
        let reached = self::refused(&gateway)? - refused;
        if reached * 100 >= delivered * 95 {
            println!(
                "      {} forged: {delivered} delivered to the socket, {reached} reached the daemon",
                sent.frames
            );
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{reached} of {delivered} delivered reached the daemon"
        );
        thread::sleep(POLL);
    }
}

fn silent(lab: &mut Lab) -> Result<()> {
    for mode in [Mode::Gate, Mode::User] {
        let silence = Silence::measure(lab, mode, SILENT_FOR)?;
        println!("      {silence}");
        silence.check()?;
    }
    Ok(())
}

/// Client and gateway, up and talking without a data plane.
fn sites<'a>(
    lab: &Lab,
    [client_ns, gateway_ns]: [&'a Namespace; 2],
    gate: &str,
) -> Result<(Site<'a>, Site<'a>)> {
    let setting = Setting {
        gate,
        dataplane: "none",
        node: 1,
    };
    let mut gateway = Site::prepare(lab, gateway_ns, setting, &gateway_connection())?;
    let own = Setting { node: 2, ..setting };
    let mut client = Site::prepare(lab, client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    Ok((client, gateway))
}

/// Logs in, resumes once under a capture, and leaves the client suspended with a fresh ticket.
fn recorded(client: &Site<'_>, namespace: &Namespace) -> Result<Forger> {
    client.ikectl("up home")?;
    client.ikectl("suspend home")?;
    let capture = Capture::start(namespace)?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    let frames = capture.stop()?;
    client.ikectl("suspend home")?;
    Forger::from_capture(&frames)
}

fn joined(flood: thread::ScopedJoinHandle<'_, Result<Sent>>) -> Result<Sent> {
    flood.join().map_err(|_| anyhow!("the flood panicked"))?
}

/// Tickets that the daemon has seen and refused.
fn refused(site: &Site<'_>) -> Result<u64> {
    let status = site.ikectl("status")?;
    status["tickets_refused"].as_u64().context("a count")
}

/// Datagrams that found the queue of a UDP socket in this namespace full.
fn overflowed(namespace: &Namespace) -> Result<u64> {
    namespace.udp_count("RcvbufErrors")
}
