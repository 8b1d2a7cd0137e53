//! A side that has lost its state, and how the other learns of it: by a token it can believe
//! (RFC 6290), not by what anybody can send (RFC 5723, 9.4).

use std::time::Duration;

use gate_abi::{sip::SipKey, spi::OurSpi};
use ike::{
    Context,
    counters::Counter,
    io::{Command, Event, Input, Path},
    lease::NoLeases,
    view::Closed,
};

use crate::bed::{GATEWAY, InFlight, Node, Pair};

const SOON: Duration = Duration::from_secs(1);

fn crashed(node: &Node) -> bool {
    let hit = |e: &Event| {
        matches!(
            e,
            Event::Closed {
                reason: Closed::Crashed,
                ..
            }
        )
    };
    node.events.iter().any(hit)
}

// RFC 5723: A17
#[test]
fn a_client_learns_of_the_restart_within_one_exchange_and_resumes() {
    let mut pair = Pair::new(1);
    pair.up();
    pair.run(SOON);
    pair.gateway.restart(pair.now);
    // The next liveness check, 30 s after the last sign of life, is answered by a token.
    let start = pair.now.boot;
    while !pair.keys_agree() || pair.client.established().is_empty() || !crashed(&pair.client) {
        pair.run(Duration::from_millis(100));
        assert!(
            pair.now.boot.saturating_sub(start) < Duration::from_secs(35),
            "{:?}",
            pair.client.events
        );
    }
    assert!(crashed(&pair.client), "{:?}", pair.client.events);
    assert!(pair.client.established()[0].resumed);
    assert_eq!(
        pair.gateway.endpoint.counters().count(Counter::TokenSent),
        1
    );
}

// RFC 5723: N50
#[test]
fn without_the_token_nobody_is_believed() {
    let mut pair = Pair::new(2);
    pair.up();
    pair.run(SOON);
    let sa = pair.client.established()[0].clone();
    let path = sa.path.expect("a path");
    let (spi_i, spi_r) = sa.spis;
    // INVALID_IKE_SPI alone, with a wrong token, and with a short one.
    for token in [&[][..], &[7; 32][..], &[0; 3][..]] {
        let mut chain = vec![if token.is_empty() { 0 } else { 41 }, 0, 0, 8, 0, 0, 0, 11];
        if !token.is_empty() {
            chain.extend_from_slice(&[0, 0, 0, 8 + token.len() as u8, 0, 0]);
            chain.extend_from_slice(&16419_u16.to_be_bytes());
            chain.extend_from_slice(token);
        }
        let mut message = [spi_i, spi_r].concat();
        message.extend_from_slice(&[41, 0x20, 37, 0x20, 0, 0, 0, 2]);
        message.extend_from_slice(&(28 + chain.len() as u32).to_be_bytes());
        message.extend_from_slice(&chain);
        let Node {
            endpoint,
            env,
            ledger,
            ..
        } = &mut pair.client;
        let path = Path {
            local: path.local,
            remote: path.remote,
        };
        let input = Input::Datagram {
            path,
            message: &message,
        };
        endpoint.handle(
            input,
            &mut Context {
                now: pair.now,
                env,
                ledger,
                leases: &mut NoLeases,
            },
        );
        pair.drain();
    }
    assert!(pair.keys_agree() && !crashed(&pair.client));
}

#[test]
fn a_suspended_client_tells_the_gateway_at_its_first_probe() {
    let mut pair = Pair::new(3);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.run(Duration::from_secs(32));
    assert!(crashed(&pair.gateway), "{:?}", pair.gateway.events);
    assert!(pair.gateway.established().is_empty());
    assert!(
        pair.gateway.kernel.installed.is_empty(),
        "a suspended client costs nothing"
    );
    assert_eq!(
        pair.gateway.endpoint.next_deadline(),
        None,
        "not even a timer"
    );
    // The ticket is still good.
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed);
}

#[test]
fn silence_removes_a_suspended_client_within_two_and_a_half_minutes() {
    let mut pair = Pair::new(4);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    // The client's machine is off: nothing answers for it.
    let start = pair.now.boot;
    while !pair.gateway.established().is_empty() {
        pair.flying.clear();
        pair.run(Duration::from_millis(5));
        pair.flying.clear();
        let next = pair
            .gateway
            .endpoint
            .next_deadline()
            .unwrap_or(pair.now.boot);
        pair.advance_to(next.max(pair.now.boot));
        pair.tick();
        assert!(pair.now.boot.saturating_sub(start) < Duration::from_secs(150));
    }
    assert!(pair.gateway.kernel.installed.is_empty());
}

#[test]
fn strangers_get_no_tokens() {
    let mut pair = Pair::new(5);
    pair.up();
    pair.run(SOON);
    let request = pair.sent[2].clone();
    pair.gateway.restart(pair.now);
    // An SPI we never made: the check is wrong.
    let mut message = request.message.clone();
    message[15] ^= 1;
    pair.flying.clear();
    pair.deliver(request.from, request.to, &message);
    assert!(pair.flying.is_empty());
    // An answer is never answered.
    let mut message = request.message.clone();
    message[19] |= 0x20;
    pair.deliver(request.from, request.to, &message);
    assert!(pair.flying.is_empty());
    // Our own SPI, dead: the token, shorter than what asked for it.
    pair.deliver(request.from, request.to, &request.message);
    assert_eq!(pair.flying.len(), 1);
    assert!(pair.flying[0].message.len() < request.message.len());
}

#[test]
fn tokens_are_budgeted() {
    let mut pair = Pair::new(6);
    pair.up();
    pair.run(SOON);
    let request = pair.sent[2].clone();
    pair.gateway.restart(pair.now);
    pair.flying.clear();
    for _ in 0..5000 {
        pair.deliver(request.from, request.to, &request.message);
    }
    assert_eq!(pair.flying.len(), 4000);
}

#[test]
fn clients_of_one_gateway_come_back_spread_over_two_seconds() {
    let mut waits = Vec::new();
    for seed in 0..40 {
        let mut pair = Pair::new(seed);
        pair.up();
        pair.run(SOON);
        pair.gateway.restart(pair.now);
        pair.sent.clear();
        pair.run(Duration::from_secs(35));
        let at = |exchange| {
            let sent = pair.sent.iter().find(|sent| sent.message[18] == exchange);
            sent.expect("sent").at
        };
        waits.push(at(38).saturating_sub(at(37)));
    }
    let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    assert!(*most < Duration::from_millis(2100), "{most:?}");
    assert!(
        most.saturating_sub(*least) > Duration::from_secs(1),
        "{least:?}..{most:?}"
    );
}

#[test]
fn down_after_a_crash_still_works() {
    let mut pair = Pair::new(7);
    pair.up();
    pair.run(SOON);
    pair.gateway.restart(pair.now);
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(Duration::from_mins(1));
    assert!(pair.client.established().is_empty());
    assert!(pair.client.kernel.installed.is_empty() && pair.client.kernel.blocked.is_empty());
}

#[test]
fn new_spi_keys_count_from_the_next_sa_on_and_disturb_none() {
    let key = |k0| SipKey { k0, k1: 2 };
    let of_gateway = |pair: &Pair| {
        let sas = pair.gateway.established();
        OurSpi::from_wire(sas[0].spis.1)
    };
    let mut pair = Pair::new(41);
    pair.up();
    pair.run(SOON);
    assert!(of_gateway(&pair).check_is_right(&key(1)));
    pair.gateway.endpoint.set_spi_keys([key(5), key(1)]);
    pair.run(Duration::from_mins(2));
    assert!(pair.keys_agree(), "the SA goes on");
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(of_gateway(&pair).check_is_right(&key(5)));
}

#[test]
fn a_repeated_request_of_a_gateway_that_is_gone_is_no_sign_of_life() {
    let mut pair = Pair::established(12);
    pair.run(Duration::from_secs(40));
    let is_request = |sent: &&InFlight| sent.message[18] == 37 && sent.message[19] & 0x20 == 0;
    let mut asked = pair.sent.iter().rev();
    let request = asked.find(|sent| is_request(sent) && sent.from.ip().to_string() == GATEWAY);
    let request = request.expect("a liveness check").clone();
    pair.gone.insert(request.from.ip());
    for _ in 0..60 {
        pair.run(Duration::from_secs(5));
        pair.deliver(request.from, request.to, &request.message);
    }
    let is_timeout = |event: &Event| {
        matches!(
            event,
            Event::Closed {
                reason: Closed::Timeout,
                ..
            }
        )
    };
    assert!(pair.client.events.iter().any(is_timeout));
}

#[test]
fn who_has_begun_a_rekey_is_believed_too() {
    let mut pair = Pair::established(13);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    pair.suspend();
    pair.run(Duration::from_secs(32));
    assert!(crashed(&pair.gateway), "{:?}", pair.gateway.events);
}
