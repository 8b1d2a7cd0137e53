//! prf and prf+ (RFC 7296, 2.13).

use ring::hmac;

use super::{Secret, suite::Prf};

/// `prf(key, parts joined)`.
#[must_use]
pub fn prf(which: Prf, key: &[u8], parts: &[&[u8]]) -> Secret {
    let key = hmac::Key::new(algorithm(which), key);
    Secret::from(sign(&key, parts).as_ref())
}

/// The first `len` octets of `prf+(key, seed)`. One octet counts the blocks, which bounds `len` to
/// 255 blocks; every use in this crate stays below sixteen.
#[must_use]
pub fn prf_plus(which: Prf, key: &[u8], seed: &[&[u8]], len: usize) -> Secret {
    // The key's own two hash blocks are done once, not once for each block of output.
    let key = hmac::Key::new(algorithm(which), key);
    // It may hold the secret of a Child SA's own key exchange.
    let seed = Secret::new(seed.concat());
    let mut out = Vec::with_capacity(len + which.output_len());
    for count in 1..=u8::MAX {
        if out.len() >= len {
            break;
        }
        let before = out.len().saturating_sub(which.output_len());
        let block = out.get(before..).unwrap_or_default();
        let next = sign(&key, &[block, seed.expose(), &[count]]);
        out.extend_from_slice(next.as_ref());
    }
    out.truncate(len);
    Secret::new(out)
}

fn sign(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context.sign()
}

const fn algorithm(prf: Prf) -> hmac::Algorithm {
    match prf {
        Prf::HmacSha256 => hmac::HMAC_SHA256,
        Prf::HmacSha384 => hmac::HMAC_SHA384,
        Prf::HmacSha512 => hmac::HMAC_SHA512,
    }
}
