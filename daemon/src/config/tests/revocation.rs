//! Files with lists of revoked certificates, and with public keys: found, named, and told when they
//! are none.

use ike::{
    crypto::{KeyKind, RsaPadding},
    peer::{Credential, Proof},
    trust::{PinnedKey, RevocationPolicy, Revocations},
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};

use super::{
    AUTHORITY, CERTIFICATE, CERTIFIED, CRL, Folder, KEY_ED25519, KEY_P384, KEY_RSA, KEY_SEC1,
    PUBLIC_KEY,
};
use crate::config::{Config, Reread};

#[test]
fn lists_of_revoked_certificates_are_found_and_judged() {
    let folder = Folder::new(&[("rekindle.toml", CERTIFIED)]);
    folder.put("gw.pem", CERTIFICATE, 0o644);
    folder.put("ca.pem", AUTHORITY, 0o644);
    folder.put("gw.key", KEY_SEC1, 0o600);
    folder.load().expect("none is needed");
    folder.put("x509crl/one.pem", CRL, 0o644);
    let config = folder.load().expect("one in the folder");
    let of = lists_of;
    assert_ne!(of(&config), Revocations::default());
    // What is named is taken, and nothing else.
    let named = |extra: &str| CERTIFIED.replace("[\"ca.pem\"]", &format!("[\"ca.pem\"], {extra}"));
    folder.put("rekindle.toml", named("crls = []").as_bytes(), 0o644);
    assert_eq!(
        of(&folder.load().expect("none named")),
        Revocations::default()
    );
    let strict = named("crls = [\"one.pem\"], revocation = \"strict\"");
    folder.put("rekindle.toml", strict.as_bytes(), 0o644);
    let config = folder.load().expect("one named");
    assert_eq!(of(&config).policy, RevocationPolicy::Strict);

    for (extra, what) in [
        ("crls = [\"two.pem\"]", "remote.crls: "),
        (
            "crls = [\"ca.pem\"]",
            "holds no list of revoked certificates",
        ),
        (
            "crls = [\"gw.key\"]",
            "holds no list of revoked certificates",
        ),
        (
            "revocation = \"ifuri\"",
            "\"ifuri\" is none of relaxed, strict",
        ),
    ] {
        folder.put("rekindle.toml", named(extra).as_bytes(), 0o644);
        let found = folder.problems().join("\n");
        assert!(
            found.contains("rekindle.toml:4: ") && found.contains(what),
            "{found}"
        );
    }
    folder.put("rekindle.toml", CERTIFIED.as_bytes(), 0o644);
    folder.put("x509crl/junk.pem", b"\x30\x03\x02\x01\x00", 0o644);
    let found = folder.problems().join("\n");
    assert!(
        found.contains("junk.pem: is not an X.509 CRL of version 2"),
        "{found}"
    );
}

/// Of a connection's peer.
fn lists_of(config: &Config) -> Revocations {
    match &config.connections[0].remote.proof {
        Proof::Certificate(anchors) => anchors.revocations.clone(),
        _ => panic!("certificates"),
    }
}

#[test]
fn files_that_change_are_read_again_and_damaged_ones_change_nothing() {
    for extra in ["", ", crls = [\"one.pem\"]"] {
        let text = CERTIFIED.replace("[\"ca.pem\"]", &format!("[\"ca.pem\"]{extra}"));
        let folder = Folder::new(&[("rekindle.toml", &text)]);
        folder.put("gw.pem", CERTIFICATE, 0o644);
        folder.put("ca.pem", AUTHORITY, 0o644);
        folder.put("gw.key", KEY_SEC1, 0o600);
        folder.put("x509crl/one.pem", CRL, 0o644);
        let config = folder.load().expect("one list");
        let held = lists_of(&config);
        let (files, one) = (
            &config.list_files,
            Reread {
                lists: 1,
                revoked: 1,
            },
        );
        assert_eq!((files.follow(), files.reread()), (None, Ok(one)));
        assert_eq!(files.trouble(), None);

        // Cut short, as whoever copies a file leaves it for a moment.
        folder.put("x509crl/one.pem", &CRL[..CRL.len() / 2], 0o644);
        let what = files.follow().expect("a change").expect_err("damaged");
        assert!(what.contains("x509crl/one.pem: "), "{what}");
        assert_eq!(files.follow(), None, "said once");
        assert_eq!(files.trouble().as_ref(), Some(&what), "and remembered");
        assert_eq!(files.reread(), Err(what), "and when the operator asks");
        assert_ne!(held, Revocations::default(), "the old ones stay");

        folder.put("x509crl/one.pem", CRL, 0o644);
        assert_eq!(files.follow(), Some(Ok(one)));
        assert_eq!(files.trouble(), None);
        std::fs::remove_file(folder.0.path().join("x509crl/one.pem")).expect("there");
        let gone = files.follow().expect("a change");
        if extra.is_empty() {
            assert_eq!(
                gone,
                Ok(Reread {
                    lists: 0,
                    revoked: 0
                })
            );
            assert_eq!(held, Revocations::default());
        } else {
            assert!(gone.expect_err("it is named").contains("one.pem"));
            assert_ne!(held, Revocations::default());
        }
    }
}

#[test]
fn our_own_key_needs_no_certificate() {
    let bare = |key: &str| CERTIFIED.replace("cert = \"gw.pem\", key = \"gw.key\"", key);
    let folder = Folder::new(&[("rekindle.toml", &bare("key = \"gw.key\""))]);
    folder.put("ca.pem", AUTHORITY, 0o644);
    folder.put("gw.key", KEY_SEC1, 0o600);
    let public = |folder: &Folder| {
        let mut config = folder.load().expect("a key");
        match config.connections.remove(0).local.credential {
            Credential::PublicKey(key) => key,
            other => panic!("{other:?}"),
        }
    };
    // As openssl makes it of the same key.
    let pem = SubjectPublicKeyInfoDer::from_pem_slice(PUBLIC_KEY).expect("PEM");
    assert_eq!(Ok(public(&folder)), PinnedKey::parse(&pem));
    for (key, kind) in [
        (KEY_P384, KeyKind::P384),
        (KEY_ED25519, KeyKind::Ed25519),
        (KEY_RSA, KeyKind::Rsa),
    ] {
        folder.put("gw.key", key, 0o600);
        assert_eq!(public(&folder).kind(), Some(kind));
    }
    // The last of them is an RSA key.
    let padding = |folder: &Folder| folder.load().map(|it| it.connections[0].local.rsa_padding);
    assert_eq!(padding(&folder).expect("a key"), RsaPadding::Pss);
    let pkcs1 = bare("key = \"gw.key\", rsa_pss = false");
    folder.put("rekindle.toml", pkcs1.as_bytes(), 0o644);
    assert_eq!(padding(&folder).expect("a key"), RsaPadding::Pkcs1);
    folder.put("gw.key", KEY_ED25519, 0o600);
    let found = folder.problems().join("\n");
    assert!(
        found.contains("connections.rw.local.rsa_pss: is about RSA keys, and key is none"),
        "{found}"
    );
    let without = bare("auth = \"pubkey\"");
    folder.put("rekindle.toml", without.as_bytes(), 0o644);
    let found = folder.problems().join("\n");
    assert!(
        found.contains("rekindle.toml:3: connections.rw.local.key: is missing;"),
        "{found}"
    );
}

#[test]
fn a_public_key_stands_for_one_peer() {
    let pinned = |rest: &str| {
        CERTIFIED.replace(
            "remote = { auth = \"pubkey\", cacerts = [\"ca.pem\"] }",
            &format!("remote = {{ pubkey = \"peer.pem\"{rest} }}"),
        )
    };
    let folder = Folder::new(&[("rekindle.toml", &pinned(", id = \"client.example\""))]);
    folder.put("gw.pem", CERTIFICATE, 0o644);
    folder.put("gw.key", KEY_SEC1, 0o600);
    folder.put("pubkey/peer.pem", PUBLIC_KEY, 0o644);
    let config = folder.load().expect("a key");
    let proof = &config.connections[0].remote.proof;
    assert!(matches!(proof, Proof::PublicKey(_)), "{proof:?}");
    for (rest, what) in [
        ("", "is the key of one peer; say whose with remote.id"),
        (", id = \"*.example\"", "is the key of one peer"),
        (
            ", id = \"a\", cacerts = \"ca.pem\"",
            "remote.cacerts: belongs to certificates",
        ),
        (
            ", id = \"a\", psk = \"x\"",
            "remote.pubkey: belongs to auth",
        ),
    ] {
        folder.put("rekindle.toml", pinned(rest).as_bytes(), 0o644);
        let found = folder.problems().join("\n");
        assert!(
            found.contains("rekindle.toml:4: ") && found.contains(what),
            "{rest}: {found}"
        );
    }
    folder.put("pubkey/peer.pem", CERTIFICATE, 0o644);
    folder.put("rekindle.toml", pinned(", id = \"a\"").as_bytes(), 0o644);
    let found = folder.problems().join("\n");
    assert!(
        found.contains("peer.pem: is no public key; make one"),
        "{found}"
    );
}
