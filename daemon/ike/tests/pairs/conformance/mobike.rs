//! What a resumption makes of MOBIKE: it is negotiated in the new IKE_AUTH, whatever the old one said.

use std::time::Duration;

use ike::wire::{
    header::{Exchange, Header},
    notify::NotifyKind,
    payload::PayloadKind,
};

use super::{SOON, data_of, forget, kinds, notify, resumed};
use crate::{
    bed::{GATEWAY, OTHER_GATEWAY, Pair},
    roaming::{roaming_client, two_addresses},
    tap::{Payloads, Tap, auth_messages, meddle, presented},
};

fn without_mobike(payloads: &mut Payloads) {
    let is = |body: &[u8]| body[2..4] == NotifyKind::MOBIKE_SUPPORTED.0.to_be_bytes();
    payloads.retain(|(kind, body)| *kind != PayloadKind::NOTIFY || !is(body));
}

/// Whether the gateway follows an UPDATE_SA_ADDRESSES of the client; it is answered in any case.
fn follows(pair: &mut Pair) -> bool {
    let (tap, spis) = (Tap::on(pair), pair.client.established()[0].spis);
    let header = Header {
        spi_i: spis.0,
        spi_r: spis.1,
        next: PayloadKind::NONE,
        exchange: Exchange::Informational,
        from_initiator: true,
        response: false,
        message_id: 2,
    };
    let update = notify(NotifyKind::UPDATE_SA_ADDRESSES.0, &[]);
    let message = tap.forge(&header, vec![update]);
    let to = pair.gateway.child().path.local;
    let from = "203.0.113.9:4500".parse().expect("an address");
    let sent = pair.sent.len();
    pair.deliver(from, to, &message);
    assert!(tap.read(&pair.sent[sent].message).is_empty());
    let path = pair.gateway.established()[0].path.expect("a path");
    path.remote == from
}

// RFC 5723: T17
#[test]
fn t_mobike_renegotiated() {
    let mut octets = Vec::new();
    for (login, resumption) in [(true, false), (false, true), (false, false), (true, true)] {
        let mut pair = Pair::new(2);
        pair.up();
        meddle(&mut pair, false, |payloads| {
            if !login {
                without_mobike(payloads);
            }
        });
        assert!(pair.keys_agree());
        pair.suspend();
        forget(&mut pair);
        pair.up();
        octets.push(presented(&pair.sent[0].message).len());
        meddle(&mut pair, false, |payloads| {
            if !resumption {
                without_mobike(payloads);
            }
        });
        assert!(resumed(&pair) && pair.keys_agree());
        let answer = kinds(&auth_messages(&pair)[1]);
        assert_eq!(answer.contains(&NotifyKind::MOBIKE_SUPPORTED), resumption);
        assert_eq!(follows(&mut pair), resumption, "{login}, then {resumption}");
    }
    octets.dedup();
    assert_eq!(octets.len(), 1, "nothing of it is in the ticket");
}

// RFC 5723: T17, T18
#[test]
fn t_mobike_addrs_empty() {
    for says in [false, true] {
        let mut pair = Pair::roaming_with(3, roaming_client, two_addresses);
        pair.up();
        pair.run(SOON);
        let told = data_of(&auth_messages(&pair)[1], NotifyKind::ADDITIONAL_IP4_ADDRESS)
            .map(<[u8]>::to_vec);
        assert_eq!(told, Some(vec![198, 51, 100, 2]));
        pair.suspend();
        forget(&mut pair);
        pair.up();
        meddle(&mut pair, true, |payloads| {
            let kind = NotifyKind::ADDITIONAL_IP4_ADDRESS.0.to_be_bytes();
            payloads.retain(|(payload, body)| {
                says || *payload != PayloadKind::NOTIFY || body[2..4] != kind
            });
        });
        assert!(resumed(&pair) && pair.keys_agree());
        // The first address is dead. Only who has been told of another one since can go there.
        pair.gone.insert(GATEWAY.parse().expect("address"));
        pair.run(Duration::from_mins(2));
        let to = |sent: &crate::bed::InFlight| sent.to.ip().to_string() == OTHER_GATEWAY;
        assert_eq!(pair.sent.iter().any(to), says);
        assert_eq!(pair.keys_agree() && pair.paths_agree(), says);
    }
}
