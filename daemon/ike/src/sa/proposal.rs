//! What a configuration offers, and which offer of a peer we take (RFC 7296, 2.7 and 3.3.6).

use std::fmt;

use crate::{
    crypto::{Encryption, Group, Prf},
    kernel::EspCipher,
    wire::{
        WireError,
        header::Spi,
        sa::{self, Offer, PROTOCOL_ESP, PROTOCOL_IKE, Proposal, Transform, transform},
    },
};

/// One complete set of transforms of an IKE SA.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IkeSuite {
    /// Cipher.
    pub encryption: Encryption,
    /// Pseudo-random function.
    pub prf: Prf,
    /// Key exchange.
    pub group: Group,
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            encryption,
            prf,
            group,
        } = self;
        write!(f, "{}-{}-{}", encryption.name(), prf.name(), group.name())
    }
}

impl IkeSuite {
    fn transforms(self) -> Vec<Transform> {
        let plain = |kind, id| Transform {
            kind,
            id,
            key_bits: None,
        };
        let mut transforms = encryption_transforms(self.encryption);
        transforms.push(plain(transform::PRF, self.prf.number()));
        transforms.push(plain(transform::KE, self.group.number()));
        transforms
    }

    fn is_offered_by(self, proposal: &Proposal<'_>) -> bool {
        covers(proposal, &self.transforms())
    }
}

/// What the peer's offer came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chosen<T> {
    /// Number of the peer's proposal.
    pub number: u8,
    /// What we took of it.
    pub suite: T,
}

/// Appends the SA payload that offers the suites, best first. Suites that are every combination of
/// their parts, as from one proposal string, go into one proposal and save a few hundred octets; others
/// each get their own. AEADs never share one with other ciphers (RFC 7296, 3.3). `spi` is empty in a first
/// exchange and ours in a rekey.
pub fn offer_ike(suites: &[IkeSuite], spi: &[u8], out: &mut Vec<u8>) {
    let is_aead = |suite: &IkeSuite| suite.encryption.integrity().is_none();
    let alike = suites.chunk_by(|one, next| is_aead(one) == is_aead(next));
    let offers: Vec<_> = numbered(alike.flat_map(merged).collect())
        .map(|(number, transforms)| Offer {
            number,
            protocol: PROTOCOL_IKE,
            spi,
            transforms,
        })
        .collect();
    sa::emit(&offers, out);
}

/// One proposal for suites that are every combination of their parts, or one for each.
fn merged(suites: &[IkeSuite]) -> Vec<Vec<Transform>> {
    let parts = distinct(suites.iter().flat_map(|suite| suite.transforms()));
    let of_kind = |kind| parts.iter().filter(|part| part.kind == kind).count();
    let kinds = [transform::ENCR, transform::PRF, transform::KE];
    let product: usize = kinds.into_iter().map(of_kind).product();
    let product = product * of_kind(transform::INTEG).max(1);
    if distinct(suites.iter().copied()).len() == product {
        return vec![parts];
    }
    suites.iter().map(|suite| suite.transforms()).collect()
}

/// Appends the SA payload that says which suite was chosen, with our SPI in a rekey.
pub fn answer_ike(chosen: Chosen<IkeSuite>, spi: &[u8], out: &mut Vec<u8>) {
    let transforms = chosen.suite.transforms();
    sa::emit(
        &[Offer {
            number: chosen.number,
            protocol: PROTOCOL_IKE,
            spi,
            transforms,
        }],
        out,
    );
}

/// The first of our suites that the peer offers; its KE payload's group wins among equals so that no
/// round trip is wasted on INVALID_KE_PAYLOAD.
pub fn choose_ike(
    body: &[u8],
    ours: &[IkeSuite],
    ke_group: Option<Group>,
) -> Result<Option<Chosen<IkeSuite>>, WireError> {
    let find = |wanted: &dyn Fn(&IkeSuite) -> bool| -> Result<_, WireError> {
        for suite in ours.iter().copied().filter(wanted) {
            let offered = |proposal: &Proposal<'_>| {
                proposal.protocol == PROTOCOL_IKE && suite.is_offered_by(proposal)
            };
            if let Some(proposal) = sa::parse(body)?.find(offered) {
                return Ok(Some(Chosen {
                    number: proposal.number,
                    suite,
                }));
            }
        }
        Ok(None)
    };
    match find(&|suite| Some(suite.group) == ke_group)? {
        Some(chosen) => Ok(Some(chosen)),
        None => find(&|_| true),
    }
}

/// The peer's new SPI in a rekey's proposal with this number (RFC 7296, 1.3.2).
#[must_use]
pub fn rekey_spi(body: &[u8], number: u8) -> Option<Spi> {
    let mut proposals = sa::parse(body).ok()?;
    let proposal = proposals.find(|proposal| proposal.number == number)?;
    Spi::try_from(proposal.spi)
        .ok()
        .filter(|spi| *spi != [0; 8])
}

/// Whether an SA payload offers an IKE SA, and not a Child SA.
#[must_use]
pub fn offers_ike(body: &[u8]) -> bool {
    sa::parse(body).is_ok_and(|mut all| all.any(|proposal| proposal.protocol == PROTOCOL_IKE))
}

/// A Child SA's choice, with the peer's inbound SPI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EspChoice {
    /// Number of the peer's proposal.
    pub number: u8,
    /// Cipher.
    pub cipher: EspCipher,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Group of a key exchange of its own.
    pub group: Option<Group>,
    /// The peer's SPI.
    pub spi: u32,
}

/// What a configuration proposes for a Child SA: any of the ciphers, with any of the rest. Each list is
/// best first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EspProposal {
    /// Ciphers; at least one. Either AEADs, or every combination of some others with what authenticates them.
    pub ciphers: Vec<EspCipher>,
    /// Groups of a key exchange of its own, of which there must be one. None: if the peer likes, in a group
    /// of the IKE SA's.
    pub groups: Vec<Group>,
    /// With extended sequence numbers, or without; at least one.
    pub esn: Vec<bool>,
}

impl EspProposal {
    /// The ciphers, with or without the rest.
    #[must_use]
    pub fn of(ciphers: &[EspCipher]) -> Self {
        Self {
            ciphers: ciphers.to_vec(),
            groups: Vec::new(),
            esn: vec![true, false],
        }
    }

    /// What may be the key exchange of a Child SA's own, `None` for none at all.
    fn exchanges(&self, own: OwnExchange<'_>) -> Vec<Option<Group>> {
        let some = |groups: &[Group]| groups.iter().copied().map(Some).collect();
        match own {
            OwnExchange::Never => vec![None],
            OwnExchange::Among(_) if !self.groups.is_empty() => some(&self.groups),
            OwnExchange::Among(groups) => {
                let mut exchanges: Vec<_> = some(groups);
                // Without one rather than not at all.
                exchanges.push(None);
                exchanges
            }
        }
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ciphers = self.ciphers.iter().map(|cipher| cipher.name());
        let groups = self.groups.iter().map(|group| group.name());
        let esn = self
            .esn
            .iter()
            .map(|esn| if *esn { "esn" } else { "noesn" });
        let words: Vec<_> = ciphers.chain(groups).chain(esn).collect();
        f.write_str(&words.join("-"))
    }
}

/// Whether a Child SA may have a key exchange of its own.
#[derive(Clone, Copy, Debug)]
pub enum OwnExchange<'a> {
    /// Not in IKE_AUTH (RFC 7296, 1.2).
    Never,
    /// In CREATE_CHILD_SA, in one of these groups where the proposal names none.
    Among(&'a [Group]),
}

/// The group that a request for a Child SA brings a public value of, where one is proposed at all.
#[must_use]
pub fn first_group(proposals: &[EspProposal], own: OwnExchange<'_>) -> Option<Group> {
    let groups = proposals.iter().flat_map(|one| one.exchanges(own));
    groups.flatten().next()
}

/// Whether a Child SA may have this group for a key exchange of its own.
#[must_use]
pub fn may_exchange_in(proposals: &[EspProposal], own: OwnExchange<'_>, group: Group) -> bool {
    let mut groups = proposals.iter().flat_map(|one| one.exchanges(own));
    groups.any(|one| one == Some(group))
}

/// Appends the SA payload that offers what is proposed for a Child SA.
pub fn offer_esp(proposals: &[EspProposal], own: OwnExchange<'_>, spi: u32, out: &mut Vec<u8>) {
    let spi = spi.to_be_bytes();
    let offer = |(number, one): (u8, &EspProposal)| {
        let ciphers = one.ciphers.iter();
        let mut transforms = distinct(ciphers.flat_map(|cipher| encryption_transforms(*cipher)));
        let groups = one.exchanges(own);
        if groups.iter().any(Option::is_some) {
            transforms.extend(distinct(groups.into_iter().map(ke_transform)));
        }
        transforms.extend(distinct(one.esn.iter().map(|esn| esn_transform(*esn))));
        Offer {
            number,
            protocol: PROTOCOL_ESP,
            spi: &spi,
            transforms,
        }
    };
    let offers: Vec<_> = numbered(proposals.iter().collect()).map(offer).collect();
    sa::emit(&offers, out);
}

/// Appends the SA payload that says what was chosen for a Child SA.
pub fn answer_esp(choice: &EspChoice, our_spi: u32, out: &mut Vec<u8>) {
    let mut transforms = encryption_transforms(choice.cipher);
    transforms.push(esn_transform(choice.esn));
    transforms.extend(choice.group.map(|group| ke_transform(Some(group))));
    let spi = our_spi.to_be_bytes();
    sa::emit(
        &[Offer {
            number: choice.number,
            protocol: PROTOCOL_ESP,
            spi: &spi,
            transforms,
        }],
        out,
    );
}

/// The first of ours that the peer offers. The group of its KE payload wins among equals, so that no round
/// trip is wasted on INVALID_KE_PAYLOAD.
pub fn choose_esp(
    body: &[u8],
    ours: &[EspProposal],
    own: OwnExchange<'_>,
    ke_group: Option<Group>,
) -> Result<Option<EspChoice>, WireError> {
    for at_hand in [true, false] {
        for one in ours {
            let mut groups = one.exchanges(own);
            groups.retain(|group| (group.is_none() || *group == ke_group) == at_hand);
            // What is at hand comes before none at all.
            groups.sort_by_key(Option::is_none);
            for (&cipher, &esn, &group) in one.ciphers.iter().flat_map(|cipher| {
                let groups = &groups;
                let forms = one.esn.iter();
                forms.flat_map(move |esn| groups.iter().map(move |group| (cipher, esn, group)))
            }) {
                if let Some(choice) = offered_esp(body, cipher, esn, group)? {
                    return Ok(Some(choice));
                }
            }
        }
    }
    Ok(None)
}

fn offered_esp(
    body: &[u8],
    cipher: EspCipher,
    esn: bool,
    group: Option<Group>,
) -> Result<Option<EspChoice>, WireError> {
    let mut wanted = encryption_transforms(cipher);
    wanted.push(esn_transform(esn));
    wanted.extend(group.map(|group| ke_transform(Some(group))));
    for proposal in sa::parse(body)? {
        let Ok(spi) = <[u8; 4]>::try_from(proposal.spi) else {
            continue;
        };
        if proposal.protocol == PROTOCOL_ESP && covers(&proposal, &wanted) {
            return Ok(Some(EspChoice {
                number: proposal.number,
                cipher,
                esn,
                group,
                spi: u32::from_be_bytes(spi),
            }));
        }
    }
    Ok(None)
}

/// Whether a proposal has one transform of each wanted kind and demands no kind beyond: a kind that
/// the proposal has and we do not must offer NONE (RFC 7296, 3.3.6).
fn covers(proposal: &Proposal<'_>, wanted: &[Transform]) -> bool {
    let none_is_enough = |kind| proposal.transforms().any(|t| t.kind == kind && t.id == 0);
    wanted
        .iter()
        .all(|want| proposal.transforms().any(|t| t == *want))
        && proposal
            .transforms()
            .all(|t| wanted.iter().any(|want| want.kind == t.kind) || none_is_enough(t.kind))
}

fn numbered<T>(list: Vec<T>) -> impl Iterator<Item = (u8, T)> {
    (1..=u8::MAX).zip(list).take(sa::MAX_PROPOSALS)
}

/// The first of each, in order. Transforms of one kind stay together, as their order is meant.
fn distinct<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(Vec::new(), |mut seen, one| {
        if !seen.contains(&one) {
            seen.push(one);
        }
        seen
    })
}

/// The cipher, and what authenticates it if it does not do so itself.
fn encryption_transforms(encryption: Encryption) -> Vec<Transform> {
    let (id, key_bits) = encryption.transform();
    let cipher = Transform {
        kind: transform::ENCR,
        id,
        key_bits,
    };
    let integrity = encryption.integrity().map(|integrity| Transform {
        kind: transform::INTEG,
        id: integrity.number(),
        key_bits: None,
    });
    std::iter::once(cipher).chain(integrity).collect()
}

const fn ke_transform(group: Option<Group>) -> Transform {
    let id = match group {
        Some(group) => group.number(),
        None => 0,
    };
    Transform {
        kind: transform::KE,
        id,
        key_bits: None,
    }
}

const fn esn_transform(esn: bool) -> Transform {
    Transform {
        kind: transform::ESN,
        id: esn as u16,
        key_bits: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: IkeSuite = IkeSuite {
        encryption: Encryption::AesGcm128,
        prf: Prf::HmacSha256,
        group: Group::X25519,
    };
    const OTHER: IkeSuite = IkeSuite {
        encryption: Encryption::AesGcm256,
        prf: Prf::HmacSha384,
        group: Group::P384,
    };

    #[test]
    fn all_combinations_of_their_parts_go_into_one_proposal() {
        let mut suites = Vec::new();
        for encryption in [Encryption::AesGcm256, Encryption::AesGcm128] {
            for group in [Group::X25519, Group::P256] {
                suites.push(IkeSuite {
                    encryption,
                    prf: Prf::HmacSha256,
                    group,
                });
            }
        }
        let mut body = Vec::new();
        offer_ike(&suites, &[], &mut body);
        assert_eq!(sa::parse(&body).unwrap().count(), 1);
        for suite in suites {
            let chosen = choose_ike(&body, &[suite], None).unwrap().unwrap();
            assert_eq!(chosen, Chosen { number: 1, suite });
        }
    }

    #[test]
    fn our_order_decides_but_the_key_exchange_at_hand_comes_first() {
        let mut body = Vec::new();
        offer_ike(&[OTHER, FAST], &[], &mut body);
        let chosen = |ke| choose_ike(&body, &[FAST, OTHER], ke).unwrap().unwrap();
        assert_eq!(
            chosen(None),
            Chosen {
                number: 2,
                suite: FAST
            }
        );
        assert_eq!(
            chosen(Some(Group::P384)),
            Chosen {
                number: 1,
                suite: OTHER
            }
        );
        assert_eq!(choose_ike(&body, &[], None), Ok(None));
    }

    #[test]
    fn an_integrity_algorithm_beside_an_aead_is_refused_unless_none_is_offered() {
        let mut transforms = FAST.transforms();
        transforms.push(Transform {
            kind: transform::INTEG,
            id: 12,
            key_bits: None,
        });
        let mut offer = Offer {
            number: 1,
            protocol: PROTOCOL_IKE,
            spi: &[],
            transforms,
        };
        let mut body = Vec::new();
        sa::emit(std::slice::from_ref(&offer), &mut body);
        assert_eq!(choose_ike(&body, &[FAST], None), Ok(None));
        offer.transforms.push(Transform {
            kind: transform::INTEG,
            id: 0,
            key_bits: None,
        });
        body.clear();
        sa::emit(&[offer], &mut body);
        assert!(choose_ike(&body, &[FAST], None).unwrap().is_some());
    }

    #[test]
    fn a_key_exchange_of_its_own_is_of_create_child_sa_and_of_the_groups_that_are_named() {
        let own = OwnExchange::Among(&[Group::X25519]);
        let named = |groups: &[Group]| {
            vec![EspProposal {
                groups: groups.to_vec(),
                ..EspProposal::of(&[EspCipher::AesGcm128])
            }]
        };
        let choose = |theirs: &[Group], ours: &[Group], own, ke| {
            let mut body = Vec::new();
            offer_esp(&named(theirs), own, 0x0102_0304, &mut body);
            let choice = choose_esp(&body, &named(ours), own, ke).expect("well formed");
            choice.map(|choice| choice.group)
        };
        let (curve, p256, p384) = (Group::X25519, Group::P256, Group::P384);
        // None in IKE_AUTH, whatever is named.
        assert_eq!(
            choose(&[p256], &[p384], OwnExchange::Never, None),
            Some(None)
        );
        // What is named must be.
        assert_eq!(choose(&[p256], &[p256], own, Some(p256)), Some(Some(p256)));
        assert_eq!(choose(&[p256], &[p384], own, Some(p256)), None);
        // The public value at hand is good before a better group, and another is asked for if need be.
        assert_eq!(
            choose(&[p256, p384], &[p384, p256], own, Some(p256)),
            Some(Some(p256))
        );
        assert_eq!(
            choose(&[p256, p384], &[p384], own, Some(p256)),
            Some(Some(p384))
        );
        // Nothing named: with one, without one, as the peer has it.
        assert_eq!(choose(&[], &[], own, Some(curve)), Some(Some(curve)));
        assert_eq!(choose(&[], &[], own, Some(p384)), Some(None));
        assert_eq!(choose(&[curve], &[], own, Some(curve)), Some(Some(curve)));
    }

    #[test]
    fn an_esp_offer_without_spi_is_skipped() {
        let of = |cipher| [EspProposal::of(&[cipher])];
        let mut body = Vec::new();
        let ours = of(EspCipher::AesGcm128);
        offer_esp(&ours, OwnExchange::Never, 0x0102_0304, &mut body);
        let choice = choose_esp(&body, &ours, OwnExchange::Never, None)
            .unwrap()
            .unwrap();
        assert_eq!((choice.spi, choice.esn), (0x0102_0304, true));
        let other = of(EspCipher::AesGcm256);
        assert_eq!(
            choose_esp(&body, &other, OwnExchange::Never, None),
            Ok(None)
        );
    }
}
