//! Finds the compiler and the linker for BPF, and says in one line what is missing.
//!
//! The sources of `core` decide: rustup's pinned toolchain is used if it has them, else Debian's
//! compiler from the cache. bpf-linker reads the compiler's bitcode, so its LLVM major must match.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::packages::{BPF_LINKER_ONLY, BPF_WITH_COMPILER};
use crate::places::{self, Places};
use crate::shell;

/// The bpf-linker release that the objects are linked with.
const LINKER: &str = "0.13.0";

/// A compiler that has the sources of `core`.
pub(crate) struct Compiler {
    rustc: PathBuf,
    /// Where its shared libraries are, if not where the loader looks.
    libraries: Option<PathBuf>,
    /// First and second line of identification: release and commit.
    pub(crate) version: String,
    llvm: u32,
}

/// Where a compiler with the sources of `core` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The pinned toolchain has rust-src.
    Pinned,
    /// Debian's, unpacked in the cache.
    Cached,
    /// Debian's, which the archive has.
    Packages,
    /// rustup could add rust-src; that is outside the cache, so it is the user's to do.
    Rustup,
    /// None of these.
    Unknown,
}

impl Way {
    /// The last two are asked only if the answer hangs on them: asking an archive takes seconds.
    fn choose(
        has_sources: bool,
        is_cached: bool,
        in_archive: impl FnOnce() -> bool,
        has_rustup: impl FnOnce() -> bool,
    ) -> Self {
        if has_sources {
            Self::Pinned
        } else if is_cached {
            Self::Cached
        } else if in_archive() {
            Self::Packages
        } else if has_rustup() {
            Self::Rustup
        } else {
            Self::Unknown
        }
    }

    /// What the user can do for it.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Pinned | Self::Cached | Self::Packages => "run `cargo xtask setup`",
            Self::Rustup => "run `rustup component add rust-src`, then `cargo xtask setup`",
            Self::Unknown => {
                "install the sources of this Rust's standard library (rust-src), \
                 then run `cargo xtask setup`"
            }
        }
    }
}

impl Compiler {
    /// rustup's toolchain if it has rust-src, else Debian's from the cache.
    pub(crate) fn find(places: &Places) -> Result<Self> {
        match Self::way(places) {
            Way::Pinned => Self::at(Path::new("rustc"), None, places),
            Way::Cached => {
                let folder = BPF_WITH_COMPILER.folder(places);
                let libraries = libraries(&folder)?;
                Self::at(&folder.join("usr/bin/rustc"), Some(libraries), places)
            }
            way => bail!("no BPF compiler: {}", way.advice()),
        }
    }

    /// How the BPF compiler can be had on this machine.
    pub(crate) fn way(places: &Places) -> Way {
        static IN_ARCHIVE: OnceLock<bool> = OnceLock::new();
        let ask = || BPF_WITH_COMPILER.download_size(places).is_ok();
        let pinned = Self::at(Path::new("rustc"), None, places);
        Way::choose(
            pinned.is_ok_and(|pinned| pinned.has_sources(places)),
            BPF_WITH_COMPILER.found(places).is_some(),
            || *IN_ARCHIVE.get_or_init(ask),
            || shell::which("rustup").is_some(),
        )
    }

    /// A cargo command that compiles with this compiler.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        for inherited in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(inherited);
        }
        if let Some(libraries) = &self.libraries {
            cargo.env("LD_LIBRARY_PATH", libraries);
        }
        cargo
    }

    fn at(rustc: &Path, libraries: Option<PathBuf>, places: &Places) -> Result<Self> {
        let mut command = Command::new(rustc);
        if let Some(libraries) = &libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let text = shell::read(command.arg("-vV").current_dir(&places.root))?;
        let field = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name));
            found
                .map(str::trim)
                .with_context(|| format!("rustc -vV has no {name}"))
        };
        let llvm = field("LLVM version:")?;
        let llvm = llvm
            .split('.')
            .next()
            .unwrap_or_default()
            .parse()
            .context("LLVM version")?;
        let version = format!("{} {}", field("release:")?, field("commit-hash:")?);
        Ok(Self {
            rustc: rustc.to_owned(),
            libraries,
            version,
            llvm,
        })
    }

    fn has_sources(&self, places: &Places) -> bool {
        let mut command = Command::new(&self.rustc);
        command
            .args(["--print", "sysroot"])
            .current_dir(&places.root);
        shell::read(&mut command).is_ok_and(|sysroot| {
            Path::new(sysroot.trim())
                .join("lib/rustlib/src/rust/library/Cargo.lock")
                .is_file()
        })
    }
}

/// bpf-linker of the compiler's LLVM, if it was built.
pub(crate) fn linker(places: &Places, compiler: &Compiler) -> Option<PathBuf> {
    Some(tools(places, compiler).join("bin/bpf-linker")).filter(|file| file.is_file())
}

/// Builds bpf-linker against the LLVM of the cache, or the system's of the same major.
pub(crate) fn install_linker(places: &Places, compiler: &Compiler) -> Result<()> {
    if linker(places, compiler).is_some() {
        return Ok(());
    }
    let llvm = Llvm::find(places, compiler.llvm)?;
    let root = tools(places, compiler);
    shell::step(
        &format!("building bpf-linker {LINKER} for LLVM {}", compiler.llvm),
        || {
            let partial = root.with_extension("partial");
            shell::remove(&partial)?;
            let mut cargo = Command::new("cargo");
            cargo.args(["install", "bpf-linker", "--version", LINKER, "--locked"]);
            cargo.args([
                "--no-default-features",
                "--features",
                &format!("llvm-{}", compiler.llvm),
            ]);
            cargo
                .arg("--root")
                .arg(&partial)
                .env("CARGO_TARGET_DIR", partial.join("build"));
            cargo
                .env("LLVM_PREFIX", &llvm.prefix)
                .env_remove("RUSTFLAGS");
            if let Some(libraries) = &llvm.libraries {
                // The linker finds its LLVM by itself, whoever starts it.
                let flag = format!("-Clink-arg=-Wl,-rpath,{}", libraries.display());
                cargo.env("CARGO_ENCODED_RUSTFLAGS", flag);
                cargo
                    .env("LD_LIBRARY_PATH", libraries)
                    .env("LIBRARY_PATH", libraries);
            }
            shell::run(cargo.current_dir(&places.root))?;
            shell::remove(&partial.join("build"))?;
            shell::remove(&root)?;
            Ok(fs::rename(&partial, &root)?)
        },
    )
}

struct Llvm {
    prefix: PathBuf,
    libraries: Option<PathBuf>,
}

impl Llvm {
    fn find(places: &Places, major: u32) -> Result<Self> {
        for group in [&BPF_WITH_COMPILER, &BPF_LINKER_ONLY] {
            let Some(folder) = group.found(places) else {
                continue;
            };
            let prefix = folder.join(format!("usr/lib/llvm-{major}"));
            if prefix.is_dir() {
                return Ok(Self {
                    prefix,
                    libraries: Some(libraries(&folder)?),
                });
            }
        }
        for program in [format!("llvm-config-{major}"), "llvm-config".to_owned()] {
            let ask = |what| shell::read(Command::new(&program).arg(what));
            if ask("--version").is_ok_and(|said| said.starts_with(&format!("{major}."))) {
                let prefix = ask("--prefix")?.trim().into();
                return Ok(Self {
                    prefix,
                    libraries: None,
                });
            }
        }
        bail!("no LLVM {major} with headers: install llvm-{major}-dev or your system's llvm-devel")
    }
}

fn tools(places: &Places, compiler: &Compiler) -> PathBuf {
    let key = places::key([LINKER, &compiler.llvm.to_string(), std::env::consts::ARCH]);
    places.cache.join(format!("tools-{key}"))
}

/// Debian keeps shared libraries in a folder named after the machine.
fn libraries(folder: &Path) -> Result<PathBuf> {
    let library = folder.join("usr/lib");
    fs::read_dir(&library)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .with_context(|| format!("no machine folder in {}", library.display()))
}

#[cfg(test)]
mod tests {
    use super::Way;

    fn chosen(facts: [bool; 4]) -> Way {
        let [sources, cached, archive, rustup] = facts;
        Way::choose(sources, cached, || archive, || rustup)
    }

    #[test]
    fn sources_that_are_there_come_before_any_download() {
        assert_eq!(chosen([true, true, true, true]), Way::Pinned);
        assert_eq!(chosen([false, true, true, true]), Way::Cached);
    }

    #[test]
    fn debian_keeps_to_the_cache_even_with_rustup() {
        assert_eq!(chosen([false, false, true, true]), Way::Packages);
    }

    #[test]
    fn without_debian_rustup_is_named() {
        let way = chosen([false, false, false, true]);
        assert_eq!(way, Way::Rustup);
        assert!(way.advice().contains("`rustup component add rust-src`"));
    }

    #[test]
    fn without_rustup_it_is_not_named() {
        let advice = chosen([false; 4]).advice();
        assert!(advice.contains("rust-src") && !advice.contains("rustup"));
    }

    #[test]
    fn the_archive_is_asked_only_if_need_be() {
        let asked = || panic!("not needed");
        assert_eq!(Way::choose(false, true, asked, asked), Way::Cached);
    }
}
