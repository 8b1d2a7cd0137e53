//! Floods of first messages: genuine ones, of which the sender may have said whence they come or not.

use anyhow::Result;

use super::{
    Attack, NEARLY_ALL, USUAL,
    scene::{Cable, Scene},
    tickets::forge,
};

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            number: 1,
            what: "IKE_SA_INIT, from anywhere, 40,000 a second",
            success: NEARLY_ALL,
            play: from_anywhere,
            ..USUAL
        },
        Attack {
            number: 32,
            what: "IKE_SA_INIT and forged tickets from one address and port, into the queue that the \
                   client's packets go to as well, 40,000 a second",
            play: into_one_queue,
            ..USUAL
        },
    ]
}

fn from_anywhere(scene: &Scene<'_>) -> Result<u64> {
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.ike(&scene.login.another(chance))
    })
}

fn into_one_queue(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?.start;
    scene.flood_by(Cable::Clients, PER_SECOND, |wrapping, chance| {
        let message = if chance.below(2) == 0 {
            scene.login.another(chance)
        } else {
            forge(scene.resume.another(chance), ticket, chance)
        };
        wrapping.ike(&message)
    })
}

/// What the client has to survive.
const PER_SECOND: u32 = 40_000;
