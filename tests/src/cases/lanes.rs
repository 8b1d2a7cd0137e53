//! A flood of first messages, and no gate on any interface: whoever has a ticket waits behind nobody,
//! because the flood fills a queue of its own. With one queue for all, the same flood keeps him out.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use gate_abi::ike::IKE_SA_INIT;

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    barrage::{SENDERS, stay_on},
    capture::{Capture, Frame},
    chance::Chance,
    flood::{self, Pace, Sent},
    packet::{Content, Packet},
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// With lanes.
pub const APART: Case = Case {
    name: "without_a_gate_a_flood_of_first_messages_leaves_resumptions_alone",
    run: apart,
};
/// The control run, with one socket for each port.
pub const TOGETHER: Case = Case {
    name: "without_lanes_the_same_flood_keeps_resumptions_out",
    run: together,
};

const FLOOD: u32 = 1_500_000;
const PACE: Pace = Pace {
    per_second: 250_000,
};
/// Into the flood before the client calls: its queue is full by then.
const BEFORE_THE_CALL: Duration = Duration::from_secs(1);
/// A resumption beside a flood.
const RESUMES_WITHIN: Duration = Duration::from_secs(1);
/// One of which no message was lost: less than the client waits before it repeats itself.
const UNDISTURBED: Duration = Duration::from_millis(400);
/// Resumptions beside one flood. Of two messages in a queue that loses two of three, both get through one time in
/// nine; so often in a row, hardly ever.
const CALLS: usize = 4;
/// Of the flood that its queue had no room for, which shows that it was full, however fast the machine is.
const ENOUGH_LOST: u64 = FLOOD as u64 / 100;
/// So much lost that hardly any resumption is undisturbed.
const MUCH_LOST: u64 = FLOOD as u64 / 2;
const SETTING: Setting<'static> = Setting {
    gate: "off",
    dataplane: "none",
    node: 1,
};

fn apart(lab: &mut Lab) -> Result<()> {
    let (calls, lost) = beside_a_flood(lab, true)?;
    println!("      {lost} of the flood found its queue full; {calls:?}");
    let soon = |call: &Call| call.resumed && call.took < RESUMES_WITHIN;
    ensure!(calls.iter().all(soon), "{calls:?}");
    ensure!(lost > ENOUGH_LOST, "{lost} lost is no flood");
    Ok(())
}

fn together(lab: &mut Lab) -> Result<()> {
    let (calls, lost) = beside_a_flood(lab, false)?;
    println!("      {lost} datagrams found the queue full; {calls:?}");
    ensure!(lost > ENOUGH_LOST, "{lost} lost is no flood");
    let undisturbed = calls.iter().all(Call::is_undisturbed);
    if undisturbed && lost < MUCH_LOST {
        println!(
            "      not compared: this machine reads most of such a flood, and every client's message"
        );
        return Ok(());
    }
    ensure!(!undisturbed, "{calls:?}, as if there were no flood");
    Ok(())
}

/// A resumption that began in the middle of a flood.
#[derive(Debug)]
struct Call {
    resumed: bool,
    took: Duration,
}

impl Call {
    fn is_undisturbed(&self) -> bool {
        self.resumed && self.took < UNDISTURBED
    }
}

/// What became of resumptions that began in the middle of the flood, one after the other until one was disturbed,
/// and how many datagrams found a queue of the gateway's full.
fn beside_a_flood(lab: &Lab, lanes: bool) -> Result<(Vec<Call>, u64)> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, SETTING, &gateway_connection())?;
    let own = Setting { node: 2, ..SETTING };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    if !lanes {
        gateway.without_objects()?;
    }
    // What it would say about each of them is not the question.
    gateway.log_at("info");
    gateway.start(lab)?;
    client.start(lab)?;
    // Who sends takes the time of who reads: else a fast machine reads all of it, and there is no queue.
    for process in gateway.processes()? {
        let all_threads = format!("--all-tasks --cpu-list --pid {SENDERS} {process}");
        gateway_ns.run("taskset", &all_threads)?;
    }
    let status = gateway.ikectl("status")?;
    let lacks_lanes = status["attention"].to_string().contains("no lanes");
    ensure!(lacks_lanes != lanes, "{status}");

    let capture = Capture::start(&client_ns)?;
    client.ikectl("up home")?;
    let mut frame = first_message(&capture.stop()?)?;
    client.ikectl("suspend home")?;
    // None is needed (RFC 768), and each would be another.
    frame[CHECKSUM..CHECKSUM + 2].fill(0);

    let before = gateway_ns.udp_count("RcvbufErrors")?;
    let mut chance = Chance::fresh();
    let calls = thread::scope(|scope| -> Result<_> {
        let flood = scope.spawn(|| {
            stay_on(SENDERS)?;
            flood::send(&client_ns, "eth0", FLOOD, PACE, |next| {
                next.clear();
                next.extend_from_slice(&frame);
                chance.fill(&mut next[SPI..SPI + 8]);
                next[SPI] |= 1;
            })
        });
        thread::sleep(BEFORE_THE_CALL);
        let mut calls: Vec<Call> = Vec::new();
        while calls.len() < CALLS && calls.iter().all(Call::is_undisturbed) {
            if !calls.is_empty() {
                client.ikectl("suspend home")?;
            }
            ensure!(!flood.is_finished(), "the flood was over before: {calls:?}");
            let begun = Instant::now();
            let up = client.ikectl("up home");
            calls.push(Call {
                resumed: up.is_ok_and(|up| up["resumed"] == true),
                took: begun.elapsed(),
            });
        }
        let sent: Sent = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
        println!(
            "      {} first messages at {:.0} a second",
            sent.frames,
            f64::from(sent.frames) / sent.took.as_secs_f64()
        );
        Ok(calls)
    })?;
    let lost = gateway_ns.udp_count("RcvbufErrors")? - before;
    Ok((calls, lost))
}

/// The client's first IKE_SA_INIT, from its Ethernet header on.
fn first_message(frames: &[Frame]) -> Result<Vec<u8>> {
    let first = frames.iter().filter(|frame| frame.sent).find(|frame| {
        matches!(
            Packet::parse(&frame.octets).map(|packet| packet.content),
            Some(Content::Ike {
                exchange: IKE_SA_INIT,
                response: false,
                ..
            })
        )
    });
    Ok(first.context("no IKE_SA_INIT was captured")?.octets.clone())
}

const UDP: usize = 14 + 20;
const CHECKSUM: usize = UDP + 6;
const SPI: usize = UDP + 8;
