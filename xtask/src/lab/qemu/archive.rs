//! Writes the archive that a kernel starts from: cpio in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::Write as _;

use anyhow::{Context, Result};

/// An archive in the making.
pub(super) struct Archive {
    octets: Vec<u8>,
    /// The next entry's file number.
    next: u32,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            octets: Vec::new(),
            next: 1,
        }
    }

    pub(super) fn folder(&mut self, name: &str) -> Result<()> {
        self.entry(name, 0o040_755, &[])
    }

    /// A file that everybody may read and execute.
    pub(super) fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, 0o100_755, content)
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.octets)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("too large for an archive")?;
        let length = u32::try_from(name.len() + 1)?;
        // Number, mode, owner, group, links, time, size, device, special device, name's length, sum.
        let fields = [self.next, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.octets.extend_from_slice(b"070701");
        for field in fields {
            write!(self.octets, "{field:08x}")?;
        }
        self.octets.extend_from_slice(name.as_bytes());
        self.octets.push(0);
        self.pad();
        self.octets.extend_from_slice(content);
        self.pad();
        self.next += 1;
        Ok(())
    }

    /// Names' ends and contents' ends are aligned.
    fn pad(&mut self) {
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_carry_their_lengths() {
        let mut archive = Archive::new();
        archive.folder("bin").expect("short");
        archive.program("bin/x", b"abcde").expect("short");
        let octets = archive.finish().expect("short");
        let text = String::from_utf8_lossy(&octets);
        let at = text.find("bin/x\0").expect("its name");
        // A header is 110 octets.
        let header = &text[at - 110..at];
        assert_eq!(header.find("070701"), Some(0));
        assert_eq!(&header[14..22], "000081ed");
        assert_eq!(&header[54..62], "00000005");
        assert_eq!(&header[94..102], "00000006");
        assert_eq!((at - 110) % 4, 0);
        assert_eq!(&text[at + 6..at + 11], "abcde");
        assert_eq!(octets.len() % 4, 0);
    }
}
