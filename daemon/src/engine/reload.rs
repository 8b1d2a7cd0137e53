//! The configuration, read again while SAs stand: all of it counts from then on, or nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ike::{Context, Reloaded, io::Command, peer::Connection};
use tokio::sync::Mutex;
use tracing::{debug, info};

use super::{
    dispatch::home_of,
    lists,
    ways::Ways,
    worker::{Worker, now},
};
use crate::config::{Config, Fixed, ListFiles, PrivateKey, Reread};

/// Where the configuration is, and what of it stands.
#[derive(Debug)]
pub(super) struct Desk {
    file: PathBuf,
    fixed: Fixed,
    /// Whose turn it is: one is read at a time.
    lists: Mutex<Arc<ListFiles>>,
}

/// What has been read, for every worker.
#[derive(Debug)]
pub(super) struct Settings {
    connections: Vec<Arc<Connection>>,
    private_keys: Arc<BTreeMap<Arc<str>, PrivateKey>>,
    start_up: Vec<Arc<str>>,
    start_trap: Vec<Arc<str>>,
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
    pub(super) fn new(file: &Path, fixed: Fixed, lists: Arc<ListFiles>) -> Self {
        Self {
            file: file.to_owned(),
            fixed,
            lists: Mutex::new(lists),
        }
    }

    /// Reads everything and has `tell` say it to the workers. The error is for people; then nothing has
    /// changed.
    pub(super) async fn reload<T: Future<Output = Option<Reloaded>>>(
        &self,
        tell: impl FnOnce(Arc<Settings>) -> T,
    ) -> Result<ReloadDone, String> {
        let mut lists = self.lists.lock().await;
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
        let settings = Settings {
            connections: config.connections.into_iter().map(Arc::new).collect(),
            private_keys: Arc::new(config.private_keys),
            start_up: config.start_up,
            start_trap: config.start_trap,
        };
        let connections = tell(Arc::new(settings)).await;
        let connections = connections.ok_or("the engine is ending")?;
        *lists = Arc::clone(&new);
        let said = [
            ("added", &connections.added),
            ("changed", &connections.changed),
            ("removed", &connections.removed),
        ];
        for (how, names) in said.into_iter().filter(|(_, names)| !names.is_empty()) {
            info!("{how} in the configuration: {}", names.join(", "));
        }
        Ok(ReloadDone {
            connections,
            lists: new.count(),
        })
    }
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
        let done = self.endpoint.reload(&new.connections, cx);
        self.logins.set_connections(new.connections.len());
        self.ways = Ways::new(&new.connections);
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
