//! Tickets over the files of the daemon and the core at both ends: rotations of keys while clients
//! come back, and revocations of what clients hold that are long gone.

mod site;

use ike::io::Event;

use crate::site::Site;

const CLIENTS: u16 = 200;
const WAVES: u16 = 12;
/// Waves in whose midst the operator rotates; after them, time does.
const STORMY: u16 = 4;
/// Clients whose messages are under way at once.
const TOGETHER: u16 = 20;

// RFC 5723: N15, N40, N46, N51, L9
#[test]
fn c_key_rotation_storm() {
    let folder = tempfile::tempdir().expect("folder");
    let mut site = Site::open(folder.path(), CLIENTS);
    for client in 0..CLIENTS {
        site.log_in(&[client]);
    }
    assert_eq!(site.logins(false), usize::from(CLIENTS));
    for wave in 0..WAVES {
        site.sleep();
        // A third stays away for twice as long.
        let back: Vec<u16> = (0..CLIENTS).filter(|i| i % 3 != wave % 2).collect();
        for (number, some) in back.chunks(usize::from(TOGETHER)).enumerate() {
            // In the middle of a resumption, and between two.
            site.present(some);
            if wave < STORMY && number % 2 == 1 {
                site.force_epoch();
            }
            site.settle();
        }
        if wave % 3 == 2 {
            site.kill();
        }
        let resumed = site.logins(true);
        assert_eq!(resumed, back.len(), "wave {wave}: all, by their tickets");
        assert_eq!(site.logins(false), 0, "wave {wave}");
        site.forget();
    }
    let (made, retired) = (site.gateway.made, site.gateway.retired);
    assert!(
        made > 12 && retired > 10,
        "{made} epochs, {retired} retired"
    );
    // Their time over, all are gone but the newest.
    site.now.wall += 60 * 3600;
    site.rotate();
    assert_eq!(site.gateway.ring.epochs().count(), 1);
}

// RFC 5723: L9, A21
#[test]
fn a_revocation_outlives_the_daemon_and_the_sa() {
    let folder = tempfile::tempdir().expect("folder");
    let mut site = Site::open(folder.path(), 3);
    site.log_in(&[0, 1, 2]);
    site.sleep();
    site.kill();
    site.revoke("client-0.example");
    // Again, so that nothing but the files knows of it.
    site.kill();
    site.log_in(&[0, 1]);
    assert_eq!(site.logins(true), 1);
    let refused = |why: &str| {
        let is_one = |event: &&Event| matches!(event, Event::TicketRefused { why: said, .. } if said.word() == why);
        site.events.iter().filter(is_one).count()
    };
    assert_eq!((refused("revoked"), refused("used")), (1, 0));
    assert_eq!(site.logins(false), 1, "the full exchange that follows");
    // What that has brought is good.
    site.sleep();
    site.kill();
    site.log_in(&[0, 1]);
    assert_eq!((site.logins(true), site.logins(false)), (2, 0));

    // Nobody knows who is revoked: nothing from before is honoured, what comes afterwards is.
    site.sleep();
    let file = folder.path().join("revocations");
    let whole = std::fs::read(&file).expect("read");
    std::fs::write(&file, &whole[1..]).expect("damage");
    site.kill();
    site.log_in(&[0, 1, 2]);
    assert_eq!((site.logins(true), site.logins(false)), (0, 3));
    assert_eq!(
        std::fs::read(&file).expect("read"),
        &whole[1..],
        "left as it is"
    );
    site.sleep();
    site.log_in(&[0, 1, 2]);
    assert_eq!((site.logins(true), site.logins(false)), (3, 0));
}
