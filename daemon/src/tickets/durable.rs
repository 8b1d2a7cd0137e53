//! Small files that must be whole or not be there: magic, body, SHA-256, replaced by rename.
//!
//! A file that is there but damaged is an error with a cure in its text, never a reason to start
//! afresh: behind a ring that was silently replaced, every client would have to log in anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Octets of a magic: seven of name, one of version.
pub(crate) type Magic = [u8; 8];
const CHECKSUM: usize = 32;
/// Longest file, where nothing else is said.
const MAX_FILE: usize = 16 << 10;

/// Why a durable file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{path}: damaged ({why}). Put the file back from a copy, or move it away to start with \
         fresh keys: then all tickets are void and clients log in with a full exchange",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        why: &'static str,
    },
}

/// Reads a file; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(
    path: &Path,
    magic: Magic,
) -> Result<Option<T>, DurableError> {
    read_up_to(MAX_FILE, path, magic)
}

/// The same of a file that may have so many octets.
pub(super) fn read_up_to<T: DeserializeOwned>(
    most: usize,
    path: &Path,
    magic: Magic,
) -> Result<Option<T>, DurableError> {
    let io = |source| DurableError::Io {
        path: path.into(),
        source,
    };
    let damaged = |why| DurableError::Damaged {
        path: path.into(),
        why,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut octets = Zeroizing::new(Vec::with_capacity(most + 1));
    file.take(most as u64 + 1)
        .read_to_end(&mut octets)
        .map_err(io)?;
    if octets.len() > most {
        return Err(damaged("too long"));
    }
    let (signed, checksum) = octets
        .split_last_chunk::<CHECKSUM>()
        .ok_or_else(|| damaged("too short"))?;
    if digest(&SHA256, signed).as_ref() != checksum {
        return Err(damaged("wrong checksum"));
    }
    let body = signed
        .strip_prefix(&magic)
        .ok_or_else(|| damaged("another kind or version"))?;
    postcard::from_bytes(body)
        .map(Some)
        .map_err(|_| damaged("unreadable content"))
}

/// Replaces a file. After this returns the new one survives a power cut; before, the old one does.
/// The old content, which may hold retired keys, is overwritten as far as the file system allows.
pub(crate) fn write<T: Serialize>(
    path: &Path,
    magic: Magic,
    value: &T,
) -> Result<(), DurableError> {
    write_up_to(MAX_FILE, path, magic, value)
}

/// The same of a file that may have so many octets.
pub(super) fn write_up_to<T: Serialize>(
    most: usize,
    path: &Path,
    magic: Magic,
    value: &T,
) -> Result<(), DurableError> {
    let io = |source| DurableError::Io {
        path: path.into(),
        source,
    };
    let mut octets = Zeroizing::new(vec![0; most]);
    octets[..magic.len()].copy_from_slice(&magic);
    let room = most - CHECKSUM;
    let end = postcard::to_slice(value, &mut octets[magic.len()..room])
        .map(|body| magic.len() + body.len())
        .map_err(|_| io(io::ErrorKind::FileTooLarge.into()))?;
    let checksum = digest(&SHA256, &octets[..end]);
    octets[end..end + CHECKSUM].copy_from_slice(checksum.as_ref());
    let old = OpenOptions::new().write(true).open(path);
    replace(path, |file| file.write_all(&octets[..end + CHECKSUM])).map_err(io)?;
    if let Ok(old) = old {
        // The new file stands: that this could not be done must not fail the caller.
        let _ = overwrite(old);
    }
    Ok(())
}

/// Writes a file beside `path`, makes it durable, then gives it the name. A failure leaves nothing.
pub(super) fn replace(
    path: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let fresh = fresh_name(path);
    remove_if_there(&fresh)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    let named = fill(&mut file)
        .and_then(|()| sync(&file))
        .and_then(|()| fs::rename(&fresh, path));
    if let Err(error) = named {
        // The blocks that it got may be all that a full disk has left.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    sync_folder(path)
}

/// Removes a file durably; it need not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    remove_if_there(path)?;
    sync_folder(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file that lives longer than one write, for its owner only; makes it if it is not there.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes a file's content durable, also what was written through a shared mapping: its pages are the
/// file's. All tickets' files come through here and [`sync_folder`], so that a test can tell what a
/// power cut would leave.
pub(super) fn sync(file: &File) -> io::Result<()> {
    file.sync_data()?;
    #[cfg(test)]
    super::power_cut::content_is_durable(file);
    Ok(())
}

/// Makes durable what names the folder of this path holds.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent() else {
        return Ok(());
    };
    File::open(folder)?.sync_all()?;
    #[cfg(test)]
    super::power_cut::names_are_durable(folder);
    Ok(())
}

/// The name a file has until it is whole.
pub(super) fn fresh_name(path: &Path) -> PathBuf {
    path.with_added_extension("new")
}

fn overwrite(mut file: File) -> io::Result<()> {
    let length = file.metadata()?.len().min(MAX_FILE as u64) as usize;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&vec![0; length])?;
    sync(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: Magic = *b"rktest\0\x01";

    #[test]
    fn what_was_written_reads_back_and_nothing_else_does() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        assert_eq!(read::<String>(&path, MAGIC).expect("none"), None);
        write(&path, MAGIC, &"hello".to_owned()).expect("write");
        assert_eq!(
            read::<String>(&path, MAGIC).expect("read").as_deref(),
            Some("hello")
        );
        assert!(read::<String>(&path, *b"rktest\0\x02").is_err());
        let whole = fs::read(&path).expect("read");
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).expect("cut");
            assert!(read::<String>(&path, MAGIC).is_err(), "cut at {end}");
        }
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            fs::write(&path, bent).expect("bend");
            assert!(read::<String>(&path, MAGIC).is_err(), "bent at {at}");
        }
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        write(&path, MAGIC, &1_u32).expect("write");
        fs::write(fresh_name(&path), b"rktest\0\x01 half").expect("leave a fresh file");
        assert_eq!(read::<u32>(&path, MAGIC).expect("read"), Some(1));
        write(&path, MAGIC, &2_u32).expect("write again");
        assert_eq!(read::<u32>(&path, MAGIC).expect("read"), Some(2));
    }

    #[test]
    fn what_could_not_be_written_takes_no_room() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        write(&path, MAGIC, &1_u32).expect("write");
        let full = replace(&path, |file| {
            file.write_all(&[7; 4096])?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.expect_err("full").kind(), io::ErrorKind::StorageFull);
        assert!(!fresh_name(&path).exists());
        assert_eq!(read::<u32>(&path, MAGIC).expect("read"), Some(1));
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        write(&path, MAGIC, &1_u32).expect("write");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
