//! Typed handles to the gate's maps, and the test whether pinned ones can be used again.
//!
//! Every value crosses the kernel line as a row of `u64`, which aya already knows to be plain
//! memory; that is why no `unsafe` is needed here.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray};
use gate_abi::classify::Reason;
use gate_abi::maps::{self as abi, KeySlot};
use gate_abi::sip::SipKey;

use super::GateError;
use super::counters::Counters;

/// The maps of a gate, whether made or found pinned.
pub(super) struct Maps {
    keys: Array<MapData, [u64; 3]>,
    spi_keys: Array<MapData, [u64; 3]>,
    local: HashMap<MapData, [u8; 16], u64>,
    config: Array<MapData, u64>,
    heartbeat: Array<MapData, u64>,
    pub(super) counters: Counters,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, GateError> {
        let mut take = |name: &'static str| object.take_map(name).ok_or(GateError::NoMap(name));
        let [keys, spi_keys, local] = [take(abi::KEYS)?, take(abi::SPI_KEYS)?, take(abi::LOCAL)?];
        let [config, heartbeat] = [take(abi::CONFIG)?, take(abi::HEARTBEAT)?];
        let counters: PerCpuArray<MapData, [u64; 2]> = typed(take(abi::COUNTERS)?)?;
        Ok(Self {
            keys: typed(keys)?,
            spi_keys: typed(spi_keys)?,
            local: typed(local)?,
            config: typed(config)?,
            heartbeat: typed(heartbeat)?,
            counters: Counters(counters),
        })
    }

    /// Makes exactly these the live ticket keys. Keys that stay are not touched, so no genuine
    /// ticket is refused meanwhile.
    pub(super) fn set_ticket_keys(&mut self, keys: &[(u8, [u8; 16])]) -> Result<(), MapError> {
        for id in 0..=u8::MAX {
            let wanted = keys
                .iter()
                .rfind(|(live, _)| *live == id)
                .map(|(_, key)| key);
            put_key(&mut self.keys, u32::from(id), wanted)?;
        }
        self.set_flag(abi::TICKET_KEYS_SET, !keys.is_empty())
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
            put_key(&mut self.spi_keys, slot as u32, keys.get(slot))?;
        }
        Ok(())
    }

    /// Makes exactly these our own addresses. With none, packets to any address are judged.
    pub(super) fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), GateError> {
        if addresses.len() > abi::LOCAL_ENTRIES {
            return Err(GateError::TooMany {
                what: "addresses",
                limit: abi::LOCAL_ENTRIES,
            });
        }
        let wanted: Vec<[u8; 16]> = addresses.iter().map(mapped).collect();
        let known: Vec<[u8; 16]> = self.local.keys().collect::<Result<_, _>>()?;
        // What goes makes room first, so that a full map can change.
        for gone in known.iter().filter(|address| !wanted.contains(address)) {
            self.local.remove(gone)?;
        }
        for new in wanted.iter().filter(|address| !known.contains(address)) {
            self.local.insert(new, 1, 0)?;
        }
        Ok(self.set_flag(abi::CHECK_LOCAL, !wanted.is_empty())?)
    }

    pub(super) fn set_check_own_spi(&mut self, check: bool) -> Result<(), MapError> {
        self.set_flag(abi::CHECK_OWN_SPI, check)
    }

    pub(super) fn beat(&mut self, since_boot: Duration) -> Result<(), MapError> {
        let nanoseconds = u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX);
        self.heartbeat.set(0, nanoseconds, 0)
    }

    fn set_flag(&mut self, flag: u64, on: bool) -> Result<(), MapError> {
        let flags = self.config.get(&0, 0)?;
        self.config
            .set(0, if on { flags | flag } else { flags & !flag }, 0)
    }
}

fn put_key(
    map: &mut Array<MapData, [u64; 3]>,
    slot: u32,
    key: Option<&[u8; 16]>,
) -> Result<(), MapError> {
    let wanted = key.map_or(KeySlot::default(), |key| {
        KeySlot::live(SipKey::from_octets(*key))
    });
    if map.get(&slot, 0)? == wanted.words() {
        return Ok(());
    }
    // The program may read while the kernel copies: the key is whole before it counts as live.
    map.set(slot, KeySlot { live: 0, ..wanted }.words(), 0)?;
    map.set(slot, wanted.words(), 0)
}

fn mapped(address: &IpAddr) -> [u8; 16] {
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

const LAYOUTS: [Layout; 6] = [
    Layout::new(
        abi::KEYS,
        MapType::Array,
        4,
        size_of::<KeySlot>(),
        abi::KEYS_ENTRIES,
    ),
    Layout::new(
        abi::SPI_KEYS,
        MapType::Array,
        4,
        size_of::<KeySlot>(),
        abi::SPI_KEYS_ENTRIES,
    ),
    Layout::new(abi::LOCAL, MapType::Hash, 16, 8, abi::LOCAL_ENTRIES),
    Layout::new(abi::CONFIG, MapType::Array, 4, size_of::<abi::Config>(), 1),
    Layout::new(abi::HEARTBEAT, MapType::Array, 4, 8, 1),
    Layout::new(
        abi::COUNTERS,
        MapType::PerCpuArray,
        4,
        size_of::<abi::Count>(),
        Reason::COUNT,
    ),
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
