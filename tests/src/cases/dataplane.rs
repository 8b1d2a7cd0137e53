//! The keeper's data plane against a real kernel, without any IKE: what an owner has in the kernel
//! after each change, and after a crash between two.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Result, anyhow, ensure};
use ike::{
    crypto::Secret,
    io,
    kernel::{Carriage, ChildInstall, EspCipher, EspKey, KernelOp, Owner},
    wire::ts::TrafficSelector,
};
use rekindled::kernel::{Dataplane, Xfrm};

use crate::netns::Namespace;
use crate::suite::{Case, Lab};

/// On every kernel that has xfrm.
pub const BLOCKS: Case = Case {
    name: "block_policies_survive_a_crash_and_foreign_ones_survive_us",
    run: blocks,
};
/// On every kernel that has xfrm: without ESP it refuses the SA, with ESP the policy.
pub const UNDO: Case = Case {
    name: "a_refused_install_leaves_nothing_behind",
    run: undo,
};
/// On kernels with ESP.
pub const REPLACE: Case = Case {
    name: "a_second_install_replaces_the_orphans_of_the_first",
    run: replace,
};

/// On kernels with ESP.
pub const FORGOTTEN: Case = Case {
    name: "policies_whose_owner_the_journal_forgot_are_taken_over",
    run: forgotten,
};

/// On kernels with ESP.
pub const SHARED: Case = Case {
    name: "a_flow_of_two_owners_is_carried_as_long_as_either_has_a_tunnel",
    run: shared,
};

/// On kernels with ESP.
pub const REKEY: Case = Case {
    name: "new_states_stand_beside_the_old_ones_until_they_lead",
    run: rekey,
};

/// On kernels with ESP.
pub const MOVE: Case = Case {
    name: "states_and_policies_move_to_other_addresses_with_keys_and_counters",
    run: relocate,
};

const DEADLINE: Duration = Duration::from_hours(1);
const FOREIGN: &str = "src 10.1.0.0/16 dst 10.2.0.7/32";

fn blocks(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("blocks")?;
    ns.ip("xfrm policy add dir out src 172.16.0.0/16 dst 172.17.0.0/16 action block priority 7")?;
    let mut xfrm = open(&ns, lab.work())?;
    let (local_ts, remote_ts) = selectors();
    let owner = owner("carol");
    apply(
        &mut xfrm,
        &KernelOp::Block {
            owner,
            carriage: Carriage::default(),
            peer: None,
            local_ts,
            remote_ts,
        },
    )?;
    ensure!(ns.ip("xfrm policy")?.matches("10.2.0.7/32").count() == 3);
    drop(xfrm);
    let mut xfrm = open(&ns, lab.work())?;
    ensure!(ns.ip("xfrm policy")?.matches("10.2.0.7/32").count() == 3);
    ensure!(xfrm.orphans().len() == 1, "{:?}", xfrm.orphans());
    ensure!(xfrm.expire_orphans(DEADLINE / 2) == 0);
    ensure!(xfrm.expire_orphans(DEADLINE) == 1);
    let left = ns.ip("xfrm policy")?;
    ensure!(
        !left.contains("10.2.0.7") && left.contains("172.17.0.0/16"),
        "{left}"
    );
    Ok(())
}

fn undo(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("undo")?;
    ns.ip(&format!(
        "xfrm policy add dir out {FOREIGN} action block priority 7"
    ))?;
    let before = ns.ip("xfrm policy")?;
    let mut xfrm = open(&ns, lab.work())?;
    let refused = xfrm.apply(&install("carol", 0x1001, 0x2001));
    let text = refused
        .err()
        .ok_or_else(|| anyhow!("the install went through"))?
        .text;
    ensure!(
        text.contains("(EEXIST)") || text.contains("AEAD algorithm not found"),
        "{text}"
    );
    ensure!(ns.ip("xfrm state")?.is_empty(), "states are left");
    ensure!(ns.ip("xfrm policy")? == before, "policies have changed");
    Ok(())
}

fn replace(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("replace")?;
    let mut xfrm = open(&ns, lab.work())?;
    apply(&mut xfrm, &install("carol", 0x1001, 0x2001))?;
    ensure!(xfrm.usage(&owner("carol")).is_some());
    drop(xfrm);

    let mut xfrm = open(&ns, lab.work())?;
    let orphans = xfrm.orphans();
    ensure!(
        orphans.len() == 1 && orphans[0].spis.len() == 2,
        "{orphans:?}"
    );
    ensure!(orphans[0].remote_ts == selectors().1, "{orphans:?}");
    apply(&mut xfrm, &install("carol", 0x1002, 0x2002))?;
    ensure!(xfrm.orphans().is_empty());
    // What is under way to the old inbound state still finds it; nothing is sent by an old one.
    let states = ns.ip("xfrm state")?;
    ensure!(
        states.contains("0x00001001") && !states.contains("0x00002001"),
        "{states}"
    );
    xfrm.drain(DEADLINE);
    xfrm.drain(DEADLINE + Duration::from_secs(1));
    let states = ns.ip("xfrm state")?;
    ensure!(states.matches("proto esp").count() == 2, "{states}");
    ensure!(
        states.contains("0x00001002") && states.contains("0x00002002"),
        "{states}"
    );

    // The removal of the old SA comes late: the new one's policies stand.
    apply(&mut xfrm, &remove(0x1001, 0x2001))?;
    ensure!(ns.ip("xfrm policy")?.matches("tmpl").count() == 3);
    apply(&mut xfrm, &remove(0x1002, 0x2002))?;
    let policies = ns.ip("xfrm policy")?;
    ensure!(policies.matches("action block").count() == 3, "{policies}");
    ensure!(ns.ip("xfrm state")?.is_empty());
    apply(
        &mut xfrm,
        &KernelOp::Release {
            owner: owner("carol"),
        },
    )?;
    ensure!(ns.ip("xfrm policy")?.is_empty());
    Ok(())
}

fn forgotten(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("forgotten")?;
    let mut xfrm = open(&ns, lab.work())?;
    apply(&mut xfrm, &install("carol", 0x1001, 0x2001))?;
    drop(xfrm);
    fs::remove_file(lab.work().join("reqids"))?;

    let mut xfrm = open(&ns, lab.work())?;
    ensure!(xfrm.orphans().is_empty(), "{:?}", xfrm.orphans());
    // Who is refused by the kernel has taken nothing over.
    let before = policies(&ns)?;
    let refused = xfrm.apply(&install("carol", 0x1001, 0x2001));
    ensure!(refused.is_err(), "one SPI twice");
    let after = policies(&ns)?;
    ensure!(after == before, "{before:#?} {after:#?}");

    apply(&mut xfrm, &install("carol", 0x1002, 0x2002))?;
    let led = policies(&ns)?.join("\n");
    ensure!(led.matches("tmpl").count() == 3, "{led}");
    ensure!(led.contains("spi 0x00002002"), "{led}");
    // Under a number that is not that of the states which are left.
    let states = ns.ip("xfrm state")?;
    let reqid = |spi: &str| {
        let one = states.split("\nsrc ").find(|one| one.contains(spi))?;
        one.split("reqid ").nth(1)?.split_whitespace().next()
    };
    let (old, new) = (reqid("0x00002001"), reqid("0x00002002"));
    ensure!(old.is_some() && new.is_some() && old != new, "{states}");

    let release = KernelOp::Release {
        owner: owner("carol"),
    };
    apply(&mut xfrm, &release)?;
    ensure!(ns.ip("xfrm policy")?.is_empty());
    // The slots are nobody's now, and somebody else may take them.
    ns.ip(&format!(
        "xfrm policy add dir out {FOREIGN} action block priority 7"
    ))?;
    let refused = xfrm.apply(&install("carol", 0x1003, 0x2003));
    ensure!(refused.is_err(), "a policy of somebody else's was replaced");
    Ok(())
}

fn shared(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("shared")?;
    let mut xfrm = open(&ns, lab.work())?;
    let leads_to = |spi: u32| -> Result<()> {
        let policies = ns.ip("xfrm policy")?;
        let carries = policies.matches("tmpl").count() == 3;
        let spi = format!("spi {spi:#010x}");
        ensure!(carries && policies.contains(&spi), "{spi}: {policies}");
        Ok(())
    };
    let release = |peer: &str| KernelOp::Release { owner: owner(peer) };
    apply(&mut xfrm, &install("carol", 0x1001, 0x2001))?;
    apply(&mut xfrm, &install("dave", 0x1002, 0x2002))?;
    leads_to(0x2002)?;
    apply(&mut xfrm, &release("dave"))?;
    leads_to(0x2001)?;

    // Carol moves while the policies are those of dave, who stays, but without a tunnel.
    apply(&mut xfrm, &install("dave", 0x1003, 0x2003))?;
    let path = io::Path {
        local: ([192, 0, 2, 9], 4500).into(),
        remote: ([192, 0, 2, 2], 4500).into(),
    };
    let moves = KernelOp::Move {
        owner: owner("carol"),
        path,
        udp_encap: false,
    };
    apply(&mut xfrm, &moves)?;
    leads_to(0x2003)?;
    let gone = KernelOp::Remove {
        owner: owner("dave"),
        inbound: 0x1003,
        outbound: 0x2003,
    };
    apply(&mut xfrm, &gone)?;
    leads_to(0x2001)?;
    let policies = ns.ip("xfrm policy")?;
    ensure!(policies.contains("tmpl src 192.0.2.9 "), "{policies}");

    // Without any the flow is blocked until nobody wants that either.
    apply(&mut xfrm, &remove(0x1001, 0x2001))?;
    for peer in ["carol", "dave"] {
        let policies = ns.ip("xfrm policy")?;
        ensure!(policies.matches("action block").count() == 3, "{policies}");
        apply(&mut xfrm, &release(peer))?;
    }
    ensure!(ns.ip("xfrm policy")?.is_empty());
    ensure!(ns.ip("xfrm state")?.is_empty());
    Ok(())
}

fn rekey(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("rekey")?;
    let mut xfrm = open(&ns, lab.work())?;
    apply(&mut xfrm, &install("carol", 0x1001, 0x2001))?;
    let KernelOp::Install(next) = install("carol", 0x1002, 0x2002) else {
        unreachable!("what it makes is one");
    };
    let lead = KernelOp::Lead {
        owner: next.owner.clone(),
        path: next.path,
        outbound: 0x2002,
        carriage: Carriage::default(),
        local_ts: next.local_ts.clone(),
        remote_ts: next.remote_ts.clone(),
    };
    apply(&mut xfrm, &KernelOp::Add(next))?;
    let leads_to = |spi: u32| {
        Ok::<_, anyhow::Error>(ns.ip("xfrm policy")?.contains(&format!("spi {spi:#010x}")))
    };
    let states = |number| -> Result<()> {
        let states = ns.ip("xfrm state")?;
        ensure!(states.matches("proto esp").count() == number, "{states}");
        Ok(())
    };
    states(4)?;
    ensure!(leads_to(0x2001)? && !leads_to(0x2002)?);
    apply(&mut xfrm, &lead)?;
    states(4)?;
    ensure!(leads_to(0x2002)? && !leads_to(0x2001)?);
    ensure!(ns.ip("xfrm policy")?.matches("tmpl").count() == 3);
    apply(&mut xfrm, &remove(0x1001, 0x2001))?;
    // The old one receives for a moment yet.
    states(3)?;
    let drained = |xfrm: &mut Xfrm, at: u64| {
        xfrm.drain(Duration::from_secs(at));
        xfrm.drain(Duration::from_secs(at + 1));
        states(2)
    };
    drained(&mut xfrm, 1)?;
    ensure!(leads_to(0x2002)?);
    // What is in vain goes without a trace.
    let KernelOp::Install(vain) = install("carol", 0x1003, 0x2003) else {
        unreachable!("what it makes is one");
    };
    apply(&mut xfrm, &KernelOp::Add(vain))?;
    states(4)?;
    apply(&mut xfrm, &remove(0x1003, 0x2003))?;
    drained(&mut xfrm, 3)?;
    ensure!(leads_to(0x2002)?);
    Ok(())
}

/// The kernel's policies, in an order of our own: one that is put back is its last.
fn policies(ns: &Namespace) -> Result<Vec<String>> {
    let text = format!("\n{}", ns.ip("xfrm policy")?);
    let mut policies: Vec<_> = text
        .split("\nsrc ")
        .map(|one| one.trim().to_owned())
        .collect();
    policies.sort();
    Ok(policies)
}

fn relocate(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("move")?;
    let mut xfrm = open(&ns, lab.work())?;
    apply(&mut xfrm, &install("carol", 0x1001, 0x2001))?;
    let keys = |text: &str| -> Vec<String> {
        let keys = text.lines().filter(|line| line.contains("aead "));
        keys.map(|line| line.trim().to_owned()).collect()
    };
    let before = ns.ip("xfrm state")?;
    // Our end, then the peer's, then both and back.
    for (ours, theirs, udp_encap) in [
        ([192, 0, 2, 9], [192, 0, 2, 2], false),
        ([192, 0, 2, 9], [192, 0, 2, 77], true),
        ([192, 0, 2, 1], [192, 0, 2, 2], true),
    ] {
        let path = io::Path {
            local: (ours, 4500).into(),
            remote: (theirs, 40_001).into(),
        };
        let moves = KernelOp::Move {
            owner: owner("carol"),
            path,
            udp_encap,
        };
        apply(&mut xfrm, &moves)?;
        let (states, policies) = (ns.ip("xfrm state")?, ns.ip("xfrm policy")?);
        let (local, remote) = (path.local.ip(), path.remote.ip());
        for (source, destination) in [(local, remote), (remote, local)] {
            let ends = format!("src {source} dst {destination}\n");
            ensure!(states.contains(&ends), "{ends}: {states}");
            ensure!(
                policies.contains(&format!("tmpl {ends}")),
                "{ends}: {policies}"
            );
        }
        ensure!(states.matches("proto esp").count() == 2, "{states}");
        ensure!(policies.matches("tmpl").count() == 3, "{policies}");
        let encapsulated = states.matches("dport 40001").count() == 1;
        ensure!(encapsulated == udp_encap, "{states}");
        ensure!(keys(&states) == keys(&before), "{states}");
        ensure!(states.contains("flag af-unspec esn"), "{states}");
        ensure!(xfrm.usage(&owner("carol")).is_some());
    }
    let states = ns.ip("xfrm state")?;
    // Numbers were left out each time, so none is sent twice.
    ensure!(states.contains("oseq 0xc000"), "{states}");
    // A kernel that refuses leaves everything where it was.
    ns.ip(
        "xfrm state add src 192.0.2.1 dst 192.0.2.66 proto esp spi 0x2001 reqid 9 mode tunnel \
         aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128",
    )?;
    let before = policies(&ns)?;
    let refused = xfrm.apply(&KernelOp::Move {
        owner: owner("carol"),
        path: io::Path {
            local: ([192, 0, 2, 1], 4500).into(),
            remote: ([192, 0, 2, 66], 4500).into(),
        },
        udp_encap: false,
    });
    ensure!(
        refused.is_err(),
        "a state of somebody else's was overwritten"
    );
    let after = policies(&ns)?;
    ensure!(
        after == before,
        "policies have changed: {before:#?} {after:#?}"
    );
    ensure!(ns.ip("xfrm state")?.matches("proto esp").count() == 3);
    apply(&mut xfrm, &remove(0x1001, 0x2001))?;
    ensure!(ns.ip("xfrm state")?.matches("proto esp").count() == 1);
    Ok(())
}

fn open(ns: &Namespace, folder: &Path) -> Result<Xfrm> {
    Ok(ns.within(|| Xfrm::open(folder, DEADLINE, "lo", &[]))??)
}

fn apply(xfrm: &mut Xfrm, op: &KernelOp) -> Result<()> {
    xfrm.apply(op).map_err(|failed| anyhow!(failed.text))
}

fn owner(peer: &str) -> Owner {
    Owner(Arc::from(format!("office/net/{peer}")))
}

fn selectors() -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    let read = |text| TrafficSelector::from_text(text).into_iter().collect();
    (read("10.1.0.0/16"), read("10.2.0.7/32"))
}

fn remove(inbound: u32, outbound: u32) -> KernelOp {
    KernelOp::Remove {
        owner: owner("carol"),
        inbound,
        outbound,
    }
}

fn install(peer: &str, inbound: u32, outbound: u32) -> KernelOp {
    let (local_ts, remote_ts) = selectors();
    let key = |spi| EspKey {
        spi,
        key: Secret::new(vec![7; EspCipher::AesGcm128.key_octets()]),
    };
    KernelOp::Install(Box::new(ChildInstall {
        owner: owner(peer),
        path: io::Path {
            local: ([192, 0, 2, 1], 4500).into(),
            remote: ([192, 0, 2, 2], 4500).into(),
        },
        udp_encap: true,
        carriage: Carriage::default(),
        cipher: EspCipher::AesGcm128,
        inbound: key(inbound),
        outbound: key(outbound),
        esn: true,
        local_ts,
        remote_ts,
        leased: Vec::new(),
        hard_lifetime: Duration::from_mins(10),
    }))
}
