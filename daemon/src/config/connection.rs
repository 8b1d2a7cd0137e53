//! `[connections.NAME]` to [`ike::peer::Connection`].

use std::{net::IpAddr, sync::Arc, time::Duration};

use ike::{
    crypto::{CertificateChain, Secret, TrustAnchors},
    peer::{Child, Compat, Connection, Credential, LocalAuth, Proof, RemoteAuth, Resume, Suspend},
    wire::{id::Identity, ts::TrafficSelector},
};

use super::{
    MAX_NAME, ResumeConfig,
    credential::{CredentialFolders, PrivateKey},
    digest,
    document::quoted,
    pool::{self, Pools},
    proposal,
    secrets::Secrets,
    section::{Entry, Section},
    settings::TICKET_FORMS,
};

/// `ike_lifetime` when it is not given: an IKE SA that nobody rekeys ends then.
pub const DEFAULT_IKE_LIFETIME: Duration = Duration::from_hours(24);
/// `life_time` when it is not given; the same for the Child SA.
pub const DEFAULT_CHILD_LIFETIME: Duration = Duration::from_hours(24);
/// `rekey_time` of an IKE SA when it is not given, as swanctl has it; sooner if its lifetime is short.
const DEFAULT_IKE_REKEY: Duration = Duration::from_hours(4);
/// `rekey_time` of a Child SA when it is not given, likewise.
const DEFAULT_CHILD_REKEY: Duration = Duration::from_hours(1);
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
/// In the place of a network: whatever address is leased.
const DYNAMIC: &str = "dynamic";
pub(super) const KEYS: &[&str] = &[
    "children",
    "compat",
    "dpd_delay",
    "fragment_size",
    "fragmentation",
    "ike_lifetime",
    "local",
    "local_addrs",
    "pools",
    "proposals",
    "psk",
    "reauth_time",
    "rekey_time",
    "remote",
    "remote_addrs",
    "remote_port",
    "resume",
    "secret",
    "start",
    "suspend",
    "tickets",
    "vips",
];
pub(super) const LOCAL_KEYS: &[&str] = &["auth", "cert", "id", "key", "psk", "secret"];
pub(super) const REMOTE_KEYS: &[&str] = &["auth", "cacerts", "id", "psk", "secret"];
pub(super) const CHILD_KEYS: &[&str] = &[
    "esp_proposals",
    "life_time",
    "local_ts",
    "rekey_time",
    "remote_ts",
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
    pub(super) start_up: bool,
}

/// Reads one connection; `None` once anything in it is wrong. Everything is read before the first
/// `?`, so that all of its problems are noted.
pub(super) fn read(name: &str, entry: Entry<'_>, around: &Surroundings<'_>) -> Option<Parsed> {
    let name_is_good = is_name(name);
    if !name_is_good {
        entry.fail(bad_name());
    }
    let section = entry.table()?.only(KEYS);
    let local_addr = address(&section, "local_addrs");
    let remote_addr = address(&section, "remote_addrs");
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
    let resumes = optional(&section, "resume", true, Entry::boolean);
    let suspend = optional(&section, "suspend", Suspend::Memory, |entry| {
        entry.choice(
            &[Suspend::Memory, Suspend::Expire, Suspend::Disk].map(|form| (form.word(), form)),
        )
    });
    let by_reference = optional(&section, "tickets", around.resume.by_reference, |entry| {
        entry.choice(TICKET_FORMS)
    });
    let start_up = optional(&section, "start", false, |entry| {
        entry.choice(&[("up", true), ("none", false)])
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
    let child = child(&section, asks.is_some(), leases.is_some());

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

    if start_up == Some(true) && remote_addr == Some(None) {
        section.fail(
            "start",
            "\"up\" needs to know whom to call; set remote_addrs",
        );
    }
    if !name_is_good {
        return None;
    }
    let (local, key) = local?;
    let ike_lifetime = ike_lifetime?;
    let mut connection = Connection {
        name: Arc::from(name),
        local_addr: local_addr?,
        remote_addr: remote_addr?,
        remote_port: remote_port?,
        local,
        remote: RemoteAuth {
            id: remote_id?,
            proof: proof?,
        },
        ike_suites: ike_suites?,
        fragment_size: fragment_size?,
        child: child?,
        ike_lifetime,
        rekey: rekey?,
        reauth: reauth?,
        liveness: liveness?,
        pools: pools?,
        vips: vips?,
        compat: compat?,
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
        start_up: start_up?,
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
fn rekey_time(
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

fn optional<'a, T>(
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

/// The outer option is whether the text was right, the inner one whether there is an address.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are different answers here"
)]
fn address(section: &Section<'_>, key: &str) -> Option<Option<IpAddr>> {
    let Some(entry) = section.entry(key) else {
        return Some(None);
    };
    let texts = entry.strings()?;
    let [(text, element)] = texts.as_slice() else {
        entry.fail("takes exactly one address in this release");
        return None;
    };
    if *text == "%any" {
        return Some(None);
    }
    let address = text.parse().ok();
    if address.is_none() {
        element.fail(format!(
            "{} is not an IP address; host names are not looked up, write 192.0.2.1 or %any",
            quoted(text)
        ));
    }
    address.map(Some)
}

#[expect(
    clippy::option_option,
    reason = "absent and wrong are different answers here"
)]
fn remote_identity(section: &Section<'_>) -> Option<Option<Identity>> {
    match section.entry("id") {
        None => Some(None),
        Some(entry) if entry.string()? == "%any" => Some(None),
        Some(entry) => identity(&entry).map(Some),
    }
}

pub(super) fn identity(entry: &Entry<'_>) -> Option<Identity> {
    let text = entry.string()?;
    let id = Identity::from_text(text);
    if id.is_none() {
        entry.fail(format!(
            "{} cannot be an identity; write a host name, name@host, an address, keyid:NAME or a \
             distinguished name such as O=Example, CN=gw",
            quoted(text)
        ));
    }
    id
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Auth {
    Psk,
    Pubkey,
}

/// `auth`, or what the keys beside it imply.
fn auth(section: &Section<'_>, certificate_keys: &[&str]) -> Option<Auth> {
    let has = |key: &&str| section.entry(key).is_some();
    let (psk, pubkey) = (
        ["psk", "secret"].iter().any(has),
        certificate_keys.iter().any(has),
    );
    let auth = match section.entry("auth") {
        Some(entry) => entry.choice(&[("psk", Auth::Psk), ("pubkey", Auth::Pubkey)])?,
        None if psk => Auth::Psk,
        None if pubkey => Auth::Pubkey,
        None => {
            section.fail(
                "auth",
                "is missing; write auth = \"psk\" or auth = \"pubkey\"",
            );
            return None;
        }
    };
    let stray: &[&str] = if auth == Auth::Psk {
        certificate_keys
    } else {
        &["psk", "secret"]
    };
    let (name, other) = if auth == Auth::Psk {
        ("psk", "pubkey")
    } else {
        ("pubkey", "psk")
    };
    for entry in stray.iter().filter_map(|key| section.entry(key)) {
        entry.fail(format!(
            "belongs to auth = \"{other}\", but auth is \"{name}\"; drop one"
        ));
    }
    Some(auth)
}

fn local_auth(
    section: &Section<'_>,
    shared: &Shared<'_>,
) -> Option<(LocalAuth, Option<PrivateKey>)> {
    let id = section.entry("id");
    if id.is_none() {
        section.fail("id", "is missing; write the name the peer knows us by");
    }
    let id = id.and_then(|entry| identity(&entry));
    let (credential, key) = match auth(section, &["cert", "key"])? {
        Auth::Psk => (Credential::PreShared(shared.secret(section)?), None),
        Auth::Pubkey => {
            let folders = shared.around.folders;
            let chain = file(section, "cert", |name| folders.chain(name));
            let key = file(section, "key", |name| folders.private_key(name));
            let (chain, key) = (chain?, key?);
            if !chain.first().is_some_and(|leaf| key.belongs_to(leaf)) {
                section.fail("key", "does not belong to the first certificate of cert");
                return None;
            }
            (
                Credential::Certificate(CertificateChain {
                    certificates: chain,
                }),
                Some(key),
            )
        }
    };
    Some((
        LocalAuth {
            id: id?,
            credential,
        },
        key,
    ))
}

fn remote_proof(section: &Section<'_>, shared: &Shared<'_>) -> Option<Proof> {
    if auth(section, &["cacerts"])? == Auth::Psk {
        return shared.secret(section).map(Proof::PreShared);
    }
    let Some(entry) = section.entry("cacerts") else {
        section.fail(
            "cacerts",
            "is missing; name the CA's file, cacerts = [\"ca.pem\"]",
        );
        return None;
    };
    let mut anchors = TrustAnchors::default();
    let mut sound = true;
    for (name, element) in entry.strings()? {
        let found = shared.around.folders.authorities(name).and_then(|found| {
            found.iter().try_for_each(|authority| {
                let taken = anchors.add(authority);
                taken.map_err(|error| format!("{name}: {error}"))
            })
        });
        if let Err(what) = found {
            element.fail(what);
            sound = false;
        }
    }
    if sound && anchors.is_empty() {
        entry.fail("is empty; name at least one CA");
        return None;
    }
    sound.then_some(Proof::Certificate(anchors))
}

fn file<T>(
    section: &Section<'_>,
    key: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Some(entry) = section.entry(key) else {
        section.fail(key, "is missing; auth = \"pubkey\" needs both cert and key");
        return None;
    };
    read(entry.string()?).map_err(|what| entry.fail(what)).ok()
}

/// Where the key of a pair is looked for: beside `auth`, in the connection, then by the peer's
/// identity among the secrets, because one key proves both sides of a pair.
struct Shared<'a> {
    section: &'a Section<'a>,
    remote_id: Option<Identity>,
    around: &'a Surroundings<'a>,
}

impl Shared<'_> {
    fn secret(&self, side: &Section<'_>) -> Option<Secret> {
        for section in [side, self.section] {
            if let Some(entry) = section.entry("psk") {
                return self.around.secrets.inline(&entry);
            }
            if let Some(entry) = section.entry("secret") {
                return self.around.secrets.named(&entry);
            }
        }
        let found = self
            .remote_id
            .as_ref()
            .and_then(|id| self.around.secrets.of(id));
        if found.is_none() {
            side.fail(
                "secret",
                "no pre-shared key; name one with secret = \"NAME\", or give an entry of \
                 secrets.toml the peer's id",
            );
        }
        found
    }
}

fn child(section: &Section<'_>, asks: bool, leases: bool) -> Option<Child> {
    let Some(children) = section.entry("children") else {
        section.fail(
            "children",
            "is missing; add a table children.NAME with local_ts and remote_ts",
        );
        return None;
    };
    let children = children.table()?;
    let mut entries = children.entries().into_iter();
    let (first, second) = (entries.next(), entries.next());
    let Some((name, entry)) = first else {
        children.fail("", "is empty; add a table NAME with local_ts and remote_ts");
        return None;
    };
    if let Some((_, second)) = second {
        second.fail("a connection has exactly one child in this release; make another connection");
        return None;
    }
    let name_is_good = is_name(name);
    if !name_is_good {
        entry.fail(bad_name());
    }
    let section = entry.table()?.only(CHILD_KEYS);
    let local_ts = selectors(&section, "local_ts", asks.then_some("vips"));
    let remote_ts = selectors(&section, "remote_ts", leases.then_some("pools"));
    let ciphers = match section.entry("esp_proposals") {
        Some(entry) => proposal::ciphers(&entry),
        None => Some(proposal::default_ciphers()),
    };
    let lifetime = time(
        &section,
        "life_time",
        DEFAULT_CHILD_LIFETIME,
        LIFETIME_BOUNDS,
    );
    let rekey = rekey_time(&section, ("life_time", lifetime), DEFAULT_CHILD_REKEY);
    let ((local_ts, local_dynamic), (remote_ts, remote_dynamic)) = (local_ts?, remote_ts?);
    name_is_good.then_some(Child {
        name: Arc::from(name),
        local_ts,
        local_dynamic,
        remote_ts,
        remote_dynamic,
        ciphers: ciphers?,
        lifetime: lifetime?,
        rekey: rekey?,
    })
}

/// Networks, and whether `dynamic` is among them: what is leased, which `because` of this key there is.
fn selectors(
    section: &Section<'_>,
    key: &str,
    because: Option<&str>,
) -> Option<(Vec<TrafficSelector>, bool)> {
    let Some(entry) = section.entry(key) else {
        if because.is_some() {
            return Some((Vec::new(), true));
        }
        section.fail(key, "is missing; write networks, [\"10.1.0.0/24\"]");
        return None;
    };
    let texts = entry.strings()?;
    if !(1..=TrafficSelector::MAX).contains(&texts.len()) {
        entry.fail(format!("takes 1 to {} networks", TrafficSelector::MAX));
        return None;
    }
    let (dynamic, networks): (Vec<_>, Vec<_>) =
        texts.iter().partition(|(text, _)| *text == DYNAMIC);
    match (dynamic.first(), because) {
        (Some((_, element)), None) => {
            element.fail(
                "\"dynamic\" is what vips asks for or pools leases, and there is neither; \
                 write networks",
            );
            return None;
        }
        (None, Some(because)) => {
            entry.fail(format!(
                "leaves out the addresses that {because} is about; add \"dynamic\" or drop {key}"
            ));
            return None;
        }
        _ => {}
    }
    let read = |(text, element): &&(&str, Entry<'_>)| {
        let selector = TrafficSelector::from_text(text);
        if selector.is_none() {
            element.fail(format!(
                "{} is not a network; write 10.1.0.0/24",
                quoted(text)
            ));
        }
        selector
    };
    let networks: Vec<_> = networks.iter().map(read).collect();
    let networks: Option<Vec<_>> = networks.into_iter().collect();
    networks.map(|networks| (networks, because.is_some()))
}
