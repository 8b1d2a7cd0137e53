//! Program of the benchmarks that sends: run on live frames by the kernel's test run, it makes each a
//! fresh copy of one frame and lets it leave. It is in objects of its own, as the others in `bench`.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_TX};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_xdp_adjust_tail, bpf_xdp_store_bytes};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use gate_abi::barrage::{Barrage, FRESH, MAX_FRAME};

#[btf_map]
static BARRAGE: Array<Barrage, 1> = Array::new();

#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    let Some(barrage) = BARRAGE.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: the value stays in place, and one test run at a time uses it.
    let barrage = unsafe { &mut *barrage };
    if barrage.gap != 0 {
        // SAFETY: the helper has no preconditions.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        if now < barrage.due {
            return XDP_DROP;
        }
        // What was missed is made up for, within reason.
        barrage.due = barrage.due.max(now.saturating_sub(LATE)) + barrage.gap;
    }
    renew(barrage);
    if lay_down(&context, barrage).is_none() {
        return XDP_ABORTED;
    }
    barrage.made += 1;
    if barrage.kept != 0 { XDP_DROP } else { XDP_TX }
}

/// Other octets where copies differ, another source, and the checksum of IPv4 for it.
#[inline(always)]
fn renew(barrage: &mut Barrage) {
    let frame = (&raw mut barrage.frame).cast::<u8>();
    for place in 0..FRESH {
        let at = barrage.fresh[place] as usize & (MAX_FRAME - 1);
        let word = next(&mut barrage.chance).to_ne_bytes();
        if at == 0 {
            continue;
        }
        for (ahead, octet) in word.into_iter().enumerate() {
            // SAFETY: `at` is below MAX_FRAME, and eight octets more belong to the frame.
            unsafe { *frame.add(at + ahead) = octet };
        }
    }
    let source = barrage.source ^ next(&mut barrage.chance) & barrage.source_mask;
    for (ahead, octet) in (source as u32).to_be_bytes().into_iter().enumerate() {
        // SAFETY: within the frame.
        unsafe { *frame.add(SOURCE + ahead) = octet };
    }
    // RFC 1071: what the header adds up to without source and checksum is told.
    let mut sum = barrage.header_sum + (source >> 16 & 0xffff) + (source & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    for (ahead, octet) in (!sum as u16).to_be_bytes().into_iter().enumerate() {
        // SAFETY: within the frame.
        unsafe { *frame.add(CHECKSUM + ahead) = octet };
    }
}

/// SplitMix64.
#[inline(always)]
fn next(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *chance;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// All of the frame, each time: a page comes back with what its last receiver wrote into it.
#[inline(always)]
fn lay_down(context: &XdpContext, barrage: &mut Barrage) -> Option<()> {
    let octets = barrage.octets;
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
    // SAFETY: the helper reads at most MAX_FRAME octets, which the frame has.
    let error = unsafe {
        bpf_xdp_store_bytes(
            context.as_ptr().cast(),
            0,
            (&raw mut barrage.frame).cast(),
            octets as u32,
        )
    };
    (error == 0).then_some(())
}

/// Of IPv4 without VLAN tags.
const CHECKSUM: usize = 14 + 10;
const SOURCE: usize = 14 + 12;
/// Nanoseconds.
const LATE: u64 = 50_000_000;
