//! What the long runs found, kept beside the documentation: `docs/results/*.json`, each with the commit
//! and the day it was measured.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::places::Places;
use crate::shell;

/// Writes `docs/results/NAME.json`; `members` are those of the object, without braces.
pub(crate) fn write(places: &Places, name: &str, members: &str) -> Result<PathBuf> {
    let read = |program: &str, words: &str| {
        let mut command = Command::new(program);
        command.args(words.split(' ')).current_dir(&places.root);
        shell::read(&mut command)
    };
    let commit = read("git", "describe --always --abbrev=12 --exclude=*")?;
    // A tree with changes is not the commit it started from, and the name says so. What an earlier
    // part of the same run has written changes nothing that is measured.
    let changes = read(
        "git",
        "status --porcelain --untracked-files=no -- . :!docs/results :!docs/interop.md",
    )?;
    let dirty = if changes.is_empty() { "" } else { "-dirty" };
    let date = read("date", "-u +%Y-%m-%d")?;
    let text = format!(
        "{{\"commit\":{},\"date\":{},\n{members}}}\n",
        quoted(&format!("{}{dirty}", commit.trim())),
        quoted(date.trim())
    );
    let folder = places.root.join("docs/results");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.json"));
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(file)
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            _ if letter.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_json_wants_it() {
        assert_eq!(quoted("a \"b\" \\ \n"), r#""a \"b\" \\ \u000a""#);
    }
}
