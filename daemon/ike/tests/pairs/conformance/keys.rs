//! Keys of resumed SAs, keys of tickets, and what a bystander can learn (RFC 5723, 5.1, 6.1, 9).

use ike::{crypto::Secret, io::TicketRoot, ticket::SessionRecord};

use super::{SOON, asleep, forget, request, resumed};
use crate::{
    bed::Pair,
    certificates::certified,
    tap::{opened, presented, ticket_of},
};

// RFC 5723: N31, T11
#[test]
fn t_keys_differ() {
    let mut pair = asleep(1);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree() && resumed(&pair));
        let sk_d = ticket_of(&pair).0.sk_d;
        assert!(seen.insert(sk_d.expose().to_vec()), "SK_d");
        let child = pair.client.child();
        for key in [&child.inbound.key, &child.outbound.key] {
            assert!(seen.insert(key.expose().to_vec()), "an ESP key");
        }
        pair.suspend();
        forget(&mut pair);
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

// RFC 5723: N33, N54
#[test]
fn c_identity_privacy() {
    let mut tickets = Vec::new();
    for mut pair in [Pair::new(2), certified(2)] {
        pair.up();
        pair.run(SOON);
        pair.suspend();
        for _ in 0..2 {
            pair.up();
            pair.run(SOON);
            pair.suspend();
        }
        for sent in &pair.sent {
            for name in ["client.example", "gw.example", "rw"] {
                let in_clear = name.len() > 2 && contains(&sent.message, name.as_bytes());
                assert!(!in_clear, "{name} in clear");
            }
        }
        let resumes = pair
            .sent
            .iter()
            .filter(|sent| super::exchange(sent) == super::RESUME);
        let requests = resumes.filter(|sent| !super::is_response(sent));
        let requests = requests.map(|sent| presented(&sent.message));
        tickets.push(requests.collect::<Vec<_>>());
    }
    for tickets in tickets {
        let [one, other] = &tickets[..] else {
            panic!("two resumptions")
        };
        // Beyond kind, key id, node and flags two tickets of one client have nothing in common that
        // chance would not give them.
        assert_eq!(one[..4], other[..4]);
        let common = one[4..]
            .iter()
            .zip(&other[4..])
            .filter(|(a, b)| a == b)
            .count();
        assert!(common < 16, "{common} of {} octets", one.len());
    }
}

// RFC 5723: N40, N51
#[test]
fn c_key_rotation() {
    let mut pair = asleep(3);
    let old = request(&mut pair);
    // A second epoch begins; the first is still honoured, and new tickets are of the second.
    pair.gateway.endpoint.add_ticket_root(&TicketRoot {
        key_id: 8,
        root: Secret::new(vec![88; 32]),
    });
    pair.gateway.roots.push((8, vec![88; 32]));
    pair.gateway.ledger.key_id = 8;
    super::deliver(&mut pair, &old);
    pair.run(SOON);
    assert!(resumed(&pair), "a ticket of the old epoch");
    pair.suspend();
    forget(&mut pair);
    let new = request(&mut pair);
    assert_eq!(opened(&pair, &presented(&new.message)).name.key_id, 8);
    // The first epoch ends.
    pair.gateway.endpoint.retain_ticket_roots(&[8]);
    super::deliver(&mut pair, &old);
    assert_eq!(super::refusal(&pair), Some("unknown_key"));
    super::deliver(&mut pair, &new);
    pair.run(SOON);
    assert!(resumed(&pair), "a ticket of the new epoch");
}

// RFC 5723: N40, N51
#[test]
fn c_key_rotation_storm() {
    // Twenty clients come back while the epoch changes between any two of their messages.
    for step in 0..20_u64 {
        let mut pair = asleep(100 + step);
        pair.up();
        pair.run(std::time::Duration::from_millis(step * 3));
        pair.gateway.endpoint.add_ticket_root(&TicketRoot {
            key_id: 8,
            root: Secret::new(vec![88; 32]),
        });
        pair.gateway.ledger.key_id = 8;
        pair.run(SOON);
        assert!(pair.keys_agree() && resumed(&pair), "step {step}");
    }
}

// RFC 5723: N52
#[test]
fn c_secrets_are_not_shown() {
    let mut pair = asleep(4);
    pair.up();
    let state = ticket_of(&pair).0;
    let sk_d = state.sk_d.duplicate();
    let record = SessionRecord {
        ticket: vec![1],
        received: pair.now.into(),
        lifetime: SOON,
        digest: [0; 32],
        id_i: state.id_i.clone(),
        id_r: state.id_r.clone(),
        auth: state.auth,
        suite: state.suite,
        sk_d: state.sk_d.duplicate(),
        path: ike::io::Path {
            local: pair.sent[0].from,
            remote: pair.sent[0].to,
        },
        full_auth: pair.now.into(),
        resume_count: 0,
        leased: Vec::new(),
    };
    // As a list of numbers, which is how Rust shows octets.
    let listed = format!("{:?}", sk_d.expose());
    let listed = listed.trim_matches(['[', ']']);
    for shown in [format!("{record:?}"), format!("{state:?}")] {
        assert!(!shown.contains(listed), "{shown}");
    }
}
