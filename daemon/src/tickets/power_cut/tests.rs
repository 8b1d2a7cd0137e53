//! The ring, its bitmaps and the node's keys through a power cut at every sync.

use ike::crypto::Secret;

use super::{Names, images, moment, watch};
use crate::tickets::{IndexRange, Node, Notice, Ring, RingOptions, UsedBits, durable};

const BOOT: [u8; 16] = [1; 16];
const OTHER_BOOT: [u8; 16] = [2; 16];
const DAY: u64 = 24 * 3600;
const BLOCK: u32 = 65_536;

fn options() -> RingOptions {
    RingOptions {
        ticket_seconds: 3600,
        strict_after_power_loss: false,
    }
}

fn roots(ring: &Ring) -> Vec<(u8, Secret)> {
    ring.epochs().map(|(id, root, _)| (id, root)).collect()
}

fn bits(ring: &Ring, key_id: u8) -> UsedBits {
    let file = ring.epochs().find(|(id, ..)| *id == key_id);
    let (.., file) = file.expect("alive");
    UsedBits::map(file.try_clone().expect("clone").into(), None).expect("map")
}

/// What had happened when so many syncs were done.
#[derive(Default)]
struct Book {
    /// Ranges that were given out.
    granted: Vec<(usize, IndexRange)>,
    /// Bits that were set before a sync of their bitmap began.
    used: Vec<(usize, u8, u32)>,
    /// Ticket keys that were in use, and until when.
    roots: Vec<(usize, u8, Secret, u64)>,
}

impl Book {
    fn grant(&mut self, ring: &mut Ring, count: u32, now: u64) -> IndexRange {
        let range = ring.grant(count, now).expect("grant");
        self.granted.push((moment(), range));
        let known = |id: u8| move |(_, one, ..): &(usize, u8, Secret, u64)| *one == id;
        for ((id, root), times) in roots(ring).into_iter().zip(ring.times()) {
            if !self.roots.iter().any(known(id)) {
                self.roots.push((moment(), id, root, times.accept_until));
            }
        }
        range
    }

    /// Ten tickets of a range are used, and the second in which they are is over.
    fn second(&mut self, ring: &Ring, range: IndexRange) {
        let bits = bits(ring, range.key_id);
        let some = range.first..range.end.min(range.first + 10);
        for index in some.clone() {
            assert!(bits.set(index));
        }
        bits.sync().expect("sync");
        let synced = some.map(|index| (moment(), range.key_id, index));
        self.used.extend(synced);
        // In the next second, which the cut does not let end.
        bits.set(range.end - 1);
    }
}

// RFC 5723: N15, N55, L9
#[test]
fn a_power_cut_at_any_sync_takes_back_a_second_of_used_bits_and_nothing_else() {
    let folder = tempfile::tempdir().expect("folder");
    watch(folder.path());
    let mut book = Book::default();
    let (mut ring, _) = Ring::open(folder.path(), options(), BOOT, 0).expect("open");
    for now in 0..3 {
        let range = book.grant(&mut ring, BLOCK / 2, now);
        book.second(&ring, range);
    }
    ring.force_epoch(10).expect("epoch");
    for now in 10..13 {
        let range = book.grant(&mut ring, BLOCK / 2, now);
        book.second(&ring, range);
    }
    // The first two retire; one that knew them is killed and started again.
    assert!(ring.rotate(2 * DAY).expect("rotate"));
    book.grant(&mut ring, 1, 2 * DAY);
    drop(ring);
    let (mut ring, _) = Ring::open(folder.path(), options(), BOOT, 2 * DAY).expect("open");
    let range = book.grant(&mut ring, BLOCK, 2 * DAY);
    book.second(&ring, range);
    let last_grant = moment();
    let images = images();
    assert!(images.len() > 50, "{} moments", images.len());
    for (at, image) in images.iter().enumerate() {
        for names in [Names::Synced, Names::Ahead] {
            let what = format!("cut at {at} of {}, {names:?}", images.len());
            let after = image.reboot(names);
            // While the first epochs are alive, and later.
            let now = if at < last_grant / 2 { 20 } else { 2 * DAY };
            let opened = Ring::open(after.path(), options(), OTHER_BOOT, now);
            let (mut ring, notices) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            let lost = notices.iter().any(|n| matches!(n, Notice::Retired(..)));
            assert!(!lost, "{what}: {notices:?}");
            let found = roots(&ring);
            for (since, id, root, until) in &book.roots {
                if *since <= at && now < *until {
                    assert!(found.contains(&(*id, root.duplicate())), "{what}: key {id}");
                }
            }
            // By its root: another epoch may have got the id of one that has retired.
            let alive = |id: u8| {
                let mut known = book.roots.iter().filter(|(_, one, ..)| *one == id);
                known.any(|(.., root, _)| found.contains(&(id, root.duplicate())))
            };
            for (since, id, index) in &book.used {
                if *since <= at && alive(*id) {
                    assert!(bits(&ring, *id).is_set(*index), "{what}: {id} {index}");
                }
            }
            let next = ring.grant(BLOCK, now).expect("grant");
            for (since, range) in &book.granted {
                let apart = next.first >= range.end || next.end <= range.first;
                let same = next.key_id == range.key_id && alive(range.key_id);
                assert!(*since > at || !same || apart, "{what}: {range:?} again");
            }
        }
    }
}

#[test]
fn what_was_not_synced_is_not_there() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = Ring::open(folder.path(), options(), BOOT, 0).expect("open");
    watch(folder.path());
    let range = ring.grant(10, 0).expect("grant");
    let bits = bits(&ring, range.key_id);
    bits.set(1);
    bits.sync().expect("sync");
    bits.set(2);
    bits.sync().expect("sync");
    bits.set(3);
    // Only names that this watch saw are known to it: the ring, by the grant.
    let images = images();
    let last = images.last().expect("some").reboot(Names::Ahead);
    let name = format!("used-{:02x}", range.key_id);
    let octets = std::fs::read(last.path().join(name)).expect("read");
    assert_eq!(octets[4096], 0b110, "the witness sees what is synced alone");
}

/// Cut in the middle of writing the new key file: that is there in part, under its fresh name, and
/// the old one counts.
#[test]
fn a_half_written_key_file_leaves_the_old_one() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = Ring::open(folder.path(), options(), BOOT, 0).expect("open");
    let before = std::fs::read(folder.path().join("ring")).expect("read");
    let old = roots(&ring);
    let node = Node::open(folder.path(), Some(9), 0).expect("node");
    let spi_keys = *node.spi_keys();
    ring.force_epoch(5).expect("epoch");
    let new = std::fs::read(folder.path().join("ring")).expect("read");
    drop((ring, node));
    for end in (0..new.len()).step_by(7) {
        std::fs::write(folder.path().join("ring"), &before).expect("old");
        for name in ["ring", "spi-keys"] {
            let fresh = durable::fresh_name(&folder.path().join(name));
            std::fs::write(fresh, &new[..end]).expect("half");
        }
        let (ring, notices) =
            Ring::open(folder.path(), options(), OTHER_BOOT, 6).expect("the old one");
        assert_eq!(notices, [Notice::PowerLoss]);
        assert_eq!(roots(&ring), old, "cut at {end}");
        let node = Node::open(folder.path(), Some(9), 6).expect("the old one");
        assert_eq!(*node.spi_keys(), spi_keys);
    }
}

/// Half of the file itself is no power cut of ours but a bad disk: an error that names file and cure.
#[test]
fn a_damaged_key_file_is_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("folder");
    drop(Ring::open(folder.path(), options(), BOOT, 0).expect("open"));
    drop(Node::open(folder.path(), Some(9), 0).expect("node"));
    for name in ["ring", "spi-keys"] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).expect("read");
        let open = || match name {
            "ring" => Ring::open(folder.path(), options(), OTHER_BOOT, 0)
                .map(drop)
                .map_err(|error| error.to_string()),
            _ => Node::open(folder.path(), Some(9), 0)
                .map(drop)
                .map_err(|error| error.to_string()),
        };
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).expect("cut");
            let error = open().expect_err("damaged");
            assert!(error.contains(path.to_str().expect("path")), "{error}");
            assert!(error.contains("damaged"), "{error}");
            assert_eq!(std::fs::read(&path).expect("read"), &whole[..end]);
        }
        // Out of reach is not the same as missing.
        std::fs::remove_file(&path).expect("remove");
        std::fs::create_dir(&path).expect("a folder in its place");
        open().expect_err("unreadable");
        assert!(path.is_dir());
        std::fs::remove_dir(&path).expect("remove");
        std::fs::write(&path, &whole).expect("a good copy");
        open().expect("good again");
    }
}

#[test]
fn what_a_killed_engine_has_set_is_synced_by_the_next() {
    let folder = tempfile::tempdir().expect("folder");
    let (mut ring, _) = Ring::open(folder.path(), options(), BOOT, 0).expect("open");
    watch(folder.path());
    let range = ring.grant(10, 0).expect("grant");
    let killed = bits(&ring, range.key_id);
    killed.set(1);
    drop(killed);
    bits(&ring, range.key_id).sync().expect("sync");
    let last = images().last().expect("some").reboot(Names::Ahead);
    let name = format!("used-{:02x}", range.key_id);
    let octets = std::fs::read(last.path().join(name)).expect("read");
    assert_eq!(octets[4096], 0b10);
}
