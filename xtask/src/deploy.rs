//! `cargo xtask deploy`: puts Rekindle on a router over ssh. Looks before it touches anything, starts
//! what it has copied, asks it whether it is well, and puts the former version back if it is not.

mod host;
mod preflight;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::places::{Findings, Places};
use crate::{build, shell};
use host::Host;
use preflight::Preflight;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Where to: what ssh takes, such as root@router.example.
    host: String,
    /// Only look and say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Binaries and objects that are built already, all in this folder.
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// The command that connects, split at blanks.
    #[arg(long, default_value = "ssh")]
    ssh: String,
    /// sbin, bin and lib/rekindle lie below this there.
    #[arg(long, default_value = "/usr")]
    prefix: String,
    /// The configuration there, which has to exist.
    #[arg(long, default_value = "/etc/rekindle/rekindle.toml")]
    config: String,
    /// Seconds after which the machine goes back to the former version by itself if nobody could
    /// tell it that the new one is well.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(10..=3600))]
    confirm_within: u32,
    /// The daemon's control socket there.
    #[arg(long, default_value = "/run/rekindle/control.sock")]
    socket: String,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    for path in [&arguments.prefix, &arguments.config, &arguments.socket] {
        ensure!(path.starts_with('/'), "{path}: not an absolute path");
    }
    let host = Host::new(&arguments.ssh, &arguments.host)?;
    let staging = Findings::create(places, "deploy")?;
    let files = collect(places, arguments, &staging)?;

    let said = host.sh(preflight::SCRIPT, &[&arguments.prefix, &arguments.config])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let found = Preflight::read(&said)?;
    let findings = found.judge(env::consts::ARCH, now, needed(&files)?);
    for finding in &findings {
        println!("{finding}");
    }
    let against = findings.iter().filter(|finding| finding.stops()).count();
    if against > 0 {
        bail!("{}: {against} against it; nothing was changed", host.name());
    }
    if arguments.dry_run {
        for file in &files {
            println!("would copy  {}", file.display());
        }
        println!("would start {}/sbin/rekindled", arguments.prefix);
        return Ok(ExitCode::SUCCESS);
    }
    deploy(&host, arguments, &staging.file(""), found.is_installed())
}

fn deploy(host: &Host, arguments: &Arguments, staged: &Path, installed: bool) -> Result<ExitCode> {
    let next = format!("{}/lib/rekindle/next", arguments.prefix);
    shell::step("copying", || host.copy(staged, &next))?;
    // The new program itself says whether it runs there, and whether it takes the configuration.
    let check = [&next, &arguments.config].map(String::as_str);
    host.sh("exec \"$1/rekindled\" --check --config \"$2\"", &check)
        .context(
            "the new version does not take this machine's configuration; nothing was changed",
        )?;

    let name = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let (name, within) = (name.to_string(), arguments.confirm_within.to_string());
    let change = |verb| {
        let (prefix, config) = (&*arguments.prefix, &*arguments.config);
        let words = [verb, prefix, config, &*arguments.socket, &name, &within];
        host.sh(CHANGE, &words).map(drop)
    };
    let outcome = shell::step("starting it", || {
        change("install")?;
        let said = verify(host, arguments)?;
        change("confirm").context("it was not told in time that all is well")?;
        Ok(said)
    });
    let error = match outcome {
        Ok(said) => {
            print!("{said}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => error,
    };
    if let Err(why) = shell::step("putting back what was there", || change("restore")) {
        return Err(error.context(format!(
            "{why:#}\n{}: if it was not reached, it puts back by itself what was there, at the latest \
             {within} s after the start",
            host.name()
        )));
    }
    if !installed {
        return Err(error.context("the new version did not start well; nothing is installed"));
    }
    let said = verify(host, arguments)
        .context("the former version does not start either; it is in place")?;
    print!("{said}");
    Err(error.context("the new version did not start well; the former one runs again"))
}

/// Waits until the daemon says that it is well, or is gone. A warning is good enough, and is shown. That
/// it cannot be asked may pass: some drivers take their link down for a program of XDP.
fn verify(host: &Host, arguments: &Arguments) -> Result<String> {
    let start = Instant::now();
    let paths = [&arguments.prefix, &arguments.socket].map(String::as_str);
    loop {
        let said = host.sh(ASK, &paths);
        let waited = start.elapsed();
        let said = match said {
            Err(error) if waited >= START => return Err(error),
            said => said.unwrap_or_default(),
        };
        let (word, rest) = said.split_once(' ').unwrap_or((said.as_str(), ""));
        match word {
            "well" => return Ok(rest.to_owned()),
            // One that is only just starting has no process yet.
            "gone" if waited >= SETTLE => bail!("it has ended: {}", rest.trim()),
            _ if waited >= START => bail!("not well after {waited:.0?}: {}", rest.trim()),
            _ => thread::sleep(POLL),
        }
    }
}

/// Lays out what is to be copied in one folder, and names it.
fn collect(places: &Places, arguments: &Arguments, staging: &Findings) -> Result<Vec<PathBuf>> {
    let (binaries, objects) = if let Some(folder) = &arguments.from {
        (folder.clone(), folder.clone())
    } else {
        build::gate(places)?;
        (build::host(places, true)?, places.objects())
    };
    let mut files = Vec::new();
    for (folder, name, optional) in [
        (&binaries, "rekindled", false),
        (&binaries, "ikectl", false),
        // Each kind of machine has its own.
        (&objects, "gate-direct.o", true),
        (&objects, "gate-portable.o", false),
    ] {
        let file = folder.join(name);
        if optional && !file.is_file() {
            continue;
        }
        let to = staging.file(name);
        let mut strip = Command::new("strip");
        strip.arg("-o").args([&to, &file]);
        // A router needs no symbols. The gate's objects need theirs.
        if folder != &binaries || shell::read(&mut strip).is_err() {
            fs::copy(&file, &to).with_context(|| file.display().to_string())?;
        }
        files.push(to);
    }
    // With the script the machine goes back on its own.
    for (name, text) in [("change.sh", CHANGE), ("rekindled.service", SERVICE)] {
        let file = staging.file(name);
        fs::write(&file, text)?;
        files.push(file);
    }
    Ok(files)
}

/// Kilobytes that the files take there: the new ones, and the former ones beside them.
fn needed(files: &[PathBuf]) -> Result<u64> {
    let mut octets = 0;
    for file in files {
        octets += fs::metadata(file)?.len();
    }
    Ok(3 * octets / 1024)
}

const CHANGE: &str = include_str!("deploy/change.sh");
const SERVICE: &str = include_str!("deploy/rekindled.service");
const ASK: &str = include_str!("deploy/ask.sh");
/// A daemon that is not well by then is not going to be.
const START: Duration = Duration::from_secs(20);
/// By then it is there.
const SETTLE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(500);
