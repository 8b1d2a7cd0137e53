//! Which reqid belongs to which owner, kept over restarts so that what an earlier run left in the
//! kernel is found again. A line is appended before the kernel hears of a new owner.
//!
//! ```text
//! rekindle-reqids 1
//! 52000003 office/net/CN=carol
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ike::kernel::Owner;

use super::DataplaneError;

/// Our reqids. Daemons that count from one never get here.
pub(super) const REQIDS: std::ops::Range<u32> = 0x5200_0000..0x5300_0000;
/// Owners remembered at once.
pub(super) const MAX_OWNERS: usize = 65_536;
/// Octets of an owner's name; distinguished names are the long ones.
pub(super) const MAX_OWNER: usize = 1024;
const FIRST_LINE: &str = "rekindle-reqids 1\n";

/// Owners and their reqids, in memory and on disk.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Octets of the whole lines in it.
    length: u64,
    by_owner: HashMap<Owner, u32>,
    by_reqid: BTreeMap<u32, Owner>,
    /// Of our range, but some owner's that the journal does not know.
    strange: BTreeSet<u32>,
    next: u32,
}

impl Journal {
    /// Reads the journal, or starts one. Lines that a crash cut short are left out.
    pub(super) fn open(path: PathBuf) -> Result<Self, DataplaneError> {
        let text = match fs::read(&path) {
            Ok(octets) => String::from_utf8_lossy(&octets).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(DataplaneError::Journal { path, source }),
        };
        let pairs: BTreeMap<u32, Owner> = text
            .split_inclusive('\n')
            .skip(1)
            .filter_map(parse_line)
            .collect();
        let failed = |source| DataplaneError::Journal {
            path: path.clone(),
            source,
        };
        let (file, length) = rewrite(&path, &pairs).map_err(failed)?;
        settle(&path).map_err(failed)?;
        let next = pairs
            .keys()
            .next_back()
            .map_or(REQIDS.start, |last| last + 1);
        Ok(Self {
            path,
            file,
            length,
            by_owner: pairs
                .iter()
                .map(|(reqid, owner)| (owner.clone(), *reqid))
                .collect(),
            by_reqid: pairs,
            strange: BTreeSet::new(),
            next,
        })
    }

    /// The owner of a reqid found in the kernel; `None` means that it is not ours.
    pub(super) fn owner(&self, reqid: u32) -> Option<&Owner> {
        self.by_reqid.get(&reqid)
    }

    /// The reqid of an owner that has one.
    pub(super) fn reqid(&self, owner: &Owner) -> Option<u32> {
        self.by_owner.get(owner).copied()
    }

    /// Gives these to no owner: the kernel has something under them, of whom the journal does not say.
    pub(super) fn avoid(&mut self, reqids: BTreeSet<u32>) {
        self.strange = reqids;
    }

    /// The owner's reqid, written down before it is returned. `live` are the reqids that the kernel
    /// knows: all others may be forgotten when the table is full.
    pub(super) fn assign(
        &mut self,
        owner: &Owner,
        live: impl Fn(u32) -> bool,
    ) -> Result<u32, DataplaneError> {
        if let Some(reqid) = self.reqid(owner) {
            return Ok(reqid);
        }
        if self.by_owner.len() >= MAX_OWNERS {
            let keep = self
                .by_reqid
                .keys()
                .copied()
                .filter(|reqid| live(*reqid))
                .collect();
            self.retain(&keep)?;
            if self.by_owner.len() >= MAX_OWNERS {
                return Err(DataplaneError::OwnersExhausted(MAX_OWNERS));
            }
        }
        // The tables are far smaller than the range, so this ends.
        let taken = |reqid| self.by_reqid.contains_key(&reqid) || self.strange.contains(&reqid);
        while !REQIDS.contains(&self.next) || taken(self.next) {
            let next = self.next.wrapping_add(1);
            self.next = if REQIDS.contains(&next) {
                next
            } else {
                REQIDS.start
            };
        }
        let reqid = self.next;
        self.next += 1;
        let line = line(reqid, owner);
        // What a write has left that failed half-way would become a part of this line.
        let cut = self.file.set_len(self.length);
        cut.and_then(|()| self.file.write_all(line.as_bytes()))
            .map_err(|source| DataplaneError::Journal {
                path: self.path.clone(),
                source,
            })?;
        self.length += line.len() as u64;
        self.by_owner.insert(owner.clone(), reqid);
        self.by_reqid.insert(reqid, owner.clone());
        Ok(reqid)
    }

    /// Forgets every owner but these.
    pub(super) fn retain(&mut self, keep: &HashSet<u32>) -> Result<(), DataplaneError> {
        self.by_reqid.retain(|reqid, _| keep.contains(reqid));
        self.by_owner.retain(|_, reqid| keep.contains(reqid));
        let failed = |source| DataplaneError::Journal {
            path: self.path.clone(),
            source,
        };
        // In use at once: the one before has no name any more.
        (self.file, self.length) = rewrite(&self.path, &self.by_reqid).map_err(failed)?;
        settle(&self.path).map_err(failed)
    }
}

fn parse_line(text: &str) -> Option<(u32, Owner)> {
    // Without its line feed the line was being written when the power went.
    let (reqid, owner) = text.strip_suffix('\n')?.split_once(' ')?;
    let reqid = u32::from_str_radix(reqid, 16).ok()?;
    let plausible = REQIDS.contains(&reqid)
        && !owner.is_empty()
        && owner.len() <= MAX_OWNER
        && !owner.contains(char::is_control);
    plausible.then(|| (reqid, Owner(Arc::from(owner))))
}

fn line(reqid: u32, owner: &Owner) -> String {
    format!("{reqid:08x} {}\n", owner.0)
}

/// Replaces the file as a whole: a crash leaves the old one or the new one. Returns it with its length.
fn rewrite(path: &Path, pairs: &BTreeMap<u32, Owner>) -> io::Result<(File, u64)> {
    let fresh = path.with_extension("new");
    let mut text = String::from(FIRST_LINE);
    text.extend(pairs.iter().map(|(reqid, owner)| line(*reqid, owner)));
    // Opened for appending and kept: after the rename it is the journal.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    Ok((file, text.len() as u64))
}

/// Makes the new file the one that a power cut leaves.
fn settle(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(text: &str) -> Owner {
        Owner(Arc::from(text))
    }

    #[test]
    fn owners_keep_their_reqid_over_restarts() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("reqids");
        let mut journal = Journal::open(path.clone()).expect("open");
        let a = journal.assign(&owner("a/b/c d"), |_| true).expect("assign");
        let b = journal.assign(&owner("x/y/z"), |_| true).expect("assign");
        assert_ne!(a, b);
        drop(journal);
        let mut journal = Journal::open(path).expect("reopen");
        assert_eq!(journal.owner(a), Some(&owner("a/b/c d")));
        assert_eq!(
            journal.assign(&owner("x/y/z"), |_| true).expect("assign"),
            b
        );
        let c = journal.assign(&owner("new"), |_| true).expect("assign");
        assert!(c != a && c != b);
    }

    #[test]
    fn a_line_cut_short_costs_only_itself() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("reqids");
        let mut journal = Journal::open(path.clone()).expect("open");
        let a = journal.assign(&owner("first"), |_| true).expect("assign");
        let b = journal.assign(&owner("second"), |_| true).expect("assign");
        drop(journal);
        let whole = fs::read(&path).expect("read");
        let cut = whole.len() - 3;
        fs::write(&path, &whole[..cut]).expect("cut");
        let mut journal = Journal::open(path.clone()).expect("reopen");
        assert_eq!(journal.owner(a), Some(&owner("first")));
        assert_eq!(journal.owner(b), None);
        journal.assign(&owner("third"), |_| true).expect("assign");
        drop(journal);
        let journal = Journal::open(path).expect("reopen");
        assert_eq!(journal.by_reqid.len(), 2);
        assert!(journal.reqid(&owner("third")).is_some());
    }

    #[test]
    fn a_line_that_a_full_disk_cut_short_costs_only_itself() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("reqids");
        let mut journal = Journal::open(path.clone()).expect("open");
        let a = journal.assign(&owner("first"), |_| true).expect("assign");
        // As a write leaves it that had room for a part of the line.
        let mut torn = OpenOptions::new().append(true).open(&path).expect("open");
        torn.write_all(b"52000001 sec").expect("write");
        let b = journal.assign(&owner("third"), |_| true).expect("assign");
        drop(journal);
        let journal = Journal::open(path).expect("reopen");
        assert_eq!(journal.owner(a), Some(&owner("first")));
        assert_eq!(journal.owner(b), Some(&owner("third")));
        assert_eq!(journal.by_reqid.len(), 2);
    }

    #[test]
    fn an_owner_gets_no_reqid_that_the_kernel_has_from_an_unknown_one() {
        let folder = tempfile::tempdir().expect("folder");
        let mut journal = Journal::open(folder.path().join("reqids")).expect("open");
        journal.avoid(BTreeSet::from([REQIDS.start, REQIDS.start + 2]));
        for free in [REQIDS.start + 1, REQIDS.start + 3] {
            let name = owner(&free.to_string());
            assert_eq!(journal.assign(&name, |_| true).expect("assign"), free);
        }
    }

    #[test]
    fn a_new_file_that_was_never_renamed_is_no_obstacle() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("reqids");
        Journal::open(path.clone())
            .expect("open")
            .assign(&owner("kept"), |_| true)
            .expect("assign");
        fs::write(path.with_extension("new"), "half a").expect("write");
        let journal = Journal::open(path).expect("reopen");
        assert!(journal.reqid(&owner("kept")).is_some());
    }

    #[test]
    fn only_live_owners_survive_compaction() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("reqids");
        let mut journal = Journal::open(path.clone()).expect("open");
        let a = journal.assign(&owner("live"), |_| true).expect("assign");
        journal.assign(&owner("gone"), |_| true).expect("assign");
        journal.retain(&HashSet::from([a])).expect("retain");
        drop(journal);
        let journal = Journal::open(path).expect("reopen");
        assert_eq!(journal.by_reqid.len(), 1);
    }
}
