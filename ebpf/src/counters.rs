//! One counter of packets and one of octets for each reason, on each CPU.

use gate_abi::classify::Reason;

use crate::maps::COUNTERS;

#[inline(always)]
pub fn add(reason: Reason, octets: usize) {
    let Some(count) = COUNTERS.get_ptr_mut(reason as u32) else {
        return;
    };
    // SAFETY: the pointer is to this CPU's own value, and a CPU runs one XDP program at a time.
    // Atomics would say the same without unsafe, but the back end cannot store one.
    unsafe {
        (*count).packets += 1;
        (*count).octets += octets as u64;
    }
}
