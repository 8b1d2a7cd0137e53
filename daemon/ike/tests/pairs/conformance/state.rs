//! What a resumed SA has from the ticket, and what it has not (RFC 5723, 5).

use std::time::Duration;

use ike::{
    CommandRefused, Settings,
    crypto::{Encryption, Group, Prf},
    io::{Command, Event},
    peer::Connection,
    ticket::state::AuthMethod,
    wire::{id::Identity, notify::NotifyKind, payload::PayloadKind},
};

use super::{SOON, asleep, deliver, forget, kinds, refusal, request, resumed, up};
use crate::{
    bed::Pair,
    certificates::certified,
    sides::{client_side, gateway_side, suite},
    tap::{Payloads, auth_messages, body, clear, impersonate, meddle, ticket_of},
};

fn edit(payloads: &mut Payloads, kind: PayloadKind, change: impl FnOnce(&mut Vec<u8>)) {
    let found = payloads.iter_mut().find(|(found, _)| *found == kind);
    change(&mut found.expect("a payload of the kind").1);
}

fn name(text: &str) -> Vec<u8> {
    Identity::from_text(text).expect("an identity").body()
}

/// The proof of a resumption was refused: nothing of it stands, and what stood before does until a
/// full login comes.
fn assert_unproven(pair: &Pair, old: u64) {
    assert!(!resumed(pair), "{:?}", pair.gateway.events);
    let closed = |e: &Event| matches!(e, Event::Closed { sa, .. } if *sa == old);
    let login = |e: &Event| matches!(e, Event::Established { resumed: false, .. });
    let events = &pair.gateway.events;
    assert!(!events.iter().any(closed) || events.iter().any(login));
    assert!(
        !pair.gateway.ledger.used.contains(&(7, 1)),
        "the ticket is still good"
    );
}

// RFC 5723: N24, T1, A3, A19
#[test]
fn t_idi_equal() {
    let mut pair = asleep(1);
    let old = pair.gateway.established()[0].id;
    pair.up();
    impersonate(&mut pair, false, |payloads| {
        edit(payloads, PayloadKind::ID_I, |id| {
            *id = name("mallory.example");
        });
    });
    assert_unproven(&pair, old);
    assert_eq!(
        kinds(&auth_messages(&pair)[1]),
        [NotifyKind::AUTHENTICATION_FAILED]
    );
    // Its own name, proven by the same hand, is taken.
    let mut pair = asleep(1);
    pair.up();
    impersonate(&mut pair, false, |_| ());
    assert!(resumed(&pair));
    let id = &auth_messages(&pair)[0];
    assert_eq!(body(id, PayloadKind::ID_I), name("client.example"));
}

// RFC 5723: N26, T2
#[test]
fn t_idr_equal() {
    fn renamed() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].local.id = Identity::from_text("new-name.example").expect("a name");
        side
    }
    // The client asks for another; the gateway answers with another; the gateway has another now.
    for response in [false, true] {
        let mut pair = asleep(2);
        pair.up();
        impersonate(&mut pair, response, |payloads| {
            edit(payloads, PayloadKind::ID_R, |id| {
                *id = name("other.example");
            });
        });
        let hit = |e: &Event| matches!(e, Event::Established { resumed: true, .. });
        assert!(!pair.client.events.iter().any(hit));
        assert_eq!(pair.gateway.events.iter().any(hit), response);
    }
    let mut pair = asleep(2);
    let request = request(&mut pair);
    pair.gateway.connections = renamed;
    pair.gateway.restart(pair.now);
    deliver(&mut pair, &request);
    assert_eq!(refusal(&pair), Some("policy"));
}

// RFC 5723: T3, A1
#[test]
fn t_auth_method_inherited() {
    let mut pair = asleep(3);
    pair.up();
    pair.run(SOON);
    assert_eq!(ticket_of(&pair).0.auth, AuthMethod::PreShared);
    let mut pair = certified(3);
    pair.up();
    pair.run(SOON);
    for _ in 0..2 {
        pair.suspend();
        forget(&mut pair);
        pair.up();
        pair.run(SOON);
        assert!(resumed(&pair));
        assert_eq!(ticket_of(&pair).0.auth, AuthMethod::Certificate);
    }
    // Method 2 proves a resumption and nothing else does: 9 is ECDSA, 14 a signature.
    for method in [1, 9, 14] {
        let mut pair = asleep(3);
        let old = pair.gateway.established()[0].id;
        pair.up();
        meddle(&mut pair, false, |payloads| {
            edit(payloads, PayloadKind::AUTH, |auth| auth[0] = method);
        });
        assert_unproven(&pair, old);
    }
}

// RFC 5723: L10, T8, A11, N2
#[test]
fn t_initiator_flag() {
    let mut pair = up(4);
    pair.gateway_does(&Command::Rekey("rw".into()));
    pair.run(SOON);
    assert!(
        !pair.client.established()[0].initiator,
        "the flag has turned"
    );
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair) && pair.client.established()[0].initiator);
    for sent in &pair.sent {
        let from_client = sent.from.ip().to_string() == crate::bed::CLIENT;
        assert_eq!(sent.message[19] & 0x08 != 0, from_client);
    }
}

// RFC 5723: N11, N36, T10
#[test]
fn t_algs_inherited() {
    macro_rules! suites {
        ($($suite:expr),*) => { [$((
            || { let mut side = client_side(); side[0].ike_suites = vec![$suite]; side },
            || { let mut side = gateway_side(); side[0].ike_suites.push($suite); side },
            $suite,
        )),*] };
    }
    type Side = fn() -> Vec<Connection>;
    let suites: [(Side, Side, _); 4] = suites![
        suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384),
        suite(Encryption::AesGcm256, Prf::HmacSha256, Group::X25519),
        suite(Encryption::AesGcm256, Prf::HmacSha512, Group::P256),
        suite(Encryption::ChaCha20Poly1305, Prf::HmacSha512, Group::P256)
    ];
    for (client, gateway, suite) in suites {
        let mut pair = Pair::with(5, client, gateway, Settings::default());
        pair.up();
        pair.run(SOON);
        let before = pair.gateway.established()[0].suite.clone();
        assert_eq!(before, Some(suite.to_string()));
        pair.suspend();
        forget(&mut pair);
        pair.up();
        pair.run(SOON);
        assert!(resumed(&pair) && pair.keys_agree());
        for node in [&pair.client, &pair.gateway] {
            assert_eq!(node.established()[0].suite, before);
        }
    }
}

// RFC 5723: T12
#[test]
fn t_window_reset() {
    // Whatever window the peer announces, one request is outstanding, and none is after a resumption.
    let mut pair = Pair::new(6);
    pair.up();
    meddle(&mut pair, false, |payloads| {
        payloads.push(super::notify(16385, &[0, 0, 0, 4]));
    });
    assert!(pair.keys_agree());
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    forget(&mut pair);
    // The client falls silent: all the gateway says is its request 0.
    for _ in 0..70 {
        pair.run(Duration::from_millis(500));
        pair.flying.clear();
    }
    let of_gateway =
        |sent: &&crate::bed::InFlight| sent.from.ip().to_string() != crate::bed::CLIENT;
    let ids = pair
        .sent
        .iter()
        .filter(of_gateway)
        .map(|sent| sent.message[23]);
    let ids: Vec<_> = ids.collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == 0), "{ids:?}");
}

// RFC 5723: T13, X10, note 5
#[test]
fn t_child_new() {
    let mut pair = asleep(7);
    let (before, esp) = (
        pair.gateway.child().remote_ts.clone(),
        pair.gateway.child().inbound.spi,
    );
    pair.up();
    // The client wants half of what it had, and transport mode and the like on top.
    meddle(&mut pair, false, |payloads| {
        edit(payloads, PayloadKind::TS_R, |ts| {
            *ts.last_mut().expect("an address") = 127;
        });
        for kind in [16391, 16394, 16387, 16418] {
            payloads.push(super::notify(kind, &[]));
        }
    });
    assert!(resumed(&pair) && pair.keys_agree());
    let child = pair.gateway.child();
    assert_ne!(child.inbound.spi, esp);
    assert_ne!(child.local_ts, before, "narrowed anew");
    assert_eq!(child.local_ts[0].to_string(), "10.1.0.0/25");
    let known = |kind: &NotifyKind| matches!(kind.0, 16391 | 16394 | 16387 | 16418);
    assert!(!kinds(&auth_messages(&pair)[1]).iter().any(known));
    assert_eq!(
        pair.gateway.kernel.installed.len(),
        1,
        "the old one is gone"
    );
}

// RFC 5723: N30, N36, X11, A12
#[test]
fn c_ticket_holds_the_table() {
    let mut pair = up(8);
    let spis = pair.gateway.established()[0].spis;
    pair.suspend();
    forget(&mut pair);
    pair.up();
    let (state, octets) = ticket_of(&pair);
    assert_eq!(state.connection.as_ref(), "rw");
    assert_eq!(state.id_i.body(), name("client.example"));
    assert_eq!(state.id_r.body(), name("gw.example"));
    assert_eq!(state.old_spis, spis);
    assert_eq!(state.suite, gateway_side()[0].ike_suites[0]);
    assert_eq!((state.resume_count, state.full_auth), (0, state.issued));
    assert_eq!(state.digest, [2; 16]);
    assert!(octets <= 352);
    pair.run(Duration::from_secs(100));
    pair.suspend();
    forget(&mut pair);
    pair.up();
    let (next, _) = ticket_of(&pair);
    assert_eq!((next.resume_count, next.full_auth), (1, state.full_auth));
    assert!(next.sk_d != state.sk_d);
}

// RFC 5723: note 4
#[test]
fn t_note4_matrix() {
    // However the login went, a resumption is the same four messages.
    let shape = |pair: &Pair| {
        let clear = pair.sent[..2].iter().map(|sent| clear(&sent.message));
        let all = clear.chain(auth_messages(pair));
        let of_message =
            |message: Payloads| message.iter().map(|(kind, _)| kind.0).collect::<Vec<_>>();
        all.map(of_message).collect::<Vec<_>>()
    };
    let shapes = [Pair::new(9), certified(9)].map(|mut pair| {
        pair.up();
        pair.run(SOON);
        pair.suspend();
        forget(&mut pair);
        pair.up();
        pair.run(SOON);
        assert!(resumed(&pair));
        assert_eq!(pair.sent.len(), 4);
        shape(&pair)
    });
    assert_eq!(shapes[0], shapes[1]);
}

// RFC 5723: note 6
#[test]
fn t_note6_registry() {
    let mut pair = certified(10);
    pair.gateway.settings.cookie_from = 0;
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    let first = pair.sent[..2].iter().map(|sent| clear(&sent.message));
    let mut messages: Vec<_> = first.collect();
    pair.gateway.settings.cookie_from = 1000;
    pair.gateway.restart(pair.now);
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    messages.extend(pair.sent[..2].iter().map(|sent| clear(&sent.message)));
    messages.extend(auth_messages(&pair));
    let said: std::collections::BTreeSet<_> = messages.iter().flat_map(kinds).collect();
    assert!(said.len() >= 7, "{said:?}");
    for kind in said
        .iter()
        .chain(NotifyKind::KNOWN.iter().map(|(kind, _)| kind))
    {
        assert!(kind.resumption().is_some(), "{kind:?} has no class");
    }
    assert_eq!(
        NotifyKind(16438).resumption(),
        None,
        "what we do not know has none"
    );
}

// RFC 5723: N41, L6
#[test]
fn c_logout_asleep() {
    let mut pair = asleep(11);
    pair.command(&Command::Down("home".into())).expect("sleeps");
    assert_eq!(
        pair.command(&Command::Down("home".into())),
        Err(CommandRefused::NotUp)
    );
    pair.up();
    assert_eq!(super::exchange(&pair.sent[0]), 34);
}
