//! What an operator sees who looks on at one peer: each message of it in both directions, what is in it, and
//! why one came to nothing. Nobody else's, and never a secret.

use std::time::Duration;

use ike::{
    Whose,
    io::{Command, Event},
    watch::{MAX_WATCHED, Overheard, Watched},
};

use crate::bed::{Node, Pair};

const SOON: Duration = Duration::from_secs(1);
const CLIENT: &str = "192.0.2.10";

fn somebody(text: &str) -> Watched {
    Watched::Somebody(Whose::from_text(text))
}

fn overheard(node: &Node) -> Vec<&Overheard> {
    fn told(event: &Event) -> Option<&Overheard> {
        match event {
            Event::Overheard(one) => Some(one),
            _ => None,
        }
    }
    node.events.iter().filter_map(told).collect()
}

/// Without lengths, which are of no interest here.
fn lines(node: &Node) -> Vec<String> {
    let short = |one: &&Overheard| {
        let text = one.to_string();
        let (head, payloads) = text.split_once(" octets:").expect("a length");
        let head = head.rsplit_once(',').expect("before the length").0;
        format!("{head}:{payloads}")
    };
    overheard(node).iter().map(short).collect()
}

fn login(watched: Vec<Watched>) -> Pair {
    let mut pair = Pair::new(1);
    pair.gateway.endpoint.watch(watched);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair
}

#[test]
fn a_login_is_told_message_by_message() {
    let pair = login(vec![somebody(CLIENT)]);
    let told = lines(&pair.gateway);
    let [init, answer, auth, done] = &told[..] else {
        panic!("two exchanges: {told:#?}");
    };
    let starts = |line: &str, with: &str| assert!(line.starts_with(with), "{line}");
    starts(
        init,
        "192.0.2.10:500 -> IKE_SA_INIT request 0: SA KE(31) No ",
    );
    starts(
        answer,
        "192.0.2.10:500 <- IKE_SA_INIT response 0: SA KE(31) No ",
    );
    starts(auth, "192.0.2.10:4500 -> IKE_AUTH request 1: IDi ");
    starts(done, "192.0.2.10:4500 <- IKE_AUTH response 1: IDr AUTH ");
    assert!(
        auth.contains(" AUTH ") && auth.contains(" TSi TSr"),
        "{auth}"
    );
    assert!(auth.contains("N(TICKET_REQUEST)"), "{auth}");
    assert!(done.contains("N(TICKET_LT_OPAQUE)"), "{done}");
    let [first, .., last] = &overheard(&pair.gateway)[..] else {
        panic!("some");
    };
    assert!(first.sa.is_none() && first.inbound);
    assert_eq!(last.connection.as_deref(), Some("rw"));
    assert!(last.sa.is_some() && !last.inbound);
}

#[test]
fn a_name_is_known_from_the_message_on_that_proves_it() {
    for name in ["rw", "client.example"] {
        let mut pair = login(vec![somebody(name)]);
        let told = lines(&pair.gateway);
        assert!(
            matches!(&told[..], [asks, done]
                if asks.contains("-> IKE_AUTH request 1: IDi")
                    && done.contains("<- IKE_AUTH response 1: IDr")),
            "{name}: {told:#?}"
        );
        pair.command(&Command::Down("home".into())).expect("down");
        pair.run(SOON);
        let told = lines(&pair.gateway);
        assert!(
            told[2].ends_with("-> INFORMATIONAL request 2: D(IKE)"),
            "{name}: {told:#?}"
        );
    }
}

#[test]
fn nobody_else_is_told_of() {
    let others = ["203.0.113.9", "bob@example.net", "2001:db8::1"];
    let pair = login(others.map(somebody).into());
    assert_eq!(lines(&pair.gateway), Vec::<String>::new());
    let pair = login(Vec::new());
    assert_eq!(lines(&pair.gateway), Vec::<String>::new());
    let many = std::iter::repeat_n(somebody("203.0.113.9"), MAX_WATCHED);
    let pair = login(many.chain([Watched::Everybody]).collect());
    assert_eq!(lines(&pair.gateway), Vec::<String>::new(), "one too many");
    let pair = login(vec![Watched::Everybody]);
    assert_eq!(lines(&pair.gateway).len(), 4);
}

#[test]
fn a_resumption_and_what_came_to_nothing_are_told_too() {
    let mut pair = login(vec![somebody(CLIENT)]);
    pair.suspend();
    pair.run(SOON);
    let before = lines(&pair.gateway).len();
    pair.up();
    pair.run(SOON);
    let told = lines(&pair.gateway).split_off(before);
    assert!(
        told[0].contains("-> IKE_SESSION_RESUME request 0: No N(TICKET_OPAQUE)"),
        "{told:#?}"
    );
    assert_eq!(told.len(), 4, "{told:#?}");

    let (from, to) = (format!("{CLIENT}:500"), "198.51.100.1:500");
    let (from, to) = (from.parse().expect("from"), to.parse().expect("to"));
    pair.deliver(from, to, b"no IKE at all, but of some length");
    let spi = pair.gateway.established()[0].spis;
    let mut forged = Vec::new();
    forged.extend(spi.0);
    forged.extend(spi.1);
    forged.extend([46, 0x20, 37, 0x08, 0, 0, 0, 2, 0, 0, 0, 68, 0, 0, 0, 40]);
    forged.extend([7; 36]);
    pair.deliver(from, to, &forged);
    pair.drain();
    let told: Vec<_> = overheard(&pair.gateway)
        .iter()
        .map(ToString::to_string)
        .collect();
    let [.., nonsense, forged] = &told[..] else {
        panic!("{told:#?}");
    };
    assert_eq!(
        nonsense,
        "192.0.2.10:500 -> 33 octets that are no IKE message [bad_header]"
    );
    assert_eq!(
        forged,
        "192.0.2.10:500 -> INFORMATIONAL request 2, 68 octets: protected, not by keys that we have now \
         [bad_integrity]"
    );
}

#[test]
fn looking_on_changes_nothing_on_the_wire() {
    let wire = |watched: Vec<Watched>| {
        let mut pair = login(watched);
        pair.suspend();
        pair.run(SOON);
        pair.up();
        pair.run(SOON);
        pair.command(&Command::Down("home".into())).expect("down");
        pair.run(SOON);
        pair.octets_sent()
    };
    assert_eq!(wire(vec![Watched::Everybody]), wire(Vec::new()));
}
