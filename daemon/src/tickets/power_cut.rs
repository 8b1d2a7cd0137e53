//! Power cuts without cutting power: a witness notes at every sync what the disk is sure to hold, and
//! makes folders of it as a reboot would find them. Only tests have it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

thread_local! {
    static WITNESS: RefCell<Option<Witness>> = const { RefCell::new(None) };
}

/// What of a folder has been made durable. A file is known by its inode, which is held open so that
/// no other file gets its number.
struct Witness {
    folder: PathBuf,
    contents: BTreeMap<u64, (Rc<Vec<u8>>, File)>,
    names: BTreeMap<OsString, u64>,
    images: Vec<Image>,
}

/// What a power cut would leave at one moment, at worst.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// By synced names.
    synced: Files,
    /// By the names of that moment, of which some may be on disk already, or all.
    named: Files,
}

const PAGE: [u8; 4096] = [0; 4096];

type Files = BTreeMap<OsString, Rc<Vec<u8>>>;

/// Which of the names that were not synced made it to the disk. Of contents that were not synced,
/// none does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// None.
    Synced,
    /// All.
    Ahead,
}

/// Notes what is synced by this thread in one folder, from now on until the images are taken.
pub(super) fn watch(folder: &Path) {
    let witness = Witness {
        folder: folder.into(),
        contents: BTreeMap::new(),
        names: BTreeMap::new(),
        images: vec![Image::default()],
    };
    WITNESS.set(Some(witness));
}

/// How many syncs there have been: the number of the image that shows the present.
pub(super) fn moment() -> usize {
    WITNESS.with_borrow(|witness| witness.as_ref().map_or(0, |w| w.images.len() - 1))
}

/// The folder as it was after each sync.
pub(super) fn images() -> Vec<Image> {
    WITNESS.take().map_or_else(Vec::new, |w| w.images)
}

pub(super) fn content_is_durable(file: &File) {
    note(|witness| {
        // A second descriptor, since this one may be for writing only.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let octets = fs::read(&again).expect("read");
        let inode = file.metadata().expect("metadata").ino();
        let held = file.try_clone().expect("clone");
        witness.contents.insert(inode, (Rc::new(octets), held));
    });
}

pub(super) fn names_are_durable(folder: &Path) {
    note(|witness| {
        if folder == witness.folder {
            witness.names = witness.names_now();
        }
    });
}

fn note(what: impl FnOnce(&mut Witness)) {
    WITNESS.with_borrow_mut(|witness| {
        if let Some(witness) = witness {
            // As it was before this sync, with the names of now: a cut in the midst of it.
            witness.take_image();
            what(witness);
            witness.take_image();
        }
    });
}

impl Witness {
    fn names_now(&self) -> BTreeMap<OsString, u64> {
        let entries = fs::read_dir(&self.folder).expect("folder");
        let named = entries.map(|entry| {
            let entry = entry.expect("entry");
            (entry.file_name(), entry.metadata().expect("metadata").ino())
        });
        named.collect()
    }

    fn take_image(&mut self) {
        let files = |names: &BTreeMap<OsString, u64>| {
            let content = |inode: &u64| {
                let known = self.contents.get(inode);
                // A name whose content was never synced leads to nothing.
                known.map_or_else(Rc::default, |(octets, _)| Rc::clone(octets))
            };
            let file = |(name, inode): (&OsString, &u64)| (name.clone(), content(inode));
            names.iter().map(file).collect()
        };
        let image = Image {
            synced: files(&self.names),
            named: files(&self.names_now()),
        };
        self.images.push(image);
    }
}

impl Image {
    /// The folder as it is found after the reboot.
    pub(super) fn reboot(&self, names: Names) -> tempfile::TempDir {
        let files = match names {
            Names::Synced => &self.synced,
            Names::Ahead => &self.named,
        };
        // In memory if that can be had: here nobody waits for a disk.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("folder");
        for (name, octets) in files {
            let file = File::create_new(folder.path().join(name)).expect("file");
            file.set_len(octets.len() as u64).expect("length");
            // Bitmaps are long and almost empty.
            for (page, octets) in octets.chunks(PAGE.len()).enumerate() {
                if octets != &PAGE[..octets.len()] {
                    let place = (page * PAGE.len()) as u64;
                    file.write_all_at(octets, place).expect("write");
                }
            }
        }
        folder
    }
}

mod tests;
