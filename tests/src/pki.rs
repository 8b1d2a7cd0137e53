//! An authority of the test's own, and what it gives to both ends: certificates and keys in the
//! folders where Rekindle and strongSwan alike look for them.

use std::{
    fs::{self, DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

/// Signs certificates with ECDSA on P-256.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name = common_name("Lab Authority");
        let certificate = params.self_signed(&key)?.der().to_vec();
        let issuer = Issuer::new(params, key);
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// Makes a key and its certificate for a host name, and puts both below `folder` as [`OWN`].
    pub fn equip(&self, folder: &Path, name: &str) -> Result<()> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = common_name(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.signed_by(&key, &self.issuer)?;
        put(&folder.join("x509"), OWN, certificate.der())?;
        put(&folder.join("private"), OWN, &key.serialize_der())
    }

    /// Puts the authority's own certificate below `folder` as [`CA`].
    pub fn be_trusted_in(&self, folder: &Path) -> Result<()> {
        put(&folder.join("x509ca"), CA, &self.certificate)
    }
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
/// File name of the authority in `x509ca`.
pub const CA: &str = "ca.der";
