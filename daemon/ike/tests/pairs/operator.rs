//! What the operator asks of tickets and about the state of an SA: revocation, what is held, and where
//! each item came from.

use std::time::Duration;

use ike::{
    Context, Settings,
    io::{Command, Event},
    peer::Connection,
    ticket::Refused,
    view::origin::{Ends, Item, ROWS, Row, SaOrigin, Source},
    wire::id::Identity,
};

use crate::bed::{Node, Pair};
use crate::sides::{client_side, gateway_side};

const SOON: Duration = Duration::from_secs(1);
const RESUME: u8 = 38;

fn up(seed: u64) -> Pair {
    let mut pair = Pair::new(seed);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair
}

fn revoke(pair: &mut Pair, peer: &Identity) -> usize {
    let Node {
        endpoint,
        env,
        ledger,
        leases,
        ..
    } = &mut pair.gateway;
    let cx = &mut Context {
        now: pair.now,
        env,
        ledger,
        leases,
    };
    endpoint.revoke(|id| id == peer, cx)
}

fn resume(pair: &mut Pair) {
    pair.suspend();
    pair.run(Duration::from_secs(100));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
}

fn origin(node: &Node, pair: &Pair) -> SaOrigin {
    let sa = node.established()[0].id;
    node.endpoint.sa_origin(sa, pair.now).expect("is up")
}

fn item<'a>(origin: &'a SaOrigin, name: &str) -> &'a Item {
    let found = origin.items.iter().find(|item| item.item == name);
    found.expect("a row of this name")
}

// RFC 5723: N15, L9
#[test]
fn a_revoked_ticket_is_refused_and_the_sa_stays_up() {
    let mut pair = up(1);
    let peer = pair.gateway.established()[0].remote_id.clone();
    let peer = peer.expect("is proven");
    let stranger = Identity::from_text("stranger.example").expect("an identity");
    assert_eq!(revoke(&mut pair, &stranger), 0);
    assert!(pair.gateway.established()[0].ticket_name.is_some());
    assert_eq!(revoke(&mut pair, &peer), 1);
    assert_eq!(revoke(&mut pair, &peer), 0, "there is none left");
    assert!(pair.gateway.established()[0].ticket_name.is_none());
    assert!(pair.keys_agree(), "the SA does not notice");

    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.sent.clear();
    pair.up();
    pair.run(Duration::from_secs(5));
    assert!(pair.sent.iter().any(|sent| sent.message[18] == RESUME));
    let refused = |e: &Event| {
        matches!(
            e,
            Event::TicketRefused {
                why: Refused::Used,
                ..
            }
        )
    };
    assert!(pair.gateway.events.iter().any(refused));
    assert!(pair.keys_agree() && !pair.client.established()[0].resumed);
}

// RFC 5723: L9, A18
#[test]
fn a_resumption_that_is_under_way_fails_when_its_ticket_is_revoked() {
    let mut pair = up(2);
    let peer = pair.gateway.established()[0].remote_id.clone();
    pair.suspend();
    pair.up();
    let request = pair.flying.remove(0);
    pair.deliver(request.from, request.to, &request.message);
    assert_eq!(pair.gateway.endpoint.half_open(), 1);
    assert_eq!(revoke(&mut pair, &peer.expect("is proven")), 1);
    pair.run(Duration::from_secs(5));
    assert!(pair.keys_agree() && !pair.client.established()[0].resumed);
}

/// The operator's whole word: what is here by its used bit, the rest by the list.
fn revoke_all_of(pair: &mut Pair, peer: &Identity) {
    pair.gateway
        .ledger
        .revoked
        .insert(peer.clone(), pair.now.wall);
    revoke(pair, peer);
}

fn refused_as_revoked(pair: &Pair) -> bool {
    let refused = |e: &Event| {
        matches!(
            e,
            Event::TicketRefused {
                why: Refused::Revoked,
                ..
            }
        )
    };
    pair.gateway.events.iter().any(refused)
}

// RFC 5723: L9, A21
#[test]
fn a_revoked_peer_is_refused_though_its_sa_is_long_gone() {
    for by_reference in [false, true] {
        fn refers() -> Vec<Connection> {
            let mut side = gateway_side();
            side[0].resume.by_reference = true;
            side
        }
        let gateway = if by_reference { refers } else { gateway_side };
        let mut pair = Pair::with(20, client_side, gateway, Settings::default());
        pair.up();
        pair.run(SOON);
        let peer = pair.gateway.established()[0].remote_id.clone();
        let peer = peer.expect("is proven");
        pair.suspend();
        pair.gateway.restart(pair.now);
        assert!(pair.gateway.established().is_empty());
        pair.run(Duration::from_mins(5));
        let stranger = Identity::from_text("stranger.example").expect("an identity");
        revoke_all_of(&mut pair, &stranger);
        revoke_all_of(&mut pair, &peer);
        pair.gateway.restart(pair.now);
        pair.sent.clear();
        pair.up();
        pair.run(Duration::from_secs(5));
        assert!(refused_as_revoked(&pair));
        let nack = pair.sent.iter().find(|sent| sent.message.len() == 36);
        let nack = nack.expect("a NACK, and nothing else, in one message");
        assert_eq!(nack.message[18], RESUME);
        assert!(pair.keys_agree() && !pair.client.established()[0].resumed);

        // What it got by that full login is good.
        pair.gateway.events.clear();
        resume(&mut pair);
        assert!(pair.client.established()[0].resumed && !refused_as_revoked(&pair));
    }
}

// RFC 5723: A21
#[test]
fn a_ticket_of_the_second_after_the_revocation_is_good() {
    let mut pair = up(21);
    let peer = pair.gateway.established()[0].remote_id.clone();
    revoke_all_of(&mut pair, &peer.expect("is proven"));
    // The login that follows is in the same second of the wall clock.
    let wall = pair.now.wall;
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(Duration::from_millis(100));
    pair.up();
    pair.run(Duration::from_millis(100));
    assert!(pair.keys_agree());
    assert_eq!(pair.now.wall, wall);
    resume(&mut pair);
    assert!(pair.client.established()[0].resumed);
}

// RFC 5723: L9, A21
#[test]
fn a_revocation_between_the_two_messages_of_a_resumption_is_in_time() {
    let mut pair = up(22);
    let peer = pair.gateway.established()[0].remote_id.clone();
    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.up();
    let request = pair.flying.remove(0);
    pair.deliver(request.from, request.to, &request.message);
    assert_eq!(pair.gateway.endpoint.half_open(), 1);
    revoke_all_of(&mut pair, &peer.expect("is proven"));
    pair.run(Duration::from_secs(5));
    assert!(pair.keys_agree() && !pair.client.established()[0].resumed);
}

#[test]
fn tickets_of_a_retired_epoch_are_not_shown_as_good() {
    let mut pair = up(3);
    let name = pair.gateway.established()[0].ticket_name;
    assert_eq!(name.expect("one was issued").key_id, 7);
    pair.gateway.endpoint.retain_ticket_roots(&[]);
    assert!(pair.gateway.established()[0].ticket_name.is_none());
}

#[test]
fn the_client_says_what_it_holds() {
    let mut pair = up(4);
    assert!(pair.gateway.endpoint.held_tickets(pair.now).is_empty());
    pair.run(Duration::from_mins(1));
    pair.suspend();
    let held = pair.client.endpoint.held_tickets(pair.now);
    assert_eq!(held.len(), 1);
    assert_eq!(&*held[0].connection, "home");
    assert!(held[0].suspended && held[0].octets >= 150);
    assert!(held[0].age >= Duration::from_mins(1));
    assert!(
        held[0]
            .left
            .is_some_and(|left| left < Duration::from_hours(1))
    );
    pair.run(Duration::from_hours(2));
    let held = pair.client.endpoint.held_tickets(pair.now);
    assert_eq!(held[0].left, None);
    pair.command(&Command::Down("home".into())).expect("sleeps");
    assert!(pair.client.endpoint.held_tickets(pair.now).is_empty());
}

#[test]
fn after_a_full_login_nothing_is_from_a_ticket() {
    let pair = up(5);
    for (node, client) in [(&pair.client, true), (&pair.gateway, false)] {
        let origin = origin(node, &pair);
        assert_eq!(origin.ticket_age, None);
        assert_eq!(origin.items.len(), ROWS.len());
        for (item, row) in origin.items.iter().zip(ROWS) {
            assert_eq!((item.row, item.item), (row.row, row.item));
            assert!(!item.from.contains(&Source::Ticket), "{item:?}");
            assert!(!item.value.is_empty(), "{item:?}");
        }
        let idi = item(&origin, "initiator_id").from;
        let expected = if client {
            Source::Config
        } else {
            Source::Exchange
        };
        assert_eq!(idi, [expected]);
        assert_eq!(item(&origin, "ike_keys").value, "from a key exchange");
        assert_eq!(node.established()[0].fresh_keys, Some(true));
    }
}

#[test]
fn after_a_resumption_each_item_says_so_and_a_rekey_makes_keys_its_own() {
    let mut pair = up(6);
    resume(&mut pair);
    let before = (origin(&pair.client, &pair), origin(&pair.gateway, &pair));
    for (origin, node) in [(&before.0, &pair.client), (&before.1, &pair.gateway)] {
        let age = origin.ticket_age.expect("a ticket opened it");
        assert!((100..110).contains(&age.as_secs()), "{age:?}");
        for (name, from) in [
            ("initiator_id", &[Source::Ticket][..]),
            ("responder_id", &[Source::Ticket]),
            ("peer_auth", &[Source::Ticket]),
            ("addresses", &[Source::Exchange]),
            ("spis", &[Source::Exchange]),
            ("message_ids", &[Source::Fresh]),
            ("ike_algorithms", &[Source::Ticket]),
            ("ike_keys", &[Source::Ticket, Source::Exchange]),
            ("child_sa", &[Source::Exchange]),
            ("full_authentication", &[Source::Ticket]),
        ] {
            assert_eq!(item(origin, name).from, from, "{name}");
        }
        assert_eq!(item(origin, "resumptions").value, "1");
        assert_eq!(node.established()[0].fresh_keys, Some(false));
    }
    let ids = ["initiator_id", "responder_id", "spis", "ike_algorithms"];
    for name in ids {
        assert_eq!(item(&before.0, name).value, item(&before.1, name).value);
    }

    pair.command(&Command::Rekey("home".into())).expect("is up");
    // The Child SA follows within ten seconds.
    pair.run(Duration::from_secs(11));
    for node in [&pair.client, &pair.gateway] {
        let origin = origin(node, &pair);
        assert_eq!(item(&origin, "ike_keys").from, [Source::Exchange]);
        assert_eq!(item(&origin, "ike_algorithms").from, [Source::Exchange]);
        assert_eq!(item(&origin, "peer_auth").from, [Source::Ticket]);
        assert_eq!(node.established()[0].fresh_keys, Some(true));
    }
    assert_eq!(pair.client.endpoint.sa_origin(999, pair.now), None);
}

#[test]
fn the_documentation_has_the_same_table() {
    let words = |sources: &[Source]| {
        let words: Vec<_> = sources.iter().map(|source| source.word()).collect();
        words.join(", ")
    };
    let cell = |ends: &Ends| match (words(ends.client), words(ends.gateway)) {
        (client, gateway) if client == gateway => client,
        (client, gateway) => format!("{client} / {gateway}"),
    };
    let line = |row: &Row| {
        let (number, item) = (row.row, row.item);
        let ends = [&row.full, &row.resumed, &row.rekeyed];
        let cells = ends.map(cell).join(" | ");
        format!("| {number} | `{item}` | {cells} |")
    };
    let table = ROWS.iter().map(line).collect::<Vec<_>>().join("\n");
    let text = include_str!("../../../../docs/operations.md");
    assert!(
        text.contains(&table),
        "docs/operations.md should have\n{table}"
    );
}

/// The client's one connection, as its operator sees it.
fn home(pair: &Pair) -> ike::view::connection::ConnectionView {
    let all = pair.client.endpoint.connection_views(pair.now);
    let [one] = all.try_into().expect("one connection");
    one
}

#[test]
fn a_connection_is_seen_up_lost_waiting_and_asleep() {
    use ike::view::connection::Attempt;
    let mut pair = Pair::new(31);
    assert_eq!(
        (home(&pair).established, home(&pair).attempt),
        (0, Attempt::None)
    );
    pair.up();
    assert_eq!(home(&pair).attempt, Attempt::UnderWay);
    pair.run(Duration::from_secs(1));
    assert_eq!(
        (home(&pair).established, home(&pair).attempt),
        (1, Attempt::None)
    );
    // Nobody is there any more, and the attempts to come back fail.
    let gateway: std::net::IpAddr = crate::bed::GATEWAY.parse().expect("an address");
    pair.gone.insert(gateway);
    let mut waited = false;
    for _ in 0..600 {
        pair.run(Duration::from_secs(1));
        let seen = home(&pair);
        if let Attempt::In(left) = seen.attempt {
            assert_eq!(seen.established, 0);
            assert!(left <= Duration::from_mins(2), "{left:?}");
            waited = true;
        }
    }
    assert!(waited, "it never waited: {:?}", home(&pair));
    pair.gone.clear();
    pair.run(Duration::from_mins(3));
    assert_eq!(home(&pair).established, 1);
    pair.suspend();
    let seen = home(&pair);
    assert!(seen.suspended && seen.established == 0 && seen.attempt == Attempt::None);
    assert_eq!(seen.peer.as_deref(), Some(crate::bed::GATEWAY));
}

#[test]
fn an_sa_says_what_is_to_come_of_it() {
    let mut pair = Pair::established(32);
    let plans = |pair: &Pair| {
        let all = pair.client.endpoint.sas(pair.now);
        (all[0].plans, all[0].children[0].clone())
    };
    let (before, child) = plans(&pair);
    let rekey = child.rekey_in.expect("it has keys for a while");
    assert!(child.ends_in > rekey && child.ends_in <= Duration::from_hours(1));
    assert_eq!((before.rekey, before.reauth), (None, None));
    assert!(before.liveness <= Some(Duration::from_secs(30)));
    let second = Duration::from_secs(1);
    pair.run(second);
    let (after, later) = plans(&pair);
    assert_eq!(later.rekey_in, Some(rekey.saturating_sub(second)));
    assert_eq!(after.end, before.end.map(|end| end.saturating_sub(second)));
    // And it comes then.
    let spi = later.spi_in;
    pair.run(rekey.saturating_sub(2 * second));
    assert_eq!(plans(&pair).1.spi_in, spi);
    pair.run(3 * second);
    assert_ne!(plans(&pair).1.spi_in, spi);
}
