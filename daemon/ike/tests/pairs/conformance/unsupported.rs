//! Peers that use what is not built in: they are refused or ignored, leave nothing behind, and lose
//! nothing of what is built in.

use ike::{
    Settings,
    peer::Connection,
    wire::{notify::NotifyKind, payload::PayloadKind},
};

use super::{RESUME, SOON, asleep, exchange, forget, is_response, kinds, notify, request, resumed};
use crate::{
    bed::Pair,
    tap::{auth_messages, clear, meddle, presented, reclear},
};

const USE_PPK: u16 = 16435;
const INTERMEDIATE: u16 = 16438;
const MESSAGE_ID_SYNC: u16 = 16420;
const AUTH_METHODS: u16 = 16443;
const FULL_TRANSCRIPT: u16 = 16447;

/// In the first message of a resumption these are answered as if they were not there.
// RFC 5723: T16, X2, X4, X7, X12
#[test]
fn t_not_built_not_answered() {
    let mut pair = asleep(1);
    let own = request(&mut pair);
    pair.deliver(own.from, own.to, &own.message);
    let plain = pair.flying.pop().expect("an answer");
    let extra = [INTERMEDIATE, USE_PPK, AUTH_METHODS, FULL_TRANSCRIPT];
    let mut payloads = clear(&own.message);
    payloads.extend(extra.map(|kind| notify(kind, &[])));
    payloads.push((PayloadKind::VENDOR_ID, b"somebody's daemon 1.0".to_vec()));
    let mut message = reclear(&own.message, payloads);
    message[0] ^= 1;
    let from = std::net::SocketAddr::from(([203, 0, 113, 1], 500));
    // The first slot of the ticket is taken, so this one needs a cookie: let it go first instead.
    let mut pair = asleep(1);
    let _ = request(&mut pair);
    pair.deliver(from, own.to, &message);
    let answer = pair.flying.pop().expect("an answer");
    let shape = |message: &[u8]| {
        let payloads = clear(message);
        payloads.iter().map(|(kind, _)| *kind).collect::<Vec<_>>()
    };
    assert_eq!(shape(&answer.message), shape(&plain.message));
    for kind in kinds(&clear(&answer.message)) {
        assert!(!extra.contains(&kind.0));
    }
    // Nor does our own client announce any of it.
    for kind in kinds(&clear(&own.message)) {
        assert!(!extra.contains(&kind.0));
    }
}

/// In IKE_AUTH too. What the first login said is in no ticket.
// RFC 5723: T16, X8, note 5
#[test]
fn t_extensions_renegotiated() {
    let mut octets = Vec::new();
    for says in [false, true] {
        let mut pair = Pair::new(2);
        pair.up();
        meddle(&mut pair, false, |payloads| {
            if says {
                payloads.push(notify(MESSAGE_ID_SYNC, &[192, 0, 2, 77]));
                payloads.push((PayloadKind::VENDOR_ID, b"somebody's daemon 1.0".to_vec()));
            }
        });
        assert!(pair.keys_agree());
        let answered = |pair: &Pair| {
            let kinds = kinds(&auth_messages(pair)[1]);
            kinds.iter().any(|kind| kind.0 == MESSAGE_ID_SYNC)
        };
        assert!(!answered(&pair));
        pair.suspend();
        forget(&mut pair);
        pair.up();
        octets.push(presented(&pair.sent[0].message).len());
        meddle(&mut pair, false, |payloads| {
            payloads.push(notify(MESSAGE_ID_SYNC, &[192, 0, 2, 77]));
        });
        assert!(resumed(&pair) && pair.keys_agree());
        assert!(!answered(&pair));
    }
    assert_eq!(octets[0], octets[1], "nothing of it is in the ticket");
}

// RFC 5723: N9, N10, N28, X5, A8
#[test]
fn c_no_eap() {
    // No AUTH payload asks for EAP: refused after a full exchange and after a resumption, without a
    // ticket either time.
    for mut pair in [Pair::new(5), asleep(5)] {
        pair.up();
        meddle(&mut pair, false, |payloads| {
            payloads.retain(|(kind, _)| *kind != PayloadKind::AUTH);
        });
        let answer = &auth_messages(&pair)[1];
        assert_eq!(kinds(answer), [NotifyKind::AUTHENTICATION_FAILED]);
        assert!(!resumed(&pair));
        assert!(!pair.gateway.ledger.used.contains(&(7, 1)));
    }
}

// RFC 5723: X2, X3
#[test]
fn c_unknown_exchanges_and_fragments() {
    // An encrypted fragment, IKE_INTERMEDIATE and IKE_FOLLOWUP_KE between RESUME and IKE_AUTH.
    for (exchange_type, first) in [(35, 53), (43, 46), (44, 46)] {
        let mut pair = asleep(6);
        pair.up();
        pair.run(std::time::Duration::from_millis(25));
        let auth = pair.flying[0].clone();
        assert_eq!(exchange(&auth), 35);
        let mut message = auth.message.clone();
        (message[16], message[18]) = (first, exchange_type);
        let before = pair.sent.len();
        pair.deliver(auth.from, auth.to, &message);
        assert_eq!(pair.sent.len(), before, "no answer");
        pair.run(SOON);
        assert!(pair.keys_agree() && resumed(&pair));
    }
}

/// A REDIRECT beside a Child SA: the gateway cannot mean both.
// RFC 5723: L11
#[test]
fn c_redirect_beside_a_child_sa() {
    fn no_tickets() -> Vec<Connection> {
        let mut side = crate::sides::gateway_side();
        side[0].resume.enabled = false;
        side
    }
    // Inside the resumed IKE_AUTH; and to a client without a ticket.
    let mut login = Pair::with(
        7,
        crate::sides::client_side,
        no_tickets,
        Settings::default(),
    );
    login.up();
    let pairs = [login, {
        let mut pair = asleep(7);
        pair.up();
        pair
    }];
    for mut pair in pairs {
        let gateway = pair.sent[0].to.ip();
        meddle(&mut pair, true, |payloads| {
            payloads.push(notify(16407, &[1, 4, 203, 0, 113, 200]));
        });
        assert!(pair.keys_agree());
        let elsewhere = |sent: &&crate::bed::InFlight| {
            !is_response(sent) && sent.to.ip() != gateway && sent.from.ip() != gateway
        };
        assert_eq!(pair.sent.iter().filter(elsewhere).count(), 0);
        assert!(
            pair.sent
                .iter()
                .filter(|sent| exchange(sent) == RESUME)
                .count()
                <= 2
        );
    }
}
