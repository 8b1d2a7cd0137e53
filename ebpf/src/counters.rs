//! One counter of packets and one of octets for each reason, on each CPU.

use crate::maps::COUNTERS;

/// `reason` is the number of a `gate_abi::classify::Reason`.
#[inline(always)]
pub fn add(reason: u32, octets: usize) {
    let Some(count) = COUNTERS.get_ptr_mut(reason) else {
        return;
    };
    // SAFETY: the pointer is to this CPU's own value, and a CPU runs one XDP program at a time.
    // Atomics would say the same without unsafe, but the back end cannot store one.
    unsafe {
        (*count).packets += 1;
        (*count).octets += octets as u64;
    }
}
