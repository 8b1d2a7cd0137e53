//! Failures in plain words: what we found, and what to do about it. Nothing of a peer's stands here
//! unless it was escaped and cut before.

use std::fmt::{self, Write as _};

use super::{Cause, Failure, Told, TooMuch};
use crate::{
    ticket::Refused,
    trust::{Culprit, MAX_CERTIFICATE_OCTETS, MAX_CERTIFICATES, TrustError},
    view::Unproven,
    wire::{header::Exchange, id::Identity, notify::NotifyKind},
};

/// Octets of an identity that is not ours.
const MAX_IDENTITY: usize = 160;

impl Failure {
    /// What went wrong, as we see it.
    #[must_use]
    pub fn verdict(&self) -> String {
        let who = |id: &Option<Identity>| id.as_ref().map_or("its identity".to_owned(), shown);
        match &self.cause {
            Cause::Proposals { ours, theirs } => proposals("IKE", ours, theirs.as_deref()),
            Cause::EspProposals { ours, theirs } => proposals("ESP", ours, theirs.as_deref()),
            Cause::Selectors {
                ours,
                theirs: Some(theirs),
            } => format!("no traffic in common: the peer asks for {theirs}, here it is {ours}"),
            Cause::Selectors { ours, theirs: None } => {
                format!("the peer does not take our traffic selectors, {ours}")
            }
            Cause::NoConnection => "no connection is configured for its address".to_owned(),
            Cause::NoIdentity { asked_for } => {
                let wanted = asked_for.as_ref().map(shown);
                let wanted = wanted.map_or(String::new(), |id| format!(" and calls us {id}"));
                format!("no connection is for {}{wanted}", who(&self.peer))
            }
            Cause::OtherIdentity { wanted } => {
                format!("the peer is {}, and not {}", who(&self.peer), cut(wanted))
            }
            Cause::UpElsewhere { at } => {
                format!("the peer is up already, at {at}, and `unique` keeps that")
            }
            Cause::NoProof => "the peer sent no AUTH payload: it wants EAP".to_owned(),
            Cause::Unproven { why, certificate } => unproven(*why, certificate.as_ref()),
            Cause::OwnProof => {
                "our private key made no signature of a kind that the peer can check".to_owned()
            }
            Cause::NoAddress if self.ours => "the gateway gave no inner address".to_owned(),
            Cause::NoAddress => "no address is left in the connection's pools".to_owned(),
            Cause::EnoughAddresses { most } => {
                format!("the peer's identity has {most} inner addresses in use, as many as one may")
            }
            Cause::AddressRequired if self.ours => {
                "the gateway wants us to ask for an inner address".to_owned()
            }
            Cause::AddressRequired => "the client did not ask for an inner address".to_owned(),
            Cause::Ticket(why) => ticket(*why).0.to_owned(),
            Cause::TicketNack => "the gateway does not honour our ticket any more".to_owned(),
            Cause::TicketProof => {
                "whoever presented a ticket could not prove to be the one it was given to"
                    .to_owned()
            }
            Cause::Kernel(text) => {
                format!(
                    "the kernel did not take the Child SA: {}",
                    text.escape_debug()
                )
            }
            Cause::Unmoved(text) => {
                format!(
                    "the kernel did not move the Child SA to its new addresses: {}",
                    text.escape_debug()
                )
            }
            Cause::Unresolved { hosts, why } => {
                format!("no way to {hosts} is known: {}", why.escape_debug())
            }
            Cause::NoAnswer => format!("no answer to our {}", self.exchange.name()),
            Cause::NotContinued { corrupt: false } => {
                "the peer has called, was answered, and has not gone on".to_owned()
            }
            Cause::NotContinued { corrupt: true } => {
                "the peer has gone on with messages that do not open under the keys of the exchange"
                    .to_owned()
            }
            Cause::Lost => "the peer has gone silent and answers no sign of life".to_owned(),
            Cause::Refused => match self.told {
                Some(Told::Received(kind)) => format!("the peer refuses: {}", name(kind)),
                _ => "the peer refuses".to_owned(),
            },
            Cause::Contradicted => {
                let kind = match self.told {
                    Some(Told::Received(kind) | Told::Sent(kind)) => name(kind),
                    None => "a refusal".to_owned(),
                };
                format!(
                    "our {} was refused in clear with {kind} and then answered: one of the two is forged",
                    self.exchange.name()
                )
            }
            Cause::Malformed if self.ours => "the peer's answer makes no sense".to_owned(),
            Cause::Malformed => "the peer's request makes no sense".to_owned(),
            Cause::TooLong => {
                "the peer sent a message of more fragments or octets than are kept".to_owned()
            }
            Cause::Full => "all places for IKE SAs are taken".to_owned(),
            Cause::TooMuch(TooMuch::Requests) => {
                "the peer sends requests faster than one peer may".to_owned()
            }
            Cause::TooMuch(TooMuch::Rekeys) => {
                "the peer asks for new keys or Child SAs faster than one peer may".to_owned()
            }
            Cause::TooMuch(TooMuch::Tickets) => {
                "the peer asks for tickets faster than one peer may".to_owned()
            }
        }
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn cure(&self) -> String {
        let text = match &self.cause {
            Cause::Proposals { .. } => "give both sides a proposal in common: `proposals` here",
            Cause::EspProposals { .. } => {
                "give both sides a proposal in common: `esp_proposals` here"
            }
            Cause::Selectors { .. } => {
                "make local_ts and remote_ts of each side overlap with the other's"
            }
            Cause::NoConnection => {
                "put it into remote_addrs of a connection, or leave remote_addrs and local_addrs out"
            }
            Cause::NoIdentity { .. } => {
                "correct remote.id and local.id of the connection, or the peer's"
            }
            Cause::OtherIdentity { .. } => "correct remote.id, or the peer's identity",
            Cause::UpElsewhere { .. } => {
                "if that SA is left over, it ends within dpd_delay and 40 s; or set unique = \"replace\""
            }
            Cause::NoProof => "let the peer log in by certificate or pre-shared key",
            Cause::Unproven { why, certificate } => return mend(*why, certificate.as_ref()),
            Cause::OwnProof => {
                "compare local.cert with local.key, and let the peer announce the key's hash"
            }
            Cause::NoAddress if self.ours => "look at the gateway: its pools may be full",
            Cause::NoAddress => "enlarge `pools`; `ikectl pool leases` shows who has them",
            Cause::EnoughAddresses { .. } => {
                "give each client an identity of its own, or raise leases_per_identity; SAs that are left \
                 over end within dpd_delay and 40 s"
            }
            Cause::AddressRequired if self.ours => "set vips, \"0.0.0.0\" for any",
            Cause::AddressRequired => {
                "let the client ask for one, or take `pools` out of the connection"
            }
            Cause::Ticket(why) => ticket(*why).1,
            Cause::TicketNack => "nothing: a full login follows",
            Cause::TicketProof => {
                "nothing: the ticket is still its owner's; if it was its owner, compare `compat`"
            }
            Cause::Kernel(_) => "look whether the kernel has ESP and the algorithm",
            Cause::Unmoved(_) => {
                "nothing: another one is asked for there at once; if there is none in 30 s, this one ends"
            }
            Cause::Unresolved { .. } => {
                "correct remote_addrs, or see whether this machine's resolver answers (/etc/resolv.conf)"
            }
            Cause::NoAnswer if self.exchange == Exchange::IkeAuth => {
                "look at the peer's log; long messages may be lost on the way: lower fragment_size"
            }
            Cause::NoAnswer => {
                "see whether the peer runs, and UDP 500 and 4500 pass in both directions"
            }
            Cause::NotContinued { corrupt: false } => {
                "see whether UDP 500 and 4500 pass in both directions; a forged source never goes on"
            }
            Cause::NotContinued { corrupt: true } => {
                "something changes messages on the way, or somebody tries"
            }
            Cause::Lost => "see whether the peer and the way to it are up",
            Cause::Refused => match self.told {
                Some(Told::Received(NotifyKind::AUTHENTICATION_FAILED)) => {
                    "the peer's log says why: our identity, key or certificate is not what it wants"
                }
                Some(Told::Received(NotifyKind::NO_ADDITIONAL_SAS)) => {
                    "it makes no more on this IKE SA: raise its limit, or configure fewer children; new \
                     keys come with a login beside it"
                }
                _ => "the peer's log says why",
            },
            Cause::Contradicted => {
                "nothing: the attempt went on; somebody on the way answers in the peer's name, or \
                 several do under its address"
            }
            Cause::Malformed => "look at the peer: its version, or something that changes messages",
            Cause::TooLong if self.exchange == Exchange::IkeAuth => {
                "make the peer's chain of certificates shorter"
            }
            Cause::TooLong => "look at the peer: no message of an established SA is so long",
            Cause::Full => "`ikectl status` shows how many there are",
            Cause::TooMuch(_) => "look at the peer's rekey times; its SA stays up",
        };
        text.to_owned()
    }

    /// The notification that went with it, as `sent NO_PROPOSAL_CHOSEN`.
    #[must_use]
    pub fn notify(&self) -> Option<String> {
        Some(match self.told? {
            Told::Sent(kind) => format!("sent {}", name(kind)),
            Told::Received(kind) => format!("received {}", name(kind)),
        })
    }

    /// The exchange by its name in the RFCs.
    #[must_use]
    pub const fn exchange_name(&self) -> &'static str {
        self.exchange.name()
    }

    /// The peer's identity, escaped and cut.
    #[must_use]
    pub fn peer_shown(&self) -> Option<String> {
        self.peer.as_ref().map(shown)
    }
}

/// One line for a log.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        // Whoever was not found has no address.
        if !self.from.ip().is_unspecified() {
            parts.push(self.from.to_string());
        }
        parts.extend(self.connection.as_deref().map(str::to_owned));
        parts.extend(self.peer_shown());
        write!(f, "{}", parts.join(" "))?;
        write!(f, ": {}: {}", self.exchange_name(), self.verdict())?;
        if let Some(notify) = self.notify() {
            write!(f, " ({notify})")?;
        }
        write!(f, "; {}", self.cure())
    }
}

fn proposals(protocol: &str, ours: &str, theirs: Option<&str>) -> String {
    match theirs {
        Some(theirs) => {
            format!("no {protocol} proposal in common: the peer offers {theirs}; we take {ours}")
        }
        None => format!("the peer takes none of our {protocol} proposals, {ours}"),
    }
}

fn unproven(why: Unproven, certificate: Option<&Culprit>) -> String {
    let (Unproven::Certificate(why), Some(certificate)) = (why, certificate) else {
        return match why {
            Unproven::Method => {
                "the peer showed a pre-shared key where we want a certificate, or the reverse"
                    .to_owned()
            }
            Unproven::PreSharedKey => "the peer's pre-shared key is not ours".to_owned(),
            Unproven::Certificate(why) => why.to_string(),
        };
    };
    let Culprit {
        subject,
        issuer,
        validity: (from, until),
        names,
        place,
        size,
    } = certificate;
    let of = format!("the certificate of '{subject}'");
    match why {
        TrustError::Expired => format!("{of} expired on {until}"),
        TrustError::NotYetValid => format!("{of} is not valid before {from}"),
        TrustError::TooManyCertificates => {
            format!("the peer sent {size} certificates, of which we follow {MAX_CERTIFICATES}")
        }
        TrustError::TooLong => format!(
            "certificate {place} of the peer has {size} octets, of which we read {MAX_CERTIFICATE_OCTETS}"
        ),
        TrustError::UnknownAuthority => {
            format!("no authority of the connection stands behind {of}, issued by '{issuer}'")
        }
        TrustError::Identity => {
            let others = match &names[..] {
                [] => "no other names".to_owned(),
                names => names.join(" "),
            };
            format!("{of}, {others}, does not name the identity that the peer claims")
        }
        TrustError::Revoked => format!("{of} was revoked by '{issuer}', or one above it was"),
        TrustError::RevocationUnknown => format!("no list says whether {of} is revoked"),
        TrustError::ListOutdated => format!("the revocation list of '{issuer}' is outdated"),
        TrustError::ListUnproven => format!("the revocation list of '{issuer}' is not by it"),
        TrustError::KeyUsage => format!("the key usage of {of} excludes signatures"),
        TrustError::ExtendedKeyUsage => format!("the extended key usage of {of} excludes IKE"),
        TrustError::NameConstraint => {
            let names = names.join(" ");
            let colon = if names.is_empty() { "" } else { ": " };
            format!(
                "'{issuer}', or an authority above it, may not certify a name of {of}{colon}{names}"
            )
        }
        TrustError::Signature => format!("the signature was not made by the key of '{subject}'"),
        why => format!("{of}: {why}"),
    }
}

fn mend(why: Unproven, certificate: Option<&Culprit>) -> String {
    let Unproven::Certificate(why) = why else {
        return match why {
            Unproven::Method => "make remote.auth here and local.auth there the same kind",
            _ => "compare the secrets of both sides, blanks and line ends included",
        }
        .to_owned();
    };
    let issuer = certificate.map_or("", |certificate| &*certificate.issuer);
    let text = match why {
        TrustError::NoCertificate => "let the peer send its certificate",
        TrustError::TooManyCertificates => {
            "let the peer send its own certificate and intermediate ones, and no roots"
        }
        TrustError::TooLong => "let its owner have a shorter one: fewer names, smaller keys",
        TrustError::Malformed => "let its owner have a new one, X.509 version 3",
        TrustError::Algorithm => {
            "RSA of 2048 bits or more, ECDSA on P-256 or P-384, or Ed25519 is taken, without SHA-1"
        }
        TrustError::UnknownAuthority => {
            let mut text = String::new();
            let _infallible = write!(
                text,
                "add '{issuer}' to remote.cacerts if you trust it, or let the peer send the \
                 intermediate certificates"
            );
            return text;
        }
        TrustError::NotYetValid => "compare the clocks of both sides",
        TrustError::Expired => "ask its owner to renew it",
        TrustError::KeyUsage => "it needs digitalSignature or nonRepudiation",
        TrustError::ExtendedKeyUsage => "it needs ipsecIKE, serverAuth, clientAuth, any, or none",
        TrustError::NameConstraint => {
            "compare its names with the name constraints of the authorities above it"
        }
        TrustError::ConstraintUnread => {
            "put the certificate of the authority that has the name constraints into remote.cacerts"
        }
        TrustError::Path => "look at its constraints, and those of the authorities above it",
        TrustError::Identity => {
            "let the peer claim a name of its certificate, or put the identity into its subjectAltName"
        }
        TrustError::Revoked => {
            "its owner needs a new one, with a new key if the old one was stolen"
        }
        TrustError::RevocationUnknown => {
            "put the authority's CRL into x509crl, or set remote.revocation = \"relaxed\""
        }
        TrustError::ListOutdated => {
            "put the authority's newest CRL into x509crl, or set remote.revocation = \"relaxed\""
        }
        TrustError::ListUnproven => "put the authority's own CRL in place of the one in x509crl",
        TrustError::Signature => "let the peer's certificate and private key be of one pair",
    };
    text.to_owned()
}

/// Verdict and cure.
const fn ticket(why: Refused) -> (&'static str, &'static str) {
    const LOGIN: &str = "nothing: its client logs in in full";
    match why {
        Refused::Shape => ("the ticket is not one of ours", LOGIN),
        Refused::UnknownKey => (
            "the ticket's key is gone: retired, revoked or lost",
            "nothing: its client logs in in full; if many do, see whether state_dir was lost",
        ),
        Refused::Forged => (
            "the ticket was not made here, or was changed",
            "nothing: its client logs in in full; if many do, somebody guesses",
        ),
        Refused::OtherNode => (
            "another gateway issued the ticket",
            "nothing: its client logs in in full",
        ),
        Refused::Expired => (
            "the ticket has expired, or a full authentication is due",
            LOGIN,
        ),
        Refused::Used => (
            "the ticket has opened an SA already, or was replaced",
            "nothing: its client logs in in full; a copy of the ticket may have been presented",
        ),
        Refused::Body => (
            "the ticket's body was changed",
            "nothing: its client logs in in full; somebody plays with a copy",
        ),
        Refused::Reference => ("what the ticket refers to is gone", LOGIN),
        Refused::Policy => (
            "the connection has changed since the ticket was issued, or takes none",
            LOGIN,
        ),
        Refused::Revoked => (
            "the tickets of this peer were revoked, or its certificate was",
            "nothing if that was meant: it has to log in in full",
        ),
    }
}

/// A notification by its name in the RFCs, if it has one that we know.
fn name(kind: NotifyKind) -> String {
    kind.name()
        .map_or_else(|| format!("notify {}", kind.0), str::to_owned)
}

/// An identity, which escapes itself, but not its length.
fn shown(id: &Identity) -> String {
    cut(&id.to_string())
}

fn cut(text: &str) -> String {
    let visible =
        |letter: char| letter.is_ascii_graphic() || letter == ' ' || letter.is_alphanumeric();
    let letters = text
        .chars()
        .map(|letter| if visible(letter) { letter } else { '?' });
    let mut cut: String = letters.take(MAX_IDENTITY).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    cut
}
