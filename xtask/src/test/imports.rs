//! Who may import whom (docs/architecture.md), checked against what cargo resolves.

use std::process::Command;

use anyhow::{Result, ensure};

use super::lines;
use crate::places::Places;

/// What a crate may depend on directly, build scripts and tests aside.
enum Rule {
    /// Nothing but these.
    Only(&'static [&'static str]),
    /// Anything but these, not even indirectly.
    Never(&'static [&'static str]),
}

const RULES: [(&str, Rule); 5] = [
    ("gate-abi", Rule::Only(&[])),
    ("ike", Rule::Only(IKE)),
    ("ikectl-api", Rule::Only(&["serde"])),
    ("ikectl", Rule::Never(&["rekindled", "ike", "gate-abi"])),
    (
        "xtask",
        Rule::Never(&[
            "rekindled",
            "ike",
            "ikectl",
            "ikectl-api",
            "gate-abi",
            "tests",
        ]),
    ),
];

const IKE: &[&str] = &[
    "aes",
    "cbc",
    "der",
    "gate-abi",
    "ring",
    "rustls-pki-types",
    "rustls-webpki",
    "thiserror",
    "x509-cert",
    "zeroize",
];

/// Fails with every line that breaks a rule.
pub(super) fn check(places: &Places) -> Result<()> {
    let mut broken = Vec::new();
    for (name, rule) in &RULES {
        let depth = if matches!(rule, Rule::Only(_)) {
            "1"
        } else {
            "all"
        };
        let mut cargo = Command::new("cargo");
        cargo.args([
            "tree",
            "--package",
            name,
            "--edges",
            "normal",
            "--prefix",
            "none",
        ]);
        cargo.args(["--format", "{p}"]);
        if depth == "1" {
            cargo.args(["--depth", depth]);
        }
        let tree = lines(&mut cargo, &places.root)?;
        // The first line is the crate itself; a version follows each name.
        for dependency in tree
            .iter()
            .skip(1)
            .filter_map(|line| line.split(' ').next())
        {
            let good = match rule {
                Rule::Only(list) => list.contains(&dependency),
                Rule::Never(list) => !list.contains(&dependency),
            };
            if !good {
                broken.push(format!("{name} may not import {dependency}"));
            }
        }
    }
    broken.dedup();
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}
