//! Reads where the packet lies, save for what few packets need. With the feature `direct` it needs a
//! kernel that allows unaligned packet loads; without, it asks for none.

#[cfg(not(feature = "direct"))]
use core::hint::cold_path;

use aya_ebpf::programs::XdpContext;
use gate_abi::classify::Frame;
use gate_abi::reply::FrameMut;

#[cfg(not(feature = "direct"))]
use super::opaque;
use super::{copy, cut, place, store, unknown_zero};

pub struct Direct<'a> {
    context: &'a XdpContext,
    data: usize,
    end: usize,
    zero: usize,
}

impl<'a> Direct<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        let (data, end) = (context.data(), context.data_end());
        let zero = unknown_zero(end - data);
        let zero = if cfg!(feature = "direct") {
            zero
        } else {
            zero & !(WORD - 1)
        };
        Self {
            context,
            data,
            end,
            zero,
        }
    }
}

impl Frame for Direct<'_> {
    #[inline(always)]
    fn octets(&self) -> usize {
        self.end - self.data
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if N > MOST_OCTETS {
            return copy(self.context, at);
        }
        let start = place(self.data, at);
        if start + N > self.end {
            return None;
        }
        // SAFETY: the octets from start to start + N lie within the packet, and the kernel keeps it
        // in place for as long as the program runs.
        Some(unsafe { (start as *const [u8; N]).read() })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        if N * WORD > MOST_OCTETS {
            return copy(self.context, at);
        }
        let start = place(self.data, at);
        if start + N * WORD > self.end {
            return None;
        }
        // SAFETY: as for `load`.
        Some(unsafe { (start as *const [u32; N]).read_unaligned() })
    }

    #[cfg(not(feature = "direct"))]
    #[inline(always)]
    fn header<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let start = place(self.data, at);
        if start + N * WORD > self.end {
            return None;
        }
        // SAFETY: as for `load`; and the verifier has seen that it is aligned, or it would refuse this.
        Some(unsafe { (start as *const [u32; N]).read() })
    }

    #[cfg(not(feature = "direct"))]
    #[inline(always)]
    fn often_header<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let aligned = at & (FARTHEST - (WORD - 1)) | ETHERNET_LEN % WORD;
        // Were the two compared, the optimiser would use the one of which less is known.
        if opaque(at ^ aligned) == 0 {
            let start = place(self.data, aligned);
            if start + N > self.end {
                return None;
            }
            let mut octets = [0; N];
            let (words, _) = octets.as_chunks_mut::<WORD>();
            for (number, word) in words.iter_mut().enumerate() {
                // SAFETY: as for `header`.
                let read = unsafe { ((start + number * WORD) as *const u32).read() };
                *word = read.to_ne_bytes();
            }
            return Some(octets);
        }
        cold_path();
        self.load(at)
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        copy(self.context, at)
    }

    #[cfg(feature = "direct")]
    #[inline(always)]
    fn fetch<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.load(at)
    }

    /// What is known of the place within a word stays known.
    #[inline(always)]
    fn settle(&self, at: usize) -> usize {
        (at + self.zero) & FARTHEST
    }

    #[inline(always)]
    fn bound(&self, at: usize) -> usize {
        at & FARTHEST
    }

    #[inline(always)]
    fn forget(&self, word: u64) -> u64 {
        word.wrapping_add(self.zero as u64)
    }
}

impl FrameMut for Direct<'_> {
    #[inline(always)]
    fn store<const N: usize>(&mut self, at: usize, words: [u32; N]) -> bool {
        if MOST_OCTETS < usize::MAX {
            return store(self.context, at, words);
        }
        let start = place(self.data, at);
        if start + 4 * N > self.end {
            return false;
        }
        // SAFETY: as for a read, and nobody else holds the packet.
        unsafe { (start as *mut [u32; N]).write_unaligned(words) };
        true
    }

    #[inline(always)]
    fn cut(&mut self, len: usize) -> bool {
        cut(self.context, self.end - self.data, len)
    }
}

/// Octets of a word. Behind an Ethernet header the IP header begins at one, as the kernel lays frames down.
const WORD: usize = 4;
#[cfg(not(feature = "direct"))]
const ETHERNET_LEN: usize = 14;

/// More than any offset in a frame of one buffer, which is no longer than a page. The verifier keeps
/// track of packet pointers up to four times as far: room for sums.
const FARTHEST: usize = 0x3fff;

/// What is longer is copied by helper. Octet by octet, as a verifier wants it that asks for natural
/// alignment, that is faster from here on, and does not fill the registers.
const MOST_OCTETS: usize = if cfg!(feature = "direct") {
    usize::MAX
} else {
    28
};
