//! `rekindled`: the keeper, and behind a hidden argument the engine that the keeper starts.

use std::{
    env,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use rekindled::{
    config::{Config, DataplaneChoice, GateMode, OwnCertificates},
    gate::{GateOptions, Mode},
    keeper::{self, DataplaneKind, EngineStart, KeeperOptions},
    log::Log,
    tickets::RingOptions,
    udp::{Listen, Service},
};

/// A login makes and frees some sixty small buffers and a few of one or two KiB, for which this
/// allocator takes a third of the time that the C library's takes (decision 0003).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: rekindled [--check] [--config FILE] | --version";
const DEFAULT_CONFIG: &str = "/etc/rekindle/rekindle.toml";
/// Where packages put the gate's objects.
const OBJECTS: &str = "/usr/lib/rekindle";

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let is_engine = arguments.first().is_some_and(|first| first == "engine");
    if is_engine {
        arguments.remove(0);
    }
    let is_check = arguments.first().is_some_and(|first| first == "--check");
    if is_check {
        arguments.remove(0);
    }
    let file = match arguments.as_slice() {
        [] => PathBuf::from(DEFAULT_CONFIG),
        [flag, file] if flag == "--config" => file.into(),
        [flag] if flag == "--version" || flag == "-V" => {
            println!("rekindled {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        [flag] if flag == "--help" || flag == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = if is_check {
        check(&file)
    } else if is_engine {
        engine(&file)
    } else {
        keeper(&file)
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rekindled: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what it came from, each said once.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Reads the configuration with all that it names, and starts nothing.
fn check(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH)?;
    for flaw in OwnCertificates::of(&config.connections).flaws(wall.as_secs()) {
        eprintln!("rekindled: {flaw}");
    }
    println!(
        "{}: good, {} connections",
        file.display(),
        config.connections.len()
    );
    Ok(())
}

fn keeper(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    Log::start(config.log)?;
    let program = env::current_exe().context("the path of this program")?;
    let engine = vec![
        program.into(),
        "engine".into(),
        "--config".into(),
        file.into(),
    ];
    Ok(keeper::run(options(&config, engine))?)
}

fn engine(file: &Path) -> Result<()> {
    let config = Config::load(file)?;
    let log = Log::start(config.log)?;
    let folders = [&*config.daemon.state_dir, &*config.daemon.run_dir];
    let start = EngineStart::from_keeper(&folders)?;
    Ok(rekindled::engine::run(start, config, file, log)?)
}

fn options(config: &Config, engine: Vec<OsString>) -> KeeperOptions {
    let daemon = &config.daemon;
    let listen = daemon.listen.iter().flat_map(|address| {
        [
            (daemon.ike_port, Service::Ike),
            (daemon.natt_port, Service::Natt),
        ]
        .map(|(port, service)| Listen {
            address: SocketAddr::new(*address, port),
            service,
        })
    });
    let mode = match config.gate.mode {
        GateMode::Auto => Mode::Auto,
        GateMode::Native => Mode::Native,
        GateMode::Generic => Mode::Generic,
        GateMode::Off => Mode::Off,
    };
    let gate = GateOptions {
        object_dir: config
            .gate
            .objects_dir
            .clone()
            .unwrap_or_else(|| OBJECTS.into()),
        pin_dir: daemon.run_dir.join("bpf"),
        interfaces: config.gate.interfaces.clone(),
        mode,
        masquerade: config.gate.masquerade,
        denied: config.gate.denied.clone(),
    };
    KeeperOptions {
        state_dir: daemon.state_dir.clone(),
        run_dir: daemon.run_dir.clone(),
        listen: listen.collect(),
        workers: daemon.workers,
        gate: Some(gate),
        steer_cpus: config.gate.steer_cpus.clone(),
        flood: config.flood.mode,
        engine,
        vip_interface: daemon.vip_interface.clone(),
        xfrm_interfaces: config.interfaces.clone(),
        dataplane: match daemon.dataplane {
            DataplaneChoice::Xfrm => DataplaneKind::Xfrm,
            DataplaneChoice::None => DataplaneKind::None,
        },
        node: Some(daemon.node),
        ring: RingOptions {
            ticket_seconds: config.longest_ticket().as_secs(),
            strict_after_power_loss: config.resume.strict_after_power_loss,
        },
    }
}
