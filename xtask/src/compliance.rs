//! `cargo xtask compliance`: which rows of RFC 5723 are built where, shown by which test, with what
//! result. Rows are listed beside this file; code and tests say by marks which rows they are for.

mod marks;
mod pages;
mod plant;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::places::Places;
use crate::shell;
use marks::Marks;
use rows::{Row, Standing};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
    /// Write nothing; fail if a duty has no passing test or the written pages differ.
    #[arg(long)]
    check: bool,
    /// Break one row after the other in a scratch copy, and see that its test notices.
    #[arg(long)]
    plant: bool,
}

/// A row with what was found about it.
struct Finding<'a> {
    row: &'a Row,
    files: BTreeSet<String>,
    tests: Vec<String>,
    outcome: &'static str,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    env::set_current_dir(&places.root)?;
    if arguments.plant {
        return plant::run(places);
    }
    let rows = rows::read()?;
    let results = tests()?;
    let marks = Marks::scan(&places.root)?;
    let findings = findings(&rows, &marks, &results)?;
    if arguments.json {
        println!("{}", pages::json(&findings));
    }
    let mut faults = faults(&findings);
    if arguments.check {
        faults.extend(differences(&findings)?);
    } else {
        for (path, text) in texts(&findings)? {
            fs::write(path, text).with_context(|| path.to_owned())?;
        }
    }
    for fault in &faults {
        eprintln!("xtask: {fault}");
    }
    let mut counts = BTreeMap::new();
    for finding in &findings {
        *counts.entry(finding.outcome).or_insert(0_u32) += 1;
    }
    eprintln!("xtask: {} rows: {counts:?}", findings.len());
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The same as `--check`, on what tests that ran already have said.
pub(crate) fn check(places: &Places, said: &[u8]) -> Result<()> {
    let rows = rows::read()?;
    let marks = Marks::scan(&places.root)?;
    let results = outcomes(&String::from_utf8_lossy(said));
    let findings = findings(&rows, &marks, &results)?;
    let mut faults = faults(&findings);
    faults.extend(differences(&findings)?);
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn texts(findings: &[Finding<'_>]) -> Result<[(&'static str, String); 2]> {
    Ok([
        (COMPLIANCE, pages::compliance(findings)),
        (RESUMPTION, pages::resumption(findings)?),
    ])
}

/// What is written down otherwise than it is.
fn differences(findings: &[Finding<'_>]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, text) in texts(findings)? {
        if fs::read_to_string(path).unwrap_or_default() != text {
            found.push(format!("{path} differs: run `cargo xtask compliance`"));
        }
    }
    Ok(found)
}

/// Runs the tests of the crates that are scanned: names, and whether they passed.
fn tests() -> Result<BTreeMap<String, bool>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--no-fail-fast"]);
    for (package, _) in SCANNED {
        cargo.args(["-p", package]);
    }
    let mut said = Vec::new();
    shell::stream(&mut cargo, false, LIMIT, &mut |octets| {
        said.extend_from_slice(octets);
        ensure!(said.len() < MOST_OUTPUT, "more than {MOST_OUTPUT} octets");
        Ok(())
    })?;
    let text = String::from_utf8_lossy(&said);
    let results = outcomes(&text);
    if results.is_empty() {
        bail!("no test ran:\n{text}");
    }
    Ok(results)
}

/// Reads lines such as `test state::t_idi_equal ... ok`. A name that comes twice counts as its worst.
fn outcomes(text: &str) -> BTreeMap<String, bool> {
    let mut results = BTreeMap::new();
    for line in text.lines() {
        let Some((name, word)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            continue;
        };
        let passed = word.trim() == "ok";
        if !word.starts_with("ignored") {
            let entry = results.entry(name.to_owned()).or_insert(passed);
            *entry &= passed;
        }
    }
    results
}

fn findings<'a>(
    rows: &'a [Row],
    marks: &Marks,
    results: &BTreeMap<String, bool>,
) -> Result<Vec<Finding<'a>>> {
    for id in marks.ids() {
        ensure!(
            rows.iter().any(|row| row.id == *id),
            "a mark names {id}, which is no row"
        );
    }
    let finding = |row: &'a Row| {
        let tests = marks.tests_of(&row.id);
        let outcome = outcome(row, &tests, results);
        Finding {
            row,
            files: marks.files_of(&row.id),
            tests,
            outcome,
        }
    };
    Ok(rows.iter().map(finding).collect())
}

/// A failing test is a failure whatever the row's standing; a test that did not run shows nothing.
fn outcome(row: &Row, tests: &[String], results: &BTreeMap<String, bool>) -> &'static str {
    let results: Vec<_> = tests.iter().map(|test| results.get(test)).collect();
    if results.contains(&Some(&false)) {
        return "fail";
    }
    match row.standing {
        Standing::Later(_) => "later",
        Standing::NoFeature(_) => "no-feature",
        Standing::Built if results.is_empty() || results.contains(&None) => "missing",
        Standing::Built => "pass",
    }
}

/// What stands in the way: a failure anywhere, and a duty without a passing test.
fn faults(findings: &[Finding<'_>]) -> Vec<String> {
    let bad = |finding: &&Finding<'_>| {
        finding.outcome == "fail" || (finding.outcome == "missing" && finding.row.is_duty())
    };
    let say = |finding: &Finding<'_>| {
        let Finding { row, outcome, .. } = finding;
        format!("{} ({}): {outcome}: {}", row.id, row.level, row.duty)
    };
    findings.iter().filter(bad).map(say).collect()
}

/// Where marks are looked for, and whose tests are run.
const SCANNED: [(&str, &str); 2] = [("ike", "daemon/ike"), ("rekindled", "daemon")];
const COMPLIANCE: &str = "docs/compliance.md";
const RESUMPTION: &str = "docs/resumption.md";
const LIMIT: Duration = Duration::from_mins(20);
const MOST_OUTPUT: usize = 16 << 20;

/// A path as it is written in the pages.
fn shown(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(standing: Standing) -> Row {
        Row {
            id: "N1".to_owned(),
            level: "MUST".to_owned(),
            duty: "Something.".to_owned(),
            standing,
        }
    }

    #[test]
    fn a_duty_needs_a_test_that_ran_and_passed() {
        let results = outcomes("test a ... ok\ntest b ... FAILED\ntest c ... ignored, slow\n");
        let of = |standing, test: &str| outcome(&row(standing), &[test.to_owned()], &results);
        assert_eq!(of(Standing::Built, "a"), "pass");
        assert_eq!(of(Standing::Built, "b"), "fail");
        assert_eq!(of(Standing::Built, "c"), "missing");
        assert_eq!(of(Standing::Built, "gone"), "missing");
        assert_eq!(outcome(&row(Standing::Built), &[], &results), "missing");
        let none = || Standing::NoFeature("none".to_owned());
        assert_eq!(of(none(), "a"), "no-feature");
        assert_eq!(of(none(), "b"), "fail");
    }

    #[test]
    fn the_rows_are_complete() {
        let rows = rows::read().expect("our own table");
        let count = |letter| rows.iter().filter(|row| row.id.starts_with(letter)).count();
        let counts = ['N', 'L', 'T', 'X', 'n', 'A'].map(count);
        assert_eq!(counts, [55, 14, 20, 12, 6, 21]);
        assert_eq!(rows::state().expect("our own table").len(), 32);
    }
}
