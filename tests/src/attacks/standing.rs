//! What has to stand whatever comes in: the size of the gate's maps, the octets sent back, the log, and
//! good tickets while their keys change. Each is put under a mixture of floods.

use std::thread;

use anyhow::{Result, anyhow};

use super::{
    Attack, Loot, USUAL,
    parsing::unknown_spi,
    scene::{LASTS, Scene},
    verdict::Metric,
};

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            number: 21,
            what: "the gate's maps: a mixture of first messages, from anywhere, 40,000 a second",
            metric: Metric::MapGrowth,
            play: mixture,
            ..USUAL
        },
        Attack {
            number: 22,
            what: "reflection: a mixture of all that may be answered, from anywhere, 40,000 a second",
            metric: Metric::OctetsBack,
            play: mixture,
            ..USUAL
        },
        Attack {
            number: 30,
            what: "three new ticket keys under forged tickets and IKE_SA_INIT, 40,000 a second",
            metric: Metric::Rejects,
            play: rotations,
            ..USUAL
        },
        Attack {
            number: 33,
            what: "the log: one captured ticket and the mixture in turns, 10,000 a second",
            metric: Metric::Log(LOG_OCTETS),
            loot: Loot::Stolen,
            play: noise,
            ..USUAL
        },
    ]
}

/// IKE_SA_INIT, forged tickets, requests for SAs that are not there.
fn mixture(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?;
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        let message = match chance.below(3) {
            0 => scene.login.another(chance),
            1 => {
                let mut message = scene.resume.another(chance);
                // The key id stays, or most would be told apart by that alone.
                chance.fill(&mut message[ticket.start + NAMES..ticket.end]);
                message
            }
            _ => unknown_spi(chance),
        };
        wrapping.ike(&message)
    })
}

fn rotations(scene: &Scene<'_>) -> Result<u64> {
    thread::scope(|scope| {
        let flood = scope.spawn(|| mixture(scene));
        for _ in 0..ROTATIONS {
            thread::sleep(LASTS / (ROTATIONS + 1));
            scene.gateway.ikectl("ticket rotate")?;
        }
        flood.join().map_err(|_| anyhow!("the flood panicked"))?
    })
}

fn noise(scene: &Scene<'_>) -> Result<u64> {
    let (stolen, ticket) = (scene.stolen()?, scene.resume.ticket()?);
    scene.flood(NOISE_PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        let message = match chance.below(4) {
            0 => scene.login.another(chance),
            1 => {
                let mut message = scene.resume.another(chance);
                chance.fill(&mut message[ticket.start + NAMES..ticket.end]);
                message
            }
            2 => unknown_spi(chance),
            _ => stolen.another(chance),
        };
        wrapping.ike(&message)
    })
}

const PER_SECOND: u32 = 40_000;
const NOISE_PER_SECOND: u32 = 10_000;
const ROTATIONS: u32 = 3;
/// A line of a hundred octets in a second for each of forty reasons.
const LOG_OCTETS: u32 = 4000;
/// Octets of a ticket that name its kind and its key.
const NAMES: usize = 4;
