//! Security Association payloads (RFC 7296, 3.3): proposals of transforms, read without copies.

use super::{WireError, cursor::Cursor, cursor::with_length};

/// Protocol of a proposal.
pub const PROTOCOL_IKE: u8 = 1;
/// Protocol of a proposal.
pub const PROTOCOL_ESP: u8 = 3;

/// Transform types (IANA).
pub mod transform {
    /// Encryption algorithm.
    pub const ENCR: u8 = 1;
    /// Pseudo-random function.
    pub const PRF: u8 = 2;
    /// Integrity algorithm.
    pub const INTEG: u8 = 3;
    /// Key exchange method.
    pub const KE: u8 = 4;
    /// Extended sequence numbers.
    pub const ESN: u8 = 5;
}

const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
/// Key Length attribute in type/value form.
const KEY_LENGTH: u16 = 0x800e;

/// One proposal.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// Its number, echoed when it is chosen.
    pub number: u8,
    /// IKE or ESP.
    pub protocol: u8,
    /// The sender's SPI: empty in first exchanges, four octets for ESP.
    pub spi: &'a [u8],
    transforms: &'a [u8],
}

/// One transform.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transform {
    /// ENCR, PRF, ...
    pub kind: u8,
    /// Which one.
    pub id: u16,
    /// Key Length attribute.
    pub key_bits: Option<u16>,
}

/// Proposals accepted in one payload. libreswan sends four by default.
pub const MAX_PROPOSALS: usize = 32;
/// Transforms accepted in one proposal; strongSwan's default IKE proposal has some thirty.
pub const MAX_TRANSFORMS: usize = 96;

/// Checks the whole payload and returns its proposals in order of preference.
pub fn parse(body: &[u8]) -> Result<impl Iterator<Item = Proposal<'_>>, WireError> {
    let mut cursor = Cursor::new(body);
    let mut count = 0;
    while let Some(proposal) = next_proposal(&mut cursor)? {
        count += 1;
        if count > MAX_PROPOSALS {
            return Err(WireError::TooMany {
                what: "proposals",
                limit: MAX_PROPOSALS,
            });
        }
        let mut transforms = Cursor::new(proposal.transforms);
        let mut transform_count = 0;
        while next_transform(&mut transforms)?.is_some() {
            transform_count += 1;
            if transform_count > MAX_TRANSFORMS {
                return Err(WireError::TooMany {
                    what: "transforms",
                    limit: MAX_TRANSFORMS,
                });
            }
        }
    }
    let mut cursor = Cursor::new(body);
    Ok(std::iter::from_fn(move || {
        next_proposal(&mut cursor).ok().flatten()
    }))
}

impl Proposal<'_> {
    /// The transforms in the sender's order.
    pub fn transforms(&self) -> impl Iterator<Item = Transform> {
        let mut cursor = Cursor::new(self.transforms);
        std::iter::from_fn(move || next_transform(&mut cursor).ok().flatten())
    }
}

fn next_proposal<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Proposal<'a>>, WireError> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let at = cursor.position();
    let [_more, _reserved] = cursor.array()?;
    let length = usize::from(cursor.u16()?);
    let [number, protocol, spi_size, _transforms] = cursor.array()?;
    let spi = cursor.take(usize::from(spi_size))?;
    let rest = length
        .checked_sub(8 + spi.len())
        .ok_or(WireError::Length { at })?;
    let transforms = cursor.take(rest)?;
    Ok(Some(Proposal {
        number,
        protocol,
        spi,
        transforms,
    }))
}

fn next_transform(cursor: &mut Cursor<'_>) -> Result<Option<Transform>, WireError> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let at = cursor.position();
    let [_more, _reserved] = cursor.array()?;
    let length = usize::from(cursor.u16()?);
    let [kind, _reserved] = cursor.array()?;
    let id = cursor.u16()?;
    let mut attributes = cursor.sub(length.checked_sub(8).ok_or(WireError::Length { at })?)?;
    let mut key_bits = None;
    while !attributes.is_empty() {
        let (attribute, value) = (attributes.u16()?, attributes.u16()?);
        if attribute == KEY_LENGTH {
            key_bits = Some(value);
        } else if attribute & 0x8000 == 0 {
            attributes.take(usize::from(value))?;
        }
    }
    Ok(Some(Transform { kind, id, key_bits }))
}

/// A proposal to be written.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// Its number, from 1.
    pub number: u8,
    /// IKE or ESP.
    pub protocol: u8,
    /// Our SPI.
    pub spi: &'a [u8],
    /// Its transforms.
    pub transforms: Vec<Transform>,
}

/// Appends the body of an SA payload.
pub fn emit(offers: &[Offer<'_>], out: &mut Vec<u8>) {
    for (i, offer) in offers.iter().enumerate() {
        let more = if i + 1 < offers.len() {
            MORE_PROPOSALS
        } else {
            0
        };
        with_length(out, &[more, 0, 0, 0], 2, |out| {
            let (spi_size, count) = (offer.spi.len() as u8, offer.transforms.len() as u8);
            out.extend_from_slice(&[offer.number, offer.protocol, spi_size, count]);
            out.extend_from_slice(offer.spi);
            for (j, transform) in offer.transforms.iter().enumerate() {
                let more = if j + 1 < offer.transforms.len() {
                    MORE_TRANSFORMS
                } else {
                    0
                };
                with_length(out, &[more, 0, 0, 0, transform.kind, 0], 2, |out| {
                    out.extend_from_slice(&transform.id.to_be_bytes());
                    if let Some(bits) = transform.key_bits {
                        out.extend_from_slice(&KEY_LENGTH.to_be_bytes());
                        out.extend_from_slice(&bits.to_be_bytes());
                    }
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Vec<u8> {
        let gcm = Transform {
            kind: transform::ENCR,
            id: 20,
            key_bits: Some(256),
        };
        let prf = Transform {
            kind: transform::PRF,
            id: 5,
            key_bits: None,
        };
        let offer = |number| Offer {
            number,
            protocol: PROTOCOL_IKE,
            spi: &[],
            transforms: vec![gcm, prf],
        };
        let mut out = Vec::new();
        emit(&[offer(1), offer(2)], &mut out);
        out
    }

    #[test]
    fn proposals_read_back() {
        let body = body();
        let proposals: Vec<_> = parse(&body).expect("well formed").collect();
        assert_eq!(proposals.len(), 2);
        assert_eq!(proposals[1].number, 2);
        let transforms: Vec<_> = proposals[0].transforms().collect();
        assert_eq!(transforms[0].key_bits, Some(256));
        assert_eq!(transforms[1].id, 5);
    }

    #[test]
    fn cuts_inside_a_proposal_are_refused() {
        let body = body();
        let whole = body.len() / 2;
        for end in (1..body.len()).filter(|end| *end != whole) {
            assert!(parse(&body[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_proposal_shorter_than_its_header_is_refused() {
        assert!(parse(&[0, 0, 0, 3, 1, 1, 0, 0]).is_err());
        assert!(parse(&[0, 0, 0, 0, 1, 1, 0, 0]).is_err());
    }
}
