//! Opening a database file of ours: private, checked as a whole, and damage told apart from a file that is
//! only out of reach.

use std::{io, path::Path};

use redb::{Builder, Database, DatabaseError, StorageBackend, StorageError, backends::FileBackend};

use super::durable::{create_private, sync_folder};

/// Opens the file or makes one. The outer error is the file system's, the inner one the database's.
pub(crate) fn open_or_create(
    path: &Path,
    cache_octets: usize,
) -> io::Result<Result<Database, DatabaseError>> {
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
pub(crate) fn is_damage(error: &DatabaseError) -> bool {
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
