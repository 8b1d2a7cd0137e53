//! Debian packages, unpacked into the cache and never installed: an installed charon would start
//! as a service, and strongSwan and libreswan refuse each other.
//!
//! apt resolves and verifies; `dpkg-deb -x` unpacks. The system's package state is only read.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::places::{self, Places};
use crate::shell;

/// Packages that are fetched and unpacked together.
pub(crate) struct Group {
    /// Folder name in the cache.
    pub(crate) name: &'static str,
    /// What it is for, in the table.
    pub(crate) purpose: &'static str,
    /// Named packages; apt adds what they depend on and the system lacks.
    wants: &'static [&'static str],
    /// Measured on Debian 12: megabytes unpacked.
    pub(crate) unpacked: u64,
    /// A system that has this program needs no copy in the cache.
    program: Option<&'static str>,
}

/// Debian's compiler and the LLVM of the same major that the linker needs.
pub(crate) const BPF_WITH_COMPILER: Group = Group {
    name: "bpf",
    purpose: "BPF compiler, its sources, LLVM 22",
    wants: &[
        "rustc-web",
        "rust-web-src",
        "llvm-22-dev",
        "libpolly-22-dev",
        "libzstd-dev",
    ],
    unpacked: 1_400,
    program: None,
};

/// Only LLVM, where rustup's toolchain has rust-src.
pub(crate) const BPF_LINKER_ONLY: Group = Group {
    name: "llvm",
    purpose: "LLVM 22 for bpf-linker",
    wants: &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev"],
    unpacked: 650,
    program: Some("llvm-config-22"),
};

/// A kernel with ESP, and the tools of the tests.
pub(crate) const LAB: Group = Group {
    name: "lab",
    purpose: "user-mode Linux, network tools, sshd",
    wants: &[
        "user-mode-linux",
        "iproute2",
        "iputils-ping",
        "kmod",
        "iptables",
        "ethtool",
        "openssh-server",
        "openssh-client",
    ],
    unpacked: 190,
    program: Some("linux.uml"),
};

/// A whole machine with a kernel that lacks nothing, and the same tools.
pub(crate) const MACHINE: Group = Group {
    name: "machine",
    purpose: "virtual machine: QEMU, Linux",
    wants: &[
        "qemu-system-x86",
        "qemu-system-common",
        "linux-image-cloud-amd64",
        "busybox-static",
        "iproute2",
        "iputils-ping",
        "kmod",
        "iptables",
        "ethtool",
        "openssh-server",
        "openssh-client",
    ],
    unpacked: 250,
    program: None,
};

/// Another XDP program that drops packets; only for the benchmark that compares with it.
pub(crate) const RIVAL: Group = Group {
    name: "rival",
    purpose: "xdp-filter, to compare with",
    wants: &["xdp-tools"],
    unpacked: 2,
    program: Some("xdp-filter"),
};

/// A foreign IKE daemon.
pub(crate) const STRONGSWAN: Group = Group {
    name: "peers",
    purpose: "strongSwan as a peer",
    wants: &[
        "charon-systemd",
        "strongswan-swanctl",
        "libstrongswan-standard-plugins",
        "libstrongswan-extra-plugins",
        "libcharon-extra-plugins",
    ],
    unpacked: 10,
    program: Some("charon-systemd"),
};

/// Another one, which keeps its keys in NSS; openssl makes the files that NSS reads.
pub(crate) const LIBRESWAN: Group = Group {
    name: "libreswan",
    purpose: "libreswan as a peer",
    wants: &["libreswan", "libnss3-tools", "openssl"],
    unpacked: 30,
    program: None,
};

impl Group {
    /// Where the group is or would be unpacked.
    ///
    /// Keyed by what was asked for and the distribution, not by package versions: a security
    /// update of a compiler must not cost every clone its download again.
    pub(crate) fn folder(&self, places: &Places) -> PathBuf {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let version = release
            .lines()
            .find(|line| line.starts_with("VERSION_ID"))
            .unwrap_or("");
        let parts = [version, std::env::consts::ARCH, LAYOUT];
        let key = places::key(self.wants.iter().copied().chain(parts));
        places.cache.join(format!("{}-{key}", self.name))
    }

    /// The unpacked folder, if it is complete.
    pub(crate) fn found(&self, places: &Places) -> Option<PathBuf> {
        Some(self.folder(places)).filter(|folder| folder.is_dir())
    }

    /// Where it was found: in the cache, or on this system.
    pub(crate) fn anywhere(&self, places: &Places) -> Option<PathBuf> {
        self.found(places)
            .or_else(|| self.program.and_then(shell::which))
    }

    /// What to install on a system without apt, or whose archive lacks something.
    pub(crate) fn by_hand(&self) -> String {
        format!("install what this system calls {}", self.wants.join(", "))
    }

    /// What apt would download, in octets.
    pub(crate) fn download_size(&self, places: &Places) -> Result<u64> {
        let apt = Apt::that_knows(self, places, false)?;
        Ok(apt.resolve(self)?.iter().map(|package| package.size).sum())
    }

    /// Fetches and unpacks what is not there yet.
    pub(crate) fn fetch(&self, places: &Places) -> Result<()> {
        if self.found(places).is_some() {
            return Ok(());
        }
        shell::step(&format!("fetching packages: {}", self.purpose), || {
            let folder = self.folder(places);
            let debs = folder.with_extension("debs");
            fs::create_dir_all(debs.join("partial"))?;
            let packages = match self.download(places, &debs, false) {
                Ok(packages) => packages,
                // The lists are often older than the archive, which keeps the newest only.
                Err(_) => self.download(places, &debs, true)?,
            };
            let partial = folder.with_extension("partial");
            shell::remove(&partial)?;
            for package in packages.iter().filter(|package| package.is_needed()) {
                let file = debs.join(&package.file);
                shell::run(Command::new("dpkg-deb").arg("-x").arg(file).arg(&partial))?;
            }
            merge_usr(&partial)?;
            // The rename is the stamp: a folder of this name is whole.
            fs::rename(&partial, &folder)?;
            shell::remove(&debs)
        })
    }

    fn download(&self, places: &Places, debs: &Path, update: bool) -> Result<Vec<Package>> {
        let apt = Apt::that_knows(self, places, update)?;
        let packages = apt.resolve(self)?;
        shell::run(
            apt.command()
                .arg("-o")
                .arg(format!("Dir::Cache::archives={}", debs.display()))
                .args(["-q", "-y", "--download-only"])
                .args(["--no-install-recommends", "install"])
                .args(self.wants),
        )?;
        Ok(packages)
    }
}

/// Moves `bin`, `sbin` and `lib` under `usr`, where today's systems have them: the folder is to be
/// laid over `/usr`.
fn merge_usr(folder: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib"] {
        let old = folder.join(name);
        if old.is_dir() {
            let new = folder.join("usr").join(name);
            fs::create_dir_all(&new)?;
            shell::run(Command::new("cp").arg("-a").arg(old.join(".")).arg(&new))?;
            shell::remove(&old)?;
        }
    }
    Ok(())
}

/// One file of the archive.
struct Package {
    file: String,
    size: u64,
}

impl Package {
    /// Services and the C library are named by dependencies but never used from the cache: the
    /// peers run without systemd, and a second libc would not fit the loader.
    fn is_needed(&self) -> bool {
        let name = self.file.split('_').next().unwrap_or_default();
        !UNUSED.contains(&name)
    }
}

/// apt with either the system's package lists or our own copy.
struct Apt {
    config: Option<PathBuf>,
}

impl Apt {
    /// The system's lists if they know the group, else our own, refreshed if there are none.
    fn that_knows(group: &Group, places: &Places, update: bool) -> Result<Self> {
        if shell::which("apt-get").is_none() || shell::which("dpkg-deb").is_none() {
            bail!("no apt here");
        }
        let system = Self { config: None };
        if !update && system.resolve(group).is_ok() {
            return Ok(system);
        }
        let state = places.cache.join("apt");
        let own = Self {
            config: Some(write_config(&state)?),
        };
        if update || own.resolve(group).is_err() {
            shell::step("refreshing our own package lists", || {
                shell::run(own.command().args(["-q", "update"]))
            })?;
        }
        Ok(own)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        // No locks and no second user: all that is written lies in the cache.
        command.args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]);
        command.args([
            "-o",
            "Dir::Cache::pkgcache=",
            "-o",
            "Dir::Cache::srcpkgcache=",
        ]);
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn resolve(&self, group: &Group) -> Result<Vec<Package>> {
        let text = shell::read(
            self.command()
                .args([
                    "-qq",
                    "-y",
                    "--print-uris",
                    "--no-install-recommends",
                    "install",
                ])
                .args(group.wants),
        )?;
        // 'uri' file size hash
        let package = |line: &str| {
            let mut words = line.split(' ').skip(1);
            let file = words.next()?.to_owned();
            Some(Package {
                file,
                size: words.next()?.parse().ok()?,
            })
        };
        text.lines()
            .filter(|line| line.starts_with('\''))
            .map(|line| package(line).with_context(|| format!("apt said: {line}")))
            .collect()
    }
}

/// The system's apt settings (sources, proxies, mirrors), with the state in our cache and without
/// hooks, which could write elsewhere.
fn write_config(state: &Path) -> Result<PathBuf> {
    fs::create_dir_all(state.join("state/lists/partial"))?;
    let mut text: String = shell::read(Command::new("apt-config").arg("dump"))?
        .lines()
        .filter(|line| !line.contains("-Invoke"))
        .flat_map(|line| [line, "\n"])
        .collect();
    writeln!(text, "Dir::State \"{}\";", state.join("state").display())?;
    text += "Dir::State::status \"/var/lib/dpkg/status\";\n";
    text += "Dir::Etc::parts \"/dev/null\";\nDir::Etc::main \"/dev/null\";\n";
    let file = state.join("apt.conf");
    fs::write(&file, text)?;
    Ok(file)
}

/// Raise it when the way of unpacking changes.
const LAYOUT: &str = "1";

const UNUSED: &[&str] = &[
    "dbus",
    "dbus-bin",
    "dbus-daemon",
    "dbus-session-bus-common",
    "dbus-system-bus-common",
    "libc-bin",
    "libc6",
    "libnss-systemd",
    "libpam-systemd",
    "libsystemd-shared",
    "systemd",
    "systemd-sysv",
    "systemd-timesyncd",
    "tpm-udev",
    "udev",
];
