//! Small libraries that correct one call of a foreign program; each says why in its own source.

use std::fs;
use std::path::PathBuf;
use std::process::{self, Command};

use anyhow::Result;

use crate::places::{self, Places};
use crate::shell;

/// Builds `source` into the cache, if it is not there, and returns the library.
pub(super) fn build(places: &Places, name: &str, source: &str) -> Result<PathBuf> {
    let library = places
        .cache
        .join(format!("{name}-{}.so", places::key([source])));
    if !library.is_file() {
        let partial = places.cache.join(format!("{name}-{}.c", process::id()));
        fs::write(&partial, source)?;
        let built = partial.with_extension("partial");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-shared", "-fPIC", "-o"])
            .arg(&built)
            .arg(&partial);
        shell::run(&mut cc)?;
        fs::remove_file(&partial)?;
        fs::rename(&built, &library)?;
    }
    Ok(library)
}
