//! The configuration: TOML files to typed values, with every problem named by file, line, column and
//! key. Keys are those of `swanctl.conf` where it has one for the thing.

mod addresses;
mod authentication;
mod carriage;
mod child;
mod connection;
mod credential;
mod digest;
mod document;
mod fixed;
mod interface;
mod own;
mod pool;
mod proposal;
mod redirect;
mod revocation;
mod secrets;
mod section;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ike::{lease::Pool, peer::Connection};
use toml::{Spanned, de::DeTable};

pub use self::{
    child::DEFAULT_CHILD_LIFETIME,
    connection::{DEFAULT_IKE_LIFETIME, DEFAULT_LIVENESS, LIFETIME_BOUNDS, LIVENESS_BOUNDS},
    credential::{MAX_CERTIFICATES, MAX_CREDENTIAL_OCTETS, MAX_PSK_OCTETS, PrivateKey},
    document::{ConfigErrors, MAX_FILE_OCTETS, MAX_PROBLEMS, Problem},
    fixed::Fixed,
    interface::MAX_INTERFACES,
    own::OwnCertificates,
    pool::{MAX_POOLS, MAX_RANGES},
    redirect::RedirectConfig,
    revocation::{ListFiles, Reread},
    settings::{
        DEFAULT_TICKET_LIFETIME, DaemonConfig, DataplaneChoice, FloodConfig, GateConfig, GateMode,
        LogConfig, LogFormat, LogLevel, MAX_LISTED, ResumeConfig, TICKET_LIFETIME_BOUNDS,
    },
};
use self::{
    connection::{Start, Surroundings},
    credential::CredentialFolders,
    document::{Document, Sink},
    interface::Claim,
    pool::Pools,
    secrets::Secrets,
    section::{Entry, Section},
};
use crate::kernel::XfrmInterface;

/// Longest name of a connection or child, in octets.
pub const MAX_NAME: usize = 64;
/// Connections of one daemon.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Drop-in files.
pub const MAX_DROP_INS: usize = 4096;

/// Everything the files say.
#[derive(Debug, Default)]
pub struct Config {
    /// `[daemon]`.
    pub daemon: DaemonConfig,
    /// `[resume]`.
    pub resume: ResumeConfig,
    /// `[gate]`.
    pub gate: GateConfig,
    /// `[flood]`.
    pub flood: FloodConfig,
    /// `[redirect]`.
    pub redirect: RedirectConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[pools]`, by name.
    pub pools: Vec<Arc<Pool>>,
    /// `[connections]`, in the order of the files.
    pub connections: Vec<Connection>,
    /// The private keys of connections with a certificate, by connection.
    pub private_keys: BTreeMap<Arc<str>, PrivateKey>,
    /// Where their lists of revoked certificates come from.
    pub list_files: ListFiles,
    /// Connections with `start = "up"`, in the order of the files.
    pub start_up: Vec<Arc<str>>,
    /// Connections with `start = "trap"`, likewise.
    pub start_trap: Vec<Arc<str>>,
    /// xfrm interfaces that the daemon makes.
    pub interfaces: Vec<XfrmInterface>,
}

impl Config {
    /// Reads `main`, then `conf.d/*.toml` and `secrets.toml` beside it. A drop-in's settings come
    /// over earlier ones, by name; a connection is defined once.
    pub fn load(main: &Path) -> Result<Self, ConfigErrors> {
        let sink = Sink::default();
        let config = Self::read(main, &sink);
        if sink.is_empty() {
            Ok(config)
        } else {
            Err(sink.into_inner())
        }
    }

    /// The longest that a ticket of any connection is good for.
    #[must_use]
    pub fn longest_ticket(&self) -> Duration {
        let lifetimes = self.connections.iter();
        let lifetimes = lifetimes.map(|connection| connection.resume.ticket_lifetime);
        lifetimes.fold(self.resume.ticket_lifetime, Duration::max)
    }

    fn read(main: &Path, sink: &Sink) -> Self {
        let base = main.parent().unwrap_or(Path::new(""));
        let mut documents: Vec<Document> = Document::read(main, sink).into_iter().collect();
        documents.extend(
            drop_ins(base, sink)
                .iter()
                .filter_map(|path| Document::read(path, sink)),
        );
        let secrets_path = base.join("secrets.toml");
        let secret_document = secrets_path
            .exists()
            .then(|| Document::read(&secrets_path, sink))
            .flatten();

        let tables: Vec<_> = documents
            .iter()
            .filter_map(|one| parsed(one, sink))
            .collect();
        let secret_table = secret_document.as_ref().and_then(|one| parsed(one, sink));
        let mut config = Self::default();
        let mut secrets = Secrets::default();
        let roots: Vec<Section<'_>> = tables
            .iter()
            .map(|(document, table)| {
                Section::root(document, table, sink).only(&[
                    "connections",
                    "daemon",
                    "flood",
                    "gate",
                    "log",
                    "pools",
                    "redirect",
                    "resume",
                    "secrets",
                ])
            })
            .collect();
        if let Some((document, table)) = &secret_table {
            let root = Section::root(document, table, sink).only(&["secrets"]);
            take_secrets(&root, &mut secrets);
        }
        for root in &roots {
            config.take_settings(root);
            take_secrets(root, &mut secrets);
        }
        let mut pools = Pools::default();
        for root in &roots {
            pools.take(root);
        }
        let around = Surroundings {
            pools: &pools,
            secrets: &secrets,
            folders: &CredentialFolders::new(base.to_path_buf()),
            resume: config.resume,
        };
        let mut claims = Vec::new();
        for root in &roots {
            config.take_connections(root, &around, &mut claims);
        }
        config.interfaces = interface::settle(&claims);
        config.list_files = ListFiles::of(around.folders);
        config.pools = pools.all();
        config
    }

    fn take_settings(&mut self, root: &Section<'_>) {
        if let Some(section) = root.section("daemon", DaemonConfig::KEYS) {
            self.daemon.take(&section);
        }
        if let Some(section) = root.section("resume", ResumeConfig::KEYS) {
            self.resume.take(&section);
        }
        if let Some(section) = root.section("gate", GateConfig::KEYS) {
            self.gate.take(&section);
        }
        if let Some(section) = root.section("flood", FloodConfig::KEYS) {
            self.flood.take(&section);
        }
        if let Some(section) = root.section("redirect", RedirectConfig::KEYS) {
            self.redirect.take(&section);
        }
        if let Some(section) = root.section("log", LogConfig::KEYS) {
            self.log.take(&section);
        }
    }

    fn take_connections<'a>(
        &mut self,
        root: &Section<'a>,
        around: &Surroundings<'_>,
        claims: &mut Vec<Claim<'a>>,
    ) {
        let Some(table) = root.entry("connections").and_then(Entry::table) else {
            return;
        };
        let mut names: BTreeSet<Arc<str>> = self
            .connections
            .iter()
            .map(|one| Arc::clone(&one.name))
            .collect();
        for (name, entry) in table.entries() {
            if names.contains(name) {
                entry.fail("is defined in an earlier file already; rename one");
                continue;
            }
            if self.connections.len() >= MAX_CONNECTIONS {
                entry.fail(format!("is one more than {MAX_CONNECTIONS} connections"));
                return;
            }
            let Some(parsed) = connection::read(name, entry, around, claims) else {
                continue;
            };
            let name = Arc::clone(&parsed.connection.name);
            names.insert(Arc::clone(&name));
            match parsed.start {
                Start::None => {}
                Start::Up => self.start_up.push(Arc::clone(&name)),
                Start::Trap => self.start_trap.push(Arc::clone(&name)),
            }
            if let Some(key) = parsed.key {
                self.private_keys.insert(name, key);
            }
            self.connections.push(parsed.connection);
        }
    }
}

fn take_secrets(root: &Section<'_>, secrets: &mut Secrets) {
    let Some(table) = root.entry("secrets").and_then(Entry::table) else {
        return;
    };
    if root.document.is_private() {
        secrets.take(&table);
    } else {
        table.fail(
            "",
            "everybody on this machine can read this file; chmod 0600 it",
        );
    }
}

/// The drop-ins beside the main file, sorted by name.
fn drop_ins(base: &Path, sink: &Sink) -> Vec<PathBuf> {
    let folder = base.join("conf.d");
    let fail = |what: String| {
        sink.push(Problem {
            file: folder.clone(),
            place: None,
            key: String::new(),
            what,
        });
    };
    let listing = match fs::read_dir(&folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            fail(format!("cannot be read: {error}"));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = listing
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .take(MAX_DROP_INS + 1)
        .collect();
    if paths.len() > MAX_DROP_INS {
        fail(format!("holds more than {MAX_DROP_INS} files"));
        paths.clear();
    }
    paths.sort();
    paths
}

/// The table of a file; `None` once its syntax is wrong, for what follows would be guesswork.
fn parsed<'a>(document: &'a Document, sink: &Sink) -> Option<(&'a Document, Spanned<DeTable<'a>>)> {
    let (table, errors) = DeTable::parse_recoverable(&document.text);
    for error in &errors {
        // Only the parser's own words: its long form would print the line, and a secret with it.
        let what = error.message().replace('\n', ", ");
        sink.push(document.problem(&error.span().unwrap_or_default(), "", what));
    }
    errors.is_empty().then_some((document, table))
}
