//! The same frames before the kernel's programs and before the classifier in user space: verdicts,
//! counts and the octets of every answer are to be the same, at each level.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use gate_abi::classify::{Bare, Verdict, classify};
use gate_abi::defence::{Budget, Level, Limit, Meter};
use gate_abi::maps as abi;
use rekindled::gate::Gate;

use super::{corpus, counted, load, options, tell};
use crate::suite::Lab;

pub(super) fn same_verdicts(lab: &mut Lab) -> Result<()> {
    let options = options(lab, "verdicts", &[])?;
    let mut gate = Gate::attach(&options)?;
    tell(&mut gate)?;
    gate.set_rules(&corpus::rules())?;
    gate.set_cookie_keys(&corpus::cookie_keys())?;
    // Longer than the run: at a silent daemon's gate the verdicts would be others.
    gate.heartbeat(rekindled::gate::boot_clock() + Duration::from_mins(10))?;
    let frames = corpus::frames();
    let maps = options.pin_dir.join(format!("v{}", abi::ABI_VERSION));
    gate.set_node(1)?;
    gate.set_check_live_spi(true)?;
    let rounds = [
        (Level::Calm, false, true),
        (Level::Calm, true, false),
        (Level::Guarded, true, false),
        (Level::Attack, true, true),
        (Level::Attack, true, false),
        (Level::Attack, false, true),
    ];
    let (mut reached, mut judged, mut replies) = (BTreeSet::new(), 0, 0);
    for verified in gate.loaded().verified.clone() {
        let mut object = load(&options.object_dir.join(verified.object), &maps)?;
        let program: &mut Xdp = object
            .program_mut(verified.program)
            .context("program")?
            .try_into()?;
        program.load()?;
        for (level, answers, within) in rounds {
            // A slow kernel takes longer than a secret lasts.
            gate.set_cookie_keys(&corpus::cookie_keys())?;
            gate.set_level(Some(level))?;
            gate.set_budgets([if answers { u64::MAX } else { 0 }; Budget::COUNT])?;
            fill_meters(&maps, if within { 0 } else { u64::MAX })?;
            gate.set_limits(if within {
                [ANYTHING; Meter::COUNT]
            } else {
                Meter::ALL.map(Meter::limit)
            })?;
            let told = corpus::Told {
                board: gate.board(),
                level,
                replies: answers,
                within,
            };
            corpus::post(told.board);
            let mut with_cookies = corpus::with_cookies();
            if !within {
                with_cookies.extend(corpus::with_cookies());
            }
            let before = counted(&gate)?;
            let mut expected = BTreeMap::new();
            // The same frames, without what Ethernet has before IP.
            let bare = verified.program == abi::PROGRAM_L3;
            let from = if bare { ETHERNET_LEN } else { 0 };
            let testable = |frame: &&[u8]| frame.len() >= SHORTEST_TEST_RUN;
            // Cookies first: they are good for half a minute, which is not long on a slow kernel.
            let all = with_cookies.iter().chain(&frames);
            let all = all.filter_map(|frame| frame.get(from..));
            for frame in all.filter(testable) {
                let (verdict, runs) = agree(program, frame, bare, &told)
                    .with_context(|| format!("{} {}", verified.object, verified.program))?;
                replies += u64::from(matches!(verdict, Verdict::Reply(_)));
                judged += 1;
                *expected.entry(verdict.reason().name()).or_insert(0) += runs;
            }
            let after = counted(&gate)?;
            for (reason, packets) in &after {
                let wanted = expected.get(reason).copied().unwrap_or(0);
                let seen = packets - before[reason];
                ensure!(
                    seen == wanted,
                    "{}: {reason} {seen}, expected {wanted}",
                    verified.object
                );
            }
            reached.extend(expected.into_keys());
        }
    }
    println!(
        "      {judged} verdicts for {} reasons, {replies} of them replies",
        reached.len()
    );
    ensure!(
        reached.len() >= REASONS_IN_CORPUS,
        "the corpus reaches only {reached:?}"
    );
    gate.detach()?;
    Ok(())
}

/// Has the kernel judge a frame, and compares verdict and answer with those of user space. A second
/// may end between the two, which shows in a cookie, and the kernel's clock is read once in a tick: then
/// both are asked again.
fn agree(program: &Xdp, frame: &[u8], bare: bool, told: &corpus::Told) -> Result<(Verdict, u64)> {
    let mut runs = 0;
    loop {
        let judged = if bare {
            classify(&Bare(frame), told)
        } else {
            classify(frame, told)
        };
        let mut wanted = frame.to_vec();
        let action = match judged.verdict {
            Verdict::Pass(_) => XDP_PASS,
            Verdict::Drop(_) => XDP_DROP,
            Verdict::Reply(_) => {
                ensure!(judged.reply.write(&mut wanted), "no reply fits");
                XDP_TX
            }
        };
        let mut out = vec![0; frame.len() + SHORTEST_TEST_RUN];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options)?;
        ensure!(
            result.return_value == action,
            "{}, user space says {:?}: {frame:02x?}",
            result.return_value,
            judged.verdict
        );
        ensure!(
            action != XDP_TX || wanted.len() <= frame.len(),
            "a reply of {} octets to {}",
            wanted.len(),
            frame.len()
        );
        runs += 1;
        let got = out.get(..result.data_size_out as usize);
        if got == Some(&wanted[..]) {
            return Ok((judged.verdict, runs));
        }
        ensure!(
            runs < MOST_RUNS,
            "{got:02x?}, user space sends {wanted:02x?}"
        );
        thread::sleep(TICK);
    }
}

/// Makes every meter empty (0) or so full that nothing more goes through.
fn fill_meters(maps: &Path, used_until: u64) -> Result<()> {
    let map = Map::Array(MapData::from_pin(maps.join(abi::METERS))?);
    let mut meters: Array<_, u64> = map.try_into()?;
    for cell in 0..abi::METERS_ENTRIES as u32 {
        meters.set(cell, used_until, 0)?;
    }
    Ok(())
}

/// Of one frame; each after a tick of the kernel's slowest clock.
const MOST_RUNS: u64 = 4;
const TICK: Duration = Duration::from_millis(10);
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const ANYTHING: Limit = Limit {
    interval: 0,
    burst: u64::MAX,
};
/// The kernel's test run wants an Ethernet header.
const SHORTEST_TEST_RUN: usize = 14;
const ETHERNET_LEN: usize = 14;
/// All but those that only a silent daemon or missing keys bring about.
const REASONS_IN_CORPUS: usize = 47;
