//! The configuration, read again while SAs stand: all of it counts from then on, or nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex as Held, MutexGuard, PoisonError},
};

use ike::{Context, Reloaded, io::Command, peer::Connection};
use tokio::sync::Mutex;
use tracing::{debug, info, warn};

use super::{
    dispatch::home_of,
    lists,
    ways::Ways,
    worker::{Worker, now},
};
use crate::{
    config::{Config, Fixed, ListFiles, LogLevel, OwnCertificates, PrivateKey, Reread},
    wall,
};

/// Where the configuration is, and what of it stands.
#[derive(Debug)]
pub(super) struct Desk {
    file: PathBuf,
    fixed: Fixed,
    /// What is configured. Whose turn it is: one is read at a time.
    running: Mutex<Vec<Arc<Connection>>>,
    credentials: Held<Credentials>,
}

/// What comes from files that change by themselves or whose time runs out.
#[derive(Debug)]
struct Credentials {
    /// Whoever follows the files does so for as long as this is held.
    lists: Arc<ListFiles>,
    own: OwnCertificates,
}

impl Credentials {
    fn new(lists: Arc<ListFiles>, connections: &[Arc<Connection>]) -> Self {
        let own = OwnCertificates::of(connections.iter().map(AsRef::as_ref));
        for flaw in own.flaws(now().wall) {
            warn!("{flaw}");
        }
        Self { lists, own }
    }
}

/// What has been read, for every worker.
#[derive(Debug)]
pub(super) struct Settings {
    connections: Vec<Arc<Connection>>,
    private_keys: Arc<BTreeMap<Arc<str>, PrivateKey>>,
    start_up: Vec<Arc<str>>,
    start_trap: Vec<Arc<str>>,
    pub(super) log_level: LogLevel,
    /// Connections of ours whose peer has called another worker than the one that would call the peer.
    occupied: BTreeSet<Arc<str>>,
}

/// What a reload has come to.
#[derive(Debug, Default)]
pub struct ReloadDone {
    /// Connections.
    pub connections: Reloaded,
    /// Lists of revoked certificates.
    pub lists: Reread,
}

impl Desk {
    pub(super) fn new(
        file: &Path,
        fixed: Fixed,
        connections: Vec<Arc<Connection>>,
        lists: Arc<ListFiles>,
    ) -> Self {
        Self {
            file: file.to_owned(),
            fixed,
            credentials: Held::new(Credentials::new(lists, &connections)),
            running: Mutex::new(connections),
        }
    }

    /// What of clock, lists and certificates an operator should look at, a line each.
    pub(super) fn attention(&self) -> Vec<String> {
        let credentials = self.credentials();
        let damaged = credentials.lists.trouble();
        let damaged = damaged
            .map(|what| format!("{what}; the lists of revoked certificates stay as they were"));
        let own = credentials.own.dated_flaws(now().wall);
        let clock = wall::behind().map(|behind| behind.to_string());
        clock.into_iter().chain(damaged).chain(own).collect()
    }

    fn credentials(&self) -> MutexGuard<'_, Credentials> {
        let held = self.credentials.lock();
        held.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything and has `tell` say it to the workers; `is_elsewhere` knows of a connection whether its
    /// peer has called another worker. The error is for people; then nothing has changed.
    pub(super) async fn reload<E, T>(
        &self,
        is_elsewhere: impl Fn(Arc<str>) -> E,
        tell: impl FnOnce(Arc<Settings>) -> T,
    ) -> Result<ReloadDone, String>
    where
        E: Future<Output = bool>,
        T: Future<Output = Option<Reloaded>>,
    {
        let done = self.reread(is_elsewhere, tell).await;
        if let Err(why) = &done {
            // Whoever asked may not look, as systemd.
            warn!("the configuration was not read anew: {why}");
        }
        done
    }

    async fn reread<E, T>(
        &self,
        is_elsewhere: impl Fn(Arc<str>) -> E,
        tell: impl FnOnce(Arc<Settings>) -> T,
    ) -> Result<ReloadDone, String>
    where
        E: Future<Output = bool>,
        T: Future<Output = Option<Reloaded>>,
    {
        let mut running = self.running.lock().await;
        let file = self.file.clone();
        let read = tokio::task::spawn_blocking(move || Config::load(&file));
        let config = read.await.map_err(|error| error.to_string())?;
        let config = config.map_err(|errors| errors.to_string())?;
        let differing = self.fixed.differing(&config);
        if !differing.is_empty() {
            return Err(format!(
                "{} would take a restart: {}",
                self.file.display(),
                differing.join(", ")
            ));
        }
        let new = Arc::new(config.list_files);
        lists::follow(&new).map_err(|error| error.to_string())?;
        let connections: Vec<_> = config.connections.into_iter().map(Arc::new).collect();
        let mut occupied = BTreeSet::new();
        for name in changed(&running, &connections) {
            if is_elsewhere(Arc::clone(&name)).await {
                occupied.insert(name);
            }
        }
        let settings = Settings {
            connections: connections.clone(),
            private_keys: Arc::new(config.private_keys),
            start_up: config.start_up,
            start_trap: config.start_trap,
            log_level: config.log.level,
            occupied,
        };
        let done = tell(Arc::new(settings)).await;
        let done = done.ok_or("the engine is ending")?;
        let lists = new.count();
        *self.credentials() = Credentials::new(new, &connections);
        *running = connections;
        let said = [
            ("added", &done.added),
            ("changed", &done.changed),
            ("removed", &done.removed),
        ];
        for (how, names) in said.into_iter().filter(|(_, names)| !names.is_empty()) {
            info!("{how} in the configuration: {}", names.join(", "));
        }
        Ok(ReloadDone {
            connections: done,
            lists,
        })
    }
}

/// Names of the connections that are in both and not alike.
fn changed(before: &[Arc<Connection>], after: &[Arc<Connection>]) -> Vec<Arc<str>> {
    let before: HashMap<_, _> = before.iter().map(|one| (&one.name, one)).collect();
    let other = |one: &&Arc<Connection>| {
        let known = before.get(&one.name);
        known.is_some_and(|known| !known.is_like(one))
    };
    let after = after.iter().filter(other);
    after.map(|one| Arc::clone(&one.name)).collect()
}

impl Worker {
    /// Goes by these settings from now on.
    pub(super) fn reload(&mut self, new: &Settings) -> Reloaded {
        let is_home = |name: &&Arc<str>| home_of(name, self.workers) == self.number;
        let of_home = |names: &[Arc<str>]| -> Vec<Arc<str>> {
            let of_home = names.iter().filter(is_home);
            of_home.cloned().collect()
        };
        let (start_up, start_trap) = (of_home(&new.start_up), of_home(&new.start_trap));
        self.environment
            .set_private_keys(Arc::clone(&new.private_keys));
        let now = now();
        let cx = &mut Context {
            now,
            env: &mut self.environment,
            ledger: &mut self.ledger,
            leases: &mut self.leases,
        };
        let (number, workers) = (self.number, self.workers);
        let frees = |name: &str| home_of(name, workers) == number && !new.occupied.contains(name);
        let done = self.endpoint.reload(&new.connections, frees, cx);
        for name in &done.removed {
            self.waiting.given_up(name);
        }
        self.logins.set_connections(new.connections.len());
        self.ways = Ways::new(&new.connections);
        // What has changed while nobody looked is found like anything else.
        self.ways.note(now.boot);
        for name in done.added.iter().chain(&done.changed) {
            if let Some(local) = self.ways.source_of(name) {
                self.endpoint.set_local_address(name, local);
            }
            self.starts.hurry(name, now.boot);
        }
        self.starts.retain(&start_up, now.boot);
        let before = std::mem::replace(&mut self.start_trap, start_trap);
        for name in before.iter().filter(|name| !self.start_trap.contains(name)) {
            self.endpoint.untrap(name);
        }
        let is_new = |name: &&Arc<str>| {
            let other = done.added.contains(name) || done.changed.contains(name);
            other || !before.contains(name)
        };
        let traps: Vec<_> = self.start_trap.iter().filter(is_new).cloned().collect();
        for connection in traps {
            self.command(Command::Trap(connection))
                .unwrap_or_else(|refused| debug!("{refused}"));
        }
        done
    }
}
