//! How the kernel is to carry a Child SA.

use ike::kernel::{Carriage, CopyDscp, Mark, Mode, Offload, Volume, Ways};

use super::{SMALL, load, problems};
use crate::kernel::XfrmInterface;

/// A connection whose child has these lines.
fn with(child: &str) -> String {
    SMALL.replace("{}", "") + child
}

#[test]
fn a_child_says_how_it_is_carried() {
    let text = "mode = \"transport\"\nif_id_in = 7\nif_id_out = 8\nmark_in = \"42\"\n\
                mark_out = \"0x10/0xf0\"\nset_mark_in = \"1/1\"\nset_mark_out = \"2\"\n\
                copy_df = false\ncopy_ecn = false\ncopy_dscp = \"no\"\nreplay_window = 1024\nmss = 1360\n\
                hw_offload = \"packet\"\nrekey_bytes = 5000000\nrekey_packets = 2000\n\
                life_packets = 3000\n";
    let mark = |value, mask| Mark { value, mask };
    let expected = Carriage {
        mode: Mode::Transport,
        if_id: Ways {
            inbound: 7,
            outbound: 8,
        },
        mark: Ways {
            inbound: mark(42, u32::MAX),
            outbound: mark(0x10, 0xf0),
        },
        set_mark: Ways {
            inbound: mark(1, 1),
            outbound: mark(2, u32::MAX),
        },
        copy_df: false,
        copy_ecn: false,
        copy_dscp: CopyDscp::Neither,
        replay_window: 1024,
        mss: 1360,
        source_route: false,
        offload: Offload::Packet,
        bytes: Volume {
            rekey: 5_000_000,
            life: 5_500_000,
        },
        packets: Volume {
            rekey: 2000,
            life: 3000,
        },
    };
    assert_eq!(
        load(&with(text)).connections[0].children[0].carriage,
        expected
    );
    assert_eq!(
        load(&with("")).connections[0].children[0].carriage,
        Carriage::default()
    );
}

#[test]
fn what_the_kernel_could_not_do_is_refused() {
    for (line, key) in [
        ("mode = \"beet\"", "mode"),
        ("if_id_in = 0", "if_id_in"),
        ("if_id_out = 4294967296", "if_id_out"),
        ("mark_in = \"0x100/0xff\"", "mark_in"),
        ("mark_out = \"1/0\"", "mark_out"),
        ("set_mark_in = \"red\"", "set_mark_in"),
        ("copy_dscp = \"maybe\"", "copy_dscp"),
        ("replay_window = 8192", "replay_window"),
        ("mss = 500", "mss"),
        ("mss = 70000", "mss"),
        ("hw_offload = \"yes\"", "hw_offload"),
        ("source_route = 1", "source_route"),
        (
            "source_route = true\nmark_out = \"1\"",
            "source_route: mark_out",
        ),
        (
            "source_route = true\nif_id_out = 7",
            "source_route: if_id_out",
        ),
        (
            "source_route = true\nmode = \"transport\"",
            "source_route: \"transport\"",
        ),
        ("rekey_bytes = 10", "rekey_bytes"),
        ("life_packets = -1", "life_packets"),
        ("rekey_packets = 2000\nlife_packets = 2000", "life_packets"),
    ] {
        let found = problems(&with(line));
        assert!(
            found.len() == 1 && found[0].contains(key),
            "{line}: {found:?}"
        );
    }
}

#[test]
fn a_source_is_named_where_all_networks_are_written() {
    let of = |text: &str| {
        let carriage = load(text).connections[0].children[0].carriage;
        carriage.source_route
    };
    assert!(of(&with("")));
    for line in [
        "source_route = false",
        "if_id_out = 7",
        "mark_out = \"1\"",
        "mode = \"transport\"",
    ] {
        assert!(!of(&with(line)), "{line}");
    }
    // Each client's address would be a route; whoever wants them says so.
    let leasing = |line: &str| {
        let small = SMALL.replace("{}", "pools = [\"rw\"]\n");
        let small = small.replace("remote_ts = [\"10.2.0.0/24\"]\n", "");
        small + line + "[pools.rw]\naddrs = \"10.3.0.0/24\"\n"
    };
    assert!(!of(&leasing("")) && of(&leasing("source_route = true\n")));
}

#[test]
fn transport_mode_is_for_two_hosts_and_not_for_what_is_leased() {
    let pools = "pools = [\"rw\"]\n";
    let text = SMALL
        .replace("{}", pools)
        .replace("remote_ts = [\"10.2.0.0/24\"]\n", "")
        + "mode = \"transport\"\n[pools.rw]\naddrs = \"10.3.0.0/24\"\n";
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].contains("mode"), "{found:?}");
}

#[test]
fn where_transport_mode_is_wanted_nothing_moves() {
    let text = |mobike: &str, mode: &str| {
        let child = format!("mode = \"{mode}\"\n");
        SMALL.replace("{}", mobike) + &child
    };
    let moves = |mode| load(&text("", mode)).connections[0].mobike;
    assert!(moves("tunnel") && !moves("transport"));
    let found = problems(&text("mobike = true", "transport"));
    assert!(found.len() == 1 && found[0].contains("mobike"), "{found:?}");
}

#[test]
fn a_connection_comes_up_at_the_start_or_with_a_packet() {
    let starts = |start: &str| {
        let lines = format!("remote_addrs = \"192.0.2.1\"\nstart = \"{start}\"");
        let config = load(&SMALL.replace("{}", &lines));
        (config.start_up.len(), config.start_trap.len())
    };
    assert_eq!(
        [starts("none"), starts("up"), starts("trap")],
        [(0, 0), (1, 0), (0, 1)]
    );
    let named = "remote_addrs = \"gw.example\"\nstart = \"trap\"";
    let found = problems(&SMALL.replace("{}", named));
    assert!(
        found.len() == 1 && found[0].contains("one address"),
        "{found:?}"
    );
    let found = problems(&SMALL.replace("{}", "start = \"trap\""));
    assert!(
        found.len() == 1 && found[0].contains("remote_addrs"),
        "{found:?}"
    );
}

#[test]
fn two_children_of_the_same_networks_are_told_apart_by_mark_or_interface() {
    let both = |one: &str, other: &str| {
        let second = format!(
            "{one}\n[connections.rw.children.web]\nlocal_ts = \"10.1.0.0/24\"\n\
             remote_ts = \"10.2.0.0/24\"\n{other}\n"
        );
        problems(&with(&second))
    };
    for (one, other) in [
        ("if_id_in = 1\nif_id_out = 1", "if_id_in = 2\nif_id_out = 2"),
        (
            "mark_in = \"1\"\nmark_out = \"1\"",
            "mark_in = \"0x2/0xf\"\nmark_out = \"2\"",
        ),
    ] {
        assert_eq!(both(one, other), Vec::<String>::new(), "{one}");
        assert!(!both(one, one).is_empty(), "{one}");
    }
    // One way alone is not enough, nor are bits that only one of them looks at.
    assert!(!both("mark_in = \"1\"", "mark_in = \"2\"").is_empty());
    let unlike = "mark_in = \"0x2/0x2\"\nmark_out = \"0x2/0x2\"";
    assert!(!both("mark_in = \"0x1/0x1\"\nmark_out = \"0x1/0x1\"", unlike).is_empty());
}

#[test]
fn an_interface_is_made_for_children_of_its_number() {
    let ids = "if_id_in = 7\nif_id_out = 7\n";
    let second = format!(
        "[connections.rw.children.web]\nlocal_ts = \"10.1.1.0/24\"\nremote_ts = \"10.2.0.0/24\"\n\
         interface = \"ipsec0\"\n{ids}"
    );
    let both = format!("interface = \"ipsec0\"\n{ids}{second}");
    let ipsec0 = XfrmInterface {
        name: "ipsec0".into(),
        if_id: 7,
    };
    assert_eq!(load(&with(&both)).interfaces, [ipsec0]);
    // With the number alone the interface is somebody else's to make.
    assert_eq!(load(&with(ids)).interfaces, []);
}

#[test]
fn an_interface_that_cannot_be_made_is_refused_with_its_place() {
    let line = with("").lines().count() + 1;
    for (lines, key, words) in [
        (
            "interface = \"ipsec0\"",
            "interface",
            "write if_id_in and if_id_out",
        ),
        (
            "interface = \"ipsec0\"\nif_id_in = 7\nif_id_out = 8",
            "interface",
            "the same",
        ),
        (
            "interface = \"ipsec0\"\nif_id_in = 7\nif_id_out = 7\nmode = \"transport\"",
            "interface",
            "drop it",
        ),
        (
            "interface = \"a name/of many\"\nif_id_in = 7\nif_id_out = 7",
            "interface",
            "not the name",
        ),
        ("interface = 7", "interface", "must be a string"),
    ] {
        let found = problems(&with(lines));
        let place = format!(":{line}: connections.rw.children.net.{key}: ");
        assert!(
            found.len() == 1 && found[0].contains(&place) && found[0].contains(words),
            "{lines}: {found:?}"
        );
    }
}

#[test]
fn a_name_and_a_number_belong_to_one_interface() {
    let claim = |name: &str, number: u32| {
        format!("interface = \"{name}\"\nif_id_in = {number}\nif_id_out = {number}\n")
    };
    let second =
        "[connections.rw.children.web]\nlocal_ts = \"10.1.1.0/24\"\nremote_ts = \"10.2.0.0/24\"\n";
    for (name, number) in [("ipsec0", 8), ("ipsec1", 7)] {
        let text = with(&(claim("ipsec0", 7) + second + &claim(name, number)));
        let found = problems(&text);
        assert!(
            found.len() == 1 && found[0].contains("children.web.interface"),
            "{found:?}"
        );
        assert!(found[0].contains("has ipsec0 with if_id 7"), "{found:?}");
    }
}
