//! Clients come, sleep, wake, change keys, go, vanish and send rubbish while operators rotate keys and
//! the gateway is killed now and then. Once all have logged out nothing is left of it: no SA, no
//! descriptor, no thread, no work, and no more memory and files than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ike::io::Event;
use nix::unistd::Pid;
use rekindled::tickets::MAX_EPOCHS;

use crate::{
    chance::Chance,
    mangle,
    netns::Namespace,
    process::run_time,
    site::{Setting, Site},
    storm::{
        GATEWAY, LIVENESS,
        client::{Client, down, rekey, rekey_child, serve, suspend, up},
        gateway_connection, identity_of, two_namespaces,
    },
    suite::{Case, Lab},
    until::until,
};

/// The short form runs always, the long one with `--full`.
pub const CHURN: Case = Case {
    name: "of_clients_that_came_and_went_nothing_is_left",
    run: churn,
};

fn churn(lab: &mut Lab) -> Result<()> {
    let (with_kills, without) = if env::var_os(FULL).is_some() {
        (Duration::from_mins(2), Duration::from_mins(10))
    } else {
        (Duration::from_secs(6), Duration::from_secs(8))
    };
    let (clients_ns, gateway_ns) = two_namespaces()?;
    let setting = Setting {
        gate: "off",
        dataplane: "none",
        node: 1,
    };
    let mut gateway = Site::prepare(lab, &gateway_ns, setting, &gateway_connection(LIVENESS))?;
    gateway.set("workers", 2)?;
    gateway.log_at("error");
    gateway.start(lab)?;
    let mut crowd = Crowd::new(&clients_ns)?;

    let end = Instant::now() + with_kills;
    let mut kills = 0;
    while Instant::now() < end {
        crowd.live(&gateway, BETWEEN_KILLS)?;
        if kills % 2 == 0 {
            gateway.kill_engine()?;
        } else {
            gateway.kill()?;
            gateway.start(lab)?;
        }
        kills += 1;
    }
    println!("      {kills} kills: {}", crowd.tally());

    crowd.live(&gateway, without / 4)?;
    crowd.log_out()?;
    // From here on a new key takes the place of one that is over.
    for _ in 0..MAX_EPOCHS {
        let _refused = gateway.ikectl("ticket rotate");
    }
    // Operators are gone when their sockets are closed at the other end too.
    thread::sleep(REST);
    let before = Standing::of(&gateway)?;
    crowd.counts.clear();
    println!("      {before:?} before");
    let mut after = Standing::of(&gateway)?;
    for _ in 0..STRETCHES {
        crowd.live(&gateway, without / STRETCHES)?;
        crowd.log_out()?;
        until("no IKE SA is left", FORGOTTEN_WITHIN, || {
            Ok(gateway.ikectl("sa")?.as_array().is_some_and(Vec::is_empty))
        })?;
        after = Standing::of(&gateway)?;
        println!("      {after:?} after {}", crowd.tally());
    }
    for kind in ["full", "resumed", "suspended", "rekeyed", "closed"] {
        let count = crowd.counts.get(kind).copied().unwrap_or(0);
        ensure!(count >= CLIENTS.into(), "{kind}: {count}");
    }
    ensure!(after.threads <= before.threads + POOLED, "threads stay");
    let closed = until("no descriptor stays open", CLOSED_WITHIN, || {
        Ok(Standing::of(&gateway)?.descriptors <= before.descriptors)
    });
    if closed.is_err() {
        println!("      open: {:?}", opened(&gateway)?);
    }
    closed?;
    ensure!(after.memory <= before.memory + GROWTH, "memory grew");
    ensure!(after.files <= before.files + GROWTH, "files grew");

    let processes = gateway.processes()?;
    let spent = run_time(&processes)?;
    thread::sleep(REST);
    let spent = run_time(&processes)?.saturating_sub(spent);
    println!("      {spent:?} of work in {REST:?} of rest");
    ensure!(spent < REST / 20, "it is busy with nothing");
    gateway.stop()
}

/// What the gateway holds of the system, keeper and engine together.
#[derive(Debug)]
struct Standing {
    threads: usize,
    descriptors: usize,
    /// Octets of memory with no file behind it.
    memory: u64,
    /// Octets of its state on disk.
    files: u64,
}

impl Standing {
    fn of(gateway: &Site<'_>) -> Result<Self> {
        let processes = gateway.processes()?;
        let entries = |process: &Pid, folder: &str| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{process}/{folder}"))?.count())
        };
        let mut standing = Self {
            threads: 0,
            descriptors: 0,
            memory: 0,
            files: size(&gateway.folder().join("state"))?,
        };
        for process in &processes {
            standing.threads += entries(process, "task")?;
            standing.descriptors += entries(process, "fd")?;
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("RssAnon:"));
            let kilobytes = line.and_then(|line| line.split_whitespace().next());
            let kilobytes: u64 = kilobytes.context("RssAnon")?.parse()?;
            standing.memory += kilobytes << 10;
        }
        Ok(standing)
    }
}

/// What its processes have open, for a reader who is to find what was not closed.
fn opened(gateway: &Site<'_>) -> Result<BTreeMap<String, usize>> {
    let mut opened = BTreeMap::new();
    for process in gateway.processes()? {
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            // One that has been closed meanwhile has nowhere to lead.
            let Ok(target) = fs::read_link(entry?.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            // Sockets and the like by kind: their numbers say nothing.
            let kind = target.split(":[").next().unwrap_or(&target);
            *opened.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(opened)
}

fn size(folder: &Path) -> Result<u64> {
    let mut octets = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        octets += if entry.file_type()?.is_dir() {
            size(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(octets)
}

/// Clients that do as they like.
struct Crowd<'a> {
    namespace: &'a Namespace,
    clients: Vec<Client>,
    lives: Vec<Life>,
    chance: Chance,
    counts: BTreeMap<String, u32>,
}

/// Where a client is, and when it does something next.
struct Life {
    /// Its IKE SAs: two while a resumed one takes the place of another.
    sas: BTreeSet<u64>,
    /// It is about to come.
    trying: bool,
    next: Instant,
}

impl Life {
    fn new() -> Self {
        Self {
            sas: BTreeSet::new(),
            trying: false,
            next: Instant::now(),
        }
    }

    fn up(&self) -> bool {
        !self.sas.is_empty()
    }
}

impl<'a> Crowd<'a> {
    fn new(namespace: &'a Namespace) -> Result<Self> {
        let clients = (1..=CLIENTS)
            .map(|number| newcomer(namespace, number))
            .collect::<Result<_>>()?;
        let chance = Chance::fresh();
        println!("      {chance:?}");
        Ok(Self {
            namespace,
            clients,
            lives: (1..=CLIENTS).map(|_| Life::new()).collect(),
            chance,
            counts: BTreeMap::new(),
        })
    }

    /// Lets them live for so long, and operators with them.
    fn live(&mut self, gateway: &Site<'_>, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let mut operator = Instant::now() + OPERATOR;
        while Instant::now() < end {
            for index in 0..self.clients.len() {
                if self.lives[index].next <= Instant::now() {
                    self.act(index)?;
                }
            }
            self.turn()?;
            if Instant::now() >= operator {
                operator = Instant::now() + OPERATOR;
                let someone = identity_of(1 + self.chance.below(CLIENTS.into()) as u16);
                let word = match self.chance.below(5) {
                    0 => "ticket rotate".into(),
                    1 => format!("ticket revoke {someone}"),
                    2 => "reload".into(),
                    3 => "metrics".into(),
                    _ => "sa".into(),
                };
                // It may be on its way back from a kill.
                let _told = gateway.ikectl(&word);
            }
        }
        Ok(())
    }

    fn act(&mut self, index: usize) -> Result<()> {
        let pause = 20 + self.chance.below(200) as u64;
        self.lives[index].next = Instant::now() + Duration::from_millis(pause);
        let client = &mut self.clients[index];
        let command = match self.chance.below(12) {
            _ if self.lives[index].trying => return Ok(()),
            _ if !self.lives[index].up() => {
                self.lives[index].trying = true;
                up()
            }
            0..=4 => suspend(),
            5 => down(),
            6 | 7 => rekey(),
            8 | 9 => rekey_child(),
            10 => {
                let mangled = mangle::variants(client.last(), &mut self.chance);
                for _ in 0..MANGLED {
                    client.throw(&mangled[self.chance.below(mangled.len())], GATEWAY);
                }
                self.count("mangled");
                return Ok(());
            }
            _ => {
                // One that loses all that it knew, its socket too.
                let number = 1 + index as u16;
                self.clients.remove(index);
                self.clients
                    .insert(index, newcomer(self.namespace, number)?);
                self.lives[index] = Life::new();
                self.count("vanished");
                return Ok(());
            }
        };
        if let Err(error) = client.command(&command) {
            self.count(&format!("{error:#}"));
        }
        Ok(())
    }

    /// Takes in what came, and keeps count of what has happened.
    fn turn(&mut self) -> Result<()> {
        serve(&mut self.clients, TICK)?;
        for (client, life) in self.clients.iter_mut().zip(&mut self.lives) {
            for event in client.take_events() {
                let kind = match event {
                    Event::Established { sa, resumed, .. } => {
                        life.sas.insert(sa);
                        if resumed { "resumed" } else { "full" }.into()
                    }
                    Event::Rekeyed { old, sa, .. } => {
                        life.sas.remove(&old);
                        life.sas.insert(sa);
                        "rekeyed".into()
                    }
                    Event::Closed { sa, .. } => {
                        life.sas.remove(&sa);
                        "closed".into()
                    }
                    Event::Suspended { .. } => {
                        life.sas.clear();
                        "suspended".into()
                    }
                    Event::UpFailed { reason, .. } => format!("failed {}", reason.word()),
                    _ => continue,
                };
                life.trying &= kind.starts_with("rekeyed") || kind == "closed";
                *self.counts.entry(kind).or_default() += 1;
            }
        }
        Ok(())
    }

    /// All come once more, so that the gateway knows again whom it has lost, and then log out.
    fn log_out(&mut self) -> Result<()> {
        let deadline = Instant::now() + LOGGED_OUT_WITHIN;
        while self.lives.iter().any(|life| !life.up()) {
            for (client, life) in self.clients.iter_mut().zip(&mut self.lives) {
                if !life.up() && !life.trying && life.next <= Instant::now() {
                    life.trying = true;
                    life.next = Instant::now() + AGAIN;
                    client.command(&up())?;
                }
            }
            self.turn()?;
            ensure!(Instant::now() < deadline, "not all are up");
        }
        for client in &mut self.clients {
            client.command(&down())?;
        }
        while self.lives.iter().any(Life::up) {
            self.turn()?;
            ensure!(Instant::now() < deadline, "not all are down");
        }
        Ok(())
    }

    fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    fn tally(&self) -> String {
        let kinds = self
            .counts
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"));
        kinds.collect::<Vec<_>>().join(", ")
    }
}

fn newcomer(namespace: &Namespace, number: u16) -> Result<Client> {
    let client = namespace.within(|| Client::new(number, GATEWAY))??;
    client.socket().set_nonblocking(true)?;
    Ok(client)
}

const CLIENTS: u16 = 32;
/// Set for long variants.
const FULL: &str = "REKINDLE_FULL";
/// What it holds is looked at after each, which tells a slope from a step.
const STRETCHES: u32 = 5;
const BETWEEN_KILLS: Duration = Duration::from_secs(2);
const OPERATOR: Duration = Duration::from_millis(500);
/// Wrong messages in a row.
const MANGLED: usize = 4;
const TICK: Duration = Duration::from_millis(5);
/// Before an attempt that failed is made again.
const AGAIN: Duration = Duration::from_millis(200);
const LOGGED_OUT_WITHIN: Duration = Duration::from_mins(1);
/// Half-open SAs that nobody completes live this long, and more.
const FORGOTTEN_WITHIN: Duration = Duration::from_mins(1);
/// Octets: what an allocator keeps for itself, and revocations that are not over.
const GROWTH: u64 = 8 << 20;
/// Threads of the runtime that read files, and end when nothing more is to be read.
const POOLED: usize = 2;
/// The control socket notices an `ikectl` that has ended as soon as its task has its turn.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(2);
