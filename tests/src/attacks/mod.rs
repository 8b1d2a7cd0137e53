//! The attack matrix: each attack of the threat model against a gateway of its own, with the gate, with
//! the daemon's own defences, and without; and a client that goes about its business meanwhile.
//!
//! An attack is a function that sends, a metric and its limit. What is done to the daemon is bounded in
//! packets and in time, and all of it happens in namespaces that end with the program. Rows go to a
//! file as JSON, because a lab has one output stream only.

mod bots;
mod client;
mod first;
mod hoards;
mod measure;
mod parsing;
mod peak;
mod recorded;
mod scene;
mod silent;
mod standing;
mod tickets;
mod verdict;

use std::{
    env, fs,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use self::{
    client::{Attempts, Cycle, Legitimate, PERIOD},
    measure::{Counts, Facts, Peaks},
    scene::{GATEWAY, Ground, Scene},
    verdict::{HEADER, Metric, Row, real},
};
use crate::suite::Lab;

pub use self::{peak::measure as measure_peak, silent::Silence, verdict::Mode};

const USAGE: &str = "usage: flood list | flood own|esp FILE [ATTACK...]";

/// An attack that is played.
struct Attack {
    /// Its row in the threat model.
    number: u8,
    what: &'static str,
    metric: Metric,
    /// The share of the client's attempts that have to come to an IKE SA in time.
    success: f64,
    loot: Loot,
    /// `[flood] mode` where defences are on.
    flood: &'static str,
    /// Whether it needs a kernel with ESP, which may be a slow one.
    esp: bool,
    /// Sends it all, and returns how many frames that was.
    play: fn(&Scene<'_>) -> Result<u64>,
}

/// A ticket that the attacker has, still good when he begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Loot {
    Nothing,
    /// Of somebody who calls again while the attack lasts.
    Stolen,
    /// His own.
    Own,
}

/// What most attacks have in common.
const USUAL: Attack = Attack {
    number: 0,
    what: "",
    metric: Metric::LegitSuccess,
    success: 0.95,
    loot: Loot::Nothing,
    flood: "auto",
    esp: false,
    play: |_| Ok(0),
};
/// In place of [`USUAL`]'s, where the threat model says so.
const NEARLY_ALL: f64 = 0.99;

/// Runs the attacks that the arguments name, or all.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["list"] => {
            list();
            Ok(true)
        }
        [kernel @ ("own" | "esp"), file, attacks @ ..] => matrix(*kernel == "esp", file, attacks),
        _ => Err(anyhow!("{USAGE}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flood: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn attacks() -> Vec<Attack> {
    let mut all: Vec<Attack> = [
        first::attacks(),
        hoards::attacks(),
        tickets::attacks(),
        parsing::attacks(),
        standing::attacks(),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.sort_by_key(|attack| attack.number);
    all
}

fn list() {
    let played = attacks();
    for attack in &played {
        println!("{:>2}  {}", attack.number, attack.what);
    }
    let missing = WANTED.iter().filter(|number| {
        let is_it = |attack: &Attack| attack.number == **number;
        !played.iter().any(is_it)
    });
    let missing: Vec<String> = missing.map(u8::to_string).collect();
    println!("not played yet: {}", missing.join(", "));
}

/// Plays in every mode the attacks that need a kernel with ESP, or those that do not; whether all rows
/// are as they should be.
fn matrix(esp: bool, file: &str, wanted: &[&str]) -> Result<bool> {
    let wanted: Vec<u8> = wanted
        .iter()
        .map(|word| word.parse().with_context(|| format!("attack {word:?}")))
        .collect::<Result<_>>()?;
    let all = attacks();
    for number in &wanted {
        let known = all.iter().any(|attack| attack.number == *number);
        ensure!(known, "attack {number} is not played: see --list");
    }
    let chosen = |attack: &&Attack| {
        attack.esp == esp && (wanted.is_empty() || wanted.contains(&attack.number))
    };
    let (mut rows, mut good) = (Vec::new(), true);
    println!("{HEADER}");
    for attack in all.iter().filter(chosen) {
        println!("{:>6} {}", attack.number, attack.what);
        for mode in Mode::ALL {
            match play(attack, mode) {
                Ok(row) => {
                    println!("{row}");
                    good &= row.good();
                    rows.push(row);
                }
                Err(error) => {
                    println!("       {mode:?}: could not be played: {error:#}");
                    good = false;
                }
            }
        }
    }
    if wanted.is_empty() && !esp {
        good &= silence();
    }
    fs::write(file, serde_json::to_string(&rows)?).with_context(|| file.to_owned())?;
    Ok(good)
}

/// What is no row of the matrix: a source whose neighbour entry never resolves.
fn silence() -> bool {
    let mut good = true;
    for mode in [Mode::Gate, Mode::User] {
        let measured = Lab::new("flood").and_then(|lab| Silence::measure(&lab, mode, SILENCE));
        match measured.and_then(|silence| silence.check_times().map(|()| silence)) {
            Ok(silence) => println!("{silence}: pass"),
            Err(error) => {
                println!("{error:#}: FAIL");
                good = false;
            }
        }
    }
    good
}

fn play(attack: &Attack, mode: Mode) -> Result<Row> {
    let lab = Lab::new("flood")?;
    // Namespaces are made here; that belongs where nothing else can be hit.
    if lab.kernel().is_empty() {
        bail!("run this as `cargo xtask flood`, which starts it in a lab");
    }
    let facts = facts(&lab, attack, mode);
    if facts.is_err() {
        lab.show_logs();
    }
    Ok(Row::judge(attack, mode, &facts?))
}

/// Sets the scene, plays the attack, and tells what it came to.
fn facts(lab: &Lab, attack: &Attack, mode: Mode) -> Result<Facts> {
    let ground = Ground::lay(lab)?;
    let flood = if mode == Mode::Off {
        "off"
    } else {
        attack.flood
    };
    let dataplane = if attack.esp { "xfrm" } else { "none" };
    let mut gateway = ground.gateway(lab, mode, flood, dataplane)?;
    let many = if attack.esp { FEW_CLIENTS } else { CLIENTS };
    let client = |number| Legitimate::new(&ground.client, number, GATEWAY);
    let mut clients = (1..=many).map(client).collect::<Result<Vec<_>>>()?;
    let fresh = Counts::settled(lab, &ground, &gateway)?;
    for client in &mut clients {
        client.cycle()?;
    }
    let Attempts { made, ref up, .. } = taken(&mut clients);
    ensure!(
        up.len() == made as usize,
        "{} of {made} attempts came up without any attack",
        up.len()
    );
    let warm = Counts::settled(lab, &ground, &gateway)?;
    let log_each = real(warm.log - fresh.log) / f64::from(made);

    let robbed = || client(ROBBED);
    let has_ticket = attack.loot != Loot::Nothing;
    let mut robbed = has_ticket.then(robbed).transpose()?;
    let first = clients.first_mut().context("a client")?;
    let scene = Scene::set(&ground, &gateway, first, robbed.as_mut())?;
    taken(&mut clients);
    let before = Counts::settled(lab, &ground, &gateway)?;
    let memory = before.memory()?;

    let (stop, mut peaks) = (AtomicBool::new(false), Peaks::default());
    let sent = thread::scope(|scope| {
        let (stop, mut running) = (&stop, Vec::new());
        for (number, client) in clients.iter_mut().enumerate() {
            let offset = PERIOD * number as u32 / u32::from(many);
            running.push(scope.spawn(move || client.run(stop, Cycle::Whole, offset)));
        }
        let victim = robbed.as_mut().filter(|_| attack.loot == Loot::Stolen);
        let victim = victim.map(|robbed| {
            robbed.attempts = Attempts::default();
            scope.spawn(|| {
                thread::sleep(INTO_IT);
                robbed.attempt(true)
            })
        });
        let flood = scope.spawn(|| {
            let start = Instant::now();
            (attack.play)(&scene).map(|sent| (sent, start.elapsed()))
        });
        let mut looked = Ok(());
        while !flood.is_finished() && looked.is_ok() {
            looked = peaks.sample(&ground, &gateway);
            thread::sleep(SAMPLE_EVERY);
        }
        // Whatever went wrong, nobody is left running.
        stop.store(true, Ordering::Relaxed);
        let sent = joined(flood);
        running.into_iter().try_for_each(joined)?;
        victim.map_or(Ok(true), joined)?;
        looked.and(sent)
    })?;
    let after = Counts::settled(lab, &ground, &gateway)?;
    let mut attempts = taken(&mut clients);
    if let Some(robbed) = robbed.filter(|_| attack.loot == Loot::Stolen) {
        attempts.add(robbed.attempts);
    }
    let opened = scene.opened();
    let facts = Facts::since(&before, &after, sent, attempts, peaks, (log_each, memory))?;
    let facts = Facts { opened, ..facts };
    gateway.stop()?;
    Ok(facts)
}

/// What came of the clients' attempts since this was asked last.
fn taken(clients: &mut [Legitimate<'_>]) -> Attempts {
    let mut all = Attempts::default();
    for client in clients {
        all.add(std::mem::take(&mut client.attempts));
    }
    all
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Those that are to be played.
const WANTED: [u8; 22] = [
    1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16, 18, 20, 21, 22, 29, 30, 32, 33,
];
/// Each logs in and resumes once before anything is measured, so that caches and pages are there.
const CLIENTS: u16 = 24;
/// On a slow kernel.
const FEW_CLIENTS: u16 = 3;
/// How long the silent neighbour calls.
const SILENCE: Duration = Duration::from_secs(10);
/// Another client's number.
const ROBBED: u16 = 100;
/// Into the attack before the robbed client calls again.
const INTO_IT: Duration = Duration::from_secs(1);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
