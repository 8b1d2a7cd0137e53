//! How a [`Carriage`] travels between engine and keeper.

use ike::kernel::{Carriage, CopyDscp, Mark, Mode, Offload, Volume, Ways};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Octets of one, at most.
pub(super) const LONGEST: usize = 108;

#[derive(Deserialize, Serialize)]
struct Flat {
    transport: bool,
    if_id: [u32; 2],
    /// Value and mask.
    mark: [[u32; 2]; 2],
    set_mark: [[u32; 2]; 2],
    /// "Do not fragment", congestion marks.
    copy: [bool; 2],
    /// Outwards, inwards.
    copy_dscp: [bool; 2],
    replay_window: u32,
    mss: u16,
    source_route: bool,
    /// Cipher, whole packets.
    offload: [bool; 2],
    /// Octets, then packets: for new keys, and at the end.
    volumes: [[u64; 2]; 2],
}

pub(super) fn serialize<S: Serializer>(
    carriage: &Carriage,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let marks =
        |ways: Ways<Mark>| [ways.inbound, ways.outbound].map(|Mark { value, mask }| [value, mask]);
    let flat = Flat {
        transport: carriage.mode == Mode::Transport,
        if_id: [carriage.if_id.inbound, carriage.if_id.outbound],
        mark: marks(carriage.mark),
        set_mark: marks(carriage.set_mark),
        copy: [carriage.copy_df, carriage.copy_ecn],
        copy_dscp: match carriage.copy_dscp {
            CopyDscp::Out => [true, false],
            CopyDscp::In => [false, true],
            CopyDscp::Both => [true; 2],
            CopyDscp::Neither => [false; 2],
        },
        replay_window: carriage.replay_window,
        mss: carriage.mss,
        source_route: carriage.source_route,
        offload: match carriage.offload {
            Offload::None => [false; 2],
            Offload::Crypto => [true, false],
            Offload::Packet => [true; 2],
        },
        volumes: [carriage.bytes, carriage.packets].map(|Volume { rekey, life }| [rekey, life]),
    };
    flat.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Carriage, D::Error> {
    let flat = Flat::deserialize(deserializer)?;
    let marks = |both: [[u32; 2]; 2]| {
        let [inbound, outbound] = both.map(|[value, mask]| Mark { value, mask });
        Ways { inbound, outbound }
    };
    let [inbound, outbound] = flat.if_id;
    let [copy_df, copy_ecn] = flat.copy;
    let [bytes, packets] = flat.volumes.map(|[rekey, life]| Volume { rekey, life });
    Ok(Carriage {
        mode: if flat.transport {
            Mode::Transport
        } else {
            Mode::Tunnel
        },
        if_id: Ways { inbound, outbound },
        mark: marks(flat.mark),
        set_mark: marks(flat.set_mark),
        copy_df,
        copy_ecn,
        copy_dscp: match flat.copy_dscp {
            [true, false] => CopyDscp::Out,
            [false, true] => CopyDscp::In,
            [true, true] => CopyDscp::Both,
            [false, false] => CopyDscp::Neither,
        },
        replay_window: flat.replay_window,
        mss: flat.mss,
        source_route: flat.source_route,
        offload: match flat.offload {
            [false, _] => Offload::None,
            [true, false] => Offload::Crypto,
            [true, true] => Offload::Packet,
        },
        bytes,
        packets,
    })
}
