//! The three forms of suspend, and what a crash at each step of using a session leaves behind.

use std::{sync::Arc, time::Duration};

use ike::{
    io::{Command, Event},
    peer::{Connection, Suspend},
    ticket::Refused,
    view::SaState,
};

use crate::bed::Pair;
use crate::sides::{client_side, gateway_side};

const SOON: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

fn client(form: Suspend) -> Vec<Connection> {
    let mut side = client_side();
    side[0].resume.suspend = form;
    side
}

fn suspended(seed: u64, connections: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, connections, gateway_side, ike::Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair
}

fn resumed(pair: &Pair) -> bool {
    pair.keys_agree() && pair.client.established()[0].resumed
}

fn sleeps(pair: &Pair) -> bool {
    let sas = pair.client.endpoint.sas(pair.now);
    sas.iter().any(|sa| sa.state == SaState::Suspended)
}

#[test]
fn in_memory_it_sleeps_until_the_operator_says_otherwise() {
    let mut pair = suspended(1, || client(Suspend::Memory));
    pair.run(2 * HOUR);
    assert!(
        !pair
            .client
            .events
            .iter()
            .any(|e| matches!(e, Event::SessionEnded { .. }))
    );
    assert!(pair.client.disk.is_empty());
    assert_eq!(pair.client.kernel.blocked.len(), 1);
}

#[test]
fn with_clean_up_it_ends_with_its_ticket() {
    let mut pair = suspended(2, || client(Suspend::Expire));
    pair.run(HOUR.saturating_sub(Duration::from_secs(2)));
    assert!(sleeps(&pair));
    pair.run(Duration::from_secs(3));
    assert!(!sleeps(&pair));
    assert!(
        pair.client
            .events
            .iter()
            .any(|e| matches!(e, Event::SessionEnded { .. }))
    );
    assert_eq!(pair.client.endpoint.next_deadline(), None);
    assert_eq!(
        pair.client.kernel.blocked.len(),
        1,
        "still nothing in clear until `down`"
    );
}

#[test]
fn on_disk_it_outlives_a_restart_of_the_client() {
    let mut pair = suspended(3, || client(Suspend::Disk));
    assert_eq!(pair.client.disk.len(), 1);
    pair.client.restart(pair.now);
    pair.drain();
    assert!(sleeps(&pair));
    assert_eq!(pair.client.kernel.blocked.len(), 1);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
}

// RFC 5723: T19, X11, A12, A16
#[test]
fn a_reboot_of_both_machines_makes_nothing_younger() {
    fn reauth() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].reauth = Some(Duration::from_mins(30));
        side
    }
    let disk = || client(Suspend::Disk);
    let mut pair = Pair::with(13, disk, reauth, ike::Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.run(Duration::from_mins(10));
    // The boot clock begins anew, the wall clock goes on.
    pair.now.boot = Duration::from_secs(20);
    pair.gateway.restart(pair.now);
    pair.client.restart(pair.now);
    pair.drain();
    let held = pair.client.endpoint.held_tickets(pair.now);
    assert!((600..605).contains(&held[0].age.as_secs()), "{held:?}");
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    let about = 600..610;
    for node in [&pair.client, &pair.gateway] {
        let sa = node.established()[0].id;
        let origin = node.endpoint.sa_origin(sa, pair.now).expect("is up");
        let age = origin.ticket_age.expect("a ticket opened it").as_secs();
        assert!(about.contains(&age), "{age} s");
        let seconds = |row: &str| {
            let item = origin.items.iter().find(|item| item.item == row);
            let value = &item.expect("a row of this name").value;
            let number = value.split(' ').find_map(|word| word.parse::<u64>().ok());
            number.expect("a number")
        };
        let since = seconds("full_authentication");
        assert!(about.contains(&since), "{since} s");
        let left = seconds("authentication_ends");
        assert!((1190..=1200).contains(&left), "{left} s are left of 1800");
    }
}

#[test]
fn in_memory_a_restart_of_the_client_means_a_full_exchange() {
    let mut pair = suspended(4, || client(Suspend::Memory));
    pair.client.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && !resumed(&pair));
}

#[test]
fn the_record_is_off_the_disk_before_its_ticket_is_sent() {
    let mut pair = suspended(5, || client(Suspend::Disk));
    pair.sent.clear();
    pair.client.sessions.clear();
    pair.up();
    assert_eq!(pair.client.sessions, [None], "erased");
    assert_eq!(pair.sent.len(), 1, "and then sent");
    // Killed here, the client knows of no ticket any more, and none is used twice.
    pair.client.restart(pair.now);
    pair.flying.clear();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && !resumed(&pair));
}

#[test]
fn a_crash_at_any_moment_leads_to_a_connection_and_never_to_a_second_use() {
    for steps in 0..12 {
        let mut pair = suspended(6, || client(Suspend::Disk));
        pair.up();
        pair.run(Duration::from_millis(5 * steps));
        pair.client.restart(pair.now);
        pair.drain();
        pair.flying.clear();
        let used = pair.gateway.ledger.used.len();
        let up = Command::Up("home".into());
        pair.command(&up).expect("nothing is up after a restart");
        pair.run(Duration::from_secs(5));
        assert!(pair.keys_agree(), "killed after {} ms", 5 * steps);
        let refused = |e: &Event| {
            matches!(
                e,
                Event::TicketRefused {
                    why: Refused::Used,
                    ..
                }
            )
        };
        assert!(
            !pair.gateway.events.iter().any(refused),
            "killed after {} ms",
            5 * steps
        );
        assert!(pair.gateway.ledger.used.len() >= used);
    }
}

#[test]
fn a_reboot_into_the_past_or_beyond_the_lifetime_discards_it() {
    for step in [-10_i64, 3600, 1 << 40] {
        let mut pair = suspended(7, || client(Suspend::Disk));
        pair.now.wall = pair.now.wall.saturating_add_signed(step);
        pair.client.restart(pair.now);
        assert!(!sleeps(&pair), "step of {step} s");
        pair.up();
        pair.run(Duration::from_secs(5));
        assert!(pair.keys_agree() && !resumed(&pair), "step of {step} s");
    }
}

#[test]
fn changed_settings_and_damage_discard_it() {
    fn changed() -> Vec<Connection> {
        let mut side = client(Suspend::Disk);
        side[0].digest = [9; 32];
        side
    }
    let mut pair = suspended(8, || client(Suspend::Disk));
    pair.client.connections = changed;
    pair.client.restart(pair.now);
    assert!(!sleeps(&pair));

    let mut pair = suspended(9, || client(Suspend::Disk));
    for record in pair.client.disk.values_mut() {
        record.truncate(100);
    }
    pair.client.restart(pair.now);
    assert!(!sleeps(&pair));
}

#[test]
fn down_and_a_delete_erase_it() {
    let mut pair = suspended(10, || client(Suspend::Disk));
    pair.command(&Command::Down("home".into())).expect("asleep");
    assert!(pair.client.disk.is_empty());

    let mut pair = Pair::with(
        11,
        || client(Suspend::Disk),
        gateway_side,
        ike::Settings::default(),
    );
    pair.up();
    pair.run(SOON);
    assert_eq!(
        pair.client.disk.len(),
        1,
        "kept as soon as it is there: a crash needs it"
    );
    pair.command(&Command::Down("home".into())).expect("up");
    pair.run(SOON);
    assert!(pair.client.disk.is_empty());
}

#[test]
fn of_many_peers_that_sleep_the_gateway_keeps_one_block_for_all() {
    fn anybody() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].remote.id = None;
        side
    }
    let mut pair = Pair::with(
        13,
        || client(Suspend::Memory),
        anybody,
        ike::Settings::default(),
    );
    pair.up();
    pair.run(SOON);
    let own = pair.gateway.kernel.installed.keys().next().cloned();
    let own = own.expect("a Child SA");
    assert!(own.starts_with("rw/net/") && pair.gateway.kernel.blocked.contains(&own));
    pair.suspend();
    pair.run(Duration::from_secs(150));
    let kernel = &pair.gateway.kernel;
    assert!(kernel.installed.is_empty());
    assert!(
        kernel.blocked.iter().eq(["rw/net"].map(Arc::from).iter()),
        "nothing that grows with the peers"
    );
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));

    // The operator's `down` takes the block away too.
    pair.gateway_does(&Command::Down("rw".into()));
    pair.run(SOON);
    assert!(pair.gateway.kernel.blocked.is_empty());
}

// RFC 5723: N37
#[test]
fn tickets_by_reference_are_short_kept_and_released() {
    fn by_reference() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.by_reference = true;
        side
    }
    let memory = || client(Suspend::Memory);
    let mut pair = Pair::with(12, memory, by_reference, ike::Settings::default());
    pair.up();
    pair.run(SOON);
    let octets = pair.gateway.events.iter().find_map(|event| match event {
        Event::TicketIssued { octets, .. } => Some(*octets),
        _ => None,
    });
    assert_eq!(octets, Some(64));
    assert_eq!(pair.gateway.ledger.kept.len(), 1);
    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    assert_eq!(
        pair.gateway.ledger.kept.len(),
        1,
        "the used one is gone, the new one is there"
    );

    // Revoked, it is refused, and a full exchange follows.
    pair.suspend();
    pair.gateway.ledger.kept.clear();
    pair.up();
    pair.run(Duration::from_secs(5));
    assert!(pair.keys_agree() && !resumed(&pair));
}

#[test]
fn a_ticket_stays_good_when_the_gateway_has_no_newer_one() {
    let mut pair = Pair::established(31);
    pair.gateway.ledger.exhausted = true;
    let held = pair.client.endpoint.held_tickets(pair.now);
    // After three quarters of its lifetime the client asks for the next, and is put off.
    pair.run(held[0].left.expect("of a known lifetime") * 4 / 5);
    pair.suspend();
    pair.up();
    pair.run(Duration::from_secs(1));
    assert!(pair.client.established()[0].resumed);
}
