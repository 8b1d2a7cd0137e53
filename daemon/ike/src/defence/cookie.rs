//! Cookies of the responder (RFC 7296, 2.6): made and checked without memory of the client. Layout,
//! tag and life are the gate's; this file adds where the secrets come from. Every secret follows from
//! one that the node keeps, the boot and the time, so gate, keeper and every engine have the same ones
//! without telling each other.

use std::{fmt, net::IpAddr};

use gate_abi::{
    cookie::{self, COOKIE_LEN, CookieInput},
    sip::SipKey,
};
use ring::hkdf;
use zeroize::Zeroize;

use crate::{
    crypto::Secret,
    io::{Path, Stamp},
    wire::header::{Exchange, Spi},
};

/// Makes the secret of every interval of one boot.
pub struct CookieSecrets {
    root: hkdf::Prk,
    boot_id: [u8; 16],
}

impl fmt::Debug for CookieSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieSecrets(..)")
    }
}

impl CookieSecrets {
    /// From a secret of this node and the kernel's name for this boot, since the boot clock begins
    /// anew with each.
    #[must_use]
    pub fn new(node_secret: &Secret, boot_id: [u8; 16]) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"rekindle cookie");
        Self {
            root: salt.extract(node_secret.expose()),
            boot_id,
        }
    }

    /// The secret of an interval ([`cookie::interval_at`]).
    #[must_use]
    pub fn of_interval(&self, interval: u64) -> SipKey {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                16
            }
        }
        let number = interval.to_be_bytes();
        let info = [&self.boot_id[..], &number];
        let mut octets = [0; 16];
        // Fails only for more than 255 hash lengths.
        let filled = self
            .root
            .expand(&info, Len)
            .and_then(|out| out.fill(&mut octets));
        debug_assert!(filled.is_ok(), "16 octets");
        let key = SipKey::from_octets(octets);
        octets.zeroize();
        key
    }
}

/// Makes and checks cookies.
#[derive(Debug)]
pub struct CookieJar {
    secrets: CookieSecrets,
    interval: u64,
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
    /// A jar with the secrets of this moment.
    #[must_use]
    pub fn new(secrets: CookieSecrets, now: Stamp) -> Self {
        let interval = cookie::interval_at(now.boot.as_secs());
        Self {
            interval,
            current: secrets.of_interval(interval),
            previous: secrets.of_interval(interval.wrapping_sub(1)),
            secrets,
        }
    }

    /// A cookie for this message.
    pub fn make(&mut self, bound: &Bound<'_>, now: Stamp) -> [u8; COOKIE_LEN] {
        self.turn(now);
        let seconds = now.boot.as_secs();
        let epoch = cookie::epoch_of_interval(self.interval);
        cookie::make(
            epoch,
            0,
            seconds as u16,
            [0; 4],
            &input(bound),
            &self.current,
        )
    }

    /// Whether the octets are a cookie of ours for this message, not too old.
    pub fn is_good(&mut self, octets: &[u8], bound: &Bound<'_>, now: Stamp) -> bool {
        self.turn(now);
        let Ok(octets) = <[u8; COOKIE_LEN]>::try_from(octets) else {
            return false;
        };
        let epoch = cookie::epoch_of_interval(self.interval);
        let key = match epoch.wrapping_sub(cookie::epoch_of(&octets)) {
            0 => &self.current,
            1 => &self.previous,
            _ => return false,
        };
        cookie::is_young(&octets, now.boot.as_secs()) && cookie::check(&octets, &input(bound), key)
    }

    fn turn(&mut self, now: Stamp) {
        let interval = cookie::interval_at(now.boot.as_secs());
        if interval == self.interval {
            return;
        }
        self.previous = if interval == self.interval.wrapping_add(1) {
            self.current
        } else {
            self.secrets.of_interval(interval.wrapping_sub(1))
        };
        self.current = self.secrets.of_interval(interval);
        self.interval = interval;
    }
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
        destination_digest: cookie::destination_digest(mapped(bound.path.local.ip())),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn jar(secret: &[u8], boot: u8, seconds: u64) -> CookieJar {
        let secrets = CookieSecrets::new(&Secret::from(secret), [boot; 16]);
        CookieJar::new(secrets, at(seconds))
    }

    fn at(seconds: u64) -> Stamp {
        Stamp {
            boot: Duration::from_secs(seconds),
            wall: 0,
        }
    }

    fn path(client: &str) -> Path {
        Path {
            local: "192.0.2.1:500".parse().unwrap(),
            remote: client.parse().unwrap(),
        }
    }

    const fn bound<'a>(path: &'a Path, ni: &'a [u8]) -> Bound<'a> {
        Bound {
            path,
            spi_i: [7; 8],
            ni,
            exchange: Exchange::IkeSaInit,
            ticket_tag: 0,
        }
    }

    #[test]
    fn two_processes_of_one_boot_accept_each_others_cookies() {
        let (path, ni) = (path("198.51.100.9:4096"), [3; 32]);
        let bound = bound(&path, &ni);
        for seconds in [0, 119, 120, 1000, 0x1_0000] {
            let cookie = jar(b"one node", 1, seconds).make(&bound, at(seconds));
            for later in [0, 1, 30] {
                let now = seconds + later;
                assert!(jar(b"one node", 1, now).is_good(&cookie, &bound, at(now)));
                let mut old = jar(b"one node", 1, seconds);
                assert!(old.is_good(&cookie, &bound, at(now)), "{now}");
            }
            let now = seconds + 31;
            assert!(!jar(b"one node", 1, now).is_good(&cookie, &bound, at(now)));
            assert!(!jar(b"one node", 2, seconds).is_good(&cookie, &bound, at(seconds)));
            assert!(!jar(b"another", 1, seconds).is_good(&cookie, &bound, at(seconds)));
        }
    }

    #[test]
    fn a_port_may_change_and_an_address_may_not() {
        let ni = [3; 32];
        let (first, moved) = (path("198.51.100.9:4096"), path("198.51.100.9:1"));
        let other = path("198.51.100.8:4096");
        let mut jar = jar(b"one node", 1, 50);
        let cookie = jar.make(&bound(&first, &ni), at(50));
        assert!(jar.is_good(&cookie, &bound(&moved, &ni), at(50)));
        assert!(!jar.is_good(&cookie, &bound(&other, &ni), at(50)));
        assert!(!jar.is_good(&cookie, &bound(&first, &[4; 32]), at(50)));
        assert!(!jar.is_good(cookie.get(..15).unwrap(), &bound(&first, &ni), at(50)));
    }
}
