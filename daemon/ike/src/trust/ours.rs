//! Our own certificates as peers will see them: what makes them refuse us, said before they do.

use std::time::Duration;

use der::{Decode as _, Encode as _, asn1::AnyRef};
use thiserror::Error;
use x509_cert::{Certificate, time::Time};

use super::{TrustError, culprit::shown, leaf::Leaf};
use crate::{
    peer::{Credential, LocalAuth},
    wire::id::Identity,
};

/// How long before its end a certificate is spoken of at the earliest.
const NOTICE: Duration = Duration::from_hours(14 * 24);
/// Of its validity that is left then at the most, for those that are renewed every day.
const LAST_PART: u32 = 10;

/// Something about a certificate of ours that peers mind.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Flaw {
    /// Not X.509 of version 3, or its extensions cannot be read.
    #[error("certificate {place} of our own cannot be read")]
    Malformed {
        /// Its place in the chain, from 1.
        place: usize,
    },
    /// Peers look for the identity among the names of the first one (RFC 4945, 3.1).
    #[error("our certificate does not name local.id, '{id}'; most peers refuse that")]
    OtherName {
        /// Who we say we are.
        id: String,
    },
    /// It may not sign (RFC 4945, 5.1.3.2).
    #[error("the key usage of our certificate excludes signatures")]
    KeyUsage,
    /// Its validity begins later.
    #[error("our certificate '{subject}' is not valid before {from}")]
    NotYetValid {
        /// Whose it is.
        subject: String,
        /// RFC 3339.
        from: String,
    },
    /// Its validity will soon be over.
    #[error("our certificate '{subject}' expires on {until}")]
    Expires {
        /// Whose it is.
        subject: String,
        /// RFC 3339.
        until: String,
    },
    /// Its validity is over.
    #[error("our certificate '{subject}' expired on {until}")]
    Expired {
        /// Whose it is.
        subject: String,
        /// RFC 3339.
        until: String,
    },
}

impl Flaw {
    /// Whether it comes and goes with time; the others stay until somebody changes something.
    #[must_use]
    pub const fn is_dated(&self) -> bool {
        match self {
            Self::NotYetValid { .. } | Self::Expires { .. } | Self::Expired { .. } => true,
            Self::Malformed { .. } | Self::OtherName { .. } | Self::KeyUsage => false,
        }
    }
}

/// A chain of ours, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnChain {
    /// What is so at any time.
    always: Vec<Flaw>,
    dated: Vec<Dated>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Dated {
    subject: String,
    from: Time,
    until: Time,
}

impl OwnChain {
    /// What we prove ourselves with; `None` if that is no certificate.
    #[must_use]
    pub fn of(local: &LocalAuth) -> Option<Self> {
        let Credential::Certificate(chain) = &local.credential else {
            return None;
        };
        let (mut always, mut dated) = (Vec::new(), Vec::new());
        for (place, der) in (1..).zip(&chain.certificates) {
            match Certificate::from_der(der) {
                Ok(certificate) => dated.push(Dated::of(&certificate)),
                Err(_) => always.push(Flaw::Malformed { place }),
            }
        }
        if let (Some(leaf), true) = (chain.certificates.first(), always.is_empty()) {
            match flaws_of_leaf(leaf, &local.id) {
                Ok(flaws) => always.extend(flaws),
                Err(_) => always.push(Flaw::Malformed { place: 1 }),
            }
        }
        Some(Self { always, dated })
    }

    /// What peers mind at this Unix time, or soon will.
    #[must_use]
    pub fn flaws(&self, wall: u64) -> Vec<Flaw> {
        let dated = self.dated.iter().filter_map(|one| one.flaw(wall));
        self.always.iter().cloned().chain(dated).collect()
    }
}

fn flaws_of_leaf(der: &[u8], id: &Identity) -> Result<Vec<Flaw>, TrustError> {
    let leaf = Leaf::parse(der)?;
    let malformed = |_| TrustError::Malformed;
    let certificate = Certificate::from_der(der).map_err(malformed)?;
    let subject = certificate.tbs_certificate().subject().to_der();
    let subject = subject.map_err(malformed)?;
    let subject = AnyRef::from_der(&subject).map_err(malformed)?;
    let other = (!leaf.names(id, subject.value())).then(|| Flaw::OtherName { id: id.to_string() });
    let usage = leaf.may_sign().is_err().then_some(Flaw::KeyUsage);
    Ok(other.into_iter().chain(usage).collect())
}

impl Dated {
    fn of(certificate: &Certificate) -> Self {
        let body = certificate.tbs_certificate();
        let validity = body.validity();
        Self {
            subject: shown(body.subject()),
            from: validity.not_before,
            until: validity.not_after,
        }
    }

    fn flaw(&self, wall: u64) -> Option<Flaw> {
        let wall = Duration::from_secs(wall);
        let [first, last] = [self.from, self.until].map(Time::to_unix_duration);
        let notice = NOTICE.min(last.saturating_sub(first) / LAST_PART);
        let (subject, until) = (self.subject.clone(), self.until.to_date_time().to_string());
        if last < wall {
            Some(Flaw::Expired { subject, until })
        } else if wall < first {
            let from = self.from.to_date_time().to_string();
            Some(Flaw::NotYetValid { subject, from })
        } else if last < wall.saturating_add(notice) {
            Some(Flaw::Expires { subject, until })
        } else {
            None
        }
    }
}
