//! One bit for each ticket of an epoch: has it opened an SA? The file is mapped shared, so that a
//! set bit outlives the process at once and the power some second later.
//!
//! ```text
//! 0     8  "rkused\0", version 1
//! 8     1  key id
//! 9    16  first half of SHA-256("rekindle used" | root): the epoch it belongs to
//! 4096  2 MB of bits
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use ike::crypto::Secret;
use memmap2::{MmapOptions, MmapRaw};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate, posix_fallocate},
};
use ring::digest::{Context, SHA256, digest};

use super::durable::{self, replace};
use crate::gate::Board;

/// Tickets of one epoch.
pub const INDEXES: u32 = 1 << 24;
const HEADER: usize = 4096;
const BITS: usize = INDEXES as usize / 8;
const LENGTH: u64 = (HEADER + BITS) as u64;
const MAGIC: [u8; 8] = *b"rkused\0\x01";
const FINGERPRINT: usize = 16;
const NAMED: usize = MAGIC.len() + 1 + FINGERPRINT;

/// The used bits of one epoch, mapped.
#[derive(Debug)]
pub struct UsedBits {
    file: File,
    map: MmapRaw,
    changed: AtomicBool,
    /// The gate's copy, and the epoch's slot in it.
    copy: Option<(Arc<Board>, u32)>,
}

impl UsedBits {
    /// Maps a bitmap file that the keeper has checked.
    pub fn map(file: OwnedFd, copy: Option<(Arc<Board>, u32)>) -> io::Result<Self> {
        let file = File::from(file);
        if file.metadata()?.len() != LENGTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let map = MmapOptions::new().len(LENGTH as usize).map_raw(&file)?;
        Ok(Self {
            file,
            map,
            // An engine that was killed may have left bits that it had no time to sync.
            changed: AtomicBool::new(true),
            copy,
        })
    }

    /// All bits of a bitmap file that the keeper has checked, for another copy of them.
    pub fn read(file: &File) -> io::Result<Vec<u8>> {
        let mut bits = vec![0; BITS];
        file.read_exact_at(&mut bits, HEADER as u64)?;
        Ok(bits)
    }

    /// Whether the bit is set. An index beyond the epoch counts as used.
    #[must_use]
    pub fn is_set(&self, index: u32) -> bool {
        self.octet(index)
            .is_none_or(|octet| octet.load(Ordering::Acquire) & bit(index) != 0)
    }

    // RFC 5723: N15, N55, L9, A18
    /// Sets the bit; `true` for whoever was first.
    pub fn set(&self, index: u32) -> bool {
        let Some(octet) = self.octet(index) else {
            return false;
        };
        let first = octet.fetch_or(bit(index), Ordering::AcqRel) & bit(index) == 0;
        if first {
            self.changed.store(true, Ordering::Release);
            if let Some((board, slot)) = &self.copy {
                board.set_used(*slot, index);
            }
        }
        first
    }

    /// Makes the bits set so far survive a power cut, whoever has set them. Does nothing if none was set
    /// since.
    pub fn sync(&self) -> io::Result<()> {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        durable::sync(&self.file).inspect_err(|_| {
            // They are not on disk yet: to be tried again.
            self.changed.store(true, Ordering::Release);
        })
    }

    #[expect(unsafe_code, reason = "docs/decisions/0001-used-bitmap-mmap.md")]
    fn octet(&self, index: u32) -> Option<&AtomicU8> {
        if index >= INDEXES {
            return None;
        }
        let place = HEADER + index as usize / 8;
        // SAFETY: `place` is below LENGTH, which the mapping covers for as long as `self` lives; the
        // mapping is writable and shared, and every access to it in any process is atomic.
        Some(unsafe { AtomicU8::from_ptr(self.map.as_mut_ptr().add(place)) })
    }
}

/// A bitmap file of the ring, for the keeper.
#[derive(Debug)]
pub(super) struct UsedFile {
    file: File,
}

impl UsedFile {
    pub(super) fn path(folder: &Path, key_id: u8) -> PathBuf {
        folder.join(format!("used-{key_id:02x}"))
    }

    /// Makes an empty one, durable under its name, with all of its blocks: who sets a bit in a page for
    /// which the disk has none gets SIGBUS.
    pub(super) fn create(folder: &Path, key_id: u8, root: &Secret) -> io::Result<Self> {
        let path = Self::path(folder, key_id);
        replace(&path, |file| {
            posix_fallocate(&*file, 0, LENGTH.cast_signed()).map_err(without_room)?;
            file.write_all(&name(key_id, root))
        })?;
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).open(path)?,
        })
    }

    /// Opens the epoch's own; anything else is `InvalidData`.
    pub(super) fn open(folder: &Path, key_id: u8, root: &Secret) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Self::path(folder, key_id))?;
        let mut named = [0; NAMED];
        if file.metadata()?.len() == LENGTH {
            file.read_exact_at(&mut named, 0)?;
        }
        if named != name(key_id, root) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // It may have come without some of its blocks, from a copy for example. Not posix_fallocate: where
        // the file system cannot do this, that would write octets in which bits may be set meanwhile.
        match fallocate(&file, FallocateFlags::empty(), 0, LENGTH.cast_signed()) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => Ok(Self { file }),
            Err(errno) => Err(without_room(errno)),
        }
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        durable::sync(&self.file)
    }

    /// SHA-256 over all bits.
    pub(super) fn checksum(&self) -> io::Result<[u8; 32]> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut context = Context::new(&SHA256);
        let mut chunk = vec![0; 64 << 10];
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            context.update(chunk.get(..count).unwrap_or_default());
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(context.finish().as_ref());
        Ok(sum)
    }

    pub(super) const fn file(&self) -> &File {
        &self.file
    }
}

fn without_room(errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    let text = format!("no room for the {LENGTH} octets of a bitmap: {error}");
    io::Error::new(error.kind(), text)
}

fn name(key_id: u8, root: &Secret) -> [u8; NAMED] {
    let mut input = zeroize::Zeroizing::new(b"rekindle used".to_vec());
    input.reserve_exact(root.len());
    input.extend_from_slice(root.expose());
    let mut name = [0; NAMED];
    name[..8].copy_from_slice(&MAGIC);
    name[8] = key_id;
    name[9..].copy_from_slice(&digest(&SHA256, &input).as_ref()[..FINGERPRINT]);
    name
}

const fn bit(index: u32) -> u8 {
    1 << (index % 8)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn root(octet: u8) -> Secret {
        Secret::new(vec![octet; 32])
    }

    #[test]
    fn a_bit_is_set_once_and_stays_set() {
        let folder = tempfile::tempdir().expect("folder");
        let file = UsedFile::create(folder.path(), 7, &root(1)).expect("create");
        let bits = UsedBits::map(file.file.try_clone().expect("clone").into(), None).expect("map");
        for index in [0, 1, 8, INDEXES - 1] {
            assert!(!bits.is_set(index));
            assert!(bits.set(index));
            assert!(!bits.set(index));
            assert!(bits.is_set(index));
        }
        assert!(!bits.is_set(2) && !bits.is_set(9));
        assert!(bits.is_set(INDEXES) && !bits.set(INDEXES));
        bits.sync().expect("sync");
        // Dropped without any ceremony, as after SIGKILL.
        drop((bits, file));
        let file = UsedFile::open(folder.path(), 7, &root(1)).expect("open");
        let bits = UsedBits::map(file.file.into(), None).expect("map");
        assert!(bits.is_set(INDEXES - 1) && bits.is_set(8) && !bits.is_set(9));
    }

    #[test]
    fn the_gate_learns_of_a_bit_when_it_is_set() {
        let folder = tempfile::tempdir().expect("folder");
        let file = UsedFile::create(folder.path(), 7, &root(1)).expect("create");
        let memory = tempfile::tempfile().expect("memory");
        memory
            .set_len((gate_abi::board::WORDS * 8) as u64)
            .expect("length");
        let board = Arc::new(Board::map(&memory).expect("map"));
        let opened = file.file.try_clone().expect("clone");
        let bits = UsedBits::map(opened.into(), Some((Arc::clone(&board), 2))).expect("map");
        for index in [0, 77, INDEXES - 1] {
            assert!(!board.is_used(2, index));
            bits.set(index);
            assert!(board.is_used(2, index) && !board.is_used(1, index));
        }
        // A board made anew gets them from the file.
        board.clear_used(2);
        assert!(!board.is_used(2, 77));
        let octets = UsedBits::read(&file.file).expect("read");
        board.add_used(2, octets.as_chunks().0.iter().copied());
        let used: Vec<u32> = (0..INDEXES)
            .filter(|index| board.is_used(2, *index))
            .collect();
        assert_eq!(used, [0, 77, INDEXES - 1]);
    }

    #[test]
    fn a_bitmap_has_all_of_its_blocks_from_the_start() {
        let folder = tempfile::tempdir().expect("folder");
        let lacks = |file: &UsedFile| {
            let blocks = file.file.metadata().expect("metadata").blocks();
            LENGTH.saturating_sub(blocks * 512)
        };
        let file = UsedFile::create(folder.path(), 7, &root(1)).expect("create");
        assert_eq!(lacks(&file), 0);
        let bits = UsedBits::map(file.file.try_clone().expect("clone").into(), None).expect("map");
        bits.set(77);
        // Cut and made as long again, as it comes from a copy that leaves out what is zero.
        file.file.set_len(2 * HEADER as u64).expect("cut");
        file.file.set_len(LENGTH).expect("length");
        assert!(lacks(&file) > 0);
        let file = UsedFile::open(folder.path(), 7, &root(1)).expect("open");
        assert_eq!(lacks(&file), 0);
        assert!(bits.is_set(77) && !bits.is_set(78));
    }

    #[test]
    fn the_bitmap_of_another_epoch_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        UsedFile::create(folder.path(), 7, &root(1)).expect("create");
        assert!(UsedFile::open(folder.path(), 7, &root(2)).is_err());
        assert!(UsedFile::open(folder.path(), 8, &root(1)).is_err());
        let path = UsedFile::path(folder.path(), 7);
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| file.set_len(5000))
            .expect("cut");
        assert!(UsedFile::open(folder.path(), 7, &root(1)).is_err());
    }

    // RFC 5723: N55, L9, A18
    #[test]
    fn only_one_of_many_threads_is_first() {
        let folder = tempfile::tempdir().expect("folder");
        let file = UsedFile::create(folder.path(), 7, &root(1)).expect("create");
        let bits = UsedBits::map(file.file.into(), None).expect("map");
        let firsts: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|index| bits.set(*index)).count()))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("thread"))
                .sum()
        });
        assert_eq!(firsts, 1000);
    }
}
