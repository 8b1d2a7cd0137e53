//! Lists of revoked certificates, in files: those that a connection names, else all of the folder
//! `x509crl`. They are read when the daemon starts, and again when the operator says so or they have changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use ike::trust::{RevocationList, Revocations};
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject as _};

use super::{
    credential::{CredentialFolders, LISTS, is_pem, unread},
    document::read_bounded,
};

/// Longest file, in octets: a list of a hundred thousand certificates has about four million.
const MAX_LIST_OCTETS: u64 = 16 << 20;
/// Files of the folder, and lists of a file.
const MAX_LISTS: usize = 64;

/// A connection's lists, and what they were read from.
#[derive(Debug, Default)]
pub(super) struct Taker {
    pub(super) revocations: Revocations,
    /// As the connection names them; all of the folder if it names none.
    pub(super) files: Option<Vec<String>>,
}

/// Where the lists of all connections come from.
#[derive(Debug, Default)]
pub struct ListFiles {
    base: PathBuf,
    takers: Vec<Taker>,
    seen: Mutex<Traces>,
    /// Why what is in the files now does not count.
    trouble: Mutex<Option<String>>,
}

/// What the file system says of files without their being read: length and time of the last change.
type Traces = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// What has been read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reread {
    /// Different lists.
    pub lists: usize,
    /// Certificates that they name.
    pub revoked: usize,
}

impl ListFiles {
    pub(super) fn of(folders: &CredentialFolders) -> Self {
        let files = Self {
            base: folders.base.clone(),
            takers: folders.takers.take(),
            seen: Mutex::default(),
            trouble: Mutex::default(),
        };
        *held(&files.seen) = files.traces();
        files
    }

    /// Reads all files again, and lets their lists count in the place of those before. If one cannot be
    /// used, it says which and why, and nothing has changed.
    pub fn reread(&self) -> Result<Reread, String> {
        let done = self.take_all();
        *held(&self.trouble) = done.as_ref().err().cloned();
        done
    }

    /// Why the lists before count still, if what was read last could not be used.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        held(&self.trouble).clone()
    }

    fn take_all(&self) -> Result<Reread, String> {
        // What changes while it is read will be read again.
        *held(&self.seen) = self.traces();
        let folders = CredentialFolders::new(self.base.clone());
        let mut read = Vec::with_capacity(self.takers.len());
        for taker in &self.takers {
            let lists = match &taker.files {
                None => folders.revocations(None)?,
                Some(files) => {
                    let each = files.iter().map(|file| folders.revocations(Some(file)));
                    each.collect::<Result<Vec<_>, _>>()?.concat()
                }
            };
            read.push(lists);
        }
        for (taker, lists) in self.takers.iter().zip(read) {
            taker.revocations.replace(lists);
        }
        Ok(self.count())
    }

    /// How many lists there are, and how many certificates they name.
    #[must_use]
    pub fn count(&self) -> Reread {
        let takers = self.takers.iter();
        let all: BTreeMap<_, _> = takers.flat_map(|taker| taker.revocations.sizes()).collect();
        Reread {
            lists: all.len(),
            revoked: all.values().sum(),
        }
    }

    /// Reads them again if they look as if they had changed since they were read last, or found damaged.
    pub fn follow(&self) -> Option<Result<Reread, String>> {
        let traces = self.traces();
        let same = mem::replace(&mut *held(&self.seen), traces.clone()) == traces;
        (!same).then(|| self.reread())
    }

    /// Such as have been read and could not be used.
    #[cfg(test)]
    pub(crate) fn in_trouble(what: &str) -> Self {
        Self {
            trouble: Mutex::new(Some(what.to_owned())),
            ..Self::default()
        }
    }

    /// Whether there can be anything to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.takers.is_empty()
    }

    fn traces(&self) -> Traces {
        let folders = CredentialFolders::new(self.base.clone());
        let mut files = BTreeSet::new();
        for taker in &self.takers {
            match &taker.files {
                Some(named) => files.extend(named.iter().map(|name| folders.find(LISTS, name))),
                None => files.extend(files_of(&self.base.join(LISTS)).unwrap_or_default()),
            }
        }
        let trace = |file: PathBuf| {
            let about = fs::metadata(&file).ok()?;
            Some((file, (about.len(), about.modified().ok())))
        };
        files.into_iter().filter_map(trace).collect()
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files of a folder, which need not be there; no more than tell that there are too many.
fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let files = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = files
        .filter(|file| file.is_file())
        .take(MAX_LISTS + 1)
        .collect();
    files.sort();
    Ok(files)
}

/// All lists of a folder.
pub(super) fn all_of(folder: &Path) -> Result<Vec<Arc<RevocationList>>, String> {
    let files = files_of(folder).map_err(|error| unread(folder, &error))?;
    if files.len() > MAX_LISTS {
        return Err(format!(
            "{}: holds more than {MAX_LISTS} files",
            folder.display()
        ));
    }
    let mut lists = Vec::new();
    for file in files {
        lists.extend(read(&file)?);
    }
    Ok(lists)
}

/// The lists of one file, in PEM or DER.
pub(super) fn read(path: &Path) -> Result<Vec<Arc<RevocationList>>, String> {
    let about = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let (octets, _) = read_bounded(path, MAX_LIST_OCTETS).map_err(|error| unread(path, &error))?;
    let list = |der: &[u8]| RevocationList::parse(der).map_err(|error| about(&error));
    if !is_pem(&octets) {
        return Ok(vec![Arc::new(list(&octets)?)]);
    }
    let mut lists = Vec::new();
    for found in CertificateRevocationListDer::pem_slice_iter(&octets).take(MAX_LISTS) {
        let der = found.map_err(|_| about(&"is damaged PEM"))?;
        lists.push(Arc::new(list(der.as_ref())?));
    }
    if lists.is_empty() {
        return Err(about(&"holds no list of revoked certificates"));
    }
    Ok(lists)
}
