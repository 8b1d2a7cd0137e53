//! What people see, from what the daemon sends.

use super::*;

fn reply(outcome: &str) -> Reply {
    let text = format!(
        r#"{{"rekindle":{{"version":"0.1.0","schema":1,"time":"2026-11-21T17:02:11Z"}},{outcome}}}"#
    );
    serde_json::from_str(&text).expect("a reply")
}

const SAS: &str = r#""ike_sas":[{"id":17,"connection":"rw","state":"established","version":2,
    "initiator":false,"spi_i":"8f2c6a0000000001","spi_r":"4b19770000000002",
    "local":{"id":"vpn.example.net","addr":"192.0.2.1","port":4500},
    "remote":{"id":"alice@example.net","addr":"198.51.100.7","port":4500,"nat":true},
    "proposal":"aes128gcm16-prfsha256-x25519","established_age_seconds":7380,
    "full_auth_age_seconds":93600,"resumed":true,"resume_count":2,
    "ticket":{"expires_in_seconds":32400},
    "children":[{"name":"net","mode":"tunnel","encap":"udp","proposal":"aes128gcm16",
    "spi_in":"c4be31f0","spi_out":"01f2c97a","in_bytes":1288490188,"in_packets":993211,
    "out_bytes":41943040,"out_packets":210233,"local_ts":["0.0.0.0/0"],
    "remote_ts":["10.20.3.4/32"]}]},
    {"id":19,"state":"half_open","version":2,"initiator":false,"local":{},
    "remote":{"addr":"2001:db8::7","port":500},"resumed":false,"resume_count":0}]"#;

#[test]
fn sas_are_listed_in_columns() {
    let expected = "\
ID  CONN  PEER               ADDRESS                STATE        AGE   RESUMED  TICKET  CHILD  IN/OUT
17  rw    alice@example.net  198.51.100.7:4500 NAT  established  2h3m  yes(2)   9h      net    1.2G/41M
19  -     -                  [2001:db8::7]:500      half-open    -     no       -       -      -
";
    assert_eq!(text(&reply(SAS), false), expected);
    assert_eq!(text(&reply(r#""ike_sas":[]"#), false), "no IKE SAs\n");
}

#[test]
fn one_sa_is_shown_in_full() {
    let shown = text(&reply(SAS), true);
    let expected = "\
rw: #17, ESTABLISHED, IKEv2, 8f2c6a0000000001_i 4b19770000000002_r*
  local  'vpn.example.net' @ 192.0.2.1[4500]
  remote 'alice@example.net' @ 198.51.100.7[4500]
  aes128gcm16-prfsha256-x25519
  established 2h3m ago (resumed 2x, full authentication 1d2h ago)
  ticket: expires in 9h
  net: INSTALLED, TUNNEL-in-UDP, ESP:aes128gcm16
    in  c4be31f0, 1288490188 bytes, 993211 packets
    out 01f2c97a, 41943040 bytes, 210233 packets
    local  0.0.0.0/0
    remote 10.20.3.4/32
";
    assert!(shown.starts_with(expected), "{shown}");
}

#[test]
fn status_is_one_screen() {
    let status = r#""status":{"uptime_seconds":93784,"pid":812,"connections":1,
        "ike_sas_established":3,"ike_sas_half_open":0,"suspended":1,"child_sas":3,"full_logins":1,
        "resumed_logins":3,"failed_logins":0,"tickets_issued":4,"tickets_refused":0,
        "ticket_key_id":7,"gate_mode":"native","attention":[{"text":"one\u001b[2J"},{"text":"two"}]}"#;
    let expected = "\
rekindle 0.1.0  up 1d2h  pid 812  1 connection configured
IKE SAs   3 established  0 half-open  1 suspended  Child SAs 3
Logins    1 full  3 resumed (75 %)  0 failed
Tickets   key 7  4 issued  0 refused
Gate      native
Attention one?[2J
          two
";
    assert_eq!(text(&reply(status), false), expected);
}

#[test]
fn outcomes_are_one_line() {
    let up = r#""done":{"connection":"rw","id":4,"resumed":true,"setup_seconds":0.0042}"#;
    assert_eq!(text(&reply(up), false), "rw[4]: resumed, 4.2 ms\n");
    assert_eq!(
        text(&reply(r#""done":{"connection":"rw"}"#), false),
        "rw: done\n"
    );
    let gate = r#""gate":{"mode":"none","reason":"no BPF object","interfaces":[]}"#;
    assert_eq!(text(&reply(gate), false), "gate none: no BPF object\n");
}

#[test]
fn numbers_are_short() {
    for (seconds, text) in [
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3661, "1h1m"),
        (90_000, "1d1h"),
    ] {
        assert_eq!(ago(seconds), text);
    }
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (12_345, "12k"),
        (9_950_000, "9.9M"),
    ] {
        assert_eq!(octets(number), text);
    }
}
