//! The CPUs that work on IKE, where an operator names some.

use aya::Ebpf;
use aya::maps::{Array, CpuMap, HashMap};
use gate_abi::cpus::{CPUS, CPUS_FRAGS, MAX_NAMED, NAMED, Named, STEERED};

use super::GateError;

/// Packets that wait for a CPU, each as large as a page; what comes on top is dropped.
const QUEUE: u32 = 2048;

/// Has the programs of an object send IKE from these interfaces, by their indexes, to these CPUs.
pub(super) fn name(object: &mut Ebpf, interfaces: &[u32], cpus: &[u32]) -> Result<(), GateError> {
    let words = Named::words(cpus).ok_or(GateError::TooMany {
        what: "CPUs for IKE",
        limit: MAX_NAMED,
    })?;
    // The direct object has no program for frames in several buffers.
    for map in [CPUS, CPUS_FRAGS] {
        let Some(map) = object.map_mut(map) else {
            continue;
        };
        let mut queues = CpuMap::try_from(map)?;
        for cpu in cpus {
            queues
                .set(*cpu, QUEUE, None, 0)
                .map_err(|source| GateError::Cpu {
                    cpu: *cpu,
                    source: Box::new(source),
                })?;
        }
    }
    let steered = object.map_mut(STEERED).ok_or(GateError::NoMap(STEERED))?;
    let mut steered: HashMap<_, u32, u64> = steered.try_into()?;
    for index in interfaces {
        steered.insert(index, 1, 0)?;
    }
    // Last: until then everything stays where it came in.
    let named = object.map_mut(NAMED).ok_or(GateError::NoMap(NAMED))?;
    let mut named: Array<_, [u64; 1 + MAX_NAMED]> = named.try_into()?;
    Ok(named.set(0, words, 0)?)
}

/// A CPU map has no more places than there are CPUs.
pub(super) fn places() -> u32 {
    let cpus = aya::util::nr_cpus().ok();
    cpus.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1)
}
