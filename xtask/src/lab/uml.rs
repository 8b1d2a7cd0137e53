//! User-mode Linux: a whole kernel as an ordinary process, with the host's file system as its root.
//!
//! It needs neither root nor KVM, and starts fastest of the kernels that are not the host's own.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Lab, available_memory, console, contained, preload};
use crate::packages::LAB;
use crate::places::Places;
use crate::shell;

/// The guest's memory, and what must be free so that it does not push others out.
const MEMORY_MEGABYTES: u64 = 1024;
const FREE_MEGABYTES: u64 = 2048;

/// Says why user-mode Linux would not start here, before it fails in its own words.
pub(super) fn preflight(places: &Places) -> Result<()> {
    kernel(places)?;
    for program in ["setpriv", "unshare"] {
        shell::which(program).with_context(|| format!("{program} is missing (util-linux)"))?;
    }
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "3" => bail!("ptrace is switched off (kernel.yama.ptrace_scope = 3)"),
        "2" if !shell::is_root() => bail!("ptrace needs root (kernel.yama.ptrace_scope = 2)"),
        _ => {}
    }
    // It maps its memory from an unlinked file there, executable.
    let temporary = env::var("TMPDIR").unwrap_or_else(|_| "/tmp".to_owned());
    for folder in [temporary.as_str(), "/dev/shm"] {
        let found = statvfs(folder).with_context(|| folder.to_owned())?;
        if found.flags().contains(FsFlags::ST_NOEXEC) {
            bail!("{folder} is mounted noexec; user-mode Linux maps its memory there");
        }
    }
    let shm = statvfs("/dev/shm")?;
    let available = shm.blocks_available() * shm.fragment_size() / 1_048_576;
    let free = available_memory()?.min(available);
    ensure!(
        free >= FREE_MEGABYTES,
        "user-mode Linux needs {FREE_MEGABYTES} MB of memory, {free} MB are free"
    );
    Ok(())
}

/// Boots, runs the command of the init script, and returns its exit status.
pub(super) fn boot(
    places: &Places,
    init: &Path,
    mark: &str,
    lab: &Lab,
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u8> {
    let kernel = kernel(places)?;
    // Without it the guest dies on CPUs with AMX.
    let shim = preload::build(places, "xstate", include_str!("xstate.c"))?;
    // The mount point of the guest's modules, once the packages are laid over /usr.
    if let Some(folder) = LAB.found(places) {
        fs::create_dir_all(folder.join("usr/lib/modules"))?;
    }
    // Its processes are ours, and must not outlive the kernel.
    let mut command = contained("--map-current-user");
    command
        .arg("env")
        .arg(format!("LD_PRELOAD={}", shim.display()))
        .arg(kernel);
    command.args([
        &format!("mem={MEMORY_MEGABYTES}M"),
        "root=/dev/root",
        "rw",
        "quiet",
    ]);
    command.args([
        "rootfstype=hostfs",
        "rootflags=/",
        "con=null",
        "loglevel=1",
        "panic=-1",
    ]);
    command.arg(if lab.interactive {
        "con0=fd:0,fd:1"
    } else {
        "con0=null,fd:1"
    });
    command
        .arg(format!("init={}", init.display()))
        .env("TMPDIR", "/dev/shm");

    // Its control socket would else go to the home folder.
    if let Some(folder) = init.parent() {
        command.arg(format!("uml_dir={}/", folder.display()));
    }

    console::watch(&mut command, mark, "user-mode Linux", lab, show)
}

fn kernel(places: &Places) -> Result<PathBuf> {
    LAB.found(places)
        .map(|folder| folder.join("usr/bin/linux.uml"))
        .filter(|file| file.is_file())
        .or_else(|| shell::which("linux.uml"))
        .context("user-mode Linux is not in the cache: run `cargo xtask setup`")
}
