//! How the kernel carries what a Child SA is for: what its dumps say after an install.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, ensure};
use ike::{
    crypto::Secret,
    io,
    kernel::{
        Carriage, ChildInstall, CopyDscp, EspCipher, EspKey, KernelOp, Mark, Mode, Owner, Volume,
        Ways,
    },
    wire::ts::TrafficSelector,
};
use rekindled::kernel::{Dataplane as _, Xfrm};

use crate::{
    netns::Namespace,
    suite::{Case, Lab},
};

/// On kernels with ESP.
pub const SHOWN: Case = Case {
    name: "the_kernel_shows_a_child_sa_as_it_is_to_be_carried",
    run: shown,
};

const CARRIAGE: Carriage = Carriage {
    mode: Mode::Transport,
    if_id: Ways {
        inbound: 7,
        outbound: 8,
    },
    mark: Ways {
        inbound: Mark {
            value: 0x2a,
            mask: 0xff,
        },
        outbound: Mark {
            value: 0x10,
            mask: 0xf0,
        },
    },
    set_mark: Ways {
        inbound: Mark { value: 1, mask: 1 },
        outbound: Mark { value: 2, mask: 3 },
    },
    copy_df: false,
    copy_ecn: false,
    copy_dscp: CopyDscp::In,
    replay_window: 1024,
    mss: 0,
    source_route: true,
    offload: ike::kernel::Offload::None,
    bytes: Volume {
        rekey: 5_000_000,
        life: 6_000_000,
    },
    packets: Volume {
        rekey: 7000,
        life: 0,
    },
};

/// Of a Child SA of this owner, in which nothing is as usual.
pub(super) fn install(owner: Owner) -> KernelOp {
    let (ours, theirs) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let host = |address: [u8; 4]| vec![TrafficSelector::network(address.into(), 32)];
    let key = |spi| EspKey {
        spi,
        key: Secret::new(vec![7; EspCipher::AesGcm128.key_octets()]),
    };
    KernelOp::Install(Box::new(ChildInstall {
        owner,
        path: io::Path {
            local: (ours, 500).into(),
            remote: (theirs, 500).into(),
        },
        udp_encap: false,
        carriage: CARRIAGE,
        cipher: EspCipher::AesGcm128,
        inbound: key(0x1001),
        outbound: key(0x2001),
        esn: true,
        local_ts: host(ours),
        remote_ts: host(theirs),
        leased: Vec::new(),
        hard_lifetime: Duration::from_mins(10),
    }))
}

fn shown(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("shown")?;
    let mut xfrm = ns.within(|| Xfrm::open(lab.work(), Duration::from_hours(1), "lo", &[]))??;
    let owner = Owner(Arc::from("office/net"));
    let install = install(owner.clone());
    xfrm.apply(&install)
        .map_err(|failed| anyhow!(failed.text))?;

    let states = ns.ip("-d -s xfrm state")?;
    let (inbound, outbound) = match states.split_once("\nsrc ") {
        Some((one, other)) if one.contains("0x00001001") => (one, other),
        Some((one, other)) => (other, one),
        None => return Err(anyhow!("two states: {states}")),
    };
    for (state, words) in [
        (
            inbound,
            [
                "mark 0x2a/0xff",
                "output-mark 0x1/0x1",
                "if_id 0x7",
                "decap-dscp",
            ],
        ),
        (
            outbound,
            [
                "mark 0x10/0xf0",
                "output-mark 0x2/0x3",
                "if_id 0x8",
                "dont-encap-dscp",
            ],
        ),
    ] {
        let both = [
            "mode transport",
            "noecn",
            "nopmtudisc",
            "replay_window 1024",
            "limit: soft 5000000(bytes), hard 6000000(bytes)",
            "limit: soft 7000(packets), hard (INF)(packets)",
        ];
        for word in words.iter().chain(&both) {
            ensure!(state.contains(word), "no {word}: {state}");
        }
    }
    let policies = ns.ip("-d xfrm policy")?;
    for (word, count) in [
        ("mark 0x2a/0xff", 2),
        ("mark 0x10/0xf0", 1),
        ("if_id 0x7", 2),
        ("if_id 0x8", 1),
        ("mode transport", 3),
    ] {
        let found = policies.matches(word).count();
        ensure!(found == count, "{word} {found} times: {policies}");
    }
    // Another run finds all of it again, and takes it away.
    drop(xfrm);
    let mut xfrm = ns.within(|| Xfrm::open(lab.work(), Duration::from_hours(1), "lo", &[]))??;
    ensure!(xfrm.orphans().len() == 1, "{:?}", xfrm.orphans());
    xfrm.apply(&KernelOp::Release { owner })
        .map_err(|failed| anyhow!(failed.text))?;
    let left = ns.ip("xfrm state")? + &ns.ip("xfrm policy")?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}
