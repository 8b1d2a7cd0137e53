//! The gateway's ticket keys: sealing a state into a ticket, and telling a ticket of ours from
//! everything else. The format is in `docs/formats/ticket.md`; the envelope is shared with the gate.

use gate_abi::{
    maps::TicketKeys,
    sip::{SipKey, siphash24_128},
    ticket::{
        ENVELOPE_LEN, Envelope, EnvelopeError, Kind, MIN_TICKET, NO_COOKIE, PADDED_TOTALS,
        TAG_OFFSET,
    },
};
use ring::hkdf;
use zeroize::Zeroize;

use super::{TicketName, state::TicketState};
use crate::{
    crypto::{
        Encryption, Secret,
        aead::{Aead, TAG_LEN},
        secret::equal,
    },
    io::TicketRoot,
};

/// What a ticket's envelope says in the gate's hearing, besides its nonce.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// The ticket's name.
    pub name: TicketName,
    /// When it ends, Unix seconds; rounded down to a minute.
    pub expiry: u64,
    /// The client cannot answer COOKIE: it is refused where others would be asked for one.
    pub no_cookie: bool,
}

/// A ticket of ours, opened.
#[derive(Debug)]
pub struct Opened {
    /// Its name.
    pub name: TicketName,
    /// When it ends, Unix seconds.
    pub expiry: u64,
    /// The client cannot answer COOKIE.
    pub no_cookie: bool,
    /// What it carries, or names.
    pub state: TicketState,
    /// By reference: what it names.
    pub reference: Option<Reference>,
    /// By reference: what was kept under that name.
    pub kept: Option<Kept>,
}

/// Why a ticket is not honoured. Each becomes TICKET_NACK (RFC 5723, 4.3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Shorter than any ticket, or of an unknown kind, version or flag.
    Shape,
    /// No live key has this id.
    UnknownKey,
    /// The envelope's tag is wrong.
    Forged,
    /// Another node issued it.
    OtherNode,
    /// Its time is over, or it was issued in the future.
    Expired,
    /// It has opened an SA already.
    Used,
    /// The envelope is ours, the body is not.
    Body,
    /// By reference, and nothing is kept under it, or its check is wrong.
    Reference,
    /// The connection is gone or was changed since, or no longer allows the suite.
    Policy,
    /// The operator has revoked what was issued to this peer until then.
    Revoked,
}

impl Refused {
    /// A fixed word for logs and counters.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Shape => "shape",
            Self::UnknownKey => "unknown_key",
            Self::Forged => "forged",
            Self::OtherNode => "other_node",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::Body => "body",
            Self::Reference => "reference",
            Self::Policy => "policy",
            Self::Revoked => "revoked",
        }
    }
}

/// The gateway's live epochs, newest last. At most 256 exist, one for each key id.
#[derive(Debug, Default)]
pub struct Keyring {
    node: u8,
    epochs: Vec<Epoch>,
}

struct Epoch {
    key_id: u8,
    aead: Aead,
    k_tag: SipKey,
    k_mask: SipKey,
    k_ref: SipKey,
}

/// A reference: random, so that nobody can resolve what he was not given (RFC 5723, 9.1).
pub type Reference = [u8; 16];

/// Octets of a ticket by reference: envelope, reference, keyed check.
pub const REFERENCE_TICKET_LEN: usize = ENVELOPE_LEN + 16 + 16;

/// What the gateway keeps for a ticket by reference.
#[derive(Debug)]
pub struct Kept {
    /// The ticket's envelope; another one with the same reference is not the same ticket.
    pub envelope: [u8; ENVELOPE_LEN],
    /// The state, as [`TicketState::encode`] makes it.
    pub state: Secret,
}

impl Keyring {
    /// An empty ring of the node with this number.
    #[must_use]
    pub const fn new(node: u8) -> Self {
        Self {
            node,
            epochs: Vec::new(),
        }
    }

    /// Adds an epoch; one with the same id is replaced.
    pub fn add(&mut self, root: &TicketRoot) {
        self.retire(root.key_id);
        let derive = |label: &str, out: &mut [u8]| derive(&root.root, label, self.node, out);
        let mut key = [0; 36];
        if let Some(key) = key.get_mut(..32) {
            derive("rekindle ticket enc", key);
        }
        let key_and_salt = Secret::from(&key[..]);
        key.zeroize();
        let Some(aead) = Aead::new(Encryption::AesGcm256, &key_and_salt) else {
            return;
        };
        self.epochs.push(Epoch {
            key_id: root.key_id,
            aead,
            k_tag: sip_key(root, "rekindle ticket tag", self.node),
            k_mask: sip_key(root, "rekindle ticket mask", self.node),
            k_ref: sip_key(root, "rekindle ticket ref", self.node),
        });
    }

    /// Forgets an epoch: its tickets are refused from now on.
    pub fn retire(&mut self, key_id: u8) {
        self.epochs.retain(|epoch| epoch.key_id != key_id);
    }

    /// Forgets all epochs but these.
    pub fn retain(&mut self, live: &[u8]) {
        self.epochs.retain(|epoch| live.contains(&epoch.key_id));
    }

    /// Whether tickets of this epoch are opened.
    #[must_use]
    pub fn knows(&self, key_id: u8) -> bool {
        self.epoch(key_id).is_some()
    }

    /// Id of the epoch added last.
    #[must_use]
    pub fn newest(&self) -> Option<u8> {
        self.epochs.last().map(|epoch| epoch.key_id)
    }

    // RFC 5723: N33, N38, N40, N48, N53, N54
    /// Seals a state. `None` if the epoch is not in the ring or the state is too long for any ticket.
    #[must_use]
    pub fn seal(&self, label: Label, nonce: [u8; 12], state: &TicketState) -> Option<Vec<u8>> {
        let epoch = self.epoch(label.name.key_id)?;
        let head = self.envelope(epoch, Kind::ByValue, label, nonce)?;
        let plain = state.encode();
        let least = ENVELOPE_LEN + plain.len() + TAG_LEN;
        let total = PADDED_TOTALS.into_iter().find(|total| *total >= least)?;
        // Whole from the start: one that grows leaves what is in it behind, unwiped.
        let mut body = Vec::with_capacity(total - ENVELOPE_LEN);
        body.extend_from_slice(plain.expose());
        body.resize(total - ENVELOPE_LEN - TAG_LEN, 0);
        epoch
            .aead
            .seal_with(nonce, head.get(..TAG_OFFSET)?, &mut body);
        Some([&head[..], &body].concat())
    }

    // RFC 5723: N37
    /// Makes a ticket that names a record, and the record to keep for it.
    #[must_use]
    pub fn refer(
        &self,
        label: Label,
        nonce: [u8; 12],
        reference: Reference,
        state: &TicketState,
    ) -> Option<(Vec<u8>, Kept)> {
        let epoch = self.epoch(label.name.key_id)?;
        let envelope = self.envelope(epoch, Kind::ByReference, label, nonce)?;
        let mut ticket = envelope.to_vec();
        ticket.extend_from_slice(&reference);
        let check = siphash24_128(&epoch.k_ref, &ticket);
        ticket.extend_from_slice(&check);
        let state = state.encode();
        Some((ticket, Kept { envelope, state }))
    }

    fn envelope(
        &self,
        epoch: &Epoch,
        kind: Kind,
        label: Label,
        nonce: [u8; 12],
    ) -> Option<[u8; ENVELOPE_LEN]> {
        let Label {
            name,
            expiry,
            no_cookie,
        } = label;
        let envelope = Envelope {
            kind,
            key_id: name.key_id,
            node: self.node,
            flags: if no_cookie { NO_COOKIE } else { 0 },
            nonce,
            index: name.index,
            expiry_minutes: u32::try_from(expiry / 60).ok()?,
        };
        Some(envelope.seal(&epoch.k_tag, &epoch.k_mask))
    }

    // RFC 5723: N33, N38, L7, A16
    /// Opens a ticket: shape, then the envelope's tag, then time, then the body or, for a reference,
    /// its check and what `kept` has under it. Whether it was used is for the ledger to say.
    pub fn open(
        &self,
        ticket: &[u8],
        wall: u64,
        kept: impl FnOnce(&Reference) -> Option<Kept>,
    ) -> Result<Opened, Refused> {
        let (head, body) = ticket
            .split_first_chunk::<ENVELOPE_LEN>()
            .ok_or(Refused::Shape)?;
        if ticket.len() < MIN_TICKET {
            return Err(Refused::Shape);
        }
        gate_abi::ticket::shape(head).map_err(|_| Refused::Shape)?;
        let epoch = self
            .epoch(gate_abi::ticket::key_id_of(head))
            .ok_or(Refused::UnknownKey)?;
        let envelope =
            Envelope::open(head, &epoch.k_tag, &epoch.k_mask).map_err(|error| match error {
                EnvelopeError::Tag => Refused::Forged,
                EnvelopeError::Kind | EnvelopeError::Version | EnvelopeError::Flags => {
                    Refused::Shape
                }
            })?;
        if envelope.node != self.node {
            return Err(Refused::OtherNode);
        }
        let expiry = u64::from(envelope.expiry_minutes) * 60;
        if wall >= expiry {
            return Err(Refused::Expired);
        }
        let (state, reference, kept) = match envelope.kind {
            Kind::ByValue => (epoch.open_body(head, envelope.nonce, body)?, None, None),
            Kind::ByReference => {
                let reference = epoch.open_reference(ticket)?;
                let kept = kept(&reference)
                    .filter(|kept| kept.envelope == *head)
                    .ok_or(Refused::Reference)?;
                let state = TicketState::decode(kept.state.expose());
                let state = state.map_err(|_| Refused::Reference)?;
                (state, Some(reference), Some(kept))
            }
        };
        // A clock that was set back must not make a ticket live longer than it was meant to.
        if state.issued > wall + CLOCK_TOLERANCE_SECS {
            return Err(Refused::Expired);
        }
        Ok(Opened {
            name: name_in(&envelope),
            expiry,
            no_cookie: envelope.flags & NO_COOKIE != 0,
            state,
            reference,
            kept,
        })
    }

    /// Whether a ticket's envelope, if it is one of ours, says that the client cannot answer COOKIE.
    #[must_use]
    pub fn is_no_cookie(&self, ticket: &[u8]) -> bool {
        self.envelope_of(ticket)
            .is_some_and(|envelope| envelope.flags & NO_COOKIE != 0)
    }

    /// The name in a ticket's envelope, if it is one of ours; what is in the ticket may still be not.
    #[must_use]
    pub fn name_of(&self, ticket: &[u8]) -> Option<TicketName> {
        let envelope = self.envelope_of(ticket)?;
        (envelope.node == self.node).then_some(name_in(&envelope))
    }

    /// The same of a ticket whose time is not over, so that its body would be opened.
    pub(crate) fn live_name_of(&self, ticket: &[u8], wall: u64) -> Option<TicketName> {
        let envelope = self.envelope_of(ticket)?;
        let live = wall < u64::from(envelope.expiry_minutes) * 60;
        (live && envelope.node == self.node).then_some(name_in(&envelope))
    }

    fn envelope_of(&self, ticket: &[u8]) -> Option<Envelope> {
        let (head, _) = ticket.split_first_chunk::<ENVELOPE_LEN>()?;
        let epoch = self.epoch(gate_abi::ticket::key_id_of(head))?;
        Envelope::open(head, &epoch.k_tag, &epoch.k_mask).ok()
    }

    /// Ids of the live epochs with the keys the gate may know: `k_tag` and `k_mask`, no more.
    pub fn gate_keys(&self) -> impl Iterator<Item = (u8, TicketKeys)> {
        let keys = |epoch: &Epoch| TicketKeys {
            tag: epoch.k_tag,
            mask: epoch.k_mask,
            used_slot: None,
        };
        self.epochs
            .iter()
            .map(move |epoch| (epoch.key_id, keys(epoch)))
    }

    fn epoch(&self, key_id: u8) -> Option<&Epoch> {
        self.epochs.iter().find(|epoch| epoch.key_id == key_id)
    }
}

const fn name_in(envelope: &Envelope) -> TicketName {
    TicketName {
        key_id: envelope.key_id,
        index: envelope.index,
    }
}

impl Epoch {
    fn open_body(
        &self,
        head: &[u8; ENVELOPE_LEN],
        nonce: [u8; 12],
        body: &[u8],
    ) -> Result<TicketState, Refused> {
        let mut text = body.to_vec();
        let aad = head.get(..TAG_OFFSET).unwrap_or_default();
        let opened = self.aead.open_with(nonce, aad, &mut text);
        let state = opened
            .ok()
            .and_then(|plain| TicketState::decode(plain).ok());
        text.zeroize();
        state.ok_or(Refused::Body)
    }

    // RFC 5723: N35, N49
    /// The check binds the reference to its envelope, so that looking it up is not in the hands of
    /// whoever sends it (RFC 5723, 6.1).
    fn open_reference(&self, ticket: &[u8]) -> Result<Reference, Refused> {
        let (named, check) = ticket
            .split_at_checked(ENVELOPE_LEN + 16)
            .ok_or(Refused::Shape)?;
        if ticket.len() != REFERENCE_TICKET_LEN {
            return Err(Refused::Shape);
        }
        if !equal(check, &siphash24_128(&self.k_ref, named)) {
            return Err(Refused::Reference);
        }
        named
            .get(ENVELOPE_LEN..)
            .and_then(|reference| reference.try_into().ok())
            .ok_or(Refused::Shape)
    }
}

/// How far in the future an issue time may lie: the step after which the gate's expiry check is
/// switched off as well.
const CLOCK_TOLERANCE_SECS: u64 = 300;

/// The tag key of one epoch as 16 octets, for whoever fills the gate's map without a ring.
#[must_use]
pub fn tag_key(root: &TicketRoot, node: u8) -> [u8; 16] {
    let mut key = [0; 16];
    derive(&root.root, "rekindle ticket tag", node, &mut key);
    key
}

fn sip_key(root: &TicketRoot, label: &str, node: u8) -> SipKey {
    let mut key = [0; 16];
    derive(&root.root, label, node, &mut key);
    let sip = SipKey::from_octets(key);
    key.zeroize();
    sip
}

// RFC 5723: N51
/// HKDF-SHA-256 (RFC 5869) of the root; label and node are the info.
fn derive(root: &Secret, label: &str, node: u8, out: &mut [u8]) {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"rekindle ticket root").extract(root.expose());
    let node = [node];
    let info = [label.as_bytes(), &node];
    // Fails only for more than 255 hash lengths; the longest output here is one.
    let filled = prk
        .expand(&info, Len(out.len()))
        .and_then(|okm| okm.fill(out));
    debug_assert!(filled.is_ok());
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoch({})", self.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::state::tests::sample;

    const WALL: u64 = 1_800_000_000;
    const NAME: TicketName = TicketName {
        key_id: 7,
        index: 65_537,
    };

    const LABEL: Label = Label {
        name: NAME,
        expiry: WALL + 3600,
        no_cookie: false,
    };

    fn ring() -> Keyring {
        let mut ring = Keyring::new(1);
        ring.add(&TicketRoot {
            key_id: 7,
            root: Secret::new(vec![42; 32]),
        });
        ring
    }

    fn ticket() -> Vec<u8> {
        ring().seal(LABEL, [5; 12], &sample()).expect("fits")
    }

    // RFC 5723: N36
    #[test]
    fn a_ticket_opens_to_what_was_sealed() {
        let opened = ring().open(&ticket(), WALL, |_| None).expect("ours");
        assert_eq!(opened.name, NAME);
        assert_eq!(opened.expiry, WALL + 3600);
        assert_eq!(opened.state.sk_d, sample().sk_d);
    }

    #[test]
    fn with_two_names_of_32_octets_and_a_pre_shared_key_256_octets_are_enough() {
        assert_eq!(ticket().len(), 256);
    }

    // RFC 5723: N33, N48, N53
    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let (ring, ticket) = (ring(), ticket());
        for bit in 0..ticket.len() * 8 {
            let mut forged = ticket.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open(&forged, WALL, |_| None).is_err(), "bit {bit}");
        }
        for end in 0..ticket.len() {
            assert!(
                ring.open(&ticket[..end], WALL, |_| None).is_err(),
                "cut at {end}"
            );
        }
    }

    // RFC 5723: N38, N40, L7
    #[test]
    fn each_reason_is_told_apart() {
        let (mut ring, ticket) = (ring(), ticket());
        let with = |at: usize, octet: u8| {
            let mut changed = ticket.clone();
            changed[at] = octet;
            changed
        };
        assert_eq!(
            ring.open(&with(0, 0x31), WALL, |_| None).err(),
            Some(Refused::Shape)
        );
        assert_eq!(
            ring.open(&with(1, 8), WALL, |_| None).err(),
            Some(Refused::UnknownKey)
        );
        assert_eq!(
            ring.open(&with(4, 8), WALL, |_| None).err(),
            Some(Refused::Forged)
        );
        assert_eq!(
            ring.open(&with(40, 8), WALL, |_| None).err(),
            Some(Refused::Body)
        );
        assert_eq!(
            ring.open(&ticket, WALL + 3600, |_| None).err(),
            Some(Refused::Expired)
        );
        assert_eq!(
            ring.open(&ticket, WALL - 301, |_| None).err(),
            Some(Refused::Expired)
        );
        ring.retire(7);
        assert_eq!(
            ring.open(&ticket, WALL, |_| None).err(),
            Some(Refused::UnknownKey)
        );
    }

    // RFC 5723: N35, N49
    #[test]
    fn a_reference_opens_what_is_kept_under_it_and_nothing_else() {
        let ring = ring();
        let made = ring.refer(LABEL, [5; 12], [8; 16], &sample());
        let (ticket, kept) = made.expect("live epoch");
        assert_eq!(ticket.len(), REFERENCE_TICKET_LEN);
        let stored = |reference: &Reference| {
            (*reference == [8; 16]).then(|| Kept {
                envelope: kept.envelope,
                state: kept.state.duplicate(),
            })
        };
        let opened = ring.open(&ticket, WALL, stored).expect("ours");
        assert_eq!(opened.reference, Some([8; 16]));
        assert_eq!(opened.state.sk_d, sample().sk_d);
        assert_eq!(
            ring.open(&ticket, WALL, |_| None).err(),
            Some(Refused::Reference)
        );
        for bit in 0..ticket.len() * 8 {
            let mut forged = ticket.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let asked = |_: &Reference| panic!("bit {bit}: looked up before it was proved");
            assert!(ring.open(&forged, WALL, asked).is_err(), "bit {bit}");
        }
        for end in 0..ticket.len() {
            assert!(
                ring.open(&ticket[..end], WALL, stored).is_err(),
                "cut at {end}"
            );
        }
        // Another ticket's envelope in front of the same reference is not the same ticket.
        let other = ring
            .refer(LABEL, [6; 12], [8; 16], &sample())
            .expect("live")
            .0;
        assert_eq!(
            ring.open(&other, WALL, stored).err(),
            Some(Refused::Reference)
        );
    }

    // RFC 5723: N51
    #[test]
    fn another_node_has_other_keys() {
        let mut other = Keyring::new(2);
        other.add(&TicketRoot {
            key_id: 7,
            root: Secret::new(vec![42; 32]),
        });
        assert_eq!(
            other.open(&ticket(), WALL, |_| None).err(),
            Some(Refused::Forged)
        );
    }
}
