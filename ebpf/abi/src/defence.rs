//! What bounds the gate's answers and admissions: levels of defence, budgets of replies for each CPU,
//! and meters of fixed size. The arithmetic is here, so that both sides of the kernel line count
//! alike; the memory it works on is the caller's.

/// How much a first message has to show. The daemon chooses it from what the gate counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Level {
    /// Nothing beyond its ticket, if it has one.
    #[default]
    Calm = 0,
    /// IKE_SA_INIT from a network that sends many of them: a cookie.
    Guarded = 1,
    /// A cookie.
    Attack = 2,
}

impl Level {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Calm, Self::Guarded, Self::Attack];

    /// The word an operator sees.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Guarded => "guarded",
            Self::Attack => "attack",
        }
    }

    /// Reads the word of the configuration map. What is no level counts as the highest.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Calm,
            1 => Self::Guarded,
            _ => Self::Attack,
        }
    }
}

/// What is done for those who have proved nothing, or too little: each kind with a budget of its own
/// on each CPU, so that none can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Budget {
    /// TICKET_NACK to a ticket of an epoch whose key is gone.
    UnknownKeyId = 0,
    /// TICKET_NACK to a forged ticket.
    TagWrong = 1,
    /// TICKET_NACK to a genuine ticket that is of no use.
    Expired = 2,
    /// COOKIE.
    Cookie = 3,
    /// A message to an SPI of ours that is not live goes to the daemon, which may have a crash
    /// detection token for it.
    DeadSpi = 4,
    /// A message to an SPI of somebody behind us, while we masquerade.
    ForeignSpi = 5,
    /// A fragment, or a packet with options or extension headers, goes to the kernel.
    Irregular = 6,
}

impl Budget {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, in the order of the maps.
    pub const ALL: [Self; 7] = [
        Self::UnknownKeyId,
        Self::TagWrong,
        Self::Expired,
        Self::Cookie,
        Self::DeadSpi,
        Self::ForeignSpi,
        Self::Irregular,
    ];

    /// How many in a second on one CPU, unless the daemon says less.
    #[must_use]
    pub const fn per_second(self, level: Level) -> u64 {
        match (self, level) {
            (Self::UnknownKeyId | Self::TagWrong, _) => 50,
            (Self::Expired, _) => 500,
            // A cookie is what lets an honest client in: bounded by what one core can send.
            (Self::Cookie, _) => 100_000,
            // After a crash all peers come to learn of it.
            (Self::DeadSpi, _) => 4_000,
            (Self::ForeignSpi, _) => 100,
            (Self::Irregular, Level::Calm) => u64::MAX,
            (Self::Irregular, Level::Guarded) => 10_000,
            (Self::Irregular, Level::Attack) => 1_000,
        }
    }

    /// The word an operator sees.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownKeyId => "nack_unknown_key_id",
            Self::TagWrong => "nack_tag_wrong",
            Self::Expired => "nack_expired",
            Self::Cookie => "cookie",
            Self::DeadSpi => "dead_spi",
            Self::ForeignSpi => "foreign_spi",
            Self::Irregular => "irregular",
        }
    }
}

/// What one CPU has given of one budget in the present second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// When that second began, in nanoseconds of the boot clock.
    pub since: u64,
    /// How many since.
    pub given: u64,
}

impl Spent {
    /// Takes one, if there is one left of `limit` in this second.
    #[inline(always)]
    pub const fn take(&mut self, limit: u64, now: u64) -> bool {
        // A clock behind `since` wraps to a long time ago, which is as good as a new second.
        if now.wrapping_sub(self.since) >= SECOND {
            self.since = now;
            self.given = 0;
        }
        if self.given >= limit {
            return false;
        }
        self.given += 1;
        true
    }
}

/// A limit of events in time, counted in a row of cells that nobody can make longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Meter {
    /// IKE_SA_INIT without cookie, by network. Over it means a cookie, never a drop, since the
    /// source may be forged.
    SoftNetwork = 0,
    /// First messages with one and the same valid cookie. Over it they are dropped.
    Cookie = 1,
    /// First messages with a valid cookie, by network. Over it they are dropped.
    ProvenNetwork = 2,
    /// Resumptions without cookie, by ticket. Over it means a cookie, never a drop, since who shows
    /// the ticket may not be who it was issued to.
    Ticket = 3,
    /// Resumptions with a valid cookie, by ticket and network. Over it they are dropped.
    TicketNetwork = 4,
    /// Messages for an SA of ours, by our SPI and their source. Over it they wait among those that have
    /// proved nothing: whoever has seen an SPI can send as many as he likes.
    OwnSpi = 5,
    /// The same, by our SPI alone: sources can be forged.
    OwnSpiAlone = 6,
}

impl Meter {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, in the order of the maps.
    pub const ALL: [Self; 7] = [
        Self::SoftNetwork,
        Self::Cookie,
        Self::ProvenNetwork,
        Self::Ticket,
        Self::TicketNetwork,
        Self::OwnSpi,
        Self::OwnSpiAlone,
    ];
    /// Cells of each; a power of two.
    pub const CELLS: usize = 1 << 16;

    /// What it lets through, unless the daemon says less.
    #[must_use]
    pub const fn limit(self) -> Limit {
        match self {
            Self::SoftNetwork => Limit {
                interval: SECOND / 8,
                burst: 2 * SECOND,
            },
            Self::Cookie => Limit {
                interval: SECOND,
                burst: 4 * SECOND,
            },
            Self::ProvenNetwork => Limit {
                interval: SECOND / 200,
                burst: 2 * SECOND,
            },
            // Three at once, then one in five seconds.
            Self::Ticket | Self::TicketNetwork => Limit {
                interval: 5 * SECOND,
                burst: 10 * SECOND,
            },
            // A message in 64 fragments comes at once, and its answer may be lost.
            Self::OwnSpi => Limit {
                interval: SECOND / 64,
                burst: 2 * SECOND,
            },
            // A peer moves, and few have more than some addresses to move between.
            Self::OwnSpiAlone => Limit {
                interval: SECOND / 256,
                burst: 2 * SECOND,
            },
        }
    }

    /// The place of a cell among those of all meters, for a hash that an attacker cannot foresee.
    #[inline(always)]
    #[must_use]
    pub const fn cell(self, hash: u64) -> u32 {
        (self as u32) * Self::CELLS as u32 + (hash as u32 & (Self::CELLS as u32 - 1))
    }
}

/// What a meter lets through in time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Nanoseconds for which one event uses up the meter.
    pub interval: u64,
    /// Nanoseconds that may be used up in advance.
    pub burst: u64,
}

impl Limit {
    /// Charges one event to a cell, which holds the time until which it is used up. `None` if that
    /// is too far ahead; the cell then stays as it is.
    #[inline(always)]
    #[must_use]
    pub const fn charge(self, used_until: u64, now: u64) -> Option<u64> {
        let from = if used_until > now { used_until } else { now };
        if from - now > self.burst {
            return None;
        }
        Some(from.saturating_add(self.interval))
    }
}

/// The network of an address, IPv4 mapped into IPv6: one IPv4 address, or one /64 of IPv6, which is
/// what one attacker gets for nothing.
#[inline(always)]
#[must_use]
pub const fn network_of(address: [u8; 16]) -> u64 {
    let whole = u128::from_be_bytes(address);
    let (high, low) = ((whole >> 64) as u64, whole as u64);
    // A mapped address has nothing in its upper half, and no /64 in use is all zero.
    if high == 0 { low } else { high }
}

/// In nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_once_in_each_second() {
        let mut spent = Spent::default();
        let mut given = 0;
        for step in 0..30_000u64 {
            // Ten times as often as allowed, for three seconds.
            let now = 77 * SECOND + step * SECOND / 10_000;
            given += u64::from(spent.take(1000, now));
        }
        assert_eq!(given, 3000);
        assert!(!Spent::default().take(0, 5));
    }

    #[test]
    fn a_meter_lets_its_burst_and_then_its_rate_through() {
        let passed = |meter: Meter, seconds: u64| {
            let (mut cell, mut passed) = (0, 0);
            for step in 0..seconds * 10_000 {
                let now = 5 * SECOND + step * SECOND / 10_000;
                if let Some(used) = meter.limit().charge(cell, now) {
                    cell = used;
                    passed += 1;
                }
            }
            passed
        };
        // Ten seconds at 8, and two seconds' worth in advance.
        assert_eq!(passed(Meter::SoftNetwork, 10), 10 * 8 + 2 * 8);
        // Three, and one in five seconds.
        assert_eq!(passed(Meter::Ticket, 1), 3);
        assert_eq!(passed(Meter::TicketNetwork, 50), 3 + 9);
    }

    #[test]
    fn no_meter_reaches_into_the_cells_of_another() {
        let cells = |meter: Meter| [meter.cell(0), meter.cell(u64::MAX)];
        assert_eq!(cells(Meter::SoftNetwork), [0, 0xffff]);
        assert_eq!(cells(Meter::Cookie), [0x1_0000, 0x1_ffff]);
        assert_eq!(cells(Meter::ProvenNetwork), [0x2_0000, 0x2_ffff]);
        assert_eq!(
            cells(Meter::OwnSpiAlone)[1] as usize,
            Meter::COUNT * Meter::CELLS - 1
        );
    }

    #[test]
    fn a_network_is_an_ipv4_address_or_a_64() {
        let v6 = |last: u8| {
            let mut address = [0x20; 16];
            address[15] = last;
            network_of(address)
        };
        assert_eq!(v6(1), v6(2));
        let v4 = |last| network_of([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last]);
        assert_ne!(v4(1), v4(2));
    }

    #[test]
    fn words_that_are_no_level_are_the_highest() {
        for level in Level::ALL {
            assert_eq!(Level::from_word(level as u64), level);
        }
        assert_eq!(Level::from_word(9), Level::Attack);
    }
}
