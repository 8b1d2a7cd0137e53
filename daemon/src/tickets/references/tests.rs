use std::fs;

use gate_abi::ticket::{Envelope, Kind};

use super::*;

const NOW: u64 = 1_800_000_000;

fn roots(key_id: u8) -> Vec<TicketRoot> {
    let root = Secret::new(vec![key_id; 32]);
    vec![TicketRoot { key_id, root }]
}

fn envelope(key_id: u8) -> [u8; ENVELOPE] {
    let key = gate_abi::sip::SipKey::from_octets([1; 16]);
    let envelope = Envelope {
        kind: Kind::ByReference,
        key_id,
        node: 1,
        flags: 0,
        nonce: [3; 12],
        index: 4,
        expiry_minutes: 5,
    };
    envelope.seal(&key, &key)
}

fn kept(octet: u8) -> Kept {
    Kept {
        envelope: envelope(7),
        state: Secret::new(vec![octet; 200]),
    }
}

fn open_with(folder: &Path, limits: ReferenceLimits) -> References {
    let (mut store, moved) = References::open(folder, limits).expect("open");
    assert!(moved.is_none(), "{moved:?}");
    store.set_epochs(&roots(7));
    store
}

fn open(folder: &Path) -> References {
    open_with(folder, ReferenceLimits::default())
}

fn state_of(store: &References, key_id: u8, reference: &Reference) -> Option<Vec<u8>> {
    let mut reader = store.reader();
    reader.set_seals(Seals::of(&roots(key_id)));
    let kept = reader.kept(reference).expect("readable")?;
    assert_eq!(kept.envelope, envelope(7));
    Some(kept.state.expose().to_vec())
}

fn state(store: &References, reference: &Reference) -> Option<Vec<u8>> {
    state_of(store, 7, reference)
}

fn change(store: &mut References, change: Change, now: u64) -> bool {
    let done = store.commit(&[change], now).expect("commit");
    done == [true]
}

fn keep(store: &mut References, octet: u8, expiry: u64, now: u64) -> bool {
    let kept = kept(octet);
    change(store, Change::Keep([octet; 16], expiry, kept), now)
}

fn release(store: &mut References, reference: Reference) {
    assert!(change(store, Change::Release(reference), NOW));
}

#[test]
fn a_record_is_there_until_it_is_released() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = open(folder.path());
    assert!(keep(&mut store, 1, NOW + 60, NOW));
    assert!(keep(&mut store, 2, NOW + 60, NOW));
    assert!(
        !keep(&mut store, 2, NOW + 60, NOW),
        "a reference is one record's"
    );
    assert_eq!(state(&store, &[1; 16]), Some(vec![1; 200]));
    assert_eq!(state(&store, &[3; 16]), None);
    release(&mut store, [1; 16]);
    // There need not be any.
    release(&mut store, [1; 16]);
    assert_eq!((state(&store, &[1; 16]), store.len()), (None, 1));
    drop(store);
    let store = open(folder.path());
    assert_eq!((state(&store, &[1; 16]), store.len()), (None, 1));
    assert_eq!(state(&store, &[2; 16]), Some(vec![2; 200]));
    assert!(store.octets() <= 400, "{} octets a client", store.octets());
}

// RFC 5723: N34
#[test]
fn the_file_alone_opens_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let mut store = open(folder.path());
    assert!(keep(&mut store, 9, NOW + 60, NOW));
    assert_eq!(state_of(&store, 8, &[9; 16]), None, "its epoch is gone");
    drop(store);
    let path = folder.path().join(FILE);
    let mode = fs::metadata(&path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let octets = fs::read(path).expect("read");
    assert!(!octets.windows(24).any(|window| window == [9; 24]));
}

#[test]
fn a_full_store_takes_nothing_until_something_has_expired() {
    let folder = tempfile::tempdir().expect("folder");
    let limits = ReferenceLimits {
        records: 3,
        ..ReferenceLimits::default()
    };
    let mut store = open_with(folder.path(), limits);
    for octet in 1..=3 {
        assert!(keep(&mut store, octet, NOW + u64::from(octet), NOW));
    }
    assert!(!keep(&mut store, 4, NOW + 60, NOW));
    assert_eq!(
        state(&store, &[1; 16]),
        Some(vec![1; 200]),
        "nobody is put out"
    );
    assert!(keep(&mut store, 4, NOW + 60, NOW + 1));
    assert_eq!((state(&store, &[1; 16]), store.len()), (None, 3));

    let limits = ReferenceLimits {
        octets: store.octets() + 10,
        ..ReferenceLimits::default()
    };
    drop(store);
    let mut store = open_with(folder.path(), limits);
    assert!(
        !keep(&mut store, 5, NOW + 60, NOW + 1),
        "octets count as well"
    );
    let mut long = kept(6);
    long.state = Secret::new(vec![6; MAX_STATE + 1]);
    assert!(!change(
        &mut store,
        Change::Keep([6; 16], NOW + 60, long),
        NOW
    ));
}

#[test]
fn expired_records_go_in_batches() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = open(folder.path());
    for octet in 0..100 {
        assert!(keep(
            &mut store,
            octet,
            NOW + 1 + u64::from(octet % 2) * 100,
            NOW
        ));
    }
    assert!(keep(&mut store, 200, NOW + 500, NOW + 50));
    assert_eq!(store.len(), 101 - PURGE_WITH_EACH as u64);
    assert!(!store.purge(NOW + 50).expect("purge"), "in one batch");
    assert_eq!(store.len(), 51);
    assert!(!store.purge(NOW + 50).expect("purge"), "nothing is due");
    store.purge(NOW + 101).expect("purge");
    assert_eq!(store.len(), 1);
    let counted = store.octets();
    drop(store);
    let store = open(folder.path());
    assert_eq!(
        (store.len(), store.octets()),
        (1, counted),
        "as the file says"
    );
}

/// A copy of the file in the middle of its use is what SIGKILL leaves.
#[test]
fn what_a_killed_process_kept_is_there() {
    let folder = tempfile::tempdir().expect("folder");
    let after = tempfile::tempdir().expect("folder");
    let mut store = open(folder.path());
    for octet in 0..20 {
        assert!(keep(&mut store, octet, NOW + 60, NOW));
        if octet % 3 == 0 {
            assert!(change(&mut store, Change::Consume([octet; 16]), NOW));
        }
        fs::copy(folder.path().join(FILE), after.path().join(FILE)).expect("copy");
        let found = open(after.path());
        for earlier in 0..octet {
            let expected = (earlier % 3 != 0).then(|| vec![earlier; 200]);
            assert_eq!(
                state(&found, &[earlier; 16]),
                expected,
                "{earlier} of {octet}"
            );
        }
    }
}

#[test]
fn a_damaged_file_is_moved_aside_and_said_so() {
    let folder = tempfile::tempdir().expect("folder");
    let mut store = open(folder.path());
    for octet in 0..40 {
        assert!(keep(&mut store, octet, NOW + 60, NOW));
    }
    drop(store);
    let path = folder.path().join(FILE);
    let whole = fs::read(&path).expect("read");
    let (mut moved_aside, mut survived) = (0, 0);
    // One octet in each stretch of the file, and a few lengths.
    let bent = (0..whole.len()).step_by(whole.len() / 60).map(|at| {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        bent
    });
    let cut = [1, 100, 4096, whole.len() / 2].map(|end| whole[..end].to_vec());
    for damaged in bent.chain(cut) {
        fs::write(&path, &damaged).expect("damage");
        let (mut store, moved) =
            References::open(folder.path(), ReferenceLimits::default()).expect("open");
        store.set_epochs(&roots(7));
        let Some(moved) = moved else {
            survived += 1;
            for octet in 0..40 {
                assert_eq!(state(&store, &[octet; 16]), Some(vec![octet; 200]));
            }
            continue;
        };
        moved_aside += 1;
        let said = moved.to_string();
        assert!(
            said.contains("references.damaged") && said.contains("good copy"),
            "{said}"
        );
        let aside = fs::read(path.with_added_extension("damaged")).expect("kept");
        assert_eq!(aside.len(), damaged.len());
        assert!(store.is_empty() && keep(&mut store, 1, NOW + 60, NOW));
    }
    assert!(
        moved_aside > 10,
        "{moved_aside} moved aside, {survived} unharmed"
    );
}

#[test]
fn a_store_that_is_out_of_reach_is_an_error_and_stays() {
    let folder = tempfile::tempdir().expect("folder");
    let store = open(folder.path());
    let second = References::open(folder.path(), ReferenceLimits::default());
    assert!(
        matches!(second, Err(ReferenceError::Store { .. })),
        "in use"
    );
    drop(store);
    assert!(!folder.path().join("references.damaged").exists());
    let nowhere = folder.path().join("nowhere");
    let error = References::open(&nowhere, ReferenceLimits::default()).expect_err("no folder");
    assert!(matches!(error, ReferenceError::Io { .. }), "{error}");
}
