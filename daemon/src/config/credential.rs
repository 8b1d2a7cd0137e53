//! Pre-shared keys, certificates and private keys as operators keep them: text with the prefixes of
//! both Swans, PEM or DER files.

use std::{
    cell::{OnceCell, RefCell},
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ike::{
    crypto::{Secret, SignError, SignatureScheme},
    trust::{NotAKey, PinnedKey, RevocationList},
};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
    },
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id, pem::PemObject as _,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    document::{keeps_world_out, read_bounded},
    revocation::{self, Taker},
};

/// Longest certificate or key file, in octets.
pub const MAX_CREDENTIAL_OCTETS: u64 = 256 << 10;
/// Certificates in one file.
pub const MAX_CERTIFICATES: usize = 64;
/// Longest pre-shared key, in octets.
pub const MAX_PSK_OCTETS: usize = 1024;

/// PKCS#8 around a SEC1 key: version, and algorithm with curve.
const PKCS8_VERSION: &[u8] = &[0x02, 0x01, 0x00];
const P256_ALGORITHM: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const P384_ALGORITHM: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];

/// A key that signs for one connection.
///
/// `ring` holds the private part and does not wipe it.
pub struct PrivateKey {
    pair: Pair,
    random: SystemRandom,
}

enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    /// Signs `octets`; what [`ike::io::Env::sign`] asks for.
    pub fn sign(&self, scheme: SignatureScheme, octets: &[u8]) -> Result<Vec<u8>, SignError> {
        match (scheme, &self.pair) {
            (SignatureScheme::EcdsaP256Sha256, Pair::P256(pair))
            | (SignatureScheme::EcdsaP384Sha384, Pair::P384(pair)) => pair
                .sign(&self.random, octets)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError),
            (SignatureScheme::Ed25519, Pair::Ed25519(pair)) => {
                Ok(pair.sign(octets).as_ref().to_vec())
            }
            (SignatureScheme::RsaPssSha256, Pair::Rsa(pair)) => {
                self.sign_rsa(pair, &RSA_PSS_SHA256, octets)
            }
            (SignatureScheme::RsaPkcs1Sha256, Pair::Rsa(pair)) => {
                self.sign_rsa(pair, &RSA_PKCS1_SHA256, octets)
            }
            _ => Err(SignError),
        }
    }

    fn sign_rsa(
        &self,
        pair: &RsaKeyPair,
        padding: &'static dyn RsaEncoding,
        octets: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(padding, &self.random, octets, &mut signature)
            .map_err(|_| SignError)?;
        Ok(signature)
    }

    /// Whether the certificate holds this key's public half. That is looked for as octets: a
    /// certificate without it is certainly another key's, which is the mistake to catch.
    pub(super) fn belongs_to(&self, certificate: &[u8]) -> bool {
        let public = self.pair.public_octets();
        certificate
            .windows(public.len())
            .any(|window| window == public)
    }

    /// Its public half, for peers that know it without a certificate.
    pub(super) fn public(&self) -> Result<PinnedKey, NotAKey> {
        let algorithm = match &self.pair {
            Pair::P256(_) => alg_id::ECDSA_P256,
            Pair::P384(_) => alg_id::ECDSA_P384,
            Pair::Ed25519(_) => alg_id::ED25519,
            Pair::Rsa(_) => alg_id::RSA_ENCRYPTION,
        };
        // SubjectPublicKeyInfo (RFC 5280, 4.1); no bit of the BIT STRING is unused.
        let algorithm = der(0x30, &[&algorithm]);
        let bits = der(0x03, &[&[0], self.pair.public_octets()]);
        PinnedKey::parse(&der(0x30, &[&algorithm, &bits]))
    }

    /// From PKCS#8, SEC1 or PKCS#1, in PEM or DER.
    fn parse(octets: &[u8]) -> Result<Self, String> {
        let mut key = if is_pem(octets) {
            PrivateKeyDer::from_pem_slice(octets).map_err(|_| {
                "holds no private key in PEM; encrypted keys are not read".to_owned()
            })?
        } else {
            PrivateKeyDer::try_from(octets)
                .map_err(|_| "is neither PEM nor the DER of a private key".to_owned())?
                .clone_key()
        };
        let random = SystemRandom::new();
        let pair = match &key {
            PrivateKeyDer::Pkcs8(key) => Pair::from_pkcs8(key.secret_pkcs8_der(), &random),
            PrivateKeyDer::Sec1(key) => [P256_ALGORITHM, P384_ALGORITHM].iter().find_map(|curve| {
                Pair::from_pkcs8(&pkcs8_of_sec1(key.secret_sec1_der(), curve), &random)
            }),
            PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der())
                .ok()
                .map(Pair::Rsa),
            _ => None,
        };
        key.zeroize();
        let pair = pair.ok_or(
            "is no ECDSA key on P-256 or P-384, no Ed25519 key and no RSA key of 2048 bits or more; \
             make one with openssl ecparam -name prime256v1 -genkey",
        )?;
        Ok(Self { pair, random })
    }
}

impl Pair {
    /// The public half without its algorithm.
    fn public_octets(&self) -> &[u8] {
        match self {
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
            Self::Rsa(pair) => pair.public().as_ref(),
        }
    }

    fn from_pkcs8(key: &[u8], random: &SystemRandom) -> Option<Self> {
        let ecdsa = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, key, random).ok();
        ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map(Self::P256)
            .or_else(|| ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Self::P384))
            // OpenSSL writes no public half beside an Ed25519 key.
            .or_else(|| {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).ok();
                pair.map(Self::Ed25519)
            })
            .or_else(|| RsaKeyPair::from_pkcs8(key).ok().map(Self::Rsa))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.pair {
            Pair::P256(_) => "PrivateKey(ECDSA P-256)",
            Pair::P384(_) => "PrivateKey(ECDSA P-384)",
            Pair::Ed25519(_) => "PrivateKey(Ed25519)",
            Pair::Rsa(_) => "PrivateKey(RSA)",
        })
    }
}

/// Folder of lists of revoked certificates.
pub(super) const LISTS: &str = "x509crl";

/// Where certificate and key files are looked for: in the folder of their kind beside the main
/// file, as swanctl has it, then beside the main file itself.
#[derive(Debug)]
pub(super) struct CredentialFolders {
    pub(super) base: PathBuf,
    /// Of the folder `x509crl`, read once.
    lists: OnceCell<Result<Vec<Arc<RevocationList>>, String>>,
    /// Whose lists they are, to be read again.
    pub(super) takers: RefCell<Vec<Taker>>,
}

impl CredentialFolders {
    pub(super) const fn new(base: PathBuf) -> Self {
        Self {
            base,
            lists: OnceCell::new(),
            takers: RefCell::new(Vec::new()),
        }
    }

    /// Our own chain, leaf first.
    pub(super) fn chain(&self, name: &str) -> Result<Vec<Vec<u8>>, String> {
        certificates(&self.find("x509", name))
    }

    /// Authorities.
    pub(super) fn authorities(&self, name: &str) -> Result<Vec<Vec<u8>>, String> {
        certificates(&self.find("x509ca", name))
    }

    /// A peer's public key.
    pub(super) fn public_key(&self, name: &str) -> Result<PinnedKey, String> {
        let path = self.find("pubkey", name);
        let (octets, _) = read(&path)?;
        let about = |what: &dyn fmt::Display| format!("{}: {what}", path.display());
        if !is_pem(&octets) {
            return PinnedKey::parse(&octets).map_err(|error| about(&error));
        }
        let key = SubjectPublicKeyInfoDer::from_pem_slice(&octets);
        let key = key.map_err(|_| about(&NotAKey))?;
        PinnedKey::parse(&key).map_err(|error| about(&error))
    }

    /// Lists of revoked certificates in one file; all there are if none is named.
    pub(super) fn revocations(
        &self,
        name: Option<&str>,
    ) -> Result<Vec<Arc<RevocationList>>, String> {
        let all = || revocation::all_of(&self.base.join(LISTS));
        match name {
            Some(name) => revocation::read(&self.find(LISTS, name)),
            None => self.lists.get_or_init(all).clone(),
        }
    }

    /// A private key, which nobody but owner and group may reach.
    pub(super) fn private_key(&self, name: &str) -> Result<PrivateKey, String> {
        let path = self.find("private", name);
        let (octets, mode) = read(&path)?;
        if !keeps_world_out(mode) {
            return Err(format!(
                "{}: everybody on this machine can reach the private key; chmod 0600 it",
                path.display()
            ));
        }
        PrivateKey::parse(&octets).map_err(|what| format!("{}: {what}", path.display()))
    }

    pub(super) fn find(&self, kind: &str, name: &str) -> PathBuf {
        let in_kind = self.base.join(kind).join(name);
        if in_kind.exists() {
            in_kind
        } else {
            self.base.join(name)
        }
    }
}

fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), String> {
    read_bounded(path, MAX_CREDENTIAL_OCTETS).map_err(|error| unread(path, &error))
}

/// What to say of a file that could not be read.
pub(super) fn unread(path: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        format!(
            "{} is not there, nor in the folder of its kind (x509, x509ca, x509crl, pubkey, private); correct \
             the name, or put the file there",
            path.display()
        )
    } else {
        format!("{} cannot be read: {error}", path.display())
    }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let (octets, _) = read(path)?;
    let fail = |what: &str| Err(format!("{}: {what}", path.display()));
    let found = if is_pem(&octets) {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets)
            .take(MAX_CERTIFICATES + 1)
            .map(|one| one.map(|der| der.as_ref().to_vec()))
            .collect();
        match found {
            Ok(found) => found,
            Err(_) => return fail("is damaged PEM"),
        }
    } else {
        vec![octets.to_vec()]
    };
    if found.is_empty() {
        return fail("holds no certificate");
    }
    if found.len() > MAX_CERTIFICATES {
        return fail("holds more than 64 certificates");
    }
    if !found.iter().all(|der| is_one_sequence(der)) {
        return fail("does not hold X.509 certificates");
    }
    Ok(found)
}

pub(super) fn is_pem(octets: &[u8]) -> bool {
    octets.windows(11).any(|window| window == b"-----BEGIN ")
}

/// Whether the octets are one DER SEQUENCE from end to end. What is inside is for the path
/// validation to judge.
fn is_one_sequence(der: &[u8]) -> bool {
    let (header, length) = match der {
        [0x30, length @ 0..=0x7f, ..] => (2, usize::from(*length)),
        [0x30, 0x81, length, ..] => (3, usize::from(*length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return false,
    };
    der.len() == header + length
}

/// `ring` reads EC keys in PKCS#8 only (RFC 5958, 2); SEC1 (RFC 5915) is its innermost part.
fn pkcs8_of_sec1(sec1: &[u8], algorithm: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = Zeroizing::new(der(0x04, &[sec1]));
    Zeroizing::new(der(0x30, &[PKCS8_VERSION, algorithm, &key]))
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 4);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => out.push(short),
        Ok(long) => out.extend_from_slice(&[0x81, long]),
        // The longest, a public RSA key of 8192 bits, has about 1,060 octets.
        Err(_) => out.extend_from_slice(&[0x82, (length >> 8) as u8, length as u8]),
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A pre-shared key: `0x` and hexadecimal digits, `0s` and base64, else the text's own octets.
pub(super) fn pre_shared(text: &str) -> Result<Secret, &'static str> {
    let secret = if let Some(digits) = text.strip_prefix("0x") {
        Secret::new(hexadecimal(digits).ok_or("has an odd or wrong digit after 0x")?)
    } else if let Some(digits) = text.strip_prefix("0s") {
        Secret::new(base64(digits).ok_or("is not base64 after 0s")?)
    } else {
        Secret::from(text.as_bytes())
    };
    if secret.is_empty() {
        return Err("is empty; a key has at least one octet, and should have 16 random ones");
    }
    if secret.len() > MAX_PSK_OCTETS {
        return Err("is longer than 1024 octets");
    }
    Ok(secret)
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let digit = |octet: u8| char::from(octet).to_digit(16).map(|value| value as u8);
    let mut out = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.as_bytes().chunks(2) {
        let &[high, low] = pair else { return None };
        out.push(digit(high)? << 4 | digit(low)?);
    }
    Some(std::mem::take(&mut *out))
}

/// Base64 (RFC 4648, 4); padding may be left out.
fn base64(digits: &str) -> Option<Vec<u8>> {
    let digits = digits
        .strip_suffix("==")
        .or_else(|| digits.strip_suffix('='))
        .unwrap_or(digits);
    let mut out = Zeroizing::new(Vec::with_capacity(digits.len() * 3 / 4));
    for group in digits.as_bytes().chunks(4) {
        if group.len() == 1 {
            return None;
        }
        let mut bits = 0_u32;
        for &octet in group {
            let value = match octet {
                b'A'..=b'Z' => octet - b'A',
                b'a'..=b'z' => octet - b'a' + 26,
                b'0'..=b'9' => octet - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let [_, octets @ ..] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        out.extend(octets.iter().take(group.len() - 1));
    }
    Some(std::mem::take(&mut *out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pre_shared_keys_are_read_as_both_swans_read_them() {
        let octets = |text| pre_shared(text).map(|secret| secret.expose().to_vec());
        assert_eq!(octets("swordfish"), Ok(b"swordfish".to_vec()));
        assert_eq!(octets("0x00fFa1"), Ok(vec![0, 0xff, 0xa1]));
        assert_eq!(octets("0sAP+h"), Ok(vec![0, 0xff, 0xa1]));
        assert_eq!(octets("0sAP8="), Ok(vec![0, 0xff]));
        assert_eq!(octets("0sAA"), Ok(vec![0]));
        for wrong in ["", "0x", "0x0", "0xzz", "0s", "0s*", "0sA", "0sAAAAA"] {
            assert!(octets(wrong).is_err(), "{wrong:?}");
        }
        assert!(octets(&"a".repeat(MAX_PSK_OCTETS + 1)).is_err());
    }

    #[test]
    fn a_sequence_must_fill_its_octets() {
        assert!(is_one_sequence(&[0x30, 1, 0]));
        assert!(!is_one_sequence(&[0x30, 2, 0]));
        assert!(!is_one_sequence(&[0x30, 0x82, 0]));
        assert!(!is_one_sequence(b"hello"));
        assert!(!is_one_sequence(&[]));
    }
}
