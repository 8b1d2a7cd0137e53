//! The keeper's folders: made on demand, each for one keeper at a time, and looked at for who may write them.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::KeeperError;

/// Permission of everybody to make, rename and remove files of a folder.
const EVERYBODY_WRITES: u32 = 0o002;
/// But only files of their own.
const STICKY: u32 = 0o1000;

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

/// Whether everybody on this machine may put other files in the place of the folder's.
pub(super) fn is_open_to_all(folder: &Path) -> bool {
    let mode = fs::metadata(folder).map_or(0, |about| about.permissions().mode());
    mode & EVERYBODY_WRITES != 0 && mode & STICKY == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_everybody_may_write_is_seen() {
        let folder = tempfile::tempdir().expect("a folder");
        for (mode, open) in [
            (0o700, false),
            (0o755, false),
            (0o775, false),
            (0o777, true),
            (0o1777, false),
        ] {
            let mode_of = fs::Permissions::from_mode(mode);
            fs::set_permissions(folder.path(), mode_of).expect("ours");
            assert_eq!(is_open_to_all(folder.path()), open, "{mode:o}");
        }
        assert!(!is_open_to_all(&folder.path().join("none")));
    }
}
