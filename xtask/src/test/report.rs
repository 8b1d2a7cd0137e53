//! What the suites say, counted, and the table at the end.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::results::quoted;

/// One line of the table.
pub(super) struct Row {
    suite: &'static str,
    pub(super) passed: u32,
    pub(super) failed: u32,
    /// What did not run, by name, and why.
    not_run: Vec<(String, String)>,
    /// What the cases have measured, in their own words.
    measured: Vec<String>,
    pub(super) seconds: f32,
}

impl Row {
    pub(super) fn new(suite: &'static str) -> Self {
        Self {
            suite,
            passed: 0,
            failed: 0,
            not_run: Vec::new(),
            measured: Vec::new(),
            seconds: 0.0,
        }
    }

    /// A suite whose programs do not build.
    pub(super) fn failed(suite: &'static str, why: &anyhow::Error) -> Self {
        println!("{suite} | {why:#}");
        let mut row = Self::new(suite);
        row.failed = 1;
        row
    }

    /// A suite that this machine cannot run.
    pub(super) fn not_run(suite: &'static str, why: &anyhow::Error) -> Self {
        let mut row = Self::new(suite);
        row.not_run.push((suite.to_owned(), format!("{why:#}")));
        row
    }
}

/// Passes a suite's output on, line by line, and counts.
pub(super) struct Reader {
    row: Row,
    held: Vec<u8>,
    /// The closing line was seen.
    closed: bool,
    /// The next line says why this case was skipped.
    skipped: Option<String>,
}

impl Reader {
    pub(super) fn new(suite: &'static str) -> Self {
        Self {
            row: Row::new(suite),
            held: Vec::new(),
            closed: false,
            skipped: None,
        }
    }

    pub(super) fn read(&mut self, octets: &[u8]) -> Result<()> {
        self.held.extend_from_slice(octets);
        while let Some(end) = self.held.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.held.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
        ensure!(
            self.held.len() < LONGEST_LINE,
            "a line of over {LONGEST_LINE} octets"
        );
        Ok(())
    }

    /// `good` is the exit status; a suite that ends without its closing line has failed whatever
    /// the status says.
    pub(super) fn finish(mut self, good: Result<bool>, elapsed: Duration) -> Row {
        let complaint = match good {
            Err(error) => Some(format!("{error:#}")),
            Ok(_) if !self.closed => Some("ended early".to_owned()),
            Ok(false) if self.row.failed == 0 => Some("ended with an error".to_owned()),
            Ok(_) => None,
        };
        if let Some(complaint) = complaint {
            println!("{} | {complaint}", self.row.suite);
            self.row.failed += 1;
        }
        if self.row.passed + self.row.failed == 0 && self.row.not_run.is_empty() {
            // An empty suite proves nothing and must not look as if it did.
            let name = self.row.suite.to_owned();
            self.row.not_run.push((name, "it has no cases".to_owned()));
        }
        self.row.seconds = elapsed.as_secs_f32();
        self.row
    }

    fn line(&mut self, line: &str) {
        println!("{} | {line}", self.row.suite);
        if let Some(name) = self.skipped.take() {
            self.row.not_run.push((name, line.trim().to_owned()));
        } else if line.starts_with("skipped ") {
            self.skipped = line.split_whitespace().last().map(ToOwned::to_owned);
        } else if let Some((passed, failed)) = counts(line) {
            self.row.passed += passed;
            self.row.failed += failed;
            self.closed = true;
        } else if let Some(words) = line.strip_prefix(REMARK)
            && !words.starts_with(LOG)
        {
            self.row.measured.push(words.trim().to_owned());
        }
    }
}

/// The rows as members of a JSON object.
pub(super) fn json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let not_run = row.not_run.iter().map(|(name, why)| {
            let (name, why) = (quoted(name), quoted(why));
            format!(r#"{{"case":{name},"why":{why}}}"#)
        });
        let measured = row.measured.iter().map(|words| quoted(words));
        format!(
            r#"{{"suite":{},"passed":{},"failed":{},"seconds":{:.1},"not_run":[{}],"measured":[{}]}}"#,
            quoted(row.suite),
            row.passed,
            row.failed,
            row.seconds,
            not_run.collect::<Vec<_>>().join(","),
            measured.collect::<Vec<_>>().join(",\n"),
        )
    });
    format!(r#""suites":[{}]"#, rows.collect::<Vec<_>>().join(",\n"))
}

/// What a case says beside its result is indented like this.
const REMARK: &str = "      ";
/// A log that is shown after a failure, like this.
const LOG: char = '|';

/// Reads our closing line, `3 passed, 0 failed`, or one of cargo's.
fn counts(line: &str) -> Option<(u32, u32)> {
    let (rest, separator) = match line.strip_prefix("test result: ") {
        Some(rest) => (rest.split_once(". ")?.1, "; "),
        None => (line, ", "),
    };
    let mut parts = rest.split(separator);
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

/// Prints the table and the totals; false if anything failed, or, where nobody watches, did not run.
pub(super) fn print(rows: &[Row], allowed: &str, strict: bool) -> bool {
    let is_allowed = |name: &str| allowed.lines().any(|line| line.trim() == name);
    let mut good = true;
    println!();
    print_row("suite", "passed", "failed", "not run", "seconds");
    let (mut passed, mut failed) = (0, 0);
    for row in rows {
        passed += row.passed;
        failed += row.failed;
        let seconds = format!("{:.1}", row.seconds);
        print_row(
            row.suite,
            row.passed,
            row.failed,
            row.not_run.len(),
            seconds,
        );
        for (name, why) in &row.not_run {
            println!("  not run: {name}: {why}");
            good &= !strict || is_allowed(name);
        }
    }
    println!("{passed} passed, {failed} failed");
    good && failed == 0
}

fn print_row(
    suite: impl Display,
    passed: impl Display,
    failed: impl Display,
    not_run: impl Display,
    seconds: impl Display,
) {
    println!("{suite:<12} {passed:>7} {failed:>7} {not_run:>8} {seconds:>8}");
}

const LONGEST_LINE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        assert_eq!(counts("3 passed, 1 failed"), Some((3, 1)));
        assert_eq!(counts("3 passed, 1 failed, 2 skipped"), Some((3, 1)));
        let cargo = "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured";
        assert_eq!(counts(cargo), Some((4, 2)));
        assert_eq!(counts("running 3 tests"), None);
    }

    #[test]
    fn a_suite_without_a_closing_line_has_failed() {
        let mut reader = Reader::new("esp");
        reader.read(b"ok 0.1 s  a_case\n").expect("short line");
        assert_eq!(reader.finish(Ok(true), Duration::ZERO).failed, 1);
    }

    #[test]
    fn a_skipped_case_carries_its_reason() {
        let mut reader = Reader::new("esp");
        let said = b"skipped   0.00 s  a_case\n      no NAT here\n0 passed, 0 failed, 1 skipped\n";
        reader.read(said).expect("short lines");
        let row = reader.finish(Ok(true), Duration::ZERO);
        assert_eq!(
            row.not_run,
            [("a_case".to_owned(), "no NAT here".to_owned())]
        );
        assert!(!print(&[row], "", true));
    }
}
