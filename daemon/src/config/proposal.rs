//! Proposal strings as both Swans write them, `aes256gcm16-prfsha256-x25519`, to complete suites.
//! Repeats are dropped, so a list is never longer than the 27 combinations there are.

use ike::{
    crypto::{Encryption, Group, Prf},
    kernel::EspCipher,
    sa::proposal::{EspProposal, IkeSuite},
};

use super::{document::quoted, section::Entry};

const ENCRYPTION: [Encryption; 3] = [
    Encryption::AesGcm256,
    Encryption::AesGcm128,
    Encryption::ChaCha20Poly1305,
];
const PRFS: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];
const GROUPS: [Group; 3] = [Group::X25519, Group::P256, Group::P384];
/// PRFs offered by default. SHA-512 brings nothing over SHA-384 but octets in the first message.
const DEFAULT_PRFS: [Prf; 2] = [Prf::HmacSha256, Prf::HmacSha384];

/// Other spellings of the same transforms.
const ALIASES: [(&str, &str); 10] = [
    ("aes128gcm", "aes128gcm16"),
    ("aes128gcm128", "aes128gcm16"),
    ("aes256gcm", "aes256gcm16"),
    ("aes256gcm128", "aes256gcm16"),
    ("chacha20poly1305compat", "chacha20poly1305"),
    ("curve25519", "x25519"),
    ("dh19", "ecp256"),
    ("dh20", "ecp384"),
    ("dh31", "x25519"),
    ("chacha20_poly1305", "chacha20poly1305"),
];

/// What `proposals = "default"` means: best first.
pub(super) fn default_suites() -> Vec<IkeSuite> {
    product(&ENCRYPTION, &DEFAULT_PRFS, &GROUPS)
}

/// What `esp_proposals = "default"` means: best first.
pub(super) fn default_esp() -> Vec<EspProposal> {
    vec![EspProposal::of(&ENCRYPTION.map(esp))]
}

/// Reads `proposals`. A string with several transforms of a kind stands for all combinations.
pub(super) fn suites(entry: &Entry<'_>) -> Option<Vec<IkeSuite>> {
    let mut suites = Vec::new();
    let mut sound = true;
    for (text, element) in entry.strings()? {
        let parsed = if text == "default" {
            Ok(default_suites())
        } else {
            ike_proposal(text)
        };
        match parsed {
            Ok(more) => append(&mut suites, more),
            Err(what) => {
                element.fail(what);
                sound = false;
            }
        }
    }
    finished(entry, suites, sound)
}

/// Reads `esp_proposals`.
pub(super) fn esp_proposals(entry: &Entry<'_>) -> Option<Vec<EspProposal>> {
    let mut proposals = Vec::new();
    let mut sound = true;
    for (text, element) in entry.strings()? {
        let parsed = if text == "default" {
            Ok(default_esp())
        } else {
            esp_proposal(text).map(|proposal| vec![proposal])
        };
        match parsed {
            Ok(more) => append(&mut proposals, more),
            Err(what) => {
                element.fail(what);
                sound = false;
            }
        }
    }
    finished(entry, proposals, sound)
}

fn finished<T>(entry: &Entry<'_>, list: Vec<T>, sound: bool) -> Option<Vec<T>> {
    if !sound {
        return None;
    }
    if list.is_empty() {
        entry.fail("is empty; write \"default\" or leave it out");
        return None;
    }
    Some(list)
}

fn ike_proposal(text: &str) -> Result<Vec<IkeSuite>, String> {
    let (mut encryption, mut prfs, mut groups) = (Vec::new(), Vec::new(), Vec::new());
    for word in text.split('-') {
        match Transform::read(word)? {
            Transform::Encryption(one) => append(&mut encryption, [one]),
            Transform::Prf(one) => append(&mut prfs, [one]),
            Transform::Group(one) => append(&mut groups, [one]),
        }
    }
    let lacking = |kind: &str, example: &str| {
        Err(format!(
            "{} names no {kind}; add one, such as {example}",
            quoted(text)
        ))
    };
    if encryption.is_empty() {
        return lacking("cipher", "aes256gcm16");
    }
    if prfs.is_empty() {
        return lacking("PRF", "prfsha256");
    }
    if groups.is_empty() {
        return lacking("key exchange group", "x25519");
    }
    Ok(product(&encryption, &prfs, &groups))
}

/// Groups, if any, are of a key exchange of each Child SA's own, which there must be then.
fn esp_proposal(text: &str) -> Result<EspProposal, String> {
    let (mut ciphers, mut groups, mut esn) = (Vec::new(), Vec::new(), Vec::new());
    for word in text.split('-') {
        match word {
            "esn" => append(&mut esn, [true]),
            "noesn" => append(&mut esn, [false]),
            _ => match Transform::read(word)? {
                Transform::Encryption(one) => append(&mut ciphers, [esp(one)]),
                Transform::Group(one) => append(&mut groups, [one]),
                Transform::Prf(_) => {
                    return Err(format!(
                        "{} is a PRF, which ESP does not use; leave it out",
                        quoted(word)
                    ));
                }
            },
        }
    }
    if ciphers.is_empty() {
        return Err(format!(
            "{} names no cipher; add one, such as aes256gcm16",
            quoted(text)
        ));
    }
    if esn.is_empty() {
        esn = vec![true, false];
    }
    Ok(EspProposal {
        ciphers,
        groups,
        esn,
    })
}

enum Transform {
    Encryption(Encryption),
    Prf(Prf),
    Group(Group),
}

impl Transform {
    fn read(word: &str) -> Result<Self, String> {
        let name = ALIASES
            .iter()
            .find(|(alias, _)| *alias == word)
            .map_or(word, |(_, name)| name);
        let found = None
            .or_else(|| {
                ENCRYPTION
                    .into_iter()
                    .find(|one| one.name() == name)
                    .map(Self::Encryption)
            })
            .or_else(|| {
                PRFS.into_iter()
                    .find(|one| one.name() == name)
                    .map(Self::Prf)
            })
            .or_else(|| {
                GROUPS
                    .into_iter()
                    .find(|one| one.name() == name)
                    .map(Self::Group)
            });
        found.ok_or_else(|| {
            if word.starts_with("sha") || word.starts_with("md5") {
                return format!(
                    "{}: the ciphers here authenticate by themselves; for the PRF write prf{word}",
                    quoted(word)
                );
            }
            let known: Vec<&str> = ENCRYPTION
                .map(Encryption::name)
                .into_iter()
                .chain(PRFS.map(Prf::name))
                .chain(GROUPS.map(Group::name))
                .collect();
            format!(
                "{} is unknown; known are {}",
                quoted(word),
                known.join(", ")
            )
        })
    }
}

fn product(encryption: &[Encryption], prfs: &[Prf], groups: &[Group]) -> Vec<IkeSuite> {
    let mut suites = Vec::new();
    for &encryption in encryption {
        for &prf in prfs {
            for &group in groups {
                suites.push(IkeSuite {
                    encryption,
                    prf,
                    group,
                });
            }
        }
    }
    suites
}

/// Appends what is not there yet: the first mention decides the rank.
fn append<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

const fn esp(encryption: Encryption) -> EspCipher {
    match encryption {
        Encryption::AesGcm128 => EspCipher::AesGcm128,
        Encryption::AesGcm256 => EspCipher::AesGcm256,
        Encryption::ChaCha20Poly1305 => EspCipher::ChaCha20Poly1305,
    }
}
