//! A peer that is configured by names: it is looked up for every attempt, what was found is called in turn,
//! and an SA that is up takes no notice of what the names lead to later.

use std::{net::IpAddr, time::Duration};

use ike::{
    CommandRefused, Settings, Way,
    failure::Cause,
    io::{Command, Event, Input},
    peer::{Connection, Host},
    view::Closed,
};

use crate::{
    bed::{CLIENT, GATEWAY, OTHER_GATEWAY, Pair},
    sides::{client_side, gateway_side},
    why::{failures, told},
};

const SOON: Duration = Duration::from_secs(1);
/// Where nobody is.
const NOBODY: &str = "198.51.100.99";

fn named_client() -> Vec<Connection> {
    let mut side = client_side();
    side[0].remote_addr = None;
    side[0].remote_hosts = vec![Host::Name("gw.example".into())];
    side
}

/// Both of its addresses are the gateway's.
fn open_gateway() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].local_addr = None;
    side
}

fn ways(peers: &[&str]) -> Vec<Way> {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    peers.iter().map(|peer| (ip(CLIENT), ip(peer))).collect()
}

impl Pair {
    fn named(seed: u64) -> Self {
        let mut pair = Self::with(seed, named_client, open_gateway, Settings::default());
        pair.gone.insert(NOBODY.parse().expect("an address"));
        pair
    }

    fn found(&mut self, found: Result<Vec<Way>, String>) {
        let connection = "home".into();
        let now = self.now;
        let input = Input::LookedUp {
            connection,
            elsewhere: None,
            found,
        };
        self.client.handle(input, now);
        self.drain();
    }

    /// How often the client has asked since the last time.
    fn asked(&mut self) -> usize {
        std::mem::take(&mut self.client.asked_for).len()
    }

    /// Where the client's first messages went, one after another.
    fn called(&self) -> Vec<String> {
        let first = self.sent.iter().filter(|one| {
            one.message[18] >= 34
                && one.message[8..16] == [0; 8]
                && one.from.ip().to_string() == CLIENT
        });
        let mut called: Vec<_> = first.map(|one| one.to.ip().to_string()).collect();
        called.dedup();
        called
    }
}

#[test]
fn each_attempt_looks_up_anew_and_an_sa_that_is_up_never() {
    let mut pair = Pair::named(1);
    pair.up();
    pair.run(SOON);
    assert_eq!(
        (pair.asked(), pair.sent.len()),
        (1, 0),
        "nothing before the answer"
    );
    pair.found(Ok(ways(&[GATEWAY])));
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);

    // An answer that nobody waits for leads nowhere.
    pair.found(Ok(ways(&[NOBODY])));
    pair.run(Duration::from_mins(5));
    assert!(pair.keys_agree());
    assert_eq!(pair.asked(), 0);
    assert_eq!(pair.called(), [GATEWAY]);

    pair.suspend();
    pair.sent.clear();
    pair.up();
    assert_eq!(pair.asked(), 1);
    // The name has moved, and the ticket goes first to whoever gave it.
    pair.found(Ok(ways(&[OTHER_GATEWAY, GATEWAY])));
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(pair.called(), [GATEWAY]);
    let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
    assert!(pair.client.events.iter().any(resumed));
}

#[test]
fn addresses_that_do_not_answer_are_passed_over_in_order() {
    let mut pair = Pair::named(2);
    pair.up();
    pair.found(Ok(ways(&[NOBODY, "198.51.100.98", OTHER_GATEWAY, GATEWAY])));
    pair.gone
        .insert("198.51.100.98".parse().expect("an address"));
    pair.run(Duration::from_secs(8));
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    assert_eq!(pair.called(), [NOBODY, "198.51.100.98", OTHER_GATEWAY]);
    let silent: Vec<_> = failures(&pair.client)
        .iter()
        .map(|one| (one.cause == Cause::NoAnswer, one.from.ip().to_string()))
        .collect();
    let expected = [NOBODY, "198.51.100.98"].map(|at| (true, at.to_owned()));
    assert_eq!(silent, expected);
    assert_eq!(pair.asked(), 1);
}

#[test]
fn a_ticket_is_taken_along_to_the_next_address() {
    let mut pair = Pair::named(3);
    pair.up();
    pair.found(Ok(ways(&[GATEWAY])));
    pair.run(SOON);
    pair.suspend();
    pair.client.events.clear();
    // The gateway is at its other address only.
    pair.gone.insert(GATEWAY.parse().expect("an address"));
    pair.sent.clear();
    pair.up();
    pair.found(Ok(ways(&[GATEWAY, OTHER_GATEWAY])));
    pair.run(Duration::from_secs(10));
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    assert_eq!(pair.called(), [GATEWAY, OTHER_GATEWAY]);
    let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
    assert!(
        pair.client.events.iter().any(resumed),
        "{:?}",
        pair.client.events
    );
}

#[test]
fn a_name_that_leads_nowhere_is_said_and_asked_for_again() {
    let mut pair = Pair::named(4);
    pair.up();
    pair.found(Ok(ways(&[GATEWAY])));
    pair.run(SOON);
    // A connection that was up comes back, and asks each time.
    pair.gone.insert(GATEWAY.parse().expect("an address"));
    pair.client.events.clear();
    pair.asked();
    pair.run(Duration::from_mins(2));
    assert_eq!(pair.asked(), 1);
    pair.client.events.clear();
    pair.found(Err("gw.example: Name or service not known".to_owned()));
    assert_eq!(
        told(&pair.client),
        "home: IKE_SA_INIT: no way to gw.example is known: gw.example: Name or service not known; \
         correct remote_addrs, or see whether this machine's resolver answers (/etc/resolv.conf)"
    );
    let failed = Event::UpFailed {
        connection: "home".into(),
        reason: Closed::Unresolved,
    };
    assert!(
        pair.client.events.contains(&failed),
        "{:?}",
        pair.client.events
    );
    pair.run(Duration::from_mins(2));
    assert_eq!(pair.asked(), 1, "again");
    pair.gone.clear();
    pair.found(Ok(ways(&[GATEWAY])));
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
}

#[test]
fn whoever_takes_it_down_meanwhile_is_obeyed() {
    let mut pair = Pair::named(5);
    pair.up();
    let again = pair.command(&Command::Up("home".into()));
    assert_eq!(again, Err(CommandRefused::UpAlready));
    assert_eq!(pair.asked(), 1, "one look-up at a time");
    pair.command(&Command::Down("home".into()))
        .expect("on its way");
    pair.found(Ok(ways(&[GATEWAY])));
    pair.run(SOON);
    assert!(pair.sent.is_empty());
    assert!(pair.client.kernel.blocked.is_empty());
}
