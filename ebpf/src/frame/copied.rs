//! Copies to the stack by helper: any alignment, any number of buffers, any kernel since 5.18.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use gate_abi::classify::Frame;

use super::{OFFSET_MASK, unknown_zero};

pub struct Copied<'a> {
    context: &'a XdpContext,
    len: usize,
    zero: usize,
}

impl<'a> Copied<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        // SAFETY: the context is the one the kernel called us with.
        let len = unsafe { bpf_xdp_get_buff_len(context.as_ptr().cast()) as usize };
        let zero = unknown_zero(len);
        Self { context, len, zero }
    }
}

impl Frame for Copied<'_> {
    #[inline(always)]
    fn octets(&self) -> usize {
        self.len
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

    #[inline(always)]
    fn settle(&self, at: usize) -> usize {
        (at + self.zero) & OFFSET_MASK
    }
}

/// Strict verifiers want whole words at whole places.
#[repr(C, align(8))]
struct Aligned<T>(T);
