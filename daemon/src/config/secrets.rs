//! Pre-shared keys by name and by identity: `[secrets.NAME]` in files that the world cannot read.

use std::collections::BTreeMap;

use ike::{crypto::Secret, wire::id::Identity};

use super::{
    authentication::identity,
    connection::{bad_name, is_name},
    credential::pre_shared,
    document::quoted,
    section::{Entry, Section},
};

const KEYS: &[&str] = &["id", "secret"];

/// All entries of all files.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    named: BTreeMap<String, (Vec<Identity>, Secret)>,
}

impl Secrets {
    /// Takes the entries of one `secrets` table.
    pub(super) fn take(&mut self, table: &Section<'_>) {
        for (name, entry) in table.entries() {
            if !is_name(name) {
                entry.fail(bad_name());
            } else if self.named.contains_key(name) {
                entry.fail("is defined twice; rename one");
            } else if let Some(secret) = read(entry) {
                self.named.insert(name.to_owned(), secret);
            }
        }
    }

    /// The value of `psk = "..."`.
    #[expect(clippy::unused_self, reason = "the three ways to a secret read alike")]
    pub(super) fn inline(&self, entry: &Entry<'_>) -> Option<Secret> {
        if !entry.document.is_private() {
            entry.fail(
                "everybody on this machine can read this file; chmod 0640 it, or move the key to \
                 secrets.toml",
            );
            return None;
        }
        secret(entry)
    }

    /// The entry that `secret = "NAME"` means.
    pub(super) fn named(&self, entry: &Entry<'_>) -> Option<Secret> {
        let name = entry.string()?;
        let found = self.named.get(name);
        if found.is_none() {
            entry.fail(format!(
                "there is no secret {}; add [secrets.NAME]",
                quoted(name)
            ));
        }
        found.map(|(_, secret)| secret.duplicate())
    }

    /// The first entry with this identity.
    pub(super) fn of(&self, id: &Identity) -> Option<Secret> {
        let found = self.named.values().find(|(ids, _)| ids.contains(id));
        found.map(|(_, secret)| secret.duplicate())
    }
}

fn read(entry: Entry<'_>) -> Option<(Vec<Identity>, Secret)> {
    let section = entry.table()?.only(KEYS);
    let ids = match section.entry("id") {
        None => Some(Vec::new()),
        Some(entry) => entry
            .strings()?
            .iter()
            .map(|(_, element)| identity(element))
            .collect::<Vec<_>>()
            .into_iter()
            .collect(),
    };
    let Some(entry) = section.entry("secret") else {
        section.fail(
            "secret",
            "is missing; write secret = \"0x...\", \"0s...\" or text",
        );
        return None;
    };
    let secret = secret(&entry);
    Some((ids?, secret?))
}

fn secret(entry: &Entry<'_>) -> Option<Secret> {
    pre_shared(entry.string()?)
        .map_err(|what| entry.fail(what))
        .ok()
}
