//! Leases on disk: one database file that survives crashes and power cuts, and a thread that commits in
//! one transaction whatever has queued while it was busy with the one before.

use std::{
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use ike::{io::StoreId, lease::LeaseRecord, wire::id::Identity};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use tracing::{error, warn};

use crate::tickets::{MovedAside, Unopened, open_database};

/// Changes that wait for their commit.
const MAX_QUEUED: usize = 4096;
/// Changes in one commit; more would make the first of them wait for the last.
const MAX_BATCH: usize = 512;
/// What it means to begin anew.
const LOSS: &str = "clients that come back may get other addresses than before";
const CACHE_OCTETS: usize = 2 << 20;
const FILE: &str = "leases";
/// The numbers of our changes have this bit, those of the store of references have not.
const OURS: u64 = 1 << 63;

/// By address, 4 or 16 octets: when it was last taken or given back, the connection's name, who has it.
const LEASES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("leases 1");

/// Why the leases cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A file could not be reached.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The database would not work.
    #[error("{path}: {source}", path = path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// In its own words.
        source: Box<redb::Error>,
    },
    /// No thread to write with.
    #[error("the thread that writes leases cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// The open file.
pub struct LeaseStore {
    path: PathBuf,
    database: Database,
}

impl fmt::Debug for LeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl LeaseStore {
    /// Opens the file or makes one. All of it is checked: what was altered behind our back is moved aside,
    /// and said so. An error of the file system moves nothing.
    pub fn open(folder: &Path) -> Result<(Self, Option<MovedAside>), LeaseError> {
        let path = folder.join(FILE);
        let io = |source| LeaseError::Io {
            path: path.clone(),
            source,
        };
        let failed = |source: redb::Error| LeaseError::Store {
            path: path.clone(),
            source: Box::new(source),
        };
        let opened = open_database(&path, CACHE_OCTETS, LOSS);
        let (database, moved) = opened.map_err(|error| match error {
            Unopened::Io(error) => io(error),
            Unopened::Database(error) => failed(error.into()),
        })?;
        Ok((Self { path, database }, moved))
    }

    /// Every lease that can be read; one that cannot is as good as none.
    pub fn load(&mut self) -> Result<Vec<LeaseRecord>, LeaseError> {
        let read = || -> Result<Vec<LeaseRecord>, redb::Error> {
            let transaction = self.database.begin_write()?;
            // So that there is a table to read.
            transaction.open_table(LEASES)?;
            transaction.commit()?;
            let table = self.database.begin_read()?.open_table(LEASES)?;
            let mut records = Vec::new();
            for entry in table.iter()? {
                let (address, value) = entry?;
                records.extend(decode(address.value(), value.value()));
            }
            Ok(records)
        };
        read().map_err(|source| self.failed(source))
    }

    /// Forgets the leases of these addresses.
    pub fn forget(&mut self, addresses: &[IpAddr]) -> Result<(), LeaseError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(LEASES)?;
                for address in addresses {
                    table.remove(key(*address).as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|source| self.failed(source))
    }

    /// Keeps these leases, all or none. Unless `durable`, a crash may undo it.
    pub fn keep<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a LeaseRecord>,
        durable: bool,
    ) -> Result<(), LeaseError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(if durable {
                Durability::Immediate
            } else {
                Durability::None
            })?;
            {
                let mut table = transaction.open_table(LEASES)?;
                for record in records {
                    table.insert(key(record.address).as_slice(), encode(record).as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: redb::Error) -> LeaseError {
        LeaseError::Store {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }
}

/// For the thread: leases, and who wants to know when they are on disk.
type Order = (Vec<LeaseRecord>, Option<StoreId>);

/// The engine's side of the thread that writes.
pub(super) struct LeaseQueue {
    last: u64,
    /// Gone when the queue is to end.
    sender: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for LeaseQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseQueue").finish_non_exhaustive()
    }
}

impl LeaseQueue {
    /// Gives the file to a thread. `tell` is called there with the outcome of every change that was
    /// begun, in their order.
    pub(super) fn start(
        store: LeaseStore,
        tell: impl Fn(StoreId, bool) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, orders) = sync_channel(MAX_QUEUED);
        let thread = thread::Builder::new()
            .name("leases".into())
            .spawn(move || commit_all(store, &orders, tell))?;
        Ok(Self {
            last: OURS,
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// Begins to keep new leases; `None` if the queue is full.
    pub(super) fn begin(&mut self, records: Vec<LeaseRecord>) -> Option<StoreId> {
        self.last += 1;
        let id = StoreId(self.last);
        self.order((records, Some(id))).then_some(id)
    }

    /// Keeps some time that leases are not in use any more. A lost one costs nothing but their order.
    pub(super) fn note(&mut self, records: Vec<LeaseRecord>) {
        self.order((records, None));
    }

    fn order(&self, order: Order) -> bool {
        match self.sender.as_ref().map(|sender| sender.try_send(order)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_))) => {
                warn!("{MAX_QUEUED} leases wait for the disk: others are not kept for now");
                false
            }
            Some(Err(TrySendError::Disconnected(_))) | None => false,
        }
    }
}

impl Drop for LeaseQueue {
    /// Waits until what has queued is on disk.
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been reported there.
            let _ = thread.join();
        }
    }
}

fn commit_all(mut store: LeaseStore, orders: &Receiver<Order>, tell: impl Fn(StoreId, bool)) {
    while let Ok(first) = orders.recv() {
        let rest = orders.try_iter().take(MAX_BATCH - 1);
        let batch: Vec<Order> = std::iter::once(first).chain(rest).collect();
        let records = batch.iter().flat_map(|(records, _)| records);
        let awaited = batch.iter().any(|(_, id)| id.is_some());
        let done = store.keep(records, awaited);
        if let Err(error) = &done {
            error!("{error}; {}", super::NOT_KEPT);
        }
        for id in batch.iter().filter_map(|(_, id)| *id) {
            tell(id, done.is_ok());
        }
    }
    // What was only noted goes to the disk with the end.
    if let Err(error) = store.keep([], true) {
        error!("{error}");
    }
}

fn key(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn encode(record: &LeaseRecord) -> Vec<u8> {
    let mut out = record.since.to_be_bytes().to_vec();
    out.extend_from_slice(&(record.connection.len() as u16).to_be_bytes());
    out.extend_from_slice(record.connection.as_bytes());
    out.extend_from_slice(&record.peer.body());
    out
}

fn decode(address: &[u8], value: &[u8]) -> Option<LeaseRecord> {
    let address = match address.len() {
        4 => IpAddr::from(*address.first_chunk::<4>()?),
        16 => IpAddr::from(*address.first_chunk::<16>()?),
        _ => return None,
    };
    let (since, rest) = value.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (connection, peer) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some(LeaseRecord {
        address,
        connection: Arc::from(std::str::from_utf8(connection).ok()?),
        peer: Identity::parse(peer).ok()?,
        since: u64::from_be_bytes(*since),
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt as _,
        sync::{Mutex, mpsc},
    };

    use super::*;

    fn record(address: &str, peer: &str, since: u64) -> LeaseRecord {
        LeaseRecord {
            address: address.parse().expect("address"),
            connection: "rw".into(),
            peer: Identity::from_text(peer).expect("identity"),
            since,
        }
    }

    #[test]
    fn leases_are_there_after_a_restart_and_only_for_us() {
        let folder = tempfile::tempdir().expect("folder");
        let mut kept = vec![
            record("10.3.0.1", "p.example", 7),
            record("2001:db8::1", "p@example.net", 8),
        ];
        {
            let (mut store, moved) = LeaseStore::open(folder.path()).expect("open");
            assert!(moved.is_none() && store.load().expect("empty").is_empty());
            store.keep(&kept, true).expect("kept");
            kept.push(record("10.3.0.2", "q.example", 9));
            // Another holder of the same address takes the place of the one before.
            kept[0] = record("10.3.0.1", "r.example", 10);
            store.keep(&kept, true).expect("kept");
        }
        let (mut store, _) = LeaseStore::open(folder.path()).expect("open");
        let mut read = store.load().expect("read");
        read.sort_by_key(|record| record.since);
        kept.sort_by_key(|record| record.since);
        assert_eq!(read, kept);
        store.forget(&[kept[0].address]).expect("forgotten");
        assert_eq!(store.load().expect("read").len(), 2);
        let file = fs::metadata(folder.path().join(FILE)).expect("the file");
        assert_eq!(file.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_said_so() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(FILE);
        fs::write(&path, vec![0xa5; 20_000]).expect("write");
        let (mut store, moved) = LeaseStore::open(folder.path()).expect("a fresh one");
        let said = moved.expect("moved").to_string();
        assert!(
            said.contains("leases: damaged") && said.contains("leases.damaged"),
            "{said}"
        );
        assert!(store.load().expect("empty").is_empty());
        assert!(path.with_added_extension("damaged").exists());
        // What is only out of reach is left alone.
        let nowhere = folder.path().join("nowhere");
        let error = LeaseStore::open(&nowhere).expect_err("no folder");
        assert!(error.to_string().contains("nowhere/leases"), "{error}");
    }

    #[test]
    fn what_is_begun_is_told_of_when_it_is_on_disk() {
        let folder = tempfile::tempdir().expect("folder");
        let (store, _) = LeaseStore::open(folder.path()).expect("open");
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let mut queue = LeaseQueue::start(store, move |id, done| {
            let tell = tell.lock().expect("not poisoned");
            tell.send((id, done)).expect("the test listens");
        })
        .expect("a thread");
        let first = queue.begin(vec![record("10.3.0.1", "p.example", 1)]);
        queue.note(vec![record("10.3.0.1", "p.example", 2)]);
        let second = queue.begin(vec![record("10.3.0.2", "q.example", 3)]);
        for id in [first, second] {
            assert_eq!(told.recv().ok(), id.map(|id| (id, true)));
        }
        queue.note(vec![record("10.3.0.2", "q.example", 4)]);
        drop(queue);
        let (mut store, _) = LeaseStore::open(folder.path()).expect("open");
        let since: Vec<_> = store
            .load()
            .expect("read")
            .iter()
            .map(|one| one.since)
            .collect();
        assert_eq!(since, [2, 4]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_none() {
        let good = encode(&record("10.3.0.1", "p.example", 1));
        assert!(decode(&[10, 3, 0, 1], &good).is_some());
        for end in 0..good.len() - "p.example".len() {
            assert!(decode(&[10, 3, 0, 1], &good[..end]).is_none(), "{end}");
        }
        assert!(decode(&[10, 3, 0], &good).is_none());
    }
}
