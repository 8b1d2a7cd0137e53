//! Loads the gate, attaches it to interfaces, pins it so that it outlives this process, and hands
//! it keys. Without a gate the daemon loses speed, not safety: it judges everything again.
//!
//! What is pinned: links under `links/`, which carry over from one ABI version to the next, so
//! that a new daemon swaps the program under the same link; maps under a folder of their version.

mod attach;
mod board;
mod counters;
mod cpus;
mod interface;
mod lanes;
mod level;
mod maps;
mod network;
mod objects;
mod refused;
mod samples;

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use aya::EbpfError;
use aya::maps::MapError;
use aya::maps::xdp::XdpMapError;
use aya::programs::ProgramError;
use gate_abi::defence::{Budget, Level, Limit, Meter};
use gate_abi::lane::LaneCounts;
use gate_abi::maps::{ABI_VERSION, TicketKeys};
use gate_abi::networks::{Prefix, Rule};
use gate_abi::sample;
use gate_abi::sip::SipKey;
use nix::time::{ClockId, clock_gettime};
use ring::rand::{SecureRandom, SystemRandom};

pub use self::attach::{Attached, Attachment};
pub use self::board::Board;
pub use self::counters::Counted;
pub use self::lanes::Lanes;
pub use self::level::{FloodMode, LevelChoice, SAMPLE_EVERY};
pub use self::maps::Fill;
use self::maps::Maps;
pub(crate) use self::maps::mapped;
pub use self::network::{network_from_text, network_to_text};
use self::objects::Objects;
pub use self::objects::{DIRECT_OBJECT, Loaded, PORTABLE_OBJECT, Size, Verified};
pub use self::refused::{Refused, network_of};
pub use self::samples::Dropped;

/// Where things are and what is wanted.
#[derive(Clone, Debug)]
pub struct GateOptions {
    /// The folder that holds [`DIRECT_OBJECT`] and [`PORTABLE_OBJECT`].
    pub object_dir: PathBuf,
    /// A folder of our own. If it is not on a BPF file system, one is mounted on it.
    pub pin_dir: PathBuf,
    /// Names of the interfaces to stand in front of.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub mode: Mode,
    /// This host masquerades the IKE of others behind one of its own addresses, so that answers to
    /// them carry SPIs that are not ours.
    pub masquerade: bool,
    /// Networks from which nobody is heard.
    pub denied: Vec<Prefix>,
}

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Native if the driver can, else generic.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// Behind the driver, where a socket buffer already exists.
    Generic,
    /// Nowhere; only sockets are steered.
    Off,
}

/// A gate that is loaded, on as many of the interfaces as would have it.
pub struct Gate {
    options: GateOptions,
    objects: Objects,
    maps: Maps,
    links: attach::Links,
    attachments: Vec<Attachment>,
    /// When interfaces that would not have it are next asked again.
    retry_at: Duration,
}

/// Interfaces that would not have the gate are asked again after so long: who holds one may let go.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Why there is no gate, or why it did not take what it was told.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The object is missing, or cannot be read.
    #[error("gate object {path}: {source}")]
    Unread {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel would not have its maps.
    #[error("gate object {path}: {source}")]
    Object {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<EbpfError>,
    },
    /// The file is no object, or one of another version than this daemon.
    #[error("{path} is no gate object of ABI version {ABI_VERSION}: {source}")]
    Abi {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<EbpfError>,
    },
    /// The kernel refused a program.
    #[error("gate object {path}: {source}")]
    Program {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The kernel refused the program for sockets, or to put a socket under it.
    #[error("lanes: {0}")]
    Lanes(Box<ProgramError>),
    /// The object lacks something that its ABI version promises.
    #[error("gate object has no program {0}")]
    NoProgram(&'static str),
    /// The object lacks something that its ABI version promises.
    #[error("gate object has no map {0}")]
    NoMap(&'static str),
    /// A map could not be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The board could not be mapped.
    #[error("the gate's board cannot be mapped: {0}")]
    Board(io::Error),
    /// A CPU that packets cannot be sent to.
    #[error("steer to CPU {cpu}: {source}")]
    Cpu {
        /// Its number.
        cpu: u32,
        /// What is wrong with it.
        source: Box<XdpMapError>,
    },
    /// The folder for pins cannot be used.
    #[error("pin folder {path}: {source}")]
    PinFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
    /// More entries than the map has.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

impl Gate {
    /// Loads the gate and attaches it.
    ///
    /// An interface that will not have it is no error: [`Gate::attachments`] says why.
    pub fn attach(options: &GateOptions) -> Result<Self, GateError> {
        let mut gate = Self::load(options)?;
        gate.stand_guard(options.interfaces.clone(), boot_clock())?;
        Ok(gate)
    }

    /// Loads the gate, and leaves the interfaces as they are.
    pub fn load(options: &GateOptions) -> Result<Self, GateError> {
        let folder = attach::prepare_folder(&options.pin_dir)?;
        let mut objects = Objects::load(&options.object_dir, &folder, options.mode)?;
        let mut maps = objects.take_maps()?;
        // A gate without heartbeat closes for first messages, so the first beat comes before it.
        maps.beat(boot_clock())?;
        maps.set_budgets(Budget::ALL.map(|budget| budget.per_second(Level::Calm)))?;
        maps.set_limits(Meter::ALL.map(Meter::limit))?;
        maps.set_level(Some(Level::Calm))?;
        maps.set_meter_key(fresh_key()?)?;
        maps.set_masquerades(options.masquerade)?;
        let denied = options.denied.iter();
        let denied: Vec<_> = denied.map(|network| (*network, Rule::Deny)).collect();
        maps.set_rules(&denied)?;
        maps.set_sample_interval(sample::interval(cpus::places().into()))?;
        Ok(Self {
            options: options.clone(),
            objects,
            maps,
            links: attach::Links::default(),
            attachments: Vec::new(),
            retry_at: Duration::ZERO,
        })
    }

    /// Attaches the gate to these interfaces, and takes it off all others. To be called again now
    /// and then: one that was made anew, has come only now, or would not have the gate half a
    /// minute ago, gets it then. Returns what has changed.
    pub fn stand_guard(
        &mut self,
        interfaces: Vec<String>,
        now: Duration,
    ) -> Result<Vec<Attachment>, GateError> {
        let wanted = match self.options.mode {
            Mode::Off => Vec::new(),
            Mode::Auto | Mode::Native | Mode::Generic => interfaces,
        };
        let retries = now >= self.retry_at;
        if retries {
            self.retry_at = now + RETRY_AFTER;
        }
        let before = mem::take(&mut self.attachments);
        let mut changed = Vec::new();
        for interface in &wanted {
            let known = before.iter().find(|known| known.interface == *interface);
            let attachment = match known {
                Some(known)
                    if known.index == attach::index_of(interface)
                        && !(retries && known.was_refused()) =>
                {
                    known.clone()
                }
                _ => {
                    let new = self
                        .links
                        .attach(&mut self.objects, interface, &self.options);
                    if known != Some(&new) {
                        changed.push(new.clone());
                    }
                    new
                }
            };
            self.attachments.push(attachment);
        }
        let first = before.is_empty();
        if first || self.options.interfaces != wanted {
            self.options.interfaces = wanted;
            self.links.retain(&self.options.interfaces);
            attach::discard_leftovers(&self.options)?;
        }
        Ok(changed)
    }

    /// Has IKE worked on by these CPUs, where the gate stands in the driver. Elsewhere the socket buffer
    /// exists already, and IKE stays where it came in: those interfaces are returned.
    pub fn name_cpus(&mut self, cpus: &[u32]) -> Result<Vec<String>, GateError> {
        let (native, other): (Vec<_>, Vec<_>) = self
            .attachments
            .iter()
            .partition(|attachment| attachment.mode == Attached::Native);
        let indexes: Vec<u32> = native.iter().map(|one| one.index).collect();
        self.objects.name_cpus(&indexes, cpus)?;
        Ok(other.iter().map(|one| one.interface.clone()).collect())
    }

    /// For sockets in lanes; the error says why there are none.
    pub fn lanes(&mut self) -> Result<Lanes<'_>, GateError> {
        self.objects.lanes()
    }

    /// Makes exactly these `k_tag` and `k_mask` the live ones, by key id.
    pub fn set_ticket_keys(&mut self, keys: &[(u8, TicketKeys)]) -> Result<(), GateError> {
        Ok(self.maps.set_ticket_keys(keys)?)
    }

    /// Makes exactly these `k_cookie` the live ones, by epoch.
    pub fn set_cookie_keys(&mut self, keys: &[(u8, SipKey)]) -> Result<(), GateError> {
        Ok(self.maps.set_cookie_keys(keys)?)
    }

    /// Makes exactly these `k_spi` the live ones; there can be two.
    pub fn set_spi_keys(&mut self, keys: &[[u8; 16]]) -> Result<(), GateError> {
        self.maps.set_spi_keys(keys)
    }

    /// Whether a packet with an SPI that would have to be ours must carry the right check.
    pub fn set_check_own_spi(&mut self, check: bool) -> Result<(), GateError> {
        Ok(self.maps.set_check_own_spi(check)?)
    }

    /// Whether the board tells live SPIs of ours from dead ones, which needs an engine.
    pub fn set_check_live_spi(&mut self, check: bool) -> Result<(), GateError> {
        Ok(self.maps.set_check_live_spi(check)?)
    }

    /// Our node in SPIs and tickets.
    pub fn set_node(&mut self, node: u8) -> Result<(), GateError> {
        Ok(self.maps.set_node(node)?)
    }

    /// What the daemon's engine writes and the gate reads.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.maps.board
    }

    /// The same, to be handed on.
    #[must_use]
    pub fn board_descriptor(&self) -> BorrowedFd<'_> {
        self.maps.board_descriptor()
    }

    /// Makes exactly these our own addresses; packets to others pass. With none, the gate judges
    /// packets to any address, and answers none. Those that are never answered are no single host.
    pub fn set_local_addresses(
        &mut self,
        ours: &[IpAddr],
        never_answered: &[IpAddr],
    ) -> Result<(), GateError> {
        self.maps.set_local(ours, never_answered)
    }

    /// How much first messages have to show, and with that what is let through of everything else;
    /// `None` asks nobody for a cookie.
    pub fn set_level(&mut self, level: Option<Level>) -> Result<(), GateError> {
        let at = level.unwrap_or_default();
        self.set_budgets(Budget::ALL.map(|budget| budget.per_second(at)))?;
        Ok(self.maps.set_level(level)?)
    }

    /// What each [`Meter`] lets through.
    pub fn set_limits(&mut self, limits: [Limit; Meter::COUNT]) -> Result<(), GateError> {
        Ok(self.maps.set_limits(limits)?)
    }

    /// How many in a second on each CPU, by [`Budget`].
    pub fn set_budgets(&mut self, budgets: [u64; Budget::COUNT]) -> Result<(), GateError> {
        Ok(self.maps.set_budgets(budgets)?)
    }

    /// Nanoseconds from the boot clock to the wall's, for the expiry of tickets; `None` while the
    /// wall's is not sound, which leaves it to the daemon. Wraps.
    pub fn set_wall_minus_boot(&mut self, offset: Option<u64>) -> Result<(), GateError> {
        Ok(self.maps.set_wall_minus_boot(offset)?)
    }

    /// Says that the daemon lives. `since_boot` is [`boot_clock`]; to be called every second.
    pub fn heartbeat(&mut self, since_boot: Duration) -> Result<(), GateError> {
        Ok(self.maps.beat(since_boot)?)
    }

    /// Name, packets and octets of every reason, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64, u64)>, GateError> {
        let counted = self.counted()?;
        Ok(counted
            .iter()
            .map(|c| (c.reason.name(), c.packets, c.octets))
            .collect())
    }

    /// The same, typed.
    pub fn counted(&self) -> Result<Vec<Counted>, GateError> {
        Ok(self.maps.counters.read()?)
    }

    /// Datagrams that came to each lane and to the sink, by [`gate_abi::lane::Place::index`]; `None` if
    /// there are no lanes.
    pub fn lane_counts(&self) -> Option<Result<LaneCounts, GateError>> {
        let counts = self.objects.lane_counts()?;
        Some(counts.map_err(Into::into))
    }

    /// How full its tables are that can be full.
    pub fn fill(&self) -> Result<Vec<Fill>, GateError> {
        Ok(self.maps.fill(boot_clock().as_secs())?)
    }

    /// Makes exactly these the networks from which nobody is heard.
    pub fn set_rules(&mut self, rules: &[(Prefix, Rule)]) -> Result<(), GateError> {
        self.maps.set_rules(rules)
    }

    /// The kernel's number of the program on an interface.
    #[must_use]
    pub fn program_on(&self, attachment: &Attachment) -> Option<u32> {
        let stands = attachment.mode != Attached::None;
        let on = interface::Interface::find(&attachment.interface).ok();
        Some(on?.xdp?.program).filter(|_| stands)
    }

    /// Reads what the gate has sampled of its drops. To be called several times a second.
    pub fn read_samples(&mut self) {
        self.maps.samples.read(&self.attachments);
    }

    /// What was spent of each budget in the latest second, on the CPU that has spent most of it.
    pub fn spent(&self) -> Result<[u64; Budget::COUNT], GateError> {
        let now = boot_clock().as_nanos() as u64;
        Ok(self.maps.counters.spent(now)?)
    }

    /// So many networks, those first from which most of the packets came that were dropped of late.
    #[must_use]
    pub fn refused(&self, most: usize) -> Vec<Refused> {
        self.maps.samples.refused(most, boot_clock())
    }

    /// Packets that were dropped, the latest first: a few of those that [`Self::read_samples`] read.
    pub fn dropped(&self) -> impl Iterator<Item = &Dropped> {
        self.maps.samples.latest()
    }

    /// Where the gate stands, and where it does not and why.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// What the kernel took.
    #[must_use]
    pub fn loaded(&self) -> &Loaded {
        self.objects.loaded()
    }

    /// Takes the gate off every interface and forgets its maps. Dropping it does neither.
    pub fn detach(self) -> Result<(), GateError> {
        self.links.detach();
        attach::remove_pins(&self.options.pin_dir)
    }
}

fn fresh_key() -> Result<SipKey, GateError> {
    let mut octets = [0; 16];
    let filled = SystemRandom::new().fill(&mut octets);
    filled.map_err(|_| GateError::Random)?;
    Ok(SipKey::from_octets(octets))
}

/// The clock that the gate compares heartbeats with.
#[must_use]
pub fn boot_clock() -> Duration {
    // It cannot fail for a clock that every supported kernel has; zero would read as a dead daemon.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// A verifier's refusal comes with its whole log; the first line says what it is about.
fn first_line(error: &dyn std::error::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
