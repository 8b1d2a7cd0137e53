//! `cargo xtask demo`: sets up, builds, and runs the story of one resumption on a kernel with ESP, and
//! the measurement of what logins cost on this machine's own.
//!
//! What both find comes back in files, because a lab has one output stream only; a last run of the
//! program judges it.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::lab::{Kernel, Lab};
use crate::places::{Findings, Places};
use crate::{build, setup, shell};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print one JSON object on stdout; progress goes to stderr.
    #[arg(long)]
    json: bool,
    /// Fetch what is missing without asking.
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    for line in setup::ensure(places, &[], arguments.yes)? {
        eprintln!("xtask: {line}");
    }
    let binaries = build::host(places, true)?;
    build::gate(places)?;

    let program = binaries.join("demo");
    ensure!(program.is_file(), "{} was not built", program.display());
    let folder = Findings::create(places, "demo")?;
    let (story, cost) = (folder.file("story.json"), folder.file("cost.json"));
    let esp = Kernel::with_esp(places)?;
    let part = |kernel, words: &[&str], file: &Path| -> Result<u8> {
        let words = words.iter().map(|word| (*word).to_owned());
        let command: Vec<String> = [program.display().to_string()]
            .into_iter()
            .chain(words)
            .chain([file.display().to_string()])
            .collect();
        let lab = Lab {
            kernel,
            interactive: false,
            limit: LIMIT,
        };
        lab.run(places, &command, &mut shell::progress(arguments.json))
    };

    // What a part has not shown, the verdict says.
    part(esp, &["story"], &story)?;
    ensure!(story.is_file(), "the story ended without a word");
    let (kernel, whose) = if shell::is_root() {
        (Kernel::Host, "this machine's own kernel")
    } else {
        (esp, "the lab's kernel, for want of root")
    };
    eprintln!("\nxtask: measuring {LOGINS} logins of each kind on {whose} ...");
    part(kernel, &["cost", LOGINS], &cost)?;

    let mut verdict = Command::new(&program);
    verdict.arg("verdict").args([&story, &cost]);
    if arguments.json {
        verdict.arg("--json");
    }
    let status = verdict.status().context("the verdict")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Of each kind; enough for a median.
const LOGINS: &str = "200";
/// For each part, before it is killed.
const LIMIT: Duration = Duration::from_mins(10);
