//! The keeper's folders: made on demand, and the state's folder for one keeper at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::KeeperError;

/// Makes a folder with its parents, if it is not there.
pub(super) fn make(path: &Path, mode: u32) -> Result<(), KeeperError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| KeeperError::Folder {
            path: path.into(),
            source,
        })
}

/// Takes the folder for this process alone, for as long as the file lives.
pub(super) fn lock(folder: &Path) -> Result<File, KeeperError> {
    let path = folder.join("lock");
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = open.map_err(|source| KeeperError::Folder {
        path: path.clone(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(KeeperError::Running(folder.into())),
        Err(fs::TryLockError::Error(source)) => Err(KeeperError::Folder { path, source }),
    }
}
