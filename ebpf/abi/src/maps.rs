//! The layout of the gate's maps: names, entry counts, value types, and the ABI version that
//! stands for all of them together.
//!
//! Every value is a row of native 64-bit words, so user space hands it to the kernel as a plain
//! `[u64; N]` and neither side needs to know the other's padding.

use crate::sip::SipKey;

/// Raised whenever a map, a value or the meaning of one changes.
pub const ABI_VERSION: u32 = 1;
/// A symbol that every object of this ABI version exports; loading insists on it.
pub const ABI_SYMBOL: &str = "GATE_ABI_1";

/// Program for interfaces whose frames lie in one buffer.
pub const PROGRAM: &str = "gate";
/// Program for interfaces with an MTU so large that frames may lie in several buffers.
pub const PROGRAM_FRAGS: &str = "gate_frags";

/// Array of [`KeySlot`]: `k_tag` by key id.
pub const KEYS: &str = "KEYS";
/// One slot for each value a key id can have.
pub const KEYS_ENTRIES: usize = 256;
/// Array of [`KeySlot`]: `k_spi`, the present and the former one.
pub const SPI_KEYS: &str = "SPI_KEYS";
/// As many as are good at a time.
pub const SPI_KEYS_ENTRIES: usize = crate::spi::LIVE_SPI_KEYS;
/// Per-CPU array of [`Count`] by [`crate::classify::Reason`].
pub const COUNTERS: &str = "COUNTERS";
/// Hash whose keys are our own addresses, IPv4 mapped into IPv6. The values mean nothing.
pub const LOCAL: &str = "LOCAL";
/// How many addresses of our own the gate can know.
pub const LOCAL_ENTRIES: usize = 4096;
/// Array of one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Array of one `u64`: when the daemon last said that it lives, in nanoseconds of the boot clock.
pub const HEARTBEAT: &str = "HEARTBEAT";

/// [`Config::flags`]: an SPI that claims to be ours must carry the right check.
pub const CHECK_OWN_SPI: u64 = 1;
/// [`Config::flags`]: only packets to an address in [`LOCAL`] are judged.
pub const CHECK_LOCAL: u64 = 1 << 1;
/// [`Config::flags`]: ticket keys have been set, so a key id without one is unknown.
pub const TICKET_KEYS_SET: u64 = 1 << 2;

/// A place for a key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct KeySlot {
    /// The key.
    pub key: SipKey,
    /// 1 if the key is good, 0 if the slot is free.
    pub live: u64,
}

impl KeySlot {
    /// A slot that holds a good key.
    #[must_use]
    pub const fn live(key: SipKey) -> Self {
        Self { key, live: 1 }
    }

    /// The value as it is written to the map.
    #[must_use]
    pub const fn words(&self) -> [u64; 3] {
        [self.key.k0, self.key.k1, self.live]
    }

    /// The key, if the slot holds a good one.
    #[inline(always)]
    #[must_use]
    pub const fn key(&self) -> Option<SipKey> {
        if self.live == 0 { None } else { Some(self.key) }
    }
}

/// What one reason came to on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Octets, from the Ethernet header on.
    pub octets: u64,
}

/// What the daemon tells the gate.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`CHECK_OWN_SPI`], [`CHECK_LOCAL`], [`TICKET_KEYS_SET`].
    pub flags: u64,
}

const _: () = {
    assert!(size_of::<KeySlot>() == size_of::<[u64; 3]>() && align_of::<KeySlot>() == 8);
    assert!(core::mem::offset_of!(KeySlot, live) == 16);
    assert!(size_of::<Count>() == size_of::<[u64; 2]>() && align_of::<Count>() == 8);
    assert!(core::mem::offset_of!(Count, octets) == 8);
    assert!(size_of::<Config>() == size_of::<u64>() && align_of::<Config>() == 8);
};
