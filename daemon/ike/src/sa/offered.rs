//! What an SA payload offers, in the words that operators of strongSwan and libreswan know, algorithms
//! that we do not have included: so that both lists of a mismatch can be laid side by side.

use std::fmt::Write as _;

use crate::wire::sa::{self, Proposal, Transform, transform};

/// Octets of the text; a proposal of a thousand transforms is not spelt out.
const MAX_TEXT: usize = 320;

/// The proposals of one protocol, `aes256-sha1-modp1024, aes128gcm16-prfsha256-x25519`.
pub(crate) fn text(body: &[u8], protocol: u8) -> String {
    let Ok(proposals) = sa::parse(body) else {
        return format!("more than {} transforms, or nonsense", sa::MAX_TRANSFORMS);
    };
    let mut text = String::new();
    for proposal in proposals.filter(|proposal| proposal.protocol == protocol) {
        let end = if text.is_empty() { "" } else { ", " };
        let one = one(&proposal);
        if text.len() + end.len() + one.len() > MAX_TEXT {
            let room = MAX_TEXT.saturating_sub(text.len() + end.len());
            // Names of algorithms are ASCII.
            text.push_str(end);
            text.extend(one.chars().take(room));
            text.push_str("...");
            break;
        }
        text.push_str(end);
        text.push_str(&one);
    }
    if text.is_empty() {
        "nothing".to_owned()
    } else {
        text
    }
}

fn one(proposal: &Proposal<'_>) -> String {
    let mut text = String::new();
    for transform in proposal.transforms() {
        // No extended sequence numbers is what everybody has.
        if (transform.kind, transform.id) == (transform::ESN, 0) {
            continue;
        }
        if !text.is_empty() {
            text.push('-');
        }
        name(transform, &mut text);
        if text.len() > MAX_TEXT {
            break;
        }
    }
    text
}

/// Names of IANA's registry for IKEv2 as both Swans spell them.
fn name(transform: Transform, out: &mut String) {
    let bits = transform.key_bits.unwrap_or(0);
    let name = match (transform.kind, transform.id) {
        (transform::ENCR, 3) => "3des",
        (transform::ENCR, 11) => "null",
        (transform::ENCR, 12) => return sized("aes", bits, "", out),
        (transform::ENCR, 13) => return sized("aes", bits, "ctr", out),
        (transform::ENCR, 14) => return sized("aes", bits, "ccm8", out),
        (transform::ENCR, 15) => return sized("aes", bits, "ccm12", out),
        (transform::ENCR, 16) => return sized("aes", bits, "ccm16", out),
        (transform::ENCR, 18) => return sized("aes", bits, "gcm8", out),
        (transform::ENCR, 19) => return sized("aes", bits, "gcm12", out),
        (transform::ENCR, 20) => return sized("aes", bits, "gcm16", out),
        (transform::ENCR, 23) => return sized("camellia", bits, "", out),
        (transform::ENCR, 28) => "chacha20poly1305",
        (transform::PRF, 1) => "prfmd5",
        (transform::PRF, 2) => "prfsha1",
        (transform::PRF, 4) => "prfaesxcbc",
        (transform::PRF, 5) => "prfsha256",
        (transform::PRF, 6) => "prfsha384",
        (transform::PRF, 7) => "prfsha512",
        (transform::PRF, 8) => "prfaescmac",
        (transform::INTEG, 0) => "noauth",
        (transform::INTEG, 1) => "md5",
        (transform::INTEG, 2) => "sha1",
        (transform::INTEG, 5) => "aesxcbc",
        (transform::INTEG, 8) => "aescmac",
        (transform::INTEG, 12) => "sha256",
        (transform::INTEG, 13) => "sha384",
        (transform::INTEG, 14) => "sha512",
        (transform::KE, 0) => "modpnone",
        (transform::KE, 1) => "modp768",
        (transform::KE, 2) => "modp1024",
        (transform::KE, 5) => "modp1536",
        (transform::KE, 14) => "modp2048",
        (transform::KE, 15) => "modp3072",
        (transform::KE, 16) => "modp4096",
        (transform::KE, 17) => "modp6144",
        (transform::KE, 18) => "modp8192",
        (transform::KE, 19) => "ecp256",
        (transform::KE, 20) => "ecp384",
        (transform::KE, 21) => "ecp521",
        (transform::KE, 31) => "x25519",
        (transform::KE, 32) => "x448",
        (transform::ESN, 1) => "esn",
        (kind, id) => {
            // What no registry of ours knows is named by its numbers.
            let _infallible = write!(out, "{kind}:{id}");
            return;
        }
    };
    out.push_str(name);
}

fn sized(cipher: &str, bits: u16, mode: &str, out: &mut String) {
    let _infallible = write!(out, "{cipher}{bits}{mode}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sa::{Offer, PROTOCOL_IKE};

    fn body(all: &[&[(u8, u16, Option<u16>)]]) -> Vec<u8> {
        let offers: Vec<_> = (1..)
            .zip(all)
            .map(|(number, all)| Offer {
                number,
                protocol: PROTOCOL_IKE,
                spi: &[],
                transforms: all
                    .iter()
                    .map(|&(kind, id, key_bits)| Transform { kind, id, key_bits })
                    .collect(),
            })
            .collect();
        let mut body = Vec::new();
        sa::emit(&offers, &mut body);
        body
    }

    #[test]
    fn a_peers_proposals_read_as_operators_write_them() {
        let old = [(1, 12, Some(256)), (3, 2, None), (2, 2, None), (4, 2, None)];
        let new = [
            (1, 20, Some(128)),
            (2, 5, None),
            (4, 31, None),
            (9, 900, None),
        ];
        let body = body(&[&old, &new]);
        assert_eq!(
            text(&body, PROTOCOL_IKE),
            "aes256-sha1-prfsha1-modp1024, aes128gcm16-prfsha256-x25519-9:900"
        );
        assert_eq!(text(&body, sa::PROTOCOL_ESP), "nothing");
    }

    #[test]
    fn the_text_is_bounded_whatever_is_offered() {
        let many: Vec<_> = (0..90).map(|id| (4, 10_000 + id, None)).collect();
        let all = vec![&many[..]; 32];
        let long = text(&body(&all), PROTOCOL_IKE);
        assert!(
            long.len() <= MAX_TEXT + 8 && long.ends_with("..."),
            "{long}"
        );
        let too_many: Vec<_> = (0..97).map(|id| (4, id, None)).collect();
        assert!(text(&body(&[&too_many]), PROTOCOL_IKE).starts_with("more than"));
    }
}
