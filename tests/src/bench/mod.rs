//! Benchmarks of the whole daemon, and of the gate. Each prints what it does, and leaves its figures in a file,
//! because a lab has one output stream only.

mod crowd;
mod floor;
mod gate;
mod live;
pub(crate) mod resume;
mod wire;

use std::{env, fmt, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::{attacks, suite::Lab};

const USAGE: &str = "usage: bench resume LOGINS FILE | bench gate ROUNDS FILE | bench storm RUNS FILE | \
                     bench live TOOLS FILE | bench wire ADDRESS";

/// Runs the benchmark that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["resume", logins, file] => measured(Path::new(file), |lab| {
            resume::measure(lab, logins.parse().context("LOGINS")?)
        }),
        ["gate", rounds, file] => measured(Path::new(file), |lab| {
            gate::measure(lab, rounds.parse().context("ROUNDS")?)
        }),
        ["storm", _, file] => measured(Path::new(file), attacks::measure_peak),
        ["live", tools, file] => {
            measured(Path::new(file), |lab| live::measure(lab, Path::new(tools)))
        }
        ["wire", address] => wire::serve(address),
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Takes figures in a lab, shows them, and writes them to a file.
fn measured<F>(file: &Path, measure: impl FnOnce(&Lab) -> Result<Vec<F>>) -> Result<()>
where
    F: fmt::Display + Serialize,
{
    let lab = Lab::new("bench")?;
    // Namespaces are made here; that belongs where nothing else can be hit.
    if lab.kernel().is_empty() {
        bail!("run this as `cargo xtask bench`, which starts it in a lab");
    }
    let measured = measure(&lab);
    if measured.is_err() {
        lab.show_logs();
    }
    let figures = measured?;
    for figure in &figures {
        println!("{figure}");
    }
    let text = serde_json::to_string(&figures)?;
    fs::write(file, text).with_context(|| file.display().to_string())
}

/// One quantity, over all batches in which it was measured.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    /// Of the batches' means.
    median: f64,
    /// Of the batches' means.
    min: f64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, median, min } = self;
        write!(f, "{name:<24} {median:>8.2}   (least {min:.2})")
    }
}

impl Figure {
    /// In microseconds.
    fn of(name: &'static str, means: &[Duration]) -> Self {
        let mut sorted = means.to_vec();
        sorted.sort_unstable();
        let at = |index: usize| {
            let mean = sorted.get(index).copied().unwrap_or_default();
            // To a hundredth: the rest is noise.
            (mean.as_secs_f64() * 1e8).round() / 100.0
        };
        Self {
            name,
            median: at(sorted.len() / 2),
            min: at(0),
        }
    }
}
