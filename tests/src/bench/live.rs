//! What a dropped packet costs on a wire: the gate's drop of a forged resumption beside the drop of a
//! port by xdp-filter, and beside a program that drops everything.
//!
//! One thread sends copies out of a veth, and the kernel receives them at the other end in the same
//! thread, which pays for both. What it pays for making copies and sending none is taken off; sending
//! itself is in all figures alike, so a ratio is a little nearer to 1 than that of receiving alone. On a
//! busy machine the kernel moves receiving to a thread of its own, and the queue between the ends
//! overflows: a round in which a frame was lost is played again.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    EbpfLoader,
    programs::{Xdp, XdpMode},
};
use gate_abi::{
    bench::EMPTY_DROP,
    defence::Budget,
    frames::Around,
    maps::{ABI_SYMBOL, ABI_VERSION},
    ticket::TAG_OFFSET,
};
use rekindled::gate::{self, Gate, GateOptions, boot_clock};
use serde::Serialize;

use crate::{
    barrage::{Generator, Load},
    cases::gate::{corpus, options, tell},
    netns::{Namespace, connect},
    suite::Lab,
};

/// One way to drop.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    name: &'static str,
    median_ns: f64,
    min_ns: f64,
    ratio_to_xdp_filter: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            median_ns,
            min_ns,
            ratio_to_xdp_filter,
            at_most,
        } = self;
        write!(
            f,
            "{name:<24} {median_ns:>7.1} ns (least {min_ns:.1})   {ratio_to_xdp_filter:>5.2} times xdp-filter"
        )?;
        at_most.map_or(Ok(()), |at_most| write!(f, "   (at most {at_most})"))
    }
}

/// Who receives, by interface of the sender: the program at the other end drops all that is sent.
const WAYS: [(&str, &str, Option<f64>); 3] = [
    ("to-gate", "forged_resume_live", Some(1.3)),
    ("to-filter", "xdp_filter_live", None),
    ("to-empty", "empty_drop_live", None),
];

/// Measures them in turns; `tools` is the folder with xdp-filter, as its package lays it out.
pub(super) fn measure(lab: &Lab, tools: &Path) -> Result<Vec<Figure>> {
    let (sender, receiver) = (Namespace::new("sender")?, Namespace::new("receiver")?);
    for (interface, _, _) in WAYS {
        connect((&sender, interface, &[]), (&receiver, interface, &[]))?;
    }
    // What leaves as a live frame leaves only where the sender's own end has a program too.
    let ends = GateOptions {
        pin_dir: lab.bpf().join("ends"),
        interfaces: WAYS
            .iter()
            .map(|(interface, ..)| (*interface).into())
            .collect(),
        ..options(lab, "ends", &[])?
    };
    let ends = sender.within(|| Gate::attach(&ends))??;
    let behind = options(lab, "live", &["to-gate"])?;
    let mut gate = receiver.within(|| Gate::attach(&behind))??;
    ensure!(
        gate.attachments()
            .iter()
            .all(|one| one.mode == gate::Attached::Native),
        "{:?}",
        gate.attachments()
    );
    tell(&mut gate)?;
    gate.set_budgets([0; Budget::COUNT])?;
    gate.heartbeat(boot_clock() + Duration::from_mins(20))?;
    filter(&receiver, lab, tools)?;
    let _dropper = drop_all(&receiver, &lab.object(BENCH_OBJECT)?)?;

    let mut generator = Generator::load(&lab.object(BENCH_OBJECT)?)?;
    let frame = Around::default().ike(&corpus::forged(1).octets());
    let load = |kept| Load {
        frame: &frame,
        fresh: [
            MESSAGE,
            MESSAGE + NONCE,
            MESSAGE + TICKET + 4,
            MESSAGE + TICKET + TAG_OFFSET,
        ],
        source_mask: ANY_HOST,
        per_second: None,
        kept,
    };
    let dropped = |gate: &Gate| -> Result<u64> {
        let counted = gate.counted()?;
        let of = |one: &&gate::Counted| one.reason.name() == "tag_wrong";
        Ok(counted.iter().find(of).map_or(0, |one| one.packets))
    };
    let (mut spent, mut own) = (WAYS.map(|_| Vec::new()), Vec::new());
    let mut disturbed = 0;
    // The first round pays for what the others find in place.
    let mut round = 0;
    while round <= ROUNDS {
        let kept = generator.fire(&sender, WAYS[0].0, &load(true), A_MOMENT)?;
        let mut whole = true;
        let mut costs = [0.0; WAYS.len()];
        for ((interface, ..), cost) in WAYS.iter().zip(&mut costs) {
            let before = (
                receiver.link_count(interface, "RX", "packets")?,
                dropped(&gate)?,
            );
            let fired = generator.fire(&sender, interface, &load(false), A_MOMENT)?;
            let arrived = receiver.link_count(interface, "RX", "packets")? - before.0;
            let forged = dropped(&gate)? - before.1;
            whole &= arrived >= fired.frames;
            whole &= *interface != "to-gate" || forged == fired.frames;
            *cost = each(fired.cpu, fired.frames);
        }
        if !whole {
            // Another thread received for the sender, which has not paid for all.
            disturbed += 1;
            ensure!(disturbed <= MAX_DISTURBED, "{disturbed} rounds lost frames");
            continue;
        }
        if round > 0 {
            own.push(each(kept.cpu, kept.frames));
            for (cost, spent) in costs.iter().zip(&mut spent) {
                spent.push(*cost);
            }
        }
        round += 1;
    }
    let passed = receiver.count("Ip", "InReceives")?;
    ensure!(passed == 0, "{passed} packets were not dropped");
    gate.detach()?;
    sender.within(|| ends.detach())??;
    // Differences of two figures that were taken at different moments would be mostly noise.
    let median_ns = |spent: &Vec<f64>| median(spent.clone()) - median(own.clone());
    let least_ns = |spent: &Vec<f64>| least(spent) - least(&own);
    let filter = median_ns(&spent[1]);
    let figures = WAYS
        .iter()
        .zip(&spent)
        .map(|((_, name, at_most), spent)| Figure {
            name,
            median_ns: tenths(median_ns(spent)),
            min_ns: tenths(least_ns(spent)),
            ratio_to_xdp_filter: (median_ns(spent) / filter * 100.0).round() / 100.0,
            at_most: *at_most,
        });
    Ok(figures.collect())
}

/// xdp-filter as it is delivered, with all its features, told to drop UDP to port 500.
fn filter(namespace: &Namespace, lab: &Lab, tools: &Path) -> Result<()> {
    let program = tools.join("usr/sbin/xdp-filter");
    let libraries = tools.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    for words in [
        "load --mode native to-filter",
        "port --mode dst --proto udp 500",
    ] {
        let output = namespace
            .command(&program)
            .args(words.split(' '))
            .env("LD_LIBRARY_PATH", &libraries)
            .env("LIBXDP_OBJECT_PATH", libraries.join("bpf"))
            .env("LIBXDP_BPFFS", lab.bpf())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "xdp-filter {words}: {said}");
    }
    Ok(())
}

/// The program that drops everything; it is gone with the returned object.
fn drop_all(namespace: &Namespace, object: &Path) -> Result<aya::Ebpf> {
    let mut loader = EbpfLoader::new();
    loader.override_global(ABI_SYMBOL, &ABI_VERSION, true);
    let mut object = loader.load_file(object)?;
    let program: &mut Xdp = object
        .program_mut(EMPTY_DROP)
        .context(EMPTY_DROP)?
        .try_into()?;
    program.load()?;
    namespace.within(|| program.attach("to-empty", XdpMode::Driver))??;
    Ok(object)
}

/// Packets that an interface has received.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
fn each(time: Duration, frames: u64) -> f64 {
    time.as_secs_f64() * 1e9 / frames.max(1) as f64
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

fn least(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::INFINITY, f64::min)
}

fn tenths(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

const BENCH_OBJECT: &str = "gate-portable-bench.o";
const ROUNDS: usize = 31;
/// Rounds that may be lost to a busy machine.
const MAX_DISTURBED: usize = 60;
const A_MOMENT: Duration = Duration::from_millis(100);
/// All but the first octet of the source differs.
const ANY_HOST: u32 = 0x00ff_ffff;
/// In the frame: behind Ethernet, IPv4 and UDP.
const MESSAGE: usize = 14 + 20 + 8;
/// In the message: the nonce, and the ticket behind its notification's header.
const NONCE: usize = 28 + 4;
const TICKET: usize = NONCE + 32 + 8;
