//! Going to another gateway (RFC 5685): before anything is kept, after the proof, and on an SA that
//! stands; and who must not be able to send a client anywhere.

mod moves;
mod spoof;

use std::{net::SocketAddr, time::Duration};

use ike::{
    CommandRefused, Context, Settings, Told,
    counters::Counter,
    io::{Command, Event},
    peer::{Connection, Redirection},
    view::Closed,
    wire::{
        header::Exchange,
        notify::NotifyKind,
        payload::PayloadKind,
        redirect::{GatewayId, Redirect},
    },
};

use crate::{
    bed::{CLIENT, GATEWAY, InFlight, Node, Pair, SECOND, Weather},
    sides::{client_side, gateway_side, side},
    tap::{clear, reclear},
};

const SOON: Duration = Duration::from_secs(1);
/// Longer than an unauthenticated word is doubted.
const A_WHILE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_mins(1);

fn second_side() -> Vec<Connection> {
    let (id, peer) = ("gw.example", "client.example");
    vec![side("rw", SECOND, None, id, peer, false)]
}

fn stubborn_side() -> Vec<Connection> {
    let mut side = client_side();
    side[0].redirect = Redirection::Ignore;
    side
}

fn gateway(text: &str) -> GatewayId {
    GatewayId::from_text(text).expect("a gateway")
}

/// A client and two gateways with one identity.
fn three(seed: u64, client: fn() -> Vec<Connection>) -> Pair {
    with_gateway(seed, client, gateway_side)
}

fn with_gateway(
    seed: u64,
    client: fn() -> Vec<Connection>,
    first: fn() -> Vec<Connection>,
) -> Pair {
    let mut pair = Pair::with(seed, client, first, Settings::default());
    let settings = Settings {
        node: 3,
        ..Settings::default()
    };
    pair.second = Some(Node::new(seed + 1000, second_side, settings));
    pair
}

fn second(pair: &Pair) -> &Node {
    pair.second.as_ref().expect("a second gateway")
}

/// Whether the client's one SA is with the second gateway, and the first has nothing left.
fn is_with_the_second(pair: &Pair) -> bool {
    if !(pair.client.is_up() && second(pair).is_up()) {
        return false;
    }
    let (c, g) = (pair.client.child(), second(pair).child());
    let first = &pair.gateway;
    c.path.remote.ip().to_string() == SECOND
        && c.inbound.key == g.outbound.key
        && c.outbound.key == g.inbound.key
        && first.established().is_empty()
        && first.kernel.installed.is_empty()
        && first.kernel.beside.is_empty()
}

fn first_messages<'a>(
    pair: &'a Pair,
    to: &'a str,
    exchange: Exchange,
) -> impl Iterator<Item = &'a InFlight> {
    let number = match exchange {
        Exchange::IkeSessionResume => 38,
        _ => 34,
    };
    pair.sent.iter().filter(move |sent| {
        sent.to.ip().to_string() == to && sent.message[18] == number && sent.message[19] == 8
    })
}

fn notified(message: &[u8], wanted: NotifyKind) -> Option<Vec<u8>> {
    let is_it = |(kind, body): &(PayloadKind, Vec<u8>)| {
        *kind == PayloadKind::NOTIFY && body[2..4] == wanted.0.to_be_bytes()
    };
    let payloads = clear(message);
    payloads
        .into_iter()
        .find(is_it)
        .map(|(_, body)| body[4..].to_vec())
}

fn redirections(pair: &Pair) -> usize {
    let sent = |event: &&Event| matches!(event, Event::Redirected { .. });
    pair.client.events.iter().filter(sent).count()
}

fn failures(pair: &Pair) -> Vec<Closed> {
    let why = |event: &Event| match event {
        Event::UpFailed { reason, .. } => Some(*reason),
        _ => None,
    };
    pair.client.events.iter().filter_map(why).collect()
}

/// What the first gateway's operator says to those whose SAs stand.
fn redirect(pair: &mut Pair, connection: Option<&str>, to: &str) -> Result<Told, CommandRefused> {
    let now = pair.now;
    let Node {
        endpoint,
        env,
        ledger,
        leases,
        ..
    } = &mut pair.gateway;
    let cx = &mut Context {
        now,
        env,
        ledger,
        leases,
    };
    let told = endpoint.redirect(connection, &gateway(to), PATIENCE, cx);
    pair.drain();
    told
}

#[test]
fn a_new_client_is_sent_on_before_anything_is_kept_of_it() {
    for to in [SECOND, "gw2.example"] {
        let mut pair = three(1, client_side);
        pair.gateway.endpoint.divert(Some(gateway(to)));
        pair.up();
        pair.run(SOON);
        assert!(is_with_the_second(&pair), "{:?}", pair.client.events);
        assert_eq!(pair.gateway.endpoint.half_open(), 0);
        assert!(pair.gateway.own_spis.is_empty(), "no SPI was given away");
        let counters = pair.gateway.endpoint.counters();
        assert_eq!(counters.count(Counter::Redirected), 1);
        let [request, answer] = [0, 1].map(|i| &pair.sent[i].message);
        assert_eq!(
            notified(request, NotifyKind::REDIRECT_SUPPORTED),
            Some(vec![])
        );
        assert!(answer.len() < request.len());
        assert_eq!(answer[8..16], [0; 8], "no SPI of the responder");
        let next = first_messages(&pair, SECOND, Exchange::IkeSaInit).next();
        let next = &next.expect("a first message").message;
        let from = notified(next, NotifyKind::REDIRECTED_FROM);
        assert_eq!(from, Some(vec![1, 4, 198, 51, 100, 1]));
        assert_eq!(notified(next, NotifyKind::REDIRECT_SUPPORTED), None);
        // A repetition is sent on as well.
        let again = pair.sent[0].clone();
        pair.deliver(again.from, again.to, &again.message);
        assert_eq!(pair.gateway.endpoint.half_open(), 0);
    }
}

#[test]
fn who_does_not_follow_is_served_and_never_sent_on() {
    let mut pair = three(2, stubborn_side);
    pair.gateway.endpoint.divert(Some(gateway(SECOND)));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(
        notified(&pair.sent[0].message, NotifyKind::REDIRECT_SUPPORTED),
        None
    );
    let told = redirect(&mut pair, None, SECOND).expect("any connection");
    assert_eq!(told, Told { told: 0, unable: 1 });
    pair.run(A_WHILE);
    assert!(pair.keys_agree());
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.client.established()[0].resumed);
}

// RFC 5723: T20, N17
#[test]
fn a_ticket_goes_to_its_own_gateway_only() {
    let mut pair = three(3, client_side);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.gateway.endpoint.divert(Some(gateway(SECOND)));
    pair.sent.clear();
    pair.up();
    pair.run(A_WHILE);
    assert!(
        is_with_the_second_but_for_the_old_sa(&pair),
        "{:?}",
        pair.client.events
    );
    assert!(!pair.client.established()[0].resumed);
    let resumes = |to| first_messages(&pair, to, Exchange::IkeSessionResume).count();
    assert_eq!((resumes(GATEWAY), resumes(SECOND)), (1, 0));
    assert!(
        !pair.gateway.ledger.used.contains(&(7, 1)),
        "not by a word in clear"
    );
    // The second gateway's ticket is presented there, and not where the configuration says.
    pair.suspend();
    pair.sent.clear();
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed);
    assert!(
        pair.sent
            .iter()
            .all(|sent| sent.to.ip().to_string() != GATEWAY)
    );
    // If it has gone, the client goes back to where the configuration says.
    pair.gateway.endpoint.divert(None);
    pair.suspend();
    pair.second = None;
    pair.up();
    pair.run(Duration::from_secs(10));
    assert!(pair.keys_agree());
}

/// A suspended SA stays with the first gateway until that finds out.
fn is_with_the_second_but_for_the_old_sa(pair: &Pair) -> bool {
    pair.client.is_up()
        && second(pair).is_up()
        && pair.client.child().inbound.key == second(pair).child().outbound.key
}

// RFC 5723: T20
#[test]
fn a_resumed_client_is_asked_anew_whether_it_follows() {
    let mut pair = three(4, client_side);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.up();
    // What the first login has said is in no ticket.
    let request = pair.flying.remove(0);
    let mut payloads = clear(&request.message);
    let supported = NotifyKind::REDIRECT_SUPPORTED.0.to_be_bytes();
    let before = payloads.len();
    payloads.retain(|(kind, body)| *kind != PayloadKind::NOTIFY || body[2..4] != supported);
    assert_eq!(payloads.len() + 1, before);
    pair.gateway.endpoint.divert(Some(gateway(SECOND)));
    pair.sent.clear();
    let message = reclear(&request.message, payloads);
    pair.deliver(request.from, request.to, &message);
    assert_eq!(notified(&pair.sent[0].message, NotifyKind::REDIRECT), None);
    pair.sent.clear();
    pair.deliver(request.from, request.to, &request.message);
    let named = notified(&pair.sent[0].message, NotifyKind::REDIRECT).expect("sent on");
    let named = Redirect::parse(&named).expect("well formed");
    assert_eq!(named.gateway, gateway(SECOND));
    let asked = clear(&request.message);
    let ni = asked.iter().find(|(kind, _)| *kind == PayloadKind::NONCE);
    assert_eq!(named.nonce, ni.expect("a nonce").1);
}

#[test]
fn a_client_is_sent_on_after_its_proof() {
    fn sends_on() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].redirect_to = Some(gateway("gw2.example"));
        side
    }
    let mut pair = with_gateway(5, client_side, sends_on);
    pair.up();
    pair.run(SOON);
    assert!(is_with_the_second(&pair), "{:?}", pair.client.events);
    assert_eq!(redirections(&pair), 1);
    let closed = |e: &Event| {
        matches!(
            e,
            Event::Closed {
                reason: Closed::PeerDeleted,
                ..
            }
        )
    };
    assert!(pair.gateway.events.iter().any(closed));
    // One that does not follow stays.
    let mut pair = with_gateway(5, stubborn_side, sends_on);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    // One that says nothing any more does not stay for ever.
    let mut pair = with_gateway(5, client_side, sends_on);
    pair.up();
    pair.run(Duration::from_millis(35));
    pair.flying.clear();
    pair.client.restart(pair.now);
    pair.run(Duration::from_mins(10));
    assert!(pair.gateway.own_spis.is_empty());
}

// RFC 5723: T20
#[test]
fn a_resumed_client_is_sent_on_after_its_proof() {
    fn sends_on() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].redirect_to = Some(gateway(SECOND));
        side
    }
    let mut pair = three(6, client_side);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.gateway.connections = sends_on;
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(
        is_with_the_second_but_for_the_old_sa(&pair),
        "{:?}",
        pair.client.events
    );
    assert!(
        pair.gateway.ledger.used.contains(&(7, 1)),
        "its ticket is used"
    );
    assert!(pair.client.endpoint.held_tickets(pair.now).len() == 1);
}

#[test]
fn a_client_whose_sa_stands_goes_and_takes_its_leave() {
    for (connection, to) in [(None, SECOND), (Some("rw"), "gw2.example")] {
        let mut pair = three(7, client_side);
        pair.up();
        pair.run(SOON);
        let told = redirect(&mut pair, connection, to).expect("the connection");
        assert_eq!(told, Told { told: 1, unable: 0 });
        pair.run(A_WHILE);
        assert!(is_with_the_second(&pair), "{:?}", pair.client.events);
        // The old gateway's ticket has gone with its SA.
        assert!(pair.gateway.ledger.used.contains(&(7, 1)));
        let init = first_messages(&pair, SECOND, Exchange::IkeSaInit).next();
        let from = notified(&init.expect("a login").message, NotifyKind::REDIRECTED_FROM);
        assert_eq!(from, Some(vec![1, 4, 198, 51, 100, 1]));
        pair.run(Duration::from_mins(3));
        assert!(is_with_the_second(&pair));
    }
    let mut pair = three(7, client_side);
    let refused = redirect(&mut pair, Some("no such"), SECOND);
    assert_eq!(refused, Err(CommandRefused::NoConnection));
}

#[test]
fn a_client_that_is_told_to_go_and_does_not_loses_its_sa() {
    let mut pair = three(8, client_side);
    pair.second = None;
    pair.up();
    pair.run(SOON);
    redirect(&mut pair, None, SECOND).expect("any connection");
    pair.run(Duration::from_secs(50));
    assert!(pair.keys_agree(), "it stays with what it has");
    pair.run(Duration::from_secs(15));
    let closed = |event: &Event| matches!(event, Event::Closed { .. });
    assert!(pair.gateway.events.iter().any(closed));
    pair.run(Duration::from_mins(5));
    assert!(
        pair.keys_agree(),
        "and comes back to where the configuration says"
    );
}

#[test]
fn gateways_that_send_a_client_in_a_circle_do_so_five_times() {
    let mut pair = three(9, client_side);
    pair.gateway.endpoint.divert(Some(gateway("gw2.example")));
    let other = &mut pair.second.as_mut().expect("a gateway").endpoint;
    other.divert(Some(gateway("gw1.example")));
    pair.up();
    pair.run(Duration::from_secs(30));
    assert_eq!(redirections(&pair), 5);
    assert_eq!(failures(&pair), [Closed::RedirectLoop]);
    assert!(pair.command(&Command::Up("home".into())).is_ok());
    pair.run(Duration::from_secs(30));
    assert_eq!(redirections(&pair), 5, "still within the five minutes");
    pair.gateway.endpoint.divert(None);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    // Two addresses make no circle: whoever comes from the one that it would be sent to is served.
    let mut pair = three(9, client_side);
    pair.gateway.endpoint.divert(Some(gateway(SECOND)));
    let other = &mut pair.second.as_mut().expect("a gateway").endpoint;
    other.divert(Some(gateway(GATEWAY)));
    pair.up();
    pair.run(SOON);
    assert!(is_with_the_second(&pair));
}

/// One that has two addresses may send everybody from the one to the other (RFC 5685, 4).
#[test]
fn whoever_calls_the_named_address_is_there() {
    for settings in [None, Some(gateway(SECOND))] {
        let mut pair = three(17, client_side);
        let second = &mut pair.second.as_mut().expect("a gateway").endpoint;
        second.divert(Some(gateway(SECOND)));
        pair.gateway
            .endpoint
            .divert(settings.or(Some(gateway("gw2.example"))));
        pair.up();
        pair.run(SOON);
        assert!(is_with_the_second(&pair));
        assert_eq!(redirections(&pair), 1);
    }
}

#[test]
fn five_minutes_later_a_client_follows_again() {
    let mut pair = three(10, client_side);
    pair.gateway.endpoint.divert(Some(gateway("gw2.example")));
    let other = &mut pair.second.as_mut().expect("a gateway").endpoint;
    other.divert(Some(gateway("gw1.example")));
    pair.up();
    pair.run(Duration::from_mins(5));
    pair.second
        .as_mut()
        .expect("a gateway")
        .endpoint
        .divert(None);
    pair.run(SOON);
    pair.up();
    pair.run(SOON);
    assert!(is_with_the_second(&pair), "{:?}", pair.client.events);
}

#[test]
fn a_gateway_that_is_nowhere_to_be_found_is_not_called() {
    for to in ["nowhere.example", "here.example"] {
        let mut pair = three(11, client_side);
        pair.gateway.endpoint.divert(Some(gateway(to)));
        pair.up();
        pair.run(Duration::from_secs(10));
        assert_eq!(failures(&pair), [Closed::Redirected], "{to}");
        assert!(
            pair.sent
                .iter()
                .all(|sent| sent.to.ip().to_string() != "127.0.0.1")
        );
    }
}

#[test]
fn under_load_a_cookie_comes_first() {
    let settings = Settings {
        cookie_from: 0,
        ..Settings::default()
    };
    let mut pair = three(14, client_side);
    pair.gateway.settings = settings;
    pair.gateway.restart(pair.now);
    pair.gateway.endpoint.divert(Some(gateway(SECOND)));
    pair.up();
    pair.run(SOON);
    assert!(notified(&pair.sent[1].message, NotifyKind::COOKIE).is_some());
    assert!(is_with_the_second(&pair), "{:?}", pair.client.events);
    // An address that has shown nothing gets COOKIE, however often it asks.
    let request = pair.sent[0].clone();
    let redirected = |pair: &Pair| {
        let counters = pair.gateway.endpoint.counters();
        counters.count(Counter::Redirected)
    };
    let before = redirected(&pair);
    let stranger: SocketAddr = ([203, 0, 113, 9], 500).into();
    pair.deliver(stranger, request.to, &request.message);
    assert_eq!(redirected(&pair), before);
}

#[test]
fn no_answer_is_longer_than_what_asked_for_it() {
    let long = format!("{}.example", "a".repeat(240));
    let mut pair = three(15, client_side);
    pair.gateway.endpoint.divert(Some(gateway(&long)));
    pair.up();
    pair.run(Duration::from_millis(50));
    let (mut asked, mut answered) = (0, 0);
    for sent in &pair.sent {
        if sent.from.ip().to_string() == CLIENT {
            asked += sent.message.len();
        } else {
            answered += sent.message.len();
        }
        assert!(answered <= asked);
    }
    assert!(notified(&pair.sent[1].message, NotifyKind::COOKIE).is_some());
    assert!(notified(&pair.sent[3].message, NotifyKind::REDIRECT).is_some());
}

#[test]
fn no_more_answers_go_to_strangers_than_a_second_has() {
    let mut pair = three(16, client_side);
    pair.gateway.endpoint.divert(Some(gateway(SECOND)));
    pair.up();
    let request = pair.flying.remove(0);
    let mut message = request.message;
    for number in 0..6000_u16 {
        message[..2].copy_from_slice(&number.to_be_bytes());
        let [high, low] = number.to_be_bytes();
        pair.deliver(([203, 0, high, low], 500).into(), request.to, &message);
    }
    let counters = pair.gateway.endpoint.counters();
    assert_eq!(counters.count(Counter::Redirected), 4000);
    assert_eq!(counters.count(Counter::CookieSent), 2000);
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
}

#[test]
fn lost_repeated_and_reordered_messages_change_nothing() {
    for seed in 0..60 {
        let mut pair = three(seed, client_side);
        pair.weather = Weather {
            loss: 10,
            duplicate: 20,
            reorder: 20,
        };
        match seed % 3 {
            0 => pair.gateway.endpoint.divert(Some(gateway(SECOND))),
            1 => {
                fn sends_on() -> Vec<Connection> {
                    let mut side = gateway_side();
                    side[0].redirect_to = Some(gateway(SECOND));
                    side
                }
                pair.gateway.connections = sends_on;
                pair.gateway.restart(pair.now);
            }
            _ => {}
        }
        pair.up();
        pair.run(Duration::from_mins(3));
        if seed % 3 == 2 {
            assert!(pair.keys_agree(), "seed {seed}");
            let told = redirect(&mut pair, None, SECOND).expect("any connection");
            assert_eq!(told.told, 1, "seed {seed}");
            pair.run(Duration::from_mins(3));
        }
        assert!(
            is_with_the_second(&pair),
            "seed {seed}: {:?}",
            pair.client.events
        );
    }
}
