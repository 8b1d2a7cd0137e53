//! Sends IKE that has passed to the CPUs that are named for it, where some are.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::btf_maps::CpuMap;
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::programs::XdpContext;
use gate_abi::cpus::is_ike;

use crate::maps::{NAMED, STEERED};

/// What becomes of a packet that passes.
#[inline(always)]
pub fn steer(context: &XdpContext, cpus: &CpuMap<1>, reason: u64) -> u32 {
    redirect(context, cpus, reason).unwrap_or(XDP_PASS)
}

#[inline(always)]
fn redirect(context: &XdpContext, cpus: &CpuMap<1>, reason: u64) -> Option<u32> {
    // SAFETY: the helper has no arguments and no preconditions.
    let here = unsafe { bpf_get_smp_processor_id() };
    let cpu = NAMED.get(0)?.instead_of(here)?;
    if !is_ike(reason) {
        return None;
    }
    STEERED.get_ptr(context.ingress_ifindex() as u32)?;
    // Without a queue for that CPU it passes here.
    cpus.redirect(cpu, u64::from(XDP_PASS)).ok()
}
