//! The chain of payloads behind a header (RFC 7296, 3.2), checked once and then read without
//! copies, and the writer that builds such a chain.

use super::{WireError, cursor::Cursor, cursor::with_length, notify::Notify};

const GENERIC_HEADER: usize = 4;
const CRITICAL: u8 = 0x80;

/// Payload type numbers (IANA). A newtype, not an enum: unknown ones are skipped, not refused.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PayloadKind(pub u8);

impl PayloadKind {
    /// End of the chain.
    pub const NONE: Self = Self(0);
    /// Security Association.
    pub const SA: Self = Self(33);
    /// Key Exchange.
    pub const KE: Self = Self(34);
    /// Identification of the initiator.
    pub const ID_I: Self = Self(35);
    /// Identification of the responder.
    pub const ID_R: Self = Self(36);
    /// Certificate.
    pub const CERT: Self = Self(37);
    /// Certificate Request.
    pub const CERTREQ: Self = Self(38);
    /// Authentication.
    pub const AUTH: Self = Self(39);
    /// Nonce.
    pub const NONCE: Self = Self(40);
    /// Notify.
    pub const NOTIFY: Self = Self(41);
    /// Delete.
    pub const DELETE: Self = Self(42);
    /// Vendor ID.
    pub const VENDOR_ID: Self = Self(43);
    /// Traffic selectors of the initiator.
    pub const TS_I: Self = Self(44);
    /// Traffic selectors of the responder.
    pub const TS_R: Self = Self(45);
    /// Encrypted and authenticated.
    pub const SK: Self = Self(46);
    /// Configuration.
    pub const CP: Self = Self(47);
    /// Extensible Authentication.
    pub const EAP: Self = Self(48);
    /// Encrypted and authenticated, a piece of it (RFC 7383, 2.5).
    pub const SKF: Self = Self(53);

    /// Whether what it holds is protected by the keys of an IKE SA.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(self, Self::SK | Self::SKF)
    }

    /// Types the RFC defines; only others may be refused for their critical bit (RFC 7296, 2.5).
    const fn is_defined(self) -> bool {
        matches!(self.0, 33..=48)
    }

    /// Types of which a message holds one at most.
    const fn is_single(self) -> bool {
        !matches!(
            self,
            Self::CERT | Self::CERTREQ | Self::NOTIFY | Self::DELETE | Self::VENDOR_ID
        ) && self.is_defined()
    }
}

/// One payload without its generic header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Payload<'a> {
    /// Its type.
    pub kind: PayloadKind,
    /// Critical bit.
    pub critical: bool,
    /// What follows the generic header.
    pub body: &'a [u8],
}

/// A payload chain that has been walked once: lengths add up, nothing that may come once comes
/// twice, and nothing critical is unknown.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    first: PayloadKind,
    octets: &'a [u8],
}

impl<'a> Chain<'a> {
    /// Payloads accepted in one message. strongSwan sends about 15 at most, libreswan 12.
    pub const MAX_PAYLOADS: usize = 64;

    /// Walks the whole chain; `first` is the kind in the header before it.
    pub fn parse(first: PayloadKind, octets: &'a [u8]) -> Result<Self, WireError> {
        let mut seen = 0_u64;
        let mut walk = Payloads {
            next: first,
            chain: Cursor::new(octets),
        };
        let mut count = 0;
        for payload in walk.by_ref() {
            let Payload { kind, critical, .. } = payload?;
            count += 1;
            if count > Self::MAX_PAYLOADS {
                return Err(WireError::TooMany {
                    what: "payloads",
                    limit: Self::MAX_PAYLOADS,
                });
            }
            if critical && !kind.is_defined() {
                return Err(WireError::Critical(kind.0));
            }
            let bit = 1_u64.checked_shl(u32::from(kind.0)).unwrap_or(0);
            if kind.is_single() && seen & bit != 0 {
                return Err(WireError::TooMany {
                    what: "payloads of one kind",
                    limit: 1,
                });
            }
            seen |= bit;
            if kind == PayloadKind::SK {
                // SK ends the chain: its next-payload field names what is inside (RFC 7296, 3.14).
                break;
            }
        }
        if !walk.chain.is_empty() {
            return Err(WireError::Length {
                at: walk.chain.position(),
            });
        }
        Ok(Self { first, octets })
    }

    /// All payloads in wire order.
    pub fn payloads(&self) -> impl Iterator<Item = Payload<'a>> + use<'a> {
        Payloads {
            next: self.first,
            chain: Cursor::new(self.octets),
        }
        .map_while(Result::ok)
    }

    /// The bodies of all payloads of one kind.
    pub fn all(&self, kind: PayloadKind) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.payloads()
            .filter(move |payload| payload.kind == kind)
            .map(|payload| payload.body)
    }

    /// The body of the first payload of a kind.
    #[must_use]
    pub fn one(&self, kind: PayloadKind) -> Option<&'a [u8]> {
        self.all(kind).next()
    }

    /// All notifications that are well formed.
    pub fn notifies(&self) -> impl Iterator<Item = Notify<'a>> + use<'a> {
        self.all(PayloadKind::NOTIFY)
            .filter_map(|body| Notify::parse(body).ok())
    }
}

/// The payload chain in wire order. Yields one error at most, then ends.
struct Payloads<'a> {
    next: PayloadKind,
    chain: Cursor<'a>,
}

impl<'a> Iterator for Payloads<'a> {
    type Item = Result<Payload<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == PayloadKind::NONE {
            return None;
        }
        let payload = self.read();
        if payload.is_err() {
            self.next = PayloadKind::NONE;
        }
        Some(payload)
    }
}

impl<'a> Payloads<'a> {
    fn read(&mut self) -> Result<Payload<'a>, WireError> {
        let at = self.chain.position();
        let [next, flags] = self.chain.array()?;
        let length = usize::from(self.chain.u16()?);
        let length = length
            .checked_sub(GENERIC_HEADER)
            .ok_or(WireError::Length { at })?;
        let body = self.chain.take(length)?;
        let kind = std::mem::replace(&mut self.next, PayloadKind(next));
        if kind == PayloadKind::SK {
            self.next = PayloadKind::NONE;
        }
        Ok(Payload {
            kind,
            critical: flags & CRITICAL != 0,
            body,
        })
    }
}

/// Room of a chain from the start: most fit, and none grows more than once or twice.
const TYPICAL_CHAIN: usize = 512;

/// Writes a payload chain, each payload naming the next.
#[derive(Clone, Debug)]
pub struct ChainWriter {
    first: Option<PayloadKind>,
    last_at: usize,
    out: Vec<u8>,
}

impl ChainWriter {
    /// An empty chain.
    #[must_use]
    pub fn new() -> Self {
        Self {
            first: None,
            last_at: 0,
            out: Vec::with_capacity(TYPICAL_CHAIN),
        }
    }

    /// Appends a payload whose body `write` produces.
    pub fn payload(&mut self, kind: PayloadKind, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let at = self.out.len();
        if self.first.is_none() {
            self.first = Some(kind);
        } else if let Some(next) = self.out.get_mut(self.last_at) {
            *next = kind.0;
        }
        self.last_at = at;
        with_length(&mut self.out, &[0; GENERIC_HEADER], 2, write);
        self
    }

    /// Appends a payload with these octets.
    pub fn octets(&mut self, kind: PayloadKind, body: &[u8]) -> &mut Self {
        self.payload(kind, |out| out.extend_from_slice(body))
    }

    /// Appends a notification about the IKE SA: protocol 0, no SPI.
    pub fn notify(&mut self, kind: super::notify::NotifyKind, data: &[u8]) -> &mut Self {
        self.payload(PayloadKind::NOTIFY, |out| Notify::emit(kind, data, out))
    }

    /// Octets of the chain so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether it has no payload yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Kind of the first payload, and the chain's octets.
    #[must_use]
    pub fn finish(self) -> (PayloadKind, Vec<u8>) {
        (self.first.unwrap_or(PayloadKind::NONE), self.out)
    }
}

impl Default for ChainWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> (PayloadKind, Vec<u8>) {
        let mut writer = ChainWriter::new();
        writer
            .octets(PayloadKind::NONCE, &[7; 16])
            .octets(PayloadKind::VENDOR_ID, b"x");
        writer.finish()
    }

    #[test]
    fn a_chain_reads_back_in_order() {
        let (first, octets) = chain();
        let chain = Chain::parse(first, &octets).expect("valid chain");
        let kinds: Vec<_> = chain.payloads().map(|payload| payload.kind).collect();
        assert_eq!(kinds, [PayloadKind::NONCE, PayloadKind::VENDOR_ID]);
        assert_eq!(chain.one(PayloadKind::NONCE), Some(&[7; 16][..]));
    }

    #[test]
    fn every_truncation_is_refused() {
        let (first, octets) = chain();
        for end in 0..octets.len() {
            assert!(Chain::parse(first, &octets[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn octets_behind_the_last_payload_are_refused() {
        let (first, mut octets) = chain();
        octets.push(0);
        assert!(Chain::parse(first, &octets).is_err());
    }

    #[test]
    fn a_zero_length_does_not_loop() {
        let octets = [PayloadKind::NONCE.0, 0, 0, 0];
        assert_eq!(
            Chain::parse(PayloadKind::NONCE, &octets).err(),
            Some(WireError::Length { at: 0 })
        );
    }

    #[test]
    fn two_nonces_and_unknown_critical_payloads_are_refused() {
        let mut writer = ChainWriter::new();
        writer
            .octets(PayloadKind::NONCE, &[7; 16])
            .octets(PayloadKind::NONCE, &[8; 16]);
        let (first, octets) = writer.finish();
        assert!(Chain::parse(first, &octets).is_err());
        let mut writer = ChainWriter::new();
        writer.octets(PayloadKind(99), &[1]);
        let (first, mut octets) = writer.finish();
        assert!(Chain::parse(first, &octets).is_ok());
        octets[1] = CRITICAL;
        assert_eq!(
            Chain::parse(first, &octets).err(),
            Some(WireError::Critical(99))
        );
    }

    #[test]
    fn sixty_five_payloads_are_too_many() {
        let mut writer = ChainWriter::new();
        for _ in 0..=Chain::MAX_PAYLOADS {
            writer.octets(PayloadKind::VENDOR_ID, b"v");
        }
        let (first, octets) = writer.finish();
        assert!(matches!(
            Chain::parse(first, &octets),
            Err(WireError::TooMany { .. })
        ));
    }
}
