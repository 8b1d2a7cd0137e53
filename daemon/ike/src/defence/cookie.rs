//! Cookies of the responder (RFC 7296, 2.6): made and checked without memory of the client. Layout
//! and tag are the gate's; this file adds the secret's rotation and the cookie's age.

use std::net::{IpAddr, SocketAddr};

use gate_abi::{
    cookie::{self, COOKIE_LEN, CookieInput},
    sip::{SipKey, siphash24},
};

use crate::{
    io::{Env, Path, Stamp},
    wire::header::{Exchange, Spi},
};

/// A cookie is good for this long.
pub const COOKIE_LIFE_SECS: u16 = 30;
/// The secret is replaced after this long; the previous one stays good for a cookie's life.
const SECRET_LIFE_SECS: u64 = 120;

/// Makes and checks cookies under a secret of its own.
#[derive(Debug)]
pub struct CookieJar {
    epoch: u8,
    since: u64,
    current: SipKey,
    previous: SipKey,
}

/// What a cookie is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Where the message came from and went to.
    pub path: &'a Path,
    /// SPIi.
    pub spi_i: Spi,
    /// Ni; never shorter than 16 octets.
    pub ni: &'a [u8],
    /// Which first exchange.
    pub exchange: Exchange,
    /// Envelope tag of the ticket, 0 without one.
    pub ticket_tag: u64,
}

impl CookieJar {
    /// A jar with a fresh secret.
    #[must_use]
    pub fn new(now: Stamp, env: &mut dyn Env) -> Self {
        let (current, previous) = (fresh(env), fresh(env));
        Self {
            epoch: 0,
            since: now.boot.as_secs(),
            current,
            previous,
        }
    }

    /// A cookie for this message.
    pub fn make(&mut self, bound: &Bound<'_>, now: Stamp, env: &mut dyn Env) -> [u8; COOKIE_LEN] {
        let seconds = now.boot.as_secs();
        if seconds.saturating_sub(self.since) >= SECRET_LIFE_SECS {
            self.previous = std::mem::replace(&mut self.current, fresh(env));
            self.epoch = self.epoch.wrapping_add(1);
            self.since = seconds;
        }
        cookie::make(
            self.epoch,
            0,
            seconds as u16,
            [0; 4],
            &input(bound),
            &self.current,
        )
    }

    /// Whether the octets are a cookie of ours for this message, not too old.
    #[must_use]
    pub fn is_good(&self, octets: &[u8], bound: &Bound<'_>, now: Stamp) -> bool {
        let Ok(octets) = <[u8; COOKIE_LEN]>::try_from(octets) else {
            return false;
        };
        let key = match self.epoch.wrapping_sub(cookie::epoch_of(&octets)) {
            0 => &self.current,
            1 => &self.previous,
            _ => return false,
        };
        let age = (now.boot.as_secs() as u16).wrapping_sub(cookie::time_of(&octets));
        age <= COOKIE_LIFE_SECS && cookie::check(&octets, &input(bound), key)
    }
}

fn fresh(env: &mut dyn Env) -> SipKey {
    let mut key = [0; 16];
    env.random(&mut key);
    SipKey::from_octets(key)
}

fn input(bound: &Bound<'_>) -> CookieInput {
    let mut nonce_head = [0; 16];
    for (to, from) in nonce_head.iter_mut().zip(bound.ni) {
        *to = *from;
    }
    CookieInput {
        spi_i: bound.spi_i,
        source: mapped(bound.path.remote.ip()),
        nonce_head,
        ticket_tag: bound.ticket_tag,
        exchange: bound.exchange.number(),
        destination_digest: digest(bound.path.local),
    }
}

/// The address as 16 octets, IPv4 mapped into IPv6.
#[must_use]
pub const fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn digest(local: SocketAddr) -> u64 {
    let mut octets = mapped(local.ip()).to_vec();
    octets.extend_from_slice(&local.port().to_be_bytes());
    siphash24(&SipKey { k0: 0, k1: 0 }, &octets)
}
