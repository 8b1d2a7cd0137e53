//! Floods of IKE_SESSION_RESUME: tickets that nobody issued, that an unknown key sealed, that somebody
//! has bent, and one that is genuine and not the sender's own.

use std::{
    fs,
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use gate_abi::{
    defence::Budget,
    ticket::{ENVELOPE_LEN, TAG_OFFSET},
};
use ike::{
    io::TicketRoot,
    ticket::{Keyring, Label},
};
use rekindled::tickets::{Ring, RingOptions};

use super::{
    Attack, Loot, USUAL,
    scene::{NODE, Scene},
    verdict::Metric,
};
use crate::chance::Chance;

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        Attack {
            number: 3,
            what: "forged tickets, from anywhere, 40,000 a second",
            metric: Metric::BodiesOpened(0),
            play: forged_from_anywhere,
            ..USUAL
        },
        Attack {
            number: 4,
            what: "forged tickets, from one address, 40,000 a second",
            metric: Metric::Nacks(Budget::TagWrong),
            play: forged_from_one,
            ..USUAL
        },
        Attack {
            number: 5,
            what: "one captured ticket again and again, from anywhere, 10,000 a second",
            metric: Metric::HalfOpen(HALF_OPEN_PER_TICKET + OTHERS),
            loot: Loot::Stolen,
            play: replayed,
            ..USUAL
        },
        Attack {
            number: 7,
            what: "a genuine ticket that expired ten minutes ago, from one address, 40,000 a second",
            metric: Metric::Nacks(Budget::Expired),
            loot: Loot::Own,
            play: expired,
            ..USUAL
        },
        Attack {
            number: 8,
            what: "tickets of a key that is not there, from one address, 40,000 a second",
            metric: Metric::Nacks(Budget::UnknownKeyId),
            play: unknown_key,
            ..USUAL
        },
        Attack {
            number: 9,
            what: "one captured ticket with a bit flipped anywhere, from one address, 10,000 a second",
            metric: Metric::BodiesOpened(OPENS_PER_TICKET),
            loot: Loot::Stolen,
            play: flipped,
            ..USUAL
        },
    ]
}

fn forged_from_anywhere(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?.start;
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.forge_source(chance);
        wrapping.ike(&forge(scene.resume.another(chance), ticket, chance))
    })
}

fn forged_from_one(scene: &Scene<'_>) -> Result<u64> {
    let ticket = scene.resume.ticket()?.start;
    scene.flood(PER_SECOND, |wrapping, chance| {
        wrapping.ike(&forge(scene.resume.another(chance), ticket, chance))
    })
}

/// With a ticket that nobody has issued in the place of the one that begins at `ticket`.
pub(super) fn forge(mut message: Vec<u8>, ticket: usize, chance: &mut Chance) -> Vec<u8> {
    for range in [ENVELOPE_NONCE, TAG] {
        chance.fill(&mut message[ticket + range.start..ticket + range.end]);
    }
    message
}

fn expired(scene: &Scene<'_>) -> Result<u64> {
    let own = scene.stolen()?;
    let place = own.ticket()?;
    let fresh = own.another(&mut Chance::fresh());
    let expired = expired_since(scene, &fresh[place.clone()])?;
    scene.flood(PER_SECOND, |wrapping, chance| {
        let mut message = own.another(chance);
        message[place.clone()].copy_from_slice(&expired);
        wrapping.ike(&message)
    })
}

/// The same ticket as the gateway would have sealed it [`OVER_FOR`] before its end. Nobody waits for one
/// to expire: the keys are in a copy of the gateway's own ring.
fn expired_since(scene: &Scene<'_>, ticket: &[u8]) -> Result<Vec<u8>> {
    let (state, copy) = (
        scene.gateway.folder().join("state"),
        scene.gateway.folder().join("copy"),
    );
    fs::create_dir_all(&copy)?;
    for file in fs::read_dir(&state)? {
        let file = file?;
        if file.file_type()?.is_file() {
            fs::copy(file.path(), copy.join(file.file_name()))?;
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let options = RingOptions {
        ticket_seconds: OVER_FOR,
        strict_after_power_loss: false,
    };
    let (ring, _) = Ring::open(&copy, options, [0; 16], now)?;
    let mut keyring = Keyring::new(NODE);
    for (key_id, root, _) in ring.epochs() {
        keyring.add(&TicketRoot { key_id, root });
    }
    let opened = keyring.open(ticket, now, |_| None);
    let opened = opened.map_err(|why| anyhow!("the ticket does not open: {}", why.word()))?;
    let label = Label {
        name: opened.name,
        expiry: now - OVER_FOR,
        no_cookie: false,
    };
    let mut nonce = [0; 12];
    Chance::fresh().fill(&mut nonce);
    let sealed = keyring
        .seal(label, nonce, &opened.state)
        .context("a ticket")?;
    ensure!(sealed.len() == ticket.len(), "another length");
    Ok(sealed)
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
/// Seconds.
const OVER_FOR: u64 = 600;
/// In a ticket.
const KEY_ID: usize = 1;
const ENVELOPE_NONCE: Range<usize> = 4..16;
const TAG: Range<usize> = TAG_OFFSET..ENVELOPE_LEN;
pub(super) const HALF_OPEN_PER_TICKET: u64 = 8;
/// Half-open SAs of clients at the moment of the count, and of the one whose ticket it is.
pub(super) const OTHERS: u64 = 4;
/// 3, and 1 in every 5 s: that is 1 while an attack lasts.
const OPENS_PER_TICKET: u64 = 3 + 1;
