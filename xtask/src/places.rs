//! Where things lie: the workspace, its build results and the cache that outlives them.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};

use crate::shell;

/// The folders that a verb may read and write.
pub(crate) struct Places {
    /// The workspace root.
    pub(crate) root: PathBuf,
    /// Fetched packages, tools and BPF build trees; shared by all clones.
    pub(crate) cache: PathBuf,
    /// Host build results of this clone.
    pub(crate) target: PathBuf,
}

impl Places {
    /// Finds the folders from what cargo and the user's environment say.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
        let root = PathBuf::from(manifest)
            .parent()
            .context("xtask has no parent")?
            .to_owned();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(set) => root.join(set),
            None => root.join("target"),
        };
        Ok(Self {
            root,
            cache: cache()?,
            target,
        })
    }

    /// Where the two objects of the gate end up.
    pub(crate) fn objects(&self) -> PathBuf {
        self.root.join("target/bpf")
    }
}

/// A folder in which parts of a verb that run in labs leave what they find. It bears our process id
/// like a lab's own folder, so that the next lab sweeps it away if we are killed.
pub(crate) struct Findings(PathBuf);

impl Findings {
    pub(crate) fn create(places: &Places, verb: &str) -> Result<Self> {
        let name = format!("{}-{verb}", std::process::id());
        let folder = places.root.join("target/lab").join(name);
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Findings {
    fn drop(&mut self) {
        let _ = shell::remove(&self.0);
    }
}

fn cache() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("REKINDLE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("rekindle")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/rekindle")))
        .context("no place for the cache: set REKINDLE_CACHE, XDG_CACHE_HOME or HOME")
}

/// A short name for a set of inputs, the same in every run (FNV-1a over the parts).
pub(crate) fn key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for octet in parts.into_iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}
