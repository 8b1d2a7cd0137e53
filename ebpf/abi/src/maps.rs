//! The layout of the gate's maps: names, entry counts, value types, and the ABI version that
//! stands for all of them together.
//!
//! Every value is a row of native 64-bit words, so user space hands it to the kernel as a plain
//! `[u64; N]` and neither side needs to know the other's padding.

use crate::classify::Reason;
use crate::cookie::{Begun, DIGEST_FACTOR, destination_digest};
#[cfg(doc)]
use crate::defence::Level;
use crate::defence::{Budget, Limit, Meter, Spent};
use crate::sip::{Schedule, SipKey};

/// Raised whenever a map, a value or the meaning of one changes.
pub const ABI_VERSION: u32 = 9;
/// A symbol that every object of this ABI version exports; loading insists on it.
pub const ABI_SYMBOL: &str = "GATE_ABI_9";

/// Program for interfaces whose frames lie in one buffer.
pub const PROGRAM: &str = "gate";
/// Program for interfaces with an MTU so large that frames may lie in several buffers.
pub const PROGRAM_FRAGS: &str = "gate_frags";
/// Program for devices of layer 3, whose frames begin with the IP header.
pub const PROGRAM_L3: &str = "gate_l3";

/// Array of [`TicketKeySlot`]: `k_tag` and `k_mask` by key id.
pub const KEYS: &str = "KEYS";
/// One slot for each value a key id can have.
pub const KEYS_ENTRIES: usize = 256;
/// Array of [`KeySlot`]: `k_spi`, the present and the former one.
pub const SPI_KEYS: &str = "SPI_KEYS";
/// As many as are good at a time.
pub const SPI_KEYS_ENTRIES: usize = crate::spi::LIVE_SPI_KEYS;
/// Array of [`KeySlot`]: `k_cookie` by epoch.
pub const COOKIE_KEYS: &str = "COOKIE_KEYS";
/// One slot for each value an epoch can have.
pub const COOKIE_KEYS_ENTRIES: usize = 256;
/// Array of `u64`: the cells of every [`Meter`], one after the other.
pub const METERS: &str = "METERS";
/// Cells of all meters.
pub const METERS_ENTRIES: usize = Meter::COUNT * Meter::CELLS;
/// Per-CPU array of one [`Own`].
pub const OWN: &str = "OWN";
/// Hash whose keys are addresses, IPv4 mapped into IPv6, and whose values say what they are to us:
/// [`OUR_ADDRESS`], [`NEVER_ANSWERED`].
pub const LOCAL: &str = "LOCAL";
/// A value of [`LOCAL`]: an address of ours.
pub const OUR_ADDRESS: u64 = 1;
/// A value of [`LOCAL`]: no single host, such as a broadcast address of one of our networks.
pub const NEVER_ANSWERED: u64 = 1 << 1;
/// How many addresses the gate can know.
pub const LOCAL_ENTRIES: usize = 4096;
/// Array of one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Array of [`crate::board::WORDS`] words that the daemon maps: the [`crate::board`].
pub const BOARD: &str = "BOARD";

/// [`Config::flags`]: an SPI that claims to be ours must carry the right check.
pub const CHECK_OWN_SPI: u64 = 1;
/// [`Config::flags`]: only packets to an address in [`LOCAL`] are judged.
pub const CHECK_LOCAL: u64 = 1 << 1;
/// [`Config::flags`]: ticket keys have been set, so a key id without one is unknown.
pub const TICKET_KEYS_SET: u64 = 1 << 2;

/// [`Config::flags`]: first messages may be asked for a cookie.
pub const COOKIES: u64 = 1 << 3;
/// [`Config::flags`]: [`Config::wall_minus_boot`] is sound.
pub const WALL_SOUND: u64 = 1 << 4;

/// [`Config::flags`]: the board tells live SPIs of ours from dead ones.
pub const CHECK_LIVE_SPI: u64 = 1 << 5;
/// [`Config::flags`]: this host masquerades the IKE of others, whose SPIs are not ours.
pub const MASQUERADES: u64 = 1 << 6;

/// [`Config::flags`]: some networks are denied.
pub const DENIES: u64 = 1 << 7;
/// [`Config::flags`]: some networks are allowed.
pub const ALLOWS: u64 = 1 << 8;

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

/// The keys of one epoch that the gate may know.
#[derive(Clone, Copy, Debug)]
pub struct TicketKeys {
    /// `k_tag`.
    pub tag: SipKey,
    /// `k_mask`.
    pub mask: SipKey,
    /// Where the epoch's used bits are on the [`crate::board`], if they are there.
    pub used_slot: Option<u32>,
}

/// A place for the keys of an epoch: one line of a cache.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TicketKeySlot {
    /// `k_tag`.
    pub tag: Schedule,
    /// `k_mask`.
    pub mask: SipKey,
    /// 1 if the keys are good, 0 if the slot is free.
    pub live: u64,
    /// One more than the slot of the used bits; 0 for none.
    pub used: u64,
}

impl TicketKeySlot {
    /// How many words it has.
    pub const WORDS: usize = Schedule::WORDS + 4;
    /// The word that says whether the keys are good.
    pub const LIVE: usize = Schedule::WORDS + 2;

    /// A slot that holds good keys.
    #[must_use]
    pub const fn live(keys: &TicketKeys) -> Self {
        Self {
            tag: Schedule::new(&keys.tag),
            mask: keys.mask,
            live: 1,
            used: match keys.used_slot {
                Some(slot) => slot as u64 + 1,
                None => 0,
            },
        }
    }

    /// The value as it is written to the map.
    #[must_use]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        let Self {
            tag,
            mask,
            live,
            used,
        } = self;
        let [v0, v1, v2, v3] = tag.words();
        [v0, v1, v2, v3, mask.k0, mask.k1, *live, *used]
    }

    /// Whether it holds good keys.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live != 0
    }

    /// Where the epoch's used bits are on the [`crate::board`], if they are there.
    #[inline(always)]
    #[must_use]
    pub const fn used_slot(&self) -> Option<u32> {
        match self.used {
            0 => None,
            more => Some(more as u32 - 1),
        }
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

/// What a CPU keeps for itself: in one place, or each packet would look for four.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// The clock as it was when this CPU last read it.
    pub clock: Clock,
    /// When its last [`crate::sample::Sample`] was taken.
    pub sampled: u64,
    /// What it has given of each [`Budget`].
    pub spent: [Spent; Budget::COUNT],
    /// What each [`Reason`] came to.
    pub counts: [Count; Reason::COUNT],
}

impl Own {
    /// How many words it has.
    pub const WORDS: usize = Self::COUNTS_AT + 2 * Reason::COUNT;
    /// The word that what was spent of the first budget begins at.
    const SPENT_AT: usize = 7 + Begun::WORDS;
    /// The word that the first count begins at.
    const COUNTS_AT: usize = Self::SPENT_AT + 2 * Budget::COUNT;

    /// The count of a reason in a value as it is read from the map.
    #[must_use]
    pub const fn count(words: &[u64; Self::WORDS], reason: Reason) -> Count {
        let at = Self::COUNTS_AT + 2 * reason as usize;
        Count {
            packets: words[at],
            octets: words[at + 1],
        }
    }

    /// What was last spent of a budget, likewise.
    #[must_use]
    pub const fn spent(words: &[u64; Self::WORDS], budget: Budget) -> Spent {
        let at = Self::SPENT_AT + 2 * budget as usize;
        Spent {
            since: words[at],
            given: words[at + 1],
        }
    }
}

/// A reading of the clock.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The kernel's ticks then.
    pub ticks: u64,
    /// In nanoseconds since boot.
    pub now: u64,
    /// In seconds: to divide costs as much as a third of a SipHash.
    pub seconds: u64,
    /// A cookie that is made then; there is none yet if it begins with 0.
    pub begun: Begun,
    /// An address found in [`LOCAL`] since then, and what it is; nothing if that is 0.
    pub address: [u64; 2],
    /// See there.
    pub told: u64,
}

/// Which addresses may be in [`LOCAL`]: a bit for each, shared by many. Most packets come from none of
/// them, and to look there costs as much as half a SipHash.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter(pub [u64; Self::WORDS]);

impl Filter {
    /// How many words it has; a power of two.
    pub const WORDS: usize = 8;

    /// With this address.
    #[must_use]
    pub const fn with(mut self, address: [u8; 16]) -> Self {
        let (word, mask) = Self::bit(address);
        self.0[word] |= mask;
        self
    }

    /// Whether the address may have been put in.
    #[inline(always)]
    #[must_use]
    pub const fn may_have(&self, address: [u8; 16]) -> bool {
        let (word, mask) = Self::bit(address);
        self.0[word] & mask != 0
    }

    #[inline(always)]
    const fn bit(address: [u8; 16]) -> (usize, u64) {
        let mixed = destination_digest(address).wrapping_mul(DIGEST_FACTOR);
        let word = (mixed >> 32) as usize % Self::WORDS;
        (word, 1 << (mixed >> 58))
    }
}

/// What the daemon tells the gate.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// [`CHECK_OWN_SPI`], [`CHECK_LOCAL`], [`TICKET_KEYS_SET`], [`COOKIES`], [`WALL_SOUND`],
    /// [`CHECK_LIVE_SPI`], [`MASQUERADES`], [`DENIES`], [`ALLOWS`].
    pub flags: u64,
    /// A [`Level`].
    pub level: u64,
    /// Nanoseconds from the boot clock to the Unix epoch's; wraps.
    pub wall_minus_boot: u64,
    /// The node in our SPIs and tickets: only of ours the board knows what is used.
    pub node: u64,
    /// When the daemon last said that it lives, in nanoseconds of the boot clock.
    pub last_beat: u64,
    /// Nanoseconds between two [`crate::sample::Sample`]s of one CPU.
    pub sample_interval: u64,
    /// How many in a second on each CPU, by [`Budget`].
    pub budgets: [u64; Budget::COUNT],
    /// What each [`Meter`] lets through.
    pub limits: [Limit; Meter::COUNT],
    /// Chooses the cells of the meters.
    pub meter_key: SipKey,
    /// The addresses in [`LOCAL`].
    pub local: Filter,
}

impl Config {
    /// How many words it has.
    pub const WORDS: usize = 6 + Budget::COUNT + 2 * Meter::COUNT + 2 + Filter::WORDS;

    /// The value as it is written to the map.
    #[must_use]
    pub fn words(&self) -> [u64; Self::WORDS] {
        let told = [
            self.flags,
            self.level,
            self.wall_minus_boot,
            self.node,
            self.last_beat,
            self.sample_interval,
        ];
        let limits = self.limits.map(|limit| [limit.interval, limit.burst]);
        let SipKey { k0, k1 } = self.meter_key;
        let mut words = [0; Self::WORDS];
        let all = told
            .into_iter()
            .chain(self.budgets)
            .chain(limits.into_iter().flatten())
            .chain([k0, k1])
            .chain(self.local.0);
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        words
    }

    /// Reads what [`Self::words`] has written.
    #[must_use]
    pub fn from_words(words: &[u64; Self::WORDS]) -> Self {
        let mut words = words.iter().copied();
        let mut next = || words.next().unwrap_or_default();
        // In the order of the fields.
        Self {
            flags: next(),
            level: next(),
            wall_minus_boot: next(),
            node: next(),
            last_beat: next(),
            sample_interval: next(),
            budgets: core::array::from_fn(|_| next()),
            limits: core::array::from_fn(|_| Limit {
                interval: next(),
                burst: next(),
            }),
            meter_key: SipKey {
                k0: next(),
                k1: next(),
            },
            local: Filter(core::array::from_fn(|_| next())),
        }
    }
}

const _: () = {
    assert!(size_of::<KeySlot>() == size_of::<[u64; 3]>() && align_of::<KeySlot>() == 8);
    assert!(core::mem::offset_of!(KeySlot, live) == 16);
    assert!(size_of::<Count>() == size_of::<[u64; 2]>() && align_of::<Count>() == 8);
    assert!(core::mem::offset_of!(Count, octets) == 8);
    assert!(size_of::<TicketKeySlot>() == size_of::<[u64; TicketKeySlot::WORDS]>());
    assert!(core::mem::offset_of!(TicketKeySlot, mask) == 8 * Schedule::WORDS);
    assert!(core::mem::offset_of!(TicketKeySlot, live) == 8 * TicketKeySlot::LIVE);
    assert!(core::mem::offset_of!(TicketKeySlot, used) == 8 * TicketKeySlot::LIVE + 8);
    assert!(size_of::<Spent>() == size_of::<[u64; 2]>() && align_of::<Spent>() == 8);
    assert!(size_of::<Config>() == size_of::<[u64; Config::WORDS]>());
    assert!(core::mem::offset_of!(Config, level) == 8);
    assert!(core::mem::offset_of!(Config, wall_minus_boot) == 16);
    assert!(core::mem::offset_of!(Config, node) == 24);
    assert!(core::mem::offset_of!(Config, last_beat) == 32);
    assert!(core::mem::offset_of!(Config, sample_interval) == 40);
    assert!(core::mem::offset_of!(Config, budgets) == 48);
    assert!(core::mem::offset_of!(Config, limits) == 48 + 8 * Budget::COUNT);
    assert!(core::mem::offset_of!(Config, meter_key) == 48 + 8 * Budget::COUNT + 16 * Meter::COUNT);
    assert!(core::mem::offset_of!(Config, local) == size_of::<Config>() - 8 * Filter::WORDS);
    assert!(size_of::<Own>() == size_of::<[u64; Own::WORDS]>());
    assert!(core::mem::offset_of!(Own, counts) == 8 * Own::COUNTS_AT);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gate_was_told_is_read_as_it_was_written() {
        let words: [u64; Config::WORDS] = core::array::from_fn(|at| at as u64 + 1);
        assert_eq!(Config::from_words(&words).words(), words);
    }
}
