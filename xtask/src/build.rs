//! `cargo xtask build`: the host binaries, and the two objects of the gate from one source.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::places::{self, Places};
use crate::shell;
use crate::toolchain::{self, Compiler};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Build the host binaries with optimisation.
    #[arg(long)]
    release: bool,
    /// Build gate-direct.o and gate-portable.o too, into target/bpf.
    #[arg(long)]
    bpf: bool,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.bpf {
        for object in gate(places)? {
            println!("{}", object.display());
        }
    }
    host(places, arguments.release)?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the workspace's binaries and returns the folder that holds them.
pub(crate) fn host(places: &Places, release: bool) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--workspace", "--bins"])
        .current_dir(&places.root);
    if release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    Ok(places
        .target
        .join(if release { "release" } else { "debug" }))
}

/// The same programs for two kinds of kernels.
struct Flavour {
    object: &'static str,
    /// The crate reads the packet directly, and LLVM may emit unaligned loads.
    direct: bool,
    /// With the programs of the benchmark.
    bench: bool,
}

const FLAVOURS: [Flavour; 2] = [
    Flavour {
        object: "gate-direct.o",
        direct: true,
        bench: false,
    },
    Flavour {
        object: "gate-portable.o",
        direct: false,
        bench: false,
    },
];

const BENCH_FLAVOURS: [Flavour; 2] = [
    Flavour {
        object: "gate-direct-bench.o",
        bench: true,
        ..FLAVOURS[0]
    },
    Flavour {
        object: "gate-portable-bench.o",
        bench: true,
        ..FLAVOURS[1]
    },
];

/// Whether the gate could be built; the error says what is missing.
pub(crate) fn tools(places: &Places) -> Result<(Compiler, PathBuf)> {
    let compiler = Compiler::find(places)?;
    let linker = toolchain::linker(places, &compiler)
        .context("no bpf-linker for this compiler: run `cargo xtask setup`")?;
    Ok((compiler, linker))
}

/// Builds the gate and returns its objects.
pub(crate) fn gate(places: &Places) -> Result<Vec<PathBuf>> {
    let (compiler, linker) = tools(places)?;
    fs::create_dir_all(places.objects())?;
    // Only this machine is known to take unaligned packet loads; others use the portable object.
    let fitting = |flavour: &&Flavour| !flavour.direct || cfg!(target_arch = "x86_64");
    let build = |flavour: &Flavour| object(places, &compiler, &linker, flavour);
    FLAVOURS.iter().filter(fitting).map(build).collect()
}

/// Builds the objects with the programs of the benchmark.
pub(crate) fn gate_bench(places: &Places) -> Result<()> {
    let (compiler, linker) = tools(places)?;
    fs::create_dir_all(places.objects())?;
    for flavour in &BENCH_FLAVOURS {
        object(places, &compiler, &linker, flavour)?;
    }
    Ok(())
}

fn object(
    places: &Places,
    compiler: &Compiler,
    linker: &std::path::Path,
    flavour: &Flavour,
) -> Result<PathBuf> {
    let source = places.root.join("ebpf");
    let lock = fs::read_to_string(source.join("Cargo.lock")).context("ebpf/Cargo.lock")?;
    let root = places.root.to_string_lossy();
    let key = places::key([compiler.version.as_str(), &lock, &root]);
    // One tree for each clone, or cargo might take the object of another one's sources for fresh; and
    // for each set of flags, or `core` would be compiled again at every change of flavour.
    let tree = places
        .cache
        .join(format!("build-bpf-{key}"))
        .join(flavour.object);

    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ];
    let mut cargo = compiler.cargo();
    cargo.args(["build", "--release", "--locked", "-Z", "build-std=core"]);
    cargo
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(&tree)
        .current_dir(&source);
    if flavour.direct {
        flags.push("-Ctarget-feature=+allows-misaligned-mem-access".to_owned());
        cargo.args(["--features", "direct"]);
    }
    if flavour.bench {
        cargo.args(["--features", "bench"]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    shell::step(&format!("building {}", flavour.object), || {
        shell::run(&mut cargo)
    })?;

    let built = tree.join(TARGET).join("release/gate");
    let object = places.objects().join(flavour.object);
    fs::copy(&built, &object).with_context(|| built.display().to_string())?;
    Ok(object)
}

const TARGET: &str = "bpfel-unknown-none";
