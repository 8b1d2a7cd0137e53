//! What a ticket by value carries (RFC 5723, 5 and 6.1): everything the table marks "from the
//! ticket", and what our rulings add. The layout is ours alone; nobody else reads it.

use std::sync::Arc;

use crate::{
    crypto::{Encryption, Group, Integrity, Prf, Secret},
    io::TicketLedger,
    sa::proposal::IkeSuite,
    wire::{WireError, cursor::Cursor, header::Spi, id::Identity},
};

const LAYOUT: u8 = 1;
/// Octets in front of the first string.
const FIXED: usize = 56;

/// How the peer proved itself when it last did so in full.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AuthMethod {
    /// Pre-shared key.
    PreShared,
    /// A certificate and a signature.
    Certificate,
    /// A signature by a key that the operator has put there.
    PublicKey,
}

impl AuthMethod {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::PreShared => 1,
            Self::Certificate => 2,
            Self::PublicKey => 3,
        }
    }

    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::PreShared),
            2 => Some(Self::Certificate),
            3 => Some(Self::PublicKey),
            _ => None,
        }
    }
}

/// Facts about the peer's certificate that policy may ask for later (RFC 5723, 5, note 2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFacts {
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Truncated SHA-256 of its issuer's name and its serial number, by which a list of revoked certificates
    /// names it. A ticket of before lists were read has none.
    pub issued_as: Option<[u8; 8]>,
    /// End of validity, Unix seconds.
    pub not_after: u64,
}

// RFC 5723: N29, N36, X11, note 1
/// The resumable state of one IKE SA.
#[derive(Debug)]
pub struct TicketState {
    /// Name of the connection; the AUTH form and today's policy follow from it.
    pub connection: Arc<str>,
    /// First octets of the connection's digest at issue.
    pub digest: [u8; 16],
    /// Initiator's identity, which is the client's.
    pub id_i: Identity,
    /// Responder's identity, which is ours.
    pub id_r: Identity,
    /// How the client proved itself.
    pub auth: AuthMethod,
    /// Its certificate, if it had one.
    pub certificate: Option<CertificateFacts>,
    /// Suite of the SA, inherited.
    pub suite: IkeSuite,
    /// SK_d of the SA that got the ticket.
    pub sk_d: Secret,
    /// SPIs of that SA, to find and replace it.
    pub old_spis: (Spi, Spi),
    /// When the ticket was issued, Unix seconds.
    pub issued: u64,
    /// When the client last authenticated in full, Unix seconds.
    pub full_auth: u64,
    /// Resumptions since then.
    pub resume_count: u16,
}

impl TicketState {
    // RFC 5723: L9, A21
    /// Whether its peer's tickets have been revoked since it was issued.
    #[must_use]
    pub fn is_revoked(&self, ledger: &dyn TicketLedger) -> bool {
        ledger
            .revoked_until(&self.id_i)
            .is_some_and(|until| self.issued <= until)
    }

    /// The plain body of a ticket.
    #[must_use]
    pub fn encode(&self) -> Secret {
        let facts = self.certificate.as_ref().map_or_else(Vec::new, |facts| {
            let mut octets = facts.fingerprint.to_vec();
            octets.extend_from_slice(&facts.not_after.to_be_bytes());
            octets.extend(facts.issued_as.iter().flatten());
            octets
        });
        let (id_i, id_r) = (self.id_i.body(), self.id_r.body());
        let strings = [
            self.connection.as_bytes(),
            self.sk_d.expose(),
            &id_i,
            &id_r,
            &facts,
        ];
        let octets: usize = strings.iter().map(|string| 2 + string.len()).sum();
        // Whole from the start: one that grows leaves what is in it behind, unwiped.
        let mut out = Vec::with_capacity(FIXED + octets);
        out.push(LAYOUT);
        out.push(self.auth.number());
        out.extend_from_slice(&encode_suite(self.suite));
        out.extend_from_slice(&self.digest);
        out.extend_from_slice(&self.old_spis.0);
        out.extend_from_slice(&self.old_spis.1);
        out.extend_from_slice(&self.issued.to_be_bytes());
        out.extend_from_slice(&self.full_auth.to_be_bytes());
        out.extend_from_slice(&self.resume_count.to_be_bytes());
        for string in strings {
            out.extend_from_slice(&(string.len() as u16).to_be_bytes());
            out.extend_from_slice(string);
        }
        debug_assert_eq!(out.len(), FIXED + octets);
        Secret::new(out)
    }

    /// Reads a plain body; what follows it is padding.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(body);
        let value = |field, value: u8| WireError::Value {
            field,
            value: u32::from(value),
        };
        let [layout, auth] = cursor.array()?;
        if layout != LAYOUT {
            return Err(value("ticket layout", layout));
        }
        let auth = AuthMethod::from_number(auth).ok_or_else(|| value("authentication", auth))?;
        let suite = decode_suite(cursor.array()?)?;
        let digest = cursor.array()?;
        let old_spis = (cursor.array()?, cursor.array()?);
        let issued = u64::from_be_bytes(cursor.array()?);
        let full_auth = u64::from_be_bytes(cursor.array()?);
        let resume_count = cursor.u16()?;
        let mut string = || {
            let length = usize::from(cursor.u16()?);
            cursor.take(length)
        };
        let name = std::str::from_utf8(string()?).map_err(|_| value("connection name", 0))?;
        let connection = Arc::from(name);
        let sk_d = Secret::from(string()?);
        let (id_i, id_r) = (Identity::parse(string()?)?, Identity::parse(string()?)?);
        let facts = string()?;
        let certificate = if facts.is_empty() {
            None
        } else {
            let mut facts = Cursor::new(facts);
            let (fingerprint, not_after) = (facts.array()?, u64::from_be_bytes(facts.array()?));
            Some(CertificateFacts {
                fingerprint,
                issued_as: facts.array().ok(),
                not_after,
            })
        };
        Ok(Self {
            connection,
            digest,
            id_i,
            id_r,
            auth,
            certificate,
            suite,
            sk_d,
            old_spis,
            issued,
            full_auth,
            resume_count,
        })
    }
}

/// Bits of the cipher's number, of which there are none beyond; above them stands what authenticates it.
const CIPHER_BITS: u16 = 6;
/// The number of the first integrity algorithm, less one: none is 0.
const BEFORE_INTEGRITY: u16 = 11;

/// A suite in four octets: cipher and integrity, octets of the cipher's key if it has a choice, PRF, group.
pub(super) const fn encode_suite(suite: IkeSuite) -> [u8; 4] {
    let (encryption, key_bits) = suite.encryption.transform();
    let key_octets = match key_bits {
        Some(bits) => (bits / 8) as u8,
        None => 0,
    };
    let (prf, group) = (suite.prf.number(), suite.group.number());
    let integrity = match suite.encryption.integrity() {
        Some(integrity) => integrity.number() - BEFORE_INTEGRITY,
        None => 0,
    };
    let encryption = integrity << CIPHER_BITS | encryption;
    [encryption as u8, key_octets, prf as u8, group as u8]
}

pub(super) fn decode_suite(octets: [u8; 4]) -> Result<IkeSuite, WireError> {
    let [encryption, key_octets, prf, group] = octets.map(u16::from);
    let key_bits = (key_octets != 0).then_some(key_octets * 8);
    let cipher = encryption & ((1 << CIPHER_BITS) - 1);
    let integrity = Integrity::from_number((encryption >> CIPHER_BITS) + BEFORE_INTEGRITY);
    let value = |field, value: u16| WireError::Value {
        field,
        value: u32::from(value),
    };
    Ok(IkeSuite {
        encryption: Encryption::from_transform(cipher, key_bits, integrity)
            .ok_or_else(|| value("encryption", encryption))?,
        prf: Prf::from_number(prf).ok_or_else(|| value("PRF", prf))?,
        group: Group::from_number(group).ok_or_else(|| value("group", group))?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> TicketState {
        TicketState {
            connection: "rw".into(),
            digest: [3; 16],
            id_i: Identity::from_text("client-with-a-name-of-32.example").expect("name"),
            id_r: Identity::from_text("gateway-with-a-long-name.example").expect("name"),
            auth: AuthMethod::PreShared,
            certificate: None,
            suite: IkeSuite {
                encryption: Encryption::AesGcm256,
                prf: Prf::HmacSha256,
                group: Group::X25519,
            },
            sk_d: Secret::new(vec![9; 32]),
            old_spis: ([1; 8], [2; 8]),
            issued: 1_800_000_000,
            full_auth: 1_799_999_000,
            resume_count: 4,
        }
    }

    // RFC 5723: N36, X11
    #[test]
    fn a_state_reads_back() {
        let state = sample();
        let read = TicketState::decode(state.encode().expose()).expect("our own layout");
        assert_eq!(format!("{read:?}"), format!("{state:?}"));
        assert_eq!(read.sk_d, state.sk_d);
        assert_eq!((&read.id_i, &read.id_r), (&state.id_i, &state.id_r));
    }

    #[test]
    fn every_suite_reads_back() {
        let cbc = Integrity::ALL
            .into_iter()
            .flat_map(|one| [Encryption::AesCbc128(one), Encryption::AesCbc256(one)]);
        let aeads = [
            Encryption::AesGcm128,
            Encryption::AesGcm256,
            Encryption::ChaCha20Poly1305,
        ];
        for encryption in cbc.chain(aeads) {
            let suite = IkeSuite {
                encryption,
                ..sample().suite
            };
            assert_eq!(decode_suite(encode_suite(suite)), Ok(suite));
        }
        // As tickets had it before there was any integrity.
        assert_eq!(encode_suite(sample().suite), [20, 32, 5, 31]);
        assert!(decode_suite([0x54, 32, 5, 31]).is_err());
        assert!(decode_suite([12, 32, 5, 31]).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let body = sample().encode();
        for end in 0..body.len() {
            assert!(
                TicketState::decode(&body.expose()[..end]).is_err(),
                "cut at {end}"
            );
        }
    }
}
