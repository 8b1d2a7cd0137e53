//! Authenticating anew while the old SA stands (RFC 7296, 2.8.3; RFC 4478): in time, without a lost packet,
//! and with what a peer may do otherwise.

mod children;

use std::time::Duration;

use ike::{
    Settings,
    io::{Command, Event},
    peer::Connection,
    view::Closed,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use crate::{
    bed::{InFlight, Pair, Weather},
    collisions::traffic,
    sides::{client_side, gateway_side},
    tap::{Tap, clear},
};

const SOON: Duration = Duration::from_secs(1);
const LIFETIME: Duration = Duration::from_mins(10);

fn reauth_gateway() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].reauth = Some(LIFETIME);
    side
}

fn reauth_client() -> Vec<Connection> {
    let mut side = client_side();
    side[0].reauth = Some(LIFETIME);
    side
}

/// A pair that has logged in.
fn up(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair
}

fn logins(pair: &Pair) -> usize {
    let full = |event: &&Event| matches!(event, Event::Established { resumed: false, .. });
    pair.client.events.iter().filter(full).count()
}

fn closed(events: &[Event]) -> Vec<Closed> {
    let why = |event: &Event| match event {
        Event::Closed { reason, .. } => Some(*reason),
        _ => None,
    };
    events.iter().filter_map(why).collect()
}

// RFC 5723: A12
#[test]
fn a_client_authenticates_anew_in_time_and_no_packet_is_lost() {
    let of_gateway = up(1, client_side, reauth_gateway);
    let of_client = up(1, reauth_client, gateway_side);
    for mut pair in [of_gateway, of_client] {
        let first = pair.client.established()[0].spis;
        pair.run(LIFETIME / 100 * 79);
        assert_eq!(pair.client.established()[0].spis, first, "not before time");
        assert_eq!(traffic(&mut pair, LIFETIME / 100 * 12), 0, "packets lost");
        assert!(pair.keys_agree());
        assert_ne!(pair.client.established()[0].spis, first);
        assert_eq!(logins(&pair), 2);
        for node in [&pair.client, &pair.gateway] {
            assert_eq!(closed(&node.events), [Closed::Rekeyed]);
        }
        // The old ticket has gone with its SA; the new one is good.
        assert!(pair.gateway.ledger.used.contains(&(7, 1)));
        pair.suspend();
        pair.up();
        pair.run(SOON);
        assert!(pair.client.established()[0].resumed && pair.keys_agree());
    }
}

#[test]
fn the_client_goes_on_so_for_ever() {
    let mut pair = up(2, client_side, reauth_gateway);
    pair.run(Duration::from_hours(3));
    assert!(pair.keys_agree());
    assert!((18..=24).contains(&logins(&pair)), "{}", logins(&pair));
    assert!(
        closed(&pair.client.events)
            .iter()
            .all(|why| *why == Closed::Rekeyed)
    );
    assert_eq!(pair.gateway.own_spis.len(), 1);
}

#[test]
fn lost_repeated_and_reordered_messages_change_nothing() {
    for seed in 0..40 {
        let mut pair = up(seed, client_side, reauth_gateway);
        pair.weather = Weather {
            loss: 15,
            duplicate: 20,
            reorder: 20,
        };
        pair.run(LIFETIME);
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(2));
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
        assert!(logins(&pair) >= 2, "seed {seed}");
        assert_eq!(pair.gateway.own_spis.len(), 1, "seed {seed}");
    }
}

#[test]
fn a_login_that_fails_leaves_the_old_sa_its_time() {
    let mut pair = up(3, client_side, reauth_gateway);
    pair.client.kernel.fail_next = true;
    pair.run(LIFETIME / 100 * 91);
    let failed = |e: &Event| {
        matches!(
            e,
            Event::UpFailed {
                reason: Closed::Kernel,
                ..
            }
        )
    };
    assert!(pair.client.events.iter().any(failed));
    assert!(pair.keys_agree());
    pair.run(LIFETIME / 100 * 8);
    assert_eq!(logins(&pair), 2, "it has tried again");
    assert!(pair.keys_agree());
    assert!(
        closed(&pair.client.events)
            .iter()
            .all(|why| *why == Closed::Rekeyed)
    );
}

#[test]
fn a_client_that_has_lost_all_says_so_and_is_served_at_once() {
    let mut pair = up(4, client_side, gateway_side);
    pair.client.restart(pair.now);
    pair.client.kernel = crate::bed::Kernel::default();
    pair.up();
    pair.run(Duration::from_millis(200));
    assert!(pair.keys_agree());
    assert_eq!(closed(&pair.gateway.events), [Closed::Replaced]);
}

#[test]
fn a_client_that_has_lost_all_and_does_not_say_so_is_served_soon() {
    let mut pair = up(5, client_side, gateway_side);
    let old = pair.gateway.child().inbound.spi;
    pair.client.restart(pair.now);
    pair.client.kernel = crate::bed::Kernel::default();
    pair.sent.clear();
    pair.up();
    crate::tap::meddle(&mut pair, false, |payloads| {
        let said = NotifyKind::INITIAL_CONTACT.0.to_be_bytes();
        payloads.retain(|(kind, body)| *kind != PayloadKind::NOTIFY || body[2..4] != said);
    });
    assert_ne!(pair.gateway.child().inbound.spi, old);
    let both = pair.gateway.kernel.inbound().len();
    assert_eq!(both, 2, "it may still be there");
    pair.run(Duration::from_secs(3));
    assert!(pair.keys_agree(), "{:?}", pair.gateway.events);
    assert_eq!(closed(&pair.gateway.events), [Closed::Rekeyed]);
    assert_eq!(pair.gateway.own_spis.len(), 1);
}

/// One of the two goes before the gateway has decided.
#[test]
fn whichever_goes_the_other_stays() {
    for old_goes in [false, true] {
        let mut pair = up(6, client_side, reauth_gateway);
        let told = |pair: &Pair| pair.gateway.kernel.inbound().len();
        pair.run(LIFETIME / 100 * 79);
        while told(&pair) == 2 || told(&pair) == 1 && pair.gateway.kernel.beside.is_empty() {
            if !pair.gateway.kernel.beside.is_empty() {
                break;
            }
            pair.run(Duration::from_millis(1));
        }
        // The client never gets the answer.
        pair.flying.clear();
        let spis: Vec<_> = pair
            .gateway
            .established()
            .iter()
            .map(|sa| sa.spis)
            .collect();
        assert_eq!(spis.len(), 2);
        let ids: Vec<_> = pair.gateway.established().iter().map(|sa| sa.id).collect();
        assert!(ids[0] < ids[1]);
        if old_goes {
            // The operator of the client says `down`: its old SA is deleted.
            pair.command(&Command::Down("home".into())).expect("is up");
            pair.run(SOON);
            assert_eq!(pair.gateway.kernel.installed.len(), 1);
            assert_eq!(pair.gateway.established().len(), 1);
            pair.run(Duration::from_mins(10));
            assert!(pair.gateway.established().is_empty());
            assert!(pair.gateway.kernel.installed.is_empty());
        } else {
            pair.run(Duration::from_mins(3));
            assert!(pair.keys_agree(), "{:?}", pair.client.events);
        }
    }
}

// RFC 5723: T19
#[test]
fn the_gateway_may_say_at_any_time_how_long_it_believes_us() {
    // A request that is not the gateway's takes a message ID from it.
    fn quiet(mut side: Vec<Connection>) -> Vec<Connection> {
        side[0].liveness = Duration::ZERO;
        side
    }
    let mut pair = up(7, || quiet(client_side()), || quiet(gateway_side()));
    let tap = Tap::on(&pair);
    let spis = pair.client.established()[0].spis;
    let (from, to) = (pair.sent[0].to, pair.sent[0].from);
    let say = |pair: &mut Pair, message_id, seconds: u32| {
        let header = Header {
            spi_i: spis.0,
            spi_r: spis.1,
            next: PayloadKind::NONE,
            exchange: Exchange::Informational,
            from_initiator: false,
            response: false,
            message_id,
        };
        let mut body = vec![0, 0];
        body.extend_from_slice(&NotifyKind::AUTH_LIFETIME.0.to_be_bytes());
        body.extend_from_slice(&seconds.to_be_bytes());
        let message = tap.forge(&header, vec![(PayloadKind::NOTIFY, body)]);
        pair.deliver(from, to, &message);
    };
    say(&mut pair, 0, 300);
    say(&mut pair, 1, 600);
    pair.run(Duration::from_secs(400));
    assert_eq!(logins(&pair), 1, "the last word counts");
    pair.run(Duration::from_secs(160));
    assert_eq!(logins(&pair), 2);
    assert!(pair.keys_agree());
    // Nothing was said with this login.
    pair.run(Duration::from_hours(1));
    assert_eq!(logins(&pair), 2);
}

#[test]
fn a_new_login_beside_an_sa_says_nothing_of_a_first_contact() {
    let mut pair = up(8, client_side, reauth_gateway);
    pair.sent.clear();
    pair.run(LIFETIME / 100 * 91);
    let init = pair.sent.iter().position(|sent| sent.message[18] == 34);
    pair.sent.drain(..init.expect("a login"));
    let first = clear(&pair.sent[0].message);
    assert!(
        first.iter().any(|(kind, _)| *kind == PayloadKind::KE),
        "a full exchange"
    );
    let auth = Tap::on(&pair).read(&pair.sent[2].message);
    let said = NotifyKind::INITIAL_CONTACT.0.to_be_bytes();
    assert!(
        !auth
            .iter()
            .any(|(kind, body)| *kind == PayloadKind::NOTIFY && body[2..4] == said)
    );
}

#[test]
fn the_ticket_of_a_rekey_that_comes_to_nothing_is_not_taken() {
    let is = |flight: &InFlight, exchange: u8, response: bool| {
        flight.message[18] == exchange && (flight.message[19] & 0x20 != 0) == response
    };
    let mut pair = up(11, reauth_client, gateway_side);
    while !pair.flying.iter().any(|flight| is(flight, 34, false)) {
        pair.run(Duration::from_millis(10));
    }
    pair.command(&Command::Rekey("home".into())).expect("is up");
    // Its answer is lost until the new login stands.
    while logins(&pair) < 2 {
        pair.flying.retain(|flight| !is(flight, 36, true));
        pair.run(Duration::from_millis(1));
    }
    pair.run(Duration::from_secs(10));
    assert!(pair.keys_agree());
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed && pair.keys_agree());
}
