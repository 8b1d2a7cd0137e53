//! Asking for a ticket and being answered (RFC 5723, 4.1 and 4.2).

use std::time::Duration;

use ike::{
    Settings,
    io::{Command, Event},
    peer::Connection,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use super::resumed;
use super::{SOON, asleep, data_of, exchange, forget, is_response, kinds, notify, up};
use crate::{
    bed::Pair,
    sides::{client_side, gateway_side},
    tap::{Tap, auth_messages, clear, meddle, opened},
};

const CREATE_CHILD_SA: u8 = 36;
type Side = fn() -> Vec<Connection>;

const ANSWERS: [NotifyKind; 3] = [
    NotifyKind::TICKET_LT_OPAQUE,
    NotifyKind::TICKET_NACK,
    NotifyKind::TICKET_ACK,
];

fn rekey_request(pair: &Pair) -> Vec<NotifyKind> {
    let tap = Tap::on(pair);
    let mut sent = pair.sent.iter();
    let request = sent.find(|sent| exchange(sent) == CREATE_CHILD_SA && !is_response(sent));
    kinds(&tap.read(&request.expect("a rekey").message))
}

// RFC 5723: N1, N2, N5, A11
#[test]
fn c_ticket_request_places() {
    let mut pair = up(1);
    let [login, _] = &auth_messages(&pair)[..] else {
        panic!("one exchange");
    };
    assert!(kinds(login).contains(&NotifyKind::TICKET_REQUEST));
    pair.command(&Command::Rekey("home".into())).expect("is up");
    assert!(rekey_request(&pair).contains(&NotifyKind::TICKET_REQUEST));
    // Not in a rekey of the gateway's: it is not the client.
    let mut pair = up(2);
    pair.gateway_does(&Command::Rekey("rw".into()));
    assert!(!rekey_request(&pair).contains(&NotifyKind::TICKET_REQUEST));
    let mut pair = asleep(3);
    pair.up();
    pair.run(SOON);
    assert!(kinds(&auth_messages(&pair)[0]).contains(&NotifyKind::TICKET_REQUEST));
}

// RFC 5723: N6
#[test]
fn c_ticket_answer_is_one_of_three() {
    fn no_tickets() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.enabled = false;
        side
    }
    fn modest() -> Vec<Connection> {
        let mut side = client_side();
        side[0].resume.enabled = false;
        side
    }
    let [ticket, nack, ack] = ANSWERS.map(Some);
    let cases: [(Side, Side, bool, _); 4] = [
        (client_side, gateway_side, false, ticket),
        (client_side, no_tickets, false, nack),
        (client_side, gateway_side, true, ack),
        (modest, gateway_side, false, None),
    ];
    for (client, gateway, exhausted, expected) in cases {
        let mut pair = Pair::with(4, client, gateway, Settings::default());
        pair.gateway.ledger.exhausted = exhausted;
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree());
        let mut answers = kinds(&auth_messages(&pair)[1]);
        answers.retain(|kind| ANSWERS.contains(kind));
        assert_eq!(answers, Vec::from_iter(expected));
    }
}

// RFC 5723: N4
#[test]
fn c_gateway_never_pushes() {
    let mut pair = up(5);
    let (tap, spis) = (Tap::on(&pair), pair.client.established()[0].spis);
    let header = Header {
        spi_i: spis.0,
        spi_r: spis.1,
        next: PayloadKind::NONE,
        exchange: Exchange::Informational,
        from_initiator: false,
        response: false,
        message_id: 0,
    };
    let pushed = [&3600_u32.to_be_bytes()[..], b"nobody asked for this"].concat();
    let message = tap.forge(&header, vec![notify(16409, &pushed)]);
    let path = pair.sent[1].clone();
    forget(&mut pair);
    pair.deliver(path.from, path.to, &message);
    assert_eq!(pair.sent.len(), 1, "a valid request, answered");
    let received = |e: &Event| matches!(e, Event::TicketReceived { .. });
    assert!(!pair.client.events.iter().any(received));
    // The ticket that was asked for is the one that is presented.
    pair.run(SOON);
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
}

// RFC 5723: L5
#[test]
fn c_ticket_of_a_failed_login_is_not_kept() {
    for break_proof in [true, false] {
        let mut pair = Pair::new(6);
        pair.client.kernel.fail_next = !break_proof;
        pair.up();
        meddle(&mut pair, true, |payloads| {
            let (_, auth) = payloads
                .iter_mut()
                .find(|(kind, _)| *kind == PayloadKind::AUTH)
                .expect("proof");
            auth[4] ^= u8::from(break_proof);
        });
        assert!(pair.client.established().is_empty());
        pair.run(Duration::from_mins(3));
        forget(&mut pair);
        pair.up();
        assert_eq!(exchange(&pair.sent[0]), 34, "no ticket to come back with");
    }
}

// RFC 5723: N47
#[test]
fn c_ticket_notifications_name_no_protocol() {
    let mut pair = up(7);
    let mut messages = auth_messages(&pair);
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    messages.extend(pair.sent[..2].iter().map(|sent| clear(&sent.message)));
    messages.extend(auth_messages(&pair));
    let mut seen = 0;
    for (_, body) in messages.iter().flatten().filter(|(kind, body)| {
        *kind == PayloadKind::NOTIFY
            && (16409..=16413).contains(&u16::from_be_bytes([body[2], body[3]]))
    }) {
        assert_eq!(body[..2], [0, 0], "protocol and SPI size");
        seen += 1;
    }
    assert_eq!(seen, 5, "two requests, two tickets, one presented");
}

// RFC 5723: N39, N44, N45
#[test]
fn c_ticket_lifetime_is_finite_and_told() {
    fn for_ever() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.ticket_lifetime = Duration::MAX;
        side
    }
    fn short() -> Vec<Connection> {
        let mut side = for_ever();
        side[0].ike_lifetime = Duration::from_mins(10);
        side
    }
    for (gateway, most) in [(for_ever as fn() -> _, 4 * 3600), (short, 600)] {
        let mut pair = Pair::with(8, client_side, gateway, Settings::default());
        pair.up();
        pair.run(Duration::from_millis(100));
        let answer = &auth_messages(&pair)[1];
        let data = data_of(answer, NotifyKind::TICKET_LT_OPAQUE).expect("a ticket");
        let (lifetime, ticket) = data.split_at(4);
        let lifetime = u64::from(u32::from_be_bytes(lifetime.try_into().expect("four")));
        assert!((1..=most).contains(&lifetime), "{lifetime} s");
        let expiry = opened(&pair, ticket).expiry - pair.now.wall;
        assert!((lifetime..lifetime + 60).contains(&expiry), "{expiry} s");
    }
}

// RFC 5723: N17
#[test]
fn c_without_ticket_no_resumption() {
    fn no_tickets() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.enabled = false;
        side
    }
    let mut pair = Pair::with(9, client_side, no_tickets, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.gateway.restart(pair.now);
    pair.run(Duration::from_mins(2));
    assert!(pair.keys_agree(), "back by a full exchange");
    assert!(pair.sent.iter().all(|sent| exchange(sent) != super::RESUME));
}
