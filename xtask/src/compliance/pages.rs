//! The pages and the JSON made of the findings.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::Finding;
use super::rows::{self, Standing};
use crate::results::quoted;

/// Each row with its level, files, tests and result.
pub(super) fn compliance(findings: &[Finding<'_>]) -> String {
    let mut out = HEAD.to_owned();
    for (title, of) in [
        ("Later", reason_later as fn(&Standing) -> Option<&str>),
        ("No feature", reason_no_feature),
    ] {
        let _ = writeln!(out, "\n## {title}\n");
        let mut none = true;
        for finding in findings {
            if let Some(why) = of(&finding.row.standing) {
                let _ = writeln!(out, "- {} ({}): {why}", finding.row.id, finding.row.level);
                none = false;
            }
        }
        if none {
            out.push_str("None.\n");
        }
    }
    for (title, first) in SECTIONS {
        let _ = writeln!(out, "\n## {title}\n\n{COLUMNS}");
        let inside = |finding: &&Finding<'_>| finding.row.id.starts_with(*first);
        for finding in findings.iter().filter(inside) {
            let Finding {
                row,
                files,
                tests,
                outcome,
            } = finding;
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {outcome} |",
                row.id,
                row.level,
                row.duty,
                listed(files),
                listed(tests),
            );
        }
    }
    out
}

/// The state table for readers, and the questions it answers.
pub(super) fn resumption(findings: &[Finding<'_>]) -> Result<String> {
    let tests = |id: &str| {
        let found = findings.iter().find(|finding| finding.row.id == id);
        let found = found.with_context(|| format!("{id} is no row"))?;
        Ok::<_, anyhow::Error>(if found.tests.is_empty() {
            found.outcome.to_owned()
        } else {
            listed(&found.tests)
        })
    };
    let mut out = STATE_HEAD.to_owned();
    for item in rows::state()? {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            item.id,
            item.name,
            item.client,
            item.by_value,
            item.by_reference,
            item.why,
            tests(&item.id)?,
        );
    }
    out.push_str(QUESTIONS_HEAD);
    for question in rows::questions()? {
        let rows::Question { id, asked, answer } = question;
        let _ = writeln!(
            out,
            "\n**{asked}** ({id}) {answer} *Shown by:* {}.",
            tests(&id)?
        );
    }
    Ok(out)
}

/// `{"compliance":[{"id":..,"level":..,"file":..,"test":..,"result":..}]}`.
pub(super) fn json(findings: &[Finding<'_>]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let files: Vec<_> = finding.files.iter().map(String::as_str).collect();
            format!(
                r#"{{"id":{},"level":{},"file":{},"test":{},"result":{}}}"#,
                quoted(&finding.row.id),
                quoted(&finding.row.level),
                quoted(&files.join(" ")),
                quoted(&finding.tests.join(" ")),
                quoted(finding.outcome),
            )
        })
        .collect();
    format!(r#"{{"compliance":[{}]}}"#, rows.join(",\n"))
}

fn reason_later(standing: &Standing) -> Option<&str> {
    match standing {
        Standing::Later(why) => Some(why),
        _ => None,
    }
}

fn reason_no_feature(standing: &Standing) -> Option<&str> {
    match standing {
        Standing::NoFeature(why) => Some(why),
        _ => None,
    }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: BTreeSet<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.into_iter().collect::<Vec<_>>().join("<br>")
}

const HEAD: &str = include_str!("compliance.head.md");
const STATE_HEAD: &str = include_str!("resumption.head.md");
const QUESTIONS_HEAD: &str = "\n## What the first discussion left open\n";
const COLUMNS: &str = "| row | level | duty | file | test | result |\n|---|---|---|---|---|---|";
const SECTIONS: &[(&str, char)] = &[
    ("Duties with a keyword", 'N'),
    ("Duties without", 'L'),
    ("The state table", 'T'),
    ("Items younger than the table", 'X'),
    ("Notes below the table", 'n'),
    ("Our rulings where the text leaves room", 'A'),
];
