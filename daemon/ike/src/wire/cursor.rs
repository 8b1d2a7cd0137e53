//! A reader over a slice that cannot read past the end, and the writer side's length patching.

use super::WireError;

/// A position in a slice. Every read checks the bounds and moves on.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    octets: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first octet.
    #[must_use]
    pub const fn new(octets: &'a [u8]) -> Self {
        Self { octets, at: 0 }
    }

    /// The next `n` octets.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let left = self.octets.get(self.at..).unwrap_or_default();
        let missing = || WireError::Truncated {
            at: self.at,
            needed: n.saturating_sub(left.len()),
        };
        let taken = left.get(..n).ok_or_else(missing)?;
        self.at += n;
        Ok(taken)
    }

    /// The next `N` octets as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let at = self.at;
        self.take(N)?
            .try_into()
            .map_err(|_| WireError::Truncated { at, needed: N })
    }

    /// One octet.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[octet]| octet)
    }

    /// Two octets, big-endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four octets, big-endian.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A cursor of its own over the next `n` octets.
    pub fn sub(&mut self, n: usize) -> Result<Self, WireError> {
        self.take(n).map(Self::new)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.octets.get(self.at..).unwrap_or_default();
        self.at = self.octets.len();
        rest
    }

    /// Octets read so far.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Octets not yet read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.octets.len() - self.at
    }

    /// Whether all octets have been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.left() == 0
    }
}

/// Writes a structure whose two-octet length field, at `length_at` octets from its start, covers
/// everything that `body` appends. The encoder reads top to bottom; the length is patched after.
pub fn with_length(
    out: &mut Vec<u8>,
    head: &[u8],
    length_at: usize,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(head);
    body(out);
    let length = (out.len() - start) as u16;
    if let Some(field) = out.get_mut(start + length_at..start + length_at + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_says_how_much_is_missing() {
        let mut cursor = Cursor::new(&[1, 2, 3]);
        assert_eq!(cursor.u16(), Ok(0x0102));
        assert_eq!(cursor.u32(), Err(WireError::Truncated { at: 2, needed: 3 }));
        assert_eq!(cursor.rest(), &[3]);
        assert!(cursor.is_empty());
    }

    #[test]
    fn a_length_is_patched_after_the_body() {
        let mut out = vec![9];
        with_length(&mut out, &[7, 0, 0, 0], 2, |out| {
            out.extend_from_slice(b"abc");
        });
        assert_eq!(out, [9, 7, 0, 0, 7, b'a', b'b', b'c']);
    }
}
