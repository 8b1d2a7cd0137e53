//! Programs of `cargo xtask bench gate`: the unit, and the gate over a frame that is laid down again
//! before each run. They are in objects of their own, never in one that is attached.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::{bpf_xdp_adjust_tail, bpf_xdp_store_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use gate_abi::bench::{Again, MAX_FRAME};

use crate::frame::Direct;
use crate::judge;
use crate::maps::Told;

#[btf_map]
static AGAIN: Array<Again, 1> = Array::new();

#[xdp]
pub fn empty_drop(_: XdpContext) -> u32 {
    XDP_DROP
}

#[xdp]
#[inline(always)]
pub fn gate_again(context: XdpContext) -> u32 {
    if lay_down(&context).is_none() {
        return XDP_ABORTED;
    }
    let Some(told) = Told::new() else {
        return XDP_ABORTED;
    };
    judge(&mut Direct::new(&context), &told).0
}

#[xdp]
pub fn only_again(context: XdpContext) -> u32 {
    match lay_down(&context) {
        Some(()) => XDP_TX,
        None => XDP_ABORTED,
    }
}

/// Makes the frame what it was.
#[inline(always)]
fn lay_down(context: &XdpContext) -> Option<()> {
    let again = AGAIN.get_ptr_mut(0)?;
    // SAFETY: the value stays in place, and one test run at a time uses it.
    let (octets, mask, count) = unsafe { ((*again).octets, (*again).source_mask, (*again).count) };
    resize(context, octets)?;
    // SAFETY: the helper reads at most MAX_FRAME octets, which is what `frame` holds.
    let error = unsafe {
        bpf_xdp_store_bytes(
            context.as_ptr().cast(),
            0,
            (&raw mut (*again).frame).cast(),
            octets as u32,
        )
    };
    if error != 0 {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*again).count = count + 1 };
    // One source or many: the work is the same.
    let mut source = BASE ^ (count.wrapping_mul(SPREAD) >> 32) as u32 & mask as u32;
    // SAFETY: the helper reads the four octets of `source`.
    let error = unsafe {
        bpf_xdp_store_bytes(
            context.as_ptr().cast(),
            SOURCE_AT,
            (&raw mut source).cast(),
            4,
        )
    };
    (error == 0).then_some(())
}

#[inline(always)]
fn resize(context: &XdpContext, octets: u64) -> Option<()> {
    if octets == 0 || octets > MAX_FRAME as u64 {
        return None;
    }
    let now = context.data_end() - context.data();
    let delta = octets as i32 - now as i32;
    // SAFETY: the context is the one the kernel called us with, and no pointer into the packet
    // outlives the call.
    if delta != 0 && unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), delta) } != 0 {
        return None;
    }
    Some(())
}

/// Of IPv4 without VLAN tags.
const SOURCE_AT: u32 = 14 + 12;
/// 198.51.100.1.
const BASE: u32 = u32::from_ne_bytes([198, 51, 100, 1]);
/// Odd, so that no two of the next 2^32 sources are alike.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
