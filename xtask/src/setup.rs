//! `cargo xtask setup`: fetches what the BPF build, the lab and the peers need, after asking.
//!
//! Everything goes into the cache, with or without root; nothing is installed. What is there
//! already is left alone, so that every verb can call this first.

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;

use crate::lab::{Kernel, host_is_whole};
use crate::packages::{
    BPF_LINKER_ONLY, BPF_WITH_COMPILER, Group, LAB, LIBRESWAN, MACHINE, STRONGSWAN,
};
use crate::places::Places;
use crate::shell;
use crate::toolchain::{self, Compiler, Way};

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
    let needs = needs(places, &ALL);
    if arguments.check {
        println!("{}", table(places, &needs));
        return Ok(ExitCode::SUCCESS);
    }
    let missing = ensure(places, &ALL, arguments.yes)?;
    for line in &missing {
        eprintln!("xtask: {line}");
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Beyond compiler and lab: what only the tests need.
pub(crate) const ALL: [&Group; 3] = [&STRONGSWAN, &LIBRESWAN, &MACHINE];
/// What the interop matrix needs.
pub(crate) const PEERS: [&Group; 2] = [&STRONGSWAN, &LIBRESWAN];

/// Fetches what is missing of compiler, lab and these groups, and returns one line for each thing
/// that could not be had.
pub(crate) fn ensure(places: &Places, groups: &[&'static Group], yes: bool) -> Result<Vec<String>> {
    let needs = needs(places, groups);
    let missing_one = needs.iter().any(|need| need.found.is_none());
    let agreed = !missing_one || agreed(places, &needs, yes)?;
    let mut absent = needs;
    absent.retain(|need| need.found.is_none());
    let mut missing = Vec::new();
    if !agreed {
        let line = |need: &Need| format!("{}: not fetched; `cargo xtask setup` does", need.what);
        return Ok(absent.iter().map(line).collect());
    }
    for need in absent {
        let result = match need.source {
            Source::Packages(group) => group.fetch(places).with_context(|| group.by_hand()),
            Source::Linker => Compiler::find(places)
                .and_then(|compiler| toolchain::install_linker(places, &compiler)),
            Source::Host(how) => Err(anyhow!("{how}")),
        };
        if let Err(error) = result {
            missing.push(format!("{}: {error:#}", need.what));
        }
    }
    if let Err(error) = ensure_kernel(places, yes) {
        missing.push(format!("{error:#}"));
    }
    Ok(missing)
}

/// Fetches one group, after asking; for a verb that needs no more.
pub(crate) fn ensure_only(places: &Places, group: &'static Group, yes: bool) -> Result<()> {
    if group.anywhere(places).is_some() {
        return Ok(());
    }
    if !agreed(places, &[packages(places, group)], yes)? {
        bail!("{}: not fetched", group.purpose);
    }
    group.fetch(places).with_context(|| group.by_hand())
}

/// Finds the kernel with ESP, and fetches the virtual machine if no other has it.
pub(crate) fn ensure_kernel(places: &Places, yes: bool) -> Result<Kernel> {
    match Kernel::with_esp(places) {
        Err(error) if MACHINE.found(places).is_none() && cfg!(target_arch = "x86_64") => {
            eprintln!("xtask: {error:#}");
            ensure_only(places, &MACHINE, yes)?;
            Kernel::with_esp(places)
        }
        result => result,
    }
}

fn agreed(places: &Places, needs: &[Need], yes: bool) -> Result<bool> {
    std::fs::create_dir_all(&places.cache)?;
    if yes || shell::in_ci() {
        return Ok(true);
    }
    eprintln!("{}", table(places, needs));
    shell::ask("Fetch what is missing into the cache?")
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

fn needs(places: &Places, groups: &[&'static Group]) -> Vec<Need> {
    let path = |program| shell::which(program).map(|file| file.display().to_string());
    let linker = Compiler::find(places)
        .ok()
        .and_then(|compiler| toolchain::linker(places, &compiler));
    let compiler = match Compiler::way(places) {
        Way::Pinned => packages(places, &BPF_LINKER_ONLY),
        Way::Cached | Way::Packages => packages(places, &BPF_WITH_COMPILER),
        way => Need::new(BPF_WITH_COMPILER.purpose, None, Source::Host(way.advice())),
    };
    let mut needs = vec![
        Need::new("C linker", path("cc"), Source::Host("install gcc")),
        compiler,
        Need::new(
            "bpf-linker",
            linker.map(|file| file.display().to_string()),
            Source::Linker,
        ),
        packages(places, &LAB),
    ];
    // The machine would not run another architecture's programs.
    let machine = cfg!(target_arch = "x86_64") && !host_is_whole();
    let fits = |group: &&&'static Group| machine || group.purpose != MACHINE.purpose;
    needs.extend(
        groups
            .iter()
            .filter(fits)
            .map(|group| packages(places, group)),
    );
    needs
}

impl Need {
    fn new(what: &'static str, found: Option<String>, source: Source) -> Self {
        Self {
            what,
            found,
            source,
        }
    }
}

fn packages(places: &Places, group: &'static Group) -> Need {
    let found = group
        .anywhere(places)
        .map(|folder| folder.display().to_string());
    Need::new(group.purpose, found, Source::Packages(group))
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
