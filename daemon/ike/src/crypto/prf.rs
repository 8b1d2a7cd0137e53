//! prf and prf+ (RFC 7296, 2.13).

use ring::hmac;

use super::{Secret, suite::Prf};

/// `prf(key, parts joined)`.
#[must_use]
pub fn prf(prf: Prf, key: &[u8], parts: &[&[u8]]) -> Secret {
    let key = hmac::Key::new(algorithm(prf), key);
    let mut context = hmac::Context::with_key(&key);
    for part in parts {
        context.update(part);
    }
    Secret::from(context.sign().as_ref())
}

/// The first `len` octets of `prf+(key, seed)`. One octet counts the blocks, which bounds `len` to
/// 255 blocks; every use in this crate stays below nine.
#[must_use]
pub fn prf_plus(which: Prf, key: &[u8], seed: &[&[u8]], len: usize) -> Secret {
    let mut out = Vec::with_capacity(len + which.output_len());
    let mut block = Secret::default();
    for count in 1..=u8::MAX {
        if out.len() >= len {
            break;
        }
        let mut parts = vec![block.expose()];
        parts.extend_from_slice(seed);
        let counter = [count];
        parts.push(&counter);
        let next = prf(which, key, &parts);
        out.extend_from_slice(next.expose());
        block = next;
    }
    out.truncate(len);
    Secret::new(out)
}

const fn algorithm(prf: Prf) -> hmac::Algorithm {
    match prf {
        Prf::HmacSha256 => hmac::HMAC_SHA256,
        Prf::HmacSha384 => hmac::HMAC_SHA384,
        Prf::HmacSha512 => hmac::HMAC_SHA512,
    }
}
