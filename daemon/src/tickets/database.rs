//! Opening a database file of ours: private, checked as a whole, and damage told apart from a file that is
//! only out of reach.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError, backends::FileBackend};

use super::durable::{create_private, sync_folder};

/// A damaged file that has been put out of the way.
#[derive(Debug)]
pub struct MovedAside {
    path: PathBuf,
    to: PathBuf,
    why: DatabaseError,
    /// What it means that its content is gone.
    loss: &'static str,
}

impl fmt::Display for MovedAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: damaged ({}). It is {} now, and an empty one took its place: {}. To undo this, stop the \
             daemon and put a good copy in its place",
            self.path.display(),
            self.why,
            self.to.display(),
            self.loss,
        )
    }
}

/// Why a file was not opened.
pub(crate) enum Unopened {
    Io(io::Error),
    Database(DatabaseError),
}

impl From<io::Error> for Unopened {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Opens the file or makes one. All of it is checked: what was altered behind our back is moved aside,
/// which means a `loss`. An error of the file system moves nothing.
pub(crate) fn open(
    path: &Path,
    cache_octets: usize,
    loss: &'static str,
) -> Result<(Database, Option<MovedAside>), Unopened> {
    let why = match open_or_create(path, cache_octets)? {
        Ok(database) => return Ok((database, None)),
        Err(error) if is_damage(&error) => error,
        Err(error) => return Err(Unopened::Database(error)),
    };
    let to = path.with_added_extension("damaged");
    fs::rename(path, &to)?;
    sync_folder(path)?;
    let fresh = open_or_create(path, cache_octets)?.map_err(Unopened::Database)?;
    let moved = MovedAside {
        path: path.to_owned(),
        to,
        why,
        loss,
    };
    Ok((fresh, Some(moved)))
}

/// The outer error is the file system's, the inner one the database's.
fn open_or_create(path: &Path, cache_octets: usize) -> io::Result<Result<Database, DatabaseError>> {
    let fresh = !path.exists();
    let file = create_private(path)?;
    if fresh {
        sync_folder(path)?;
    }
    Ok(FileBackend::new(file).and_then(|backend| database(backend, cache_octets)))
}

pub(super) fn database(
    backend: impl StorageBackend,
    cache_octets: usize,
) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(cache_octets)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
}

/// Whether the file is not what was written, rather than out of reach or in use.
fn is_damage(error: &DatabaseError) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        DatabaseError::Storage(StorageError::Corrupted(_))
        | DatabaseError::UpgradeRequired(_)
        | DatabaseError::RepairAborted => true,
        DatabaseError::Storage(StorageError::Io(error)) => {
            matches!(error.kind(), InvalidData | UnexpectedEof)
        }
        _ => false,
    }
}
