//! `cargo xtask flood`: plays the attacks of the threat model against a gateway in namespaces: with the
//! gate, in user space only, and with defences off. Needs root.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::lab::{Kernel, Lab};
use crate::places::{Findings, Places};
use crate::{build, setup, shell};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only say which attacks are played, and which are not yet.
    #[arg(long)]
    list: bool,
    /// Print one JSON object on stdout; the table goes to stderr.
    #[arg(long)]
    json: bool,
    /// Fetch what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Only these, by their numbers in the threat model.
    attacks: Vec<u8>,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    for line in setup::ensure(places, &[], arguments.yes)? {
        eprintln!("xtask: {line}");
    }
    if arguments.list {
        let binaries = build::host(places, true)?;
        shell::run(Command::new(binaries.join("flood")).arg("list"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut show = shell::progress(arguments.json);
    let (figures, good) = matrix(places, &arguments.attacks, &mut show)?;
    if arguments.json {
        println!("{{{figures}}}");
    }
    // Rows with defences off are there for contrast, and fail nothing.
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays attacks, or all; the result is the `flood` member of a JSON object, and whether every row
/// with defences passed.
pub(crate) fn matrix(
    places: &Places,
    attacks: &[u8],
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<(String, bool)> {
    let binaries = build::host(places, true)?;
    build::gate(places)?;
    let program = binaries.join("flood").display().to_string();
    // XDP, and figures that mean something: user-mode Linux has neither, but it has ESP.
    let on_esp = |number: &u8| ON_ESP.contains(number);
    let (mut lists, mut good) = (Vec::new(), true);
    if attacks.is_empty() || !attacks.iter().all(on_esp) {
        let (rows, passed) = rows(places, &program, ("own", Kernel::Host), attacks, show)?;
        lists.push(rows);
        good &= passed;
    }
    if attacks.is_empty() || attacks.iter().any(on_esp) {
        let kernel = Kernel::with_esp(places)?;
        let (rows, passed) = rows(places, &program, ("esp", kernel), attacks, show)?;
        lists.push(rows);
        good &= passed;
    }
    Ok((format!(r#""flood":[{}]"#, lists.join(",")), good))
}

/// Plays those that belong on one kernel; the result is a list in JSON, without its brackets.
fn rows(
    places: &Places,
    program: &str,
    (which, kernel): (&str, Kernel),
    attacks: &[u8],
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<(String, bool)> {
    let folder = Findings::create(places, "flood")?;
    let file = folder.file("flood.json");
    let command: Vec<String> = [program.into(), which.into(), file.display().to_string()]
        .into_iter()
        .chain(attacks.iter().map(u8::to_string))
        .collect();
    let lab = Lab {
        kernel,
        interactive: false,
        limit: LIMIT,
    };
    let status = lab.run(places, &command, show)?;
    ensure!(file.is_file(), "the attacks ended with status {status}");
    let rows = fs::read_to_string(&file).context("the rows")?;
    let rows = rows.trim().trim_start_matches('[').trim_end_matches(']');
    Ok((rows.to_owned(), status == 0))
}

/// Attacks that are played where there is ESP.
const ON_ESP: [u8; 1] = [16];
/// For all attacks in all modes, before everything is killed.
const LIMIT: Duration = Duration::from_mins(15);
