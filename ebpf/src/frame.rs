//! Bounded reads of a packet, in the two forms that verifiers accept. All that is unsafe about
//! packets is here.

#[cfg(feature = "direct")]
use core::arch::asm;
use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use gate_abi::classify::Frame;

/// Reads where the packet lies. Needs a kernel that allows unaligned packet loads.
#[cfg(feature = "direct")]
pub struct Direct {
    data: usize,
    end: usize,
}

#[cfg(feature = "direct")]
impl Direct {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self {
            data: context.data(),
            end: context.data_end(),
        }
    }
}

#[cfg(feature = "direct")]
impl Frame for Direct {
    #[inline(always)]
    fn octets(&self) -> usize {
        self.end - self.data
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        // The verifier bounds registers, not values: the checked offset and the checked pointer
        // must be the ones that are used, so neither may be computed anew behind its check.
        let at = opaque(at);
        if at > FARTHEST {
            return None;
        }
        let start = opaque(self.data + at);
        if start + N > self.end {
            return None;
        }
        // SAFETY: the octets from start to start + N lie within the packet, and the kernel keeps it
        // in place for as long as the program runs.
        Some(unsafe { (start as *const [u8; N]).read() })
    }
}

/// The largest offset for which the verifier keeps track of a packet pointer.
#[cfg(feature = "direct")]
const FARTHEST: usize = 0x7fff;

/// The same value, in a way the optimiser cannot see through. It has to be an instruction: an
/// empty one would give two source lines to one offset, which the kernel refuses.
#[cfg(feature = "direct")]
#[inline(always)]
fn opaque(value: usize) -> usize {
    let same;
    // SAFETY: a register is moved to itself.
    unsafe {
        asm!("{0} = {0}", inout(reg) value => same, options(pure, nomem, nostack, preserves_flags));
    }
    same
}

/// Copies to the stack by helper: any alignment, any number of buffers, any kernel since 5.18.
pub struct Copied<'a> {
    context: &'a XdpContext,
}

impl<'a> Copied<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }
}

impl Frame for Copied<'_> {
    #[inline(always)]
    fn octets(&self) -> usize {
        // SAFETY: the context is the one the kernel called us with.
        unsafe { bpf_xdp_get_buff_len(self.context.as_ptr().cast()) as usize }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut octets = MaybeUninit::<Aligned<[u8; N]>>::uninit();
        // SAFETY: the helper writes N octets, or none and says so; the place holds N.
        let error = unsafe {
            bpf_xdp_load_bytes(
                self.context.as_ptr().cast(),
                at as u32,
                octets.as_mut_ptr().cast(),
                N as u32,
            )
        };
        if error != 0 {
            return None;
        }
        // SAFETY: the helper succeeded, so all N octets are written.
        Some(unsafe { octets.assume_init() }.0)
    }
}

/// Strict verifiers want whole words at whole places.
#[repr(C, align(8))]
struct Aligned<T>(T);
