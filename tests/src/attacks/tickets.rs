//! Floods of IKE_SESSION_RESUME: tickets that nobody issued, that an unknown key sealed, that somebody
//! has bent, and one that is genuine and not the sender's own.

use std::ops::Range;

use anyhow::Result;
use gate_abi::{
    defence::Budget,
    ticket::{ENVELOPE_LEN, TAG_OFFSET},
};

use super::{Attack, scene::Scene, verdict::Metric};

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            number: 3,
            what: "forged tickets, from anywhere, 40,000 a second",
            metric: Metric::BodiesOpened(0),
            robs: false,
            play: forged_from_anywhere,
        },
        Attack {
            number: 4,
            what: "forged tickets, from one address, 40,000 a second",
            metric: Metric::Nacks(Budget::TagWrong),
            robs: false,
            play: forged_from_one,
        },
        Attack {
            number: 5,
            what: "one captured ticket again and again, from anywhere, 10,000 a second",
            metric: Metric::HalfOpen(HALF_OPEN_PER_TICKET + OTHERS),
            robs: true,
            play: replayed,
        },
        Attack {
            number: 8,
            what: "tickets of a key that is not there, from one address, 40,000 a second",
            metric: Metric::Nacks(Budget::UnknownKeyId),
            robs: false,
            play: unknown_key,
        },
        Attack {
            number: 9,
            what: "one captured ticket with a bit flipped anywhere, from one address, 10,000 a second",
            metric: Metric::BodiesOpened(OPENS_PER_TICKET),
            robs: true,
            play: flipped,
        },
    ]
}

fn forged_from_anywhere(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?.start;
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        let mut message = scene.resume.another(chance);
        for range in [ENVELOPE_NONCE, TAG] {
            chance.fill(&mut message[ticket + range.start..ticket + range.end]);
        }
        wrapping.ike(&message)
    })
}

fn forged_from_one(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?.start;
    scene.flood(PER_SECOND, |wrapping, chance| {
        let mut message = scene.resume.another(chance);
        for range in [ENVELOPE_NONCE, TAG] {
            chance.fill(&mut message[ticket + range.start..ticket + range.end]);
        }
        wrapping.ike(&message)
    })
}

fn replayed(scene: &Scene<'_>) -> Result<u64> {
    let stolen = scene.stolen()?;
    scene.flood(REPLAYS_PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.ike(&stolen.another(chance))
    })
}

fn unknown_key(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?.start;
    scene.flood(PER_SECOND, |wrapping, chance| {
        let mut message = scene.resume.another(chance);
        // The gateway has one key; its successors count up from it.
        message[ticket + KEY_ID] ^= 0x80;
        chance.fill(&mut message[ticket + TAG.start..ticket + TAG.end]);
        wrapping.ike(&message)
    })
}

fn flipped(scene: &Scene<'_>) -> Result<u64> {
    let stolen = scene.stolen()?;
    let ticket = stolen.ticket()?;
    let mut envelope = false;
    scene.flood(REPLAYS_PER_SECOND, |wrapping, chance| {
        let mut message = stolen.another(chance);
        // In turns where the tag covers it and where it does not.
        envelope = !envelope;
        let at = if envelope {
            chance.below(ENVELOPE_LEN)
        } else {
            ENVELOPE_LEN + chance.below(ticket.len() - ENVELOPE_LEN)
        };
        message[ticket.start + at] ^= 1 << chance.below(8);
        wrapping.ike(&message)
    })
}

const PER_SECOND: u32 = 40_000;
/// Each of these costs the daemon an AEAD operation if it gets that far.
const REPLAYS_PER_SECOND: u32 = 10_000;
/// In a ticket.
const KEY_ID: usize = 1;
const ENVELOPE_NONCE: Range<usize> = 4..16;
const TAG: Range<usize> = TAG_OFFSET..ENVELOPE_LEN;
const HALF_OPEN_PER_TICKET: u64 = 8;
/// Half-open SAs of the client and of the one whose ticket it is.
const OTHERS: u64 = 2;
/// 3, and 1 in every 5 s: that is 1 while an attack lasts.
const OPENS_PER_TICKET: u64 = 3 + 1;
