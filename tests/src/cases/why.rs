//! What operators read when a tunnel does not come up: at the gateway, at the client, and in the log; and
//! that an authority is kept to its name constraints, and a certificate which its authority has taken back
//! ends sessions that only sleep.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::tunnel::{CLIENT, client_connection, gateway_connection, two_sites};
use crate::{
    netns::Namespace,
    pki::{Authority, CA, KeyKind, OWN},
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// A wrong key, and nothing in common.
pub const TOLD: Case = Case {
    name: "why_a_tunnel_does_not_come_up_is_told_at_both_ends",
    run: told,
};
/// An authority with name constraints.
pub const CONSTRAINED: Case = Case {
    name: "an_authority_with_name_constraints_certifies_within_them_alone",
    run: constrained,
};
/// A list of revoked certificates between suspend and resume.
pub const REVOKED: Case = Case {
    name: "a_certificate_revoked_while_its_client_sleeps_does_not_resume",
    run: revoked,
};

const NO_ESP: Setting<'static> = Setting {
    gate: "off",
    dataplane: "none",
    node: 1,
};
const LOGGED_WITHIN: Duration = Duration::from_secs(5);

/// The latest failure that a daemon tells of a peer for this reason.
fn failure(site: &Site<'_>, peer: &str, reason: &str) -> Result<Value> {
    let all = site.ikectl(&format!("why {peer}"))?;
    let mut failures = all.as_array().context("a list")?.iter();
    let found = failures.find(|failure| failure["reason"] == reason);
    Ok(found
        .with_context(|| format!("no {reason} in {all}"))?
        .clone())
}

fn says(failure: &Value, key: &str, part: &str) -> Result<()> {
    let text = failure[key].as_str().unwrap_or_default();
    ensure!(text.contains(part), "{key} without {part:?}: {failure}");
    Ok(())
}

fn told(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, NO_ESP, &gateway_connection())?;
    let own = Setting { node: 2, ..NO_ESP };
    let wrong_key = client_connection().replace("correct horse", "wrong horse");
    let mut client = Site::prepare(lab, &client_ns, own, &wrong_key)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let Err(error) = client.ikectl("up home") else {
        bail!("up with a wrong key");
    };
    ensure!(error.to_string().contains("peer_auth_failed"), "{error}");

    for peer in [CLIENT, "client.example", "rw"] {
        let found = failure(&gateway, peer, "peer_auth_failed")?;
        says(&found, "verdict", "the peer's pre-shared key is not ours")?;
        says(&found, "notify", "sent AUTHENTICATION_FAILED")?;
        says(&found, "cure", "compare the secrets")?;
        says(&found, "identity", "client.example")?;
        says(&found, "standing", "reached")?;
    }
    let nobody = gateway.ikectl("why 192.0.2.99")?;
    ensure!(nobody.as_array().is_some_and(Vec::is_empty), "{nobody}");
    gateway.log_has(
        "IKE_AUTH: the peer's pre-shared key is not ours",
        LOGGED_WITHIN,
    )?;
    let found = failure(&client, "home", "peer_refused")?;
    says(&found, "verdict", "the peer refuses: AUTHENTICATION_FAILED")?;
    says(&found, "role", "initiator")?;
    let all = gateway.ikectl("why")?.to_string() + &client.ikectl("why")?.to_string();
    ensure!(!all.contains("horse"), "a secret in {all}");

    client.kill()?;
    let other_suite = client_connection().replace(
        "dpd_delay",
        "proposals = \"aes128gcm16-prfsha384-ecp384\"\ndpd_delay",
    );
    let narrow = gateway_connection().replace(
        "dpd_delay",
        "proposals = \"aes256gcm16-prfsha256-x25519\"\ndpd_delay",
    );
    gateway.kill()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, NO_ESP, &narrow)?;
    let mut client = Site::prepare(lab, &client_ns, own, &other_suite)?;
    gateway.start(lab)?;
    client.start(lab)?;
    ensure!(
        client.ikectl("up home").is_err(),
        "up with nothing in common"
    );
    let found = failure(&gateway, CLIENT, "proposal_mismatch_ike")?;
    says(
        &found,
        "verdict",
        "the peer offers aes128gcm16-prfsha384-ecp384",
    )?;
    says(&found, "verdict", "we take aes256gcm16-prfsha256-x25519")?;
    says(&found, "notify", "sent NO_PROPOSAL_CHOSEN")?;
    says(&found, "standing", "stranger")?;
    let found = failure(&client, "home", "proposal_mismatch_ike")?;
    says(&found, "notify", "received NO_PROPOSAL_CHOSEN")
}

/// The same with certificates in place of the key.
fn certified(connection: &str) -> String {
    let line = |line: &str| {
        let ids = ["client.example", "gw.example"];
        match ids.into_iter().find(|id| line.contains(id)) {
            Some(id) if line.trim_start().starts_with("local =") => {
                format!("local = {{ id = \"{id}\", cert = \"{OWN}\", key = \"{OWN}\" }}")
            }
            Some(id) => format!("remote = {{ id = \"{id}\", cacerts = \"{CA}\" }}"),
            None => line.to_owned(),
        }
    };
    let with_key = connection.lines().filter(|line| !line.starts_with("psk"));
    let lines: Vec<_> = with_key.map(line).collect();
    lines.join("\n") + "\n"
}

/// Client and gateway with certificates of one authority; neither runs.
fn certified_sites<'a>(
    lab: &Lab,
    [client, gateway]: [&'a Namespace; 2],
    authority: &Authority,
) -> Result<[Site<'a>; 2]> {
    let gateway = Site::prepare(lab, gateway, NO_ESP, &certified(&gateway_connection()))?;
    let own = Setting { node: 2, ..NO_ESP };
    let client = Site::prepare(lab, client, own, &certified(&client_connection()))?;
    for (site, id) in [(&gateway, "gw.example"), (&client, "client.example")] {
        authority.equip(site.folder(), KeyKind::P256, id)?;
        authority.be_trusted_in(site.folder())?;
    }
    Ok([client, gateway])
}

fn constrained(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let authority = Authority::constrained("example", "Elsewhere")?;
    let [mut client, mut gateway] = certified_sites(lab, [&client_ns, &gateway_ns], &authority)?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    client.ikectl("down home")?;

    client.stop()?;
    authority.equip(client.folder(), KeyKind::P256, "gw.elsewhere")?;
    client.start(lab)?;
    ensure!(
        client.ikectl("up home").is_err(),
        "up with a name that its authority may not certify"
    );
    let found = failure(&gateway, "client.example", "cert_name_constraint")?;
    says(
        &found,
        "verdict",
        "'CN=Lab Authority', or an authority above it, may not certify a name of the certificate of 'CN=gw.elsewhere': \
         gw.elsewhere",
    )?;
    says(&found, "notify", "sent AUTHENTICATION_FAILED")?;
    failure(&client, "home", "peer_refused").map(drop)
}

fn revoked(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let authority = Authority::new()?;
    let [mut client, mut gateway] = certified_sites(lab, [&client_ns, &gateway_ns], &authority)?;
    // A list of another's certificate changes nothing.
    authority.revoke(gateway.folder(), gateway.folder())?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    client.ikectl("suspend home")?;

    // A damaged list beside them is named, and nothing changes.
    let lists = gateway.folder().join("x509crl");
    let damaged = lists.join("damaged.pem");
    fs::write(&damaged, "-----BEGIN X509 CRL-----\nMIIB\n")?;
    let Err(error) = gateway.ikectl("reload") else {
        bail!("a damaged list was taken");
    };
    ensure!(error.to_string().contains("damaged.pem: "), "{error}");
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    client.ikectl("suspend home")?;

    let before = gateway.established()?;

    fs::remove_file(damaged)?;
    authority.revoke(client.folder(), gateway.folder())?;
    let read = gateway.ikectl("reload")?;
    ensure!(read["certificates_revoked"] == 1, "{read}");
    ensure!(
        client.ikectl("up home").is_err(),
        "up with a revoked certificate"
    );
    let tickets = gateway.ikectl("ticket")?;
    let refused = tickets["refused"].as_array().context("refusals")?;
    let revoked = refused.iter().any(|one| one["reason"] == "revoked");
    ensure!(revoked && tickets["honoured"] == 1, "{tickets}");
    let found = failure(&gateway, "client.example", "cert_revoked")?;
    says(
        &found,
        "verdict",
        "'CN=client.example' was revoked by 'CN=Lab Authority'",
    )?;
    says(&found, "notify", "sent AUTHENTICATION_FAILED")?;
    // What was there before the list stays, and nothing has come.
    let sas = gateway.ikectl("sa")?;
    let ids: Vec<_> = sas
        .as_array()
        .context("SAs")?
        .iter()
        .map(|sa| &sa["id"])
        .collect();
    ensure!(ids == [&before["id"]], "{sas}");
    failure(&client, "home", "peer_refused")?;
    Ok(())
}
