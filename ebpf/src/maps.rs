//! The maps, and what the daemon told by way of them. BTF maps alone: with one map of the older
//! kind in it, libbpf's tools could not open the object.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
#[cfg(not(feature = "direct"))]
use aya_ebpf::btf_maps::ReusePortSockArray;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, CpuMap, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::btf_map;
use gate_abi::board;
use gate_abi::classify::Knowledge;
use gate_abi::cookie::{Begun, COOKIE_LEN, CookieInput, epoch_at};
use gate_abi::cpus::{Named, STEERED_ENTRIES};
use gate_abi::defence::{Budget, Level, Meter, SECOND};
use gate_abi::maps::{
    COOKIE_KEYS_ENTRIES, Clock, Config, KEYS_ENTRIES, KeySlot, LOCAL_ENTRIES, METERS_ENTRIES, Own,
    SPI_KEYS_ENTRIES, TicketKeySlot, WALL_SOUND,
};
use gate_abi::networks::{MAX_NETWORKS, Rule};
use gate_abi::sip::SipKey;

#[btf_map]
static KEYS: Array<TicketKeySlot, KEYS_ENTRIES> = Array::new();

#[btf_map]
static SPI_KEYS: Array<KeySlot, SPI_KEYS_ENTRIES> = Array::new();

#[btf_map]
static COOKIE_KEYS: Array<KeySlot, COOKIE_KEYS_ENTRIES> = Array::new();

/// The key is the 16 octets of an address, as words: a key lies on the stack, where the verifier
/// wants every access aligned even if the packet's need not be.
#[btf_map]
static LOCAL: HashMap<[u64; 2], u64, LOCAL_ENTRIES> = HashMap::new();

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
static METERS: Array<u64, METERS_ENTRIES> = Array::new();

#[btf_map]
static OWN: PerCpuArray<Own, 1> = PerCpuArray::new();

#[btf_map]
static NETWORKS: LpmTrie<[u8; 16], u32, MAX_NETWORKS> = LpmTrie::new();

/// Mapped by the daemon's engine, which writes it without a system call.
#[btf_map]
static BOARD: Array<u64, { board::WORDS }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By [`Group::slot`](gate_abi::lane::Group::slot); the object with the program for sockets has it.
#[cfg(not(feature = "direct"))]
#[btf_map]
pub static LANES: ReusePortSockArray<{ gate_abi::lane::LANES_ENTRIES }> = ReusePortSockArray::new();

#[cfg(not(feature = "direct"))]
#[btf_map]
pub static GROUPS: HashMap<[u64; 3], u64, { gate_abi::lane::MAX_GROUPS }> = HashMap::new();

#[cfg(not(feature = "direct"))]
#[btf_map]
pub static LANE_COUNTS: PerCpuArray<gate_abi::lane::LaneCounts, 1> = PerCpuArray::new();

/// The loader makes it as large as this machine allows.
#[btf_map]
pub static CPUS: CpuMap<1> = CpuMap::new();

/// The same for frames in several buffers: the kernel allows a map of this type to one kind of
/// programs, those that take such frames or those that do not.
#[cfg(not(feature = "direct"))]
#[btf_map]
pub static CPUS_FRAGS: CpuMap<1> = CpuMap::new();

#[btf_map]
pub static NAMED: Array<Named, 1> = Array::new();

#[btf_map]
pub static STEERED: HashMap<u32, u64, STEERED_ENTRIES> = HashMap::new();

/// A key of the trie, with the address at a multiple of eight: on the stack the verifier wants every
/// access aligned.
#[repr(C, align(8))]
struct WholeAddress {
    before: u32,
    bits: u32,
    address: [u8; 16],
}

/// What the daemon told, and what was counted since. The two values that everything asks for are
/// looked up once.
#[derive(Clone, Copy)]
pub struct Told {
    config: *const Config,
    own: *mut Own,
}

impl Told {
    /// `None` never comes about, but the verifier cannot know.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        Some(Self {
            config: CONFIG.get_ptr(0)?,
            own: OWN.get_ptr_mut(0)?,
        })
    }

    /// Counts a packet for the reason of this number.
    #[inline(always)]
    pub fn count(&self, reason: u64, octets: usize) {
        // SAFETY: the pointer is to this CPU's own value, and a CPU runs one XDP program at a time.
        // Atomics would say the same without unsafe, but the back end cannot store one.
        unsafe {
            if let Some(count) = (*self.own).counts.get_mut(reason as usize) {
                count.packets += 1;
                count.octets += octets as u64;
            }
        }
    }

    /// Whether this CPU has shown the daemon none of its drops for a while, and what time it is.
    #[inline(always)]
    pub fn is_sample_due(&self) -> Option<u64> {
        // SAFETY: the pointer is to this CPU's own value. Every packet that is dropped has had the
        // clock read.
        unsafe {
            let now = (*self.own).clock.now;
            if now.wrapping_sub((*self.own).sampled) < self.config().sample_interval {
                return None;
            }
            (*self.own).sampled = now;
            Some(now)
        }
    }

    /// This CPU's clock, read anew if it has ticked.
    #[inline(always)]
    fn clock(&self) -> *mut Clock {
        // SAFETY: the helpers have no arguments and no preconditions. The pointer is to this CPU's
        // own value.
        unsafe {
            let clock = &raw mut (*self.own).clock;
            let ticks = bpf_jiffies64();
            if (*clock).ticks != ticks {
                let now = bpf_ktime_get_boot_ns();
                (*clock).now = now;
                (*clock).seconds = now / SECOND;
                (*clock).begun.forget();
                (*clock).told = 0;
                (*clock).ticks = ticks;
            }
            clock
        }
    }

    /// What all cookies of this moment begin with at an address.
    #[inline(always)]
    fn begun(&self, destination_digest: u64) -> Option<&Begun> {
        // SAFETY: the pointer is to this CPU's own value, as above.
        let begun = unsafe { &mut (*self.own).clock.begun };
        if !begun.is_at(destination_digest) {
            *begun = self.begin(destination_digest)?;
        }
        Some(begun)
    }

    /// One field of what the daemon told.
    #[inline(always)]
    fn config(&self) -> &Config {
        // SAFETY: the kernel keeps the value in place until the program ends; user space writes whole
        // words.
        unsafe { &*self.config }
    }
}

impl Knowledge for Told {
    #[inline(always)]
    fn flags(&self) -> u64 {
        self.config().flags
    }

    #[inline(always)]
    fn level(&self) -> Level {
        Level::from_word(self.config().level)
    }

    #[inline(always)]
    fn ticket_keys(&self, key_id: u8) -> Option<&TicketKeySlot> {
        KEYS.get(u32::from(key_id)).filter(|slot| slot.is_live())
    }

    #[inline(always)]
    fn spi_key(&self, slot: u32) -> Option<SipKey> {
        SPI_KEYS.get(slot)?.key()
    }

    #[inline(always)]
    fn cookie_key(&self, epoch: u8) -> Option<SipKey> {
        COOKIE_KEYS.get(u32::from(epoch))?.key()
    }

    #[inline(always)]
    fn address(&self, address: &[u8; 16]) -> u64 {
        let whole = u128::from_ne_bytes(*address);
        let words = [whole as u64, (whole >> 64) as u64];
        // To look for it costs as much as half a SipHash, and most packets go where the last one did.
        let clock = self.clock();
        // SAFETY: the pointer is to this CPU's own value.
        unsafe {
            if (*clock).told != 0 && (*clock).address == words {
                return (*clock).told;
            }
        }
        let told = self.sender(address);
        if told == 0 {
            return 0;
        }
        // SAFETY: the pointer is to this CPU's own value.
        unsafe {
            (*clock).address = words;
            (*clock).told = told;
        }
        told
    }

    #[inline(always)]
    fn sender(&self, address: &[u8; 16]) -> u64 {
        if !self.config().local.may_have(*address) {
            return 0;
        }
        let whole = u128::from_ne_bytes(*address);
        let words = [whole as u64, (whole >> 64) as u64];
        let Some(found) = LOCAL.get_ptr(words) else {
            return 0;
        };
        // SAFETY: the kernel keeps the value in place until the program ends; user space writes
        // whole words.
        unsafe { *found }
    }

    #[inline(always)]
    fn rule(&self, address: &[u8; 16]) -> Option<Rule> {
        let key = WholeAddress {
            before: 0,
            bits: 128,
            address: *address,
        };
        // SAFETY: the two fields from `bits` on lie as those of a key, which asks for no alignment.
        let key = unsafe { &*(&raw const key).byte_add(4).cast::<Key<[u8; 16]>>() };
        Rule::from_number(*NETWORKS.get(key)?)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper has no arguments and no preconditions.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    /// To read the clock costs as much as half a SipHash, to read the ticks next to nothing.
    #[inline(always)]
    fn roughly_now(&self) -> u64 {
        // SAFETY: the pointer is to this CPU's own value.
        unsafe { (*self.clock()).now }
    }

    #[inline(always)]
    fn seconds(&self) -> u64 {
        // SAFETY: the pointer is to this CPU's own value. Whoever asks has asked for the moment itself before.
        unsafe { (*self.own).clock.seconds }
    }

    #[inline(always)]
    fn makes_cookies(&self) -> bool {
        // SAFETY: the pointer is to this CPU's own value, as above.
        let begun = unsafe { &(*self.own).clock.begun };
        !begun.is_none() || self.cookie_key(epoch_at(self.seconds())).is_some()
    }

    #[inline(always)]
    fn cookie_for(&self, input: &CookieInput) -> Option<[u8; COOKIE_LEN]> {
        Some(self.begun(input.destination_digest)?.make(input))
    }

    #[inline(always)]
    fn last_beat(&self) -> u64 {
        self.config().last_beat
    }

    #[inline(always)]
    fn wall_minus_boot(&self) -> Option<u64> {
        let config = self.config();
        if config.flags & WALL_SOUND == 0 {
            return None;
        }
        Some(config.wall_minus_boot)
    }

    #[inline(always)]
    fn node(&self) -> u8 {
        self.config().node as u8
    }

    #[inline(always)]
    fn board(&self, word: u32) -> u64 {
        let Some(place) = BOARD.get_ptr(word) else {
            return 0;
        };
        // SAFETY: the word stays in place; whoever writes it, here or in user space, writes it whole.
        unsafe { place.read_volatile() }
    }

    #[inline(always)]
    fn set_board(&self, word: u32, value: u64) {
        if let Some(place) = BOARD.get_ptr_mut(word) {
            // SAFETY: as above. What somebody else has just written there may be lost, which costs
            // a message its pass.
            unsafe { place.write_volatile(value) };
        }
    }

    #[inline(always)]
    fn meter_key(&self) -> SipKey {
        self.config().meter_key
    }

    #[inline(always)]
    fn spend(&self, budget: Budget, now: u64) -> bool {
        let [
            unknown_key_id,
            tag_wrong,
            expired,
            cookie,
            dead,
            foreign,
            irregular,
        ] = self.config().budgets;
        let limit = match budget {
            Budget::UnknownKeyId => unknown_key_id,
            Budget::TagWrong => tag_wrong,
            Budget::Expired => expired,
            Budget::Cookie => cookie,
            Budget::DeadSpi => dead,
            Budget::ForeignSpi => foreign,
            Budget::Irregular => irregular,
        };
        // SAFETY: the pointer is to this CPU's own value, and a CPU runs one XDP program at a time.
        unsafe {
            match (*self.own).spent.get_mut(budget as usize) {
                Some(spent) => spent.take(limit, now),
                None => false,
            }
        }
    }

    #[inline(always)]
    fn charge(&self, meter: Meter, hash: u64, now: u64) -> bool {
        let [
            network,
            shown,
            proven,
            ticket,
            ticket_network,
            own_spi,
            spi_alone,
        ] = self.config().limits;
        let limit = match meter {
            Meter::SoftNetwork => network,
            Meter::Cookie => shown,
            Meter::ProvenNetwork => proven,
            Meter::Ticket => ticket,
            Meter::TicketNetwork => ticket_network,
            Meter::OwnSpi => own_spi,
            Meter::OwnSpiAlone => spi_alone,
        };
        let Some(cell) = METERS.get_ptr_mut(meter.cell(hash)) else {
            return true;
        };
        // SAFETY: the cell stays in place. Two CPUs may charge it at once, and one charge be lost:
        // that lets through one more, and costs no lock.
        let used_until = unsafe { cell.read_volatile() };
        let Some(used_until) = limit.charge(used_until, now) else {
            return false;
        };
        // SAFETY: as above; a word is written whole.
        unsafe { cell.write_volatile(used_until) };
        true
    }
}
