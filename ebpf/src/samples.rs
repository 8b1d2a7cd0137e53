//! Tells the daemon of a dropped packet now and then: who sent it, and why it was dropped.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::btf_maps::RingBuf;
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use gate_abi::sample::{HEAD_OCTETS, HEADS, RING_OCTETS, Sample};

/// The daemon looks into it by itself, and what finds no room is lost.
#[btf_map]
static SAMPLES: RingBuf<Sample, RING_OCTETS> = RingBuf::new();

/// Apart from its caller: so few packets come here that a call costs nothing, and the verifier has a
/// state less to follow.
#[inline(never)]
pub fn take(context: &XdpContext, at: u64, reason: u64, octets: u64) {
    let Some(mut place) = SAMPLES.reserve(0) else {
        return;
    };
    let sample = place.as_mut_ptr();
    let interface = context.ingress_ifindex() as u64;
    // SAFETY: the place is one sample, and nobody else has it before it is submitted. Field by field, for
    // a sample put together beforehand, or a call that makes zeros, would take stack that Linux 6.1
    // does not have left.
    let head = unsafe {
        (&raw mut (*sample).at).write(at);
        (&raw mut (*sample).reason).write(reason);
        (&raw mut (*sample).interface).write(interface);
        (&raw mut (*sample).octets).write(octets);
        let head = (&raw mut (*sample).head).cast::<u64>();
        for word in 0..HEAD_OCTETS / 8 {
            head.add(word).write_volatile(0);
        }
        head
    };
    let copied = |len: usize| {
        // SAFETY: the helper writes `len` octets or zeros, and the head has no fewer.
        let error =
            unsafe { bpf_xdp_load_bytes(context.as_ptr().cast(), 0, head.cast(), len as u32) };
        error == 0
    };
    let [longest, a, b, c, d, shortest] = HEADS;
    let _any =
        copied(longest) || copied(a) || copied(b) || copied(c) || copied(d) || copied(shortest);
    place.submit(u64::from(BPF_RB_NO_WAKEUP));
}
