//! Configuration files as text with places in them, and the list of everything that is wrong with
//! them. A problem never quotes a value that could be a secret.

use std::{
    cell::RefCell,
    fmt, fs, io,
    io::Read as _,
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;
use zeroize::Zeroizing;

/// Problems that are listed; the rest is only counted.
pub const MAX_PROBLEMS: usize = 50;
/// Longest configuration file, in octets.
pub const MAX_FILE_OCTETS: u64 = 4 << 20;
/// Longest excerpt of a value in a message, in characters.
const MAX_QUOTE: usize = 60;
/// Permission bits that let anybody on the machine in.
const WORLD_BITS: u32 = 0o007;

/// One thing that is wrong, with its place, cause and cure.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1; `None` when the whole file is meant.
    pub place: Option<(usize, usize)>,
    /// Dotted path of the key; empty for the syntax itself.
    pub key: String,
    /// What is wrong and what to do about it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Everything that keeps a configuration from being used, one problem a line.
#[derive(Clone, Debug, Default, Eq, Error, PartialEq)]
pub struct ConfigErrors {
    /// The first [`MAX_PROBLEMS`], in the order found.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub unlisted: usize,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.unlisted > 0 {
            write!(f, "\n... and {} more", self.unlisted)?;
        }
        Ok(())
    }
}

/// Collects problems while the reading goes on.
#[derive(Debug, Default)]
pub(super) struct Sink(RefCell<ConfigErrors>);

impl Sink {
    pub(super) fn push(&self, problem: Problem) {
        let mut errors = self.0.borrow_mut();
        if errors.problems.len() < MAX_PROBLEMS {
            errors.problems.push(problem);
        } else {
            errors.unlisted += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().problems.is_empty()
    }

    pub(super) fn into_inner(self) -> ConfigErrors {
        self.0.into_inner()
    }
}

/// One file, wiped after use because it may hold secrets.
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) text: Zeroizing<String>,
    mode: u32,
}

impl Document {
    /// Reads a whole file; `None`, with a problem noted, if that cannot be done.
    pub(super) fn read(path: &Path, sink: &Sink) -> Option<Self> {
        let fail = |what: String| {
            sink.push(Problem {
                file: path.to_path_buf(),
                place: None,
                key: String::new(),
                what,
            });
        };
        let (octets, mode) = read_bounded(path, MAX_FILE_OCTETS)
            .map_err(|error| fail(format!("cannot be read: {error}")))
            .ok()?;
        let text = std::str::from_utf8(&octets)
            .map_err(|_| fail("is not UTF-8 text".to_owned()))
            .ok()?;
        Some(Self {
            path: path.to_path_buf(),
            text: Zeroizing::new(text.to_owned()),
            mode,
        })
    }

    /// Whether only owner and group may touch the file, so that it may hold secrets.
    pub(super) const fn is_private(&self) -> bool {
        self.mode & WORLD_BITS == 0
    }

    pub(super) fn problem(&self, span: &Range<usize>, key: &str, what: String) -> Problem {
        Problem {
            file: self.path.clone(),
            place: Some(self.place(span.start)),
            key: key.to_owned(),
            what,
        }
    }

    fn place(&self, offset: usize) -> (usize, usize) {
        let octets = self.text.as_bytes();
        let before = octets.get(..offset.min(octets.len())).unwrap_or_default();
        let line = before.split(|&octet| octet == b'\n').count();
        let start = before
            .iter()
            .rposition(|&octet| octet == b'\n')
            .map_or(0, |at| at + 1);
        let column = before
            .iter()
            .skip(start)
            // Continuation octets of UTF-8 do not start a character.
            .filter(|&&octet| octet & 0xc0 != 0x80)
            .count();
        (line, column + 1)
    }
}

/// Reads a regular file of at most `limit` octets, with its permission bits.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
    // Asked before opening: opening a FIFO would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > limit {
        return Err(io::Error::other(format!("longer than {limit} octets")));
    }
    let mut octets = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(limit).read_to_end(&mut octets)?;
    Ok((octets, metadata.permissions().mode()))
}

/// Whether permission bits keep everybody but owner and group out.
pub(super) const fn keeps_world_out(mode: u32) -> bool {
    mode & WORLD_BITS == 0
}

/// A value or a key for a message: escaped, bounded, in quotes.
pub(super) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(MAX_QUOTE).collect();
    let dots = if cut.len() < text.len() { "..." } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}
