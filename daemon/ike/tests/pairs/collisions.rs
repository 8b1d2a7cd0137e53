//! What happens when both sides replace or delete the same SA at once, in every order in which their
//! messages can arrive, with loss of any of them (RFC 7296, 2.8.1, 2.8.2 and 2.25); and that no packet
//! of the tunnel is lost meanwhile.

use std::{collections::BTreeSet, time::Duration};

use ike::{
    io::{Command, Event},
    peer::Connection,
    view::{Closed, SaState},
    wire::{
        delete::Delete,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use crate::{
    bed::{InFlight, Node, Pair, Weather},
    sides::{client_side, gateway_side},
    tap::{Payloads, Tap},
};

const MILLI: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(1);
const CREATE_CHILD_SA: u8 = 36;
/// On the way from one side to the other.
const LATENCY: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Ike,
    Child,
}

impl Which {
    fn command(self, name: &str) -> Command {
        match self {
            Self::Ike => Command::Rekey(name.into()),
            Self::Child => Command::RekeyChild(name.into(), None),
        }
    }

    fn was_rekeyed(self, node: &Node) -> usize {
        let hit = |event: &&Event| match self {
            Self::Ike => matches!(event, Event::Rekeyed { .. }),
            Self::Child => matches!(event, Event::ChildRekeyed { .. }),
        };
        node.events.iter().filter(hit).count()
    }
}

fn both_rekey(pair: &mut Pair, which: Which) {
    pair.gateway_does(&which.command("rw"));
    pair.command(&which.command("home")).expect("is up");
}

/// One IKE SA on each side, the same, with one Child SA and nothing else in either kernel.
fn settled(pair: &Pair) -> Result<(), String> {
    let (c, g) = (pair.client.established(), pair.gateway.established());
    let alike = c.len() == 1 && g.len() == 1 && c[0].spis == g[0].spis;
    if alike && pair.keys_agree() {
        return Ok(());
    }
    let kernels = [&pair.client, &pair.gateway].map(|node| node.kernel.inbound());
    Err(format!(
        "{c:?}\n{g:?}\n{kernels:x?}\n{:?}\n{:?}",
        pair.client.events, pair.gateway.events
    ))
}

/// The tunnel works still: its keys can be replaced once more, and it can be taken down.
fn works(pair: &mut Pair) {
    for which in [Which::Child, Which::Ike] {
        pair.command(&which.command("home")).expect("is up");
        pair.run(SOON);
        settled(pair).unwrap_or_else(|why| panic!("{which:?}: {why}"));
        pair.gateway_does(&which.command("rw"));
        pair.run(SOON);
        settled(pair).unwrap_or_else(|why| panic!("{which:?}: {why}"));
    }
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    for node in [&pair.client, &pair.gateway] {
        assert!(node.kernel.inbound().is_empty() && node.established().is_empty());
    }
}

/// A packet each way every millisecond, for so long. Returns how many met no state.
pub(crate) fn traffic(pair: &mut Pair, span: Duration) -> usize {
    let mut flying: Vec<(u32, bool, u32)> = Vec::new();
    let mut lost = 0;
    for tick in 0..span.as_millis() as u32 {
        pair.run(MILLI);
        for (to_client, node) in [(true, &pair.gateway), (false, &pair.client)] {
            let flows = node.kernel.installed.values();
            lost += usize::from(flows.len() == 0);
            flying.extend(flows.map(|child| (tick + LATENCY, to_client, child.outbound.spi)));
        }
        flying.retain(|(at, to_client, spi)| {
            let node = if *to_client {
                &pair.client
            } else {
                &pair.gateway
            };
            let due = *at <= tick;
            lost += usize::from(due && !node.kernel.inbound().contains(spi));
            !due
        });
    }
    lost
}

#[test]
fn no_packet_is_lost_while_keys_change() {
    for which in [Which::Child, Which::Ike] {
        for by_gateway in [false, true] {
            let mut pair = Pair::established(1);
            let before = pair.client.child().inbound.spi;
            if by_gateway {
                pair.gateway_does(&which.command("rw"));
            } else {
                pair.command(&which.command("home")).expect("is up");
            }
            assert_eq!(
                traffic(&mut pair, SOON),
                0,
                "{which:?} by gateway: {by_gateway}"
            );
            let after = pair.client.child().inbound.spi;
            assert_eq!(before != after, which == Which::Child);
            settled(&pair).expect("settled");
        }
        for seed in 0..50 {
            let mut pair = Pair::established(seed);
            both_rekey(&mut pair, which);
            assert_eq!(
                traffic(&mut pair, SOON),
                0,
                "{which:?} by both, seed {seed}"
            );
            settled(&pair).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        }
    }
}

#[test]
fn both_at_once_make_two_and_keep_the_one_without_the_lowest_nonce() {
    let mut kept = BTreeSet::new();
    for seed in 0..40 {
        for which in [Which::Child, Which::Ike] {
            let mut pair = Pair::established(seed);
            both_rekey(&mut pair, which);
            pair.run(SOON);
            settled(&pair).unwrap_or_else(|why| panic!("{which:?} {seed}: {why}"));
            // No one was put off, and neither began twice.
            let requests = pair.sent.iter().filter(|flight| {
                flight.message[18] == CREATE_CHILD_SA && flight.message[19] & 0x20 == 0
            });
            let begun = requests.count();
            // After an IKE rekey of the gateway the client asks for a ticket, in another exchange.
            assert_eq!(begun, 2, "{which:?} {seed}");
            assert_eq!(which.was_rekeyed(&pair.client), 1, "{which:?} {seed}");
            assert_eq!(which.was_rekeyed(&pair.gateway), 1, "{which:?} {seed}");
            if which == Which::Ike {
                kept.insert(pair.client.established()[0].initiator);
            }
            works(&mut pair);
        }
    }
    assert_eq!(kept.len(), 2, "each side wins with some seeds");
}

/// Everything that is said of a collision, one message after another lost once, or late.
#[test]
fn any_one_message_of_a_collision_may_be_lost_or_late() {
    for which in [Which::Child, Which::Ike] {
        for seed in 0..6 {
            for victim in 0..10 {
                for late in [None, Some(30), Some(700)] {
                    let mut pair = Pair::established(seed);
                    both_rekey(&mut pair, which);
                    let (mut seen, mut touched) = (pair.flying.len(), false);
                    for _ in 0..4000 {
                        if !touched && seen > victim {
                            let newest = pair.flying.pop();
                            if let (Some(flight), Some(late)) = (newest, late) {
                                let at = flight.at + MILLI * late;
                                pair.flying.push(InFlight { at, ..flight });
                            }
                            touched = true;
                        }
                        let before = pair.sent.len();
                        pair.run(MILLI);
                        seen += pair.sent.len() - before;
                    }
                    pair.run(Duration::from_secs(40));
                    settled(&pair).unwrap_or_else(|why| {
                        panic!("{which:?}, seed {seed}, message {victim}, late {late:?}: {why}")
                    });
                }
            }
        }
    }
}

#[test]
fn a_storm_over_a_collision_passes() {
    for which in [Which::Child, Which::Ike] {
        for seed in 0..150 {
            let mut pair = Pair::established(seed);
            pair.weather = Weather {
                loss: seed % 30,
                duplicate: seed % 20,
                reorder: seed % 60,
            };
            both_rekey(&mut pair, which);
            pair.run(Duration::from_secs(100));
            pair.weather = Weather::default();
            pair.run(Duration::from_secs(100));
            settled(&pair).unwrap_or_else(|why| panic!("{which:?}, seed {seed}: {why}"));
        }
    }
}

#[test]
fn a_rekey_of_one_kind_puts_off_the_other() {
    for (gateways, clients) in [(Which::Ike, Which::Child), (Which::Child, Which::Ike)] {
        for seed in 0..20 {
            let mut pair = Pair::established(seed);
            pair.gateway_does(&gateways.command("rw"));
            pair.command(&clients.command("home")).expect("is up");
            assert_eq!(traffic(&mut pair, Duration::from_secs(2)), 0);
            // Whoever was put off comes again after a while, and not at once (RFC 7296, 2.25).
            let tries = |pair: &Pair| {
                let is_try = |flight: &&InFlight| {
                    flight.message[18] == CREATE_CHILD_SA && flight.message[19] & 0x20 == 0
                };
                pair.sent.iter().filter(is_try).count()
            };
            assert_eq!(tries(&pair), 2, "seed {seed}");
            pair.run(Duration::from_secs(20));
            settled(&pair).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            works(&mut pair);
        }
    }
}

#[test]
fn a_deletion_ends_whatever_rekey_it_meets() {
    for which in [Which::Child, Which::Ike] {
        for deleted_by_client in [true, false] {
            for pause in 0..60 {
                let mut pair = Pair::established(3);
                let (rekeys, deletes) = ("rw", "home");
                if deleted_by_client {
                    pair.gateway_does(&which.command(rekeys));
                    pair.run(MILLI * pause);
                    // During a rekey there may be nothing that could be taken down by name.
                    let _ = pair.command(&Command::Down(deletes.into()));
                } else {
                    pair.command(&which.command(deletes)).expect("is up");
                    pair.run(MILLI * pause);
                    pair.gateway_does(&Command::Down(rekeys.into()));
                }
                pair.run(Duration::from_millis(1500));
                assert!(
                    pair.gateway.established().is_empty() && pair.client.established().is_empty(),
                    "{which:?}, by client: {deleted_by_client}, after {pause} ms: {:?} {:?}",
                    pair.client.events,
                    pair.gateway.events
                );
                for node in [&pair.client, &pair.gateway] {
                    assert!(node.kernel.inbound().is_empty(), "{which:?} {pause}");
                }
            }
        }
    }
}

#[test]
fn both_delete_at_once() {
    let mut pair = Pair::established(4);
    pair.gateway_does(&Command::Down("rw".into()));
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    for node in [&pair.client, &pair.gateway] {
        assert!(node.established().is_empty() && node.kernel.inbound().is_empty());
        let closed = |event: &&Event| {
            matches!(
                event,
                Event::Closed {
                    reason: Closed::Down,
                    ..
                }
            )
        };
        assert_eq!(
            node.events.iter().filter(closed).count(),
            1,
            "{:?}",
            node.events
        );
    }
}

/// A protected message of the client on the first SA of a pair, with the ID of its next request.
/// What the gateway answers to a request of the client's that holds these payloads.
pub(crate) fn says(
    pair: &mut Pair,
    tap: &Tap,
    exchange: Exchange,
    id: u32,
    payloads: Payloads,
) -> Payloads {
    let spis = pair.gateway.established()[0].spis;
    let header = Header {
        spi_i: spis.0,
        spi_r: spis.1,
        next: PayloadKind::NONE,
        exchange,
        from_initiator: true,
        response: false,
        message_id: id,
    };
    let message = tap.forge(&header, payloads);
    let path = pair.client.established()[0].path.expect("is up");
    pair.flying.clear();
    let before = pair.sent.len();
    pair.deliver(path.local, path.remote, &message);
    let answer = pair.sent.get(before).expect("an answer").message.clone();
    pair.flying.clear();
    tap.read(&answer)
}

pub(crate) fn kinds(payloads: &Payloads) -> Vec<NotifyKind> {
    let notifies = payloads
        .iter()
        .filter(|(kind, _)| *kind == PayloadKind::NOTIFY);
    notifies
        .map(|(_, body)| NotifyKind(u16::from_be_bytes([body[2], body[3]])))
        .collect()
}

fn rekey_request(spi: u32) -> Payloads {
    let mut about = vec![3, 4];
    about.extend_from_slice(&NotifyKind::REKEY_SA.0.to_be_bytes());
    about.extend_from_slice(&spi.to_be_bytes());
    vec![
        (PayloadKind::NOTIFY, about),
        (PayloadKind::NONCE, vec![7; 32]),
    ]
}

fn tapped(seed: u64) -> (Pair, Tap) {
    let mut pair = Pair::new(seed);
    pair.up();
    pair.run(SOON);
    let tap = Tap::on(&pair);
    (pair, tap)
}

#[test]
fn what_does_not_exist_is_not_found_and_named() {
    let (mut pair, tap) = tapped(5);
    let request = rekey_request(0x1234_5678);
    let answer = says(&mut pair, &tap, Exchange::CreateChildSa, 2, request);
    assert_eq!(kinds(&answer), [NotifyKind::CHILD_SA_NOT_FOUND]);
    assert_eq!(answer[0].1[..2], [3, 4], "ESP, four octets of SPI");
    assert_eq!(answer[0].1[4..], 0x1234_5678_u32.to_be_bytes());
    // Nor does a Child SA that is for nothing.
    let create = vec![(PayloadKind::NONCE, vec![7; 32])];
    let answer = says(&mut pair, &tap, Exchange::CreateChildSa, 3, create);
    assert_eq!(kinds(&answer), [NotifyKind::INVALID_SYNTAX]);
    // A DELETE of nothing gets an answer without one (2.25.1).
    let mut body = Vec::new();
    Delete::Esp(vec![0x1234_5678]).emit(&mut body);
    let delete = vec![(PayloadKind::DELETE, body)];
    let answer = says(&mut pair, &tap, Exchange::Informational, 4, delete);
    assert!(answer.is_empty());
    assert_eq!(pair.gateway.established()[0].state, SaState::Established);
}

#[test]
fn a_child_sa_that_the_gateway_has_lost_is_made_anew() {
    let (mut pair, tap) = tapped(6);
    let old = pair.client.child().inbound.spi;
    let mut body = Vec::new();
    Delete::Esp(vec![old]).emit(&mut body);
    // The gateway believes that its client has deleted it; the client knows nothing of it.
    let delete = vec![(PayloadKind::DELETE, body)];
    let answer = says(&mut pair, &tap, Exchange::Informational, 2, delete);
    assert_eq!(answer[0].0, PayloadKind::DELETE);
    assert!(pair.gateway.kernel.inbound().is_empty());
    // Its own next message ID is one behind now: one request is taken for the one just answered.
    pair.run(Duration::from_secs(31));
    pair.command(&Command::RekeyChild("home".into(), None))
        .expect("is up");
    pair.run(Duration::from_secs(5));
    settled(&pair).expect("settled");
    assert_ne!(pair.client.child().inbound.spi, old);
}

fn timed(mut side: Vec<Connection>) -> Vec<Connection> {
    side[0].rekey = Duration::from_mins(10);
    side[0].children[0].rekey = Duration::from_mins(7);
    side
}

#[test]
fn keys_change_by_the_clock_in_both_roles() {
    type Side = fn() -> Vec<Connection>;
    let sides: [(Side, Side); 3] = [
        (|| timed(client_side()), gateway_side),
        (client_side, || timed(gateway_side())),
        (|| timed(client_side()), || timed(gateway_side())),
    ];
    for (client, gateway) in sides {
        let mut pair = Pair::with(7, client, gateway, ike::Settings::default());
        pair.up();
        pair.run(SOON);
        let first = pair.client.established()[0].spis;
        pair.run(Duration::from_mins(5));
        assert_eq!(
            pair.client.established()[0].spis,
            first,
            "not before its time"
        );
        assert_eq!(Which::Child.was_rekeyed(&pair.client), 0);
        pair.run(Duration::from_mins(55));
        for node in [&pair.client, &pair.gateway] {
            let (ike, child) = (Which::Ike.was_rekeyed(node), Which::Child.was_rekeyed(node));
            assert!(
                (5..=7).contains(&ike) && (8..=11).contains(&child),
                "{ike} {child}"
            );
        }
        settled(&pair).expect("settled");
    }
}

#[test]
fn a_child_sa_that_nobody_rekeys_ends_its_ike_sa_in_time() {
    fn never(mut side: Vec<Connection>) -> Vec<Connection> {
        side[0].children[0].rekey = Duration::ZERO;
        side
    }
    let sides = (|| never(client_side()), || never(gateway_side()));
    let mut pair = Pair::with(9, sides.0, sides.1, ike::Settings::default());
    pair.up();
    pair.run(SOON);
    let first = pair.client.child().inbound.spi;
    pair.run(Duration::from_secs(3590));
    assert_eq!(pair.client.child().inbound.spi, first);
    pair.run(SOON * 30);
    settled(&pair).expect("it has logged in anew");
    assert_ne!(pair.client.child().inbound.spi, first);
}

#[test]
fn a_peer_that_puts_off_every_rekey_is_given_up_after_some_minutes() {
    let mut pair = Pair::established(8);
    pair.command(&Command::RekeyChild("home".into(), None))
        .expect("is up");
    // Its kernel takes nothing new, so it says TEMPORARY_FAILURE each time.
    for _ in 0..800 {
        pair.gateway.kernel.fail_next = true;
        pair.run(SOON);
        let given_up = |event: &Event| {
            matches!(
                event,
                Event::Closed {
                    reason: Closed::Protocol,
                    ..
                }
            )
        };
        if pair.client.events.iter().any(given_up) {
            pair.gateway.kernel.fail_next = false;
            pair.run(Duration::from_mins(1));
            return settled(&pair).expect("it has logged in anew");
        }
    }
    panic!("{:?}", pair.client.events);
}
