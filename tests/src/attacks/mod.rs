//! The attack matrix: each attack of the threat model against a gateway of its own, with the gate, with
//! the daemon's own defences, and without; and a client that goes about its business meanwhile.
//!
//! An attack is a function that sends, a metric and its limit. What is done to the daemon is bounded in
//! packets and in time, and all of it happens in namespaces that end with the program. Rows go to a
//! file as JSON, because a lab has one output stream only.

mod client;
mod first;
mod measure;
mod parsing;
mod recorded;
mod scene;
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
    client::{Attempts, Legitimate},
    measure::{Counts, Facts, Peaks},
    scene::{GATEWAY, Ground, Scene},
    verdict::{HEADER, Metric, Mode, Row, real},
};
use crate::suite::Lab;

const USAGE: &str = "usage: flood list | flood FILE [ATTACK...]";

/// An attack that is played.
struct Attack {
    /// Its row in the threat model.
    number: u8,
    what: &'static str,
    metric: Metric,
    /// Whether the attacker has seen a ticket that is still good.
    robs: bool,
    /// Sends it all, and returns how many frames that was.
    play: fn(&Scene<'_>) -> Result<u64>,
}

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
        [file, attacks @ ..] => matrix(file, attacks),
        [] => Err(anyhow!("{USAGE}")),
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

/// Plays attacks in every mode; whether all rows are as they should be.
fn matrix(file: &str, wanted: &[&str]) -> Result<bool> {
    let wanted: Vec<u8> = wanted
        .iter()
        .map(|word| word.parse().with_context(|| format!("attack {word:?}")))
        .collect::<Result<_>>()?;
    let all = attacks();
    for number in &wanted {
        let known = all.iter().any(|attack| attack.number == *number);
        ensure!(known, "attack {number} is not played: see --list");
    }
    let chosen = |attack: &&Attack| wanted.is_empty() || wanted.contains(&attack.number);
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
    fs::write(file, serde_json::to_string(&rows)?).with_context(|| file.to_owned())?;
    Ok(good)
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
    let mut gateway = ground.gateway(lab, mode)?;
    let mut client = Legitimate::new(&ground.client, CLIENT, GATEWAY)?;
    let fresh = Counts::settled(lab, &ground, &gateway)?;
    for _ in 0..WARM_UP {
        client.cycle()?;
    }
    let Attempts { made, ref up, .. } = client.attempts;
    ensure!(
        up.len() == made as usize,
        "{} of {made} attempts came up without any attack",
        up.len()
    );
    let warm = Counts::settled(lab, &ground, &gateway)?;
    let log_each = real(warm.log - fresh.log) / f64::from(made);

    let robbed = || Legitimate::new(&ground.client, ROBBED, GATEWAY);
    let mut robbed = attack.robs.then(robbed).transpose()?;
    let scene = Scene::set(&ground, &gateway, &mut client, robbed.as_mut())?;
    client.attempts = Attempts::default();
    let before = Counts::settled(lab, &ground, &gateway)?;
    let memory = before.memory()?;

    let (stop, mut peaks) = (AtomicBool::new(false), Peaks::default());
    let sent = thread::scope(|scope| {
        let clients = scope.spawn(|| client.run(&stop));
        let victim = robbed.as_mut().map(|robbed| {
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
        joined(clients)?;
        victim.map_or(Ok(true), joined)?;
        looked.and(sent)
    })?;
    let after = Counts::settled(lab, &ground, &gateway)?;
    let mut attempts = client.attempts.clone();
    if let Some(robbed) = robbed {
        attempts.add(robbed.attempts);
    }
    let facts = Facts::since(&before, &after, sent, attempts, peaks, (log_each, memory))?;
    gateway.stop()?;
    Ok(facts)
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Those that are to be played.
const WANTED: [u8; 22] = [
    1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16, 18, 20, 21, 22, 29, 30, 32, 33,
];
const CLIENT: u16 = 1;
const ROBBED: u16 = 2;
/// Logins and resumptions before anything is measured, so that caches and pages are there.
const WARM_UP: u32 = 5;
/// Into the attack before the robbed client calls again.
const INTO_IT: Duration = Duration::from_secs(1);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
