//! Random operations of both operators, and moves of the client, in random weather: whatever they do,
//! when they stop and the weather clears both sides and both kernels agree.

use std::{env, time::Duration};

use ike::{io::Command, view::SaState};

use crate::{
    bed::{Pair, Rng, Weather},
    roaming::{PLACES, plain_client, roaming_client},
    several,
    sides::gateway_side,
};

const SEEDS: u64 = 2000;
/// In a full run.
const ALL_SEEDS: u64 = 10_000;
/// Beyond the first ones, what has ended badly before.
const ONCE_WRONG: [u64; 2] = [3783, 6599];
const STEPS: u64 = 12;

fn step(pair: &mut Pair, rng: &mut Rng, several: bool) -> String {
    let (home, rw) = ("home".into(), "rw".into());
    let child = ["net", "lab", "six"][rng.below(3) as usize].into();
    // What cannot be done now is refused, and that is an outcome too.
    if rng.below(11) == 0 {
        let to = PLACES[rng.below(3) as usize];
        pair.relocate(to);
        let pause = rng.below(5000);
        pair.run(Duration::from_millis(pause));
        return format!("client goes to {to}, then {pause} ms");
    }
    let (who, command) = match rng.below(if several { 15 } else { 10 }) {
        0 => ("client", Command::Up(home)),
        1 | 2 => ("client", Command::Rekey(home)),
        3 | 4 => ("client", Command::RekeyChild(home, None)),
        5 => ("client", Command::Suspend(home)),
        6 => ("client", Command::Down(home)),
        7 => ("gateway", Command::Rekey(rw)),
        8 => ("gateway", Command::RekeyChild(rw, None)),
        10 => ("client", Command::UpChild(home, child)),
        11 => ("client", Command::DownChild(home, child)),
        12 => ("client", Command::RekeyChild(home, Some(child))),
        13 => ("gateway", Command::DownChild(rw, child)),
        14 => ("gateway", Command::UpChild(rw, child)),
        _ => ("gateway", Command::Down(rw)),
    };
    let result = if who == "client" {
        pair.command(&command)
    } else {
        pair.gateway_tries(&command)
    };
    let pause = match rng.below(3) {
        0 => 0,
        1 => rng.below(60),
        _ => rng.below(5000),
    };
    pair.run(Duration::from_millis(pause));
    format!("{who} {command:?}: {result:?}, then {pause} ms")
}

/// Both sides have the same SAs, and each kernel has what its side says and nothing else.
fn agree(pair: &Pair) -> Result<(), String> {
    let (c, g) = (pair.client.established(), pair.gateway.established());
    let deleting = |node: &crate::bed::Node| {
        let sas = node.endpoint.sas(pair.now);
        sas.iter()
            .any(|sa| !matches!(sa.state, SaState::Established | SaState::Suspended))
    };
    let bare = pair.client.kernel.inbound().is_empty() && pair.gateway.kernel.inbound().is_empty();
    let none = |sa: &ike::view::SaView| sa.children.is_empty();
    let same = match (c.as_slice(), g.as_slice()) {
        ([], []) => bare,
        ([c], [g]) if none(c) && none(g) => c.spis == g.spis && bare,
        ([c], [g]) => c.spis == g.spis && pair.keys_agree() && pair.paths_agree(),
        _ => false,
    };
    if same && !deleting(&pair.client) && !deleting(&pair.gateway) {
        return Ok(());
    }
    let sides = [&pair.client, &pair.gateway].map(|node| {
        let sas = node.endpoint.sas(pair.now).into_iter();
        let brief = |sa: ike::view::SaView| {
            let children: Vec<_> = sa.children.iter().map(|c| (c.spi_in, c.spi_out)).collect();
            format!("{} {:?} {:02x?} {children:x?}", sa.id, sa.state, sa.spis)
        };
        let sas: Vec<_> = sas.map(brief).collect();
        format!("{sas:#?}\n{:x?}\n{:#?}", node.kernel.inbound(), node.events)
    });
    Err(sides.join("\n"))
}

fn story(seed: u64, several: bool) -> Result<bool, String> {
    let mut rng = Rng(seed ^ 0x5eed);
    let client = if seed.is_multiple_of(4) {
        plain_client
    } else {
        roaming_client
    };
    let mut pair = if several {
        Pair::roaming_with(seed, several::roaming_client, several::gateway)
    } else {
        Pair::roaming_with(seed, client, gateway_side)
    };
    pair.up();
    pair.run(Duration::from_secs(1));
    pair.weather = Weather {
        loss: seed % 16,
        duplicate: seed % 11,
        reorder: seed % 40,
    };
    let mut told = Vec::new();
    for _ in 0..STEPS {
        told.push(step(&mut pair, &mut rng, several));
    }
    pair.weather = Weather::default();
    // As long as the slower of two sides needs to find out that the other has gone.
    pair.run(Duration::from_mins(4));
    agree(&pair).map_err(|why| format!("{}\n{why}", told.join("\n")))?;
    // And wherever it has come to, it can go on from there.
    let up = pair.keys_agree();
    if !up {
        let _up_already = pair.command(&Command::Up("home".into()));
        pair.run(Duration::from_secs(5));
    }
    if !(pair.keys_agree() && pair.paths_agree()) {
        return Err(format!("{}\nand does not come up again", told.join("\n")));
    }
    Ok(up)
}

fn all_stories(several: bool) {
    let seeds = if env::var_os("REKINDLE_FULL").is_some() {
        ALL_SEEDS
    } else {
        SEEDS
    };
    let mut up = 0;
    for seed in (0..seeds).chain(ONCE_WRONG) {
        match story(seed, several) {
            Ok(was_up) => up += u64::from(was_up),
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    println!("{seeds} seeds, {up} of them up in the end");
    assert!(up > seeds / 10 && up < seeds);
}

#[test]
fn whatever_operators_do_both_sides_and_both_kernels_agree_in_the_end() {
    all_stories(false);
}

#[test]
fn and_so_they_do_about_several_child_sas() {
    all_stories(true);
}
