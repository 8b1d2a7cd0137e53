//! The digest by which a ticket or a stored session knows the settings it was made under. It is
//! taken over a canonical text, so that comments, order and spelling of the file do not count.

use std::fmt::Write as _;

use ike::{
    crypto::Secret,
    peer::{Compat, Connection, Credential, Proof},
    view::hex,
};
use ring::digest::{Digest, SHA256, digest};

/// SHA-256 over everything of the connection but its present `digest`.
pub(super) fn of(connection: &Connection) -> [u8; 32] {
    let text = canonical(connection);
    digest(&SHA256, text.as_bytes())
        .as_ref()
        .try_into()
        .unwrap_or_default()
}

/// One setting a line. Secrets and certificates enter as their own hashes.
fn canonical(connection: &Connection) -> String {
    let Connection {
        name,
        local_addr,
        // Where else we are, and whether SAs may move, is said anew each time.
        more_addrs: _,
        mobike: _,
        encap: _,
        remote_addr,
        remote_hosts,
        remote_port,
        local,
        remote,
        ike_suites,
        // How messages travel is agreed on anew each time, and voids nothing.
        fragment_size: _,
        children,
        ike_lifetime,
        // Whoever comes first rekeys; it is no part of what a ticket stands for.
        rekey: _,
        reauth,
        liveness,
        resume,
        // They concern logins, and no session that there is.
        unique: _,
        leases_per_identity: _,
        childless: _,
        // What a client gets of them is said anew in every exchange.
        pools: _,
        vips,
        // Who is sent where is said anew as well.
        redirect: _,
        redirect_to: _,
        compat,
        digest: _,
    } = connection;
    let mut lines = Lines(String::from("rekindle connection 1\n"));
    lines.add("name", &name);
    lines.add_opt("local_addr", local_addr.as_ref());
    lines.add_opt("remote_addr", remote_addr.as_ref());
    for host in remote_hosts {
        lines.add("remote_addr", host);
    }
    lines.add("remote_port", &remote_port);
    lines.add("local.id", &hex(&local.id.body()));
    match &local.credential {
        Credential::PreShared(secret) => lines.add("local.psk", &hash_of(secret)),
        Credential::Certificate(chain) => {
            for der in &chain.certificates {
                lines.add("local.cert", &hash(der));
            }
        }
        Credential::PublicKey(key) => lines.add("local.pubkey", &hex(&key.fingerprint())),
    }
    if let Some(id) = &remote.id {
        lines.add("remote.id", &hex(&id.body()));
    }
    if let Some(pattern) = &remote.pattern {
        lines.add("remote.pattern", pattern);
    }
    match &remote.proof {
        Proof::PreShared(secret) => lines.add("remote.psk", &hash_of(secret)),
        Proof::PublicKey(key) => lines.add("remote.pubkey", &hex(&key.fingerprint())),
        Proof::Certificate(anchors) => {
            for fingerprint in anchors.fingerprints() {
                lines.add("remote.ca", &hex(fingerprint));
            }
        }
    }
    for suite in ike_suites {
        let names = (
            suite.encryption.name(),
            suite.prf.name(),
            suite.group.name(),
        );
        lines.add("proposal", &format!("{}-{}-{}", names.0, names.1, names.2));
    }
    lines.add("ike_lifetime", &ike_lifetime.as_secs());
    lines.add("dpd_delay", &liveness.as_secs());
    lines.add_opt("reauth_time", reauth.map(|after| after.as_secs()).as_ref());
    lines.add("compat", &u8::from(*compat == Compat::Libreswan));
    // Where a session sleeps, and the form of its ticket, are our own affair: they void nothing.
    lines.add("resume", &resume.enabled);
    lines.add("ticket_lifetime", &resume.ticket_lifetime.as_secs());
    // They stand where they did before there could be several children.
    let mut vips = vips.iter();
    for child in children {
        lines.add("child", &child.name);
        for selector in &child.local_ts {
            lines.add("local_ts", selector);
        }
        for vip in vips.by_ref() {
            lines.add("vip", vip);
        }
        if child.local_dynamic {
            lines.add("local_ts", &"dynamic");
        }
        if child.remote_dynamic {
            lines.add("remote_ts", &"dynamic");
        }
        for selector in &child.remote_ts {
            lines.add("remote_ts", selector);
        }
        for proposal in &child.proposals {
            lines.add("esp_proposal", proposal);
        }
        lines.add("life_time", &child.lifetime.as_secs());
    }
    lines.0
}

struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: &dyn std::fmt::Display) {
        // Names and values hold no line breaks: names are checked, values are printed by us.
        let _infallible = writeln!(self.0, "{key} {value}");
    }

    fn add_opt(&mut self, key: &str, value: Option<&impl std::fmt::Display>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }
}

fn hash_of(secret: &Secret) -> String {
    hash(secret.expose())
}

fn hash(octets: &[u8]) -> String {
    let hash: Digest = digest(&SHA256, octets);
    hex(hash.as_ref())
}
