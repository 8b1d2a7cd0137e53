//! What the gate does with a frame, by the kernel's test run, as a multiple of what a program costs
//! that drops everything.
//!
//! Runs of the two take turns, and the figure is the median of the ratios of neighbours: other work
//! on the machine slows both. A run's time is the thread's processor time over its repeats.
//!
//! A frame that is answered has to be laid down anew for each run. What that costs without the gate
//! is measured in the same round, is a row of its own, and is taken off the answer's; making the
//! frame as long again as it was is not, and counts as the answer's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use gate_abi::bench::{AGAIN, Again, EMPTY_DROP, GATE_AGAIN, ONLY_AGAIN};
use gate_abi::defence::{Budget, Level, Limit, Meter};
use gate_abi::frames::{Around, Message, NONCE, SECURITY_ASSOCIATION};
use gate_abi::ike::IKE_SA_INIT;
use gate_abi::maps::{ABI_VERSION, PROGRAM};
use nix::time::{ClockId, clock_gettime};
use rekindled::gate::{DIRECT_OBJECT, Gate, PORTABLE_OBJECT};
use serde::Serialize;

use crate::cases::gate::{corpus, load, options, tell};
use crate::suite::Lab;

/// One way of the gate.
#[derive(Debug, Serialize)]
pub(super) struct Figure {
    name: &'static str,
    median_ns: f64,
    min_ns: f64,
    ratio_to_empty_drop: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_to_one_source: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, .. } = self;
        write!(f, "{name:<24} {:>7.1} ns", self.median_ns)?;
        write!(f, "   {:>6.2} empty drops", self.ratio_to_empty_drop)?;
        if let Some(ratio) = self.ratio_to_one_source {
            write!(f, "   {ratio:.2} times one source")?;
        }
        match self.at_most {
            Some(at_most) => write!(f, "   (at most {at_most})"),
            None => Ok(()),
        }
    }
}

/// Measures every way, in so many rounds.
pub(super) fn measure(lab: &Lab, rounds: usize) -> Result<Vec<Figure>> {
    let options = options(lab, "bench", &[])?;
    let mut gate = Gate::attach(&options)?;
    tell(&mut gate)?;
    gate.set_cookie_keys(&corpus::cookie_keys())?;
    // Longer than the run: at a silent daemon's gate the verdicts would be others.
    gate.heartbeat(rekindled::gate::boot_clock() + Duration::from_mins(20))?;
    let maps = options.pin_dir.join(format!("v{ABI_VERSION}"));
    let open = |name| load(&options.object_dir.join(name), &maps);
    let mut direct = Laid::new(open(DIRECT_BENCH)?)?;
    let mut portable = Laid::new(open(PORTABLE_BENCH)?)?;
    let mut own = [open(DIRECT_OBJECT)?, open(PORTABLE_OBJECT)?];
    for object in &mut own {
        xdp(object, PROGRAM)?.load()?;
    }

    let ways = ways();
    let index = |name| ways.iter().position(|way| way.name == name);
    let mut taken = vec![Taken::default(); ways.len()];
    for round in 0..WARM_UP + rounds {
        for (way, taken) in ways.iter().zip(&mut taken) {
            gate.set_level(Some(way.level))?;
            gate.set_budgets([way.budget; Budget::COUNT])?;
            // One ticket is shown a million times, and charged like any other.
            gate.set_limits([NO_LIMIT; Meter::COUNT])?;
            let laid = if way.portable {
                &mut portable
            } else {
                &mut direct
            };
            let empty = run(xdp(&mut laid.object, EMPTY_DROP)?, &way.frame, XDP_DROP)?;
            let program = match way.program {
                PROGRAM => xdp(&mut own[usize::from(way.portable)], PROGRAM)?,
                again => {
                    laid.lay(way)?;
                    xdp(&mut laid.object, again)?
                }
            };
            let spent = run(program, &way.frame, way.action).context(way.name)?;
            if round >= WARM_UP {
                taken.spent.push(spent);
                taken.empty.push(empty);
            }
        }
    }
    for (way, at) in ways.iter().zip(0..) {
        if let Some(laid) = way.laid.and_then(index) {
            let laid = taken[laid].beyond_empty();
            taken[at].take_off(&laid);
        }
    }
    gate.detach()?;
    let mut figures: Vec<_> = ways
        .iter()
        .zip(&taken)
        .map(|(way, taken)| taken.figure(way))
        .collect();
    if let (Some(one), Some(many)) = (index(ONE_SOURCE), index(SPOOFED)) {
        let pairs = taken[many].spent.iter().zip(&taken[one].spent);
        let ratio = median(pairs.map(|(many, one)| many / one).collect());
        figures[many].ratio_to_one_source = Some(hundredths(ratio));
    }
    Ok(figures)
}

/// A frame, and what is done with it.
struct Way {
    name: &'static str,
    program: &'static str,
    portable: bool,
    frame: Vec<u8>,
    level: Level,
    /// Of replies in a second.
    budget: u64,
    action: u32,
    /// The row of what laying the frame down costs.
    laid: Option<&'static str>,
    /// Which bits of the source differ from frame to frame.
    source_mask: u32,
    at_most: Option<f64>,
}

fn ways() -> Vec<Way> {
    let around = Around::default();
    let frame = |message: Message| around.ike(&announced(message).octets());
    let forged = frame(corpus::forged(1));
    let genuine = frame(corpus::genuine(1));
    let init = frame(
        Message::first(IKE_SA_INIT)
            .with(SECURITY_ASSOCIATION, &[0; 44])
            .with(KEY_EXCHANGE, &[0x5a; 36])
            .with(NONCE, &[0x6e; 32]),
    );
    let way = |name, frame: &Vec<u8>, at_most| Way {
        name,
        program: PROGRAM,
        portable: false,
        frame: frame.clone(),
        level: Level::Calm,
        // What a flood meets once the first few have been answered.
        budget: 0,
        action: XDP_DROP,
        laid: None,
        source_mask: 0,
        at_most,
    };
    let passed = |way| Way {
        action: XDP_PASS,
        ..way
    };
    let again = |way| Way {
        program: GATE_AGAIN,
        ..way
    };
    let answered = |way, level, laid| Way {
        laid: Some(laid),
        budget: u64::MAX,
        action: XDP_TX,
        level,
        ..again(way)
    };
    let portable = |way| Way {
        portable: true,
        ..way
    };
    let laid = |name, frame| Way {
        program: ONLY_AGAIN,
        action: XDP_TX,
        ..way(name, frame, None)
    };
    vec![
        Way {
            program: EMPTY_DROP,
            ..way("empty_drop", &forged, None)
        },
        way("forged_resume", &forged, Some(6.5)),
        portable(way("forged_resume_portable", &forged, Some(10.0))),
        passed(way("valid_resume", &genuine, Some(12.0))),
        passed(portable(way("valid_resume_portable", &genuine, None))),
        answered(
            way("cookie_reply", &init, Some(11.0)),
            Level::Attack,
            LAID_INIT,
        ),
        portable(answered(
            way("cookie_reply_portable", &init, None),
            Level::Attack,
            LAID_INIT_PORTABLE,
        )),
        laid(LAID_INIT, &init),
        portable(laid(LAID_INIT_PORTABLE, &init)),
        answered(way("nack_reply", &forged, None), Level::Calm, LAID_RESUME),
        laid(LAID_RESUME, &forged),
        again(way(ONE_SOURCE, &forged, None)),
        Way {
            source_mask: ANY_SOURCE,
            ..again(way(SPOOFED, &forged, None))
        },
    ]
}

/// With what every initiator says of its addresses.
fn announced(message: Message) -> Message {
    message
        .notify(NAT_DETECTION_SOURCE_IP, &[0x5c; 20])
        .notify(NAT_DETECTION_DESTINATION_IP, &[0xd5; 20])
}

/// An object with the programs of the benchmark.
struct Laid {
    object: Ebpf,
    again: Array<MapData, [u64; Again::WORDS]>,
}

impl Laid {
    fn new(mut object: Ebpf) -> Result<Self> {
        let again = object.take_map(AGAIN).context(AGAIN)?.try_into()?;
        for name in [EMPTY_DROP, GATE_AGAIN, ONLY_AGAIN] {
            xdp(&mut object, name)?.load()?;
        }
        Ok(Self { object, again })
    }

    fn lay(&mut self, way: &Way) -> Result<()> {
        let words = Again::words(&way.frame, way.source_mask);
        let words = words.context("the frame is too long")?;
        Ok(self.again.set(0, words, 0)?)
    }
}

fn xdp<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object.program_mut(name).with_context(|| name.to_owned())?;
    Ok(program.try_into()?)
}

/// Nanoseconds of processor time for one run.
fn run(program: &Xdp, frame: &[u8], action: u32) -> Result<f64> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: REPEATS,
        ..TestRunOptions::new()
    };
    let before = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
    let result = program.test_run(options)?;
    let after = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?);
    let got = result.return_value;
    ensure!(got == action, "the verdict is {got}, not {action}");
    let spent = after.saturating_sub(before);
    Ok(spent.as_secs_f64() * 1e9 / f64::from(REPEATS))
}

/// What the rounds gave.
#[derive(Clone, Default)]
struct Taken {
    spent: Vec<f64>,
    /// What the empty drop took beside it.
    empty: Vec<f64>,
}

impl Taken {
    /// In each round.
    fn beyond_empty(&self) -> Vec<f64> {
        let pairs = self.spent.iter().zip(&self.empty);
        pairs.map(|(spent, empty)| spent - empty).collect()
    }

    fn take_off(&mut self, cost: &[f64]) {
        for (spent, cost) in self.spent.iter_mut().zip(cost) {
            *spent -= cost;
        }
    }

    fn ratios(&self) -> Vec<f64> {
        let pairs = self.spent.iter().zip(&self.empty);
        pairs.map(|(spent, empty)| spent / empty).collect()
    }

    fn figure(&self, way: &Way) -> Figure {
        let least = self.spent.iter().copied().fold(f64::INFINITY, f64::min);
        Figure {
            name: way.name,
            median_ns: hundredths(median(self.spent.clone())),
            min_ns: hundredths(least),
            ratio_to_empty_drop: hundredths(median(self.ratios())),
            ratio_to_one_source: None,
            at_most: way.at_most,
        }
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The rest is noise.
fn hundredths(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

const DIRECT_BENCH: &str = "gate-direct-bench.o";
const PORTABLE_BENCH: &str = "gate-portable-bench.o";
const ONE_SOURCE: &str = "one_source";
const SPOOFED: &str = "spoofed_to_one_source";
/// All but the first octet, so that every one could be a host.
const ANY_SOURCE: u32 = u32::from_ne_bytes([0, 0xff, 0xff, 0xff]);
const LAID_INIT: &str = "laying_down_an_init";
const LAID_INIT_PORTABLE: &str = "laying_down_an_init_portable";
const LAID_RESUME: &str = "laying_down_a_resume";
const KEY_EXCHANGE: u8 = 34;
const NAT_DETECTION_SOURCE_IP: u16 = 16388;
const NAT_DETECTION_DESTINATION_IP: u16 = 16389;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const REPEATS: u32 = 100_000;
const WARM_UP: usize = 2;

const NO_LIMIT: Limit = Limit {
    interval: 0,
    burst: u64::MAX,
};
