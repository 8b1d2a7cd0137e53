//! The maps, and what the daemon told by way of them. BTF maps alone: with one map of the older
//! kind in it, libbpf's tools could not open the object.

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_map;
use gate_abi::classify::{Knowledge, Reason};
use gate_abi::maps::{Config, Count, KEYS_ENTRIES, KeySlot, LOCAL_ENTRIES, SPI_KEYS_ENTRIES};
use gate_abi::sip::SipKey;

#[btf_map]
static KEYS: Array<KeySlot, KEYS_ENTRIES> = Array::new();

#[btf_map]
static SPI_KEYS: Array<KeySlot, SPI_KEYS_ENTRIES> = Array::new();

/// The key is the 16 octets of an address, as words: a key lies on the stack, where the verifier
/// wants every access aligned even if the packet's need not be.
#[btf_map]
static LOCAL: HashMap<[u64; 2], u64, LOCAL_ENTRIES> = HashMap::new();

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
static HEARTBEAT: Array<u64, 1> = Array::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<Count, { Reason::COUNT }> = PerCpuArray::new();

/// What the daemon told.
pub struct Told;

impl Knowledge for Told {
    #[inline(always)]
    fn flags(&self) -> u64 {
        CONFIG.get(0).map_or(0, |config| config.flags)
    }

    #[inline(always)]
    fn ticket_key(&self, key_id: u8) -> Option<SipKey> {
        KEYS.get(u32::from(key_id))?.key()
    }

    #[inline(always)]
    fn spi_key(&self, slot: u32) -> Option<SipKey> {
        SPI_KEYS.get(slot)?.key()
    }

    #[inline(always)]
    fn is_local(&self, address: &[u8; 16]) -> bool {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            b0,
            b1,
            b2,
            b3,
            b4,
            b5,
            b6,
            b7,
        ] = *address;
        let words = [
            u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        ];
        LOCAL.get_ptr(words).is_some()
    }

    #[inline(always)]
    fn silence(&self) -> u64 {
        let last = HEARTBEAT.get(0).map_or(0, |last| *last);
        // SAFETY: the helper has no arguments and no preconditions.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        // A beat from another CPU may be a little ahead of the clock read here.
        if now > last {
            (now - last) / 1_000_000_000
        } else {
            0
        }
    }
}
