//! The verbs of `cargo xtask`. Each is one file; this one only knows their names.
//!
//! None of our own crates is imported here: a verb runs cargo and tools, so that the set-up works
//! before anything else compiles.

mod bench;
mod build;
mod compliance;
mod demo;
mod deploy;
mod flood;
mod interop;
mod lab;
mod packages;
mod places;
mod results;
mod setup;
mod shell;
mod test;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::places::Places;

/// Rekindle's set-up, builds, lab and tests.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Fetch what the BPF build, the lab and the peers need, into the cache.
    Setup(setup::Arguments),
    /// Measure what the gateway's work costs, as ratios within one run.
    Bench(bench::Arguments),
    /// Build the host binaries, and with --bpf both objects of the gate.
    Build(build::Arguments),
    /// Show which rows of RFC 5723 are built where, and by which test.
    Compliance(compliance::Arguments),
    /// Suspend a tunnel, kill the gateway, flood it with forgeries, and resume.
    Demo(demo::Arguments),
    /// Put Rekindle on a router over ssh, and the former version back if the new one is not well.
    Deploy(deploy::Arguments),
    /// Play the attacks of the threat model: with the gate, in user space only, and with defences off.
    Flood(flood::Arguments),
    /// Play every feature against strongSwan and libreswan, in both roles, and write docs/interop.md.
    Interop(interop::Arguments),
    /// Run a command or a shell in fresh namespaces on a chosen kernel.
    Lab(lab::Arguments),
    /// Lint, unit tests and suites, with a table at the end.
    Test(test::Arguments),
}

fn main() -> ExitCode {
    match run(Verb::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    let places = Places::find()?;
    match verb {
        Verb::Setup(arguments) => setup::run(&places, &arguments),
        Verb::Bench(arguments) => bench::run(&places, &arguments),
        Verb::Build(arguments) => build::run(&places, &arguments),
        Verb::Compliance(arguments) => compliance::run(&places, &arguments),
        Verb::Demo(arguments) => demo::run(&places, &arguments),
        Verb::Deploy(arguments) => deploy::run(&places, &arguments),
        Verb::Flood(arguments) => flood::run(&places, &arguments),
        Verb::Interop(arguments) => interop::run(&places, &arguments),
        Verb::Lab(arguments) => lab::run(&places, &arguments),
        Verb::Test(arguments) => test::run(&places, &arguments),
    }
}
