//! The runner of the suites: named cases, one line each, and a closing line that `cargo xtask test`
//! reads.

use std::error::Error;
use std::fmt;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Instant;
use std::{env, io};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    /// A sentence that is true when the case passes.
    pub name: &'static str,
    /// What it does; an error or a panic is a failure, [`Skip`] is neither.
    pub run: fn(&mut Lab) -> Result<()>,
}

/// The error of a case that cannot run here. Its text says why.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skip {}

/// What surrounds a case: the kernel's name, folders, built binaries.
pub struct Lab {
    work: PathBuf,
}

impl Lab {
    /// A fresh lab for one program that is no suite, such as the demo.
    pub fn new(name: &str) -> Result<Self> {
        // Short: the path of a Unix socket inside has 107 octets at most.
        let short: String = name.chars().take(SHORT_NAME).collect();
        let work = env::temp_dir().join(format!("rekindle-{}-{short}", process::id()));
        fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        Ok(Self { work })
    }

    /// A folder for this case's files. Logs in it (`*.log`) are shown if the case fails.
    #[must_use]
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Which kernel this is: `host`, `uml` or `qemu`.
    #[must_use]
    pub fn kernel(&self) -> String {
        env::var(LAB).unwrap_or_default()
    }

    /// A binary of the workspace, from the folder that this program lies in.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let own = env::current_exe()?;
        let file = own
            .parent()
            .context("a program lies in a folder")?
            .join(name);
        if !file.is_file() {
            return Err(anyhow!("{name} is not built: run `cargo xtask build`"));
        }
        Ok(file)
    }

    /// An object of the gate, `gate-direct.o` or `gate-portable.o`; a skip if it was not built.
    pub fn object(&self, name: &str) -> Result<PathBuf> {
        let file = PathBuf::from(env::var_os(OBJECTS).unwrap_or_default()).join(name);
        if !file.is_file() {
            return Err(Skip(format!("{name} is not built: `cargo xtask build --bpf`")).into());
        }
        Ok(file)
    }

    /// What is mounted in the folder. Nothing in its name is written as an escape there.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = table.lines().filter_map(|line| line.split(' ').nth(1));
        let below = |place: &PathBuf| place.starts_with(&self.work);
        places.map(PathBuf::from).filter(below).collect()
    }

    /// A BPF file system that every namespace of this lab sees.
    #[must_use]
    pub fn bpf(&self) -> &Path {
        Path::new("/run/lab/bpf")
    }

    /// Prints the end of every log in the folder.
    pub fn show_logs(&self) {
        let Ok(entries) = fs::read_dir(&self.work) else {
            return;
        };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if path.extension().is_some_and(|end| end == "log") {
                let octets = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&octets);
                let lines: Vec<_> = text.lines().collect();
                println!(
                    "      {} (end):",
                    path.file_name().unwrap_or_default().display()
                );
                for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                    println!("      | {line}");
                }
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A daemon leaves its BPF file system to the next one, and a folder with a mount in it would stay,
        // with two MiB of used bits: three hundred cases of one lab fill it.
        for mount in self.mounts() {
            let _gone = umount2(&mount, MntFlags::MNT_DETACH);
        }
        if let Err(error) = fs::remove_dir_all(&self.work)
            && self.work.exists()
        {
            println!("      {} stays: {error}", self.work.display());
        }
    }
}

/// Runs the cases whose name contains one of the arguments; `--list` only names them.
#[must_use]
pub fn main(suite: &str, cases: &[Case]) -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for case in cases {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if env::var_os(LAB).is_none() {
        // Namespaces are made and killed here; that belongs where nothing else can be hit.
        eprintln!("run this as `cargo xtask test {suite}`, which starts it in a lab");
        return ExitCode::FAILURE;
    }
    let wanted = |case: &&Case| {
        arguments.is_empty()
            || arguments
                .iter()
                .any(|part| case.name.contains(part.as_str()))
    };
    if !arguments.is_empty() && !cases.iter().any(|case| wanted(&case)) {
        eprintln!("no case of {suite} is called like that: see --list");
        return ExitCode::FAILURE;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in cases.iter().filter(wanted) {
        let start = Instant::now();
        let (verdict, reason) = match attempt(case) {
            Ok(()) => {
                passed += 1;
                ("ok", None)
            }
            Err(error) if error.is::<Skip>() => {
                skipped += 1;
                ("skipped", Some(error))
            }
            Err(error) => {
                failed += 1;
                ("FAILED", Some(error))
            }
        };
        println!(
            "{verdict:<7} {:6.2} s  {}",
            start.elapsed().as_secs_f32(),
            case.name
        );
        if let Some(reason) = reason {
            println!("      {reason:#}");
        }
    }
    match skipped {
        0 => println!("{passed} passed, {failed} failed"),
        _ => println!("{passed} passed, {failed} failed, {skipped} skipped"),
    }
    let _ = io::Write::flush(&mut io::stdout());
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn attempt(case: &Case) -> Result<()> {
    let mut lab = Lab::new(case.name)?;
    let result = panic::catch_unwind(AssertUnwindSafe(|| (case.run)(&mut lab)))
        .unwrap_or_else(|cause| Err(anyhow!("panicked: {}", message(cause.as_ref()))));
    if result.as_ref().is_err_and(|error| !error.is::<Skip>()) {
        lab.show_logs();
    }
    result
}

fn message(cause: &dyn std::any::Any) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Of a case's name, in its folder's.
const SHORT_NAME: usize = 12;
/// Set by the lab to its kernel's name.
const LAB: &str = "REKINDLE_LAB";
/// Set by xtask to the folder of the gate's objects.
const OBJECTS: &str = "REKINDLE_OBJECTS";
/// Of each log, after a failure.
const SHOWN_LINES: usize = 30;
