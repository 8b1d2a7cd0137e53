//! The gate: the XDP program in front of the daemon. It tells a resumption that holds a real
//! ticket from a forged one before the kernel has built a socket buffer.
//!
//! A frame goes through four stages: read (`frame`), judge (`gate_abi::classify`, with what the
//! daemon told by way of `maps`), answer where the verdict says so (`gate_abi::reply`), count
//! (`maps`); what passes may go to another CPU (`cpus`), of what is dropped the
//! daemon sees a sample (`samples`). There is no panic path: an object with
//! one does not load.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[cfg(feature = "bench")]
mod bench;
mod cpus;
mod frame;
#[cfg(feature = "bench")]
mod generator;
#[cfg(not(feature = "direct"))]
mod lanes;
mod maps;
mod samples;

use core::hint::cold_path;

use aya_ebpf::Global;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::CpuMap;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
#[cfg(not(feature = "direct"))]
use gate_abi::classify::{Bare, Frame};
use gate_abi::classify::{Verdict, classify};
use gate_abi::reply::FrameMut;
#[cfg(not(feature = "direct"))]
use gate_abi::sample::BARE;

#[cfg(not(feature = "direct"))]
use crate::frame::Copied;
use crate::frame::Direct;
#[cfg(not(feature = "direct"))]
use crate::maps::CPUS_FRAGS;
use crate::maps::{CPUS, Told};

/// For interfaces whose frames lie in one buffer.
#[xdp]
#[inline(always)]
pub fn gate(context: XdpContext) -> u32 {
    whole(&context, &mut Direct::new(&context), &CPUS)
}

/// For interfaces with an MTU beyond one page. Direct access would see the first buffer alone, so
/// only the portable object has this one.
#[cfg(not(feature = "direct"))]
#[xdp(frags)]
#[inline(always)]
pub fn gate_frags(context: XdpContext) -> u32 {
    whole(&context, &mut Copied::new(&context), &CPUS_FRAGS)
}

/// For devices of layer 3. They have none but generic XDP, which takes what lies 12 octets behind the
/// beginning for an EtherType and works the packet over when that changes: so this one answers nothing,
/// and leaves to the daemon what is to be answered.
#[cfg(not(feature = "direct"))]
#[xdp]
#[inline(always)]
pub fn gate_l3(context: XdpContext) -> u32 {
    let Some(told) = Told::new() else {
        return XDP_PASS;
    };
    let frame = Direct::new(&context);
    let frame = Bare(&frame);
    let judgement = classify(&frame, &told);
    let (reason, action) = match judgement.verdict {
        Verdict::Pass(reason) => (reason, XDP_PASS),
        // No reply comes about here.
        Verdict::Drop(reason) | Verdict::Reply(reason) => (reason, XDP_DROP),
    };
    let reason = frame.forget(reason as u64);
    told.count(reason, frame.octets());
    if action == XDP_DROP
        && let Some(now) = told.is_sample_due()
    {
        samples::take(&context, now, reason, frame.octets() as u64 | BARE);
    }
    action
}

#[inline(always)]
fn whole<F: FrameMut>(context: &XdpContext, frame: &mut F, cpus: &CpuMap<1>) -> u32 {
    let Some(told) = Told::new() else {
        return XDP_PASS;
    };
    let (action, reason) = judge(frame, &told);
    if action == XDP_PASS {
        return cpus::steer(context, cpus, reason);
    }
    if action == XDP_DROP
        && let Some(now) = told.is_sample_due()
    {
        samples::take(context, now, reason, frame.octets() as u64);
    }
    action
}

/// What becomes of a frame, and why, by number.
#[inline(always)]
fn judge<F: FrameMut>(frame: &mut F, told: &Told) -> (u32, u64) {
    let judgement = classify(frame, told);
    let octets = frame.octets();
    let (reason, action) = match judgement.verdict {
        Verdict::Pass(reason) => (reason as u64, XDP_PASS),
        Verdict::Drop(reason) => (reason as u64, XDP_DROP),
        Verdict::Reply(reason) => {
            cold_path();
            // Whatever the reason, the answer is written in the same way.
            let sent = frame.forget(reason as u64);
            let unsent = frame.forget(reason.unanswered() as u64);
            if judgement.reply.write(frame) {
                (sent, XDP_TX)
            } else {
                (unsent, XDP_DROP)
            }
        }
    };
    // From here on nothing depends on what is known of it.
    let reason = frame.forget(reason);
    told.count(reason, octets);
    (action, reason)
}

/// The loader insists on this symbol (`gate_abi::maps::ABI_SYMBOL`), so that a daemon and an
/// object of another layout never meet.
#[unsafe(no_mangle)]
static GATE_ABI_9: Global<u32> = Global::new(gate_abi::maps::ABI_VERSION);

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never unreachable_unchecked: the verifier refuses this loop, which proves that no check was
    // left that could fail.
    loop {}
}
