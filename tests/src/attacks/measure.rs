//! What an attack did, by the counters of the kernel, of the gate and of the daemon, read before it and
//! after it; and the peaks in between.
//!
//! "Reached the daemon" is what it has read from its sockets, less what the client has sent and the
//! gate has not answered. What overflowed a socket's queue has reached nobody, though the client's own
//! losses there make the figure too small by as many. Memory is the resident set (`VmRSS`) of keeper
//! and engine and nothing else; its growth is up to the peak (`VmHWM`), which is reset before.

use std::{collections::BTreeMap, fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;
use serde_json::Value;

use super::{
    client::Attempts,
    scene::{CABLE, Ground},
    verdict::real,
};
use crate::{netns::Namespace, site::Site, suite::Lab};

/// All counts at one moment.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Datagrams that the daemon has read.
    read: u64,
    /// Datagrams that the client has sent.
    by_client: u64,
    /// Packets that came to the attacker.
    answers: u64,
    /// To the attacker, and from him.
    octets: [u64; 2],
    /// Of the gate and of the daemon, by reason.
    verdicts: BTreeMap<String, u64>,
    /// Octets of the gateway's log.
    pub(super) log: u64,
    /// Keeper and engine.
    processes: [Pid; 2],
    /// What the BPF maps of the keeper are charged for.
    maps: u64,
}

impl Counts {
    /// Reads them once nothing moves any more, or [`PATIENCE`] is over.
    pub(super) fn settled(lab: &Lab, ground: &Ground, gateway: &Site<'_>) -> Result<Self> {
        let mut last = None;
        for _ in 0..PATIENCE.as_millis() / QUIET.as_millis() {
            let read = ground.gateway.udp_count("InDatagrams")?;
            if last.replace(read) == Some(read) {
                break;
            }
            thread::sleep(QUIET);
        }
        Self::take(lab, ground, gateway)
    }

    fn take(lab: &Lab, ground: &Ground, gateway: &Site<'_>) -> Result<Self> {
        let processes = gateway.processes()?;
        Ok(Self {
            read: ground
                .gateway
                .udp_count("InDatagrams")?
                .saturating_sub(not_esp(ground)?),
            by_client: ground.client.udp_count("OutDatagrams")?,
            answers: ground.attacker.count("Ip", "InReceives")?,
            octets: octets(&ground.attacker)?,
            verdicts: verdicts(gateway)?,
            log: fs::metadata(log_of(lab))?.len(),
            processes,
            maps: maps(processes[0])?,
        })
    }

    /// Begins to look for the peak of the memory, and returns where it stands.
    pub(super) fn memory(&self) -> Result<u64> {
        let mut total = 0;
        for process in self.processes {
            fs::write(format!("/proc/{process}/clear_refs"), RESET_PEAK)?;
            total += resident(process, "VmRSS:")?;
        }
        Ok(total)
    }
}

/// The highest that were seen while the attack lasted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peaks {
    /// Half-open SAs.
    pub(super) half_open: u64,
    /// Octets in the kernel's IP reassembly.
    pub(super) reassembly: u64,
}

impl Peaks {
    /// Looks once. A daemon too busy to answer is not counted.
    pub(super) fn sample(&mut self, ground: &Ground, gateway: &Site<'_>) -> Result<()> {
        if let Ok(status) = gateway.ikectl("status") {
            let half_open = status["ike_sas_half_open"].as_u64().unwrap_or(0);
            self.half_open = self.half_open.max(half_open);
        }
        let text = ground.gateway.run("cat", "/proc/net/sockstat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("FRAG:"));
        let memory = line.and_then(|line| line.split(' ').next_back()?.parse().ok());
        self.reassembly = self.reassembly.max(memory.context("FRAG in sockstat")?);
        Ok(())
    }
}

/// What an attack came to.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) sent: u64,
    pub(super) took: Duration,
    pub(super) reached_daemon: u64,
    /// Packets that came back to the attacker and to the sources that he claimed.
    pub(super) answers: u64,
    /// Octets that came back, and those that he sent.
    pub(super) octets: [u64; 2],
    pub(super) memory_growth: u64,
    pub(super) map_growth: u64,
    pub(super) restarts: u64,
    /// Half-open SAs that the attacker was given.
    pub(super) opened: u64,
    /// Octets, without the lines about the client's own logins.
    pub(super) log: f64,
    pub(super) peaks: Peaks,
    /// What gate and daemon have counted, by reason.
    pub(super) verdicts: BTreeMap<String, u64>,
    pub(super) client: Attempts,
}

impl Facts {
    /// What changed from `before` to now. `log_each` octets of log belong to each attempt of the
    /// client, `memory` is what keeper and engine had.
    pub(super) fn since(
        before: &Counts,
        after: &Counts,
        (sent, took): (u64, Duration),
        client: Attempts,
        peaks: Peaks,
        (log_each, memory): (f64, u64),
    ) -> Result<Self> {
        let mut peak = 0;
        for process in after.processes {
            peak += resident(process, "VmHWM:")?;
        }
        let read = after.read.saturating_sub(before.read);
        let by_client = after.by_client.saturating_sub(before.by_client);
        let mut verdicts = after.verdicts.clone();
        for (reason, count) in &mut verdicts {
            let was = before.verdicts.get(reason).copied().unwrap_or(0);
            // A daemon that was started again counts from zero.
            *count = count.checked_sub(was).unwrap_or(*count);
        }
        verdicts.retain(|_, count| *count > 0);
        // Without a gate the daemon itself asks for cookies, and has read what it answers.
        let by_gate = |name: &&String| name.starts_with("gate.cookie_");
        let gate_asked = verdicts.keys().any(|name| by_gate(&name));
        let cookies = if gate_asked { client.cookies } else { 0 };
        let own = by_client.saturating_sub(cookies.into());
        let log = real(after.log.saturating_sub(before.log));
        Ok(Self {
            sent,
            took,
            reached_daemon: read.saturating_sub(own),
            answers: after.answers.saturating_sub(before.answers),
            octets: [0, 1].map(|way| after.octets[way].saturating_sub(before.octets[way])),
            memory_growth: peak.saturating_sub(memory),
            map_growth: after.maps.saturating_sub(before.maps),
            restarts: u64::from(before.processes != after.processes),
            opened: 0,
            log: (log - log_each * f64::from(client.made)).max(0.0),
            peaks,
            verdicts,
            client,
        })
    }

    /// Tickets whose body the daemon has had to open, and that were no good.
    pub(super) fn bodies_opened(&self) -> u64 {
        let of = |word: &&str| self.verdicts.get(&format!("ticket.{word}"));
        OPENED.iter().filter_map(of).sum()
    }
}

/// Verdicts of the gate, messages that the daemon made nothing of, and tickets that it refused.
fn verdicts(gateway: &Site<'_>) -> Result<BTreeMap<String, u64>> {
    let (gate, status, tickets) = (
        gateway.ikectl("gate")?,
        gateway.ikectl("status")?,
        gateway.ikectl("ticket list")?,
    );
    let rows = |list: &Value, of: &str, count: &str| -> Vec<(String, u64)> {
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let row = |row: &Value| {
            let reason = row["reason"].as_str()?;
            Some((format!("{of}.{reason}"), row[count].as_u64()?))
        };
        rows.iter().filter_map(row).collect()
    };
    let mut all = rows(&gate["counters"], "gate", "packets");
    all.extend(rows(&tickets["refused"], "ticket", "tickets"));
    let counters = status["counters"].as_object().context("counters")?;
    let counter =
        |(reason, count): (&String, &Value)| Some((format!("daemon.{reason}"), count.as_u64()?));
    all.extend(counters.iter().filter_map(counter));
    Ok(all.into_iter().collect())
}

/// Datagrams on 4500 that the kernel has taken for ESP of an SA that is not there, and has counted as
/// read though it gave them to nobody.
fn not_esp(ground: &Ground) -> Result<u64> {
    let text = ground.gateway.run("cat", "/proc/net/xfrm_stat");
    // Some kernels do not count.
    let text = text.unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("XfrmInNoStates"));
    Ok(line.map_or(Ok(0), |line| line.trim().parse())?)
}

/// Octets that the attacker's interface has received, and sent.
fn octets(attacker: &Namespace) -> Result<[u64; 2]> {
    let text = attacker.run("cat", "/proc/net/dev")?;
    let named = |line: &str| {
        line.trim()
            .strip_prefix(CABLE)?
            .strip_prefix(':')
            .map(str::to_owned)
    };
    let line = text.lines().find_map(named).context("its interface")?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let field = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a column")?.parse()?) };
    Ok([field(0)?, field(SENT_OCTETS)?])
}

/// A line of a process's status, in octets.
fn resident(process: Pid, name: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: u64 = kilobytes.with_context(|| name.to_owned())?.parse()?;
    Ok(kilobytes << 10)
}

/// What the kernel charges for the BPF maps that a process holds, in octets.
fn maps(process: Pid) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        if text.contains("map_type:") {
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            total += line.map_or(Ok(0), |line| line.trim().parse::<u64>())?;
        }
    }
    Ok(total)
}

fn log_of(lab: &Lab) -> PathBuf {
    lab.work().join("rekindled-gateway.log")
}

/// Why tickets are refused whose body had to be opened first.
const OPENED: [&str; 3] = ["body", "policy", "revoked"];
/// Of `/proc/PID/clear_refs`: resets the peak of the resident set.
const RESET_PEAK: &str = "5";
/// The column in `/proc/net/dev`.
const SENT_OCTETS: usize = 8;
/// Without a datagram read for so long, the sockets are empty.
const QUIET: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);
