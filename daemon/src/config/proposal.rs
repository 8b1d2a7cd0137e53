//! Proposal strings as both Swans write them, `aes256gcm16-prfsha256-x25519`, to complete suites.
//! Repeats are dropped, so a list is never longer than the 81 combinations there are.

use ike::{
    crypto::{Encryption, Group, Integrity, Prf},
    sa::proposal::{EspProposal, IkeSuite},
};

use super::{document::quoted, section::Entry};

/// AEADs: what is offered by default.
const ENCRYPTION: [Encryption; 3] = [
    Encryption::AesGcm256,
    Encryption::AesGcm128,
    Encryption::ChaCha20Poly1305,
];
/// A cipher that waits for what authenticates it.
type Unauthenticated = fn(Integrity) -> Encryption;

/// Ciphers for old peers by their names.
const CBC: [(&str, Unauthenticated); 2] = [
    ("aes128", Encryption::AesCbc128),
    ("aes256", Encryption::AesCbc256),
];
const PRFS: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];
const GROUPS: [Group; 3] = [Group::X25519, Group::P256, Group::P384];
/// PRFs offered by default. SHA-512 brings nothing over SHA-384 but octets in the first message.
const DEFAULT_PRFS: [Prf; 2] = [Prf::HmacSha256, Prf::HmacSha384];

/// Other spellings of the same transforms.
const ALIASES: [(&str, &str); 16] = [
    ("aes", "aes128"),
    ("aes128cbc", "aes128"),
    ("aes256cbc", "aes256"),
    ("sha2_256", "sha256"),
    ("sha2_384", "sha384"),
    ("sha2_512", "sha512"),
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
    vec![EspProposal::of(&ENCRYPTION)]
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
    let mut words = Words::default();
    for word in text.split('-') {
        words.take(Transform::read(word)?);
    }
    let encryption = words.encryption(text)?;
    if words.prfs.is_empty() {
        // As both Swans do it.
        let of_integrity = words.integrity.iter().map(|integrity| integrity.prf());
        words.prfs.extend(of_integrity);
    }
    if words.prfs.is_empty() {
        return Err(lacking(text, "PRF", "prfsha256"));
    }
    if words.groups.is_empty() {
        return Err(lacking(text, "key exchange group", "x25519"));
    }
    Ok(product(&encryption, &words.prfs, &words.groups))
}

/// Groups, if any, are of a key exchange of each Child SA's own, which there must be then.
fn esp_proposal(text: &str) -> Result<EspProposal, String> {
    let (mut words, mut esn) = (Words::default(), Vec::new());
    for word in text.split('-') {
        match word {
            "esn" => append(&mut esn, [true]),
            "noesn" => append(&mut esn, [false]),
            _ => match Transform::read(word)? {
                Transform::Prf(_) => {
                    return Err(format!(
                        "{} is a PRF, which ESP does not use; leave it out",
                        quoted(word)
                    ));
                }
                other => words.take(other),
            },
        }
    }
    let ciphers = words.encryption(text)?;
    if esn.is_empty() {
        esn = vec![true, false];
    }
    Ok(EspProposal {
        ciphers,
        groups: words.groups,
        esn,
    })
}

fn lacking(text: &str, kind: &str, example: &str) -> String {
    format!(
        "{} names no {kind}; add one, such as {example}",
        quoted(text)
    )
}

/// What a proposal names, by kind.
#[derive(Default)]
struct Words {
    aeads: Vec<Encryption>,
    cbc: Vec<Unauthenticated>,
    integrity: Vec<Integrity>,
    prfs: Vec<Prf>,
    groups: Vec<Group>,
}

impl Words {
    fn take(&mut self, word: Transform) {
        match word {
            Transform::Aead(one) => append(&mut self.aeads, [one]),
            // Named twice it is only combined twice, and that is dropped.
            Transform::Cbc(one) => self.cbc.push(one),
            Transform::Integrity(one) => append(&mut self.integrity, [one]),
            Transform::Prf(one) => append(&mut self.prfs, [one]),
            Transform::Group(one) => append(&mut self.groups, [one]),
        }
    }

    /// AEADs as they are, or every other cipher with everything that may authenticate it.
    fn encryption(&self, text: &str) -> Result<Vec<Encryption>, String> {
        let what = quoted(text);
        match (&self.aeads[..], &self.cbc[..], &self.integrity[..]) {
            ([], [], _) => Err(lacking(text, "cipher", "aes256gcm16")),
            (aeads, [], []) => Ok(aeads.to_vec()),
            (_, [], [one, ..]) => Err(format!(
                "{what} has {}, but its ciphers authenticate by themselves; drop it, or for the PRF \
                 write {}",
                one.name(),
                one.prf().name()
            )),
            ([], _, []) => Err(lacking(
                text,
                "algorithm that authenticates its cipher",
                "sha256",
            )),
            ([], ciphers, integrity) => {
                let mut all = Vec::new();
                for cipher in ciphers {
                    append(&mut all, integrity.iter().map(|one| cipher(*one)));
                }
                Ok(all)
            }
            _ => Err(format!(
                "{what} mixes ciphers that authenticate by themselves with others; write two proposals"
            )),
        }
    }
}

enum Transform {
    Aead(Encryption),
    Cbc(Unauthenticated),
    Integrity(Integrity),
    Prf(Prf),
    Group(Group),
}

impl Transform {
    fn read(word: &str) -> Result<Self, String> {
        let name = ALIASES
            .iter()
            .find(|(alias, _)| *alias == word)
            .map_or(word, |(_, name)| name);
        let aead = ENCRYPTION.into_iter().find(|one| one.name() == name);
        let cbc = CBC.into_iter().find(|(one, _)| *one == name);
        let integrity = Integrity::ALL.into_iter().find(|one| one.name() == name);
        let prf = PRFS.into_iter().find(|one| one.name() == name);
        let group = GROUPS.into_iter().find(|one| one.name() == name);
        let found = aead
            .map(Self::Aead)
            .or(cbc.map(|(_, one)| Self::Cbc(one)))
            .or(integrity.map(Self::Integrity))
            .or(prf.map(Self::Prf))
            .or(group.map(Self::Group));
        found.ok_or_else(|| {
            let what = quoted(word);
            if word.starts_with("modp") {
                return format!("{what}: no group of that kind is supported; use ecp256");
            }
            if word.starts_with("sha1") || word.starts_with("md5") || word.starts_with("3des") {
                return format!("{what} is too weak; use sha256, and aes256gcm16 or aes128");
            }
            let known: Vec<&str> = ENCRYPTION
                .map(Encryption::name)
                .into_iter()
                .chain(CBC.map(|(name, _)| name))
                .chain(Integrity::ALL.map(Integrity::name))
                .chain(PRFS.map(Prf::name))
                .chain(GROUPS.map(Group::name))
                .collect();
            format!("{what} is unknown; known are {}", known.join(", "))
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
