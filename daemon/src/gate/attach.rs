//! Links: made, pinned, found again, swapped and removed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode};
use gate_abi::maps::{ABI_VERSION, PROGRAM, PROGRAM_FRAGS, PROGRAM_L3};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::geteuid;

use super::interface::{Interface, Link};
use super::objects::Objects;
use super::{GateError, GateOptions, Mode, first_line};

/// How the gate stands on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// The kernel's number of it, which is another when it is made anew; 0 for one there is not.
    pub index: u32,
    /// How the gate is attached.
    pub mode: Attached,
    /// Why it is not native; empty if it is.
    pub reason: String,
}

impl Attachment {
    /// Whether the interface is there, and would not have the gate.
    pub(super) fn was_refused(&self) -> bool {
        self.mode == Attached::None && self.index != 0
    }
}

/// The modes that the kernel can have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// In the driver, before a socket buffer exists.
    Native,
    /// Behind the driver.
    Generic,
    /// Not at all: the daemon judges alone.
    None,
}

impl Attached {
    /// The word an operator sees.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::None => "none",
        }
    }
}

/// `BPF_FS_MAGIC`.
const BPF_FILE_SYSTEM: FsType = FsType(0xcafe_4a11);
const LINKS: &str = "links";

/// Makes the folder for maps of this ABI version, on a BPF file system that is ours alone.
pub(super) fn prepare_folder(pin_dir: &Path) -> Result<PathBuf, GateError> {
    let failed = |source| GateError::PinFolder {
        path: pin_dir.to_owned(),
        source,
    };
    prepare(pin_dir).map_err(failed)
}

fn prepare(pin_dir: &Path) -> io::Result<PathBuf> {
    make_private(pin_dir)?;
    if statfs(pin_dir)?.filesystem_type() != BPF_FILE_SYSTEM {
        mount(
            Some("bpf"),
            pin_dir,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )?;
    }
    let folder = pin_dir.join(format!("v{ABI_VERSION}"));
    make_private(&pin_dir.join(LINKS))?;
    make_private(&folder)?;
    super::maps::discard_misfits(&folder)?;
    Ok(folder)
}

/// Whoever may write to the folder may exchange keys and programs.
fn make_private(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "is not a folder that only we can write to",
        ));
    }
    Ok(())
}

/// Removes what an earlier daemon pinned and this one does not use: links on interfaces that are no
/// longer configured, maps of other versions. Comes after attaching, so that no gate stands open.
pub(super) fn discard_leftovers(options: &GateOptions) -> Result<(), GateError> {
    let failed = |source| GateError::PinFolder {
        path: options.pin_dir.clone(),
        source,
    };
    discard(options).map_err(failed)
}

fn discard(options: &GateOptions) -> io::Result<()> {
    for entry in fs::read_dir(options.pin_dir.join(LINKS))? {
        let entry = entry?;
        let used = |name: &String| entry.file_name() == pin_of(name).as_str();
        if !options.interfaces.iter().any(used) {
            fs::remove_file(entry.path())?;
            wait_until_free(&interface_of(&entry.file_name().to_string_lossy()));
        }
    }
    let current = format!("v{ABI_VERSION}");
    for entry in fs::read_dir(&options.pin_dir)? {
        let entry = entry?;
        let used = entry.file_name() == LINKS || entry.file_name() == current.as_str();
        if entry.file_type()?.is_dir() && !used {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Removes every pin below `pin_dir`, and with the last one the maps and links themselves.
pub(super) fn remove_pins(pin_dir: &Path) -> Result<(), GateError> {
    let failed = |source| GateError::PinFolder {
        path: pin_dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(pin_dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // The kernel may have put files of its own at the top of a BPF file system.
        if entry.file_type().map_err(failed)?.is_dir() {
            fs::remove_dir_all(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// What the pin of an interface's link is called: a BPF file system has no names with dots, which
/// those of VLAN interfaces have.
fn pin_of(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

/// The interface that [`pin_of`] made a name for.
fn interface_of(pin: &str) -> String {
    pin.replace("%2e", ".").replace("%25", "%")
}

/// The pinned links, by interface.
#[derive(Default)]
pub(super) struct Links(BTreeMap<String, PinnedLink>);

impl Links {
    /// Puts the gate on an interface, by the link already there if there is one.
    pub(super) fn attach(
        &mut self,
        objects: &mut Objects,
        interface: &str,
        options: &GateOptions,
    ) -> Attachment {
        let pin = options.pin_dir.join(LINKS).join(pin_of(interface));
        let index = index_of(interface);
        let (mode, reason) = match attach(objects, interface, &pin, options.mode) {
            Ok((link, mode, reason)) => {
                self.0.insert(interface.to_owned(), link);
                (mode, reason)
            }
            Err(reason) => (Attached::None, reason),
        };
        Attachment {
            interface: interface.to_owned(),
            index,
            mode,
            reason,
        }
    }

    /// Lets go of the links on other interfaces; their pins are for [`discard_leftovers`].
    pub(super) fn retain(&mut self, interfaces: &[String]) {
        self.0.retain(|name, _| interfaces.contains(name));
    }

    pub(super) fn detach(self) {
        for (interface, link) in self.0 {
            // Without its pin the link ends with the descriptor that unpin returns. A pin that is
            // already gone comes to the same.
            drop(link.unpin());
            wait_until_free(&interface);
        }
    }
}

/// The kernel's number of an interface; 0 if there is none of that name.
pub(super) fn index_of(interface: &str) -> u32 {
    Interface::find(interface).map_or(0, |found| found.index)
}

type Outcome = Result<(PinnedLink, Attached, String), String>;

fn attach(objects: &mut Objects, interface: &str, pin: &Path, mode: Mode) -> Outcome {
    // First of all, because it refuses names that would lead out of the folder of pins.
    let device = Interface::find(interface).map_err(|error| error.to_string())?;
    if let Some(link) = swap(objects, interface, pin, mode, device.link) {
        let native = Interface::find(interface).is_ok_and(|now| now.xdp.is_some_and(|x| x.native));
        return Ok(if native {
            (link, Attached::Native, String::new())
        } else {
            let reason = "under the generic link of an earlier daemon".to_owned();
            (link, Attached::Generic, reason)
        });
    }
    let found = Interface::find(interface).map_err(|error| error.to_string())?;
    if let Some(taken) = found.xdp {
        return Err(format!(
            "XDP program {} already holds {interface}",
            taken.program
        ));
    }
    let mut refusals = match device.link {
        Link::Ethernet => Vec::new(),
        Link::Bare => vec!["native: its frames begin with IP".to_owned()],
        Link::Other(kind) => return Err(format!("the gate cannot read devices of kind {kind}")),
    };
    for (wanted, attached, name) in attempts(mode, device.link) {
        match attach_new(objects, name, interface, wanted, pin) {
            Ok(link) if attached == Attached::Native => {
                return Ok((link, attached, String::new()));
            }
            Ok(link) => return Ok((link, attached, refusals.join("; "))),
            Err(error) => refusals.push(format!("{name} {}: {error}", attached.name())),
        }
    }
    Err(refusals.join("; "))
}

/// One way to attach a program.
type Attempt = (XdpMode, Attached, &'static str);

/// What to try, best first. Drivers refuse the one-buffer program on an MTU beyond a page.
fn attempts(mode: Mode, link: Link) -> impl Iterator<Item = Attempt> {
    const ETHERNET: &[Attempt] = &[
        (XdpMode::Driver, Attached::Native, PROGRAM),
        (XdpMode::Driver, Attached::Native, PROGRAM_FRAGS),
        (XdpMode::Skb, Attached::Generic, PROGRAM),
    ];
    const BARE: &[Attempt] = &[(XdpMode::Skb, Attached::Generic, PROGRAM_L3)];
    match link {
        Link::Ethernet => ETHERNET,
        Link::Bare => BARE,
        Link::Other(_) => &[],
    }
    .iter()
    .copied()
    .filter(move |(wanted, ..)| match mode {
        Mode::Auto => true,
        Mode::Native => *wanted == XdpMode::Driver,
        Mode::Generic => *wanted == XdpMode::Skb,
        Mode::Off => false,
    })
}

fn attach_new(
    objects: &mut Objects,
    name: &'static str,
    interface: &str,
    mode: XdpMode,
    pin: &Path,
) -> Result<PinnedLink, String> {
    let program = objects.program(name).ok_or("not loaded")?;
    let id = program
        .attach(interface, mode)
        .map_err(|error| plain(&error))?;
    let link = take(program, id).map_err(|error| plain(&error))?;
    link.pin(pin).map_err(|error| first_line(&error))
}

/// Swaps the program under the link of an earlier daemon. `None` if there is no such link on this
/// interface, or none that can be used; then its pin is gone.
fn swap(
    objects: &mut Objects,
    interface: &str,
    pin: &Path,
    mode: Mode,
    link: Link,
) -> Option<PinnedLink> {
    let pinned = PinnedLink::from_pin(pin).ok()?;
    let old = FdLink::from(pinned).info().ok()?.program_id();
    let on_interface = Interface::find(interface).ok()?.xdp;
    let usable = on_interface.is_some_and(|xdp| {
        // The interface may have been made anew under its old name, or another mode is wanted.
        let mode_fits = match mode {
            Mode::Auto => true,
            Mode::Native => xdp.native,
            Mode::Generic => !xdp.native,
            Mode::Off => false,
        };
        xdp.program == old && mode_fits
    });
    let swapped = usable
        .then(|| attempts(mode, link).find_map(|(_, _, name)| update(objects, name, pin)))
        .flatten();
    if swapped.is_none() {
        // Removing the pin is what detaches it.
        let _ = fs::remove_file(pin);
        wait_until_free(interface);
    }
    swapped
}

/// The kernel lets go of an unpinned link a little after the pin is gone (it waits for readers).
fn wait_until_free(interface: &str) {
    for _ in 0..RELEASE_TRIES {
        if Interface::find(interface).is_ok_and(|now| now.xdp.is_none()) {
            return;
        }
        thread::sleep(RELEASE_STEP);
    }
}

const RELEASE_TRIES: u32 = 100;
const RELEASE_STEP: Duration = Duration::from_millis(2);

fn update(objects: &mut Objects, name: &str, pin: &Path) -> Option<PinnedLink> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    let program = objects.program(name)?;
    let id = program.attach_to_link(XdpLink::try_from(link).ok()?).ok()?;
    // The descriptor that goes back keeps nothing alive that the pin does not.
    drop(take(program, id).ok()?);
    PinnedLink::from_pin(pin).ok()
}

/// Only a real link can be pinned and swapped. aya falls back to netlink in silence, so a failed
/// conversion means that the gate would vanish with this process.
fn take(program: &mut Xdp, id: XdpLinkId) -> Result<FdLink, ProgramError> {
    let link = program.take_link(id)?;
    FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)
}

fn plain(error: &ProgramError) -> String {
    let ProgramError::SyscallError(call) = error else {
        return first_line(error);
    };
    match call.io_error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EOPNOTSUPP) => "the driver has no XDP".to_owned(),
        Some(Errno::ERANGE) => "the MTU is too large".to_owned(),
        Some(Errno::EBUSY) => "another XDP program holds the interface".to_owned(),
        Some(errno) => format!("{}: {}", call.call, errno.desc()),
        None => first_line(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_has_a_pin_of_its_own_that_says_which() {
        let names = ["eth0", "eth0.100", "a%b", "a%2eb", "a%25b", "%.%.", "a.b"];
        let mut pins: Vec<_> = names.map(pin_of).into();
        assert!(pins.iter().all(|pin| !pin.contains('.')), "{pins:?}");
        assert_eq!(
            pins.iter().map(|pin| interface_of(pin)).collect::<Vec<_>>(),
            names
        );
        pins.sort_unstable();
        pins.dedup();
        assert_eq!((pins.len(), pin_of("eth0").as_str()), (names.len(), "eth0"));
    }
}
