//! The terms of a case as each daemon's configuration says them.

use std::fmt::Write as _;

use super::terms::{
    Auth, End, Inner, Key, NAME, Outer, POOL, PSKS, RANGE, Role, SECOND, Stranger, Terms,
};
use crate::pki::{CA, OWN, OWN_CHAIN, PEER};

/// Rekindle's connections.
pub(super) fn rekindle(terms: &Terms, role: Role) -> String {
    let [own, other] = ends(terms, role);
    let addresses = match role {
        Role::Initiator if terms.roams => format!("remote_addrs = \"{}\"\n", other.address),
        Role::Initiator => format!(
            "local_addrs = \"{}\"\nremote_addrs = \"{}\"\n",
            own.address, other.address
        ),
        Role::Responder => String::new(),
    };
    let (how, local, remote) = match terms.auth {
        Auth::Psk => ("psk", String::new(), String::new()),
        Auth::Certificate { key, .. } => (
            "pubkey",
            format!(
                ", cert = \"{OWN_CHAIN}\", key = \"{OWN}\"{}",
                if key == Key::RsaOurPkcs1 {
                    ", rsa_pss = false"
                } else {
                    ""
                }
            ),
            format!(", cacerts = [\"{CA}\"]"),
        ),
        Auth::Bare(_) => (
            "pubkey",
            format!(", key = \"{OWN}\""),
            format!(", pubkey = \"{PEER}\""),
        ),
    };
    let (pool, leased) = match (terms.inner, role) {
        (Inner::Leased, Role::Responder) => (
            format!(
                "[pools.inner]\naddrs = \"{POOL}\"\n{}",
                split_dns(terms, |server, domain| {
                    format!("dns = [\"{server}\"]\ndomains = [\"{domain}\"]\n")
                })
            ),
            "pools = [\"inner\"]\n",
        ),
        (Inner::Leased, Role::Initiator) => (String::new(), "vips = [\"0.0.0.0\"]\n"),
        _ => (String::new(), ""),
    };
    let mut text = format!(
        "{}\n{pool}[connections.{NAME}]\n{addresses}{leased}",
        terms.settings
    );
    if terms.auth == Auth::Psk {
        let _ = writeln!(text, "psk = \"{}\"", PSKS[0]);
    }
    if !own.ike.is_empty() {
        let _ = writeln!(text, "proposals = [\"{}\"]", own.ike);
    }
    let _ = writeln!(
        text,
        "{}\nlocal = {{ auth = \"{how}\", id = \"{}\"{local} }}\n\
         remote = {{ auth = \"{how}\", id = \"{}\"{remote} }}",
        terms.ours, own.id, other.id
    );
    for (child, [own, other]) in children(terms, &own, &other) {
        let _ = writeln!(
            text,
            "[connections.{NAME}.children.{child}]\n{}",
            terms.our_child
        );
        if !terms.esp.is_empty() {
            let _ = writeln!(text, "esp_proposals = [\"{}\"]", terms.esp);
        }
        let ends = [("local_ts", &own), ("remote_ts", &other)];
        for (key, end) in ends.into_iter().filter(|(_, end)| !end.is_empty()) {
            let quoted = end.iter().map(|one| format!("\"{one}\""));
            let quoted: Vec<_> = quoted.collect();
            let _ = writeln!(text, "{key} = [{}]", quoted.join(", "));
        }
    }
    text
}

/// strongSwan's connection and secrets, when Rekindle plays `role`.
pub(super) fn strongswan(terms: &Terms, role: Role) -> String {
    let [other, own] = foreign_ends(terms, role);
    let (how, certs, cacerts) = match terms.auth {
        Auth::Psk => ("psk", String::new(), String::new()),
        Auth::Certificate { .. } => (
            "pubkey",
            format!("certs = {OWN}"),
            format!("cacerts = {CA}"),
        ),
        Auth::Bare(_) => (
            "pubkey",
            format!("pubkeys = {OWN}"),
            format!("pubkeys = {PEER}"),
        ),
    };
    let line = |key: &str, value: &str| match value {
        "" => String::new(),
        value => format!("{key} = {value}\n"),
    };
    let own_address = match role {
        Role::Responder if terms.roams => "%any",
        _ => own.address,
    };
    let mobike = if terms.roams { "yes" } else { "no" };
    // A gateway is called from anywhere.
    let other_address = match role {
        Role::Initiator => "%any",
        Role::Responder => other.address,
    };
    let mut nets = String::new();
    for (child, [own, other]) in children(terms, &own, &other) {
        let _ = write!(
            nets,
            "{child} {{
                {}\n {}\n {}\n {} }}\n",
            line("local_ts", &own.join(",")),
            line("remote_ts", &other.join(",")),
            line("esp_proposals", terms.esp),
            terms.swan_child,
        );
    }
    let (pool, leased) = match (terms.inner, role) {
        (Inner::Leased, Role::Initiator) => (
            format!(
                "pools {{ inner {{ addrs = {RANGE}\n{} }} }}\n",
                // It knows the attribute by its number alone (RFC 8598, 6).
                split_dns(terms, |server, domain| format!(
                    "dns = {server}\n25 = {domain}\n"
                ))
            ),
            "pools = inner",
        ),
        (Inner::Leased, Role::Responder) => (String::new(), "vips = 0.0.0.0"),
        _ => (String::new(), ""),
    };
    format!(
        "{pool}connections {{ {NAME} {{ {leased}
            version = 2\n mobike = {mobike}\n local_addrs = {own_address}\n remote_addrs = {}\n {}\n {}
            local {{ auth = {how}\n id = {}\n {certs} }}
            remote {{ auth = {how}\n id = {}\n {cacerts} }}
            children {{ {nets} }}
        }} }}
        secrets {{ ike-peer {{ id = {}\n secret = \"{}\" }} }}\n",
        other_address,
        line("proposals", own.ike),
        terms.swan,
        quoted(own.id),
        quoted(other.id),
        quoted(other.id),
        psk(terms),
    )
}

/// Name of each Child SA, and its selectors at one end and the other.
fn children(terms: &Terms, own: &End, other: &End) -> Vec<(&'static str, [Vec<String>; 2])> {
    let (own, other) = (own.selectors(), other.selectors());
    if !terms.apart {
        return vec![("net", [own, other])];
    }
    let pairs = own.into_iter().zip(other);
    let pairs = pairs.map(|(own, other)| [vec![own], vec![other]]);
    ["net", SECOND].into_iter().zip(pairs).collect()
}

/// libreswan's connections: it has one for each Child SA, and one IKE SA for both.
pub(super) fn libreswan(terms: &Terms, role: Role) -> String {
    let mut text = libreswan_connection(terms, role, (NAME, 0));
    if terms.apart {
        let second = libreswan_connection(terms, role, (SECOND, 1));
        let conn = second.find("conn ").unwrap_or_default();
        text += second.get(conn..).unwrap_or_default();
    }
    text
}

/// One of them, for the networks at this place.
fn libreswan_connection(terms: &Terms, role: Role, (name, at): (&str, usize)) -> String {
    let [other, own] = foreign_ends(terms, role);
    let mut text = format!("config setup\n\nconn {name}\n");
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "    {key}={value}");
    };
    let behind_nat = terms.outer == Outer::Nat && role == Role::Initiator;
    let other_address = if behind_nat { "%any" } else { other.address };
    for (side, end, address) in [
        ("left", &own, own.address),
        ("right", &other, other_address),
    ] {
        line(side, address);
        line(&format!("{side}id"), &libre_id(end.id));
        if let Some(network) = end.networks.get(at) {
            line(&format!("{side}subnet"), network);
        }
        if let Some(part) = end.part {
            line(&format!("{side}protoport"), part);
        }
    }
    match (terms.inner, role) {
        (Inner::Leased, Role::Initiator) => {
            line("leftmodecfgserver", "yes");
            line("rightmodecfgclient", "yes");
            line("rightaddresspool", RANGE);
            if let Some([server, domain]) = terms.split_dns {
                line("modecfgdns", server);
                line("modecfgdomains", domain);
            }
        }
        (Inner::Leased, Role::Responder) => {
            line("leftmodecfgclient", "yes");
            line("rightmodecfgserver", "yes");
            line("leftsubnet", "0.0.0.0/0");
            line("narrowing", "yes");
        }
        _ => {}
    }
    match terms.auth {
        Auth::Psk => line("authby", "secret"),
        Auth::Certificate { key, .. } => {
            line("authby", libre_auth(key));
            line("leftcert", NAME);
            line("leftsendcert", "always");
            line("sendca", "issuer");
            line("rightca", "%any");
        }
        // The keys themselves are known to whoever has made them.
        Auth::Bare(key) => line("authby", libre_auth(key)),
    }
    if !own.ike.is_empty() {
        line("ike", &libre_proposal(own.ike));
    }
    if !terms.esp.is_empty() {
        // Its ESP wants a word for integrity before a group, also where the cipher needs none.
        let proposal = libre_proposal(terms.esp);
        line("esp", &proposal.replacen("-dh", "-none-dh", 1));
    }
    // The script behind it would set up routes, which are there, and takes seconds in the lab.
    line("leftupdown", "%disabled");
    for (key, value) in [
        ("keyingtries", "1"),
        ("rekey", "no"),
        ("mobike", "no"),
        ("retransmit-timeout", "15s"),
    ] {
        line(key, value);
    }
    for extra in terms.libre.lines() {
        let _ = writeln!(text, "    {}", extra.trim());
    }
    text
}

/// libreswan's one secret, which is for everybody.
pub(super) fn libreswan_secret(terms: &Terms) -> String {
    match terms.auth {
        Auth::Psk => format!(": PSK \"{}\"\n", psk(terms)),
        Auth::Certificate { .. } | Auth::Bare(_) => String::new(),
    }
}

/// The lines that name server and domain, if the case has them.
fn split_dns(terms: &Terms, lines: impl FnOnce(&str, &str) -> String) -> String {
    let names = terms
        .split_dns
        .map(|[server, domain]| lines(server, domain));
    names.unwrap_or_default()
}

fn psk(terms: &Terms) -> &'static str {
    PSKS[usize::from(terms.stranger == Stranger::OtherKey)]
}

/// Rekindle's end, then the other.
pub(super) fn ends(terms: &Terms, role: Role) -> [End; 2] {
    let [client, gateway] = terms.ends();
    match role {
        Role::Initiator => [client, gateway],
        Role::Responder => [gateway, client],
    }
}

/// The same as the foreign daemon sees it.
fn foreign_ends(terms: &Terms, role: Role) -> [End; 2] {
    let mut ends = ends(terms, role);
    if let Some(office) = terms.their_office {
        let gateway = usize::from(role == Role::Initiator);
        ends[gateway].networks = vec![office];
    }
    ends
}

/// Names with blanks, commas or `=` stand in quotes.
fn quoted(id: &str) -> String {
    format!("\"{id}\"")
}

const fn libre_auth(key: Key) -> &'static str {
    match key {
        Key::P256 => "ecdsa-sha2_256",
        Key::P384 => "ecdsa-sha2_384",
        // It knows no Ed25519, and the table says so.
        Key::Ed25519 | Key::RsaPss | Key::RsaPkcs1 => "rsa-sha2_256",
        // What is not named here it does not take.
        Key::RsaOurPkcs1 => "rsasig",
    }
}

/// `@name` for a host, `@[name]` for a key ID; addresses, mailboxes and DNs as they are.
fn libre_id(id: &str) -> String {
    if let Some(name) = id.strip_prefix("keyid:") {
        format!("@[{name}]")
    } else if id.contains(['@', '=']) || id.parse::<std::net::IpAddr>().is_ok() {
        format!("\"{id}\"")
    } else {
        format!("@{id}")
    }
}

/// swanctl's words in libreswan's spelling: one word for each kind of transform, alternatives joined by
/// a plus.
fn libre_proposal(text: &str) -> String {
    let mut out = String::new();
    let mut before = None;
    // Of an IKE proposal it takes the PRF for what authenticates as well.
    let has_prf = text.contains("-prf");
    for word in text.split('-') {
        if has_prf && word.starts_with("sha") {
            continue;
        }
        let (kind, word) = match word {
            "aes128gcm16" => (Kind::Cipher, "aes_gcm128"),
            "aes256gcm16" => (Kind::Cipher, "aes_gcm256"),
            "chacha20poly1305" => (Kind::Cipher, "chacha20_poly1305"),
            "aes128" | "aes256" => (Kind::Cipher, word),
            "sha256" => (Kind::Integrity, "sha2_256"),
            "sha384" => (Kind::Integrity, "sha2_384"),
            "sha512" => (Kind::Integrity, "sha2_512"),
            "prfsha256" => (Kind::Prf, "sha2_256"),
            "prfsha384" => (Kind::Prf, "sha2_384"),
            "prfsha512" => (Kind::Prf, "sha2_512"),
            "ecp256" => (Kind::Group, "dh19"),
            "ecp384" => (Kind::Group, "dh20"),
            _ => (Kind::Group, "dh31"),
        };
        match before {
            None => {}
            Some(same) if same == kind => out.push('+'),
            Some(_) => out.push('-'),
        }
        out.push_str(word);
        before = Some(kind);
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cipher,
    Integrity,
    Prf,
    Group,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libreswan_spells_proposals_and_identities_its_own_way() {
        let ike = "aes256gcm16-prfsha384-x25519-ecp384";
        assert_eq!(libre_proposal(ike), "aes_gcm256-sha2_384-dh31+dh20");
        for (ours, theirs) in [
            ("gw.example", "@gw.example"),
            ("keyid:gate", "@[gate]"),
            ("192.0.2.1", "\"192.0.2.1\""),
            ("me@example.net", "\"me@example.net\""),
        ] {
            assert_eq!(libre_id(ours), theirs);
        }
    }
}
