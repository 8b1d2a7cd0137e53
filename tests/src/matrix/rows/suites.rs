//! Key exchanges, ciphers and pseudo-random functions.

use anyhow::{Result, ensure};

use super::{
    super::{
        bout::Bout,
        terms::{PLAIN, Terms},
    },
    Case, USUAL,
};

pub(super) const CASES: &[Case] = &[
    ike("group 31 (x25519)", "aes256gcm16-prfsha256-x25519"),
    ike("group 19 (ecp256)", "aes256gcm16-prfsha256-ecp256"),
    ike("group 20 (ecp384)", "aes256gcm16-prfsha256-ecp384"),
    ike("IKE in AES-128-GCM", "aes128gcm16-prfsha256-ecp256"),
    ike(
        "IKE in ChaCha20-Poly1305",
        "chacha20poly1305-prfsha256-x25519",
    ),
    ike("PRF HMAC-SHA2-384", "aes256gcm16-prfsha384-x25519"),
    ike("PRF HMAC-SHA2-512", "aes256gcm16-prfsha512-x25519"),
    esp("ESP in AES-128-GCM", "aes128gcm16"),
    esp("ESP in AES-256-GCM", "aes256gcm16"),
    esp("ESP in ChaCha20-Poly1305", "chacha20poly1305"),
    ike(
        "IKE in AES-128-CBC with HMAC-SHA2-256",
        "aes128-sha256-prfsha256-ecp256",
    ),
    ike(
        "IKE in AES-256-CBC with HMAC-SHA2-384",
        "aes256-sha384-prfsha384-ecp384",
    ),
    ike(
        "IKE in AES-256-CBC with HMAC-SHA2-512",
        "aes256-sha512-prfsha512-x25519",
    ),
    esp("ESP in AES-128-CBC with HMAC-SHA2-256", "aes128-sha256"),
    esp("ESP in AES-256-CBC with HMAC-SHA2-384", "aes256-sha384"),
    esp("ESP in AES-256-CBC with HMAC-SHA2-512", "aes256-sha512"),
    Case {
        name: "extended sequence numbers",
        terms: Terms {
            swan_child: "esp_proposals = aes256gcm16-esn",
            libre: "esn=yes",
            ..PLAIN
        },
        plot: |bout| sequence_numbers(bout, true),
        ..USUAL
    },
    Case {
        name: "sequence numbers of 32 bits",
        terms: Terms {
            swan_child: "esp_proposals = aes256gcm16-noesn",
            libre: "esn=no",
            ..PLAIN
        },
        plot: |bout| sequence_numbers(bout, false),
        ..USUAL
    },
];

const fn ike(name: &'static str, proposal: &'static str) -> Case {
    Case {
        name,
        terms: Terms {
            ike: proposal,
            ..PLAIN
        },
        plot: as_told,
        lacks: &[],
    }
}

const fn esp(name: &'static str, proposal: &'static str) -> Case {
    Case {
        name,
        terms: Terms {
            esp: proposal,
            ..PLAIN
        },
        plot: as_told,
        lacks: &[],
    }
}

/// Whether the SA has what the proposals say.
fn as_told(bout: &mut Bout<'_>) -> Result<()> {
    bout.come_up()?;
    let sa = bout.sa()?;
    for (proposal, agreed) in [
        (bout.terms.ike, &sa["proposal"]),
        (bout.terms.esp, &sa["children"][0]["proposal"]),
    ] {
        ensure!(proposal.is_empty() || agreed == proposal, "{sa}");
    }
    bout.goodbye()
}

fn sequence_numbers(bout: &mut Bout<'_>, extended: bool) -> Result<()> {
    bout.come_up()?;
    for namespace in [&bout.ground.client, &bout.ground.gateway] {
        let states = namespace.ip("xfrm state")?;
        let esp = states.matches("proto esp").count();
        let esn = states
            .lines()
            .filter(|line| line.contains("flag") && line.contains("esn"));
        let right = if extended { esp } else { 0 };
        ensure!(
            esp == 2 && esn.count() == right,
            "{}: {states}",
            namespace.name()
        );
    }
    bout.goodbye()
}
