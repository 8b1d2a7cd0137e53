//! Group commit on a disk that can be slow, full of failures, or lose power.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use ike::crypto::Secret;
use redb::StorageBackend;

use super::*;
use crate::tickets::{ReferenceLimits, database::database, wall_clock};

/// A disk: what was written, and what of it was synced.
#[derive(Clone, Debug, Default)]
struct Disk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    written: Mutex<Vec<u8>>,
    /// What a power cut leaves, and the pages written since, of which any may be left too.
    synced: Mutex<Vec<u8>>,
    since: Mutex<BTreeMap<u64, Vec<u8>>>,
    fails: AtomicBool,
    held: Mutex<()>,
    /// Syncs that have begun, and that are done.
    begun: AtomicUsize,
    syncs: AtomicUsize,
}

impl Disk {
    fn written(&self) -> MutexGuard<'_, Vec<u8>> {
        self.shared.written.lock().expect("not poisoned")
    }

    /// The disk after a power cut. Of what was not synced, every `every`th write is there; 0 for none.
    fn cut(&self, every: usize) -> Self {
        let mut octets = self.shared.synced.lock().expect("not poisoned").clone();
        let since = self.shared.since.lock().expect("not poisoned");
        for (number, (place, data)) in since.iter().enumerate() {
            let end = *place as usize + data.len();
            if every != 0 && number % every == 0 && end <= octets.len() {
                octets[*place as usize..end].copy_from_slice(data);
            }
        }
        let disk = Self::default();
        disk.written().clone_from(&octets);
        *disk.shared.synced.lock().expect("not poisoned") = octets;
        disk
    }

    fn syncs(&self) -> usize {
        self.shared.syncs.load(Ordering::Acquire)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self.written()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.begun.fetch_add(1, Ordering::AcqRel);
        let _held = self.shared.held.lock().expect("not poisoned");
        if self.shared.fails.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut synced = self.shared.synced.lock().expect("not poisoned");
        synced.clone_from(&self.written());
        self.shared.since.lock().expect("not poisoned").clear();
        self.shared.syncs.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = offset as usize;
        self.written()[start..start + data.len()].copy_from_slice(data);
        let mut since = self.shared.since.lock().expect("not poisoned");
        since.insert(offset, data.to_vec());
        Ok(())
    }
}

fn roots() -> Vec<TicketRoot> {
    let root = Secret::new(vec![7; 32]);
    vec![TicketRoot { key_id: 7, root }]
}

fn kept(octet: u8) -> Kept {
    let mut envelope = [octet; 32];
    envelope[1] = 7;
    let state = Secret::new(vec![octet; 200]);
    Kept { envelope, state }
}

fn store_on(disk: &Disk) -> References {
    let opened = database(disk.clone(), 8 << 20).expect("a whole database");
    References::over(opened, "disk".into(), ReferenceLimits::default()).expect("open")
}

fn start(disk: &Disk) -> (ReferenceQueue, Receiver<(StoreId, bool)>) {
    let (tell, outcomes) = mpsc::channel();
    let tell = move |id, done| tell.send((id, done)).expect("the test listens");
    let mut queue = ReferenceQueue::start(store_on(disk), tell).expect("a thread");
    queue.set_epochs(&roots());
    (queue, outcomes)
}

fn expiry() -> u64 {
    wall_clock() + 3600
}

fn next(outcomes: &Receiver<(StoreId, bool)>) -> (StoreId, bool) {
    let outcome = outcomes.recv_timeout(Duration::from_secs(20));
    outcome.expect("an outcome")
}

/// Which of the references are there after a restart on this disk.
fn found(disk: &Disk) -> Vec<u8> {
    let (queue, _outcomes) = start(disk);
    let is_there = |octet: &u8| queue.kept(&[*octet; 16]).expect("readable").is_some();
    (0..=u8::MAX).filter(is_there).collect()
}

// RFC 5723: N15, N37
#[test]
fn what_was_said_to_be_done_survives_a_power_cut() {
    let disk = Disk::default();
    let (mut queue, outcomes) = start(&disk);
    let mut expected: Vec<u8> = Vec::new();
    for octet in 0..24 {
        let id = queue.begin_keep([octet; 16], expiry(), kept(octet));
        assert_eq!(next(&outcomes), (id.expect("room"), true));
        expected.push(octet);
        if octet % 3 == 2 {
            let id = queue.begin_consume([octet - 1; 16]);
            assert_eq!(next(&outcomes), (id.expect("room"), true));
            expected.retain(|one| *one != octet - 1);
        }
        for every in [0, 1, 2, 3] {
            let after = disk.cut(every);
            assert_eq!(found(&after), expected, "cut after {octet}, {every}");
        }
    }
}

#[test]
fn what_queues_during_a_commit_shares_the_next() {
    let disk = Disk::default();
    let (mut queue, outcomes) = start(&disk);
    let before = disk.syncs();
    let held = disk.shared.held.lock().expect("not poisoned");
    let mut ids = Vec::new();
    for octet in 0..200 {
        ids.extend(queue.begin_keep([octet; 16], expiry(), kept(octet)));
    }
    assert!(outcomes.try_recv().is_err(), "nothing is done yet");
    drop(held);
    let done: Vec<_> = ids.iter().map(|_| next(&outcomes)).collect();
    let expected: Vec<_> = ids.iter().map(|id| (*id, true)).collect();
    assert_eq!(done, expected, "in order");
    let syncs = disk.syncs() - before;
    assert!(syncs <= 6, "{syncs} syncs for 200 records");
    assert!(
        queue.keep([201; 16], expiry(), kept(201)),
        "and one that waits"
    );
    drop(queue);
    assert_eq!(found(&disk.cut(0)).len(), 201);
}

// RFC 5723: N8
#[test]
fn a_full_queue_takes_nothing_and_recovers() {
    let disk = Disk::default();
    let (mut queue, outcomes) = start(&disk);
    let held = disk.shared.held.lock().expect("not poisoned");
    let before = disk.shared.begun.load(Ordering::Acquire);
    assert!(queue.begin_consume([1; 16]).is_some());
    while disk.shared.begun.load(Ordering::Acquire) == before {
        thread::yield_now();
    }
    // The thread is busy with that one.
    for _ in 0..MAX_QUEUED {
        assert!(queue.begin_consume([1; 16]).is_some());
    }
    assert_eq!(queue.begin_consume([1; 16]), None);
    assert_eq!(queue.begin_keep([2; 16], expiry(), kept(2)), None);
    assert!(
        !queue.keep([2; 16], expiry(), kept(2)),
        "it does not wait for room"
    );
    drop(held);
    for _ in 0..=MAX_QUEUED {
        assert!(next(&outcomes).1);
    }
    assert!(queue.begin_keep([2; 16], expiry(), kept(2)).is_some());
    assert!(next(&outcomes).1);
}

// RFC 5723: N15
#[test]
fn when_the_disk_fails_nothing_is_done_and_what_was_stays() {
    let disk = Disk::default();
    let (mut queue, outcomes) = start(&disk);
    assert!(queue.keep([1; 16], expiry(), kept(1)));
    disk.shared.fails.store(true, Ordering::Release);
    for _ in 0..3 {
        let keep = queue.begin_keep([2; 16], expiry(), kept(2));
        assert_eq!(next(&outcomes), (keep.expect("room"), false));
        let consume = queue.begin_consume([1; 16]);
        assert_eq!(next(&outcomes), (consume.expect("room"), false));
        assert!(!queue.keep([3; 16], expiry(), kept(3)));
    }
    drop(queue);
    assert_eq!(found(&disk.cut(0)), [1]);
    // What was written all the same may be there or not; nobody was told that it is.
    for every in [1, 2] {
        assert!(
            found(&disk.cut(every))
                .iter()
                .all(|octet| [1, 2].contains(octet))
        );
    }
}

/// Prints how many tickets a second the disk takes, one commit each and in groups;
/// `cargo test --release -p rekindled --lib -- --ignored --nocapture tickets_a_second`.
#[test]
#[ignore = "a measurement"]
fn tickets_a_second() {
    const ALONE: u32 = 500;
    const TOGETHER: u32 = 20_000;
    let folder = tempfile::tempdir_in(".").expect("folder");
    let (store, _) = References::open(folder.path(), ReferenceLimits::default()).expect("open");
    let (tell, outcomes) = mpsc::channel();
    let tell = move |id, done| tell.send((id, done)).expect("the test listens");
    let mut queue = ReferenceQueue::start(store, tell).expect("a thread");
    queue.set_epochs(&roots());
    let name = |number: u32| u128::from(number).to_be_bytes();
    let start = Instant::now();
    for number in 0..ALONE {
        assert!(queue.keep(name(number), expiry(), kept(1)));
    }
    let alone = start.elapsed();
    let start = Instant::now();
    let mut busy = Duration::ZERO;
    let mut under_way = 0;
    for number in ALONE..ALONE + TOGETHER {
        let begun = Instant::now();
        assert!(queue.begin_keep(name(number), expiry(), kept(1)).is_some());
        busy += begun.elapsed();
        under_way += 1;
        // As many logins as a gateway has under way in a storm.
        if under_way == 256 {
            assert!(next(&outcomes).1);
            under_way -= 1;
        }
    }
    for _ in 0..under_way {
        assert!(next(&outcomes).1);
    }
    let together = start.elapsed();
    let rate = |count: u32, took: Duration| f64::from(count) / took.as_secs_f64();
    println!("one commit each: {:.0}/s", rate(ALONE, alone));
    println!(
        "in groups, 256 under way: {:.0}/s",
        rate(TOGETHER, together)
    );
    println!("the engine is busy for {:?} with each", busy / TOGETHER);
}

#[test]
fn a_clock_that_has_leapt_clears_nothing_away_until_it_is_believed() {
    const DAY: Duration = Duration::from_hours(24);
    let mut committer = Committer::new(store_on(&Disk::default()), |_, _| ());
    committer.store.set_epochs(&roots());
    // A day ahead of what it showed just now.
    let before = since_epoch().saturating_sub(DAY);
    committer.clock = WallClock::default();
    committer.clock.offset(boot_clock(), before);
    for octet in 1..=2 {
        let keep = Change::Keep([octet; 16], before.as_secs() + 3600, kept(octet));
        committer.commit(std::iter::once(Order::Change(keep, Whom::Nobody)));
    }
    committer.purge();
    assert_eq!(committer.store.len(), 2);
    committer.clock = WallClock::default();
    committer.purge();
    assert!(committer.store.is_empty());
}
