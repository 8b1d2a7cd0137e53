//! Bounded reads and writes of a packet, in the two forms that verifiers accept. All that is unsafe about
//! packets is here.

#[cfg(not(feature = "direct"))]
mod copied;
mod direct;

use core::arch::asm;
use core::ffi::{c_long, c_void};
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;

#[cfg(not(feature = "direct"))]
pub use self::copied::Copied;
pub use self::direct::Direct;

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

/// Where in the packet that begins at `data` something is. The verifier bounds registers, not values:
/// the pointer that was checked must be the one that is used, so it may not be computed anew behind
/// its check.
#[inline(always)]
fn place(data: usize, at: usize) -> usize {
    let place;
    // SAFETY: a sum.
    unsafe {
        asm!("{0} += {1}", inout(reg) at => place, in(reg) data, options(pure, nomem, nostack));
    }
    place
}

/// Zero, in a way that the verifier cannot see through: it knows the ranges of two equal lengths,
/// not that they are equal.
///
/// Added to an offset, it makes the verifier forget how the offset came about. Paths that differ in
/// nothing else (VLAN tags, family, port) look alike from there on, and are followed only once.
#[inline(always)]
pub fn unknown_zero(len: usize) -> usize {
    len - opaque(len)
}

/// What any octets are a value of.
pub trait Plain {}
impl<const N: usize> Plain for [u8; N] {}
impl<const N: usize> Plain for [u32; N] {}

/// Reads by helper, into aligned memory: any alignment, any number of buffers.
#[inline(always)]
fn copy<T: Plain>(context: &XdpContext, at: usize) -> Option<T> {
    // SAFETY: the helper writes as many octets as it is told, or none and says so.
    unsafe {
        filled(|place, octets| {
            bpf_xdp_load_bytes(context.as_ptr().cast(), at as u32, place, octets)
        })
    }
}

/// What a helper fills, in aligned memory; `None` if it could not.
///
/// # Safety
///
/// `fill` writes as many octets as its second argument says to where its first one points, or returns another number
/// than 0.
#[inline(always)]
pub unsafe fn filled<T: Plain>(fill: impl FnOnce(*mut c_void, u32) -> c_long) -> Option<T> {
    let mut octets = MaybeUninit::<Aligned<T>>::uninit();
    if fill(octets.as_mut_ptr().cast(), size_of::<T>() as u32) != 0 {
        return None;
    }
    // SAFETY: by the caller's word all of it is written.
    Some(unsafe { octets.assume_init() }.0)
}

/// Writes by helper. `false` if the words do not fit.
#[inline(always)]
fn store<const N: usize>(context: &XdpContext, at: usize, words: [u32; N]) -> bool {
    let mut words = Aligned(words);
    // SAFETY: the helper reads 4 * N octets, which is what the place holds.
    let error = unsafe {
        bpf_xdp_store_bytes(
            context.as_ptr().cast(),
            at as u32,
            (&raw mut words).cast(),
            4 * N as u32,
        )
    };
    error == 0
}

/// Leaves off what is behind the first `len` of `octets`.
#[inline(always)]
fn cut(context: &XdpContext, octets: usize, len: usize) -> bool {
    if len > octets {
        return false;
    }
    let delta = len as i32 - octets as i32;
    // SAFETY: the context is the one the kernel called us with; nothing reads the packet after this.
    unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), delta) == 0 }
}

/// More than any offset in a frame.
#[cfg(not(feature = "direct"))]
pub const OFFSET_MASK: usize = 0x1_ffff;

/// Strict verifiers want whole words at whole places.
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);
