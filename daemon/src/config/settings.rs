//! The tables of the configuration that are not connections: `[daemon]`, `[resume]`, `[gate]`,
//! `[flood]` and `[log]`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZero,
    path::PathBuf,
    thread,
    time::Duration,
};

use gate_abi::{cpus::MAX_NAMED, defence::Level, networks::Prefix};
use ike::MAX_WORKERS;

use super::section::{Entry, Section};
use crate::gate::{FloodMode, network_from_text};

/// Addresses to listen on, interfaces to guard, and networks to deny.
pub const MAX_LISTED: usize = 64;
/// `ticket_lifetime` when it is not given.
pub const DEFAULT_TICKET_LIFETIME: Duration = Duration::from_hours(12);
/// Bounds of `ticket_lifetime`.
pub const TICKET_LIFETIME_BOUNDS: (Duration, Duration) =
    (Duration::from_mins(1), Duration::from_hours(720));

/// Words of `tickets`, and whether they mean tickets by reference.
pub(super) const TICKET_FORMS: &[(&str, bool)] = &[("value", false), ("reference", true)];

/// `[daemon]`: folders, sockets and the data plane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DaemonConfig {
    /// What must outlive the daemon: ticket keys, indexes, used bits.
    pub state_dir: PathBuf,
    /// What must not: control socket, bpffs.
    pub run_dir: PathBuf,
    /// Addresses of the UDP sockets.
    pub listen: Vec<IpAddr>,
    /// The port of RFC 7296, 2; another only in tests.
    pub ike_port: u16,
    /// The port of ESP in UDP (RFC 3948); another only in tests.
    pub natt_port: u16,
    /// Our number among gateways that share ticket keys.
    pub node: u8,
    /// Threads of the engine.
    pub workers: u8,
    /// Who protects the packets.
    pub dataplane: DataplaneChoice,
    /// The interface for addresses that a gateway leases to us.
    pub vip_interface: String,
}

/// Who protects the packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DataplaneChoice {
    /// The kernel.
    #[default]
    Xfrm,
    /// Nobody: SAs are negotiated and that is all. For measuring.
    None,
}

/// `[resume]`: session resumption (RFC 5723).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResumeConfig {
    /// Whether it is used at all; a connection can opt out for itself.
    pub enabled: bool,
    /// Lifetime of a ticket; a shorter `ike_lifetime` bounds it.
    pub ticket_lifetime: Duration,
    /// Tickets name a record that the gateway keeps, instead of carrying it; a connection can say
    /// otherwise for itself.
    pub by_reference: bool,
    /// Retire all ticket keys when the machine went down without warning.
    pub strict_after_power_loss: bool,
}

/// `[gate]`: the filter in front of the daemon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GateConfig {
    /// How it attaches.
    pub mode: GateMode,
    /// Where it attaches; empty for every interface with an address we listen on.
    pub interfaces: Vec<String>,
    /// The folder with its BPF objects; `None` for the built-in place.
    pub objects_dir: Option<PathBuf>,
    /// This host masquerades the IKE of others behind one of its own addresses.
    pub masquerade: bool,
    /// The CPUs that work on IKE; none for whichever it comes to.
    pub steer_cpus: Vec<u32>,
    /// Networks from which nobody is heard.
    pub denied: Vec<Prefix>,
}

/// How the gate attaches.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum GateMode {
    /// Native, else generic, else not at all.
    #[default]
    Auto,
    /// Before the kernel makes a socket buffer, or not at all.
    Native,
    /// After it.
    Generic,
    /// Never.
    Off,
}

/// `[flood]`: how much first messages have to show.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FloodConfig {
    /// Who chooses the level.
    pub mode: FloodMode,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogConfig {
    /// What is written.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object for programs, which has everything that the text says as fields of their own, too.
    Json,
}

impl LogFormat {
    /// As the configuration writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogLevel {
    /// What keeps the daemon from its work.
    Error,
    /// And what an operator should look at.
    Warn,
    /// And one line for each outcome.
    #[default]
    Info,
    /// And the steps to it.
    Debug,
    /// And every packet.
    Trace,
}

impl LogLevel {
    /// From the fewest lines to the most.
    pub const ALL: [Self; 5] = [
        Self::Error,
        Self::Warn,
        Self::Info,
        Self::Debug,
        Self::Trace,
    ];

    /// As the configuration and a log filter write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/rekindle"),
            run_dir: PathBuf::from("/run/rekindle"),
            listen: vec![
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ],
            ike_port: 500,
            natt_port: 4500,
            node: 0,
            workers: one_for_each_cpu(),
            dataplane: DataplaneChoice::Xfrm,
            vip_interface: "lo".into(),
        }
    }
}

impl Default for ResumeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            ticket_lifetime: DEFAULT_TICKET_LIFETIME,
            by_reference: false,
            strict_after_power_loss: false,
        }
    }
}

impl DaemonConfig {
    pub(super) const KEYS: &[&str] = &[
        "dataplane",
        "ike_port",
        "install_virtual_ip_on",
        "listen",
        "natt_port",
        "node",
        "run_dir",
        "state_dir",
        "workers",
    ];

    pub(super) fn take(&mut self, section: &Section<'_>) {
        set(&mut self.state_dir, section, "state_dir", folder);
        set(&mut self.run_dir, section, "run_dir", folder);
        let port = |entry: &Entry<'_>| entry.integer(1..=65_535).map(|port| port as u16);
        set(&mut self.ike_port, section, "ike_port", port);
        set(&mut self.natt_port, section, "natt_port", port);
        if self.ike_port == self.natt_port {
            section.fail(
                "natt_port",
                "is the same as ike_port; the kernel needs two sockets",
            );
        }
        set(&mut self.node, section, "node", |entry| {
            entry.integer(0..=255).map(|node| node as u8)
        });
        set(&mut self.workers, section, "workers", |entry| {
            let workers = entry.integer(1..=u64::from(MAX_WORKERS));
            workers.map(|workers| workers as u8)
        });
        set(&mut self.dataplane, section, "dataplane", |entry| {
            entry.choice(&[
                ("xfrm", DataplaneChoice::Xfrm),
                ("none", DataplaneChoice::None),
            ])
        });
        set(
            &mut self.vip_interface,
            section,
            "install_virtual_ip_on",
            |entry| interface(entry.string()?, entry),
        );
        set(&mut self.listen, section, "listen", |entry| {
            listed(entry, "addresses", |text, element| {
                let address = text.parse().ok();
                if address.is_none() {
                    element.fail("is not an IP address; write \"0.0.0.0\" or \"::\" for all");
                }
                address
            })
        });
    }
}

impl GateConfig {
    pub(super) const KEYS: &[&str] = &[
        "denied",
        "interfaces",
        "masquerade",
        "mode",
        "objects_dir",
        "steer",
        "steer_cpus",
    ];

    pub(super) fn take(&mut self, section: &Section<'_>) {
        set(&mut self.mode, section, "mode", |entry| {
            entry.choice(&[
                ("auto", GateMode::Auto),
                ("native", GateMode::Native),
                ("generic", GateMode::Generic),
                ("off", GateMode::Off),
            ])
        });
        set(&mut self.interfaces, section, "interfaces", |entry| {
            listed(entry, "interfaces", interface)
        });
        set(&mut self.masquerade, section, "masquerade", Entry::boolean);
        set(&mut self.denied, section, "denied", |entry| {
            listed(entry, "networks", network)
        });
        self.take_steering(section);
        let mut objects_dir = self.objects_dir.clone().unwrap_or_default();
        set(&mut objects_dir, section, "objects_dir", folder);
        self.objects_dir = (!objects_dir.as_os_str().is_empty()).then_some(objects_dir);
    }

    /// Both keys belong in one file: the CPUs alone do nothing.
    fn take_steering(&mut self, section: &Section<'_>) {
        let mut wanted = !self.steer_cpus.is_empty();
        set(&mut wanted, section, "steer", |entry| {
            entry.choice(&[("off", false), ("cpumap", true)])
        });
        set(&mut self.steer_cpus, section, "steer_cpus", |entry| {
            let cpus = cpu_list(entry.string()?);
            if cpus.is_none() {
                entry.fail(format!("takes 1 to {MAX_NAMED} CPUs, such as \"0,2-3\""));
            }
            cpus
        });
        if !wanted {
            self.steer_cpus.clear();
        } else if self.steer_cpus.is_empty() {
            section.fail("steer", "needs steer_cpus, such as \"0,2-3\"");
        }
    }
}

impl ResumeConfig {
    pub(super) const KEYS: &[&str] = &[
        "enabled",
        "strict_after_power_loss",
        "ticket_lifetime",
        "tickets",
    ];

    pub(super) fn take(&mut self, section: &Section<'_>) {
        set(&mut self.enabled, section, "enabled", Entry::boolean);
        set(
            &mut self.strict_after_power_loss,
            section,
            "strict_after_power_loss",
            Entry::boolean,
        );
        set(&mut self.by_reference, section, "tickets", |entry| {
            entry.choice(TICKET_FORMS)
        });
        let (least, most) = TICKET_LIFETIME_BOUNDS;
        set(
            &mut self.ticket_lifetime,
            section,
            "ticket_lifetime",
            |entry| entry.duration(least, most),
        );
    }
}

impl FloodConfig {
    pub(super) const KEYS: &[&str] = &["mode"];

    pub(super) fn take(&mut self, section: &Section<'_>) {
        set(&mut self.mode, section, "mode", |entry| {
            let fixed = Level::ALL.map(FloodMode::Fixed);
            let [calm, guarded, attack] = fixed.map(|mode| (mode.word(), mode));
            entry.choice(&[
                (FloodMode::Auto.word(), FloodMode::Auto),
                calm,
                guarded,
                attack,
                (FloodMode::Off.word(), FloodMode::Off),
            ])
        });
    }
}

impl LogConfig {
    pub(super) const KEYS: &[&str] = &["format", "level"];

    pub(super) fn take(&mut self, section: &Section<'_>) {
        set(&mut self.level, section, "level", |entry| {
            entry.choice(&LogLevel::ALL.map(|level| (level.word(), level)))
        });
        set(&mut self.format, section, "format", |entry| {
            entry.choice(&[LogFormat::Text, LogFormat::Json].map(|format| (format.word(), format)))
        });
    }
}

fn one_for_each_cpu() -> u8 {
    let cpus = thread::available_parallelism().map_or(1, NonZero::get);
    cpus.min(usize::from(MAX_WORKERS)) as u8
}

pub(super) fn set<'a, T>(
    value: &mut T,
    section: &Section<'a>,
    key: &str,
    read: impl FnOnce(&Entry<'a>) -> Option<T>,
) {
    if let Some(read) = section.entry(key).and_then(|entry| read(&entry)) {
        *value = read;
    }
}

/// As the kernel takes them: IFNAMSIZ with its terminator, no slash, no blank.
pub(super) fn interface(text: &str, element: &Entry<'_>) -> Option<String> {
    let good = (1..=15).contains(&text.len())
        && text
            .bytes()
            .all(|octet| octet.is_ascii_graphic() && octet != b'/');
    if !good {
        element.fail("is not the name of an interface");
    }
    good.then(|| text.to_owned())
}

fn network(text: &str, element: &Entry<'_>) -> Option<Prefix> {
    let network = network_from_text(text);
    if network.is_none() {
        element.fail("is not a network, such as \"203.0.113.0/24\"");
    }
    network
}

fn folder(entry: &Entry<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(entry.string()?);
    if !path.is_absolute() {
        entry.fail("must be an absolute path");
        return None;
    }
    Some(path)
}

/// CPUs as the kernel lists them.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bounds = first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?;
        cpus.extend(bounds.take(MAX_NAMED + 1));
        if cpus.is_empty() || cpus.len() > MAX_NAMED {
            return None;
        }
    }
    Some(cpus.into_iter().collect())
}

fn listed<'a, T>(
    entry: &Entry<'a>,
    what: &str,
    read: impl Fn(&'a str, &Entry<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let texts = entry.strings()?;
    if !(1..=MAX_LISTED).contains(&texts.len()) {
        entry.fail(format!("takes 1 to {MAX_LISTED} {what}"));
        return None;
    }
    let all: Vec<_> = texts
        .iter()
        .map(|(text, element)| read(text, element))
        .collect();
    all.into_iter().collect()
}
