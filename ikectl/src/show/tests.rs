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
    "pfs":"pending","rekey_in_seconds":4980,"ends_in_seconds":79080,"ticket":{"key_id":7,"index":20922,"expires_in_seconds":32400},
    "children":[{"name":"net","mode":"tunnel","encap":"udp","proposal":"aes128gcm16",
    "spi_in":"c4be31f0","spi_out":"01f2c97a","in_bytes":1288490188,"in_packets":993211,
    "out_bytes":41943040,"out_packets":210233,"local_ts":["0.0.0.0/0"],
    "remote_ts":["10.20.3.4/32"],"rekey_in_seconds":2460}]},
    {"id":19,"state":"half_open","version":2,"initiator":false,"local":{},
    "remote":{"addr":"2001:db8::7","port":500},"resumed":false,"resume_count":0}]"#;

#[test]
fn sas_are_listed_in_columns() {
    let expected = "\
ID  CONN  PEER               ADDRESS                STATE        AGE   RESUMED  PFS      TICKET  CHILD  IN/OUT
17  rw    alice@example.net  198.51.100.7:4500 NAT  established  2h3m  yes(2)   pending  9h      net    1.2G/41M
19  -     -                  [2001:db8::7]:500      half-open    -     no       -        -       -      -
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
  established 2h3m ago (resumed 2x, full authentication 1d2h ago), pfs pending
  rekeying in 1h23m, ends in 21h58m
  ticket: key 7 index 20922, expires in 9h
  net: INSTALLED, TUNNEL-in-UDP, ESP:aes128gcm16
    rekeying in 41m
    in  c4be31f0, 1288490188 bytes, 993211 packets
    out 01f2c97a, 41943040 bytes, 210233 packets
    local  0.0.0.0/0
    remote 10.20.3.4/32
";
    assert!(shown.starts_with(expected), "{shown}");
}

#[test]
fn connections_are_shown_with_what_they_wait_for() {
    let all = r#""connections":[{"name":"rw","state":"listening","start":"none","ike_sas":0},
        {"name":"home","state":"waiting","remote":"192.0.2.1","start":"up","ike_sas":0,
        "next_attempt_seconds":75,"last_failure":{"time":"2026-11-22T10:00:00Z",
        "exchange":"IKE_SA_INIT","verdict":"no answer\u001b[2J","cure":"see whether"}}]"#;
    let shown = text(&reply(all), false);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<_> = shown.lines().map(words).collect();
    assert_eq!(lines[1], "rw any none listening 0 -");
    assert_eq!(lines[2], "home 192.0.2.1 up waiting 0 in 1m15s");
    assert_eq!(
        lines[3],
        "home: 2026-11-22T10:00:00Z IKE_SA_INIT: no answer?[2J"
    );
    assert_eq!(lines[4], "-> see whether");
    let none = text(&reply(r#""connections":[]"#), false);
    assert_eq!(none, "no connection is configured\n");
}

#[test]
fn status_is_one_screen() {
    let status = r#""status":{"uptime_seconds":93784,"pid":812,"connections":1,
        "ike_sas_established":3,"ike_sas_half_open":0,"suspended":1,"child_sas":3,"full_logins":1,
        "resumed_logins":3,"failed_logins":0,"tickets_issued":4,"tickets_refused":0,
        "ticket_key_id":7,"counters":{"bad_header":12,"repeated":0,"unknown\u001b_spi":3},
        "gate_mode":"native","attention":[{"text":"one\u001b[2J"},{"text":"two"}]}"#;
    let expected = "\
rekindle 0.1.0  up 1d2h  pid 812  1 connection configured
IKE SAs   3 established  0 half-open  1 suspended  Child SAs 3
Logins    1 full  3 resumed (75 %)  0 failed
Tickets   key 7  4 issued  0 refused
Messages  bad_header 12  unknown?_spi 3
Gate      native
Attention one?[2J
          two
";
    assert_eq!(text(&reply(status), false), expected);
}

#[test]
fn tickets_are_tables_and_a_line() {
    let tickets = r#""tickets":{"epochs":[
        {"key_id":6,"age_seconds":108000,"accepted_for_seconds":21600},
        {"key_id":7,"age_seconds":21600,"issues_for_seconds":64800,"accepted_for_seconds":108000}],
        "issued":10,"honoured":7,"refused":[{"reason":"expired","tickets":2},
        {"reason":"used","tickets":1}],"outstanding":4,
        "held":[{"connection":"home","suspended":true,"gateway_id":"gw.example",
        "gateway_addr":"192.0.2.1","gateway_port":4500,"ticket_bytes":256,"age_seconds":60,
        "expires_in_seconds":3540,"resume_count":2},
        {"connection":"old","suspended":false,"gateway_id":"gw\u001b.example",
        "gateway_addr":"2001:db8::1","gateway_port":500,"ticket_bytes":272,"age_seconds":7200,
        "resume_count":0}],
        "revocations":[{"peer":"a\u001b@b","age_seconds":60,"refused_for_seconds":7200}]}"#;
    let expected = "\
KEY  AGE   ISSUES FOR  ACCEPTED FOR
6    1d6h  -           6h
7    6h    18h         1d6h
10 issued  7 honoured  3 refused (expired 2, used 1)  4 outstanding
REVOKED  AGE  REFUSED FOR
a?@b     1m   2h
HELD BY  GATEWAY      ADDRESS            STATE      AGE  EXPIRES  RESUMED  OCTETS
home     gw.example   192.0.2.1:4500     suspended  1m   59m      2x       256
old      gw?.example  [2001:db8::1]:500  at hand    2h   over     0x       272
";
    assert_eq!(text(&reply(tickets), false), expected);
    let none = r#""tickets":{"issued":0,"honoured":0,"outstanding":0}"#;
    let expected = "0 issued  0 honoured  0 refused  0 outstanding\n";
    assert_eq!(text(&reply(none), false), expected);
}

#[test]
fn the_origin_of_an_sa_is_a_table() {
    let origin = r#""sa_origin":{"id":17,"connection":"rw","ticket_age_seconds":120,"items":[
        {"row":"T5","item":"addresses","value":"a - b","from":["exchange"]},
        {"row":"T11","item":"ike_keys","value":"v","from":["ticket","exchange"]},
        {"row":"T12","item":"window_size","value":"1","from":["fresh"]}]}"#;
    let expected = "\
rw: #17
ROW  ITEM         VALUE  FROM
T5   addresses    a - b  this exchange
T11  ike_keys     v      ticket (issued 120 s ago), this exchange
T12  window_size  1      fresh
";
    assert_eq!(text(&reply(origin), false), expected);
}

#[test]
fn outcomes_are_one_line() {
    let up = r#""done":{"connection":"rw","id":4,"resumed":true,"setup_seconds":0.0042}"#;
    assert_eq!(text(&reply(up), false), "rw[4]: resumed, 4.2 ms\n");
    assert_eq!(
        text(&reply(r#""done":{"connection":"rw"}"#), false),
        "rw: done\n"
    );
    for (done, line) in [
        (
            r#"{"connection":"rw","id":5,"old_id":4}"#,
            "rw[5]: new keys, was [4]\n",
        ),
        (r#"{"key_id":8}"#, "ticket key 8 issues from now on\n"),
        (r#"{"told":2,"unable":0}"#, "2 clients told to go\n"),
        (
            r#"{"told":0,"unable":1}"#,
            "0 clients told to go; 1 client does not follow and stays\n",
        ),
        (r#"{"revoked":1}"#, "1 ticket of present SAs revoked\n"),
        (
            r#"{"revoked":0,"refused_for_seconds":3600}"#,
            "0 tickets of present SAs revoked; older ones are refused for 1h\n",
        ),
    ] {
        assert_eq!(text(&reply(&format!(r#""done":{done}"#)), false), line);
    }
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

#[test]
fn a_flood_is_shown_with_its_level_and_why() {
    let flood = r#""flood":{"half_open":3,"cookies_sent":1,"cookies_wrong":0,"gate":{"mode":"auto",
        "level":"attack","age_seconds":75,"why":"4000 first messages\u001b a second","unproven_per_second":4100,
        "queue_delay_seconds":0.0125,
        "budgets":[{"reply":"cookie","per_cpu_per_second":100000},
        {"reply":"nack_expired","per_cpu_per_second":500,"spent":7}],
        "refused":[{"network":"203.0.113.9/32","percent":61,"reason":"tag_wrong"}]},
        "half_open_networks":2,"half_open_by_network":[{"network":"192.0.2.7/32","half_open":2},
        {"network":"2001:db8::/64","half_open":1}]}"#;
    let shown = text(&reply(flood), false);
    let lines: Vec<_> = shown.lines().collect();
    assert!(
        lines[0].starts_with("Level               attack for 1m"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert_eq!(lines[1], "First messages      4100 a second without proof");
    assert_eq!(lines[2], "Their queue         12.5 ms");
    assert_eq!(
        lines[3],
        "Spent, CPU and s    cookie 0 of 100000  nack_expired 7 of 500"
    );
    assert_eq!(
        lines[4],
        "Half-open           3 from 2 networks, at most 2 each"
    );
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words(lines[8]), "192.0.2.7/32 2");
    assert_eq!(words(lines[9]), "2001:db8::/64 1");
    assert_eq!(words(lines[12]), "203.0.113.9/32 61 % tag_wrong");
    let none = r#""flood":{"half_open":0,"cookies_sent":0,"cookies_wrong":0}"#;
    assert!(text(&reply(none), false).starts_with("Level               no gate"));
}

#[test]
fn drops_are_shown_with_who_and_why() {
    let gate = r#""gate":{"mode":"native","interfaces":["wan"],"dropped":[
        {"age_seconds":2,"reason":"tag_wrong","interface":"wan","source":"192.0.2.9:4321",
        "destination":"192.0.2.2:500","frame_bytes":434},
        {"age_seconds":75,"reason":"length\u001b","interface":"wan","frame_bytes":60}]}"#;
    let shown = text(&reply(gate), false);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[0], "gate native on wan");
    assert!(lines[2].starts_with("DROPPED"), "{shown}");
    let words: Vec<_> = lines[3].split_whitespace().collect();
    let expected = "2s ago tag_wrong wan 192.0.2.9:4321 192.0.2.2:500 434";
    assert_eq!(words.join(" "), expected);
    assert!(lines[4].starts_with("1m15s ago"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn a_gate_is_shown_with_its_lanes_and_whom_it_does_not_hear() {
    let gate = r#""gate":{"mode":"generic","reason":"wan: no XDP\u001b","interfaces":["wan","lan"],
        "attachments":[{"interface":"wan","mode":"generic","reason":"no XDP","program_id":7},
        {"interface":"lan","mode":"none"}],
        "lanes":[{"lane":"unproven","packets":12,"packets_per_second":3}],
        "denied":[{"network":"203.0.113.0/24"},
        {"network":"2001:db8::/32","denied_for_seconds":600}],
        "fill":[{"table":"addresses","entries":2,"max_entries":4096}]}"#;
    let expected = "\
gate generic on wan, lan: wan: no XDP?

INTERFACE  MODE     PROGRAM
wan        generic  7
lan        none     -

LANE      PACKETS  PER S
unproven  12       3

DENIED
203.0.113.0/24  configured
2001:db8::/32   for 10m

TABLE      ENTRIES  OF
addresses  2        4096
";
    assert_eq!(text(&reply(gate), false), expected);
    let page = metrics::text(&[reply(gate)]);
    for line in [
        "rekindle_lane_packets_total{lane=\"unproven\"} 12",
        "rekindle_gate_interface{interface=\"lan\",mode=\"none\"} 1",
        "rekindle_gate_denied_networks 2",
        "rekindle_gate_table_entries{table=\"addresses\"} 2",
        "rekindle_gate_table_entries_max{table=\"addresses\"} 4096",
    ] {
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
    let none = r#""gate":{"mode":"none","no_lanes":"no object"}"#;
    assert_eq!(
        text(&reply(none), false),
        "gate none\n\nno lanes: no object\n"
    );
    let done = r#""done":{"network":"203.0.113.0/24","denied_for_seconds":5400}"#;
    let shown = text(&reply(done), false);
    assert_eq!(shown, "203.0.113.0/24 is denied for 1h30m\n");
    for (how, expected) in [
        (
            r#""allowed_for_seconds":60"#,
            "is asked for no cookie for 1m",
        ),
        (
            r#""allowed_for_seconds":0"#,
            "is treated as all others again",
        ),
        (r#""denied_for_seconds":0"#, "is heard again"),
    ] {
        let done = format!(r#""done":{{"network":"192.0.2.7/32",{how}}}"#);
        assert_eq!(
            text(&reply(&done), false),
            format!("192.0.2.7/32 {expected}\n")
        );
    }
    let flood = r#""flood":{"half_open":0,"cookies_sent":0,"cookies_wrong":0,
        "allowed":[{"network":"2001:db8::/32","allowed_for_seconds":600}]}"#;
    let shown = text(&reply(flood), false);
    assert!(
        shown.ends_with("\nNO COOKIE FROM\n2001:db8::/32   for 10m\n"),
        "{shown}"
    );
}

#[test]
fn metrics_have_one_family_each_and_labels_of_ours() {
    let status = r#""status":{"uptime_seconds":7,"pid":812,"connections":1,"ike_sas_established":3,
        "ike_sas_half_open":2,"suspended":1,"child_sas":3,"full_logins":1,"resumed_logins":5,
        "failed_logins":0,"tickets_issued":4,"tickets_refused":6,"counters":{"ticket_hot":9},
        "gate_mode":"native"}"#;
    let gate = r#""gate":{"mode":"native","counters":[
        {"verdict":"drop","reason":"tag_\"wrong","packets":11}]}"#;
    let flood = r#""flood":{"half_open":2,"cookies_sent":8,"cookies_wrong":1,"gate":{"mode":"auto",
        "level":"guarded","age_seconds":3,"why":"x","unproven_per_second":300,
        "budgets":[{"reply":"cookie","per_cpu_per_second":100}]}}"#;
    let page = metrics::text(&[reply(status), reply(gate), reply(flood)]);
    for line in [
        "rekindle_uptime_seconds 7",
        "rekindle_ike_sas{state=\"half_open\"} 2",
        "rekindle_logins_total{kind=\"resumed\"} 5",
        "rekindle_tickets_total{what=\"refused\"} 6",
        "rekindle_messages_total{reason=\"ticket_hot\"} 9",
        "rekindle_gate_packets_total{verdict=\"drop\",reason=\"tag_\\\"wrong\"} 11",
        "rekindle_attack_level 1",
        "rekindle_gate_budget_per_cpu{budget=\"cookie\"} 100",
    ] {
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
    let families: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("# TYPE"))
        .collect();
    let mut once = families.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), families.len());
    // Every sample stands under its family.
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    for sample in samples {
        let name = sample.split(['{', ' ']).next().expect("a name");
        let named = |family: &&str| family.split(' ').nth(2) == Some(name);
        assert!(families.iter().any(named), "{sample}");
    }
}

#[test]
fn a_failure_is_shown_with_its_cure() {
    let failure = r#""peer_failures":[{"time":"2026-11-22T17:01:40Z",
        "first_time":"2026-11-22T16:58:02Z","times":3,"addr":"2001:db8::7","port":4500,
        "standing":"stranger","identity":"carol\u001b","connection":"rw","role":"responder",
        "exchange":"IKE_AUTH","step":"authentication","reason":"cert_expired",
        "verdict":"the certificate of 'CN=carol' expired","notify":"sent AUTHENTICATION_FAILED",
        "cure":"ask its owner to renew it"}]"#;
    let expected = "\
2026-11-22T17:01:40Z  [2001:db8::7]:4500  rw  carol?  (the address may be forged)  3 times since 2026-11-22T16:58:02Z
  IKE_AUTH as responder, authentication: the certificate of 'CN=carol' expired (sent AUTHENTICATION_FAILED)
  -> ask its owner to renew it
";
    assert_eq!(text(&reply(failure), false), expected);
    assert!(text(&reply(r#""peer_failures":[]"#), false).starts_with("no failure is remembered"));
}

#[test]
fn a_reload_names_what_has_changed() {
    let done = r#""done":{"added":["rw","branch\u001b"],"removed":["old"],"lists":2,"certificates_revoked":1}"#;
    assert_eq!(
        text(&reply(done), false),
        "added: rw, branch?\nremoved: old\n2 lists read, with 1 revoked certificate\n"
    );
    let done = r#""done":{"lists":0,"certificates_revoked":0}"#;
    assert_eq!(
        text(&reply(done), false),
        "no connection has changed\n0 lists read, with 0 revoked certificates\n"
    );
}

#[test]
fn the_log_is_shown_with_what_ends_by_itself() {
    let log = r#""log":{"level":"warn","configured":"info","left_seconds":540,"watched":[
        {"peer":"198.51.100.7","left_seconds":60},{"peer":"a\u001b[2J","left_seconds":3}]}"#;
    let expected = "\
Level     warn for 9m more, then info

WATCHED       FOR
198.51.100.7  1m
a?[2J         3s
";
    assert_eq!(text(&reply(log), false), expected);
    let log = r#""log":{"level":"info","configured":"info"}"#;
    assert_eq!(text(&reply(log), false), "Level     info\n");
    let log = r#""log":{"level":"debug","configured":"info"}"#;
    let expected = "Level     debug until the daemon ends; configured is info\n";
    assert_eq!(text(&reply(log), false), expected);
}

#[test]
fn traffic_is_a_table_and_a_metric() {
    let all = r#""traffic":[{"connection":"rw","in_bytes":84,"in_packets":1,"out_bytes":0,"out_packets":0}]"#;
    let expected = "CONN  IN  PACKETS  OUT  PACKETS\nrw    84  1        0    0\n";
    assert_eq!(text(&reply(all), false), expected);
    let page = metrics::text(&[reply(all)]);
    let lines = [
        "# TYPE rekindle_traffic_bytes_total counter",
        "rekindle_traffic_bytes_total{connection=\"rw\",direction=\"in\"} 84",
        "rekindle_traffic_packets_total{connection=\"rw\",direction=\"out\"} 0",
    ];
    for line in lines {
        assert!(page.lines().any(|one| one == line), "{line} in {page}");
    }
    assert_eq!(
        text(&reply(r#""traffic":[]"#), false),
        "nothing has been carried\n"
    );
}
