//! A client's sleeping sessions on disk, for connections with `suspend = "disk"`: one sealed file
//! each, replaced by rename, gone before its ticket is used. `docs/formats/session.md` has the layout.

use std::{
    fmt,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use ike::crypto::Secret;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::durable::{self, DurableError, Magic};

const FOLDER: &str = "sessions";
const KEY_FILE: &str = "session-key";
/// The name under which systemd hands us a key of its own keeping.
const CREDENTIAL: &str = "rekindle.session-key";
const KEY_LEN: usize = 32;
const EXTENSION: &str = "session";
const MAGIC: Magic = *b"rksess\0\x01";
const KEY_MAGIC: Magic = *b"rkskey\0\x01";
/// Longest file: a ticket is one notify of at most 64 KiB, the rest is short.
const MAX_FILE: u64 = 72 << 10;
/// Files that are looked at.
const MAX_SESSIONS: usize = 10_000;

/// Why sessions cannot be kept on disk.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The folder, or a file in it.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The key file.
    #[error(transparent)]
    Key(#[from] DurableError),
    /// The key that systemd handed us.
    #[error("{}: a session key has {KEY_LEN} octets; make one with systemd-creds", .0.display())]
    Credential(PathBuf),
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
}

/// Why a file was of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unsealed {
    /// Not ours, damaged, of another connection, or sealed under another key.
    #[error("damaged, or sealed under another key")]
    Seal,
    /// It could not be read.
    #[error("unreadable")]
    Read,
}

/// The folder and the key to what is in it.
pub struct Sessions {
    folder: PathBuf,
    key: LessSafeKey,
    random: SystemRandom,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({})", self.folder.display())
    }
}

#[derive(Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
struct MachineKey([u8; KEY_LEN]);

impl Sessions {
    /// Whether an earlier run has kept any.
    #[must_use]
    pub fn exist(state_dir: &Path) -> bool {
        state_dir.join(FOLDER).exists()
    }

    /// Opens the folder, with the key from `credentials` (systemd's `$CREDENTIALS_DIRECTORY`) if there
    /// is one, else with the machine's own, which is made when it is missing.
    pub fn open(state_dir: &Path, credentials: Option<&Path>) -> Result<Self, SessionError> {
        let folder = state_dir.join(FOLDER);
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.and_then(|()| durable::sync_folder(&folder))
            .map_err(|source| SessionError::Io {
                path: folder.clone(),
                source,
            })?;
        let random = SystemRandom::new();
        let key = match credentials.map(|folder| folder.join(CREDENTIAL)) {
            Some(path) if path.exists() => credential(&path)?,
            _ => machine_key(&state_dir.join(KEY_FILE), &random)?,
        };
        let unbound = UnboundKey::new(&AES_256_GCM, &key.0).map_err(|_| SessionError::Random)?;
        Ok(Self {
            folder,
            key: LessSafeKey::new(unbound),
            random,
        })
    }

    /// Keeps a session; on disk, in the place of an older one, when this returns.
    pub fn keep(&self, connection: &str, record: &Secret) -> io::Result<()> {
        let path = self.path(connection)?;
        let mut nonce = [0; NONCE_LEN];
        let sealed_under = self.random.fill(&mut nonce);
        sealed_under.map_err(|_| io::Error::other("no randomness"))?;
        let mut text = Zeroizing::new(record.expose().to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                bound_to(connection),
                &mut text,
            )
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        durable::replace(&path, |file| {
            for part in [&MAGIC[..], &nonce, &text, tag.as_ref()] {
                file.write_all(part)?;
            }
            Ok(())
        })
    }

    /// Erases a session; gone from the disk when this returns. There need not be any.
    pub fn erase(&self, connection: &str) -> io::Result<()> {
        durable::remove(&self.path(connection)?)
    }

    /// All sessions by connection. What a crash has left half-written is removed: the file it was to
    /// replace is whole.
    pub fn load(&self) -> io::Result<Vec<(String, Result<Secret, Unsealed>)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)?.take(2 * MAX_SESSIONS) {
            let path = entry?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let extension = path.extension().and_then(|end| end.to_str());
            match (name, extension) {
                (Some(name), Some(EXTENSION)) if found.len() < MAX_SESSIONS => {
                    found.push((name.to_owned(), self.read(&path, name)));
                }
                (Some(name), Some("new")) if name.ends_with(EXTENSION) => {
                    durable::remove(&path)?;
                }
                _ => {}
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    fn read(&self, path: &Path, connection: &str) -> Result<Secret, Unsealed> {
        let mut octets = Zeroizing::new(Vec::new());
        let file = File::open(path).map_err(|_| Unsealed::Read)?;
        let read = file.take(MAX_FILE + 1).read_to_end(&mut octets);
        read.map_err(|_| Unsealed::Read)?;
        let sealed = octets.strip_prefix(&MAGIC).map(<[u8]>::len);
        let at = octets.len() - sealed.ok_or(Unsealed::Seal)?;
        let (nonce, text) = octets
            .get_mut(at..)
            .and_then(|sealed| sealed.split_first_chunk_mut::<NONCE_LEN>())
            .ok_or(Unsealed::Seal)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        match self.key.open_in_place(nonce, bound_to(connection), text) {
            Ok(record) => Ok(Secret::from(&*record)),
            Err(_) => Err(Unsealed::Seal),
        }
    }

    /// The names of connections are checked by the configuration; this is for whoever forgets it.
    fn path(&self, connection: &str) -> io::Result<PathBuf> {
        if connection.is_empty() || connection.contains(['/', '\0']) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        Ok(self.folder.join(format!("{connection}.{EXTENSION}")))
    }
}

/// A file is good for its own connection and layout only.
fn bound_to(connection: &str) -> Aad<Vec<u8>> {
    Aad::from([&MAGIC[..], connection.as_bytes()].concat())
}

fn credential(path: &Path) -> Result<MachineKey, SessionError> {
    let octets = fs::read(path).map(Zeroizing::new);
    let octets = octets.map_err(|source| SessionError::Io {
        path: path.into(),
        source,
    })?;
    let key = octets.as_slice().try_into();
    key.map(MachineKey)
        .map_err(|_| SessionError::Credential(path.into()))
}

fn machine_key(path: &Path, random: &SystemRandom) -> Result<MachineKey, SessionError> {
    if let Some(key) = durable::read(path, KEY_MAGIC)? {
        return Ok(key);
    }
    let mut key = MachineKey([0; KEY_LEN]);
    random.fill(&mut key.0).map_err(|_| SessionError::Random)?;
    durable::write(path, KEY_MAGIC, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests;
