//! Copies to the stack by helper, for frames in any number of buffers; direct access would see the
//! first one alone.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_xdp_get_buff_len;
use aya_ebpf::programs::XdpContext;
use gate_abi::classify::Frame;
use gate_abi::reply::FrameMut;

use super::{OFFSET_MASK, copy, cut, store, unknown_zero};

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
        copy(self.context, at)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        copy(self.context, at)
    }

    #[inline(always)]
    fn settle(&self, at: usize) -> usize {
        (at + self.zero) & OFFSET_MASK
    }

    #[inline(always)]
    fn bound(&self, at: usize) -> usize {
        at & OFFSET_MASK
    }

    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        word.wrapping_add(self.zero as u64)
    }
}

impl FrameMut for Copied<'_> {
    #[inline(always)]
    fn store<const N: usize>(&mut self, at: usize, words: [u32; N]) -> bool {
        store(self.context, at, words)
    }

    #[inline(always)]
    fn cut(&mut self, len: usize) -> bool {
        cut(self.context, self.len, len)
    }
}
