//! The interop matrix: every case against every foreign daemon in both roles, over real ESP in the
//! kernel, or the reason why there is no such case.
//!
//! `cargo xtask interop` starts it in a lab. A case counts once per daemon, role and feature; unless it
//! is about a refusal it sees traffic through the tunnel in both directions. Rows go to a file as JSON,
//! because a lab has one output stream only.

mod bout;
mod dialect;
mod foreign;
mod ground;
mod rows;
mod terms;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Serialize;

pub use self::terms::{Foreign, Role};
use self::{bout::Bout, terms::Terms};
use crate::suite::Lab;

/// A line of the table: one feature.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    terms: Terms,
    /// What happens once both daemons run. It ends with nothing left at either end.
    plot: fn(&mut Bout<'_>) -> Result<()>,
    /// Who does not have the feature, and so has no case; the first that fits.
    lacks: &'static [Lack],
}

/// Why there is no case: the daemon and the role it is about, where it is not about all.
struct Lack {
    foreign: Option<Foreign>,
    /// Rekindle's.
    role: Option<Role>,
    why: &'static str,
}

/// A line of the answer.
#[derive(Serialize)]
struct Row {
    peer: &'static str,
    role: &'static str,
    case: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
}

/// Runs the cases that the arguments name, or all, and writes the rows to a file.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("interop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<bool> {
    let [file, filter @ ..] = words else {
        bail!("usage: interop FILE [FILTER...]");
    };
    let mut rows = Vec::new();
    for foreign in Foreign::ALL {
        for case in rows::all() {
            for role in Role::ALL {
                let name = format!("{} {} {}", foreign.word(), role.word(), case.name);
                if filter.iter().all(|part| name.contains(part.as_str())) {
                    rows.push(row(case, foreign, role)?);
                }
            }
        }
    }
    ensure!(!rows.is_empty(), "no case is called like that");
    let count = |result| rows.iter().filter(|row| row.result == result).count();
    let failed = count("fail");
    println!(
        "{} passed, {failed} failed, {} lacking",
        count("pass"),
        count("lacks")
    );
    fs::write(file, serde_json::to_string(&rows)?).with_context(|| file.clone())?;
    Ok(failed == 0)
}

fn row(case: &Case, foreign: Foreign, role: Role) -> Result<Row> {
    let start = Instant::now();
    let (result, why) = match case.lack(foreign, role) {
        Some(why) => ("lacks", why.to_owned()),
        None => match attempt(case, foreign, role)? {
            Ok(()) => ("pass", String::new()),
            Err(error) => ("fail", brief(&format!("{error:#}"))),
        },
    };
    println!(
        "{result:<5} {:5.1} s  {:<10} {:<9} {}{}{why}",
        start.elapsed().as_secs_f32(),
        foreign.word(),
        role.word(),
        case.name,
        if why.is_empty() { "" } else { ": " },
    );
    Ok(Row {
        peer: foreign.word(),
        role: role.word(),
        case: case.name,
        result,
        why,
    })
}

/// What fits into a table. The daemons' logs are shown beside it.
fn brief(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(LONGEST_WHY).collect()
}

/// Plays a case in a lab of its own; the outer error is one of the surroundings.
fn attempt(case: &Case, foreign: Foreign, role: Role) -> Result<Result<()>> {
    // What a daemon that is slow to die leaves behind is not in the next case's way.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let lab = Lab::new(&format!("case-{number}"))?;
    // Namespaces are made here; that belongs where nothing else can be hit.
    if lab.kernel().is_empty() {
        bail!("run this as `cargo xtask interop`, which starts it in a lab");
    }
    let played = catch_unwind(AssertUnwindSafe(|| case.play(&lab, foreign, role)));
    let played = played.unwrap_or_else(|_| Err(anyhow!("the case panicked")));
    if played.is_err() {
        lab.show_logs();
    }
    Ok(played)
}

/// Plays one case for a suite that names it itself.
pub fn play(lab: &Lab, foreign: Foreign, role: Role, name: &str) -> Result<()> {
    let case = rows::all().find(|case| case.name == name);
    case.with_context(|| format!("a case {name:?}"))?
        .play(lab, foreign, role)
}

impl Case {
    fn lack(&self, foreign: Foreign, role: Role) -> Option<&'static str> {
        let fits = |lack: &&Lack| {
            lack.foreign.is_none_or(|one| one == foreign) && lack.role.is_none_or(|one| one == role)
        };
        self.lacks.iter().find(fits).map(|lack| lack.why)
    }

    fn play(&self, lab: &Lab, foreign: Foreign, role: Role) -> Result<()> {
        bout::play(lab, self.terms, foreign, role, self.plot)
    }
}

/// Letters of a reason.
const LONGEST_WHY: usize = 200;
/// For whatever one daemon does after the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// For what must not happen.
const BRIEFLY: Duration = Duration::from_secs(1);
