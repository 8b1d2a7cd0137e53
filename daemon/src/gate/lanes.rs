//! Groups of sockets behind the gate's second program, which shares a port's datagrams out among them.
//! The kernel holds it by the sockets: they go on being steered when whoever attached it is gone, and
//! it goes with the last of them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, ReusePortSockArray};
use aya::programs::{ProgramError, SkReuseport};
use gate_abi::lane::{
    GROUPS, Group, LANE_COUNTS, LANES, LaneCounts, MAX_GROUPS, PROGRAM_LANES, Place, group_key,
};

use super::GateError;
use super::maps::mapped;

/// The maps of the program.
pub(super) struct LaneMaps {
    sockets: ReusePortSockArray<MapData>,
    groups: HashMap<MapData, [u64; 3], u64>,
    counts: PerCpuArray<MapData, LaneCounts>,
}

impl LaneMaps {
    fn take(object: &mut Ebpf) -> Result<Self, GateError> {
        let mut take = |name: &'static str| object.take_map(name).ok_or(GateError::NoMap(name));
        let [sockets, groups, counts]: [Map; 3] = [take(LANES)?, take(GROUPS)?, take(LANE_COUNTS)?];
        Ok(Self {
            sockets: sockets.try_into()?,
            groups: groups.try_into()?,
            counts: counts.try_into()?,
        })
    }

    /// Datagrams that came to each [`Place`], on all CPUs.
    pub(super) fn counts(&self) -> Result<LaneCounts, MapError> {
        let mut sums = [0_u64; Place::COUNT];
        for of_cpu in self.counts.get(&0, 0)?.iter() {
            for (sum, more) in sums.iter_mut().zip(of_cpu) {
                *sum = sum.wrapping_add(*more);
            }
        }
        Ok(sums)
    }
}

/// Has the kernel verify the program: how many instructions that took, and its maps.
pub(super) fn load(object: &mut Ebpf) -> Result<(u32, LaneMaps), GateError> {
    let maps = LaneMaps::take(object)?;
    let program = object.program_mut(PROGRAM_LANES);
    let program: &mut SkReuseport = program
        .ok_or(GateError::NoProgram(PROGRAM_LANES))?
        .try_into()?;
    program.load()?;
    let instructions = program.info()?.verified_instruction_count().unwrap_or(0);
    Ok((instructions, maps))
}

/// Opens groups of sockets.
pub struct Lanes<'a> {
    program: &'a SkReuseport,
    maps: &'a mut LaneMaps,
    opened: usize,
}

impl<'a> Lanes<'a> {
    /// Forgets the groups of an earlier daemon, whose sockets are closed.
    pub(super) fn new(object: &'a Ebpf, maps: &'a mut LaneMaps) -> Result<Self, GateError> {
        let program = object.program(PROGRAM_LANES);
        let program = program
            .ok_or(GateError::NoProgram(PROGRAM_LANES))?
            .try_into()?;
        let old: Vec<_> = maps.groups.keys().collect::<Result<_, MapError>>()?;
        for key in old {
            maps.groups.remove(&key)?;
        }
        Ok(Self {
            program,
            maps,
            opened: 0,
        })
    }

    /// Makes the group of an address and port, before its first socket is bound there.
    pub fn open(
        &mut self,
        address: SocketAddr,
        marked: bool,
        workers: u8,
    ) -> Result<Group, GateError> {
        let index = u8::try_from(self.opened).ok();
        let Some(index) = index.filter(|index| usize::from(*index) < MAX_GROUPS) else {
            return Err(GateError::TooMany {
                what: "addresses and ports with lanes",
                limit: MAX_GROUPS,
            });
        };
        let group = Group {
            index,
            workers,
            marked,
        };
        let key = group_key(mapped(&address.ip()), address.port());
        self.maps.groups.insert(key, group.word(), 0)?;
        self.opened += 1;
        Ok(group)
    }

    /// Puts a group under the program, by its first socket before that is bound.
    pub fn steer(&self, socket: impl AsFd) -> Result<(), GateError> {
        self.program.attach(socket)?;
        Ok(())
    }

    /// Makes a bound socket the one of a slot.
    pub fn place(&mut self, slot: u32, socket: &impl AsRawFd) -> Result<(), GateError> {
        Ok(self.maps.sockets.set(slot, socket, 0)?)
    }
}

impl From<ProgramError> for GateError {
    fn from(source: ProgramError) -> Self {
        Self::Lanes(Box::new(source))
    }
}
