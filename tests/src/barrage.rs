//! Copies of one frame at the highest rate that one processor can make: the kernel runs a program over
//! live frames and sends each out of an interface. What a socket sends is a tenth of that.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use gate_abi::{
    barrage::{self, BARRAGE, FRESH, GENERATE},
    maps::{ABI_SYMBOL, ABI_VERSION},
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

use crate::{chance::Chance, netns::Namespace};

/// A frame, and how its copies differ.
#[derive(Clone, Debug)]
pub struct Load<'a> {
    /// From the Ethernet header on: IPv4 without options, UDP without checksum.
    pub frame: &'a [u8],
    /// Where eight octets differ from copy to copy; 0 is nowhere.
    pub fresh: [usize; FRESH],
    /// Which bits of the source differ.
    pub source_mask: u32,
    /// Copies in a second; without one as many as can be made.
    pub per_second: Option<u32>,
    /// Makes the copies and sends none, to know what that costs.
    pub kept: bool,
}

/// What left.
#[derive(Clone, Copy, Debug)]
pub struct Fired {
    /// Copies that were made.
    pub frames: u64,
    /// From the first to the last.
    pub took: Duration,
    /// Of the one thread: for making and sending them, and for whatever receives them on the same
    /// processor.
    pub cpu: Duration,
}

/// The program that sends.
pub struct Generator {
    object: Ebpf,
    told: Array<MapData, [u64; barrage::Barrage::WORDS]>,
}

impl Generator {
    /// Loads it from the object at this path.
    pub fn load(object: &Path) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global(ABI_SYMBOL, &ABI_VERSION, true);
        let mut object = loader
            .load_file(object)
            .with_context(|| object.display().to_string())?;
        let told = object.take_map(BARRAGE).context(BARRAGE)?.try_into()?;
        let program: &mut Xdp = object.program_mut(GENERATE).context(GENERATE)?.try_into()?;
        program.load()?;
        Ok(Self { object, told })
    }

    /// Sends out of an interface of a namespace, for so long, on [`SENDERS`]. The interface has to have an XDP program, and its peer too, or GRO.
    pub fn fire(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        load: &Load<'_>,
        lasts: Duration,
    ) -> Result<Fired> {
        namespace.within(|| self.fire_here(interface, load, lasts))?
    }

    fn fire_here(&mut self, interface: &str, load: &Load<'_>, lasts: Duration) -> Result<Fired> {
        // For this thread alone, which ends with the barrage.
        stay_on(SENDERS)?;

        let copies = barrage::Barrage::of(load.frame, load.fresh, load.source_mask);
        let mut copies = copies.context("a frame that cannot be copied")?;
        copies.chance = Chance::fresh().number();
        copies.kept = u64::from(load.kept);
        copies.gap = load
            .per_second
            .map_or(0, |rate| 1_000_000_000 / u64::from(rate.max(1)));
        copies.due = rekindled::gate::boot_clock().as_nanos() as u64;
        self.told.set(0, copies.words(), 0)?;

        let program: &Xdp = self
            .object
            .program(GENERATE)
            .context(GENERATE)?
            .try_into()?;
        let context = context(load.frame.len(), if_nametoindex(interface)?);
        let (start, before) = (Instant::now(), thread_time()?);
        while start.elapsed() < lasts {
            // Each run makes the kernel translate the program once more: few long ones.
            program.test_run(TestRunOptions {
                data_in: Some(load.frame),
                ctx_in: Some(&context),
                repeat: AT_ONCE,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            })?;
        }
        let (took, after) = (start.elapsed(), thread_time()?);
        let made = self.told.get(&0, 0)?[barrage::Barrage::MADE];
        Ok(Fired {
            frames: made,
            took,
            cpu: after.saturating_sub(before),
        })
    }
}

/// `struct xdp_md`: a frame that is as if it had come in by this interface, where it leaves again.
fn context(octets: usize, interface: u32) -> [u8; 24] {
    let mut context = [0; 24];
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let words = [0, octets as u32, 0, interface, 0, 0];
    for (place, word) in context.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&u32::to_ne_bytes(word));
    }
    context
}

/// Keeps the calling thread on one processor.
pub fn stay_on(processor: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// The processor that sends. What is sent comes in there too, up to the socket.
pub const SENDERS: usize = 0;
/// For everybody else.
pub const OTHERS: usize = 1;
/// Frames of one run, be they sent or too early: a fraction of a second.
const AT_ONCE: u32 = 1_000_000;
/// Frames that are handed on together.
const BATCH: u32 = 64;
