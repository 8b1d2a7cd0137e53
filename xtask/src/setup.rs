//! `cargo xtask setup`: fetches what the BPF build, the lab and the peers need, after asking.
//!
//! Everything goes into the cache, with or without root; nothing is installed. What is there
//! already is left alone, so that every verb can call this first.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::packages::{Group, LAB, PEERS};
use crate::places::Places;
use crate::shell;
use crate::toolchain::{self, Compiler};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only print what is needed, found and would be fetched.
    #[arg(long)]
    check: bool,
    /// Do not ask before fetching.
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    let needs = needs(places);
    if arguments.check {
        println!("{}", table(places, &needs));
        return Ok(ExitCode::SUCCESS);
    }
    let missing = ensure(places, arguments.yes)?;
    for line in &missing {
        eprintln!("xtask: {line}");
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Fetches what is missing and returns one line for each thing that could not be had.
pub(crate) fn ensure(places: &Places, yes: bool) -> Result<Vec<String>> {
    let absent: Vec<Need> = needs(places)
        .into_iter()
        .filter(|need| need.found.is_none())
        .collect();
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    if !yes && !shell::in_ci() {
        eprintln!("{}", table(places, &needs(places)));
        if !shell::ask("Fetch what is missing into the cache?")? {
            bail!("nothing was fetched; `cargo test` works without it");
        }
    }
    std::fs::create_dir_all(&places.cache)?;
    let mut missing = Vec::new();
    for need in absent {
        let result = match need.source {
            Source::Packages(group) => group.fetch(places).with_context(|| group.by_hand()),
            Source::Linker => Compiler::find(places)
                .and_then(|compiler| toolchain::install_linker(places, &compiler)),
            Source::Host(how) => Err(anyhow::anyhow!("{how}")),
        };
        if let Err(error) = result {
            missing.push(format!("{}: {error:#}", need.what));
        }
    }
    Ok(missing)
}

/// Fetches one group, after asking; for a verb that needs no more.
pub(crate) fn ensure_only(places: &Places, group: &'static Group, yes: bool) -> Result<()> {
    if group.anywhere(places).is_some() {
        return Ok(());
    }
    ask_once(places, &[packages(places, group)], yes)?;
    group.fetch(places).with_context(|| group.by_hand())
}

fn ask_once(places: &Places, needs: &[Need], yes: bool) -> Result<()> {
    if yes || shell::in_ci() {
        return Ok(());
    }
    eprintln!("{}", table(places, needs));
    if !shell::ask("Fetch what is missing into the cache?")? {
        bail!("nothing was fetched; `cargo test` works without it");
    }
    Ok(())
}

/// One row of the table.
struct Need {
    what: &'static str,
    found: Option<String>,
    source: Source,
}

enum Source {
    Packages(&'static Group),
    /// Built from crates.io with cargo.
    Linker,
    /// Not ours to fetch; the text says how to get it.
    Host(&'static str),
}

fn needs(places: &Places) -> Vec<Need> {
    let path = |program| shell::which(program).map(|file| file.display().to_string());
    let compiler = Compiler::find(places).ok();
    let linker = compiler
        .as_ref()
        .and_then(|compiler| toolchain::linker(places, compiler));
    vec![
        Need {
            what: "C linker",
            found: path("cc"),
            source: Source::Host("install gcc"),
        },
        packages(places, Compiler::packages(places)),
        Need {
            what: "bpf-linker",
            found: linker.map(|file| file.display().to_string()),
            source: Source::Linker,
        },
        packages(places, &LAB),
        packages(places, &PEERS),
    ]
}

fn packages(places: &Places, group: &'static Group) -> Need {
    let found = group
        .anywhere(places)
        .map(|folder| folder.display().to_string());
    Need {
        what: group.purpose,
        found,
        source: Source::Packages(group),
    }
}

fn table(places: &Places, needs: &[Need]) -> String {
    let mut text = row([
        "need",
        "found",
        "would be fetched",
        "MB",
        "MB unpacked",
        "root",
    ]);
    let cache = format!("{}/", places.cache.display());
    let (mut download, mut unpacked) = (0, 0);
    for need in needs {
        let (fetch, size, disk) = match (&need.found, &need.source) {
            (Some(_), _) => ("-".to_owned(), None, 0),
            (None, Source::Packages(group)) => match group.download_size(places) {
                Ok(size) => ("packages, with apt".to_owned(), Some(size), group.unpacked),
                Err(error) => (format!("not available: {error:#}"), None, 0),
            },
            (None, Source::Linker) => ("crates, with cargo".to_owned(), Some(20_000_000), 40),
            (None, Source::Host(how)) => ((*how).to_owned(), None, 0),
        };
        download += size.unwrap_or(0);
        unpacked += disk;
        let megabytes = size.map_or("-".to_owned(), |size| (size / 1_000_000).to_string());
        let found = need.found.as_deref().unwrap_or("no");
        let found = found.strip_prefix(&cache).unwrap_or(found);
        text += &row([
            need.what,
            found,
            &fetch,
            &megabytes,
            &disk.to_string(),
            "no",
        ]);
    }
    let total = (download / 1_000_000).to_string();
    text += &row(["all", "", "", &total, &unpacked.to_string(), "no"]);
    text + &format!("cache: {}", places.cache.display())
}

fn row(cells: [&str; 6]) -> String {
    let [need, found, fetch, size, disk, root] = cells;
    format!("{need:<36} {found:<42} {fetch:<20} {size:>5} {disk:>11}  {root}\n")
}
