//! The demo: the story of one resumption on a kernel with ESP, what a login of each kind costs the
//! gateway, and the verdict over both.
//!
//! The parts run as processes of their own, because each wants its own kernel; what they found
//! travels in files.

mod cost;
mod findings;
mod flood;
mod story;
mod teller;
mod verdict;

use std::{env, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use self::findings::{Cost, Story};
use crate::suite::Lab;

const USAGE: &str = "\
usage: demo story FILE              tells the story, and leaves in FILE what it found
       demo cost LOGINS FILE        measures that many logins of each kind
       demo verdict STORY COST [--json]";

/// Runs the part that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let held = match words.as_slice() {
        ["story", file] => story(Path::new(file)),
        ["cost", logins, file] => cost(logins, Path::new(file)),
        ["verdict", story, cost] => verdict::give(Path::new(story), Path::new(cost), false),
        ["verdict", story, cost, "--json"] => {
            verdict::give(Path::new(story), Path::new(cost), true)
        }
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn story(file: &Path) -> Result<bool> {
    let lab = enter("story")?;
    let mut found = Story {
        kernel: lab.kernel(),
        ..Story::default()
    };
    let told = story::tell(&lab, &mut found);
    if let Err(error) = &told {
        println!("\n  the story ends here: {error:#}");
        lab.show_logs();
    }
    found.held = told.is_ok();
    findings::write(file, &found)?;
    Ok(found.held)
}

fn cost(logins: &str, file: &Path) -> Result<bool> {
    let logins: usize = logins.parse().context("LOGINS")?;
    ensure!(
        (1..=MOST_LOGINS).contains(&logins),
        "LOGINS: 1 to {MOST_LOGINS}"
    );
    let lab = enter("cost")?;
    match cost::measure(&lab, logins) {
        Ok(cost) => findings::write::<Cost>(file, &cost)?,
        Err(error) => {
            lab.show_logs();
            return Err(error);
        }
    }
    Ok(true)
}

/// Namespaces are made and processes killed here; that belongs where nothing else can be hit.
fn enter(name: &str) -> Result<Lab> {
    let lab = Lab::new(name)?;
    if lab.kernel().is_empty() {
        bail!("run this as `cargo xtask demo`, which starts it in a lab");
    }
    Ok(lab)
}

const MOST_LOGINS: usize = 2000;
