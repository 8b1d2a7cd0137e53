//! How the two ends prove who they are, and what they are called.

use anyhow::{Result, ensure};

use super::{
    super::{
        bout::Bout,
        terms::{Auth, Foreign, Key, PLAIN, Terms},
    },
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
        terms: Terms {
            swan_daemon: "rsa_pss = yes",
            ..certificates("", Key::RsaOurPkcs1).terms
        },
        plot: padded,
        ..certificates(
            "RSA-2048 certificates, RSASSA-PKCS1-v1_5 from Rekindle",
            Key::RsaOurPkcs1,
        )
    },
    Case {
        name: "RSA-2048 certificates, without RFC 7427",
        terms: Terms {
            swan_daemon: "signature_authentication = no",
            ..certificates("", Key::RsaPkcs1).terms
        },
        lacks: &[Lack {
            foreign: None,
            role: None,
            why: "strongSwan, libreswan: without RFC 7427 RSA only with SHA-1, which Rekindle refuses and cannot make",
        }],
        ..USUAL
    },
    Case {
        name: "ECDSA P-256 certificates, without RFC 7427",
        terms: Terms {
            swan_daemon: "signature_authentication = no",
            ..certificates("", Key::P256).terms
        },
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: None,
            why: "libreswan: no setting does without it for ECDSA",
        }],
        ..USUAL
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

/// The peer says what it has checked.
fn padded(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let checked = match bout.foreign {
        Foreign::Strongswan => "with RSA_EMSA_PKCS1_SHA2_256 successful",
        Foreign::Libreswan => "'2048-bit PKCS#1 1.5 RSA with SHA2_256' digital signature",
    };
    ensure!(bout.peer.log()?.contains(checked), "another signature");
    bout.goodbye()
}

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
