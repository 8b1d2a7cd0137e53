//! Typed handles to the gate's maps, and the test whether pinned ones can be used again.
//!
//! Every value crosses the kernel line as a row of `u64`, which aya already knows to be plain
//! memory; that is why no `unsafe` is needed here.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, RingBuf};
use gate_abi::board;
use gate_abi::defence::{Budget, Level, Limit, Meter};
use gate_abi::lane::{GROUPS, LANES, LANES_ENTRIES, MAX_GROUPS};
use gate_abi::maps::{self as abi, Config, Filter, KeySlot, Own, TicketKeySlot, TicketKeys};
use gate_abi::networks::{MAX_NETWORKS, NETWORKS, Prefix, Rule};
use gate_abi::sample::{RING_OCTETS, SAMPLES};
use gate_abi::sip::SipKey;

use super::GateError;
use super::board::Board;
use super::counters::Counters;
use super::samples::Samples;

/// The maps of a gate, whether made or found pinned.
pub(super) struct Maps {
    keys: Array<MapData, [u64; TicketKeySlot::WORDS]>,
    spi_keys: Array<MapData, [u64; 3]>,
    cookie_keys: Array<MapData, [u64; 3]>,
    local: HashMap<MapData, [u8; 16], u64>,
    networks: LpmTrie<MapData, [u8; 16], u32>,
    config: Array<MapData, [u64; Config::WORDS]>,
    /// What the configuration map holds.
    told: Config,
    board_data: MapData,
    pub(super) board: Board,
    pub(super) counters: Counters,
    pub(super) samples: Samples,
}

/// How much of a table is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What is in it, for people.
    pub what: &'static str,
    /// How many.
    pub used: u64,
    /// How many there can be.
    pub most: u64,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, GateError> {
        let mut take = |name: &'static str| object.take_map(name).ok_or(GateError::NoMap(name));
        let [keys, spi_keys, local] = [take(abi::KEYS)?, take(abi::SPI_KEYS)?, take(abi::LOCAL)?];
        let [config, cookie_keys] = [take(abi::CONFIG)?, take(abi::COOKIE_KEYS)?];
        let Map::Array(board_data) = take(abi::BOARD)? else {
            return Err(GateError::NoMap(abi::BOARD));
        };
        let board = Board::map(board_data.fd()).map_err(GateError::Board)?;
        let networks = take(NETWORKS)?;
        let [own, samples] = [take(abi::OWN)?, take(SAMPLES)?];
        let samples: RingBuf<MapData> = typed(samples)?;
        let config: Array<MapData, [u64; Config::WORDS]> = typed(config)?;
        // Where the gate stands already it goes by this, and is told of changes alone.
        let told = Config::from_words(&config.get(&0, 0)?);
        Ok(Self {
            keys: typed(keys)?,
            spi_keys: typed(spi_keys)?,
            cookie_keys: typed(cookie_keys)?,
            local: typed(local)?,
            networks: typed(networks)?,
            config,
            told,
            board_data,
            board,
            counters: Counters(typed(own)?),
            samples: Samples::new(samples),
        })
    }

    /// Makes exactly these the live ticket keys. Keys that stay are not touched, so no genuine
    /// ticket is refused meanwhile.
    pub(super) fn set_ticket_keys(&mut self, keys: &[(u8, TicketKeys)]) -> Result<(), MapError> {
        for id in 0..=u8::MAX {
            let wanted = keys.iter().rfind(|(live, _)| *live == id);
            let wanted = wanted.map_or(TicketKeySlot::default(), |(_, keys)| {
                TicketKeySlot::live(keys)
            });
            let dead = TicketKeySlot { live: 0, ..wanted };
            put(&mut self.keys, u32::from(id), dead.words(), wanted.words())?;
        }
        // Also of none: then no ticket is ours, and is turned away as such.
        self.set_flag(abi::TICKET_KEYS_SET, true)
    }

    /// Makes exactly these the live cookie keys, by epoch.
    pub(super) fn set_cookie_keys(&mut self, keys: &[(u8, SipKey)]) -> Result<(), MapError> {
        for epoch in 0..=u8::MAX {
            let wanted = keys.iter().rfind(|(live, _)| *live == epoch);
            let wanted = wanted.map(|(_, key)| *key);
            put_key(&mut self.cookie_keys, u32::from(epoch), wanted)?;
        }
        Ok(())
    }

    /// Makes exactly these the live SPI keys.
    pub(super) fn set_spi_keys(&mut self, keys: &[[u8; 16]]) -> Result<(), GateError> {
        if keys.len() > abi::SPI_KEYS_ENTRIES {
            return Err(GateError::TooMany {
                what: "SPI keys",
                limit: abi::SPI_KEYS_ENTRIES,
            });
        }
        for slot in 0..abi::SPI_KEYS_ENTRIES {
            let wanted = keys.get(slot).map(|key| SipKey::from_octets(*key));
            put_key(&mut self.spi_keys, slot as u32, wanted)?;
        }
        Ok(())
    }

    /// Makes exactly these our own addresses, and those the ones that are never answered. With none
    /// of our own, packets to any address are judged.
    pub(super) fn set_local(
        &mut self,
        ours: &[IpAddr],
        never_answered: &[IpAddr],
    ) -> Result<(), GateError> {
        let mut wanted = BTreeMap::new();
        for (addresses, what) in [
            (ours, abi::OUR_ADDRESS),
            (never_answered, abi::NEVER_ANSWERED),
        ] {
            for address in addresses {
                *wanted.entry(mapped(address)).or_insert(0) |= what;
            }
        }
        if wanted.len() > abi::LOCAL_ENTRIES {
            return Err(GateError::TooMany {
                what: "addresses",
                limit: abi::LOCAL_ENTRIES,
            });
        }
        // Before the addresses that are new, and after those that go, it may only say too much.
        let [before, after] = [self.told.local, filter(wanted.keys())];
        self.told.local = Filter(std::array::from_fn(|at| before.0[at] | after.0[at]));
        self.tell()?;
        let known: BTreeMap<[u8; 16], u64> = self.local.iter().collect::<Result<_, _>>()?;
        // What goes makes room first, so that a full map can change.
        for gone in known
            .keys()
            .filter(|address| !wanted.contains_key(*address))
        {
            self.local.remove(gone)?;
        }
        for (address, what) in &wanted {
            if known.get(address) != Some(what) {
                self.local.insert(address, what, 0)?;
            }
        }
        self.told.local = after;
        Ok(self.set_flag(abi::CHECK_LOCAL, !ours.is_empty())?)
    }

    /// Makes exactly these the networks with a rule.
    pub(super) fn set_rules(&mut self, wanted: &[(Prefix, Rule)]) -> Result<(), GateError> {
        let wanted: BTreeMap<_, _> = wanted
            .iter()
            .map(|(network, rule)| (network.key(), *rule as u32))
            .collect();
        if wanted.len() > MAX_NETWORKS {
            return Err(GateError::TooMany {
                what: "networks with a rule",
                limit: MAX_NETWORKS,
            });
        }
        let known: BTreeMap<(u32, [u8; 16]), u32> = self
            .networks
            .iter()
            .map(|entry| entry.map(|(key, rule)| ((key.prefix_len(), key.data()), rule)))
            .collect::<Result<_, _>>()?;
        // What goes makes room first, so that a full map can change.
        for (bits, address) in known.keys().filter(|key| !wanted.contains_key(*key)) {
            self.networks.remove(&Key::new(*bits, *address))?;
        }
        for ((bits, address), rule) in &wanted {
            if known.get(&(*bits, *address)) != Some(rule) {
                self.networks.insert(&Key::new(*bits, *address), rule, 0)?;
            }
        }
        for (flag, rule) in [(abi::DENIES, Rule::Deny), (abi::ALLOWS, Rule::Allow)] {
            self.set_flag(flag, wanted.values().any(|one| *one == rule as u32))?;
        }
        Ok(())
    }

    /// How full the tables are that can be full. Cells of the meters are shared, and none is refused.
    pub(super) fn fill(&self, boot_seconds: u64) -> Result<Vec<Fill>, MapError> {
        let mut ticket_keys = 0;
        for slot in self.keys.iter() {
            ticket_keys += slot?[TicketKeySlot::LIVE];
        }
        let of = |what, used, most: usize| Fill {
            what,
            used,
            most: most as u64,
        };
        let [addresses, networks] = [self.local.keys().count(), self.networks.keys().count()];
        Ok(vec![
            of("addresses", addresses as u64, abi::LOCAL_ENTRIES),
            of("networks with a rule", networks as u64, MAX_NETWORKS),
            of("ticket keys", ticket_keys, abi::KEYS_ENTRIES),
            of("live SPIs", self.board.live(), board::LIVE_BITS as usize),
            of(
                "admissions",
                self.board.admitted(boot_seconds),
                board::admission_words().len(),
            ),
        ])
    }

    pub(super) fn board_descriptor(&self) -> BorrowedFd<'_> {
        self.board_data.fd().as_fd()
    }

    pub(super) fn set_node(&mut self, node: u8) -> Result<(), MapError> {
        self.told.node = u64::from(node);
        self.tell()
    }

    pub(super) fn set_check_live_spi(&mut self, check: bool) -> Result<(), MapError> {
        self.set_flag(abi::CHECK_LIVE_SPI, check)
    }

    pub(super) fn set_masquerades(&mut self, masquerades: bool) -> Result<(), MapError> {
        self.set_flag(abi::MASQUERADES, masquerades)
    }

    pub(super) fn set_limits(&mut self, limits: [Limit; Meter::COUNT]) -> Result<(), MapError> {
        self.told.limits = limits;
        self.tell()
    }

    pub(super) fn set_check_own_spi(&mut self, check: bool) -> Result<(), MapError> {
        self.set_flag(abi::CHECK_OWN_SPI, check)
    }

    pub(super) fn beat(&mut self, since_boot: Duration) -> Result<(), MapError> {
        let nanoseconds = u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX);
        self.told.last_beat = nanoseconds;
        self.tell()
    }

    /// Where the meters' cells lie is for nobody to foresee.
    pub(super) fn set_meter_key(&mut self, key: SipKey) -> Result<(), MapError> {
        self.told.meter_key = key;
        self.board.set_key(key);
        self.tell()
    }

    pub(super) fn set_budgets(&mut self, budgets: [u64; Budget::COUNT]) -> Result<(), MapError> {
        self.told.budgets = budgets;
        self.tell()
    }

    pub(super) fn set_sample_interval(&mut self, nanoseconds: u64) -> Result<(), MapError> {
        self.told.sample_interval = nanoseconds;
        self.tell()
    }

    /// The level of defence; `None` asks nobody for a cookie, whatever happens.
    pub(super) fn set_level(&mut self, level: Option<Level>) -> Result<(), MapError> {
        self.told.level = level.unwrap_or_default() as u64;
        self.set_flag(abi::COOKIES, level.is_some())
    }

    /// Nanoseconds from the boot clock to the wall's; `None` while the latter is not sound.
    pub(super) fn set_wall_minus_boot(&mut self, offset: Option<u64>) -> Result<(), MapError> {
        self.told.wall_minus_boot = offset.unwrap_or(self.told.wall_minus_boot);
        self.set_flag(abi::WALL_SOUND, offset.is_some())
    }

    fn set_flag(&mut self, flag: u64, on: bool) -> Result<(), MapError> {
        let flags = self.told.flags;
        self.told.flags = if on { flags | flag } else { flags & !flag };
        self.tell()
    }

    fn tell(&mut self) -> Result<(), MapError> {
        self.config.set(0, self.told.words(), 0)
    }
}

fn put_key(
    map: &mut Array<MapData, [u64; 3]>,
    slot: u32,
    key: Option<SipKey>,
) -> Result<(), MapError> {
    let wanted = key.map_or(KeySlot::default(), KeySlot::live);
    let dead = KeySlot { live: 0, ..wanted };
    put(map, slot, dead.words(), wanted.words())
}

/// The program may read while the kernel copies: a key is whole before it counts as live.
fn put<const N: usize>(
    map: &mut Array<MapData, [u64; N]>,
    slot: u32,
    dead: [u64; N],
    wanted: [u64; N],
) -> Result<(), MapError>
where
    [u64; N]: aya::Pod,
{
    if map.get(&slot, 0)? == wanted {
        return Ok(());
    }
    map.set(slot, dead, 0)?;
    map.set(slot, wanted, 0)
}

fn filter<'a>(addresses: impl Iterator<Item = &'a [u8; 16]>) -> Filter {
    addresses.fold(Filter::default(), |filter, address| filter.with(*address))
}

pub(crate) fn mapped(address: &IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T, GateError> {
    Ok(T::try_from(map)?)
}

/// How a map of this ABI version looks to the kernel.
struct Layout {
    name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
}

impl Layout {
    const fn new(
        name: &'static str,
        kind: MapType,
        key: usize,
        value: usize,
        entries: usize,
    ) -> Self {
        Self {
            name,
            kind,
            key: key as u32,
            value: value as u32,
            entries: entries as u32,
        }
    }
}

const LAYOUTS: [Layout; 12] = [
    Layout::new(
        abi::KEYS,
        MapType::Array,
        4,
        size_of::<TicketKeySlot>(),
        abi::KEYS_ENTRIES,
    ),
    Layout::new(
        abi::COOKIE_KEYS,
        MapType::Array,
        4,
        size_of::<KeySlot>(),
        abi::COOKIE_KEYS_ENTRIES,
    ),
    Layout::new(abi::METERS, MapType::Array, 4, 8, abi::METERS_ENTRIES),
    Layout::new(LANES, MapType::ReuseportSockArray, 4, 4, LANES_ENTRIES),
    Layout::new(GROUPS, MapType::Hash, 24, 8, MAX_GROUPS),
    Layout::new(
        abi::SPI_KEYS,
        MapType::Array,
        4,
        size_of::<KeySlot>(),
        abi::SPI_KEYS_ENTRIES,
    ),
    Layout::new(abi::LOCAL, MapType::Hash, 16, 8, abi::LOCAL_ENTRIES),
    Layout::new(NETWORKS, MapType::LpmTrie, 20, 4, MAX_NETWORKS),
    Layout::new(abi::CONFIG, MapType::Array, 4, size_of::<Config>(), 1),
    Layout::new(abi::BOARD, MapType::Array, 4, 8, board::WORDS),
    Layout::new(SAMPLES, MapType::RingBuf, 0, 0, RING_OCTETS),
    Layout::new(abi::OWN, MapType::PerCpuArray, 4, size_of::<Own>(), 1),
];

/// The names of all maps that are pinned.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    LAYOUTS.iter().map(|layout| layout.name)
}

/// Removes pins of maps that look different from ours: aya would open them by name alone.
pub(super) fn discard_misfits(folder: &Path) -> io::Result<()> {
    for layout in &LAYOUTS {
        let path = folder.join(layout.name);
        if path.try_exists()? && !fits(layout, &path) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn fits(layout: &Layout, path: &Path) -> bool {
    MapInfo::from_pin(path).is_ok_and(|info| {
        info.map_type().is_ok_and(|kind| kind == layout.kind)
            && info.key_size() == layout.key
            && info.value_size() == layout.value
            && info.max_entries() == layout.entries
    })
}
