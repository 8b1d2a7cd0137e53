//! The program of a group of sockets: it judges a datagram once more, with the daemon's keys, and
//! chooses the socket. It works on every interface, with the gate in front or without.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::{bpf_sock, sk_action::SK_PASS};
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use gate_abi::classify::{Datagram, Frame, steer};
use gate_abi::lane::{Group, Lane, Place, group_key};

use crate::frame::{Aligned, OFFSET_MASK, Plain, filled, unknown_zero};
use crate::maps::{GROUPS, LANE_COUNTS, LANES, Told};

#[sk_reuseport]
pub fn lanes(context: SkReuseportContext) -> u32 {
    // Never SK_DROP: the sender would be told that the port is unreachable, and some clients give up.
    // Without a selection the kernel hashes over all sockets of the group, the sink among them.
    let Some(group) = group_of(&context) else {
        return SK_PASS;
    };
    let Some(told) = Told::new() else {
        return SK_PASS;
    };
    let place = steer(&Queued::new(&context), group.marked, &told);
    count(place);
    let hash = context.hash();
    let unproven = group.slot(Lane::Unproven, 0);
    let (first, second) = match place {
        Place::Sink => (group.sink(), unproven),
        Place::Lane(lane, named) => {
            let worker = group.worker(named, hash);
            (group.slot(lane, worker), group.slot(lane, 0))
        }
    };
    // A worker or a lane may be without its socket for a moment.
    for slot in [first, second, unproven] {
        if LANES.select_reuseport(&context, slot).is_ok() {
            break;
        }
    }
    SK_PASS
}

#[inline(always)]
fn count(place: Place) {
    let Some(counts) = LANE_COUNTS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the pointer is to this CPU's own value, and a CPU delivers one datagram at a time.
    unsafe {
        if let Some(datagrams) = (*counts).get_mut(place.index()) {
            *datagrams += 1;
        }
    }
}

/// The group whose socket the kernel has found, by what that is bound to.
#[inline(always)]
fn group_of(context: &SkReuseportContext) -> Option<Group> {
    let socket: *const bpf_sock = context.sk().as_ptr().cast();
    // SAFETY: the kernel gives a socket with every datagram. It allows reads of single fields of four
    // octets and no arithmetic on the pointer: volatile, or two reads would become one, and all of
    // them in any case, or one would serve both families.
    let (family, port, v4, v6) = unsafe {
        let word = &raw const (*socket).src_ip6;
        let word = word.cast::<u32>();
        (
            (&raw const (*socket).family).read_volatile(),
            (&raw const (*socket).src_port).read_volatile(),
            (&raw const (*socket).src_ip4).read_volatile(),
            [
                word.read_volatile(),
                word.add(1).read_volatile(),
                word.add(2).read_volatile(),
                word.add(3).read_volatile(),
            ],
        )
    };
    let address = if family == AF_INET {
        mapped(v4.to_ne_bytes())
    } else {
        joined(v6.map(u32::to_ne_bytes))
    };
    let word = GROUPS.get_ptr(group_key(address, port as u16))?;
    // SAFETY: the kernel keeps the value in place until the program ends.
    Some(Group::from_word(unsafe { *word }))
}

#[inline(always)]
const fn joined(words: [[u8; 4]; 4]) -> [u8; 16] {
    let [
        [a0, a1, a2, a3],
        [b0, b1, b2, b3],
        [c0, c1, c2, c3],
        [d0, d1, d2, d3],
    ] = words;
    [
        a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3,
    ]
}

const AF_INET: u32 = 2;

/// A datagram on its way to a socket. Copies alone: direct access would see the first fragment of a
/// reassembled one.
struct Queued<'a> {
    context: &'a SkReuseportContext,
    len: usize,
    zero: usize,
}

impl<'a> Queued<'a> {
    #[inline(always)]
    fn new(context: &'a SkReuseportContext) -> Self {
        let len = context.len();
        let zero = unknown_zero(len);
        Self { context, len, zero }
    }

    /// Reads from the IP header on.
    #[inline(always)]
    fn from_ip<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut octets = Aligned([0; N]);
        // SAFETY: the helper writes N octets, which is what the place holds.
        let error = unsafe {
            bpf_skb_load_bytes_relative(
                self.context.as_ptr(),
                at,
                octets.0.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        (error == 0).then_some(octets.0)
    }
}

impl Queued<'_> {
    #[inline(always)]
    fn read<T: Plain>(&self, at: usize) -> Option<T> {
        // SAFETY: the helper writes as many octets as it is told, or none and says so.
        unsafe {
            filled(|place, octets| {
                bpf_skb_load_bytes(self.context.as_ptr(), at as u32, place, octets)
            })
        }
    }
}

impl Frame for Queued<'_> {
    #[inline(always)]
    fn octets(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn load<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.read(at)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.read(at)
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

impl Datagram for Queued<'_> {
    #[inline(always)]
    fn addresses(&self) -> Option<([u8; 16], [u8; 16])> {
        let [version] = self.from_ip::<1>(0)?;
        if version >> 4 == 4 {
            let [s0, s1, s2, s3, d0, d1, d2, d3] = self.from_ip::<8>(V4_ADDRESSES)?;
            return Some((mapped([s0, s1, s2, s3]), mapped([d0, d1, d2, d3])));
        }
        let source = self.from_ip::<16>(V6_ADDRESSES)?;
        Some((source, self.from_ip::<16>(V6_ADDRESSES + 16)?))
    }
}

#[inline(always)]
const fn mapped([a0, a1, a2, a3]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a0, a1, a2, a3]
}

/// Where both addresses stand in an IPv4 header.
const V4_ADDRESSES: u32 = 12;
/// And in one of IPv6.
const V6_ADDRESSES: u32 = 8;
