//! Attackers who can be answered, and so get past every cookie: they hoard half-open SAs, send junk to
//! those that they have, or try to get many for one cookie.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use gate_abi::{cookie::COOKIE_LEN, frames::Message, ike::FLAG_INITIATOR};
use ike::Settings;

use super::{
    Attack, Loot, NEARLY_ALL, USUAL,
    bots::{Accepted, Bots, Pacer, address_of, cookie_of, half_open, with_cookie},
    recorded::SPI,
    scene::{LASTS, Scene},
    tickets::{HALF_OPEN_PER_TICKET, OTHERS},
    verdict::Metric,
};
use crate::chance::Chance;

pub(super) fn attacks() -> Vec<Attack> {
    let all = Settings::default().max_half_open as u64;
    vec![
        Attack {
            number: 2,
            what: "IKE_SA_INIT of 500 bots that answer cookies, 5,000 a second",
            metric: Metric::HalfOpen(all),
            success: NEARLY_ALL,
            play: botnet,
            ..USUAL
        },
        Attack {
            number: 10,
            what: "resumptions of one device with its own ticket, again and again, 2,000 a second; \
                   it answers cookies",
            metric: Metric::HalfOpen(HALF_OPEN_PER_TICKET + OTHERS),
            loot: Loot::Own,
            play: hoarder,
            ..USUAL
        },
        Attack {
            number: 11,
            what: "junk in place of IKE_AUTH, 20 messages for each of 100 half-open SAs a second (that \
                   keys are derived once for each is shown by a pair of cores)",
            play: junk,
            ..USUAL
        },
        Attack {
            number: 12,
            what: "half-open SAs of 2,000 bots that answer cookies: 8,192, then slowly 400 a second",
            metric: Metric::HalfOpen(all),
            success: NEARLY_ALL,
            play: slowly,
            ..USUAL
        },
        Attack {
            number: 20,
            what: "one cookie for other SPIs, nonces, addresses and exchanges, 10,000 a second",
            metric: Metric::Opened(1),
            loot: Loot::Own,
            flood: "attack",
            play: launderer,
            ..USUAL
        },
    ]
}

fn botnet(scene: &Scene<'_>) -> Result<u64> {
    let mut bots = Bots::gather(scene)?;
    bots.attack(
        BOTNET_PER_SECOND,
        LASTS,
        |chance| (any_of(BOTS, chance), scene.login.another(chance)),
        |_, _, _| Ok(()),
    )?;
    Ok(bots.sent())
}

fn slowly(scene: &Scene<'_>) -> Result<u64> {
    let mut bots = Bots::gather(scene)?;
    for (per_second, lasts) in [(FILL_PER_SECOND, FILL), (SLOWLY_PER_SECOND, SLOWLY)] {
        bots.attack(
            per_second,
            lasts,
            |chance| (any_of(MANY_BOTS, chance), scene.login.another(chance)),
            |_, _, _| Ok(()),
        )?;
    }
    Ok(bots.sent())
}

fn any_of(bots: u16, chance: &mut Chance) -> Ipv4Addr {
    address_of(chance.below(bots.into()) as u16)
}

fn hoarder(scene: &Scene<'_>) -> Result<u64> {
    let own = scene.stolen()?;
    let mut bots = Bots::gather(scene)?;
    bots.attack(
        HOARD_PER_SECOND,
        LASTS,
        |chance| (address_of(0), own.another(chance)),
        |_, _, _| Ok(()),
    )?;
    Ok(bots.sent())
}

fn junk(scene: &Scene<'_>) -> Result<u64> {
    let mut bots = Bots::gather(scene)?;
    bots.attack(
        JUNK_PER_SECOND,
        LASTS,
        |chance| (any_of(BOTS, chance), scene.login.another(chance)),
        |bots, chance, sa| {
            for _ in 0..JUNK {
                bots.send(sa.source, &ike_auth(sa, chance))?;
            }
            Ok(())
        },
    )?;
    Ok(bots.sent())
}

/// What nobody can open: as long as a genuine one.
fn ike_auth(sa: &Accepted, chance: &mut Chance) -> Vec<u8> {
    let mut sealed = [0; SEALED];
    chance.fill(&mut sealed);
    let message = Message {
        spi_i: u64::from_be_bytes(sa.spi_i),
        spi_r: u64::from_be_bytes(sa.spi_r),
        version: 0x20,
        exchange: IKE_AUTH,
        flags: FLAG_INITIATOR,
        message_id: 1,
        payloads: Vec::new(),
    };
    message.with(ENCRYPTED, &sealed).octets()
}

/// Gets a cookie as everybody may, and shows it with everything but what it is for. What it is for
/// comes among them, as a repetition.
fn launderer(scene: &Scene<'_>) -> Result<u64> {
    let (own, other) = (address_of(0), address_of(1));
    let ticket = scene.stolen()?;
    let mut chance = Chance::fresh();
    let mut bots = Bots::gather(scene)?;
    let honest = scene.login.another(&mut chance);
    bots.send(own, &honest)?;
    let cookie = first_cookie(&bots)?;
    let (mut opened, mut pace) = (BTreeSet::new(), Pacer::new(LAUNDER_PER_SECOND));
    while pace.elapsed() < LASTS {
        let mut of_other_spi = honest.clone();
        chance.fill(&mut of_other_spi[..SPI]);
        let mut of_other_nonce = scene.login.another(&mut chance);
        of_other_nonce[..SPI].copy_from_slice(&honest[..SPI]);
        let mut resumption = ticket.another(&mut chance);
        resumption[..SPI].copy_from_slice(&honest[..SPI]);
        for (source, message) in [
            (own, &of_other_spi),
            (own, &of_other_nonce),
            (own, &resumption),
            (other, &honest),
            (own, &honest),
        ] {
            bots.send(source, &with_cookie(message, &cookie))?;
            pace.wait();
        }
        while let Some((to, message)) = bots.answer()? {
            opened.extend(half_open(to, &message).map(|sa| sa.spi_r));
        }
    }
    scene.let_in(opened.len() as u64);
    Ok(bots.sent())
}

/// What the gateway asks for; anything, if it asks for nothing.
fn first_cookie(bots: &Bots<'_>) -> Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some((_, message)) = bots.answer()? {
            return Ok(cookie_of(&message).unwrap_or(&[1; COOKIE_LEN]).to_vec());
        }
        thread::sleep(TICK);
    }
    bail!("no answer to the first message")
}

const BOTS: u16 = 500;
const BOTNET_PER_SECOND: u32 = 5000;
const MANY_BOTS: u16 = 2000;
/// So many a second for so long, to have all slots; then slowly, to keep them.
const FILL_PER_SECOND: u32 = 4000;
const FILL: Duration = Duration::from_millis(2500);
const SLOWLY_PER_SECOND: u32 = 400;
const SLOWLY: Duration = Duration::from_secs(5);
const HOARD_PER_SECOND: u32 = 2000;

const JUNK_PER_SECOND: u32 = 100;
/// Messages for each SA.
const JUNK: u32 = 20;
const LAUNDER_PER_SECOND: u32 = 10_000;
const IKE_AUTH: u8 = 35;
/// Payload type Encrypted and Authenticated.
const ENCRYPTED: u8 = 46;
/// An IV, as much as identities, proofs and proposals take, and an ICV.
const SEALED: usize = 8 + 240 + 16;
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);
