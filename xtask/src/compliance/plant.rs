//! `cargo xtask compliance --plant`: breaks one row after the other in a scratch copy of the sources,
//! and sees that the row's test notices.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use super::marks::Marks;
use super::{LIMIT, outcomes};
use crate::places::Places;
use crate::shell;

/// One violation.
struct Violation {
    row: String,
    test: String,
    file: PathBuf,
    from: String,
    to: String,
}

pub(super) fn run(places: &Places) -> Result<ExitCode> {
    let violations = read(include_str!("violations.txt"))?;
    let marks = Marks::scan(&places.root)?;
    let scratch = places.target.join("planted");
    copy(&places.root, &scratch)?;
    let mut missed = 0;
    for violation in &violations {
        let Violation { row, test, .. } = violation;
        let failed = violation.plant(&scratch, &places.target)?;
        let of_row: BTreeSet<_> = marks.tests_of(row).into_iter().collect();
        let others: Vec<_> = failed
            .iter()
            .filter(|name| !of_row.contains(*name))
            .cloned()
            .collect();
        let noticed = failed.contains(test);
        missed += u32::from(!noticed);
        let word = if noticed { "noticed" } else { "MISSED " };
        println!("{word} {row:<4} {test}");
        if !others.is_empty() {
            println!("         also: {}", others.join(" "));
        }
    }
    println!("{} planted, {missed} missed", violations.len());
    shell::remove(&scratch)?;
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Violation {
    /// The tests that fail with it.
    fn plant(&self, scratch: &Path, target: &Path) -> Result<BTreeSet<String>> {
        let path = scratch.join(&self.file);
        let sound = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let count = sound.matches(&self.from).count();
        ensure!(
            count == 1,
            "{}: {:?} is there {count} times",
            self.row,
            self.from
        );
        fs::write(&path, sound.replace(&self.from, &self.to))?;
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-p", "ike", "--test", PAIRS, "--no-fail-fast"]);
        cargo.current_dir(scratch).env("CARGO_TARGET_DIR", target);
        let mut said = Vec::new();
        shell::stream(&mut cargo, false, LIMIT, &mut |octets| {
            said.extend_from_slice(octets);
            Ok(())
        })?;
        fs::write(&path, sound)?;
        let text = String::from_utf8_lossy(&said);
        let results = outcomes(&text);
        if results.is_empty() {
            bail!("{}: does not build:\n{text}", self.row);
        }
        let failed = results.into_iter().filter(|(_, passed)| !passed);
        Ok(failed.map(|(name, _)| name).collect())
    }
}

fn read(text: &str) -> Result<Vec<Violation>> {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut violations = Vec::new();
    while let Some(head) = lines.next() {
        let (row, test) = head.split_once(' ').context("row and test")?;
        let mut next = |prefix: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(prefix)
                .map(ToOwned::to_owned)
                .with_context(|| format!("{row}: not {prefix:?}: {line}"))
        };
        violations.push(Violation {
            file: PathBuf::from(next("")?),
            from: next("- ")?,
            to: next("+")?.trim_start().to_owned(),
            row: row.to_owned(),
            test: test.to_owned(),
        });
    }
    Ok(violations)
}

/// Copies what git knows of, as it is now.
fn copy(root: &Path, scratch: &Path) -> Result<()> {
    shell::remove(scratch)?;
    let mut git = Command::new("git");
    git.args(["ls-files", "-z"]).current_dir(root);
    let names = shell::read(&mut git)?;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), scratch.join(name));
        if let (true, Some(folder)) = (from.is_file(), to.parent()) {
            fs::create_dir_all(folder)?;
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    Ok(())
}

/// The test binary that shows nearly all rows.
const PAIRS: &str = "pairs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twenty_and_each_names_a_test_of_its_row() {
        let violations = read(include_str!("violations.txt")).expect("our own list");
        assert!(violations.len() >= 20, "{}", violations.len());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("a root");
        let marks = Marks::scan(root).expect("our own marks");
        for Violation {
            row,
            test,
            file,
            from,
            ..
        } in &violations
        {
            assert!(marks.tests_of(row).contains(test), "{row}: {test}");
            let text = fs::read_to_string(root.join(file)).expect("our own source");
            assert_eq!(text.matches(from).count(), 1, "{row}: {from}");
        }
    }
}
