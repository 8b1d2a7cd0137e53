//! Floods of IKE_SA_INIT: genuine ones, of which the sender may have said whence they come or not.

use anyhow::Result;

use super::{Attack, scene::Scene, verdict::Metric};

pub(super) fn attacks() -> Vec<Attack> {
    vec![Attack {
        number: 1,
        what: "IKE_SA_INIT, from anywhere, 40,000 a second",
        metric: Metric::LegitSuccess,
        robs: false,
        play: from_anywhere,
    }]
}

fn from_anywhere(scene: &Scene<'_>) -> Result<u64> {
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.ike(&scene.login.another(chance))
    })
}

/// What the client has to survive.
const PER_SECOND: u32 = 40_000;
