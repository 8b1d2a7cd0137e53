//! `cargo xtask bench`: what the gateway's work costs. Figures are taken side by side in one run, so
//! that their ratios hold on a shared machine too; nothing fails for being slow.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::lab::{Kernel, Lab};
use crate::packages::RIVAL;
use crate::places::{Findings, Places};
use crate::{build, setup, shell};

#[derive(Args)]
pub(crate) struct Arguments {
    /// What to measure.
    subject: Subject,
    /// Print one JSON object on stdout; progress goes to stderr.
    #[arg(long)]
    json: bool,
    /// Fetch what is missing without asking.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// A resumption: processor time of the whole daemon, the arithmetic's floor, a full login beside
    /// it, and the memory that a half-open one holds. Needs root.
    Resume,
    /// What the gate does with a frame, as a multiple of dropping it unseen. Needs root.
    Gate,
    /// What the gate's drop of a forged resumption costs on a wire, beside xdp-filter's drop of a port.
    /// Needs root.
    Live,
    /// How many of the clients that come back are served while forged resumptions arrive as fast as
    /// this machine can make them, with the gate and without. Needs root.
    Storm,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    for line in setup::ensure(places, &[], arguments.yes)? {
        eprintln!("xtask: {line}");
    }
    let mut show = shell::progress(arguments.json);
    let figures = match arguments.subject {
        Subject::Resume => resume(places, &mut show)?,
        Subject::Gate => gate(places, &mut show)?,
        Subject::Live => live(places, arguments.yes, &mut show)?,
        Subject::Storm => storm(places, &mut show)?,
    };
    if arguments.json {
        println!("{{{figures}}}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures resumptions; the result is the `bench` member of a JSON object.
pub(crate) fn resume(places: &Places, show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<String> {
    let octets = half_open_octets(places)?;
    let figures = in_lab(places, ["resume", LOGINS], show)?;
    let line = format!("half_open_octets         {octets:>8}   (at most {HALF_OPEN_LIMIT})\n");
    show(line.as_bytes())?;
    Ok(format!(
        r#""bench":[{figures},{{"name":"half_open_octets","median":{octets},"min":{octets}}}]"#
    ))
}

/// Measures the gate's programs; the result is the `bench` member of a JSON object.
pub(crate) fn gate(places: &Places, show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<String> {
    build::gate_bench(places)?;
    let figures = in_lab(places, ["gate", ROUNDS], show)?;
    Ok(format!(r#""bench":[{figures}]"#))
}

/// Measures what clients get at the highest forged rate; the result is the `bench` member of a JSON
/// object.
pub(crate) fn storm(places: &Places, show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<String> {
    build::gate_bench(places)?;
    let figures = in_lab(places, ["storm", "1"], show)?;
    Ok(format!(r#""bench":[{figures}]"#))
}

/// Measures drops on a wire; the result is the `bench` member of a JSON object.
fn live(places: &Places, yes: bool, show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<String> {
    setup::ensure_only(places, &RIVAL, yes)?;
    build::gate_bench(places)?;
    let tools = RIVAL.found(places).unwrap_or_else(|| PathBuf::from("/"));
    let figures = in_lab(places, ["live", &tools.display().to_string()], show)?;
    Ok(format!(r#""bench":[{figures}]"#))
}

/// Runs a benchmark of the suites' own program; the result is a list in JSON, without its brackets.
fn in_lab(
    places: &Places,
    [subject, size]: [&str; 2],
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<String> {
    let binaries = build::host(places, true)?;
    build::gate(places)?;
    let folder = Findings::create(places, "bench")?;
    let file = folder.file("figures.json");
    let program = binaries.join("bench").display().to_string();
    let found = file.display().to_string();
    let command = [program, subject.into(), size.into(), found];
    let lab = Lab {
        // User-mode Linux accounts in ticks, which are longer than a login.
        kernel: Kernel::Host,
        interactive: false,
        limit: LIMIT,
    };
    let status = lab.run(places, &command, show)?;
    ensure!(status == 0, "the benchmark ended with status {status}");
    let figures = fs::read_to_string(&file).context("the figures")?;
    let figures = figures.trim().trim_start_matches('[').trim_end_matches(']');
    Ok(figures.to_owned())
}

/// What 10,000 half-open resumptions hold, each, by the counting allocator of a test of the core.
fn half_open_octets(places: &Places) -> Result<u64> {
    let mut cargo = Command::new("cargo");
    let words = "test --release --quiet -p ike --test footprint -- --nocapture";
    cargo.args(words.split(' ')).current_dir(&places.root);
    let said = shell::read(&mut cargo)?;
    said.lines()
        .find_map(|line| line.split_once(" octets for each of 10000")?.0.parse().ok())
        .context("the footprint of a half-open resumption")
}

/// Of each kind.
const LOGINS: &str = "5120";
/// Of every way through the gate, in turns.
const ROUNDS: &str = "31";
const HALF_OPEN_LIMIT: u64 = 1024;
const LIMIT: Duration = Duration::from_mins(10);
