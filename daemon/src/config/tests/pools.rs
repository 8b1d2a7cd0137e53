//! Pools, and the connections that lease or ask for inner addresses.

use super::{load, problems};

const GATEWAY: &str = r#"[connections.rw]
local = { auth = "psk", id = "gw.example" }
remote = { auth = "psk" }
psk = "swordfish"
pools = ["rw4", "rw6"]
[connections.rw.children.net]
local_ts = ["0.0.0.0/0", "::/0"]

[pools.rw4]
addrs = ["10.3.0.0/24", "10.4.0.10-10.4.0.20"]
dns = ["10.1.0.53", "2001:db8::53"]
domains = ["corp.example"]
[pools.rw6]
addrs = "2001:db8:3::/64"
"#;

const CLIENT: &str = r#"[connections.home]
local = { auth = "psk", id = "client.example" }
remote = { auth = "psk", id = "gw.example" }
psk = "swordfish"
vips = ["0.0.0.0", "::"]
[connections.home.children.net]
remote_ts = ["10.1.0.0/16"]
"#;

#[test]
fn pools_are_read_with_their_ranges_and_servers() {
    let config = load(GATEWAY);
    let connection = &config.connections[0];
    assert_eq!(connection.pools, config.pools);
    assert!(connection.children[0].remote_dynamic && connection.children[0].remote_ts.is_empty());
    let [rw4, rw6] = &config.pools[..] else {
        panic!("two pools");
    };
    let shown = |range: &std::ops::RangeInclusive<std::net::IpAddr>| {
        format!("{}-{}", range.start(), range.end())
    };
    let ranges: Vec<_> = rw4.ranges.iter().chain(&rw6.ranges).map(shown).collect();
    assert_eq!(
        ranges,
        [
            "10.3.0.1-10.3.0.254",
            "10.4.0.10-10.4.0.20",
            "2001:db8:3::1-2001:db8:3:0:ffff:ffff:ffff:fffe"
        ]
    );
    let networks: Vec<_> = rw4.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks[..2], ["10.3.0.0/24", "10.4.0.10/31"]);
    assert_eq!(
        (rw4.dns.len(), rw4.domains[0].as_str()),
        (2, "corp.example")
    );
}

#[test]
fn a_client_asks_and_what_is_protected_follows() {
    let config = load(CLIENT);
    let connection = &config.connections[0];
    assert_eq!(connection.vips.len(), 2);
    assert!(connection.children[0].local_dynamic && connection.children[0].local_ts.is_empty());
    assert_eq!(config.daemon.vip_interface, "lo");
}

#[test]
fn what_a_pool_says_voids_no_ticket_but_what_is_asked_for_does() {
    let digest = |text: &str| load(text).connections[0].digest;
    let other = GATEWAY.replace("10.1.0.53", "10.1.0.54");
    assert_eq!(digest(GATEWAY), digest(&other));
    let other = CLIENT.replace("\"0.0.0.0\", ", "");
    assert_ne!(digest(CLIENT), digest(&other));
}

/// What to replace, by what, and how a problem that this makes starts.
const BROKEN: &[(&str, &str, &str)] = &[
    (
        "\"10.3.0.0/24\"",
        "\"10.3.0.0/33\"",
        "10: pools.rw4.addrs: \"10.3.0.0/33\" is neither",
    ),
    (
        "\"10.3.0.0/24\"",
        "\"10.3.0.9-10.3.0.1\"",
        "10: pools.rw4.addrs: \"10.3.0.9-10.3.0.1\" ends",
    ),
    (
        "\"10.3.0.0/24\"",
        "\"10.3.0.9-::1\"",
        "10: pools.rw4.addrs: \"10.3.0.9-::1\" begins and",
    ),
    (
        "\"10.3.0.0/24\"",
        "\"10.3.0.7/24\"",
        "10: pools.rw4.addrs: \"10.3.0.7/24\" is not where",
    ),
    (
        "\"10.3.0.0/24\"",
        "\"224.0.0.0/24\"",
        "10: pools.rw4.addrs: \"224.0.0.0/24\" holds",
    ),
    (
        "\"10.3.0.0/24\"",
        "\"10.3.0.1-10.19.255.254\"",
        "10: pools.rw4.addrs: \"10.3.0.1-10.19.255.254\" is 36 networks and may be 16",
    ),
    (
        "10.4.0.10-10.4.0.20",
        "10.3.0.200-10.3.1.20",
        "10: pools.rw4.addrs: \"10.3.0.200-10.3.1.20\" overlaps 10.3.0.1-10.3.0.254 of pool this one",
    ),
    (
        "2001:db8:3::/64",
        "10.3.0.64/26",
        "14: pools.rw6.addrs: \"10.3.0.64/26\" overlaps 10.3.0.1-10.3.0.254 of pool rw4",
    ),
    (
        "addrs = \"2",
        "adrs = \"2",
        "14: pools.rw6.adrs: unknown key; did you mean addrs?",
    ),
    (
        "addrs = \"2",
        "adrs = \"2",
        "13: pools.rw6.addrs: is missing",
    ),
    (
        "\"2001:db8:3::/64\"",
        "[]",
        "14: pools.rw6.addrs: takes 1 to 8",
    ),
    (
        "\"10.1.0.53\"",
        "\"ns.example\"",
        "11: pools.rw4.dns: \"ns.example\" is not an IP",
    ),
    (
        "corp.example",
        "corp example",
        "12: pools.rw4.domains: \"corp example\" is not a domain",
    ),
    (
        "dns = [\"10.1.0.53\", \"2001:db8::53\"]",
        "",
        "12: pools.rw4.domains: needs dns",
    ),
    (
        "[pools.rw6]",
        "[pools.\"r 6\"]",
        "13: pools.\"r 6\": a name has",
    ),
    (
        "\"rw6\"]",
        "\"rw7\"]",
        "5: connections.rw.pools: no pool is called \"rw7\"",
    ),
    (
        "\"rw6\"]",
        "\"rw4\"]",
        "5: connections.rw.pools: \"rw4\" is named twice",
    ),
    (
        "[\"rw4\", \"rw6\"]",
        "[]",
        "5: connections.rw.pools: is empty",
    ),
    (
        "local_ts =",
        "remote_ts = \"10.9.0.0/24\"\nlocal_ts =",
        "7: connections.rw.children.net.remote_ts: leaves out the addresses that pools",
    ),
    (
        "psk = ",
        "vips = \"::\"\npsk = ",
        "4: connections.rw.vips: a connection asks for",
    ),
    (
        "[pools.rw4]",
        "[daemon]\ninstall_virtual_ip_on = \"a/b\"\n[pools.rw4]",
        "10: daemon.install",
    ),
];

#[test]
fn every_mistake_about_pools_is_named() {
    for (old, new, start) in BROKEN {
        assert!(GATEWAY.contains(old), "{old}");
        let found = problems(&GATEWAY.replacen(old, new, 1));
        let start = format!("rekindle.toml:{start}");
        let named = found.iter().any(|one| one.starts_with(&start));
        assert!(named, "{new}\n{start}\n{found:#?}");
    }
}

#[test]
fn every_mistake_about_vips_is_named() {
    for (vips, what) in [
        ("[]", "is empty; write \"0.0.0.0\""),
        ("\"any\"", "\"any\" cannot be asked for"),
        (
            "[\"::\", \"127.0.0.1\"]",
            "\"127.0.0.1\" cannot be asked for",
        ),
        (
            "[\"10.3.0.1\", \"0.0.0.0\"]",
            "is a second address of its family",
        ),
    ] {
        let found = problems(&CLIENT.replace("[\"0.0.0.0\", \"::\"]", vips));
        assert_eq!(found.len(), 1, "{found:#?}");
        let start = format!("rekindle.toml:5: connections.home.vips: {what}");
        assert!(found[0].starts_with(&start), "{found:#?}");
    }
}
