//! Lanes: the sockets that a port's datagrams are shared out among, by what they have proved, so that a
//! flood of what has proved nothing fills its own queue and no other. Here are their order and their
//! places in the maps; which one a datagram belongs to, [`crate::classify::steer`] says.

/// The program of a group of sockets.
pub const PROGRAM_LANES: &str = "lanes";
/// Array of sockets, by [`Group::slot`].
pub const LANES: &str = "LANES";
/// Sockets of all groups.
pub const LANES_ENTRIES: usize = MAX_GROUPS * GROUP_SLOTS;
/// Hash from [`group_key`] to [`Group::word`].
pub const GROUPS: &str = "GROUPS";
/// Per-CPU array of one [`LaneCounts`].
pub const LANE_COUNTS: &str = "LANE_COUNTS";
/// Datagrams that came to each [`Place`], by [`Place::index`].
pub type LaneCounts = [u64; Place::COUNT];
/// Groups of sockets: one for each address and port we listen on.
pub const MAX_GROUPS: usize = 16;
/// Workers that each have a socket in every lane.
pub const MAX_WORKERS: usize = 16;
/// A socket for every worker in every lane, and the sink.
const GROUP_SLOTS: usize = Lane::ALL.len() * MAX_WORKERS + 1;

/// Who is served before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Lane {
    /// An SPI of ours with the right check: peers that are being served already, among them the
    /// IKE_AUTH of every login under way.
    Existing = 0,
    /// IKE_SESSION_RESUME with a ticket of ours.
    Resume = 1,
    /// A first message with a good cookie.
    CookieProven = 2,
    /// Any other message with a right shape.
    Unproven = 3,
}

impl Lane {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [
        Self::Existing,
        Self::Resume,
        Self::CookieProven,
        Self::Unproven,
    ];
}

/// Where a datagram belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a lane. An SPI of ours names its worker; any will do for the rest.
    Lane(Lane, Option<u8>),
    /// With the socket that nobody reads: what no engine would make anything of, and ESP, which the
    /// kernel takes out before it comes to a queue.
    Sink,
}

impl Place {
    /// How many are told apart in counts: the lanes, and the sink.
    pub const COUNT: usize = Lane::ALL.len() + 1;
    /// What operators call them, by [`Self::index`].
    pub const NAMES: [&str; Self::COUNT] = ["existing", "resume", "cookie", "unproven", "sink"];

    /// Its place in counts.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Lane(lane, _) => lane as usize,
            Self::Sink => Lane::ALL.len(),
        }
    }
}

/// The sockets of one address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number, below [`MAX_GROUPS`].
    pub index: u8,
    /// How many workers read each lane: 1 to [`MAX_WORKERS`].
    pub workers: u8,
    /// IKE stands behind a marker here, as on port 4500.
    pub marked: bool,
}

impl Group {
    /// The value as it is written to the map.
    #[must_use]
    pub const fn word(self) -> u64 {
        self.index as u64 | (self.workers as u64) << 8 | (self.marked as u64) << 16
    }

    /// Reads a value of the map.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            index: word as u8,
            workers: (word >> 8) as u8,
            marked: word >> 16 & 1 != 0,
        }
    }

    /// The worker for a place; `hash` chooses where any will do, so that what one sender repeats
    /// comes to the same one.
    #[inline(always)]
    #[must_use]
    pub const fn worker(self, named: Option<u8>, hash: u32) -> u8 {
        match named {
            Some(worker) if worker < self.workers => worker,
            _ if self.workers == 0 => 0,
            _ => (hash % self.workers as u32) as u8,
        }
    }

    /// The slot of a worker's socket in a lane.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self, lane: Lane, worker: u8) -> u32 {
        self.first_slot() + lane as u32 * MAX_WORKERS as u32 + worker as u32
    }

    /// The slot of the socket that nobody reads.
    #[inline(always)]
    #[must_use]
    pub const fn sink(self) -> u32 {
        self.first_slot() + GROUP_SLOTS as u32 - 1
    }

    #[inline(always)]
    const fn first_slot(self) -> u32 {
        self.index as u32 * GROUP_SLOTS as u32
    }
}

/// What a group is found by: the words of the address it is bound to, IPv4 mapped into IPv6, in the
/// order of memory, and the port.
#[inline(always)]
#[must_use]
pub const fn group_key(address: [u8; 16], port: u16) -> [u64; 3] {
    let whole = u128::from_ne_bytes(address);
    let [first, second] = if cfg!(target_endian = "little") {
        [whole as u64, (whole >> 64) as u64]
    } else {
        [(whole >> 64) as u64, whole as u64]
    };
    [first, second, port as u64]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_sockets_have_one_slot() {
        let mut seen = BTreeSet::new();
        for index in 0..MAX_GROUPS as u8 {
            let group = Group {
                index,
                workers: MAX_WORKERS as u8,
                marked: false,
            };
            let workers = 0..MAX_WORKERS as u8;
            let lanes = Lane::ALL.into_iter();
            let slots = lanes.flat_map(|lane| workers.clone().map(move |w| group.slot(lane, w)));
            assert!(slots.chain([group.sink()]).all(|slot| seen.insert(slot)));
        }
        assert_eq!(seen.len(), LANES_ENTRIES);
        assert_eq!(seen.last(), Some(&(LANES_ENTRIES as u32 - 1)));
    }

    #[test]
    fn a_group_is_read_back() {
        for marked in [false, true] {
            let group = Group {
                index: 15,
                workers: 3,
                marked,
            };
            assert_eq!(Group::from_word(group.word()), group);
        }
    }

    #[test]
    fn an_spi_names_its_worker_and_the_rest_is_spread() {
        let group = Group {
            index: 0,
            workers: 3,
            marked: false,
        };
        assert_eq!(group.worker(Some(2), 0), 2);
        // Of an engine that had more of them.
        assert_eq!(group.worker(Some(3), 4), 1);
        let spread: BTreeSet<_> = (0..9).map(|hash| group.worker(None, hash)).collect();
        assert_eq!(spread, BTreeSet::from([0, 1, 2]));
        assert_eq!(Group::from_word(0).worker(None, 7), 0);
    }

    #[test]
    fn a_key_is_an_address_and_its_port() {
        let key = group_key(*b"abcdefghijklmnop", 500);
        assert_eq!(key[0].to_ne_bytes(), *b"abcdefgh");
        assert_eq!(key[1].to_ne_bytes(), *b"ijklmnop");
        assert_eq!(key[2], 500);
    }
}
