//! Samples of what the gate drops: whose they are and why they were dropped, and no more of them than
//! an operator can read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gate_abi::sample::PER_SECOND;
use rekindled::gate::{Attached, boot_clock};

use super::{Cable, corpus, options};
use crate::suite::Lab;

/// Spread over more than a second, so that the limit is met and not only one CPU's share of it.
const ROUNDS: usize = 30;
const BETWEEN: Duration = Duration::from_millis(50);

pub(super) fn few_and_right(lab: &mut Lab) -> Result<()> {
    let cable = Cable::lay(1500)?;
    let options = options(lab, "samples", &["inside"])?;
    let mut gate = cable.attach(&options)?;
    ensure!(gate.attachments()[0].mode == Attached::Native);
    gate.read_samples();
    ensure!(gate.dropped().count() == 0, "nothing was dropped yet");

    let [v4, v6] = corpus::LOCAL;
    let forged: Vec<_> = (0..50)
        .map(|index| corpus::forged(index).octets())
        .collect();
    let (begun, booted) = (Instant::now(), boot_clock());
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        // Each CPU shows one in every tenth of a second, which is every second round or so.
        cable.send([v4, v6][round / 2 % 2], &forged)?;
        std::thread::sleep(BETWEEN);
        gate.read_samples();
        for dropped in gate.dropped() {
            if !seen.contains(dropped) {
                seen.push(dropped.clone());
            }
        }
    }
    let took = begun.elapsed();
    println!(
        "      {} samples of {} drops in {took:.1?}",
        seen.len(),
        ROUNDS * forged.len()
    );
    // One more on each CPU, whose share may begin anywhere.
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let most = PER_SECOND * (took.as_secs() + 1) + cpus;
    ensure!(
        seen.len() as u64 <= most,
        "{} samples, at most {most}",
        seen.len()
    );
    ensure!(!seen.is_empty(), "no samples");
    let octets = corpus::forged(0).octets().len() as u64;
    for one in &seen {
        let (source, destination) = one.ends.context("ends")?;
        ensure!(
            one.reason.name() == "tag_wrong" && one.interface == "inside",
            "{one:?}"
        );
        ensure!(destination.port() == 500 && source.port() != 0, "{one:?}");
        let to = destination.ip().to_string();
        ensure!(
            [v4, v6].contains(&to.as_str()) && source.ip() != destination.ip(),
            "{one:?}"
        );
        let headers = if source.is_ipv4() { 42 } else { 62 };
        ensure!(one.octets == octets + headers, "{one:?}");
        // The clock is read once in a tick.
        let ago = one.at + Duration::from_millis(20);
        ensure!(ago >= booted && one.at <= boot_clock(), "{one:?}");
    }
    for family in [v4, v6] {
        let of = |one: &&_| ends_at(one, family);
        ensure!(seen.iter().any(|one| of(&one)), "no sample for {family}");
    }
    gate.detach()?;
    Ok(())
}

fn ends_at(one: &rekindled::gate::Dropped, address: &str) -> bool {
    one.ends
        .is_some_and(|(_, destination)| destination.ip().to_string() == address)
}
