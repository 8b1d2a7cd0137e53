//! Marks: comment lines that begin with "RFC 5723:" and list rows. In front of a test they name it;
//! anywhere else they name the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{SCANNED, shown};

/// Which files and tests are for which rows.
#[derive(Default)]
pub(super) struct Marks {
    files: BTreeMap<String, BTreeSet<String>>,
    tests: BTreeMap<String, BTreeSet<String>>,
}

impl Marks {
    /// Reads all sources and tests of the scanned crates.
    pub(super) fn scan(root: &Path) -> Result<Self> {
        let mut marks = Self::default();
        for (_, krate) in SCANNED {
            let krate = root.join(krate);
            for folder in ["src", "tests"] {
                let folder = krate.join(folder);
                if folder.is_dir() {
                    marks.folder(root, &folder, &folder)?;
                }
            }
        }
        Ok(marks)
    }

    fn folder(&mut self, root: &Path, base: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                self.folder(root, base, &path)?;
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let module = module_of(path.strip_prefix(base)?, base.ends_with("tests"));
                self.file(&shown(root, &path), &module, &text)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str, module: &str, text: &str) -> Result<()> {
        let mut inside = module.to_owned();
        let mut pending: Vec<&str> = Vec::new();
        let mut is_test = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(ids) = line.strip_prefix(MARK) {
                pending.extend(ids.split(',').map(str::trim));
            } else if line == "#[test]" {
                is_test = true;
            } else if line.starts_with("//") || line.starts_with("#[") {
                // Between a mark and what it is for.
            } else {
                if line.ends_with("mod tests {") {
                    inside = join(module, "tests");
                }
                let name = line
                    .strip_prefix("fn ")
                    .and_then(|rest| rest.split('(').next());
                for id in pending.drain(..) {
                    let (rows, value) = match name.filter(|_| is_test) {
                        Some(name) => (&mut self.tests, join(&inside, name)),
                        None => (&mut self.files, path.to_owned()),
                    };
                    ensure!(!id.is_empty(), "{path}:{}: an empty mark", number + 1);
                    rows.entry(id.to_owned()).or_default().insert(value);
                }
                is_test = false;
            }
        }
        ensure!(pending.is_empty(), "{path}: a mark in front of nothing");
        Ok(())
    }

    pub(super) fn ids(&self) -> BTreeSet<&String> {
        self.files.keys().chain(self.tests.keys()).collect()
    }

    pub(super) fn files_of(&self, id: &str) -> BTreeSet<String> {
        self.files.get(id).cloned().unwrap_or_default()
    }

    pub(super) fn tests_of(&self, id: &str) -> Vec<String> {
        let tests = self.tests.get(id).into_iter().flatten();
        tests.cloned().collect()
    }
}

/// The path of a module as the test runner writes it.
fn module_of(path: &Path, integration: bool) -> String {
    let path = path.with_extension("");
    let mut parts: Vec<_> = path
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if integration {
        // The first part names the test binary.
        parts.remove(0);
    }
    parts.retain(|part| !matches!(part.as_str(), "mod" | "lib" | "main"));
    parts.join("::")
}

fn join(module: &str, name: &str) -> String {
    if module.is_empty() {
        name.to_owned()
    } else {
        format!("{module}::{name}")
    }
}

const MARK: &str = "// RFC 5723:";

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
// RFC 5723: N1, note 2
/// What it does.
pub(crate) fn code() {}

#[cfg(test)]
mod tests {
    // RFC 5723: N1
    // RFC 5723: T3
    #[test]
    fn shows_it() {}

    // RFC 5723: L2
    fn helps() {}
}
";

    #[test]
    fn every_test_that_the_threat_model_names_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = fs::read_to_string(root.join("docs/threat-model.md")).expect("page");
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let named: Vec<&str> = rows
            .flat_map(|row| row.split('`').skip(1).step_by(2))
            .filter(|name| name.contains('_') && !name.contains([' ', '.']))
            .collect();
        assert!(named.len() > 25, "{named:?}");
        let mut sources = String::new();
        for folder in ["daemon", "ebpf/abi/src", "tests/src"] {
            gather(&root.join(folder), &mut sources);
        }
        for name in named {
            let here = [format!("fn {name}("), format!("\"{name}\"")];
            assert!(here.iter().any(|one| sources.contains(one)), "{name}");
        }
    }

    fn gather(folder: &Path, sources: &mut String) {
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                gather(&path, sources);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                sources.push_str(&fs::read_to_string(&path).expect("source"));
            }
        }
    }

    #[test]
    fn marks_name_the_test_or_the_file() {
        let mut marks = Marks::default();
        marks.file("src/a/b.rs", "a::b", TEXT).expect("well formed");
        assert_eq!(marks.tests_of("N1"), ["a::b::tests::shows_it"]);
        assert_eq!(marks.tests_of("T3"), ["a::b::tests::shows_it"]);
        assert!(marks.files_of("N1").contains("src/a/b.rs"));
        assert!(marks.files_of("note 2").contains("src/a/b.rs"));
        assert!(marks.tests_of("L2").is_empty());
        assert!(marks.file("c.rs", "c", "// RFC 5723: N9\n").is_err());
    }

    #[test]
    fn modules_are_named_as_the_runner_names_them() {
        let of = |path, integration| module_of(Path::new(path), integration);
        assert_eq!(of("pairs/conformance/state.rs", true), "conformance::state");
        assert_eq!(of("vectors.rs", true), "");
        assert_eq!(of("exchange/mod.rs", false), "exchange");
        assert_eq!(of("lib.rs", false), "");
    }
}
