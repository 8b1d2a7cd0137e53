//! RFC 7296, 2.25 and 2.8.1, sentence by sentence: what is answered to a request that crosses one of our own,
//! and what whoever is put off makes of it. `collisions` lets the same happen in every order.

use std::{collections::BTreeMap, time::Duration};

use ike::{
    Settings,
    io::{Command, Event},
    peer::{Connection, Start},
    view::Closed,
    wire::{
        delete::Delete,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use crate::{
    bed::{CLIENT, InFlight, Pair},
    collisions::{kinds, says},
    several,
    tap::{Payloads, Tap},
};

const SOON: Duration = Duration::from_secs(1);
const TEMPORARY: [NotifyKind; 1] = [NotifyKind::TEMPORARY_FAILURE];

/// Three children on either side, of which the last waits for a word.
fn client() -> Vec<Connection> {
    reluctant(several::client())
}

fn gateway() -> Vec<Connection> {
    reluctant(several::gateway())
}

fn reluctant(mut side: Vec<Connection>) -> Vec<Connection> {
    side[0].children[2].start = Start::None;
    side
}

fn up(seed: u64) -> (Pair, Tap) {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    let tap = Tap::on(&pair);
    (pair, tap)
}

fn rekey(name: &str) -> Command {
    Command::Rekey(name.into())
}

fn rekey_child(name: &str) -> Command {
    Command::RekeyChild(name.into(), Some("lab".into()))
}

fn create(name: &str) -> Command {
    Command::UpChild(name.into(), "six".into())
}

fn close_child(name: &str) -> Command {
    Command::DownChild(name.into(), "lab".into())
}

fn close(name: &str) -> Command {
    Command::Down(name.into())
}

/// What the gateway answers to what the client asks for, while its own request is on its way.
fn crossed(pair: &mut Pair, tap: &Tap, ours: &Command, theirs: &Command) -> Payloads {
    pair.gateway_does(ours);
    // It will be repeated.
    pair.flying.clear();
    pair.command(theirs).expect("is up");
    let InFlight {
        from, to, message, ..
    } = pair.flying.remove(0);
    let before = pair.sent.len();
    pair.deliver(from, to, &message);
    let answers = pair.sent[before..].iter();
    let mut answers = answers.filter(|flight| flight.message[19] & 0x20 != 0);
    tap.read(&answers.next().expect("an answer").message)
}

fn has(payloads: &Payloads, kind: PayloadKind) -> bool {
    payloads.iter().any(|(found, _)| *found == kind)
}

/// One IKE SA on both sides, with these children, and nothing else in either kernel.
fn settle(pair: &mut Pair, children: usize) {
    pair.run(Duration::from_mins(1));
    let (c, g) = (pair.client.established(), pair.gateway.established());
    assert_eq!((c.len(), g.len()), (1, 1), "{c:?}\n{g:?}");
    assert_eq!(c[0].spis, g[0].spis);
    assert_eq!(c[0].children.len(), children, "{c:?}");
    assert!(pair.keys_agree(), "{c:?}\n{g:?}");
}

/// CREATE_CHILD_SA requests of the client.
fn asked(pair: &Pair) -> Vec<&InFlight> {
    let request = |flight: &&InFlight| {
        flight.message[18] == 36
            && flight.message[19] & 0x20 == 0
            && flight.from.ip().to_string() == CLIENT
    };
    pair.sent.iter().filter(request).collect()
}

#[test]
fn a_rekey_of_a_child_sa_that_is_being_closed_is_put_off() {
    let (mut pair, tap) = up(1);
    let answer = crossed(&mut pair, &tap, &close_child("rw"), &rekey_child("home"));
    assert_eq!(kinds(&answer), TEMPORARY);
    settle(&mut pair, 1);
}

#[test]
fn a_rekey_of_a_child_sa_that_is_being_rekeyed_is_answered_as_usual() {
    let (mut pair, tap) = up(2);
    let answer = crossed(&mut pair, &tap, &rekey_child("rw"), &rekey_child("home"));
    assert!(has(&answer, PayloadKind::SA) && has(&answer, PayloadKind::TS_I));
    // And of the two new ones one is closed.
    settle(&mut pair, 2);
}

#[test]
fn a_deletion_of_a_child_sa_that_is_being_closed_is_answered_without_one() {
    let (mut pair, tap) = up(3);
    let answer = crossed(&mut pair, &tap, &close_child("rw"), &close_child("home"));
    assert_eq!(answer, []);
    settle(&mut pair, 1);
}

#[test]
fn a_deletion_of_a_child_sa_that_is_being_rekeyed_is_answered_with_one() {
    let (mut pair, tap) = up(4);
    let answer = crossed(&mut pair, &tap, &rekey_child("rw"), &close_child("home"));
    assert!(has(&answer, PayloadKind::DELETE), "{answer:?}");
    settle(&mut pair, 1);
}

#[test]
fn a_rekey_of_the_ike_sa_is_put_off_while_a_child_sa_is_made_rekeyed_or_closed() {
    for (ours, children) in [
        (create("rw"), 3),
        (rekey_child("rw"), 2),
        (close_child("rw"), 1),
    ] {
        let (mut pair, tap) = up(5);
        let answer = crossed(&mut pair, &tap, &ours, &rekey("home"));
        assert_eq!(kinds(&answer), TEMPORARY, "{ours:?}");
        settle(&mut pair, children);
    }
}

#[test]
fn a_rekey_of_an_ike_sa_that_is_being_rekeyed_is_answered_as_usual() {
    let (mut pair, tap) = up(6);
    let before = pair.client.established()[0].spis;
    let answer = crossed(&mut pair, &tap, &rekey("rw"), &rekey("home"));
    assert!(has(&answer, PayloadKind::SA) && has(&answer, PayloadKind::KE));
    settle(&mut pair, 2);
    assert_ne!(pair.client.established()[0].spis, before);
}

#[test]
fn a_rekey_of_an_ike_sa_that_is_being_closed_is_put_off() {
    let (mut pair, tap) = up(7);
    let before = pair.gateway.established()[0].spis;
    let answer = crossed(&mut pair, &tap, &close("rw"), &rekey("home"));
    assert_eq!(kinds(&answer), TEMPORARY);
    pair.run(Duration::from_mins(1));
    let now = [&pair.gateway, &pair.client].map(crate::bed::Node::established);
    assert!(now.iter().flatten().all(|sa| sa.spis != before), "{now:?}");
}

#[test]
fn a_deletion_of_an_ike_sa_that_is_being_rekeyed_is_answered_and_the_rekey_is_forgotten() {
    let (mut pair, tap) = up(8);
    let answer = crossed(&mut pair, &tap, &rekey("rw"), &close("home"));
    assert_eq!(answer, []);
    let said = pair.sent.len();
    pair.run(Duration::from_mins(1));
    assert!(pair.gateway.established().is_empty() && pair.client.established().is_empty());
    assert_eq!(pair.sent.len(), said, "nothing of the rekey is repeated");
}

#[test]
fn a_deletion_of_an_ike_sa_that_is_being_closed_is_answered_and_our_own_is_forgotten() {
    let (mut pair, tap) = up(9);
    let answer = crossed(&mut pair, &tap, &close("rw"), &close("home"));
    assert_eq!(answer, []);
    let said = pair.sent.len();
    pair.run(Duration::from_mins(1));
    assert!(pair.gateway.established().is_empty() && pair.client.established().is_empty());
    assert_eq!(pair.sent.len(), said, "no DELETE is repeated");
}

#[test]
fn a_child_sa_is_put_off_while_the_ike_sa_is_rekeyed() {
    for (theirs, children) in [(create("home"), 3), (rekey_child("home"), 2)] {
        let (mut pair, tap) = up(10);
        let answer = crossed(&mut pair, &tap, &rekey("rw"), &theirs);
        assert_eq!(kinds(&answer), TEMPORARY, "{theirs:?}");
        settle(&mut pair, children);
    }
}

#[test]
fn a_deletion_of_a_child_sa_while_the_ike_sa_is_rekeyed_is_answered_with_one() {
    let (mut pair, tap) = up(11);
    let answer = crossed(&mut pair, &tap, &rekey("rw"), &close_child("home"));
    assert!(has(&answer, PayloadKind::DELETE), "{answer:?}");
    settle(&mut pair, 1);
}

#[test]
fn whoever_is_put_off_does_not_ask_at_once_and_asks_again() {
    for seed in 0..20 {
        let (mut pair, tap) = up(seed);
        let before = pair.client.established()[0].spis;
        let answer = crossed(&mut pair, &tap, &rekey_child("rw"), &rekey("home"));
        assert_eq!(kinds(&answer), TEMPORARY);
        pair.sent.clear();
        pair.run(Duration::from_millis(4900));
        assert!(asked(&pair).is_empty(), "seed {seed}");
        pair.run(Duration::from_secs(12));
        assert_eq!(asked(&pair).len(), 1, "seed {seed}");
        settle(&mut pair, 2);
        assert_ne!(pair.client.established()[0].spis, before);
    }
}

/// The peer puts us off once, and then does itself what was to be done.
#[test]
fn to_be_put_off_again_much_later_is_no_sign_of_being_out_of_step() {
    let (mut pair, _) = up(12);
    for round in 0..4 {
        pair.gateway.kernel.fail_next = true;
        pair.command(&rekey_child("home")).expect("is up");
        pair.run(SOON);
        pair.gateway_does(&rekey_child("rw"));
        pair.run(Duration::from_mins(7));
        let closed = |event: &&Event| matches!(event, Event::Closed { .. });
        assert_eq!(
            pair.client.events.iter().find(closed),
            None,
            "round {round}"
        );
    }
    settle(&mut pair, 2);
}

#[test]
fn what_the_peer_has_not_is_dropped_without_a_word_and_made_anew() {
    let (mut pair, tap) = up(13);
    let spi = pair.client.kernel.installed["home/lab"].inbound.spi;
    let mut body = Vec::new();
    Delete::Esp(vec![spi]).emit(&mut body);
    // The gateway believes that its client has deleted it; the client knows nothing of it.
    let delete = vec![(PayloadKind::DELETE, body)];
    let next = 2 + asked(&pair).len() as u32;
    let answer = says(&mut pair, &tap, Exchange::Informational, next, delete);
    assert!(has(&answer, PayloadKind::DELETE));
    // Of the message ID that is the gateway's already the client makes a sign of life.
    pair.run(Duration::from_secs(31));
    pair.sent.clear();
    pair.command(&rekey_child("home")).expect("is up");
    pair.run(Duration::from_secs(5));
    let of_client = |flight: &&InFlight| flight.from.ip().to_string() == CLIENT;
    let said: Vec<_> = pair.sent.iter().filter(of_client).collect();
    let said: Vec<Payloads> = said
        .iter()
        .map(|flight| tap.read(&flight.message))
        .collect();
    assert_eq!(said.len(), 2, "asked for new keys, then for a new one");
    assert_eq!(kinds(&said[0]), [NotifyKind::REKEY_SA]);
    assert_eq!(kinds(&said[1]), []);
    assert!(has(&said[1], PayloadKind::SA));
    settle(&mut pair, 2);
}

/// The second sequence of 2.8.1: the peer has finished before it sees our request.
#[test]
fn an_answer_to_a_rekey_that_came_too_late_is_ignored() {
    let (mut pair, tap) = up(14);
    pair.command(&rekey_child("home")).expect("is up");
    pair.flying.clear();
    pair.sent.clear();
    pair.gateway_does(&rekey_child("rw"));
    pair.run(Duration::from_secs(30));
    let answers = pair.sent.iter().filter(|flight| {
        let header = Header::parse(&flight.message).expect("a header").0;
        header.response && !header.from_initiator && header.exchange == Exchange::CreateChildSa
    });
    let answers: Vec<_> = answers
        .map(|flight| kinds(&tap.read(&flight.message)))
        .collect();
    assert_eq!(answers, [[NotifyKind::CHILD_SA_NOT_FOUND]]);
    assert_eq!(asked(&pair).len(), 1, "it is not made once more");
    settle(&mut pair, 2);
}

/// Refuses a request on its way, in the name of whoever it goes to, whose message IDs stay in step.
fn refuse(pair: &mut Pair, tap: &Tap, kind: NotifyKind) {
    let InFlight {
        from, to, message, ..
    } = pair.flying.remove(0);
    let (header, _) = Header::parse(&message).expect("a header");
    assert_eq!(header.exchange, Exchange::CreateChildSa);
    let sign = Header {
        exchange: Exchange::Informational,
        ..header
    };
    pair.deliver(from, to, &tap.forge(&sign, Vec::new()));
    pair.flying.clear();
    let mut body = vec![0, 0];
    body.extend_from_slice(&kind.0.to_be_bytes());
    let answer = Header {
        response: true,
        from_initiator: !header.from_initiator,
        ..header
    };
    let answer = tap.forge(&answer, vec![(PayloadKind::NOTIFY, body)]);
    pair.deliver(to, from, &answer);
}

#[test]
fn a_child_that_the_peer_has_no_room_for_waits_and_why_says_so() {
    let (mut pair, tap) = up(15);
    pair.command(&create("home")).expect("is up");
    refuse(&mut pair, &tap, NotifyKind::NO_ADDITIONAL_SAS);
    let failed = |event: &&Event| matches!(event, Event::ChildFailed { child, reason: Closed::Limit, .. } if **child == *"six");
    assert_eq!(pair.client.events.iter().filter(failed).count(), 1);
    assert_eq!(
        crate::why::told(&pair.client),
        "198.51.100.1:4500 home gw.example: CREATE_CHILD_SA: the peer refuses: NO_ADDITIONAL_SAS (received \
         NO_ADDITIONAL_SAS); it makes no more on this IKE SA: raise its limit, or configure fewer \
         children; new keys come with a login beside it"
    );
    pair.sent.clear();
    pair.run(Duration::from_secs(4 * 60 - 1));
    assert!(asked(&pair).is_empty());
    pair.run(Duration::from_secs(62));
    settle(&mut pair, 3);
}

#[test]
fn new_keys_that_the_peer_refuses_for_good_come_with_a_login_beside_the_old_sa() {
    for which in [rekey("home"), rekey_child("home")] {
        let (mut pair, tap) = up(16);
        let before = (pair.client.established()[0].spis, inbound(&pair));
        pair.client.events.clear();
        pair.command(&which).expect("is up");
        refuse(&mut pair, &tap, NotifyKind::NO_ADDITIONAL_SAS);
        let full = |event: &&Event| matches!(event, Event::Established { resumed: false, .. });
        assert_eq!(crate::collisions::traffic(&mut pair, SOON), 0, "{which:?}");
        assert_eq!(
            pair.client.events.iter().filter(full).count(),
            1,
            "{which:?}"
        );
        settle(&mut pair, 2);
        let after = (pair.client.established()[0].spis, inbound(&pair));
        assert!(before.0 != after.0 && before.1 != after.1, "{which:?}");
    }
}

fn inbound(pair: &Pair) -> BTreeMap<String, u32> {
    let installed = pair.client.kernel.installed.iter();
    let spis = installed.map(|(owner, child)| (owner.to_string(), child.inbound.spi));
    spis.collect()
}

/// It can call nobody: the client does, in its own time.
#[test]
fn a_gateway_whose_client_refuses_new_keys_keeps_the_sa_and_asks_later() {
    let (mut pair, tap) = up(17);
    let before = pair.gateway.established()[0].spis;
    pair.gateway_does(&rekey("rw"));
    refuse(&mut pair, &tap, NotifyKind::NO_ADDITIONAL_SAS);
    pair.run(Duration::from_secs(4 * 60 - 1));
    assert_eq!(pair.gateway.established()[0].spis, before);
    pair.run(Duration::from_secs(62));
    settle(&mut pair, 2);
    assert_ne!(pair.gateway.established()[0].spis, before);
}
