//! Authorities and certificates, made afresh for each run. One key for each side serves all of its
//! certificates, good and bad, so that a bad one differs from the good one in nothing else.

use std::sync::LazyLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

/// What all tests that only need certificates share.
pub(crate) static PKI: LazyLock<Pki> = LazyLock::new(Pki::new);

/// A small world of trust.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    /// Signed by the authority.
    pub(crate) intermediate: Authority,
    /// Nobody's authority, with the same name as ours.
    pub(crate) stranger: Authority,
    pub(crate) client: Holder,
    pub(crate) gateway: Holder,
}

impl Pki {
    fn new() -> Self {
        let authority = Authority::root();
        Self {
            intermediate: authority.below("Intermediate"),
            stranger: Authority::root(),
            client: Holder::under(&authority, "client.example"),
            gateway: Holder::under(&authority, "gw.example"),
            authority,
        }
    }
}

/// Whoever signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: Vec<u8>,
}

impl Authority {
    fn root() -> Self {
        Self::root_with(|_| {})
    }

    /// An authority of its own that `edit` makes special.
    pub(crate) fn root_with(edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (authority_params("Test Authority"), p256());
        edit(&mut params);
        let der = params.self_signed(&key).expect("signs").der().to_vec();
        let issuer = Issuer::new(params, key);
        Self { issuer, der }
    }

    /// An authority below this one.
    pub(crate) fn below(&self, name: &str) -> Self {
        self.below_with(name, |_| {})
    }

    /// An authority below this one that `edit` makes special.
    pub(crate) fn below_with(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (authority_params(name), p256());
        edit(&mut params);
        let der = params.signed_by(&key, &self.issuer).expect("signs");
        let (der, issuer) = (der.der().to_vec(), Issuer::new(params, key));
        Self { issuer, der }
    }

    /// A holder's ordinary certificate.
    pub(crate) fn certify(&self, holder: &Holder) -> Vec<u8> {
        self.certify_with(holder, |_| {})
    }

    /// A holder's certificate that `edit` makes special.
    pub(crate) fn certify_with(
        &self,
        holder: &Holder,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let mut params = leaf_params(holder.name);
        edit(&mut params);
        let certificate = params.signed_by(&holder.key, &self.issuer);
        certificate.expect("signs").der().to_vec()
    }

    /// A list of revoked certificates, which are given in DER.
    pub(crate) fn list(&self, gone: &[&[u8]], years: (i32, i32)) -> Vec<u8> {
        self.list_of(gone, years, None)
    }

    /// A list that is about user certificates only.
    pub(crate) fn partial_list(&self, years: (i32, i32)) -> Vec<u8> {
        let uris = vec!["http://crl.example/".to_owned()];
        let point = CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris },
            scope: Some(CrlScope::UserCertsOnly),
        };
        self.list_of(&[], years, Some(point))
    }

    fn list_of(
        &self,
        gone: &[&[u8]],
        (from, until): (i32, i32),
        point: Option<CrlIssuingDistributionPoint>,
    ) -> Vec<u8> {
        use der::Decode as _;
        let [from, until] = [from, until].map(|year| date_time_ymd(year, 1, 1));
        let entry = |der: &&[u8]| {
            let read = x509_cert::Certificate::from_der(der).expect("a certificate");
            let serial = read.tbs_certificate().serial_number().as_bytes().to_vec();
            RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: from,
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: from,
            next_update: until,
            crl_number: SerialNumber::from(7),
            issuing_distribution_point: point,
            revoked_certs: gone.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.issuer).expect("signs");
        signed.der().to_vec()
    }

    /// An ordinary certificate for a key of any kind.
    pub(crate) fn certify_key(&self, name: &str, key: &KeyPair) -> Vec<u8> {
        let certificate = leaf_params(name).signed_by(key, &self.issuer);
        certificate.expect("signs").der().to_vec()
    }
}

/// One side: its name, its key, its certificate.
pub(crate) struct Holder {
    name: &'static str,
    key: KeyPair,
    /// Its ordinary certificate, in DER.
    pub(crate) certificate: Vec<u8>,
}

impl Holder {
    /// A new key, with an ordinary certificate under the authority.
    pub(crate) fn under(authority: &Authority, name: &'static str) -> Self {
        let mut holder = Self {
            name,
            key: p256(),
            certificate: Vec::new(),
        };
        holder.certificate = authority.certify(&holder);
        holder
    }

    /// The key in the form that signs.
    pub(crate) fn signer(&self) -> EcdsaKeyPair {
        crate::env::key_pair(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pkcs8())
    }

    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        self.key.serialize_der()
    }
}

fn leaf_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a host name");
    params.distinguished_name = common_name(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2030, 1, 1);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = common_name(name);
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("generates")
}

// Ways in which a certificate may be special.

pub(crate) fn expired(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(2026, 6, 1);
}

pub(crate) fn not_yet_valid(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2029, 6, 1);
}

pub(crate) fn of_somebody_else(params: &mut CertificateParams) {
    let name = "other.example".try_into().expect("ASCII");
    params.subject_alt_names = vec![SanType::DnsName(name)];
}

pub(crate) fn for_mail(params: &mut CertificateParams) {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
}

pub(crate) fn for_encryption(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
}

pub(crate) fn an_authority_itself(params: &mut CertificateParams) {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
}
