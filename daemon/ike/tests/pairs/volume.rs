//! A Child SA that has carried as much as it may: the kernel says so for each of its states, and the side
//! that hears of it first asks for new keys.

use std::time::Duration;

use ike::{
    Settings,
    io::{Command, Event, Input},
    kernel::{Owner, Volume},
    peer::Connection,
};

use crate::{
    bed::{Node, Pair},
    collisions::traffic,
    sides::{client_side, gateway_side},
};

const SOON: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const LIMIT: u64 = 1_000_000;

fn limited(mut side: Vec<Connection>) -> Vec<Connection> {
    let child = &mut side[0].children[0];
    child.carriage.bytes.rekey = LIMIT;
    child.carriage.packets = Volume {
        rekey: LIMIT,
        life: 2 * LIMIT,
    };
    side
}

impl Node {
    /// The owner and SPIs of its Child SA, inbound first.
    fn states(&self) -> (Owner, [u32; 2]) {
        let child = self.child();
        let spis = [child.inbound.spi, child.outbound.spi];
        (child.owner.clone(), spis)
    }

    fn rekeyed(&self) -> usize {
        let hit = |event: &&Event| matches!(event, Event::ChildRekeyed { .. });
        self.events.iter().filter(hit).count()
    }
}

impl Pair {
    fn limited(seed: u64) -> Self {
        let client = || limited(client_side());
        let mut pair = Self::with(
            seed,
            client,
            || limited(gateway_side()),
            Settings::default(),
        );
        pair.up();
        pair.run(SOON);
        pair
    }

    /// The client's kernel says this of a state, or the gateway's.
    fn expire(&mut self, at_client: bool, (owner, spi): (&Owner, u32), hard: bool) {
        let node = if at_client {
            &mut self.client
        } else {
            &mut self.gateway
        };
        let owner = owner.clone();
        node.handle(Input::Expired { owner, spi, hard }, self.now);
        self.drain();
    }
}

#[test]
fn limits_are_met_by_chance_somewhat_earlier_and_by_the_client_first() {
    let mut seen = Vec::new();
    for seed in 0..20 {
        let pair = Pair::limited(seed);
        for (node, percent) in [(&pair.client, 80..=90), (&pair.gateway, 90..=100)] {
            let carriage = node.child().carriage;
            let bounds = percent.start() * LIMIT / 100..=percent.end() * LIMIT / 100;
            for volume in [carriage.bytes, carriage.packets] {
                assert!(bounds.contains(&volume.rekey), "{volume:?}");
                seen.push(volume.rekey);
            }
            assert_eq!((carriage.bytes.life, carriage.packets.life), (0, 2 * LIMIT));
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 60, "{}", seen.len());
}

/// Its sequence numbers end at 2^32 (RFC 4303, 3.3.3).
#[test]
fn without_extended_sequence_numbers_there_is_a_limit_in_any_case() {
    fn short() -> Vec<Connection> {
        let mut side = client_side();
        for proposal in &mut side[0].children[0].proposals {
            proposal.esn = vec![false];
        }
        side
    }
    let mut pair = Pair::with(1, short, gateway_side, Settings::default());
    pair.up();
    pair.run(SOON);
    for node in [&pair.client, &pair.gateway] {
        let child = node.child();
        assert!(!child.esn);
        assert!((1 << 31..3 << 30).contains(&child.carriage.packets.rekey));
    }
    let pair = Pair::established(1);
    assert_eq!(pair.client.child().carriage.packets, Volume::default());
}

#[test]
fn either_side_and_either_state_leads_to_new_keys_without_loss() {
    for (at_client, which) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        let mut pair = Pair::limited(2);
        let node = if at_client {
            &pair.client
        } else {
            &pair.gateway
        };
        let (owner, spis) = node.states();
        pair.expire(at_client, (&owner, spis[which]), false);
        assert_eq!(traffic(&mut pair, SOON), 0);
        assert_eq!((pair.client.rekeyed(), pair.gateway.rekeyed()), (1, 1));
        assert!(pair.keys_agree());
        assert_eq!(pair.client.established().len(), 1);
    }
}

#[test]
fn an_event_repeated_before_while_and_after_keys_change_is_one() {
    let mut pair = Pair::limited(3);
    let (owner, spis) = pair.client.states();
    for spi in [spis[0], spis[1], spis[0]] {
        pair.expire(true, (&owner, spi), false);
    }
    for _ in 0..100 {
        pair.run(MILLI);
        for spi in spis {
            pair.expire(true, (&owner, spi), false);
        }
    }
    pair.run(Duration::from_mins(2));
    assert_eq!((pair.client.rekeyed(), pair.gateway.rekeyed()), (1, 1));
    assert!(pair.keys_agree());
}

#[test]
fn events_of_both_sides_at_once_collide_as_any_rekeys_do() {
    for seed in 0..20 {
        let mut pair = Pair::limited(seed);
        let ((ours, own), (theirs, peers)) = (pair.client.states(), pair.gateway.states());
        pair.expire(true, (&ours, own[0]), false);
        pair.expire(false, (&theirs, peers[0]), false);
        assert_eq!(traffic(&mut pair, Duration::from_secs(2)), 0, "seed {seed}");
        pair.run(Duration::from_mins(2));
        assert!(pair.keys_agree(), "seed {seed}");
        assert_eq!(pair.client.kernel.inbound().len(), 1, "seed {seed}");
        let rekeyed = (pair.client.rekeyed(), pair.gateway.rekeyed());
        assert!(rekeyed.0 >= 1 && rekeyed.0 <= 2, "seed {seed}: {rekeyed:?}");
    }
}

/// What the peer has made stands beside the old one and receives, until the peer deletes that.
#[test]
fn an_event_of_a_child_sa_that_does_not_lead_yet_is_kept() {
    let mut pair = Pair::limited(4);
    let (_, before) = pair.gateway.states();
    pair.command(&Command::RekeyChild("home".into(), None))
        .expect("is up");
    let mut next = None;
    for _ in 0..200 {
        pair.run(MILLI);
        let beside = &pair.gateway.kernel.beside;
        if let Some(child) = beside.values().find(|one| one.inbound.spi != before[0]) {
            next = Some((child.owner.clone(), child.inbound.spi));
            break;
        }
    }
    let (owner, spi) = next.expect("a new one beside the old one");
    pair.expire(false, (&owner, spi), false);
    pair.run(SOON);
    pair.run(Duration::from_mins(1));
    assert_eq!((pair.client.rekeyed(), pair.gateway.rekeyed()), (2, 2));
    assert!(pair.keys_agree());
}

#[test]
fn an_event_of_a_state_that_nobody_knows_changes_nothing() {
    let mut pair = Pair::limited(5);
    let (owner, spis) = pair.client.states();
    let stranger = Owner("nobody/net/nobody".into());
    let sent = pair.sent.len();
    for hard in [false, true] {
        pair.expire(true, (&stranger, spis[0]), hard);
        pair.expire(true, (&owner, 0x0bad_0bad), hard);
    }
    pair.run(SOON);
    assert_eq!((pair.sent.len(), pair.client.rekeyed()), (sent, 0));
    // Of one that has been replaced.
    pair.command(&Command::RekeyChild("home".into(), None))
        .expect("is up");
    pair.run(SOON);
    for hard in [false, true] {
        pair.expire(true, (&owner, spis[0]), hard);
    }
    pair.run(SOON);
    assert_eq!((pair.client.rekeyed(), pair.gateway.rekeyed()), (1, 1));
    assert!(pair.keys_agree());
    assert_eq!(pair.client.established().len(), 1);
}

#[test]
fn the_end_of_the_only_one_ends_its_ike_sa_as_the_end_of_its_time_does() {
    let mut pair = Pair::limited(6);
    let (owner, spis) = pair.client.states();
    for spi in spis {
        pair.expire(true, (&owner, spi), true);
    }
    pair.run(SOON);
    assert!(pair.client.established().is_empty() && pair.gateway.established().is_empty());
    assert!(pair.client.kernel.inbound().is_empty());
}
