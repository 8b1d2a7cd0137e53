//! `cargo xtask interop`: Rekindle against foreign IKE daemons, feature by feature, in one lab; and the
//! page of the documentation that is made from it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::lab::{Kernel, Lab};
use crate::places::{Findings, Places};
use crate::{build, results, setup, shell};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print one JSON object on stdout; the table goes to stderr.
    #[arg(long)]
    json: bool,
    /// Fetch what is missing without asking.
    #[arg(long)]
    yes: bool,
    /// Only cases with all of these in "PEER ROLE CASE", such as `libreswan` or `initiator`. Only a
    /// whole run is kept in the documentation.
    filter: Vec<String>,
}

pub(crate) fn run(places: &Places, arguments: &Arguments) -> Result<ExitCode> {
    for line in setup::ensure(places, &setup::PEERS, arguments.yes)? {
        eprintln!("xtask: {line}");
    }
    let mut show = shell::progress(arguments.json);
    let (rows, good) = matrix(places, &arguments.filter, &mut show)?;
    if arguments.json {
        println!("{{{rows}}}");
    }
    if arguments.filter.is_empty() {
        for file in keep(places, &rows)? {
            eprintln!("xtask: wrote {}", file.display());
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays all cases that the filter lets through; the result is the `interop` member of a JSON object,
/// and whether none failed.
pub(crate) fn matrix(
    places: &Places,
    filter: &[String],
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<(String, bool)> {
    let binaries = build::host(places, false)?;
    // For the sockets' lanes, which a daemon without a gate has too.
    build::gate(places)?;
    let kernel = Kernel::with_esp(places)?;
    let folder = Findings::create(places, "interop")?;
    let file = folder.file("interop.json");
    let program = binaries.join("interop").display().to_string();
    let command: Vec<String> = [program, file.display().to_string()]
        .into_iter()
        .chain(filter.iter().cloned())
        .collect();
    let lab = Lab {
        kernel,
        interactive: false,
        limit: LIMIT,
    };
    let status = lab.run(places, &command, show)?;
    ensure!(file.is_file(), "the cases ended with status {status}");
    let rows = fs::read_to_string(&file).context("the rows")?;
    Ok((format!(r#""interop":{}"#, rows.trim()), status == 0))
}

/// Writes `docs/results/interop.json` and from it `docs/interop.md`.
pub(crate) fn keep(places: &Places, rows: &str) -> Result<[PathBuf; 2]> {
    let kept = results::write(places, "interop", rows)?;
    let text = fs::read_to_string(&kept)?;
    let page = places.root.join("docs/interop.md");
    fs::write(&page, markdown(&text)?).with_context(|| page.display().to_string())?;
    Ok([kept, page])
}

#[derive(Deserialize)]
struct Run {
    commit: String,
    date: String,
    interop: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    peer: String,
    role: String,
    case: String,
    result: String,
    #[serde(default)]
    why: String,
}

fn markdown(text: &str) -> Result<String> {
    let run: Run = serde_json::from_str(text)?;
    let mut page = String::from(include_str!("interop.head.md"));
    let count = |result| {
        run.interop
            .iter()
            .filter(|row| row.result == result)
            .count()
    };
    writeln!(
        page,
        "Run of {} at commit `{}`: {} passed, {} failed, {} lacking.\n",
        run.date,
        run.commit,
        count("pass"),
        count("fail"),
        count("lacks")
    )?;
    let mut peer = "";
    for row in &run.interop {
        if row.peer != peer {
            peer = &row.peer;
            writeln!(
                page,
                "## {peer}\n\n| Case | Rekindle is | Result |\n|---|---|---|"
            )?;
        }
        let result = match row.why.as_str() {
            "" => row.result.clone(),
            why => format!(
                "{}: {}",
                row.result,
                why.replace('|', "\\|").replace('\n', " ")
            ),
        };
        writeln!(page, "| {} | {} | {result} |", row.case, row.role)?;
        let last = run.interop.iter().rfind(|other| other.peer == peer);
        if last.is_some_and(|last| std::ptr::eq(last, row)) {
            page.push('\n');
        }
    }
    Ok(page.trim_end().to_owned() + "\n")
}

/// For the whole matrix, before everything is killed: about twice what it takes on two busy cores.
const LIMIT: Duration = Duration::from_mins(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_table_for_each_peer_and_says_why() {
        let text = r#"{"commit":"abc","date":"2026-01-02","interop":[
            {"peer":"one","role":"initiator","case":"PSK","result":"pass"},
            {"peer":"one","role":"responder","case":"MOBIKE","result":"lacks","why":"a|b"},
            {"peer":"two","role":"initiator","case":"PSK","result":"fail","why":"no"}]}"#;
        let page = markdown(text).unwrap();
        assert!(page.contains("Run of 2026-01-02 at commit `abc`: 1 passed, 1 failed, 1 lacking."));
        assert!(page.contains("## one\n\n| Case |"));
        assert!(page.contains("| MOBIKE | responder | lacks: a\\|b |\n\n## two"));
        assert!(page.ends_with("| PSK | initiator | fail: no |\n"));
    }
}
