//! Bounded reads of a packet, in the two forms that verifiers accept. All that is unsafe about
//! packets is here.

#[cfg(not(feature = "direct"))]
mod copied;
#[cfg(feature = "direct")]
mod direct;

use core::arch::asm;

#[cfg(not(feature = "direct"))]
pub use self::copied::Copied as Packet;
#[cfg(feature = "direct")]
pub use self::direct::Direct as Packet;

/// The same value, in a way the optimiser cannot see through. It has to be an instruction: an
/// empty one would give two source lines to one offset, which the kernel refuses.
#[inline(always)]
fn opaque(value: usize) -> usize {
    let same;
    // SAFETY: a register is moved to itself.
    unsafe {
        asm!("{0} = {0}", inout(reg) value => same, options(pure, nomem, nostack, preserves_flags));
    }
    same
}

/// Zero, in a way that the verifier cannot see through: it knows the ranges of two equal lengths,
/// not that they are equal.
///
/// Added to an offset, it makes the verifier forget how the offset came about. Paths that differ in
/// nothing else (VLAN tags, family, port) look alike from there on, and are followed only once.
#[inline(always)]
fn unknown_zero(len: usize) -> usize {
    len - opaque(len)
}

/// More than any offset in a frame.
const OFFSET_MASK: usize = 0x1_ffff;
