//! Handshake, suspend, restart, resume under a thousand kinds of ill luck.

use std::time::Duration;

use ike::io::{Command, Event};

use crate::bed::{Pair, Weather};

const SEEDS: u64 = 1000;

/// How one story ended.
#[derive(Debug, Eq, PartialEq)]
enum End {
    /// One SA on each side, keys equal.
    Up,
    /// No SA on either side, and the client has said why.
    CleanFailure,
    /// Anything else.
    Broken(String),
}

fn weather(seed: u64) -> Weather {
    Weather {
        loss: seed % 21,
        duplicate: seed % 15,
        reorder: seed % 30,
    }
}

/// Lets the storm rage for at most five minutes, and stops as soon as the ends agree.
fn settle(pair: &mut Pair) -> End {
    for _ in 0..300 {
        pair.run(Duration::from_secs(1));
        if pair.keys_agree() && pair.gateway.endpoint.half_open() == 0 {
            return End::Up;
        }
        let failed = |e: &Event| matches!(e, Event::UpFailed { .. });
        if pair.client.events.iter().any(failed) && pair.client.established().is_empty() {
            // What the gateway still has, its timers take away.
            pair.run(Duration::from_mins(2));
            return if pair.gateway.established().is_empty() {
                End::CleanFailure
            } else {
                End::Broken(format!("gateway holds on: {:?}", pair.gateway.events))
            };
        }
    }
    End::Broken(format!(
        "{:?} / {:?}",
        pair.client.events, pair.gateway.events
    ))
}

fn story(seed: u64) -> End {
    let mut pair = Pair::new(seed);
    pair.weather = weather(seed);
    pair.up();
    match settle(&mut pair) {
        End::Up => {}
        end => return end,
    }
    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.client.events.clear();
    if let Err(refused) = pair.command(&Command::Up("home".into())) {
        return End::Broken(format!("up refused: {refused}"));
    }
    settle(&mut pair)
}

#[test]
fn nearly_all_seeds_end_in_one_sa_and_the_rest_fail_cleanly() {
    let mut up = 0;
    for seed in 0..SEEDS {
        match story(seed) {
            End::Up => up += 1,
            End::CleanFailure => {}
            End::Broken(why) => panic!("seed {seed} with {:?}: {why}", weather(seed)),
        }
    }
    println!("{up} of {SEEDS} seeds end in one SA with equal keys");
    assert!(up * 100 >= SEEDS * 99, "{up} of {SEEDS}");
}

#[test]
fn a_seed_replays_bit_for_bit() {
    let run = || {
        let mut pair = Pair::new(77);
        pair.weather = Weather {
            loss: 20,
            duplicate: 10,
            reorder: 20,
        };
        pair.up();
        pair.run(Duration::from_secs(40));
        pair.sent
            .into_iter()
            .map(|sent| sent.message)
            .collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
