//! What an operator is told when a peer gets no tunnel: the step, our verdict in plain words, what went over
//! the wire, and what to do. On both sides, since either may be ours.

use std::time::Duration;

use ike::{
    Settings,
    crypto::{Encryption, Group, Prf, Secret},
    failure::{Failure, Standing},
    io::Event,
    peer::{Connection, Credential},
    sa::proposal::EspProposal,
    wire::{id::Identity, ts::TrafficSelector},
};

use crate::{
    bed::{Node, Pair},
    sides::{client_side, gateway_side, suite},
};

const SOON: Duration = Duration::from_secs(5);
/// Longer than any attempt lasts.
const LONG: Duration = Duration::from_mins(10);

pub(crate) fn failures(node: &Node) -> Vec<&Failure> {
    fn failure(event: &Event) -> Option<&Failure> {
        match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        }
    }
    node.events.iter().filter_map(failure).collect()
}

/// The one failure that a node has told of, maybe again and again, as `ikectl why` shows it.
pub(crate) fn told(node: &Node) -> String {
    match &failures(node)[..] {
        [one, others @ ..] if others.iter().all(|other| other.repeats(one)) => one.to_string(),
        other => panic!("{other:?}"),
    }
}

fn called(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    pair
}

/// Whoever has no suite in common with the gateway.
fn other_client() -> Vec<Connection> {
    let mut side = client_side();
    side[0].ike_suites = vec![suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384)];
    side
}

#[test]
fn a_mismatch_of_proposals_shows_both_lists() {
    let pair = called(1, other_client, gateway_side);
    assert_eq!(
        told(&pair.gateway),
        "192.0.2.10:500 rw: IKE_SA_INIT: no IKE proposal in common: the peer offers \
         aes128gcm16-prfsha384-ecp384; we take aes256gcm16-prfsha256-x25519, \
         chacha20poly1305-prfsha512-ecp256 (sent NO_PROPOSAL_CHOSEN); give both sides a proposal in \
         common: `proposals` here"
    );
    assert_eq!(failures(&pair.gateway)[0].standing, Standing::Stranger);
    assert_eq!(
        told(&pair.client),
        "198.51.100.1:500 home: IKE_SA_INIT: the peer takes none of our IKE proposals, \
         aes128gcm16-prfsha384-ecp384 (received NO_PROPOSAL_CHOSEN); give both sides a proposal in \
         common: `proposals` here"
    );
}

#[test]
fn a_mismatch_of_esp_proposals_shows_both_lists() {
    fn other_client() -> Vec<Connection> {
        let mut side = client_side();
        let other = [ike::kernel::EspCipher::ChaCha20Poly1305];
        side[0].children[0].proposals = vec![EspProposal::of(&other)];
        side
    }
    let pair = called(2, other_client, gateway_side);
    let text = told(&pair.gateway);
    assert!(
        text.contains("offers chacha20poly1305-esn; we take aes256gcm16-aes128gcm16-esn"),
        "{text}"
    );
    assert!(
        text.contains("client.example: IKE_AUTH: no ESP proposal"),
        "{text}"
    );
    let text = told(&pair.client);
    assert!(
        text.contains("none of our ESP proposals, chacha20poly1305-esn"),
        "{text}"
    );
    assert!(text.contains("(received NO_PROPOSAL_CHOSEN)"), "{text}");
}

#[test]
fn a_mismatch_of_traffic_shows_both_sides() {
    fn other_client() -> Vec<Connection> {
        let mut side = client_side();
        side[0].children[0].local_ts =
            vec![TrafficSelector::from_text("172.16.0.0/12").expect("one")];
        side
    }
    let pair = called(3, other_client, gateway_side);
    let text = told(&pair.gateway);
    assert!(
        text.contains(
            "no traffic in common: the peer asks for 172.16.0.0/12 to 10.1.0.0/24, here it is \
             10.1.0.0/24 to 10.2.0.0/24 (sent TS_UNACCEPTABLE)"
        ),
        "{text}"
    );
    let text = told(&pair.client);
    assert!(
        text.contains("does not take our traffic selectors, 172.16.0.0/12 to"),
        "{text}"
    );
}

#[test]
fn another_key_is_said_on_one_side_and_a_refusal_on_the_other() {
    fn other_client() -> Vec<Connection> {
        let mut side = client_side();
        side[0].local.credential = Credential::PreShared(Secret::from(&b"wrong horse"[..]));
        side
    }
    let pair = called(4, other_client, gateway_side);
    let [failure] = failures(&pair.gateway)[..] else {
        panic!("one failure");
    };
    assert_eq!(failure.standing, Standing::Reached);
    assert_eq!(
        failure.to_string(),
        "192.0.2.10:4500 rw client.example: IKE_AUTH: the peer's pre-shared key is not ours (sent \
         AUTHENTICATION_FAILED); compare the secrets of both sides, blanks and line ends included"
    );
    let text = told(&pair.client);
    assert!(
        text.contains("the peer refuses: AUTHENTICATION_FAILED"),
        "{text}"
    );
    // No secret in any of it.
    for node in [&pair.gateway, &pair.client] {
        let all = format!("{:?}", node.events);
        assert!(!all.contains("horse"), "{all}");
    }
}

#[test]
fn an_identity_that_nobody_knows_is_named_and_harmless() {
    fn other_client() -> Vec<Connection> {
        let mut side = client_side();
        let id = Identity::new(
            ike::wire::id::IdKind::Fqdn,
            "a\u{1b}[2J\u{202e}\n".as_bytes(),
        );
        side[0].local.id = id.expect("text");
        side
    }
    let pair = called(5, other_client, gateway_side);
    let text = told(&pair.gateway);
    assert!(
        text.contains("IKE_AUTH: no connection is for a\\x1b[2J\\xe2\\x80\\xae\\n"),
        "{text}"
    );
    assert!(text.contains("and calls us gw.example"), "{text}");
    assert!(
        text.chars()
            .all(|letter| !letter.is_control() && letter != '\u{202e}')
    );
}

#[test]
fn a_long_identity_is_cut() {
    fn other_client() -> Vec<Connection> {
        let mut side = client_side();
        let id = Identity::new(ike::wire::id::IdKind::KeyId, &[7; Identity::MAX_LEN]);
        side[0].local.id = id.expect("octets");
        side
    }
    let pair = called(6, other_client, gateway_side);
    assert!(told(&pair.gateway).len() < 600);
}

#[test]
fn another_gateway_than_the_one_called_is_named() {
    fn other_gateway() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].local.id = Identity::from_text("other.example").expect("a name");
        side
    }
    fn asks_for_nobody() -> Vec<Connection> {
        client_side()
    }
    // It names whom it wants, and nobody there is that.
    let pair = called(7, asks_for_nobody, other_gateway);
    let text = told(&pair.gateway);
    assert!(
        text.contains("no connection is for client.example and calls us gw.example"),
        "{text}"
    );
}

#[test]
fn an_address_without_connection_is_said() {
    fn for_others() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].remote_addr = Some("203.0.113.9".parse().expect("an address"));
        side
    }
    let pair = called(8, client_side, for_others);
    let text = told(&pair.gateway);
    assert!(
        text.contains("192.0.2.10:500: IKE_SA_INIT: no connection is configured for its address"),
        "{text}"
    );
}

#[test]
fn silence_is_said_by_the_exchange_that_meets_it() {
    let mut pair = Pair::new(9);
    pair.weather.loss = 100;
    pair.up();
    pair.run(LONG);
    let text = told(&pair.client);
    assert!(
        text.starts_with("198.51.100.1:500 home: IKE_SA_INIT: no answer"),
        "{text}"
    );
    assert!(pair.gateway.events.is_empty());

    // The first answer arrives, and nothing of what follows.
    let mut pair = Pair::new(10);
    pair.up();
    pair.run(Duration::from_millis(15));
    pair.weather.loss = 100;
    pair.run(LONG);
    let text = told(&pair.gateway);
    assert!(
        text.contains("the peer has called, was answered, and has not gone on"),
        "{text}"
    );
    assert_eq!(failures(&pair.gateway)[0].standing, Standing::Stranger);
    let text = &failures(&pair.client)[0].to_string();
    assert!(text.contains("no answer to our IKE_"), "{text}");
}

#[test]
fn a_peer_that_goes_silent_is_named() {
    let mut pair = Pair::new(11);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair.weather.loss = 100;
    pair.run(LONG);
    let failure = failures(&pair.gateway)[0];
    assert_eq!(failure.standing, Standing::Proven);
    let text = failure.to_string();
    assert!(
        text.contains("rw client.example: INFORMATIONAL: the peer has gone silent"),
        "{text}"
    );
}

#[test]
fn the_kernels_words_are_passed_on() {
    let mut pair = Pair::new(12);
    pair.gateway.kernel.fail_next = true;
    pair.up();
    pair.run(SOON);
    let text = &failures(&pair.gateway)[0].to_string();
    assert!(
        text.contains(
            "rw client.example: IKE_AUTH: the kernel did not take the Child SA: no such algorithm"
        ),
        "{text}"
    );
}

#[test]
fn a_refused_ticket_is_told_with_its_reason_on_both_sides() {
    let mut pair = Pair::new(13);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.gateway.roots.clear();
    pair.gateway.restart(pair.now);
    pair.client.events.clear();
    pair.up();
    pair.run(SOON);
    let text = told(&pair.gateway);
    assert!(
        text.contains("IKE_SESSION_RESUME: the ticket's key is gone"),
        "{text}"
    );
    assert!(text.contains("(sent TICKET_NACK)"), "{text}");
}

#[test]
fn a_flood_of_mistakes_is_told_in_part_and_costs_no_state() {
    let mut pair = Pair::with(14, other_client, gateway_side, Settings::default());
    pair.up();
    let first = pair.sent[0].clone();
    for port in 1..=2000_u16 {
        let mut again = first.message.clone();
        again[6..8].copy_from_slice(&port.to_be_bytes());
        let from = std::net::SocketAddr::new(first.from.ip(), port);
        pair.deliver(from, first.to, &again);
    }
    assert_eq!(failures(&pair.gateway).len(), 20);
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
    let refused = ike::counters::Counter::NoProposal;
    assert_eq!(pair.gateway.endpoint.counters().count(refused), 2000);
    pair.advance_to(pair.now.boot + Duration::from_secs(1));
    pair.deliver(first.from, first.to, &first.message);
    assert_eq!(failures(&pair.gateway).len(), 21);
}
