//! `local` and `remote` of a connection: who we are, who the peer must be, and what proves it.

use ike::{
    crypto::{CertificateChain, KeyKind, RsaPadding, Secret, TrustAnchors},
    peer::{Credential, LocalAuth, Proof},
    trust::{PinnedKey, RevocationPolicy, Revocations},
    wire::{id::Identity, pattern::Pattern},
};

use super::{
    connection::Surroundings,
    credential::PrivateKey,
    document::quoted,
    revocation::Taker,
    section::{Entry, Section},
};

pub(super) const LOCAL_KEYS: &[&str] = &["auth", "cert", "id", "key", "psk", "rsa_pss", "secret"];
pub(super) const REMOTE_KEYS: &[&str] = &[
    "auth",
    "cacerts",
    "crls",
    "id",
    "psk",
    "pubkey",
    "revocation",
    "secret",
];

#[expect(
    clippy::option_option,
    reason = "absent and wrong are different answers here"
)]
pub(super) fn remote_identity(section: &Section<'_>) -> Option<Option<Identity>> {
    match section.entry("id") {
        None => Some(None),
        Some(entry) if entry.string()? == "%any" => Some(None),
        Some(entry) if Pattern::from_text(entry.string()?).is_some() => Some(None),
        Some(entry) if entry.string()?.contains('*') => {
            entry.fail(
                "has a wildcard where none can be; write *@HOST, *.DOMAIN, or * for a whole value of a \
                 distinguished name, O=Example, CN=*",
            );
            None
        }
        Some(entry) => identity(&entry).map(Some),
    }
}

/// What the peer's identity must look like, where a wildcard says so.
pub(super) fn remote_pattern(section: &Section<'_>) -> Option<Pattern> {
    Pattern::from_text(section.entry("id")?.string()?)
}

pub(super) fn identity(entry: &Entry<'_>) -> Option<Identity> {
    let text = entry.string()?;
    let id = Identity::from_text(text);
    if id.is_none() {
        entry.fail(format!(
            "{} cannot be an identity; write a host name, name@host, an address, keyid:NAME or a \
             distinguished name such as O=Example, CN=gw",
            quoted(text)
        ));
    }
    id
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Auth {
    Psk,
    Pubkey,
}

/// `auth`, or what the keys beside it imply.
fn auth(section: &Section<'_>, certificate_keys: &[&str]) -> Option<Auth> {
    let has = |key: &&str| section.entry(key).is_some();
    let (psk, pubkey) = (
        ["psk", "secret"].iter().any(has),
        certificate_keys.iter().any(has),
    );
    let auth = match section.entry("auth") {
        Some(entry) => entry.choice(&[("psk", Auth::Psk), ("pubkey", Auth::Pubkey)])?,
        None if psk => Auth::Psk,
        None if pubkey => Auth::Pubkey,
        None => {
            section.fail(
                "auth",
                "is missing; write auth = \"psk\" or auth = \"pubkey\"",
            );
            return None;
        }
    };
    let stray: &[&str] = if auth == Auth::Psk {
        certificate_keys
    } else {
        &["psk", "secret"]
    };
    let (name, other) = if auth == Auth::Psk {
        ("psk", "pubkey")
    } else {
        ("pubkey", "psk")
    };
    for entry in stray.iter().filter_map(|key| section.entry(key)) {
        entry.fail(format!(
            "belongs to auth = \"{other}\", but auth is \"{name}\"; drop one"
        ));
    }
    Some(auth)
}

pub(super) fn local_auth(
    section: &Section<'_>,
    shared: &Shared<'_>,
) -> Option<(LocalAuth, Option<PrivateKey>)> {
    let id = section.entry("id");
    if id.is_none() {
        section.fail("id", "is missing; write the name the peer knows us by");
    }
    let id = id.and_then(|entry| identity(&entry));
    let mut rsa_padding = RsaPadding::default();
    let (credential, key) = match auth(section, &["cert", "key", "rsa_pss"])? {
        Auth::Psk => (Credential::PreShared(shared.secret(section)?), None),
        Auth::Pubkey => {
            let folders = shared.around.folders;
            let chain = match section.entry("cert") {
                None => Some(Vec::new()),
                Some(entry) => entry.string().and_then(|name| {
                    let chain = folders.chain(name);
                    chain.map_err(|what| entry.fail(what)).ok()
                }),
            };
            let key = private_key(section, shared);
            let (certificates, key) = (chain?, key?);
            let credential = match certificates.first() {
                None => Credential::PublicKey(own_public(section, &key)?),
                Some(leaf) if !key.belongs_to(leaf) => {
                    section.fail("key", "does not belong to the first certificate of cert");
                    return None;
                }
                Some(_) => Credential::Certificate(CertificateChain { certificates }),
            };
            rsa_padding = padding(section, &key)?;
            (credential, Some(key))
        }
    };
    Some((
        LocalAuth {
            id: id?,
            credential,
            rsa_padding,
        },
        key,
    ))
}

pub(super) fn remote_proof(section: &Section<'_>, shared: &Shared<'_>) -> Option<Proof> {
    if auth(section, &["cacerts", "crls", "pubkey", "revocation"])? == Auth::Psk {
        return shared.secret(section).map(Proof::PreShared);
    }
    if let Some(entry) = section.entry("pubkey") {
        return pinned(section, &entry, shared);
    }
    let Some(entry) = section.entry("cacerts") else {
        section.fail(
            "cacerts",
            "is missing; name the CA's file, cacerts = [\"ca.pem\"]",
        );
        return None;
    };
    let mut anchors = TrustAnchors::default();
    let mut sound = true;
    for (name, element) in entry.strings()? {
        let found = shared.around.folders.authorities(name).and_then(|found| {
            found.iter().try_for_each(|authority| {
                let taken = anchors.add(authority);
                taken.map_err(|error| format!("{name}: {error}"))
            })
        });
        if let Err(what) = found {
            element.fail(what);
            sound = false;
        }
    }
    if sound && anchors.is_empty() {
        entry.fail("is empty; name at least one CA");
        return None;
    }
    anchors.revocations = revocations(section, shared)?;
    sound.then_some(Proof::Certificate(anchors))
}

/// A key that stands for one peer, and needs nobody to vouch for it.
fn pinned(section: &Section<'_>, entry: &Entry<'_>, shared: &Shared<'_>) -> Option<Proof> {
    for stray in ["cacerts", "crls", "revocation"] {
        if let Some(stray) = section.entry(stray) {
            stray.fail("belongs to certificates, but pubkey names the key itself; drop one");
        }
    }
    if shared.remote_id.is_none() {
        entry.fail("is the key of one peer; say whose with remote.id, without a wildcard");
        return None;
    }
    let key = shared.around.folders.public_key(entry.string()?);
    let key = key.map_err(|what| entry.fail(what)).ok()?;
    Some(Proof::PublicKey(key))
}

/// The lists that a connection names, else all there are.
fn revocations(section: &Section<'_>, shared: &Shared<'_>) -> Option<Revocations> {
    let mut taker = Taker::default();
    if let Some(entry) = section.entry("revocation") {
        taker.revocations.policy = entry.choice(&[
            ("relaxed", RevocationPolicy::Relaxed),
            ("strict", RevocationPolicy::Strict),
        ])?;
    }
    let folders = shared.around.folders;
    let lists = match section.entry("crls") {
        None => folders
            .revocations(None)
            .map_err(|what| section.fail("crls", what))
            .ok()?,
        Some(entry) => {
            let (mut lists, mut files) = (Vec::new(), Vec::new());
            for (name, element) in entry.strings()? {
                let found = folders.revocations(Some(name));
                lists.extend(found.map_err(|what| element.fail(what)).ok()?);
                files.push(name.to_owned());
            }
            taker.files = Some(files);
            lists
        }
    };
    taker.revocations.replace(lists);
    let revocations = taker.revocations.clone();
    folders.takers.borrow_mut().push(taker);
    Some(revocations)
}

fn private_key(section: &Section<'_>, shared: &Shared<'_>) -> Option<PrivateKey> {
    let Some(entry) = section.entry("key") else {
        section.fail(
            "key",
            "is missing; auth = \"pubkey\" needs a key, and cert unless the peer knows the bare key",
        );
        return None;
    };
    let key = shared.around.folders.private_key(entry.string()?);
    key.map_err(|what| entry.fail(what)).ok()
}

/// How an RSA key pads.
fn padding(section: &Section<'_>, key: &PrivateKey) -> Option<RsaPadding> {
    let Some(entry) = section.entry("rsa_pss") else {
        return Some(RsaPadding::default());
    };
    let pss = entry.boolean()?;
    if own_public(section, key)?.kind() != Some(KeyKind::Rsa) {
        entry.fail("is about RSA keys, and key is none; drop it");
        return None;
    }
    Some(if pss {
        RsaPadding::Pss
    } else {
        RsaPadding::Pkcs1
    })
}

fn own_public(section: &Section<'_>, key: &PrivateKey) -> Option<PinnedKey> {
    let public = key.public();
    public
        .map_err(|error| section.fail("key", error.to_string()))
        .ok()
}

/// Where the key of a pair is looked for: beside `auth`, in the connection, then by the peer's
/// identity among the secrets, because one key proves both sides of a pair.
pub(super) struct Shared<'a> {
    pub(super) section: &'a Section<'a>,
    pub(super) remote_id: Option<Identity>,
    pub(super) around: &'a Surroundings<'a>,
}

impl Shared<'_> {
    fn secret(&self, side: &Section<'_>) -> Option<Secret> {
        for section in [side, self.section] {
            if let Some(entry) = section.entry("psk") {
                return self.around.secrets.inline(&entry);
            }
            if let Some(entry) = section.entry("secret") {
                return self.around.secrets.named(&entry);
            }
        }
        let found = self
            .remote_id
            .as_ref()
            .and_then(|id| self.around.secrets.of(id));
        if found.is_none() {
            side.fail(
                "secret",
                "no pre-shared key; name one with secret = \"NAME\", or give an entry of \
                 secrets.toml the peer's id",
            );
        }
        found
    }
}
