//! Where a session begins and ends, and what is known of it then: a login or a resumption begins one, new keys
//! go on with it, and whatever ends its last SA ends it, once.

use std::time::Duration;

use ike::{
    io::{Command, Event, Session},
    view::Closed,
};

use crate::bed::{Node, Pair};

const SOON: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

fn over(node: &Node) -> Vec<(Closed, &Session)> {
    fn over(event: &Event) -> Option<(Closed, &Session)> {
        match event {
            Event::Closed {
                reason,
                session: Some(session),
                ..
            } => Some((*reason, session)),
            _ => None,
        }
    }
    node.events.iter().filter_map(over).collect()
}

fn minutes(span: Duration) -> u64 {
    (span + Duration::from_secs(10)).as_secs() / 60
}

#[test]
fn new_keys_go_on_with_a_session() {
    let mut pair = Pair::established(1);
    pair.run(MINUTE);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(MINUTE);
    pair.gateway_does(&Command::Rekey("rw".into()));
    pair.run(MINUTE);
    assert!(over(&pair.client).is_empty() && over(&pair.gateway).is_empty());
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    for (node, why) in [
        (&pair.client, Closed::Down),
        (&pair.gateway, Closed::PeerDeleted),
    ] {
        let [(reason, session)] = over(node)[..] else {
            panic!("one session: {:?}", node.events);
        };
        assert_eq!(reason, why);
        assert_eq!((minutes(session.lasted), session.resumptions), (3, 0));
        assert_eq!(minutes(session.since_login), 3);
    }
    let (_, at_the_gateway) = over(&pair.gateway)[0];
    let peer = pair
        .client
        .endpoint
        .config_of("home")
        .map(|home| home.local.id.clone());
    assert_eq!(Some(&at_the_gateway.peer), peer.as_ref());
    assert_eq!(at_the_gateway.owners.len(), 1);
}

#[test]
fn a_resumption_begins_another_one_of_the_same_login() {
    let mut pair = Pair::established(2);
    for _ in 0..2 {
        pair.run(MINUTE);
        pair.suspend();
        pair.run(MINUTE);
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree());
    }
    let of = |node: &Node| -> Vec<_> {
        let over = over(node).into_iter();
        over.map(|(reason, session)| {
            let Session {
                lasted,
                resumptions,
                since_login,
                ..
            } = session;
            (
                reason,
                minutes(*lasted),
                *resumptions,
                minutes(*since_login),
            )
        })
        .collect()
    };
    assert_eq!(
        of(&pair.client),
        [(Closed::Suspended, 1, 0, 1), (Closed::Suspended, 1, 1, 3)]
    );
    // The gateway looks for a client that is silent, and is told by token that it has lost its SA.
    assert_eq!(
        of(&pair.gateway),
        [(Closed::Crashed, 1, 0, 1), (Closed::Crashed, 1, 1, 3)]
    );
    let owners = |node: &Node| {
        let over = over(node).into_iter();
        over.map(|(_, session)| session.owners.clone())
            .collect::<Vec<_>>()
    };
    let owners = owners(&pair.gateway);
    assert_eq!(owners[0], owners[1], "whose states they are, stays");
}

#[test]
fn an_attempt_is_no_session() {
    let mut pair = Pair::new(3);
    pair.up();
    pair.command(&Command::Down("home".into()))
        .expect("under way");
    pair.run(MINUTE);
    assert!(over(&pair.client).is_empty(), "{:?}", pair.client.events);
    assert!(over(&pair.gateway).len() <= 1);
}
