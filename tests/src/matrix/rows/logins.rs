//! How the two ends prove who they are, and what they are called.

use super::{
    super::terms::{Auth, Foreign, Key, PLAIN, Terms},
    Case, Lack, USUAL,
};

const P256: Auth = Auth::Certificate {
    key: Key::P256,
    intermediate: false,
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "PSK",
        ..USUAL
    },
    Case {
        name: "ECDSA P-256 certificates",
        terms: Terms {
            auth: P256,
            ..PLAIN
        },
        ..USUAL
    },
    certificates("ECDSA P-384 certificates", Key::P384),
    Case {
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: None,
            why: "libreswan: no Ed25519",
        }],
        ..certificates("Ed25519 certificates", Key::Ed25519)
    },
    Case {
        terms: Terms {
            swan_daemon: "rsa_pss = yes",
            ..certificates("", Key::RsaPss).terms
        },
        ..certificates("RSA-2048 certificates, RSASSA-PSS", Key::RsaPss)
    },
    Case {
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: None,
            why: "libreswan: RSASSA-PKCS1-v1_5 only with SHA-1, which Rekindle refuses",
        }],
        ..certificates(
            "RSA-2048 certificates, RSASSA-PKCS1-v1_5 from the peer",
            Key::RsaPkcs1,
        )
    },
    Case {
        name: "certificates of intermediate authorities",
        terms: Terms {
            auth: Auth::Certificate {
                key: Key::P256,
                intermediate: true,
            },
            ..PLAIN
        },
        ..USUAL
    },
    bare("keys without certificates, ECDSA P-256", Key::P256),
    bare("keys without certificates, RSA-2048", Key::RsaPss),
    Case {
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: None,
            why: "libreswan: no Ed25519",
        }],
        ..bare("keys without certificates, Ed25519", Key::Ed25519)
    },
    identities("e-mail identities", ["me@example.net", "gate@example.net"]),
    identities("address identities", ["192.0.2.10", "192.0.2.1"]),
    identities("key ID identities", ["keyid:branch", "keyid:gate"]),
    Case {
        name: "distinguished names in certificates",
        terms: Terms {
            auth: P256,
            ids: ["CN=client.example", "CN=gw.example"],
            ..PLAIN
        },
        ..USUAL
    },
    Case {
        name: "e-mail and address identities in certificates",
        terms: Terms {
            auth: P256,
            ids: ["me@example.net", "192.0.2.1"],
            ..PLAIN
        },
        ..USUAL
    },
];

const fn certificates(name: &'static str, key: Key) -> Case {
    Case {
        name,
        terms: Terms {
            auth: Auth::Certificate {
                key,
                intermediate: false,
            },
            ..PLAIN
        },
        ..USUAL
    }
}

const fn bare(name: &'static str, key: Key) -> Case {
    Case {
        name,
        terms: Terms {
            auth: Auth::Bare(key),
            swan_daemon: "rsa_pss = yes",
            ..PLAIN
        },
        ..USUAL
    }
}

const fn identities(name: &'static str, ids: [&'static str; 2]) -> Case {
    Case {
        name,
        terms: Terms { ids, ..PLAIN },
        ..USUAL
    }
}
