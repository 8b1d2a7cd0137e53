//! AUTH payloads (RFC 7296, 2.15 and 3.8; RFC 7427; RFC 5723, 4.3.3): our own value, and whether a
//! peer's holds.

use crate::{
    crypto::{Secret, prf::prf, secret::equal},
    endpoint::Context,
    io::Stamp,
    peer::{Compat, Connection, Credential, Proof},
    sa::proposal::IkeSuite,
    ticket::state::{AuthMethod, CertificateFacts},
    trust::{self, Hashes},
    view::Unproven,
    wire::{
        id::Identity,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// Shared Key Message Integrity Code (RFC 7296, 3.8); also what both open implementations of RFC 5723
/// send on resumption.
pub(super) const SHARED_KEY_MIC: u8 = 2;

/// A peer's AUTH payload and what it is said to cover.
pub(super) struct Claim<'a> {
    pub id: &'a Identity,
    pub method: u8,
    pub proof: &'a [u8],
    pub octets: &'a [u8],
}

/// Our own AUTH value in a full exchange (RFC 7296, 2.15; RFC 7427, 3).
pub(super) fn prove(
    connection: &Connection,
    suite: IkeSuite,
    octets: &[u8],
    peer_hashes: Hashes,
    cx: &mut Context<'_>,
) -> Option<(u8, Secret)> {
    let kind = match &connection.local.credential {
        Credential::PreShared(key) => {
            return Some((SHARED_KEY_MIC, pre_shared_mic(suite, key, octets)));
        }
        Credential::Certificate(chain) => chain.key()?,
        Credential::PublicKey(key) => key.kind()?,
    };
    let key = (kind, connection.local.rsa_padding);
    let (method, auth) = trust::sign(&connection.name, key, octets, peer_hashes, cx.env)?;
    Some((method, Secret::new(auth)))
}

/// Whether a peer's AUTH value in a full exchange holds, and what it tells about the peer.
pub(super) fn proven(
    connection: &Connection,
    suite: IkeSuite,
    claim: &Claim<'_>,
    chain: &Chain<'_>,
    now: Stamp,
) -> Result<(AuthMethod, Option<CertificateFacts>), Unproven> {
    match &connection.remote.proof {
        Proof::PreShared(_) if claim.method != SHARED_KEY_MIC => Err(Unproven::Method),
        Proof::PreShared(key) => {
            let expected = pre_shared_mic(suite, key, claim.octets);
            if !equal(claim.proof, expected.expose()) {
                return Err(Unproven::PreSharedKey);
            }
            Ok((AuthMethod::PreShared, None))
        }
        Proof::Certificate(_) | Proof::PublicKey(_) if claim.method == SHARED_KEY_MIC => {
            Err(Unproven::Method)
        }
        Proof::PublicKey(key) => {
            key.verify(&trust::Signed {
                octets: claim.octets,
                method: claim.method,
                auth: claim.proof,
            })?;
            Ok((AuthMethod::PublicKey, None))
        }
        Proof::Certificate(anchors) => {
            let certificates: Vec<_> = chain.all(PayloadKind::CERT).collect();
            let signed = trust::Signed {
                octets: claim.octets,
                method: claim.method,
                auth: claim.proof,
            };
            let facts = trust::verify(anchors, &certificates, claim.id, &signed, now.wall)?;
            Ok((AuthMethod::Certificate, Some(facts)))
        }
    }
}

/// `prf(prf(Shared Secret, "Key Pad for IKEv2"), octets)` (RFC 7296, 2.15).
pub(super) fn pre_shared_mic(suite: IkeSuite, key: &Secret, octets: &[u8]) -> Secret {
    let padded = prf(suite.prf, key.expose(), &[b"Key Pad for IKEv2"]);
    prf(suite.prf, padded.expose(), &[octets])
}

/// AUTH payload (RFC 7296, 3.8): method, reserved, data.
pub(super) fn emit_auth(chain: &mut ChainWriter, method: u8, proof: &Secret) {
    chain.payload(PayloadKind::AUTH, |out| {
        out.extend_from_slice(&[method, 0, 0, 0]);
        out.extend_from_slice(proof.expose());
    });
}

pub(super) fn parse_auth(body: &[u8]) -> Option<(u8, &[u8])> {
    let (&[method, _, _, _], proof) = body.split_first_chunk()?;
    Some((method, proof))
}

// RFC 5723: A2
/// The AUTH value of a resumption: one application of prf, keyed by the new SK_p (RFC 5723, 4.3.3).
/// libreswan covers the sender's first message alone; exactly one form is ever computed.
pub(super) fn resumption_mic(
    suite: IkeSuite,
    compat: Compat,
    sk_p: &Secret,
    octets: &[u8],
    message: &[u8],
) -> Secret {
    let covered = match compat {
        Compat::Rfc => octets,
        Compat::Libreswan => message,
    };
    prf(suite.prf, sk_p.expose(), &[covered])
}

// RFC 5723: A1
/// Whether a peer's AUTH value of a resumption holds.
pub(super) fn resumption_holds(claim: &Claim<'_>, expected: &Secret) -> bool {
    claim.method == SHARED_KEY_MIC && equal(claim.proof, expected.expose())
}
