//! What names this node on the wire: its octet in SPIs and tickets, the keys behind the check of its
//! SPIs, and the secret behind its crash detection tokens (RFC 6290).

use std::path::Path;

use ike::crypto::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    durable::{self, Magic},
    ring::RingError,
};

/// How long one `k_spi` makes new SPIs; the one before it stays good as long again.
const ROTATION_SECONDS: u64 = 30 * 24 * 3600;
const MAGIC: Magic = *b"rknode\0\x02";
const FILE: &str = "spi-keys";

/// Node id and SPI keys, kept on disk.
#[derive(Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
pub struct Node {
    id: u8,
    /// The present key, then the one before.
    keys: [[u8; 16]; 2],
    since: u64,
    /// Never rotated: a token must be the same after any restart.
    qcd: [u8; 32],
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.id)
    }
}

impl Node {
    /// Reads the file or makes one. A configured id wins over the stored one; without either it is
    /// random.
    pub fn open(folder: &Path, configured: Option<u8>, now: u64) -> Result<Self, RingError> {
        let path = folder.join(FILE);
        let stored = durable::read::<Self>(&path, MAGIC)?;
        let known = stored.is_some();
        let mut node = match stored {
            Some(node) => node,
            None => Self {
                id: fresh::<1>()?[0],
                keys: [fresh()?, fresh()?],
                since: now,
                qcd: fresh()?,
            },
        };
        let id = configured.unwrap_or(node.id);
        if !known || id != node.id {
            node.id = id;
            durable::write(&path, MAGIC, &node)?;
        }
        node.rotate(folder, now)?;
        Ok(node)
    }

    /// Draws a new key when the present one is old enough; `true` if it did.
    pub fn rotate(&mut self, folder: &Path, now: u64) -> Result<bool, RingError> {
        if now < self.since.saturating_add(ROTATION_SECONDS) {
            return Ok(false);
        }
        let next = Self {
            keys: [fresh()?, self.keys[0]],
            since: now,
            ..*self
        };
        // Not in use before it is on disk: SPIs have to be known after a restart.
        durable::write(&folder.join(FILE), MAGIC, &next)?;
        *self = next;
        Ok(true)
    }

    /// The node's octet.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// The present `k_spi`, then the one before.
    #[must_use]
    pub const fn spi_keys(&self) -> &[[u8; 16]; 2] {
        &self.keys
    }

    /// The secret behind crash detection tokens.
    #[must_use]
    pub fn qcd_secret(&self) -> Secret {
        Secret::from(&self.qcd[..])
    }
}

fn fresh<const N: usize>() -> Result<[u8; N], RingError> {
    let mut octets = [0; N];
    SystemRandom::new()
        .fill(&mut octets)
        .map_err(|_| RingError::Random)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_id_stay_until_their_time_is_over() {
        let folder = tempfile::tempdir().expect("folder");
        let first = Node::open(folder.path(), None, 1000).expect("open");
        let again = Node::open(folder.path(), None, 2000).expect("reopen");
        assert_eq!(
            (first.id(), first.spi_keys(), first.qcd_secret()),
            (again.id(), again.spi_keys(), again.qcd_secret())
        );
        let named = Node::open(folder.path(), Some(9), 2000).expect("reopen");
        assert_eq!((named.id(), named.spi_keys()), (9, first.spi_keys()));
        let later = Node::open(folder.path(), None, 1000 + ROTATION_SECONDS).expect("reopen");
        assert_eq!(later.id(), 9);
        assert_eq!(later.spi_keys()[1], first.spi_keys()[0]);
        assert_ne!(later.spi_keys()[0], first.spi_keys()[0]);
    }
}
