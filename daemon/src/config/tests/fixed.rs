//! What a running daemon cannot take on, and what it can.

use super::load;
use crate::config::Fixed;

const BEFORE: &str = "[daemon]\nnode = 1\n[pools.office]\naddrs = [\"10.9.0.0/24\"]\n\
     [connections.rw]\npsk = \"correct horse battery\"\npools = [\"office\"]\n\
     local = { auth = \"psk\", id = \"gw.example\" }\nremote = { auth = \"psk\" }\n\
     [connections.rw.children.net]\nlocal_ts = [\"10.1.0.0/24\"]\n";

fn differing(after: &str) -> Vec<&'static str> {
    Fixed::of(&load(BEFORE)).differing(&load(after))
}

#[test]
fn connections_may_change_while_the_daemon_runs() {
    assert!(differing(BEFORE).is_empty());
    for (from, to) in [
        ("correct horse battery", "another staple, as long"),
        ("10.1.0.0/24", "10.1.0.0/25"),
        ("connections.rw", "connections.others"),
        ("[daemon]", "[resume]\nticket_lifetime = \"1h\"\n[daemon]"),
    ] {
        let after = BEFORE.replace(from, to);
        assert_ne!(after, BEFORE, "{from}");
        assert!(
            differing(&after).is_empty(),
            "{to}: {:?}",
            differing(&after)
        );
    }
}

#[test]
fn what_is_made_at_the_start_takes_a_restart_and_is_named() {
    for (from, to, what) in [
        ("node = 1", "node = 2", "[daemon]"),
        ("10.9.0.0/24", "10.9.0.0/25", "[pools]"),
        ("[daemon]", "[gate]\nmode = \"off\"\n[daemon]", "[gate]"),
        (
            "[daemon]",
            "[flood]\nmode = \"attack\"\n[daemon]",
            "[flood]",
        ),
        (
            "[daemon]",
            "[log]\nformat = \"json\"\n[daemon]",
            "log.format",
        ),
        (
            "[daemon]",
            "[redirect]\nto = \"192.0.2.9\"\n[daemon]",
            "[redirect]",
        ),
        (
            "[daemon]",
            "[resume]\nstrict_after_power_loss = true\n[daemon]",
            "resume.strict_after_power_loss",
        ),
    ] {
        let after = BEFORE.replace(from, to);
        assert_eq!(differing(&after), [what], "{to}");
    }
    let of_psk =
        |setting: &str| differing(&BEFORE.replace("psk = \"c", &format!("{setting}\npsk = \"c")));
    assert!(of_psk("tickets = \"reference\"")[0].starts_with("tickets by reference"));
    assert!(of_psk("suspend = \"disk\"")[0].starts_with("suspend on disk"));
    let interface = |name: &str| {
        let child = format!("interface = \"{name}\"\nif_id_in = 7\nif_id_out = 7\nlocal_ts");
        BEFORE.replace("local_ts", &child)
    };
    let before = Fixed::of(&load(&interface("ipsec7")));
    assert!(before.differing(&load(BEFORE)).is_empty(), "one less");
    assert!(before.differing(&load(&interface("ipsec8")))[0].starts_with("interface"));
    let longer = BEFORE.replace("[daemon]", "[resume]\nticket_lifetime = \"7d\"\n[daemon]");
    let longer = longer.replace(
        "psk = \"c",
        "rekey_time = \"1d\"\nike_lifetime = \"14d\"\npsk = \"c",
    );
    assert!(differing(&longer)[0].starts_with("resume.ticket_lifetime"));
}
