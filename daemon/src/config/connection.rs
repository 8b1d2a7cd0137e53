//! `[connections.NAME]` to [`ike::peer::Connection`].

use std::{sync::Arc, time::Duration};

use ike::{
    kernel::Mode,
    peer::{Child, Compat, Connection, Redirection, RemoteAuth, Resume, Suspend, Unique},
};

use super::{
    MAX_NAME, ResumeConfig, addresses,
    authentication::{
        LOCAL_KEYS, REMOTE_KEYS, Shared, local_auth, remote_identity, remote_pattern, remote_proof,
    },
    child::children,
    credential::{CredentialFolders, PrivateKey},
    digest,
    interface::Claim,
    pool::{self, Pools},
    proposal, redirect,
    secrets::Secrets,
    section::{Entry, Section},
    settings::TICKET_FORMS,
};

/// `ike_lifetime` when it is not given: an IKE SA that nobody rekeys ends then.
pub const DEFAULT_IKE_LIFETIME: Duration = Duration::from_hours(24);
/// `rekey_time` of an IKE SA when it is not given, as swanctl has it; sooner if its lifetime is short.
const DEFAULT_IKE_REKEY: Duration = Duration::from_hours(4);
/// `dpd_delay` when it is not given.
pub const DEFAULT_LIVENESS: Duration = Duration::from_secs(30);
/// Bounds of `ike_lifetime` and `life_time`.
pub const LIFETIME_BOUNDS: (Duration, Duration) =
    (Duration::from_mins(1), Duration::from_hours(720));
/// `fragment_size` when it is not given: what every IPv6 link carries, as strongSwan has it for both
/// families (RFC 7383, 2.5.1).
const DEFAULT_FRAGMENT_SIZE: u16 = 1280;
/// Bounds of `fragment_size`; any host takes an IPv4 datagram of the lower one.
const FRAGMENT_SIZE_BOUNDS: (u16, u16) = (576, 9000);
/// Bounds of `dpd_delay`; zero means never.
pub const LIVENESS_BOUNDS: (Duration, Duration) = (Duration::ZERO, Duration::from_hours(24));

const IKE_PORT: u16 = 500;
pub(super) const KEYS: &[&str] = &[
    "children",
    "compat",
    "dpd_delay",
    "fragment_size",
    "fragmentation",
    "ike_lifetime",
    "leases_per_identity",
    "local",
    "local_addrs",
    "mobike",
    "pools",
    "proposals",
    "psk",
    "reauth_time",
    "redirect",
    "redirect_to",
    "rekey_time",
    "remote",
    "remote_addrs",
    "remote_port",
    "resume",
    "secret",
    "start",
    "suspend",
    "tickets",
    "unique",
    "childless",
    "encap",
    "vips",
];

/// What every connection is read against.
pub(super) struct Surroundings<'a> {
    pub(super) secrets: &'a Secrets,
    pub(super) folders: &'a CredentialFolders,
    pub(super) resume: ResumeConfig,
    pub(super) pools: &'a Pools,
}

/// A connection with what the core does not hold.
pub(super) struct Parsed {
    pub(super) connection: Connection,
    pub(super) key: Option<PrivateKey>,
    pub(super) start: Start,
}

/// What becomes of a connection when the daemon starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Start {
    /// Nothing.
    None,
    /// It comes up.
    Up,
    /// Its packets bring it up.
    Trap,
}

/// Reads one connection; `None` once anything in it is wrong. Everything is read before the first
/// `?`, so that all of its problems are noted.
pub(super) fn read<'a>(
    name: &str,
    entry: Entry<'a>,
    around: &Surroundings<'_>,
    claims: &mut Vec<Claim<'a>>,
) -> Option<Parsed> {
    let name_is_good = is_name(name);
    if !name_is_good {
        entry.fail(bad_name());
    }
    let section = entry.table()?.only(KEYS);
    let local_addrs = addresses::ours(&section);
    let peer_at = addresses::of_peer(&section);
    let remote_port = optional(&section, "remote_port", IKE_PORT, |entry| {
        entry
            .integer(1..=u64::from(u16::MAX))
            .map(|port| port as u16)
    });
    let ike_suites = match section.entry("proposals") {
        Some(entry) => proposal::suites(&entry),
        None => Some(proposal::default_suites()),
    };
    let ike_lifetime = time(
        &section,
        "ike_lifetime",
        DEFAULT_IKE_LIFETIME,
        LIFETIME_BOUNDS,
    );
    let rekey = rekey_time(&section, ("ike_lifetime", ike_lifetime), DEFAULT_IKE_REKEY);
    let liveness = time(&section, "dpd_delay", DEFAULT_LIVENESS, LIVENESS_BOUNDS);
    let fragment_size = fragment_size(&section);
    let reauth = optional(&section, "reauth_time", None, |entry| {
        let (least, most) = LIFETIME_BOUNDS;
        entry.duration(least, most).map(Some)
    });
    let compat = optional(&section, "compat", Compat::Rfc, |entry| {
        entry.choice(&[("none", Compat::Rfc), ("libreswan", Compat::Libreswan)])
    });
    let redirect = optional(&section, "redirect", Redirection::Follow, redirect::conduct);
    let redirect_to = optional(&section, "redirect_to", None, |entry| {
        redirect::gateway(entry).map(Some)
    });
    let resumes = optional(&section, "resume", true, Entry::boolean);
    let suspend = optional(&section, "suspend", Suspend::Memory, |entry| {
        entry.choice(
            &[Suspend::Memory, Suspend::Expire, Suspend::Disk].map(|form| (form.word(), form)),
        )
    });
    let unique = optional(&section, "unique", Unique::Replace, |entry| {
        entry.choice(&[
            ("replace", Unique::Replace),
            ("keep", Unique::Keep),
            ("never", Unique::Never),
        ])
    });
    if let (Some(Unique::Never), Some(entry), None) =
        (unique, section.entry("unique"), section.entry("pools"))
    {
        entry.fail(
            "\"never\" needs pools: what shares one identity is told apart by its inner address",
        );
    }
    let leases_per_identity = optional(
        &section,
        "leases_per_identity",
        Connection::LEASES_PER_IDENTITY,
        |entry| {
            if unique.is_some_and(|unique| unique != Unique::Never) {
                entry.fail("means nothing without unique = \"never\": one identity has one login");
                return None;
            }
            let number = entry.integer(1..=u64::from(u16::MAX));
            number.map(|number| number as u16)
        },
    );
    let childless = optional(&section, "childless", false, Entry::boolean);
    let encap = optional(&section, "encap", false, Entry::boolean);
    let mobike = optional(&section, "mobike", true, Entry::boolean);
    let by_reference = optional(&section, "tickets", around.resume.by_reference, |entry| {
        entry.choice(TICKET_FORMS)
    });
    let start = optional(&section, "start", Start::None, |entry| {
        entry.choice(&[
            ("up", Start::Up),
            ("trap", Start::Trap),
            ("none", Start::None),
        ])
    });
    let pools = match section.entry("pools") {
        Some(entry) => around.pools.named(&entry),
        None => Some(Vec::new()),
    };
    let vips = match section.entry("vips") {
        Some(entry) => pool::vips(&entry),
        None => Some(Vec::new()),
    };
    let (leases, asks) = (section.entry("pools"), section.entry("vips"));
    if let (Some(_), Some(vips)) = (&leases, &asks) {
        vips.fail("a connection asks for addresses or leases some; drop vips or pools");
    }
    let children = children(&section, asks.is_some(), leases.is_some(), claims);
    // Where the two hosts are is all that transport mode is about (RFC 4555, 1.1).
    let is_transport = |child: &Child| child.carriage.mode == Mode::Transport;
    let stays = children.iter().flatten().any(is_transport);
    if let Some(entry) = section
        .entry("mobike")
        .filter(|_| stays && mobike == Some(true))
    {
        entry.fail("a Child SA in transport mode stays where it is; drop mobike, or the mode");
    }

    let remote_section = required_section(&section, "remote", REMOTE_KEYS, REMOTE_EXAMPLE);
    let remote_id = remote_section.as_ref().and_then(remote_identity);
    let shared = Shared {
        section: &section,
        remote_id: remote_id.clone().flatten(),
        around,
    };
    let local = required_section(&section, "local", LOCAL_KEYS, LOCAL_EXAMPLE)
        .and_then(|section| local_auth(&section, &shared));
    let proof = remote_section
        .as_ref()
        .and_then(|section| remote_proof(section, &shared));

    let nobody = peer_at == Some((None, Vec::new()));
    if start.is_some_and(|start| start != Start::None) && nobody {
        section.fail(
            "start",
            "needs to know whom to call; set remote_addrs, or write \"none\"",
        );
    } else if start == Some(Start::Trap) && matches!(peer_at, Some((None, _))) {
        section.fail(
            "start",
            "\"trap\" needs one address in remote_addrs, for the kernel knows no names; write \"up\"",
        );
    }
    if !name_is_good {
        return None;
    }
    let (local, key) = local?;
    let ike_lifetime = ike_lifetime?;
    let (local_addr, more_addrs) = local_addrs?;
    let (remote_addr, remote_hosts) = peer_at?;
    let mut connection = Connection {
        name: Arc::from(name),
        local_addr,
        more_addrs,
        remote_addr,
        remote_hosts,
        remote_port: remote_port?,
        local,
        remote: RemoteAuth {
            id: remote_id?,
            pattern: remote_section.as_ref().and_then(remote_pattern),
            proof: proof?,
        },
        ike_suites: ike_suites?,
        fragment_size: fragment_size?,
        children: children?,
        ike_lifetime,
        rekey: rekey?,
        reauth: reauth?,
        liveness: liveness?,
        pools: pools?,
        vips: vips?,
        unique: unique?,
        leases_per_identity: leases_per_identity?,
        childless: childless?,
        encap: encap?,
        redirect: redirect?,
        redirect_to: redirect_to?,
        compat: compat?,
        mobike: mobike? && !stays,
        resume: Resume {
            enabled: resumes? && around.resume.enabled,
            suspend: suspend?,
            by_reference: by_reference?,
            // No ticket outlives the SA it stands for (RFC 5723, 6.2).
            ticket_lifetime: around.resume.ticket_lifetime.min(ike_lifetime),
        },
        digest: [0; 32],
    };
    connection.digest = digest::of(&connection);
    Some(Parsed {
        connection,
        key,
        start: start?,
    })
}

const LOCAL_EXAMPLE: &str = "{ auth = \"psk\", id = \"gw.example\" }";
const REMOTE_EXAMPLE: &str = "{ auth = \"psk\", id = \"client.example\" }";

/// Whether a connection, child or secret may be called this: it goes into logs and paths unescaped.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet))
}

pub(super) fn bad_name() -> String {
    format!("a name has 1 to {MAX_NAME} letters, digits, dots, hyphens or underscores")
}

pub(super) fn time(
    section: &Section<'_>,
    key: &str,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Option<Duration> {
    optional(section, key, default, |entry| entry.duration(least, most))
}

/// When an SA gets new keys: before its lifetime ends, or never.
pub(super) fn rekey_time(
    section: &Section<'_>,
    (key, lifetime): (&str, Option<Duration>),
    default: Duration,
) -> Option<Duration> {
    let Some(entry) = section.entry("rekey_time") else {
        return lifetime.map(|lifetime| default.min(lifetime * 9 / 10));
    };
    let (least, most) = LIFETIME_BOUNDS;
    let time = entry.duration(Duration::ZERO, most)?;
    if !time.is_zero() && time < least {
        entry.fail("must be 0 or from 1m to 30d");
        return None;
    }
    if time >= lifetime? {
        entry.fail(format!("must be shorter than {key}"));
        return None;
    }
    Some(time)
}

/// Longest IP datagram that an IKE message goes out whole in; none at all without fragmentation.
#[expect(
    clippy::option_option,
    reason = "switched off and wrong are different answers here"
)]
fn fragment_size(section: &Section<'_>) -> Option<Option<u16>> {
    let on = optional(section, "fragmentation", true, Entry::boolean);
    let size = optional(section, "fragment_size", DEFAULT_FRAGMENT_SIZE, |entry| {
        let (least, most) = FRAGMENT_SIZE_BOUNDS;
        let size = entry.integer(u64::from(least)..=u64::from(most));
        size.map(|size| size as u16)
    });
    if let Some(entry) = section.entry("fragment_size").filter(|_| on == Some(false)) {
        entry.fail("means nothing with fragmentation = false; drop one");
        return None;
    }
    let (on, size) = (on?, size?);
    Some(on.then_some(size))
}

pub(super) fn optional<'a, T>(
    section: &Section<'a>,
    key: &str,
    default: T,
    read: impl FnOnce(&Entry<'a>) -> Option<T>,
) -> Option<T> {
    section
        .entry(key)
        .map_or(Some(default), |entry| read(&entry))
}

fn required_section<'a>(
    section: &Section<'a>,
    key: &str,
    known: &[&str],
    example: &str,
) -> Option<Section<'a>> {
    if section.entry(key).is_none() {
        section.fail(key, format!("is missing; write {key} = {example}"));
    }
    section.section(key, known)
}
