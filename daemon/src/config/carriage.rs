//! The keys of a child that say how the kernel carries it, to [`ike::kernel::Carriage`]. Names and forms are
//! swanctl's.

use ike::kernel::{Carriage, CopyDscp, Mark, Mode, Offload, REPLAY_WINDOW, Volume, Ways};

use super::{
    connection::optional,
    document::quoted,
    section::{Entry, Section},
};

/// Least limit of octets, and of packets: with less a Child SA would do little but get new keys.
const LEAST_BYTES: u64 = 1_000_000;
const LEAST_PACKETS: u64 = 1_000;

/// Least and most octets of a TCP segment: what every host takes (RFC 9293, 3.7.1), and what fits into a
/// packet.
const SEGMENT: (u64, u64) = (536, 65_495);

pub(super) const KEYS: [&str; 18] = [
    "copy_df",
    "copy_dscp",
    "copy_ecn",
    "hw_offload",
    "if_id_in",
    "if_id_out",
    "life_bytes",
    "life_packets",
    "mark_in",
    "mark_out",
    "mode",
    "mss",
    "rekey_bytes",
    "rekey_packets",
    "replay_window",
    "set_mark_in",
    "set_mark_out",
    "source_route",
];

/// Everything is read before the first `?`, so that all of its problems are noted.
pub(super) fn carriage(section: &Section<'_>) -> Option<Carriage> {
    let usual = Carriage::default();
    let mode = optional(section, "mode", usual.mode, |entry| {
        entry.choice(&[Mode::Tunnel, Mode::Transport].map(|mode| (mode.word(), mode)))
    });
    let both = |inbound: &str, outbound: &str| {
        let (inbound, outbound) = (mark(section, inbound), mark(section, outbound));
        Some(Ways {
            inbound: inbound?,
            outbound: outbound?,
        })
    };
    let marks = both("mark_in", "mark_out");
    let set_marks = both("set_mark_in", "set_mark_out");
    let (if_id_in, if_id_out) = (if_id(section, "if_id_in"), if_id(section, "if_id_out"));
    let flag = |key, usual| optional(section, key, usual, Entry::boolean);
    let (copy_df, copy_ecn) = (
        flag("copy_df", usual.copy_df),
        flag("copy_ecn", usual.copy_ecn),
    );
    let copy_dscp = optional(section, "copy_dscp", usual.copy_dscp, |entry| {
        entry.choice(&[
            ("out", CopyDscp::Out),
            ("in", CopyDscp::In),
            ("yes", CopyDscp::Both),
            ("no", CopyDscp::Neither),
        ])
    });
    let (narrowest, widest, usually) = REPLAY_WINDOW;
    let replay_window = optional(section, "replay_window", usually, |entry| {
        let packets = entry.integer(u64::from(narrowest)..=u64::from(widest));
        packets.map(|packets| packets as u32)
    });
    let mss = optional(section, "mss", usual.mss, |entry| {
        let octets = entry.integer(SEGMENT.0..=SEGMENT.1);
        octets.map(|octets| octets as u16)
    });
    let offload = optional(section, "hw_offload", usual.offload, |entry| {
        entry.choice(&[
            ("no", Offload::None),
            ("crypto", Offload::Crypto),
            ("packet", Offload::Packet),
        ])
    });
    let bytes = volume(section, ("rekey_bytes", "life_bytes"), LEAST_BYTES);
    let packets = volume(section, ("rekey_packets", "life_packets"), LEAST_PACKETS);
    Some(Carriage {
        mode: mode?,
        if_id: Ways {
            inbound: if_id_in?,
            outbound: if_id_out?,
        },
        mark: marks?,
        set_mark: set_marks?,
        copy_df: copy_df?,
        copy_ecn: copy_ecn?,
        copy_dscp: copy_dscp?,
        replay_window: replay_window?,
        mss: mss?,
        source_route: usual.source_route,
        offload: offload?,
        bytes: bytes?,
        packets: packets?,
    })
}

/// Whether this host's own packets are led, which without a word they are wherever all networks are written;
/// `asks` for addresses and `leases` say whether they are. A route cannot be for some packets only.
pub(super) fn source_route(
    section: &Section<'_>,
    carriage: &Carriage,
    asks: bool,
    leases: bool,
) -> Option<bool> {
    let because = if carriage.mode == Mode::Transport {
        Some("\"transport\" is between the two hosts themselves")
    } else if carriage.if_id.outbound != 0 {
        Some("if_id_out: what is protected is what is routed to the interface")
    } else if carriage.mark.outbound.mask != 0 {
        Some("mark_out: a route would be for packets without the mark too")
    } else if asks {
        Some("vips: packets for remote_ts come from the leased address")
    } else {
        None
    };
    let usual = carriage.source_route && because.is_none() && !leases;
    optional(section, "source_route", usual, |entry| {
        let wanted = entry.boolean()?;
        if let Some(because) = because.filter(|_| wanted) {
            entry.fail(format!("{because}; drop it"));
            return None;
        }
        Some(wanted)
    })
}

/// Unless it is given, the end is a tenth beyond the time for new keys.
fn volume(section: &Section<'_>, (rekey, life): (&str, &str), least: u64) -> Option<Volume> {
    let most = i64::MAX.cast_unsigned();
    let read = |key, usual| {
        optional(section, key, usual, |entry| {
            let number = entry.integer(0..=most)?;
            let fits = number == 0 || number >= least;
            if !fits {
                entry.fail(format!("must be 0 for any number, or {least} or more"));
            }
            fits.then_some(number)
        })
    };
    let soft = read(rekey, 0);
    let hard = read(life, soft.map_or(0, |soft| soft.saturating_add(soft / 10)));
    let volume = Volume {
        rekey: soft?,
        life: hard?,
    };
    if volume.life != 0 && volume.rekey >= volume.life {
        section.fail(life, format!("must be more than {rekey}"));
        return None;
    }
    Some(volume)
}

fn if_id(section: &Section<'_>, key: &str) -> Option<u32> {
    optional(section, key, 0, |entry| {
        let number = entry.integer(1..=u64::from(u32::MAX));
        number.map(|number| number as u32)
    })
}

/// `42`, `0x2a` or `0x2a/0xff`; without a mask all bits count.
fn mark(section: &Section<'_>, key: &str) -> Option<Mark> {
    optional(section, key, Mark::default(), |entry| {
        let text = entry.string()?;
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        let mark = number(value)
            .zip(number(mask))
            .map(|(value, mask)| Mark { value, mask })
            .filter(|mark| mark.mask != 0 && mark.value & !mark.mask == 0);
        if mark.is_none() {
            entry.fail(format!(
                "{} is not a mark with the bits that count; write \"0x2a\" or \"0x2a/0xff\"",
                quoted(text)
            ));
        }
        mark
    })
}
