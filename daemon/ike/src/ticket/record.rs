//! What a client keeps of a session besides the ticket it cannot read (RFC 5723, 4.2): the same items
//! the gateway has in the ticket, and where and when the ticket came from.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::state::{AuthMethod, decode_suite, encode_suite};
use crate::{
    crypto::Secret,
    io::{Past, Path, Stamp},
    sa::proposal::IkeSuite,
    wire::{WireError, cursor::Cursor, id::Identity},
};

const LAYOUT: u8 = 2;
/// Inner addresses in a record: one of each family.
const MAX_LEASED: usize = 2;

// RFC 5723: N11, N52
/// One resumable session. Replaced by a newer ticket, gone with its use, its expiry, a DELETE, a
/// rekey or a log-out (RFC 5723, 6.2).
#[derive(Debug)]
pub struct SessionRecord {
    /// The ticket's octets.
    pub ticket: Vec<u8>,
    /// When it came.
    pub received: Past,
    /// How long it may be presented, from then on.
    pub lifetime: Duration,
    /// Digest of the connection's settings then; under others the ticket is not presented.
    pub digest: [u8; 32],
    /// Our identity then.
    pub id_i: Identity,
    /// The gateway's identity, which it must show again.
    pub id_r: Identity,
    /// How the gateway proved itself when it last did so in full.
    pub auth: AuthMethod,
    /// Suite of the SA, inherited.
    pub suite: IkeSuite,
    /// SK_d of the SA that got the ticket.
    pub sk_d: Secret,
    /// Where the gateway was reached.
    pub path: Path,
    /// Last full authentication.
    pub full_auth: Past,
    /// Resumptions since.
    pub resume_count: u16,
    /// The inner addresses of that SA, which are asked for again.
    pub leased: Vec<IpAddr>,
}

impl SessionRecord {
    // RFC 5723: N13, A16
    /// What is left of the lifetime, by the boot clock, which no step of the wall clock moves.
    #[must_use]
    pub fn left(&self, now: Stamp) -> Option<Duration> {
        self.lifetime
            .checked_sub(self.received.age(now))
            .filter(|left| !left.is_zero())
    }

    /// The record's octets for a store that outlives a reboot. They hold SK_d: whoever keeps them
    /// seals them.
    #[must_use]
    pub fn encode(&self) -> Secret {
        let mut out = Vec::with_capacity(self.ticket.len() + 512);
        out.push(LAYOUT);
        out.push(self.auth.number());
        out.extend_from_slice(&encode_suite(self.suite));
        out.extend_from_slice(&self.digest);
        for seconds in [
            self.received.wall(),
            self.lifetime.as_secs(),
            self.full_auth.wall(),
        ] {
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        out.extend_from_slice(&self.resume_count.to_be_bytes());
        for end in [self.path.local, self.path.remote] {
            out.extend_from_slice(&mapped(end.ip()));
            out.extend_from_slice(&end.port().to_be_bytes());
        }
        let leased = self.leased.iter().take(MAX_LEASED);
        out.push(leased.len() as u8);
        out.extend(leased.flat_map(|address| mapped(*address)));
        let (id_i, id_r) = (self.id_i.body(), self.id_r.body());
        for string in [&id_i, &id_r, self.sk_d.expose(), &self.ticket] {
            out.extend_from_slice(&(string.len() as u16).to_be_bytes());
            out.extend_from_slice(string);
        }
        Secret::new(out)
    }

    /// Reads a record that was kept over a restart or a reboot. The boot clock may have begun anew, so
    /// the age goes by the wall clock; one from the future, or past its lifetime, is refused.
    pub fn decode(octets: &[u8], now: Stamp) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(octets);
        let value = |field, value: u8| WireError::Value {
            field,
            value: u32::from(value),
        };
        let [layout, auth] = cursor.array()?;
        if layout != LAYOUT {
            return Err(value("session record layout", layout));
        }
        let auth = AuthMethod::from_number(auth).ok_or_else(|| value("authentication", auth))?;
        let suite = decode_suite(cursor.array()?)?;
        let digest = cursor.array()?;
        let mut seconds = || cursor.array().map(u64::from_be_bytes);
        let (received, lifetime, full_auth) = (seconds()?, seconds()?, seconds()?);
        let resume_count = cursor.u16()?;
        let mut end = || -> Result<SocketAddr, WireError> {
            let address = IpAddr::from(cursor.array::<16>()?).to_canonical();
            Ok((address, cursor.u16()?).into())
        };
        let path = Path {
            local: end()?,
            remote: end()?,
        };
        let leased = usize::from(cursor.u8()?);
        if leased > MAX_LEASED {
            return Err(value("number of inner addresses", leased as u8));
        }
        let address = |_| Ok(IpAddr::from(cursor.array::<16>()?).to_canonical());
        let leased = (0..leased).map(address).collect::<Result<_, WireError>>()?;
        let mut string = || {
            let length = usize::from(cursor.u16()?);
            cursor.take(length)
        };
        let (id_i, id_r) = (Identity::parse(string()?)?, Identity::parse(string()?)?);
        let (sk_d, ticket) = (Secret::from(string()?), string()?.to_vec());
        if !cursor.is_empty() {
            return Err(WireError::Length {
                at: cursor.position(),
            });
        }
        let age = now.wall.checked_sub(received);
        let left = age.and_then(|age| lifetime.checked_sub(age));
        if left.is_none_or(|left| left == 0) {
            return Err(value("age of the session record", 0));
        }
        Ok(Self {
            ticket,
            received: Past::at_wall(received, now),
            lifetime: Duration::from_secs(lifetime),
            digest,
            id_i,
            id_r,
            auth,
            suite,
            sk_d,
            path,
            full_auth: Past::at_wall(full_auth, now),
            resume_count,
            leased,
        })
    }
}

/// An address of either family in the room of the longer one.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::state::tests::sample;

    const NOW: Stamp = Stamp {
        boot: Duration::from_secs(5000),
        wall: 1_800_000_000,
    };

    fn record() -> SessionRecord {
        let state = sample();
        SessionRecord {
            ticket: vec![7; 256],
            received: NOW.into(),
            lifetime: Duration::from_hours(1),
            digest: [5; 32],
            id_i: state.id_i,
            id_r: state.id_r,
            auth: state.auth,
            suite: state.suite,
            sk_d: state.sk_d,
            path: Path {
                local: "192.0.2.1:500".parse().expect("address"),
                remote: "[2001:db8::1]:4500".parse().expect("address"),
            },
            full_auth: Past::at_wall(NOW.wall - 1000, NOW),
            resume_count: 3,
            leased: ["10.3.0.7", "2001:db8::7"]
                .map(|a| a.parse().expect("address"))
                .into(),
        }
    }

    fn later(seconds: u64) -> Stamp {
        // After a reboot: the boot clock has begun anew.
        Stamp {
            boot: Duration::from_secs(20),
            wall: NOW.wall + seconds,
        }
    }

    #[test]
    fn a_record_outlives_a_reboot_with_what_is_left_of_its_lifetime() {
        let kept = record();
        let read = SessionRecord::decode(kept.encode().expose(), later(600)).expect("our own");
        assert_eq!(read.left(later(600)), Some(Duration::from_mins(50)));
        assert_eq!((&read.ticket, &read.sk_d), (&kept.ticket, &kept.sk_d));
        assert_eq!((&read.id_i, &read.id_r), (&kept.id_i, &kept.id_r));
        assert_eq!((read.path, read.suite), (kept.path, kept.suite));
        assert_eq!(read.leased, kept.leased);
        assert_eq!(read.full_auth.wall(), kept.full_auth.wall());
        // Both are older than this boot.
        assert_eq!(read.received.age(later(600)), Duration::from_mins(10));
        assert_eq!(read.full_auth.age(later(600)), Duration::from_secs(1600));
        // Kept once more, it ends when it would have.
        let again = SessionRecord::decode(read.encode().expose(), later(900)).expect("our own");
        assert_eq!(again.left(later(900)), Some(Duration::from_mins(45)));
        assert_eq!(again.received.age(later(900)), Duration::from_mins(15));
    }

    #[test]
    fn one_from_the_future_or_past_its_lifetime_is_refused() {
        let octets = record().encode();
        let past = Stamp {
            wall: NOW.wall - 1,
            ..NOW
        };
        for now in [past, later(3600), later(1 << 40)] {
            assert!(
                SessionRecord::decode(octets.expose(), now).is_err(),
                "{now:?}"
            );
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_an_error_or_another_record() {
        let octets = record().encode();
        for end in 0..octets.len() {
            assert!(SessionRecord::decode(&octets.expose()[..end], NOW).is_err());
        }
        for bit in 0..octets.len() * 8 {
            let mut changed = octets.expose().to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Sealing is the store's affair; here it must only not panic.
            let _ = SessionRecord::decode(&changed, NOW);
        }
    }
}
