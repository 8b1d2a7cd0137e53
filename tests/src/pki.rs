//! An authority of the test's own, and what it gives to both ends: certificates and keys in the
//! folders where Rekindle and strongSwan alike look for them.

use std::{
    fs::{self, DirBuilder, Permissions},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData as _, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// Kinds of keys that certificates are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA, 2048 bits.
    Rsa,
}

impl KeyKind {
    fn generate(self) -> Result<KeyPair> {
        let algorithm = match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::P384 => &PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &PKCS_ED25519,
            // `ring` makes no RSA keys.
            Self::Rsa => {
                let made = Command::new("sh").args(["-c", MAKE_RSA]).output()?;
                let why = String::from_utf8_lossy(&made.stderr);
                ensure!(made.status.success(), "openssl: {}", why.trim());
                let key = made.stdout.as_slice().into();
                return Ok(KeyPair::from_pkcs8_der_and_sign_algo(
                    &key,
                    &PKCS_RSA_SHA256,
                )?);
            }
        };
        Ok(KeyPair::generate_for(algorithm)?)
    }
}

/// Signs certificates with ECDSA on P-256.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Of the authority that is trusted.
    root: Vec<u8>,
    /// Of those between it and what this one signs.
    intermediates: Vec<Vec<u8>>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        Self::with_constraints(None)
    }

    fn with_constraints(constraints: Option<NameConstraints>) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = authority("Lab Authority", BasicConstraints::Unconstrained);
        params.name_constraints = constraints;
        let root = params.self_signed(&key)?.der().to_vec();
        Ok(Self {
            issuer: Issuer::new(params, key),
            root,
            intermediates: Vec::new(),
        })
    }

    /// A new one that may certify only hosts below this domain, and no holder in this organization.
    pub fn constrained(domain: &str, organization: &str) -> Result<Self> {
        let mut elsewhere = DistinguishedName::new();
        elsewhere.push(DnType::OrganizationName, organization);
        Self::with_constraints(Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
            excluded_subtrees: vec![GeneralSubtree::DirectoryName(elsewhere)],
        }))
    }

    /// One that this one has signed. Whoever trusts it trusts only the first of the line.
    pub fn below(&self, name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority(name, BasicConstraints::Constrained(0));
        let own = params.signed_by(&key, &self.issuer)?.der().to_vec();
        let mut intermediates = vec![own];
        intermediates.extend_from_slice(&self.intermediates);
        Ok(Self {
            issuer: Issuer::new(params, key),
            root: self.root.clone(),
            intermediates,
        })
    }

    /// Makes a key and its certificate for an identity (a host name, a mailbox, an address, or `CN=` and
    /// a common name), and puts both below `folder` as [`OWN`], and as [`OWN_CHAIN`] with the
    /// certificates that lead to the authority.
    pub fn equip(&self, folder: &Path, kind: KeyKind, id: &str) -> Result<()> {
        let key = kind.generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = names(id)?;
        params.distinguished_name = common_name(id.strip_prefix("CN=").unwrap_or(id));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        put(&folder.join("x509"), OWN, certificate.der())?;
        let mut chain = pem(certificate.der());
        chain.extend(self.intermediates.iter().map(|der| pem(der)));
        put(&folder.join("x509"), OWN_CHAIN, chain.as_bytes())?;
        put(&folder.join("private"), OWN, &key.serialize_der())
    }

    /// Puts the authority's own certificate below `folder` as [`CA`].
    pub fn be_trusted_in(&self, folder: &Path) -> Result<()> {
        put(&folder.join("x509ca"), CA, &self.root)
    }

    /// Takes back the certificate that `holder` was equipped with, and puts the list that says so, and nothing
    /// else, below `folder`.
    pub fn revoke(&self, holder: &Path, folder: &Path) -> Result<()> {
        let certificate = fs::read(holder.join("x509").join(OWN))?;
        let serial = serial_of(&certificate).context("a serial number")?;
        let gone = RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![gone],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer)?;
        put(&folder.join("x509crl"), LIST, list.der())
    }

    /// Puts the certificates between below `folder`, for a daemon that builds its chain itself.
    pub fn bring_intermediates(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for (number, certificate) in self.intermediates.iter().enumerate() {
            let name = format!("intermediate-{number}.der");
            put(&folder.join("x509ca"), &name, certificate)?;
            files.push(folder.join("x509ca").join(name));
        }
        Ok(files)
    }
}

/// A key that nobody certifies: its peers know it by itself.
pub struct BareKey(KeyPair);

impl BareKey {
    /// A new one.
    pub fn new(kind: KeyKind) -> Result<Self> {
        kind.generate().map(Self)
    }

    /// Puts it below `folder`, both halves as [`OWN`], and a certificate that it has signed itself for
    /// tools that ask for one.
    pub fn equip(&self, folder: &Path) -> Result<()> {
        let certificate = CertificateParams::default().self_signed(&self.0)?;
        put(&folder.join("x509"), OWN, certificate.der())?;
        put(&folder.join("pubkey"), OWN, &self.public())?;
        put(&folder.join("private"), OWN, &self.0.serialize_der())
    }

    /// Puts its public half below `folder` as [`PEER`].
    pub fn be_known_in(&self, folder: &Path) -> Result<()> {
        put(&folder.join("pubkey"), PEER, &self.public())
    }

    /// Its public half in base64, as libreswan's configuration has it.
    #[must_use]
    pub fn base64(&self) -> String {
        base64(&self.public())
    }

    fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

/// The number behind the version of an X.509 certificate, version 3, in DER.
fn serial_of(certificate: &[u8]) -> Option<&[u8]> {
    const VERSION: [u8; 6] = [0xa0, 3, 2, 1, 2, 2];
    let at = certificate
        .windows(VERSION.len())
        .position(|window| window == VERSION)?;
    let (length, rest) = certificate.get(at + VERSION.len()..)?.split_first()?;
    rest.get(..usize::from(*length))
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = common_name(name);
    params
}

fn names(id: &str) -> Result<Vec<SanType>> {
    if id.starts_with("CN=") {
        return Ok(Vec::new());
    }
    if let Ok(address) = id.parse::<IpAddr>() {
        return Ok(vec![SanType::IpAddress(address)]);
    }
    Ok(vec![if id.contains('@') {
        SanType::Rfc822Name(id.try_into()?)
    } else {
        SanType::DnsName(id.try_into()?)
    }])
}

/// RFC 7468, 5.
fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        text += &base64(line);
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// RFC 4648, 4.
fn base64(octets: &[u8]) -> String {
    let mut text = String::new();
    for group in octets.chunks(3) {
        let mut octets = [0; 4];
        octets[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(octets);
        for place in 0..4 {
            let value = bits >> (18 - 6 * place) & 63;
            text.push(if place > group.len() {
                '='
            } else {
                char::from(BASE64[value as usize])
            });
        }
    }
    text
}

fn put(folder: &Path, file: &str, octets: &[u8]) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let file = folder.join(file);
    fs::write(&file, octets)?;
    Ok(fs::set_permissions(&file, Permissions::from_mode(0o600))?)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// File name of a certificate in `x509` and of its key in `private`.
pub const OWN: &str = "own.der";
/// File name of the same certificate in PEM, with those that lead to the authority behind it.
pub const OWN_CHAIN: &str = "own.pem";
/// File name of the authority in `x509ca`.
pub const CA: &str = "ca.der";
/// File name of the other end's public key in `pubkey`.
pub const PEER: &str = "peer.der";
/// File name of its list of revoked certificates in `x509crl`.
const LIST: &str = "list.der";

/// As PKCS#8.
const MAKE_RSA: &str =
    "openssl genpkey -quiet -algorithm RSA | openssl pkcs8 -topk8 -nocrypt -outform DER";

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_has_lines_of_64_letters_and_its_padding() {
        let text = pem(&[0xfb; 49]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "+/v7".repeat(16));
        assert_eq!(lines[2], "+w==");
        assert_eq!(pem(&[0, 1]).lines().nth(1), Some("AAE="));
    }
}
