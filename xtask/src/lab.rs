//! `cargo xtask lab`: a command or a shell in fresh namespaces on a kernel of choice.
//!
//! The kernel with ESP is found by trying: the host's own if an SA can be added there, else
//! user-mode Linux, else a virtual machine, both from the cache and without root or KVM.

mod console;
mod preload;
mod qemu;
mod uml;

use std::fmt::{self, Write as _};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, process};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use nix::unistd::Uid;

use crate::packages::{Group, LAB, LIBRESWAN, MACHINE, STRONGSWAN};
use crate::places::Places;
use crate::{setup, shell};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The kernel to run on; by default the first that has ESP.
    #[arg(long)]
    kernel: Option<Kernel>,
    /// Give up and kill everything after this many seconds.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// Fetch what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// The command; a shell if there is none.
    #[arg(last = true)]
    command: Vec<String>,
}

/// Where a command's namespaces are made.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// This machine's own; needs root.
    Host,
    /// User-mode Linux.
    Uml,
    /// A virtual machine with Debian's kernel, slower but complete: BTF, JIT, two processors.
    Qemu,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    let kernel = match arguments.kernel {
        Some(kernel) => kernel,
        None if host_has_esp() => Kernel::Host,
        None => {
            setup::ensure_only(places, &LAB, arguments.yes)?;
            setup::ensure_kernel(places, arguments.yes)?
        }
    };
    if let Some(group) = kernel.packages() {
        setup::ensure_only(places, group, arguments.yes)?;
    }
    let mut command = arguments.command.clone();
    let interactive = command.is_empty();
    if interactive {
        command.push(env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned()));
    }
    let limit = Duration::from_secs(arguments.timeout);
    let status = Lab {
        kernel,
        interactive,
        limit,
    }
    .run(places, &command, &mut |octets| {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        out.write_all(octets)?;
        Ok(out.flush()?)
    })?;
    Ok(ExitCode::from(status))
}

impl Kernel {
    /// The first kernel in which an ESP SA can be added; found once in a run.
    pub(crate) fn with_esp(places: &Places) -> Result<Self> {
        static FOUND: OnceLock<Kernel> = OnceLock::new();
        if let Some(kernel) = FOUND.get() {
            return Ok(*kernel);
        }
        let mut reasons = Vec::new();
        for kernel in [Self::Host, Self::Uml, Self::Qemu] {
            match kernel.try_esp(places) {
                Ok(()) => return Ok(*FOUND.get_or_init(|| kernel)),
                Err(error) => reasons.push(format!("{}: {error:#}", kernel.name())),
            }
        }
        bail!("no kernel with ESP ({})", reasons.join("; "))
    }

    fn try_esp(self, places: &Places) -> Result<()> {
        if self == Self::Host {
            ensure!(shell::is_root(), "needs root");
            ensure!(host_has_esp(), "no SA can be added there");
            return Ok(());
        }
        let lab = Lab {
            kernel: self,
            interactive: false,
            limit: TRIAL,
        };
        let mut said = Vec::new();
        let command: Vec<_> = ["ip"]
            .into_iter()
            .chain(probe())
            .map(String::from)
            .collect();
        let status = lab.run(places, &command, &mut |octets| {
            said.extend_from_slice(octets);
            Ok(())
        })?;
        let said = String::from_utf8_lossy(&said);
        ensure!(status == 0, "no SA can be added there: {}", said.trim());
        Ok(())
    }

    /// The kernel with everything: the host's own if it has IPIP and xfrm interfaces too, else the virtual
    /// machine.
    pub(crate) fn whole(places: &Places) -> Result<Self> {
        if host_is_whole() {
            return Ok(Self::Host);
        }
        qemu::preflight(places)?;
        Ok(Self::Qemu)
    }

    /// The packages that this kernel comes from.
    fn packages(self) -> Option<&'static Group> {
        match self {
            Self::Host => None,
            Self::Uml => Some(&LAB),
            Self::Qemu => Some(&MACHINE),
        }
    }

    /// The kernel's name as the tests are told it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Uml => "uml",
            Self::Qemu => "qemu",
        }
    }
}

/// How a command is to run.
pub(crate) struct Lab {
    pub(crate) kernel: Kernel,
    /// Connect the terminal.
    pub(crate) interactive: bool,
    /// Everything is killed after this long.
    pub(crate) limit: Duration,
}

impl Lab {
    /// Runs `command` and hands its output to `show` as it comes; the result is its exit status.
    pub(crate) fn run(
        &self,
        places: &Places,
        command: &[String],
        show: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<u8> {
        let folder = Folder::create(places)?;
        match self.kernel {
            Kernel::Host => {
                if !shell::is_root() {
                    bail!("--kernel host needs root; --kernel uml and qemu do not");
                }
                let init = folder.write(places, self, command, "")?;
                let mut lab = killed_with_us("unshare");
                lab.args([
                    "--mount",
                    "--net",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "--mount-proc",
                ]);
                lab.arg("sh").arg(init);
                shell::stream(&mut lab, self.interactive, self.limit, show)
            }
            Kernel::Uml => {
                uml::preflight(places)?;
                let mark = format!("@lab-{}", folder.name());
                let init = folder.write(places, self, command, &mark)?;
                uml::boot(places, &init, &mark, self, show)
            }
            Kernel::Qemu => {
                qemu::preflight(places)?;
                let mark = format!("@lab-{}", folder.name());
                let init = folder.write(places, self, command, &mark)?;
                qemu::boot(places, &init, &mark, self, show)
            }
        }
    }
}

/// Why a kernel did not come as far as its command: nothing has been tried on it.
#[derive(Debug)]
pub(crate) struct NotStarted(String);

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The init script and its settings; removed when the lab ends.
struct Folder(PathBuf);

impl Folder {
    fn create(places: &Places) -> Result<Self> {
        let nonce = std::time::SystemTime::UNIX_EPOCH.elapsed()?.subsec_nanos();
        let name = format!("{}-{nonce}", process::id());
        // Some paths travel on a kernel command line, in LD_PRELOAD or in mount options.
        let is_bare = |path: &Path| {
            let special = |c: char| c.is_whitespace() || ",:\\\"".contains(c);
            !path.to_string_lossy().contains(special)
        };
        ensure!(
            is_bare(&places.cache),
            "the lab cannot use a cache whose path has blanks, commas or colons: set REKINDLE_CACHE"
        );
        let all = [
            places.root.join("target/lab"),
            env::temp_dir().join(format!("rekindle-lab-{}", Uid::current())),
        ];
        let all = all.into_iter().find(|all| is_bare(all));
        let all = all.context("no place for the lab without blanks in its path: set TMPDIR")?;
        fs::create_dir_all(&all)?;
        ensure!(
            fs::symlink_metadata(&all)?.uid() == Uid::current().as_raw(),
            "{} is somebody else's",
            all.display()
        );
        sweep(&all);
        let folder = all.join(name);
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }

    fn name(&self) -> String {
        self.0
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn write(&self, places: &Places, lab: &Lab, command: &[String], mark: &str) -> Result<PathBuf> {
        let mut text = String::new();
        for (name, value) in env::vars_os() {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
                continue;
            };
            if is_plain(name) && !NOT_KEPT.contains(&name) {
                writeln!(text, "export {name}={}", quote(value))?;
            }
        }
        let kernel = lab.kernel;
        let tools = match kernel {
            Kernel::Qemu => &MACHINE,
            Kernel::Host | Kernel::Uml => &LAB,
        };
        let path = |folder: Option<PathBuf>| folder.unwrap_or_default().display().to_string();
        let peers = [&STRONGSWAN, &LIBRESWAN].map(|group| path(group.found(places)));
        let directory = env::current_dir()?.display().to_string();
        for (name, value) in [
            ("LAB_KERNEL", kernel.name()),
            ("LAB_PACKAGES", &path(tools.found(places))),
            ("LAB_PEERS", &peers.join(" ")),
            ("LAB_DIRECTORY", &directory),
            ("LAB_MARK", mark),
            ("LAB_TERMINAL", if lab.interactive { "yes" } else { "" }),
            ("REKINDLE_LAB", kernel.name()),
            ("REKINDLE_OBJECTS", &places.objects().display().to_string()),
            ("TMPDIR", "/run/lab/tmp"),
        ] {
            writeln!(text, "export {name}={}", quote(value))?;
        }
        writeln!(
            text,
            "export PATH=\"$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin\""
        )?;
        let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
        writeln!(text, "set -- {}", words.join(" "))?;
        fs::write(self.0.join("settings"), text)?;

        let init = self.0.join("init");
        fs::write(&init, include_str!("lab/init.sh"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        Ok(init)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = shell::remove(&self.0);
    }
}

/// Removes what labs left that were killed before they could.
fn sweep(all: &Path) {
    for path in fs::read_dir(all)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
    {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let owner = name.split('-').next().unwrap_or_default();
        if path.is_dir() && !Path::new("/proc").join(owner).exists() {
            let _ = shell::remove(&path);
        }
    }
}

/// A command that the kernel kills when we die, however that happens.
fn killed_with_us(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program.as_ref());
    command
}

/// A command that is process 1 of a PID namespace, so that nothing it starts outlives it.
///
/// Without root, the namespace needs a user namespace around it, made as `mapping` says.
fn contained(mapping: &str) -> Command {
    let namespace = ["--pid", "--fork", "--kill-child"];
    let mut options = if shell::is_root() {
        Vec::new()
    } else {
        vec!["--user", mapping]
    };
    options.extend(namespace);
    if shell::read(Command::new("unshare").args(&options).arg("true")).is_ok() {
        let mut command = killed_with_us("unshare");
        command.args(options);
        command
    } else {
        killed_with_us("env")
    }
}

/// In megabytes.
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

fn host_has_esp() -> bool {
    host_takes(probe())
}

/// Whether the host's kernel has all that cases ask for.
pub(crate) fn host_is_whole() -> bool {
    host_has_esp() && DEVICES.iter().all(|device| host_takes(device.split(' ')))
}

/// Whether `ip` can do this on the host's kernel, in a network of its own.
fn host_takes<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    let (Some(ip), true) = (shell::which("ip"), shell::is_root()) else {
        return false;
    };
    let mut command = Command::new("unshare");
    command.arg("--net").arg(ip).args(words);
    shell::read(&mut command).is_ok()
}

/// What `ip` is asked to do where ESP is looked for.
fn probe() -> impl Iterator<Item = &'static str> {
    PROBE
        .split(' ')
        .chain(["0x0102030405060708090a0b0c0d0e0f1011121314", "128"])
}

const PROBE: &str = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode tunnel \
                     aead rfc4106(gcm(aes))";
const DEVICES: [&str; 2] = [
    "link add probe type xfrm dev lo if_id 1",
    "link add probe type ipip local 192.0.2.1 remote 192.0.2.2",
];
/// A kernel that has not added an SA by then is none that tests could use.
const TRIAL: Duration = Duration::from_mins(1);

/// The lab has its own; cargo's library path would hide the system's.
const NOT_KEPT: &[&str] = &["LD_LIBRARY_PATH", "PWD", "OLDPWD", "TMPDIR", "_"];

fn is_plain(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || octet == b'_')
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
