//! The tables the pages are made of: rows with their duties, and the state table for readers.

use anyhow::{Context, Result, bail};

/// One row of the checklist.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) level: String,
    /// What is to be done, or the item of the state table, in our own words.
    pub(super) duty: String,
    pub(super) standing: Standing,
}

/// Whether a row can be held against this release.
pub(super) enum Standing {
    Built,
    /// Planned, and why not yet.
    Later(String),
    /// What it is about does not exist here.
    NoFeature(String),
}

impl Row {
    /// Whether it must not be without a test. MAY is a freedom; everything else is a duty.
    pub(super) fn is_duty(&self) -> bool {
        self.level != "MAY"
    }
}

/// One item of the state table: who has what from where.
pub(super) struct Item {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) client: String,
    pub(super) by_value: String,
    pub(super) by_reference: String,
    pub(super) why: String,
}

/// A question of the first discussion, about the row that answers it.
pub(super) struct Question {
    pub(super) id: String,
    pub(super) asked: String,
    pub(super) answer: String,
}

pub(super) fn read() -> Result<Vec<Row>> {
    lines(include_str!("rows.txt"))
        .map(|line| {
            let [id, level, duty, standing] = columns(line)?;
            let standing = match standing.split_once(": ") {
                None if standing.is_empty() => Standing::Built,
                Some(("later", why)) => Standing::Later(why.to_owned()),
                Some(("no-feature", why)) => Standing::NoFeature(why.to_owned()),
                _ => bail!("rows.txt: {id}: unknown standing {standing:?}"),
            };
            Ok(Row {
                id,
                level,
                duty,
                standing,
            })
        })
        .collect()
}

pub(super) fn state() -> Result<Vec<Item>> {
    lines(include_str!("state.txt"))
        .map(|line| {
            let [id, name, client, by_value, by_reference, why] = columns(line)?;
            Ok(Item {
                id,
                name,
                client,
                by_value,
                by_reference,
                why,
            })
        })
        .collect()
}

pub(super) fn questions() -> Result<Vec<Question>> {
    lines(include_str!("questions.txt"))
        .map(|line| {
            let [id, asked, answer] = columns(line)?;
            Ok(Question { id, asked, answer })
        })
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn columns<const N: usize>(line: &str) -> Result<[String; N]> {
    let columns: Vec<_> = line.split('|').map(|part| part.trim().to_owned()).collect();
    columns
        .try_into()
        .ok()
        .with_context(|| format!("not {N} columns: {line}"))
}
