//! Other settings while SAs stand: what has not changed goes on, what is gone ends, what we have set up
//! ourselves comes back by the new settings.

use std::{sync::Arc, time::Duration};

use ike::{
    CommandRefused, Context, Reloaded, Settings,
    crypto::Secret,
    io::{Command, Event},
    peer::{Connection, Credential, Proof},
    view::Closed,
    wire::ts::TrafficSelector,
};

use crate::{
    bed::{GATEWAY, InFlight, Pair, SECOND, Weather},
    sides::{client_side, gateway_side, side},
};

const SOON: Duration = Duration::from_secs(1);

fn other_key(mut side: Vec<Connection>) -> Vec<Connection> {
    let key = || Secret::from(&b"another key on both sides"[..]);
    for connection in &mut side {
        connection.local.credential = Credential::PreShared(key());
        connection.remote.proof = Proof::PreShared(key());
        connection.digest[0] ^= 0x80;
    }
    side
}

fn changed(name: &str) -> Reloaded {
    Reloaded {
        changed: vec![name.into()],
        ..Reloaded::default()
    }
}

fn resumed(pair: &Pair) -> Vec<bool> {
    let sas = pair.client.established();
    sas.iter().map(|sa| sa.resumed).collect()
}

#[test]
fn what_has_not_changed_notices_nothing() {
    let mut pair = Pair::established(1);
    let (before, ops) = (pair.client.established(), pair.client.kernel.ops);
    assert_eq!(pair.client_reloads(client_side()), Reloaded::default());
    assert_eq!(pair.gateway_reloads(gateway_side()), Reloaded::default());
    pair.run(SOON);
    assert!(pair.sent.is_empty(), "nobody has anything to say");
    assert_eq!(pair.client.kernel.ops, ops);
    assert_eq!(pair.client.established()[0].id, before[0].id);
    assert!(pair.keys_agree());
    // It goes on as before in every way.
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(resumed(&pair), [true]);
}

#[test]
fn a_client_comes_back_by_its_new_settings_at_once() {
    for seed in 0..20 {
        let mut pair = Pair::established(seed);
        let first = pair.client.established()[0].id;
        // The gateway's peers stay until they log in anew.
        let done = pair.gateway_reloads(other_key(gateway_side()));
        assert_eq!(done, changed("rw"));
        pair.run(SOON);
        assert!(pair.keys_agree() && pair.sent.is_empty());
        let done = pair.client_reloads(other_key(client_side()));
        assert_eq!(done, changed("home"));
        let blocked = pair.client.kernel.blocked.len();
        assert_eq!(blocked, 1, "nothing leaves in clear");
        assert!(pair.client.kernel.installed.is_empty());
        pair.run(SOON);
        assert!(pair.keys_agree(), "{:?}", pair.client.events);
        assert_eq!(resumed(&pair), [false], "the ticket was the old settings'");
        assert_ne!(pair.client.established()[0].id, first);
        let gone = |event: &Event| matches!(event, Event::Closed { sa, reason: Closed::Reconfigured, .. } if *sa == first);
        assert!(pair.client.events.iter().any(gone));
        assert_eq!(pair.gateway.established().len(), 1);
        // And it stays wanted.
        pair.suspend();
        pair.up();
        pair.run(SOON);
        assert_eq!(resumed(&pair), [true]);
    }
}

#[test]
fn a_gateway_that_is_gone_holds_up_nobody_who_is_told_of_another() {
    let mut pair = Pair::established(2);
    pair.gone.insert(GATEWAY.parse().expect("address"));
    let moved = |digest| {
        let mut side = client_side();
        side[0].remote_addr = Some(SECOND.parse().expect("address"));
        side[0].digest = [digest; 32];
        side
    };
    pair.sent.clear();
    assert_eq!(pair.client_reloads(moved(9)), changed("home"));
    pair.run(SOON);
    let second = |sent: &&InFlight| sent.to.ip().to_string() == SECOND;
    assert!(pair.sent.iter().any(|sent| second(&sent)), "it is called");
    // While it is being called, there are yet other settings.
    assert_eq!(pair.client_reloads(client_side()), changed("home"));
    pair.gone.clear();
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
}

#[test]
fn a_connection_that_is_gone_ends_with_its_sas_and_one_that_comes_can_be_called() {
    let mut pair = Pair::established(3);
    let removed = Reloaded {
        removed: vec!["rw".into()],
        added: vec!["other".into()],
        ..Reloaded::default()
    };
    let other = side("other", GATEWAY, None, "gw.example", "other.example", false);
    assert_eq!(pair.gateway_reloads(vec![other]), removed);
    pair.run(SOON);
    for node in [&pair.client, &pair.gateway] {
        assert!(node.established().is_empty());
        assert!(node.kernel.installed.is_empty());
    }
    assert!(pair.gateway.kernel.blocked.is_empty());
    // Who was there cannot come back, by ticket or in full, until there is a connection for him again.
    pair.run(Duration::from_secs(30));
    assert!(pair.client.established().is_empty());
    pair.gateway_reloads(gateway_side());
    pair.run(Duration::from_mins(2));
    assert!(pair.keys_agree(), "{:?}", pair.client.events);

    let done = pair.client_reloads(Vec::new());
    assert_eq!(done.removed, ["home".into()]);
    pair.run(SOON);
    assert!(pair.gateway.established().is_empty());
    let kernel = &pair.client.kernel;
    assert!(kernel.installed.is_empty() && kernel.blocked.is_empty());
    let up = Command::Up("home".into());
    assert_eq!(pair.command(&up), Err(CommandRefused::NoConnection));
    assert_eq!(pair.client.endpoint.connections().len(), 0);
    let done = pair.client_reloads(client_side());
    assert_eq!(done.added, ["home".into()]);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
}

#[test]
fn flows_that_are_none_any_more_are_free_and_the_others_stay_blocked() {
    fn two_flows() -> Vec<Connection> {
        let mut side = client_side();
        let mut more = side[0].children[0].clone();
        more.name = "more".into();
        more.remote_ts = vec![TrafficSelector::from_text("10.9.0.0/24").expect("network")];
        side[0].children.push(more);
        side
    }
    let mut pair = Pair::with(4, two_flows, gateway_side, Settings::default());
    pair.up();
    pair.run(SOON);
    let blocked = |pair: &Pair| {
        let mut owners: Vec<_> = pair.client.kernel.blocked.iter().cloned().collect();
        owners.sort();
        owners
    };
    let both = blocked(&pair);
    assert_eq!(both.len(), 2, "{both:?}");
    let done = pair.client_reloads(client_side());
    assert_eq!(done, changed("home"));
    let one = blocked(&pair);
    assert!(one.len() == 1 && both.contains(&one[0]), "{one:?}");
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(blocked(&pair), one);
}

#[test]
fn a_flow_that_old_and_new_settings_have_in_common_is_free_at_no_time() {
    fn narrower() -> Vec<Connection> {
        let mut side = client_side();
        let less = TrafficSelector::from_text("10.1.0.0/28").expect("network");
        side[0].children[0].remote_ts = vec![less];
        side
    }
    for waits in [false, true] {
        let mut pair = if waits {
            let mut pair = Pair::new(5);
            pair.command(&Command::Trap("home".into()))
                .expect("a client's");
            pair
        } else {
            Pair::established(5)
        };
        pair.client.kernel.released.clear();
        assert_eq!(pair.client_reloads(narrower()), changed("home"));
        let released = std::mem::take(&mut pair.client.kernel.released);
        let [(first, meanwhile), (second, after)] = &released[..] else {
            panic!("{released:?}");
        };
        assert_eq!((&**first, &**second), ("home/net", "home/net!"));
        assert!(meanwhile.contains("home/net!"), "{released:?}");
        assert!(after.contains("home/net"), "{released:?}");
        assert_eq!(pair.client.kernel.blocked.len(), 1);
        assert_eq!(pair.client.kernel.trapped.len(), usize::from(waits));
        pair.run(SOON);
        assert_eq!(pair.client.is_up(), !waits, "{:?}", pair.client.events);
    }
}

#[test]
fn flows_are_freed_where_the_peer_is_called_and_before_it_ever_answered_too() {
    fn elsewhere() -> Vec<Connection> {
        let mut side = client_side();
        side[0].children[0].name = "other".into();
        side
    }
    for frees in [true, false] {
        let mut pair = Pair::new(8);
        pair.gone.insert(GATEWAY.parse().expect("address"));
        pair.up();
        // Until the attempt is given up; then it is whoever wants it that tries again.
        pair.run(Duration::from_mins(10));
        let node = &mut pair.client;
        let before: Vec<_> = node.kernel.blocked.iter().cloned().collect();
        assert_eq!(before.len(), 1);
        let cx = &mut Context {
            now: pair.now,
            env: &mut node.env,
            ledger: &mut node.ledger,
            leases: &mut node.leases,
        };
        let connections: Vec<_> = elsewhere().into_iter().map(Arc::new).collect();
        let done = node.endpoint.reload(&connections, |_| frees, cx);
        assert_eq!(done, changed("home"));
        pair.drain();
        let blocked = pair.client.kernel.blocked.contains(&before[0]);
        assert_eq!(blocked, !frees);
    }
}

#[test]
fn packets_bring_up_what_they_still_are_to_bring_up() {
    let trap = Command::Trap("home".into());
    let mut pair = Pair::new(5);
    pair.command(&trap).expect("a client's connection");
    let done = pair.client_reloads(other_key(client_side()));
    assert_eq!(done, changed("home"));
    assert_eq!(pair.client.kernel.trapped.len(), 1, "the flow is the same");
    pair.client.endpoint.untrap("home");
    pair.drain();
    let kernel = &pair.client.kernel;
    assert!(kernel.trapped.is_empty() && kernel.blocked.is_empty());
    // What is up stays so, blocked as before when it is lost.
    let mut pair = Pair::new(6);
    pair.command(&trap).expect("a client's connection");
    pair.up();
    pair.run(SOON);
    pair.client.endpoint.untrap("home");
    pair.drain();
    assert!(pair.keys_agree());
    assert_eq!(pair.client.kernel.blocked.len(), 1);
}

#[test]
fn a_session_that_sleeps_on_disk_is_gone_with_its_settings() {
    fn on_disk() -> Vec<Connection> {
        let mut side = client_side();
        side[0].resume.suspend = ike::peer::Suspend::Disk;
        side
    }
    for gone in [false, true] {
        let mut pair = Pair::with(7, on_disk, gateway_side, Settings::default());
        pair.up();
        pair.run(SOON);
        pair.suspend();
        assert_eq!(pair.client.disk.len(), 1);
        pair.client_reloads(on_disk());
        assert_eq!(pair.client.disk.len(), 1, "nothing has changed");
        let next = if gone {
            Vec::new()
        } else {
            other_key(on_disk())
        };
        pair.client_reloads(next);
        assert!(pair.client.disk.is_empty());
        pair.run(SOON);
        assert!(
            pair.client.established().is_empty(),
            "its operator has put it to sleep"
        );
    }
}

#[test]
fn settings_that_change_in_any_order_under_loss_end_in_one_sa() {
    for seed in 0..200 {
        let mut pair = Pair::established(seed);
        pair.weather = Weather {
            loss: 20,
            duplicate: 10,
            reorder: 10,
        };
        for _ in 0..8 {
            let choice = pair.rng.below(6);
            match choice {
                0 => drop(pair.client_reloads(other_key(client_side()))),
                1 => drop(pair.client_reloads(client_side())),
                2 => drop(pair.gateway_reloads(other_key(gateway_side()))),
                3 => drop(pair.gateway_reloads(gateway_side())),
                4 => drop(pair.gateway_reloads(Vec::new())),
                _ => drop(pair.command(&Command::Rekey("home".into()))),
            }
            let wait = Duration::from_millis(pair.rng.below(3000));
            pair.run(wait);
        }
        pair.weather = Weather::default();
        pair.client_reloads(client_side());
        pair.gateway_reloads(gateway_side());
        // The longest pause between attempts, and the peer's patience with an SA that is gone.
        pair.run(Duration::from_mins(10));
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
        for node in [&pair.client, &pair.gateway] {
            assert_eq!(node.established().len(), 1, "seed {seed}");
        }
    }
}

#[test]
fn a_ticket_is_held_against_the_settings_of_the_moment_of_proof() {
    fn without() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.enabled = false;
        side
    }
    fn other_identity() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].digest[0] ^= 1;
        side
    }
    for other in [without, other_identity] {
        let mut pair = Pair::established(9);
        pair.suspend();
        pair.up();
        // The ticket is accepted, its owner not proven yet.
        pair.run(Duration::from_millis(15));
        assert_eq!(pair.gateway_reloads(other()), changed("rw"));
        pair.run(Duration::from_secs(10));
        assert!(pair.keys_agree(), "{:?}", pair.client.events);
        assert_eq!(resumed(&pair), [false]);
    }
}
