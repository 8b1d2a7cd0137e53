//! Whose tickets the operator has revoked, and until when those were issued: what a peer holds is
//! refused although its SA is long gone and only the ticket itself knows of it.
//!
//! An entry is on disk before the operator is told that it is done, and goes when the last ticket that
//! it can concern has expired. If the file cannot be read, nobody knows who is in it: then everything
//! issued until that was found out counts as revoked.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use ike::wire::id::Identity;
use serde::{Deserialize, Serialize};

use super::durable::{self, DurableError, Magic};

/// Peers whose tickets can be revoked at once. For more there is the retirement of all keys.
pub const MAX_REVOCATIONS: usize = 1024;
/// Longest text of a peer's identity, in octets.
const MAX_PEER: usize = 2048;
/// Longest file.
const MAX_FILE: usize = 256 << 10;
const MAGIC: Magic = *b"rkrevoc\x01";
const FILE: &str = "revocations";

/// Why tickets are not revoked, or not for long.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// Peers as many as there may be.
    #[error(
        "the tickets of {MAX_REVOCATIONS} peers are revoked already, and may still be presented"
    )]
    Full,
    /// No identity is so long.
    #[error("an identity has at most {MAX_PEER} octets as text")]
    TooLong,
    /// In force, but a restart will forget it.
    #[error("in force until the daemon ends, but not on disk: {0}")]
    Volatile(DurableError),
    /// The file could not be read when the daemon started.
    #[error(
        "{}: who is revoked cannot be read ({why}), so all tickets issued before this start are \
         refused. Put the file back from a copy, or move it away, which forgets what was revoked; then \
         restart",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// In which way.
        why: String,
    },
}

/// One peer whose tickets are revoked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Revocation {
    /// Its identity as text: as the operator gave it.
    pub peer: String,
    /// What was issued up to then is void. Unix seconds.
    pub until: u64,
    /// When the last of these tickets has expired. Unix seconds.
    pub forget_at: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Revocations {
    path: PathBuf,
    /// The first worker's writes the file.
    copy: bool,
    entries: Vec<Revocation>,
    /// Where to look: every login asks. By identity, and by what is shown of one that has no other text.
    by_id: HashMap<Identity, u64>,
    by_text: HashMap<String, u64>,
    /// When the first of the epochs that are honoured is over.
    honoured_until: Option<u64>,
    /// Since when, and why, nobody knows what the file says.
    unreadable: Option<(u64, String)>,
}

impl Revocations {
    /// Reads the file; there need not be one. `now` is Unix time. One that cannot be read is left as it
    /// is, and [`Self::trouble`] says so.
    #[must_use]
    pub fn open(folder: &Path, now: u64) -> Self {
        let path = folder.join(FILE);
        let mut opened = Self {
            path,
            copy: false,
            entries: Vec::new(),
            by_id: HashMap::new(),
            by_text: HashMap::new(),
            honoured_until: None,
            unreadable: None,
        };
        match durable::read_up_to::<Vec<Revocation>>(MAX_FILE, &opened.path, MAGIC) {
            Ok(entries) => opened.entries = entries.unwrap_or_default(),
            Err(DurableError::Io { source, .. }) => {
                opened.unreadable = Some((now, source.to_string()));
            }
            Err(DurableError::Damaged { why, .. }) => {
                opened.unreadable = Some((now, why.to_owned()));
            }
        }
        opened.index();
        opened
    }

    /// The same once more, for a worker. All are told of every revocation; only the first one's goes on disk.
    #[must_use]
    pub fn for_worker(&self, worker: u8) -> Self {
        Self {
            path: self.path.clone(),
            copy: worker > 0,
            entries: self.entries.clone(),
            by_id: self.by_id.clone(),
            by_text: self.by_text.clone(),
            honoured_until: self.honoured_until,
            unreadable: self.unreadable.clone(),
        }
    }

    /// What an operator should know of the file.
    #[must_use]
    pub fn trouble(&self) -> Option<RevocationError> {
        let (_, why) = self.unreadable.as_ref()?;
        Some(RevocationError::Unreadable {
            path: self.path.clone(),
            why: why.clone(),
        })
    }

    /// Revokes what was issued to a peer up to `now`, durably; `forget_at` is when the last of it will
    /// have expired. Both are Unix seconds.
    pub fn revoke(&mut self, peer: &str, now: u64, forget_at: u64) -> Result<(), RevocationError> {
        if let Some(trouble) = self.trouble() {
            // Whatever is written would look as if it were all.
            return Err(trouble);
        }
        if peer.len() > MAX_PEER {
            return Err(RevocationError::TooLong);
        }
        self.forget(now);
        let full = self.entries.len() >= MAX_REVOCATIONS;
        match self.entries.iter_mut().find(|entry| entry.peer == peer) {
            // Never back, whatever the clock does.
            Some(entry) => {
                entry.until = entry.until.max(now);
                entry.forget_at = entry.forget_at.max(forget_at);
            }
            None if full => return Err(RevocationError::Full),
            None => self.entries.push(Revocation {
                peer: peer.to_owned(),
                until: now,
                forget_at,
            }),
        }
        self.index();
        self.save().map_err(RevocationError::Volatile)
    }

    /// Up to when whatever was issued to this peer is void, in Unix seconds.
    #[must_use]
    pub fn until(&self, peer: &Identity) -> Option<u64> {
        let unreadable = self.unreadable.as_ref().map(|(since, _)| *since);
        if self.entries.is_empty() {
            return unreadable;
        }
        let (by_id, by_text) = (self.by_id.get(peer), self.by_text.get(&peer.to_string()));
        let until = by_id.into_iter().chain(by_text).copied();
        until.chain(unreadable).max()
    }

    /// Forgets what concerns no ticket any more. `now` is Unix time.
    pub fn expire(&mut self, now: u64) -> Result<(), RevocationError> {
        let before = self.entries.len();
        self.forget(now);
        if self.entries.len() == before {
            return Ok(());
        }
        self.index();
        self.save().map_err(RevocationError::Volatile)
    }

    /// Tells when the first of the epochs that are honoured is over. Until it is, a revocation that
    /// concerns its tickets is kept: the clock may have leapt, and be set right.
    pub(super) const fn set_honoured(&mut self, until: Option<u64>) {
        self.honoured_until = until;
    }

    fn forget(&mut self, now: u64) {
        let honoured = self.honoured_until;
        self.entries.retain(|Revocation { forget_at, .. }| {
            now < *forget_at || honoured.is_some_and(|until| until <= *forget_at)
        });
    }

    /// Every entry, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Revocation] {
        &self.entries
    }

    fn index(&mut self) {
        let text = |entry: &Revocation| (entry.peer.clone(), entry.until);
        self.by_text = self.entries.iter().map(text).collect();
        let id = |entry: &Revocation| Some((Identity::from_text(&entry.peer)?, entry.until));
        self.by_id.clear();
        // Two texts may be one identity; the later revocation counts.
        for (id, until) in self.entries.iter().filter_map(id) {
            let known = self.by_id.entry(id).or_default();
            *known = until.max(*known);
        }
    }

    fn save(&self) -> Result<(), DurableError> {
        if self.copy {
            return Ok(());
        }
        durable::write_up_to(MAX_FILE, &self.path, MAGIC, &self.entries)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn id(text: &str) -> Identity {
        Identity::from_text(text).expect("an identity")
    }

    // RFC 5723: L9, A21
    #[test]
    fn what_is_revoked_stays_so_over_a_restart_until_its_last_ticket_has_expired() {
        let folder = tempfile::tempdir().expect("folder");
        let mut list = Revocations::open(folder.path(), NOW);
        assert!(list.trouble().is_none() && list.until(&id("a@b")).is_none());
        list.revoke("a@b", NOW, NOW + 100).expect("revoke");
        list.revoke("gw.example", NOW + 5, NOW + 50)
            .expect("revoke");
        list.revoke("a@b", NOW + 7, NOW + 90).expect("once more");
        drop(list);
        let mut list = Revocations::open(folder.path(), NOW + 10);
        assert_eq!(list.until(&id("a@b")), Some(NOW + 7));
        assert_eq!(list.until(&id("@gw.example")), Some(NOW + 5));
        assert_eq!(list.until(&id("c@b")), None);
        list.expire(NOW + 50).expect("expire");
        assert_eq!(list.until(&id("gw.example")), None);
        list.expire(NOW + 99).expect("expire");
        let list = Revocations::open(folder.path(), NOW + 99);
        assert_eq!(list.entries().len(), 1);
        assert_eq!(list.until(&id("a@b")), Some(NOW + 7));
        assert_eq!(list.entries()[0].forget_at, NOW + 100);
    }

    #[test]
    fn a_copy_refuses_the_same_and_leaves_the_file_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let mut list = Revocations::open(folder.path(), NOW);
        list.revoke("a@b", NOW, NOW + 100).expect("revoke");
        let mut copy = list.for_worker(1);
        assert_eq!(copy.until(&id("a@b")), Some(NOW));
        copy.revoke("c@d", NOW, NOW + 100).expect("revoke");
        assert_eq!(copy.until(&id("c@d")), Some(NOW));
        let opened = Revocations::open(folder.path(), NOW);
        assert_eq!(opened.until(&id("c@d")), None);
    }

    #[test]
    fn a_damaged_file_is_said_and_left_and_nothing_from_before_it_is_honoured() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(FILE);
        let mut list = Revocations::open(folder.path(), NOW);
        list.revoke("a@b", NOW, NOW + 100).expect("revoke");
        let whole = fs::read(&path).expect("read");
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("cut");
            let mut list = Revocations::open(folder.path(), NOW + 9);
            assert_eq!(list.until(&id("c@b")), Some(NOW + 9), "anybody");
            let trouble = list.trouble().expect("said").to_string();
            assert!(trouble.contains(path.to_str().expect("path")), "{trouble}");
            assert!(trouble.contains("from a copy"), "{trouble}");
            list.revoke("c@b", NOW + 10, NOW + 100)
                .expect_err("not over it");
            list.expire(NOW + 1000).expect("nothing to do");
            assert_eq!(fs::read(&path).expect("read"), &whole[..end]);
        }
        fs::write(&path, &whole).expect("a good copy");
        let list = Revocations::open(folder.path(), NOW + 9);
        assert_eq!(
            (list.until(&id("c@b")), list.until(&id("a@b"))),
            (None, Some(NOW))
        );
    }

    #[test]
    fn their_number_and_length_are_bounded_and_room_comes_back() {
        let folder = tempfile::tempdir().expect("folder");
        let mut list = Revocations::open(folder.path(), NOW);
        let entry = |number| Revocation {
            peer: format!("{number}@example"),
            until: NOW,
            forget_at: NOW + 10 + number / 1000,
        };
        list.entries = (0..MAX_REVOCATIONS as u64).map(entry).collect();
        list.index();
        let full = list.revoke("one@more", NOW, NOW + 100);
        assert!(matches!(full, Err(RevocationError::Full)), "{full:?}");
        assert_eq!(list.until(&id("one@more")), None);
        list.revoke("7@example", NOW + 1, NOW + 100).expect("known");
        assert_eq!(list.until(&id("7@example")), Some(NOW + 1));
        list.revoke("one@more", NOW + 10, NOW + 100).expect("room");
        assert_eq!(list.until(&id("one@more")), Some(NOW + 10));
        let long = list.revoke(&"x".repeat(MAX_PEER + 1), NOW, NOW + 1);
        assert!(matches!(long, Err(RevocationError::TooLong)), "{long:?}");
    }

    #[test]
    fn what_is_not_on_disk_is_in_force_and_said() {
        let folder = tempfile::tempdir().expect("folder");
        let mut list = Revocations::open(folder.path(), NOW);
        fs::create_dir(folder.path().join(FILE)).expect("a folder in its place");
        let failed = list.revoke("a@b", NOW, NOW + 100);
        assert!(
            matches!(failed, Err(RevocationError::Volatile(_))),
            "{failed:?}"
        );
        assert_eq!(list.until(&id("a@b")), Some(NOW));
    }
}
