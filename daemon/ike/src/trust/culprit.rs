//! Which of a peer's certificates is to blame, and what of it an operator has to know. Looked at only
//! when a login has failed; nothing of it is believed.

use std::time::Duration;

use der::{Decode as _, Encode as _};
use x509_cert::{
    Certificate,
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::Name,
};

use super::{MAX_CERTIFICATE_OCTETS, MAX_CERTIFICATES, TrustError, X509_SIGNATURE};
use crate::wire::name;

/// Octets of each text of the peer's.
const MAX_TEXT: usize = 120;
/// Names of a certificate that are told.
const MAX_NAMES: usize = 4;

/// A certificate that is the reason of a refusal, as its holder made it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Culprit {
    /// Its subject; escaped, and cut.
    pub subject: String,
    /// Its issuer; the same.
    pub issuer: String,
    /// First and last moment of its validity, RFC 3339.
    pub validity: (String, String),
    /// Some of its names other than the subject.
    pub names: Vec<String>,
    /// Its place in the chain, from 1.
    pub place: usize,
    /// Its length in octets, or the number of certificates if that is the fault.
    pub size: usize,
}

impl Culprit {
    /// The one of these bodies of CERT payloads that `why` is about, at this Unix time. `None` if none
    /// can be read.
    #[must_use]
    pub fn find(bodies: &[&[u8]], why: TrustError, wall: u64) -> Option<Self> {
        let of_x509 = |body: &&&[u8]| body.first() == Some(&X509_SIGNATURE);
        let presented: Vec<&[u8]> = bodies
            .iter()
            .filter(of_x509)
            .map(|body| &body[1..])
            .collect();
        if why == TrustError::TooManyCertificates {
            return Some(Self {
                size: presented.len(),
                ..Self::default()
            });
        }
        let too_long = |der: &&[u8]| der.len() > MAX_CERTIFICATE_OCTETS;
        if why == TrustError::TooLong {
            let at = presented.iter().position(too_long)?;
            return Some(Self {
                place: at + 1,
                size: presented.get(at)?.len(),
                ..Self::default()
            });
        }
        let read: Vec<_> = presented
            .iter()
            .take(MAX_CERTIFICATES)
            .map(|der| Certificate::from_der(der).ok())
            .collect();
        let wall = Duration::from_secs(wall);
        let is_it = |certificate: &Certificate| {
            let validity = certificate.tbs_certificate().validity();
            match why {
                TrustError::Expired => validity.not_after.to_unix_duration() < wall,
                TrustError::NotYetValid => validity.not_before.to_unix_duration() > wall,
                _ => true,
            }
        };
        let mut all = read.iter().enumerate();
        let found = |(at, one): (usize, &Option<Certificate>)| {
            let one = one.as_ref().filter(|one| is_it(one))?;
            Some((at, one.clone()))
        };
        // Behind which nobody stands is the one next to the authority.
        let (at, certificate) = match why {
            TrustError::UnknownAuthority => all.rev().find_map(found)?,
            _ => all.find_map(found)?,
        };
        let size = presented.get(at).map_or(0, |der| der.len());
        Some(Self::of(&certificate, at + 1, size))
    }

    fn of(certificate: &Certificate, place: usize, size: usize) -> Self {
        let body = certificate.tbs_certificate();
        let validity = body.validity();
        let alternatives = body.get_extension::<SubjectAltName>().ok().flatten();
        let alternatives = alternatives.map_or_else(Vec::new, |(_, names)| names.0);
        let names = alternatives.iter().filter_map(|name| match name {
            GeneralName::DnsName(host) => Some(printable(host.as_str())),
            GeneralName::Rfc822Name(address) => Some(printable(address.as_str())),
            GeneralName::IpAddress(octets) => match octets.as_bytes().len() {
                4 => <[u8; 4]>::try_from(octets.as_bytes())
                    .ok()
                    .map(|octets| std::net::Ipv4Addr::from(octets).to_string()),
                _ => <[u8; 16]>::try_from(octets.as_bytes())
                    .ok()
                    .map(|octets| std::net::Ipv6Addr::from(octets).to_string()),
            },
            _ => None,
        });
        Self {
            subject: shown(body.subject()),
            issuer: shown(body.issuer()),
            validity: (
                validity.not_before.to_date_time().to_string(),
                validity.not_after.to_date_time().to_string(),
            ),
            names: names.take(MAX_NAMES).collect(),
            place,
            size,
        }
    }

    pub(crate) fn octets(&self) -> usize {
        let names: usize = self.names.iter().map(String::len).sum();
        let (from, until) = &self.validity;
        self.subject.len() + self.issuer.len() + from.len() + until.len() + names
    }
}

/// A distinguished name, escaped and cut.
pub(super) fn shown(name: &Name) -> String {
    let text = name.to_der().ok().and_then(|der| name::to_text(&der));
    printable(&text.unwrap_or_default())
}

/// Text of a stranger for a terminal: no control or format characters, and not much of it.
fn printable(text: &str) -> String {
    let letters = text.chars().flat_map(char::escape_debug);
    let visible = |letter: char| {
        let plain = letter.is_ascii() || letter.is_alphanumeric();
        if plain { letter } else { '?' }
    };
    letters.map(visible).take(MAX_TEXT).collect()
}
