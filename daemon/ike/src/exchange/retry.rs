//! What a peer means by refusing a CREATE_CHILD_SA, and when it is asked again (RFC 7296, 1.3 and 2.25).

use std::time::Duration;

use super::chance_between;
use crate::{
    io::Env,
    wire::{notify::NotifyKind, payload::Chain},
};

/// A peer that is busy is not asked again at once.
const TEMPORARY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(15));
/// What it has lost is made anew soon; and what we are busy with ourselves is over soon.
const SOON: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Its limit is not likely to change soon.
const SATED: (Duration, Duration) = (Duration::from_mins(4), Duration::from_mins(5));
/// Anything else is asked for again, for a configuration may change.
const FINAL: (Duration, Duration) = (Duration::from_secs(50), Duration::from_mins(1));

/// Why not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// Not now.
    Temporary,
    /// We have not even asked: something else is under way.
    NotYet,
    /// There is no such Child SA.
    NotFound,
    /// It makes nothing new on this IKE SA.
    NoMore,
    /// It does not want to.
    Final,
}

impl Refusal {
    pub(crate) fn of(chain: &Chain<'_>) -> Self {
        let says = |kind| chain.notifies().any(|notify| notify.kind == kind);
        if says(NotifyKind::TEMPORARY_FAILURE) {
            Self::Temporary
        } else if says(NotifyKind::CHILD_SA_NOT_FOUND) {
            Self::NotFound
        } else if says(NotifyKind::NO_ADDITIONAL_SAS) {
            Self::NoMore
        } else {
            Self::Final
        }
    }

    /// How long to wait before the peer is asked again, by chance, for it may be waiting for us.
    pub(crate) fn wait(self, env: &mut dyn Env) -> Duration {
        let bounds = match self {
            Self::Temporary => TEMPORARY,
            Self::NotFound | Self::NotYet => SOON,
            Self::NoMore => SATED,
            Self::Final => FINAL,
        };
        chance_between(bounds, env)
    }
}
