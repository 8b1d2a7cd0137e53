//! Restarts, crashes between two steps, and the passing of time.

use super::*;
use crate::tickets::UsedBits;

const BOOT: [u8; 16] = [1; 16];
const OTHER_BOOT: [u8; 16] = [2; 16];
const DAY: u64 = ISSUE_SECONDS;

fn options() -> RingOptions {
    RingOptions {
        ticket_seconds: 3600,
        strict_after_power_loss: false,
    }
}

fn open(folder: &Path, boot: [u8; 16], now: u64) -> (Ring, Vec<Notice>) {
    Ring::open(folder, options(), boot, now).expect("open")
}

fn ids(ring: &Ring) -> Vec<u8> {
    ring.epochs().map(|(key_id, ..)| key_id).collect()
}

fn roots(ring: &Ring) -> Vec<(u8, Secret)> {
    ring.epochs()
        .map(|(key_id, root, _)| (key_id, root))
        .collect()
}

fn bits(ring: &Ring) -> UsedBits {
    let (_, _, file) = ring.epochs().last().expect("an epoch");
    UsedBits::map(file.try_clone().expect("clone").into(), None).expect("map")
}

#[test]
fn a_ring_is_the_same_after_every_kind_of_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let (ring, notices) = open(folder.path(), BOOT, 0);
    assert_eq!(notices, [Notice::Fresh]);
    let first = roots(&ring);
    assert!(bits(&ring).set(77));
    drop(ring);
    // A crash: same boot, no clean mark.
    let (ring, notices) = open(folder.path(), BOOT, 1);
    assert_eq!((roots(&ring), notices), (roots(&ring), vec![]));
    assert_eq!(roots(&ring), first);
    assert!(bits(&ring).is_set(77));
    ring.close().expect("close");
    // An orderly reboot.
    let (ring, notices) = open(folder.path(), OTHER_BOOT, 2);
    assert_eq!((roots(&ring), notices), (first, vec![]));
    assert!(bits(&ring).is_set(77) && !bits(&ring).is_set(78));
}

#[test]
fn indexes_never_come_twice() {
    let folder = tempfile::tempdir().expect("folder");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        let (mut ring, _) = open(folder.path(), BOOT, 0);
        for _ in 0..20 {
            let range = ring.grant(4096, 0).expect("grant");
            assert!(range.end > range.first);
            for index in range.first..range.end {
                assert!(seen.insert((range.key_id, index)));
            }
        }
    }
    assert_eq!(seen.len(), 5 * 20 * 4096);
}

#[test]
fn a_full_epoch_makes_room_for_the_next() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    let first = ring.grant(1, 0).expect("grant").key_id;
    let mut granted = 1;
    loop {
        let range = ring.grant(u32::MAX, 0).expect("grant");
        if range.key_id != first {
            assert_eq!((range.key_id, range.first), (first.wrapping_add(1), 0));
            break;
        }
        granted += range.end - range.first;
    }
    assert_eq!(granted, INDEXES);
    assert_eq!(ids(&ring), [first, first.wrapping_add(1)]);
}

// RFC 5723: N46, N51
#[test]
fn epochs_issue_for_a_day_and_open_until_their_last_ticket_is_over() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    let first = ids(&ring)[0];
    assert!(!ring.rotate(DAY - 1).expect("rotate"));
    assert!(ring.rotate(DAY).expect("rotate"));
    let second = first.wrapping_add(1);
    assert_eq!(ids(&ring), [first, second]);
    assert_eq!(ring.grant(1, DAY).expect("grant").key_id, second);
    assert!(UsedFile::path(folder.path(), first).exists());
    assert!(!ring.rotate(DAY + 3600 + 59).expect("rotate"));
    assert!(ring.rotate(DAY + 3600 + 60).expect("rotate"));
    assert_eq!(ids(&ring), [second]);
    assert!(!UsedFile::path(folder.path(), first).exists());
    drop(ring);
    assert_eq!(ids(&open(folder.path(), BOOT, DAY + 7200).0), [second]);
}

// RFC 5723: N46, N51
#[test]
fn an_epoch_of_a_time_to_come_issues_no_more() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 900 * DAY);
    let wrong = ids(&ring)[0];
    // Set right by a little, then by much.
    assert!(!ring.rotate(900 * DAY - 600).expect("rotate"));
    assert!(ring.rotate(DAY).expect("rotate"));
    assert_ne!(ring.grant(1, DAY).expect("grant").key_id, wrong);
    // Its tickets are good for as long as they say.
    assert_eq!(ids(&ring)[0], wrong);
    assert!(!ring.rotate(DAY + 1).expect("rotate"));
    assert!(ring.rotate(2 * DAY).expect("rotate"));
    assert_ne!(ring.grant(1, 2 * DAY).expect("grant").key_id, wrong);
}

#[test]
fn what_an_old_epoch_had_left_is_not_issued_after_rotation() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    let first = ring.grant(1, 0).expect("grant").key_id;
    ring.rotate(DAY).expect("rotate");
    assert_ne!(ring.grant(1, DAY).expect("grant").key_id, first);
}

// RFC 5723: N40, L9
#[test]
fn live_ids_are_not_reissued_and_their_number_is_bounded() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    for _ in 1..MAX_EPOCHS {
        ring.force_epoch(0).expect("epoch");
    }
    assert!(matches!(ring.force_epoch(0), Err(RingError::TooManyEpochs)));
    let mut distinct = ids(&ring);
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), MAX_EPOCHS);
}

// RFC 5723: N40
#[test]
fn a_live_id_in_the_way_is_passed_over() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    ring.force_epoch(0).expect("epoch");
    ring.force_epoch(0).expect("epoch");
    // As when the ids have come round and the oldest two are still honoured.
    let newest = ring.state.epochs[2].key_id;
    ring.state.epochs[0].key_id = newest.wrapping_add(1);
    ring.state.epochs[1].key_id = newest.wrapping_add(2);
    ring.force_epoch(0).expect("epoch");
    assert_eq!(ids(&ring)[3], newest.wrapping_add(3));
}

#[test]
fn after_all_have_retired_the_next_id_is_still_another() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    let first = ids(&ring)[0];
    ring.rotate(3 * DAY).expect("rotate");
    assert_eq!(ids(&ring), [first.wrapping_add(1)]);
    drop(ring);
    let (ring, _) = open(folder.path(), BOOT, 6 * DAY);
    assert_eq!(ids(&ring), [first.wrapping_add(2)]);
}

#[test]
fn revoking_leaves_one_new_epoch_for_good() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    for _ in 1..MAX_EPOCHS {
        ring.force_epoch(0).expect("epoch");
    }
    let before = ids(&ring);
    ring.grant(10, 0).expect("grant");
    ring.revoke_all(100).expect("revoked");
    let [now] = ids(&ring)[..] else {
        panic!("one epoch")
    };
    assert!(
        !before.contains(&now),
        "an old id would find its old bitmap"
    );
    let range = ring.grant(1, 100).expect("grant");
    assert_eq!((range.key_id, range.first), (now, 0));
    for key_id in before {
        assert!(!UsedFile::path(folder.path(), key_id).exists());
    }
    drop(ring);
    let (ring, _) = open(folder.path(), BOOT, 200);
    assert_eq!(ids(&ring), [now]);
    let times: Vec<_> = ring.times().collect();
    assert_eq!(times[0].began, 100);
    assert_eq!(times[0].issue_until, 100 + DAY);
    assert_eq!(times[0].accept_until, 100 + DAY + 3660);
}

#[test]
fn a_crash_between_bitmap_and_ring_leaves_no_trace() {
    let folder = tempfile::tempdir().expect("folder");
    let (ring, _) = open(folder.path(), BOOT, 0);
    let before = roots(&ring);
    let stray = ids(&ring)[0].wrapping_add(1);
    drop(ring);
    UsedFile::create(folder.path(), stray, &Secret::new(vec![9; 32])).expect("stray");
    fs::write(
        folder.path().join("ring.new"),
        b"rkring\0\x01 half of a ring",
    )
    .expect("half");
    fs::write(folder.path().join("used-00.new"), b"half of a bitmap").expect("half");
    let (ring, notices) = open(folder.path(), BOOT, 1);
    assert_eq!((roots(&ring), notices), (before, vec![]));
    assert!(!UsedFile::path(folder.path(), stray).exists());
    assert!(!folder.path().join("used-00.new").exists());
}

#[test]
fn an_epoch_that_could_not_be_saved_is_saved_and_told_of_by_the_next_turn() {
    let folder = tempfile::tempdir().expect("folder");
    let in_the_way = folder.path().join("ring.new");
    let fails = |turn: &mut dyn FnMut() -> bool| {
        fs::create_dir(&in_the_way).expect("obstacle");
        assert!(turn());
        fs::remove_dir(&in_the_way).expect("obstacle");
    };
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    fails(&mut || ring.rotate(DAY).is_err());
    assert!(ring.rotate(DAY).expect("rotate"));
    assert!(!ring.rotate(DAY).expect("rotate"));
    let saved = ids(&ring);
    assert_eq!(saved.len(), 2);
    assert_eq!(ids(&open(folder.path(), BOOT, DAY).0), saved);

    // By the one who wants indexes of it.
    fails(&mut || ring.grant(1, 2 * DAY).is_err());
    let range = ring.grant(1, 2 * DAY).expect("grant");
    assert!(!saved.contains(&range.key_id));
    assert!(ring.rotate(2 * DAY).expect("rotate"));

    // By an operator.
    fails(&mut || ring.revoke_all(2 * DAY).is_err());
    assert!(ring.rotate(2 * DAY).expect("rotate"));
    let newest = ids(&ring);
    assert_eq!(newest.len(), 1);
    assert_eq!(ids(&open(folder.path(), BOOT, 2 * DAY).0), newest);
}

/// In the way of the next bitmap, as a disk without room for it is.
fn obstacle(ring: &Ring) -> PathBuf {
    let path = fresh_name(&UsedFile::path(&ring.folder, ring.free_id()));
    fs::create_dir(&path).expect("obstacle");
    path
}

// RFC 5723: L9, A21
#[test]
fn what_is_revoked_is_gone_also_without_room_for_a_new_epoch() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    ring.force_epoch(0).expect("epoch");
    let old = ids(&ring);
    let in_the_way = obstacle(&ring);
    ring.revoke_all(1).expect_err("no room");
    assert!(ids(&ring).is_empty(), "an old key opens old tickets");
    ring.grant(1, 1).expect_err("no epoch");
    for key_id in &old {
        assert!(!UsedFile::path(folder.path(), *key_id).exists());
    }
    let saved = durable::read::<State>(&folder.path().join("ring"), MAGIC);
    assert!(saved.expect("readable").expect("a ring").epochs.is_empty());
    fs::remove_dir(in_the_way).expect("obstacle");
    assert!(ring.rotate(2).expect("rotate"));
    let range = ring.grant(1, 2).expect("grant");
    assert!(ids(&ring) == [range.key_id] && !old.contains(&range.key_id));
}

#[test]
fn without_room_for_a_new_epoch_old_ones_still_go_and_open_until_then() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    ring.rotate(DAY).expect("rotate");
    let [first, second] = ids(&ring)[..] else {
        panic!("two epochs")
    };
    let in_the_way = obstacle(&ring);
    // The first is over, and the second has issued for long enough.
    assert!(ring.rotate(2 * DAY).expect("told of"));
    assert_eq!(ids(&ring), [second]);
    assert!(!UsedFile::path(folder.path(), first).exists());
    ring.rotate(2 * DAY).expect_err("no room");
    ring.grant(1, 2 * DAY).expect_err("no room");
    drop(ring);
    let (mut ring, notices) = open(folder.path(), BOOT, 2 * DAY);
    assert_eq!((ids(&ring), notices), (vec![second], vec![]));
    ring.force_epoch(3 * DAY).expect_err("no room");
    assert!(ids(&ring).is_empty());
    assert!(!UsedFile::path(folder.path(), second).exists());
    fs::remove_dir(in_the_way).expect("obstacle");
    assert!(ring.rotate(3 * DAY).expect("rotate"));
    assert_eq!(ring.grant(1, 3 * DAY).expect("grant").first, 0);
}

#[test]
fn an_epoch_without_its_bitmap_is_retired() {
    let folder = tempfile::tempdir().expect("folder");
    let (ring, _) = open(folder.path(), BOOT, 0);
    let id = ids(&ring)[0];
    drop(ring);
    fs::remove_file(UsedFile::path(folder.path(), id)).expect("remove");
    let (ring, notices) = open(folder.path(), BOOT, 0);
    assert_eq!(notices, [Notice::Retired(id, "its bitmap is missing")]);
    assert_eq!(ring.state.epochs.len(), 1);
    let id = ids(&ring)[0];
    drop(ring);
    fs::write(UsedFile::path(folder.path(), id), b"short").expect("damage");
    let (_, notices) = open(folder.path(), BOOT, 0);
    assert_eq!(notices, [Notice::Retired(id, "its bitmap is damaged")]);
}

#[test]
fn a_bit_that_changed_while_nobody_ran_retires_the_epoch() {
    let folder = tempfile::tempdir().expect("folder");
    let (ring, _) = open(folder.path(), BOOT, 0);
    let id = ids(&ring)[0];
    let bits = bits(&ring);
    ring.close().expect("close");
    bits.set(5);
    let (_, notices) = open(folder.path(), BOOT, 0);
    assert_eq!(
        notices,
        [Notice::Retired(id, "a bitmap fails its checksum")]
    );
}

#[test]
fn power_loss_is_said_and_the_strict_rule_obeyed() {
    let folder = tempfile::tempdir().expect("folder");
    let (ring, _) = open(folder.path(), BOOT, 0);
    let before = roots(&ring);
    drop(ring);
    let (ring, notices) = open(folder.path(), OTHER_BOOT, 0);
    assert_eq!((roots(&ring), notices), (before, vec![Notice::PowerLoss]));
    let id = ids(&ring)[0];
    drop(ring);
    let strict = RingOptions {
        strict_after_power_loss: true,
        ..options()
    };
    let (ring, notices) = Ring::open(folder.path(), strict, BOOT, 0).expect("open");
    assert_eq!(notices[0], Notice::PowerLoss);
    assert!(matches!(notices[1], Notice::Retired(retired, _) if retired == id));
    assert_eq!(ids(&ring).len(), 1);
}

#[test]
fn a_damaged_ring_is_an_error_that_names_file_and_cure() {
    let folder = tempfile::tempdir().expect("folder");
    drop(open(folder.path(), BOOT, 0));
    let path = folder.path().join("ring");
    let mut octets = fs::read(&path).expect("read");
    octets[20] ^= 1;
    fs::write(&path, &octets).expect("damage");
    let error = Ring::open(folder.path(), options(), BOOT, 0)
        .expect_err("damaged")
        .to_string();
    assert!(error.contains(path.to_str().expect("path")), "{error}");
    assert!(error.contains("move it away"), "{error}");
    assert_eq!(fs::read(&path).expect("read"), octets, "left as it was");
}

#[test]
fn what_is_revoked_on_a_full_disk_stays_so_over_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let in_the_way = folder.path().join("ring.new");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    ring.force_epoch(0).expect("force");
    let revoked = ids(&ring);
    fs::create_dir(&in_the_way).expect("obstacle");
    assert!(ring.revoke_all(1).is_err());
    drop(ring);
    fs::remove_dir(&in_the_way).expect("obstacle");
    let (ring, _) = open(folder.path(), BOOT, 2);
    assert!(!ids(&ring).iter().any(|id| revoked.contains(id)));
}

#[test]
fn indexes_that_could_not_be_promised_are_not_lost() {
    let folder = tempfile::tempdir().expect("folder");
    let in_the_way = folder.path().join("ring.new");
    let (mut ring, _) = open(folder.path(), BOOT, 0);
    let before = ids(&ring);
    fs::create_dir(&in_the_way).expect("obstacle");
    for _ in 0..300 {
        assert!(ring.grant(1, 0).is_err());
    }
    fs::remove_dir(&in_the_way).expect("obstacle");
    let range = ring.grant(1, 0).expect("grant");
    assert_eq!((range.key_id, range.first), (before[0], 0));
}
