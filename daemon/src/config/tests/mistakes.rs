//! The mistakes an operator makes, one row each, and that each is named with its line and key.

use super::{CERTIFICATE, Folder, KEY_SEC1, SMALL, problems};

#[test]
fn every_mistake_is_named_by_line_and_key() {
    for (text, start) in WRONG {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].starts_with(start), "{text}: {found:#?}");
    }
    for (line, start) in WRONG_IN_CONNECTION {
        let found = problems(&SMALL.replace("{}", line));
        assert_eq!(found.len(), 1, "{line}: {found:#?}");
        let start = format!("rekindle.toml:5: connections.rw.{start}");
        assert!(found[0].starts_with(&start), "{line}: {found:#?}");
    }
}

#[test]
fn every_mistake_in_a_connection_is_named() {
    for (old, new, start) in BROKEN {
        assert!(SMALL.contains(old), "{old}");
        let text = SMALL.replacen(old, new, 1).replace("{}", "");
        let found = problems(&text);
        let start = format!("rekindle.toml:{start}");
        assert!(
            found.iter().any(|one| one.starts_with(&start)),
            "{text}\n{start}\n{found:#?}"
        );
    }
}

/// Main file, and how the one problem it has starts.
const WRONG: &[(&str, &str)] = &[
    (
        "[daemn]\nnode = 1",
        "rekindle.toml:1: daemn: unknown key; did you mean daemon?",
    ),
    (
        "[daemon]\nnode = 256",
        "rekindle.toml:2: daemon.node: must be from 0 to 255",
    ),
    (
        "[daemon]\nworkers = 0",
        "rekindle.toml:2: daemon.workers: must be from 1 to 8",
    ),
    (
        "[daemon]\nworkers = 9",
        "rekindle.toml:2: daemon.workers: must be from 1 to 8",
    ),
    (
        "[daemon]\nnode = -1",
        "rekindle.toml:2: daemon.node: must be from 0 to 255",
    ),
    (
        "[daemon]\nnode = 99999999999999999999",
        "rekindle.toml:2: daemon.node: must be from",
    ),
    (
        "[gate]\nsteer = \"cpumap\"",
        "rekindle.toml:1: gate.steer: needs steer_cpus",
    ),
    (
        "[gate]\nsteer = \"rss\"",
        "rekindle.toml:2: gate.steer: \"rss\" is none of off, cpumap",
    ),
    (
        "[gate]\nsteer_cpus = \"3-1\"",
        "rekindle.toml:2: gate.steer_cpus: takes 1 to 16 CPUs",
    ),
    (
        "[gate]\nsteer_cpus = \"0-4000000000\"",
        "rekindle.toml:2: gate.steer_cpus: takes 1 to 16 CPUs",
    ),
    (
        "[daemon]\nnode = \"1\"",
        "rekindle.toml:2: daemon.node: must be a number, not a string",
    ),
    (
        "\n\n[daemon]\n\nike_prt = 1",
        "rekindle.toml:5: daemon.ike_prt: unknown key; did you mean ike_port?",
    ),
    (
        "[daemon]\nnatt_port = 500",
        "rekindle.toml:1: daemon.natt_port: is the same as ike_port",
    ),
    (
        "[daemon]\nlisten = [\"gw.example\"]",
        "rekindle.toml:2: daemon.listen: is not an IP address",
    ),
    (
        "[daemon]\nlisten = []",
        "rekindle.toml:2: daemon.listen: takes 1 to 64",
    ),
    (
        "[daemon]\nrun_dir = \"run\"",
        "rekindle.toml:2: daemon.run_dir: must be an absolute path",
    ),
    (
        "[daemon]\ndataplane = \"xfmr\"",
        "rekindle.toml:2: daemon.dataplane: \"xfmr\" is none of xfrm, none; did you mean xfrm?",
    ),
    (
        "daemon = 3",
        "rekindle.toml:1: daemon: must be a table, not an integer",
    ),
    (
        "[resume]\nenabled = \"yes\"",
        "rekindle.toml:2: resume.enabled: must be true or false, not a string",
    ),
    (
        "[resume]\nticket_lifetime = \"12\"",
        "rekindle.toml:2: resume.ticket_lifetime: is not a time",
    ),
    (
        "[resume]\nticket_lifetime = \"12 h\"",
        "rekindle.toml:2: resume.ticket_lifetime: is not a time",
    ),
    (
        "[resume]\nticket_lifetime = \"1s\"",
        "rekindle.toml:2: resume.ticket_lifetime: must be from 1m to 30d",
    ),
    (
        "[resume]\nticket_lifetime = \"99999999999999999d\"",
        "rekindle.toml:2: resume.ticket_lifetime: is not a time",
    ),
    (
        "[resume]\nticket_lifetime = 1.5",
        "rekindle.toml:2: resume.ticket_lifetime: must be a time such as",
    ),
    (
        "[gate]\nmode = \"on\"",
        "rekindle.toml:2: gate.mode: \"on\" is none of auto, native, generic, off",
    ),
    (
        "[gate]\ninterfaces = [\"a/b\"]",
        "rekindle.toml:2: gate.interfaces: is not the name",
    ),
    (
        "[log]\nlevel = 3",
        "rekindle.toml:2: log.level: must be a string, not an integer",
    ),
    (
        "[connections]\nrw = 1",
        "rekindle.toml:2: connections.rw: must be a table",
    ),
    (
        "[daemon]\nnode = 1\nnode = 2",
        "rekindle.toml:3: : duplicate key",
    ),
    ("[daemon\nnode = 1", "rekindle.toml:1: : "),
];

/// A line of a connection, and how its one problem starts. The line is the fifth.
const WRONG_IN_CONNECTION: &[(&str, &str)] = &[
    (
        "local_adrs = \"::1\"",
        "local_adrs: unknown key; did you mean local_addrs?",
    ),
    (
        "local_addrs = \"gw.example\"",
        "local_addrs: \"gw.example\" is not an IP address; addresses of ours",
    ),
    ("local_addrs = []", "local_addrs: takes 1 to 9 addresses"),
    (
        "local_addrs = [\"::1\", \"%any\"]",
        "local_addrs: \"%any\" is not an IP address",
    ),
    (
        "remote_addrs = []",
        "remote_addrs: takes 1 to 8 addresses or host names",
    ),
    (
        "remote_addrs = [\"gw.example\", \"192.0.2.256\"]",
        "remote_addrs: \"192.0.2.256\" is neither an IP address nor a host name; write 192.0.2.1",
    ),
    (
        "remote_addrs = [\"gw.example\", \"%any\"]",
        "remote_addrs: \"%any\" is neither",
    ),
    (
        "remote_addrs = \"-gw.example\"",
        "remote_addrs: \"-gw.example\" is neither",
    ),
    ("remote_port = 0", "remote_port: must be from 1 to 65535"),
    ("proposals = []", "proposals: is empty"),
    (
        "proposals = 1",
        "proposals: must be a string or an array of strings, not an integer",
    ),
    (
        "proposals = [\"default\", 1]",
        "proposals: must be a string, not an integer",
    ),
    (
        "proposals = \"aes128gcm16-x25519\"",
        "proposals: \"aes128gcm16-x25519\" names no PRF",
    ),
    (
        "proposals = \"aes128gcm16-prfsha256\"",
        "proposals: \"aes128gcm16-prfsha256\" names no key exchange",
    ),
    (
        "proposals = \"prfsha256-x25519\"",
        "proposals: \"prfsha256-x25519\" names no cipher",
    ),
    (
        "proposals = \"aes128-x25519\"",
        "proposals: \"aes128-x25519\" names no algorithm that authenticates its cipher; add one",
    ),
    (
        "proposals = \"aes256gcm16-aes256-sha256-x25519\"",
        "proposals: \"aes256gcm16-aes256-sha256-x25519\" mixes ciphers",
    ),
    (
        "proposals = \"aes128-sha256-modp2048\"",
        "proposals: \"modp2048\": no group of that kind is supported; use ecp256",
    ),
    (
        "proposals = \"aes128-sha1-ecp256\"",
        "proposals: \"sha1\" is too weak",
    ),
    (
        "proposals = \"aes192-sha256-ecp256\"",
        "proposals: \"aes192\" is unknown; known are aes256gcm16, aes128gcm16, chacha20poly1305, aes128",
    ),
    (
        "proposals = \"aes128gcm16-sha256-x25519\"",
        "proposals: \"aes128gcm16-sha256-x25519\" has sha256, but its ciphers authenticate",
    ),
    ("proposals = \"\"", "proposals: \"\" is unknown"),
    ("dpd_delay = \"2d\"", "dpd_delay: must be from 0s to 1d"),
    ("fragmentation = 1", "fragmentation: must be true or false"),
    (
        "fragment_size = 500",
        "fragment_size: must be from 576 to 9000",
    ),
    (
        "fragment_size = 1280\nfragmentation = false",
        "fragment_size: means nothing with fragmentation = false",
    ),
    ("ike_lifetime = 0", "ike_lifetime: must be from 1m to 30d"),
    (
        "rekey_time = \"2h\"\nike_lifetime = \"2h\"",
        "rekey_time: must be shorter than ike_lifetime",
    ),
    ("rekey_time = 59", "rekey_time: must be 0 or from 1m to 30d"),
    (
        "unique = \"no\"",
        "unique: \"no\" is none of replace, keep, never",
    ),
    ("version = 2", "version: only IKEv2 is spoken"),
    ("resume = 1", "resume: must be true or false"),
    ("start = \"pu\"", "start: \"pu\" is none of up, trap, none"),
    ("\"\\u001b[2J\" = 1", "\"\\u{1b}[2J\": unknown key"),
];

/// What to replace in a good connection, by what, and how the one problem starts.
const BROKEN: &[(&str, &str, &str)] = &[
    (
        "id = \"gw.example\"",
        "id = \"N=gw\"",
        "3: connections.rw.local.id: \"N=gw\" cannot be",
    ),
    (
        ", id = \"gw.example\"",
        "",
        "3: connections.rw.local.id: is missing",
    ),
    ("local = ", "lcal = ", "1: connections.rw.local: is missing"),
    (
        "auth = \"psk\", id = \"g",
        "id = \"g",
        "3: connections.rw.local.auth: is missing",
    ),
    (
        "auth = \"psk\", id = \"g",
        "auth = \"rsa\", id = \"g",
        "3: connections.rw.local.auth: \"rsa\" is none of psk, pubkey",
    ),
    (
        "id = \"gw.example\"",
        "id = \"g\", cert = \"x\"",
        "3: connections.rw.local.cert: belongs to auth = \"pubkey\"",
    ),
    (
        "psk = \"swordfish\"\n",
        "\n",
        "4: connections.rw.remote.secret: no pre-shared key",
    ),
    (
        "psk = \"swordfish\"",
        "psk = \"0xabc\"",
        "2: connections.rw.psk: has an odd or wrong digit",
    ),
    (
        "psk = \"swordfish\"",
        "secret = \"nemo\"",
        "2: connections.rw.secret: there is no secret \"nemo\"",
    ),
    (
        "remote_ts = [\"10.2.0.0/24\"]",
        "",
        "6: connections.rw.children.net.remote_ts: is missing",
    ),
    (
        "10.2.0.0/24",
        "10.2.0.0/33",
        "8: connections.rw.children.net.remote_ts: \"10.2.0.0/33\" is not a network",
    ),
    (
        "[\"10.2.0.0/24\"]",
        "[]",
        "8: connections.rw.children.net.remote_ts: takes 1 to 16",
    ),
    (
        "\"10.2.0.0/24\"",
        "\"dynamic\"",
        "8: connections.rw.children.net.remote_ts: \"dynamic\" is what vips asks for",
    ),
    (
        "{}",
        "vips = \"::\"",
        "7: connections.rw.children.net.local_ts: leaves out the addresses that vips",
    ),
    (
        "remote_ts",
        "esp_proposals = \"x25519-esn\"\nremote_ts",
        "8: connections.rw.children.net.esp_proposals: \"x25519-esn\" names no cipher",
    ),
    (
        "remote_ts",
        "esp_proposals = \"aes128gcm16-prfsha256\"\nremote_ts",
        "8: connections.rw.children.net.esp_proposals: \"prfsha256\" is a PRF",
    ),
    (
        "remote_ts",
        "mode = \"beet\"\nremote_ts",
        "8: connections.rw.children.net.mode: \"beet\" is none of tunnel, transport",
    ),
    (
        "remote_ts",
        "life_time = \"1h\"\nrekey_time = \"1h\"\nremote_ts",
        "9: connections.rw.children.net.rekey_time: must be shorter than life_time",
    ),
    (
        "remote_ts",
        "life_time = \"0s\"\nremote_ts",
        "8: connections.rw.children.net.life_time: must be from",
    ),
    (
        "remote_ts",
        "start = \"trap\"\nremote_ts",
        "8: connections.rw.children.net.start: \"trap\" is none of up, none",
    ),
    (
        "{}",
        "unique = \"never\"",
        "5: connections.rw.unique: \"never\" needs pools",
    ),
    (
        "{}",
        "leases_per_identity = 3",
        "5: connections.rw.leases_per_identity: means nothing without unique = \"never\"",
    ),
    (
        "{}",
        "start = \"up\"",
        "1: connections.rw.start: needs to know whom to call",
    ),
    (
        "[connections.rw.children.net]",
        "[connections.rw.children.web]\nlocal_ts = \"10.1.0.0/24\"\nremote_ts = \"10.2.0.0/24\"\n\
         [connections.rw.children.net]",
        "10: connections.rw.children.net.local_ts: has 10.1.0.0/24 to 10.2.0.0/24 as child web has; take it out",
    ),
    (
        "rw.children.net",
        "rw.children.\"n t\"",
        "6: connections.rw.children.\"n t\": a name has",
    ),
];

#[test]
fn wildcards_stand_for_whole_parts() {
    let with = |id: &str| SMALL.replace("{}", "").replace("client.example", id);
    for id in ["*@example.net", "*.example.net", "O=Example, CN=*"] {
        let config = super::load(&with(id));
        let remote = &config.connections[0].remote;
        assert!(remote.id.is_none() && remote.pattern.is_some(), "{id}");
    }
    for id in ["*", "al*@example.net", "vpn.*", "O=Example, CN=a*"] {
        let found = problems(&with(id));
        assert!(
            found
                .iter()
                .any(|one| one.contains("remote.id: has a wildcard where none can be")),
            "{id}: {found:?}"
        );
    }
}

/// As `docs/operations.md` shows it.
#[test]
fn each_mistake_has_file_line_column_and_cure() {
    let folder = Folder::new(&[(
        "rekindle.toml",
        r#"[daemon]
workers = "two"
listn = ["192.0.2.1"]

[connections.rw]
local = { id = "vpn.example.net", cert = "vpn.pem", key = "vpn.key" }
remote = { auth = "pubkey", cacerts = ["corp-ca.pem"] }
pools = ["rw4"]
[connections.rw.children.net]
local_ts = ["10.1.0.0/16"]

[pools.rw4]
addrs = "10.20.0.0/16"
[pools.guests]
addrs = ["10.30.0.0/24", "10.20.200.0-10.20.200.99"]
"#,
    )]);
    folder.put("vpn.pem", CERTIFICATE, 0o644);
    folder.put("vpn.key", KEY_SEC1, 0o644);
    let errors = folder.load().expect_err("mistakes").to_string();
    let place = format!("{}/", folder.0.path().display());
    let found = errors.replace(&place, "");
    let expected = [
        "rekindle.toml:3:1: daemon.listn: unknown key; did you mean listen?",
        "rekindle.toml:2:11: daemon.workers: must be a number, not a string",
        "rekindle.toml:15:26: pools.guests.addrs: \"10.20.200.0-10.20.200.99\" overlaps \
         10.20.0.1-10.20.255.254 of pool rw4; an address belongs to one pool, shorten one of them",
        "rekindle.toml:6:59: connections.rw.local.key: vpn.key: everybody on this machine can reach \
         the private key; chmod 0600 it",
        "rekindle.toml:7:40: connections.rw.remote.cacerts: corp-ca.pem is not there, nor in the \
         folder of its kind (x509, x509ca, x509crl, pubkey, private); correct the name, or put the file there",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}
