//! Octets that must not be printed, compared in variable time or left behind in memory.

use std::fmt;

use zeroize::Zeroize;

/// A key, a pre-shared key or a shared secret.
///
/// Wiped on drop; `Debug` shows the length only; `==` takes the same time wherever they differ.
#[derive(Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the octets over without a copy.
    #[must_use]
    pub const fn new(octets: Vec<u8>) -> Self {
        Self(octets)
    }

    /// The octets, for a cipher, a MAC or the kernel.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in octets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no octets at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A second copy, for the places where a key has two owners (the SA and its ticket).
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

impl From<&[u8]> for Secret {
    fn from(octets: &[u8]) -> Self {
        Self(octets.to_vec())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for Secret {}

/// Compares MACs and keys in constant time for equal lengths.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_octets() {
        assert_eq!(
            format!("{:?}", Secret::new(vec![1, 2, 3])),
            "Secret(3 octets)"
        );
    }

    #[test]
    fn equality_looks_at_every_octet() {
        let a = Secret::new(vec![1, 2, 3]);
        assert_eq!(a, Secret::new(vec![1, 2, 3]));
        assert_ne!(a, Secret::new(vec![1, 2, 4]));
        assert_ne!(a, Secret::new(vec![1, 2]));
    }
}
