//! `cargo xtask test`: lints, unit tests and the suites, each where it can run, and a table at the end.

mod imports;
mod report;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;

use crate::lab::{Kernel, Lab, NotStarted};
use crate::places::Places;
use crate::{bench, build, compliance, flood, interop, results, setup, shell};
use report::{Reader, Row};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run the long variants too.
    #[arg(long)]
    full: bool,
    /// Fetch what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Only these: lint, unit, gate, namespaces, machine, esp, interop.
    #[arg(value_parser = NAMES)]
    suites: Vec<String>,
}

impl Arguments {
    fn want(&self, name: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|suite| suite == name)
    }
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    for line in setup::ensure(places, &setup::ALL, arguments.yes)? {
        eprintln!("xtask: {line}");
    }
    env::set_current_dir(&places.root)?;
    let mut rows = Vec::new();
    if arguments.want("lint") {
        rows.push(lint(places));
    }
    if arguments.want("unit") {
        rows.extend(unit(places, arguments.full));
    }
    rows.extend(suites(places, arguments));
    if arguments.full && arguments.suites.is_empty() {
        rows.push(results(places, &rows));
    }

    let allowed = fs::read_to_string(places.root.join(".ci/may-not-run")).unwrap_or_default();
    let good = report::print(&rows, &allowed, shell::in_ci());
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Keeps what a long run has found, what a resumption and the gate cost, what floods do and what is served
/// under the greatest, and what other daemons and Rekindle make of each other. Of the matrices each counts as one case, whose file says which
/// row has failed.
fn results(places: &Places, rows: &[Row]) -> Row {
    if !shell::is_root() {
        let why = anyhow!("the benchmark needs root, and without it the results are not whole");
        return Row::not_run("results", &why);
    }
    let start = Instant::now();
    let measure = || -> Result<[bool; 2]> {
        let mut show = shell::progress(false);
        let resume = bench::resume(places, &mut show)?;
        let gate = bench::gate(places, &mut show)?;
        let storm = bench::storm(places, &mut show)?;
        let (matrix, floods_good) = flood::matrix(places, &[], &mut show)?;
        let (peers, peers_good) = interop::matrix(places, &[], &mut show)?;
        interop::keep(places, &peers)?;
        for (name, members) in [
            ("tests", report::json(rows)),
            ("bench-resume", resume),
            ("bench-gate", gate),
            ("bench-storm", storm),
            ("flood", matrix),
        ] {
            let file = results::write(places, name, &members)?;
            println!("results | {}", file.display());
        }
        Ok([floods_good, peers_good])
    };
    match measure() {
        Ok(matrices) => {
            let mut row = Row::new("results");
            let good = matrices.iter().filter(|good| **good).count();
            row.passed = 1 + good as u32;
            row.failed = (matrices.len() - good) as u32;
            row.seconds = start.elapsed().as_secs_f32();
            row
        }
        Err(error) => Row::failed("results", &error),
    }
}

fn lint(places: &Places) -> Row {
    let start = Instant::now();
    let mut row = Row::new("lint");
    let checks = [
        ("rustfmt", format(places)),
        ("clippy", clippy()),
        ("imports", imports::check(places)),
    ];
    for (name, result) in checks {
        match result {
            Ok(()) => row.passed += 1,
            Err(error) => {
                println!("lint | {name}: {error:#}");
                row.failed += 1;
            }
        }
    }
    row.seconds = start.elapsed().as_secs_f32();
    row
}

fn format(places: &Places) -> Result<()> {
    shell::run(Command::new("cargo").args(["fmt", "--all", "--check"]))?;
    let gate = places.root.join("ebpf");
    shell::run(
        Command::new("cargo")
            .args(["fmt", "--check"])
            .current_dir(gate),
    )
}

fn clippy() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    shell::run(&mut cargo)
}

/// The unit tests, and whether every row of RFC 5723 has its own among them.
fn unit(places: &Places, full: bool) -> [Row; 2] {
    let start = Instant::now();
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    if full {
        cargo.env(FULL, "1");
    }
    let mut reader = Reader::new("unit");
    let mut said = Vec::new();
    let status = shell::stream(&mut cargo, false, LIMIT, &mut |octets| {
        said.extend_from_slice(octets);
        reader.read(octets)
    });
    let unit = reader.finish(status.map(|status| status == 0), start.elapsed());
    let rows = match compliance::check(places, &said) {
        Ok(()) => {
            let mut row = Row::new("compliance");
            row.passed = 1;
            row
        }
        Err(error) => Row::failed("compliance", &error),
    };
    [unit, rows]
}

/// Where a suite belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// This machine's kernel if we are root, else the kernel with ESP.
    Own,
    /// The kernel with ESP.
    Esp,
    /// A kernel that lacks nothing, which is slow where it is the virtual machine's.
    Whole,
}

struct Suite {
    name: &'static str,
    place: Place,
    /// Nothing in it can run without the gate's objects.
    gate: bool,
}

const SUITES: [Suite; 5] = [
    Suite {
        name: "gate",
        place: Place::Own,
        gate: true,
    },
    Suite {
        name: "namespaces",
        place: Place::Own,
        gate: false,
    },
    Suite {
        name: "machine",
        place: Place::Whole,
        gate: false,
    },
    Suite {
        name: "esp",
        place: Place::Esp,
        gate: false,
    },
    Suite {
        name: "interop",
        place: Place::Esp,
        gate: false,
    },
];

/// Those of our own kernel, then those of the virtual machine's, beside those of the lab's, which has one
/// processor anyway.
fn suites(places: &Places, arguments: &Arguments) -> Vec<Row> {
    let wanted: Vec<&Suite> = SUITES
        .iter()
        .filter(|suite| arguments.want(suite.name))
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    if let Err(error) = build::host(places, false) {
        return wanted
            .iter()
            .map(|suite| Row::failed(suite.name, &error))
            .collect();
    }
    // Cases that need an object skip themselves; only the gate's own suite is nothing without.
    let missing = build::tools(places).err();
    let broken = if missing.is_none() {
        build::gate(places).err()
    } else {
        None
    };
    let run_all = |in_lab| {
        let mut rows = Vec::new();
        let belongs = |suite: &&&Suite| (suite.place == Place::Esp) == in_lab;
        for suite in wanted.iter().filter(belongs) {
            let row = match (&missing, &broken) {
                (Some(error), _) if suite.gate => Row::not_run(suite.name, error),
                (_, Some(error)) if suite.gate => Row::failed(suite.name, error),
                _ => suite.run(places, arguments.full),
            };
            rows.push(row);
        }
        rows
    };
    thread::scope(|scope| {
        let lab = scope.spawn(|| run_all(true));
        let mut rows = run_all(false);
        match lab.join() {
            Ok(more) => rows.extend(more),
            Err(cause) => std::panic::resume_unwind(cause),
        }
        rows
    })
}

impl Suite {
    fn run(&self, places: &Places, full: bool) -> Row {
        let kernel = match self.place {
            Place::Own if shell::is_root() => Ok(Kernel::Host),
            Place::Own | Place::Esp => Kernel::with_esp(places),
            Place::Whole => Kernel::whole(places),
        };
        let kernel = match kernel {
            Ok(kernel) => kernel,
            Err(error) => return Row::not_run(self.name, &error),
        };
        let start = Instant::now();
        let mut reader = Reader::new(self.name);
        match self.start(places, kernel, full, &mut reader) {
            Err(error) if error.is::<NotStarted>() => Row::not_run(self.name, &error),
            result => reader.finish(result, start.elapsed()),
        }
    }

    fn start(
        &self,
        places: &Places,
        kernel: Kernel,
        full: bool,
        reader: &mut Reader,
    ) -> Result<bool> {
        let binary = places
            .target
            .join("debug")
            .join(format!("suite-{}", self.name));
        ensure!(binary.is_file(), "{} was not built", binary.display());
        let mut command = Vec::new();
        if full {
            command.extend(["env".to_owned(), format!("{FULL}=1")]);
        }
        command.push(binary.display().to_string());
        let lab = Lab {
            kernel,
            interactive: false,
            limit: LIMIT,
        };
        let status = lab.run(places, &command, &mut |octets| reader.read(octets))?;
        Ok(status == 0)
    }
}

/// What a suite may take before it is killed and counted as failed.
const LIMIT: Duration = Duration::from_mins(20);
/// Tells tests to run their long variants.
const FULL: &str = "REKINDLE_FULL";
const NAMES: [&str; 7] = [
    "lint",
    "unit",
    "gate",
    "namespaces",
    "machine",
    "esp",
    "interop",
];

/// Reads one line per item from a tool's answer, for the checks below this module.
fn lines(command: &mut Command, root: &Path) -> Result<Vec<String>> {
    let text = shell::read(command.current_dir(root)).context("cargo tree")?;
    if text.trim().is_empty() {
        bail!("cargo tree said nothing");
    }
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}
