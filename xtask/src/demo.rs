//! `cargo xtask demo`: sets up, builds, and runs the story of one resumption on a kernel with ESP.
//!
//! The program tells it step by step; its result comes back as a file, because a lab has one output
//! stream only.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::lab::{Kernel, Lab};
use crate::places::Places;
use crate::{build, setup};

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
    for line in setup::ensure(places, arguments.yes)? {
        eprintln!("xtask: {line}");
    }
    let binaries = build::host(places, true)?;
    build::gate(places)?;

    let program = binaries.join("demo");
    ensure!(
        program.is_file(),
        "{} was not built: tests/src/bin/demo.rs",
        program.display()
    );

    let folder = places.root.join("target/lab");
    fs::create_dir_all(&folder)?;
    let result = ResultFile(folder.join(format!("demo-{}.json", std::process::id())));
    let command =
        [program, "--result".into(), result.0.clone()].map(|word| word.display().to_string());
    let lab = Lab {
        kernel: Kernel::with_esp(places)?,
        interactive: false,
        limit: LIMIT,
    };
    let status = lab.run(places, &command, &mut |octets| {
        let written = if arguments.json {
            std::io::stderr().write_all(octets)
        } else {
            std::io::stdout().write_all(octets)
        };
        Ok(written?)
    })?;
    if arguments.json {
        let text = fs::read_to_string(&result.0).context("the demo left no result")?;
        println!("{}", text.trim());
    }
    Ok(ExitCode::from(status))
}

struct ResultFile(PathBuf);

impl Drop for ResultFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const LIMIT: Duration = Duration::from_mins(15);
