//! User-mode Linux: a whole kernel as an ordinary process, with the host's file system as its root.
//!
//! Its exit status does not travel, so the init script prints marker lines; they are read here and
//! never shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::{env, fmt};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Lab, killed_with_us};
use crate::packages::LAB;
use crate::places::{self, Places};
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
    if free < FREE_MEGABYTES {
        bail!("user-mode Linux needs {FREE_MEGABYTES} MB of memory, {free} MB are free");
    }
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
    let shim = shim(places)?;
    // The mount point of the guest's modules, once the packages are laid over /usr.
    if let Some(folder) = LAB.found(places) {
        fs::create_dir_all(folder.join("usr/lib/modules"))?;
    }
    // A PID namespace, because the guest's processes are ours, and must not outlive the kernel.
    let namespaces: &[&str] = if shell::is_root() {
        &["--pid", "--fork", "--kill-child"]
    } else {
        &[
            "--user",
            "--map-current-user",
            "--pid",
            "--fork",
            "--kill-child",
        ]
    };
    let mut command = if shell::read(Command::new("unshare").args(namespaces).arg("true")).is_ok() {
        let mut command = killed_with_us("unshare");
        command.args(namespaces).arg("env");
        command
    } else {
        killed_with_us("env")
    };
    command
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

    let mut filter = Filter::new(mark);
    let ended = shell::stream_until(&mut command, lab.interactive, lab.limit, &mut |octets| {
        filter.pass(octets, show)?;
        Ok(filter.status.is_some())
    });
    if filter.begun {
        ended?;
    } else {
        ended.with_context(|| format!("user-mode Linux did not start: {filter}"))?;
    }
    match filter.status {
        Some(status) => Ok(status),
        None => bail!("user-mode Linux ended before the command did:\n{filter}"),
    }
}

fn kernel(places: &Places) -> Result<PathBuf> {
    LAB.found(places)
        .map(|folder| folder.join("usr/bin/linux.uml"))
        .filter(|file| file.is_file())
        .or_else(|| shell::which("linux.uml"))
        .context("user-mode Linux is not in the cache: run `cargo xtask setup`")
}

/// Without it the guest dies on CPUs with AMX; see `xstate.c`.
fn shim(places: &Places) -> Result<PathBuf> {
    let source = include_str!("xstate.c");
    let shim = places
        .cache
        .join(format!("xstate-{}.so", places::key([source])));
    if !shim.is_file() {
        let partial = places.cache.join(format!("xstate-{}.c", process::id()));
        fs::write(&partial, source)?;
        let built = partial.with_extension("partial");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(&built)
            .arg(&partial);
        shell::run(&mut cc)?;
        fs::remove_file(&partial)?;
        fs::rename(&built, &shim)?;
    }
    Ok(shim)
}

fn available_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes
        .context("/proc/meminfo has no MemAvailable")?
        .parse::<u64>()?
        / 1024)
}

/// Passes what lies between the two marker lines.
struct Filter {
    begin: Vec<u8>,
    end: Vec<u8>,
    /// Boot messages before the first marker; later, octets that may be the start of the second.
    held: Vec<u8>,
    begun: bool,
    status: Option<u8>,
}

impl Filter {
    fn new(mark: &str) -> Self {
        let (begin, end) = (format!("{mark} begin\n"), format!("{mark} exit "));
        let (begin, end) = (begin.into_bytes(), end.into_bytes());
        Self {
            begin,
            end,
            held: Vec::new(),
            begun: false,
            status: None,
        }
    }

    fn pass(&mut self, octets: &[u8], show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.held
            .extend(octets.iter().filter(|octet| self.begun || **octet != b'\r'));
        if !self.begun {
            let Some(at) = find(&self.held, &self.begin) else {
                return Ok(());
            };
            self.held.drain(..at + self.begin.len());
            self.begun = true;
        }
        let Some(at) = find(&self.held, &self.end) else {
            let kept = (0..self.end.len())
                .rev()
                .find(|n| self.held.ends_with(&self.end[..*n]));
            let shown = self.held.len() - kept.unwrap_or(0);
            show(&self.held[..shown])?;
            self.held.drain(..shown);
            return Ok(());
        };
        show(&self.held[..at])?;
        self.held.drain(..at);
        let line = &self.held[self.end.len()..];
        if let Some(length) = line.iter().position(|octet| *octet == b'\n') {
            let digits = String::from_utf8_lossy(&line[..length]);
            self.status = Some(digits.trim().parse().context("the lab's exit status")?);
        }
        Ok(())
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.held).trim())
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(pieces: &[&str]) -> (String, Option<u8>) {
        let mut filter = Filter::new("@lab");
        let mut shown = Vec::new();
        for piece in pieces {
            let mut show = |octets: &[u8]| {
                shown.extend_from_slice(octets);
                Ok(())
            };
            filter
                .pass(piece.as_bytes(), &mut show)
                .expect("well-formed status");
        }
        (
            String::from_utf8(shown).expect("text in, text out"),
            filter.status,
        )
    }

    #[test]
    fn only_what_the_command_printed_is_shown() {
        let seen = filtered(&["Booting\r\n@lab begin\r\n", "one\ntwo", "@lab exit 7\n"]);
        assert_eq!(seen, ("one\ntwo".to_owned(), Some(7)));
    }

    #[test]
    fn a_marker_cut_in_pieces_is_still_found() {
        let seen = filtered(&["@lab be", "gin\n", "a @la", "te b\n@lab", " exit 1", "2\n"]);
        assert_eq!(seen, ("a @late b\n".to_owned(), Some(12)));
    }

    #[test]
    fn a_guest_that_dies_has_no_status() {
        assert_eq!(filtered(&["@lab begin\n", "half\n"]).1, None);
    }
}
