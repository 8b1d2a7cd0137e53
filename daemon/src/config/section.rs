//! Walks a parsed file: tables whose keys are fixed, tables whose keys are names, and values with
//! their places. Whoever asks for a value of the wrong type notes a problem and goes on, so that one
//! run finds everything that is wrong.

use std::{ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::document::{Document, Sink, quoted};

/// Below this similarity, 0 to 1, a known key is not what the operator meant.
const SIMILAR: f64 = 0.7;
/// Most elements of an array.
pub(super) const MAX_ELEMENTS: usize = 64;

/// Keys of `swanctl.conf` that have no place here, and what to do instead.
const FOREIGN_KEYS: &[(&str, &str)] = &[
    (
        "start_action",
        "write start = \"up\" or \"trap\" in the connection instead",
    ),
    ("version", "only IKEv2 is spoken; leave it out"),
];

/// A table.
pub(super) struct Section<'a> {
    pub(super) document: &'a Document,
    table: &'a DeTable<'a>,
    span: Range<usize>,
    path: String,
    sink: &'a Sink,
}

/// A value, or a table on the way to becoming a [`Section`].
pub(super) struct Entry<'a> {
    pub(super) document: &'a Document,
    value: &'a DeValue<'a>,
    span: Range<usize>,
    path: String,
    sink: &'a Sink,
}

impl<'a> Section<'a> {
    pub(super) fn root(
        document: &'a Document,
        table: &'a Spanned<DeTable<'a>>,
        sink: &'a Sink,
    ) -> Self {
        Self {
            document,
            table: table.get_ref(),
            span: 0..0,
            path: String::new(),
            sink,
        }
    }

    /// Notes every key that is not among `known`.
    pub(super) fn only(self, known: &[&str]) -> Self {
        for (key, value) in self.table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let what = match FOREIGN_KEYS.iter().find(|(foreign, _)| *foreign == name) {
                Some((_, cure)) => (*cure).to_owned(),
                None => unknown_key(name, known),
            };
            // A key of a header such as [daemn] has no other place than its own.
            let span = if key.span().is_empty() {
                value.span()
            } else {
                key.span()
            };
            self.sink
                .push(self.document.problem(&span, &join(&self.path, name), what));
        }
        self
    }

    pub(super) fn entry(&self, key: &str) -> Option<Entry<'a>> {
        self.table.get(key).map(|value| self.wrap(key, value))
    }

    /// The table under `key`, whose keys must be among `known`.
    pub(super) fn section(&self, key: &str, known: &[&str]) -> Option<Section<'a>> {
        Some(self.entry(key)?.table()?.only(known))
    }

    /// All entries, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(&'a str, Entry<'a>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let name: &'a str = key.get_ref();
                let mut entry = self.wrap(name, value);
                if !key.span().is_empty() {
                    entry.span = key.span();
                }
                (name, entry)
            })
            .collect();
        entries.sort_by_key(|(_, entry)| entry.span.start);
        entries
    }

    /// Notes a problem with the table as a whole, or with a key that it lacks.
    pub(super) fn fail(&self, key: &str, what: impl Into<String>) {
        let path = if key.is_empty() {
            self.path.clone()
        } else {
            join(&self.path, key)
        };
        self.sink
            .push(self.document.problem(&self.span, &path, what.into()));
    }

    fn wrap(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Entry<'a> {
        Entry {
            document: self.document,
            value: value.get_ref(),
            span: value.span(),
            path: join(&self.path, key),
            sink: self.sink,
        }
    }
}

impl<'a> Entry<'a> {
    pub(super) fn fail(&self, what: impl Into<String>) {
        self.sink
            .push(self.document.problem(&self.span, &self.path, what.into()));
    }

    pub(super) fn table(self) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            self.expected("a table");
            return None;
        };
        Some(Section {
            document: self.document,
            table,
            span: self.span,
            path: self.path,
            sink: self.sink,
        })
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.expected("a string");
        }
        text
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.expected("true or false");
        }
        value
    }

    pub(super) fn integer(&self, bounds: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let Some(number) = self.value.as_integer() else {
            self.expected("a number");
            return None;
        };
        let number = u64::from_str_radix(number.as_str(), number.radix()).ok();
        let number = number.filter(|number| bounds.contains(number));
        if number.is_none() {
            self.fail(format!(
                "must be from {} to {}",
                bounds.start(),
                bounds.end()
            ));
        }
        number
    }

    /// A span of time, `"30s"`, `"5m"`, `"12h"`, `"7d"` or a number of seconds.
    pub(super) fn duration(&self, least: Duration, most: Duration) -> Option<Duration> {
        let seconds = match self.value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) => seconds(text),
            _ => {
                self.expected("a time such as \"30s\", \"5m\", \"12h\" or \"7d\"");
                return None;
            }
        };
        let Some(duration) = seconds.map(Duration::from_secs) else {
            self.fail("is not a time; write one such as \"30s\", \"5m\", \"12h\" or \"7d\"");
            return None;
        };
        if duration < least || duration > most {
            self.fail(format!("must be from {} to {}", shown(least), shown(most)));
            return None;
        }
        Some(duration)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.fail(format!(
                "{} is none of {}{}",
                quoted(text),
                known.join(", "),
                nearest(text, &known)
            ));
        }
        found.map(|(_, value)| *value)
    }

    /// The strings of an array; a lone string counts as an array of one.
    pub(super) fn strings(&self) -> Option<Vec<(&'a str, Entry<'a>)>> {
        let array = match self.value {
            DeValue::String(text) => {
                return Some(vec![(text, self.element(self.span.clone(), self.value))]);
            }
            DeValue::Array(array) => array,
            _ => {
                self.expected("a string or an array of strings");
                return None;
            }
        };
        if array.len() > MAX_ELEMENTS {
            self.fail(format!("has more than {MAX_ELEMENTS} elements"));
            return None;
        }
        array
            .iter()
            .map(|value| {
                let element = self.element(value.span(), value.get_ref());
                element.string().map(|text| (text, element))
            })
            // Every element is looked at, so that each wrong one is noted.
            .collect::<Vec<_>>()
            .into_iter()
            .collect()
    }

    fn element(&self, span: Range<usize>, value: &'a DeValue<'a>) -> Self {
        Self {
            document: self.document,
            value,
            span,
            path: self.path.clone(),
            sink: self.sink,
        }
    }

    fn expected(&self, wanted: &str) {
        self.fail(format!(
            "must be {wanted}, not {}",
            article(self.value.type_str())
        ));
    }
}

fn seconds(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    for (unit, letter) in [(86_400, 'd'), (3600, 'h'), (60, 'm')] {
        if seconds > 0 && seconds.is_multiple_of(unit) {
            return format!("{}{letter}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'i']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

fn unknown_key(name: &str, known: &[&str]) -> String {
    let near = nearest(name, known);
    if near.is_empty() {
        format!("unknown key; known here: {}", known.join(", "))
    } else {
        format!("unknown key{near}")
    }
}

fn nearest(name: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|word| (strsim::jaro_winkler(name, word), word))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, word)| format!("; did you mean {word}?"))
}

/// `path.key`, quoting keys that are not bare ones.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key.len() <= 128
        && key
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-'));
    let key = if bare { key.to_owned() } else { quoted(key) };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}
