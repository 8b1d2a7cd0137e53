//! The two objects of the gate: the direct one, which some kernels refuse, and the portable one,
//! which also has the programs for frames in several buffers, for layer 3 and for sockets. They share their maps by
//! the pins.

use std::path::Path;

use aya::maps::MapError;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use gate_abi::cpus::{CPUS, CPUS_FRAGS};
use gate_abi::lane::{LaneCounts, PROGRAM_LANES};
use gate_abi::maps::{ABI_SYMBOL, ABI_VERSION, PROGRAM, PROGRAM_FRAGS, PROGRAM_L3};

use super::cpus;
use super::lanes::{self, LaneMaps, Lanes};
use super::maps::{self, Maps};
use super::{GateError, Mode, first_line};

/// The object that reads packets directly.
pub const DIRECT_OBJECT: &str = "gate-direct.o";
/// The object that every kernel since 5.18 takes.
pub const PORTABLE_OBJECT: &str = "gate-portable.o";

/// What the kernel took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Every program that it verified.
    pub verified: Vec<Verified>,
    /// Why the direct object is not among them; empty if it is.
    pub reason: String,
    /// How many instructions the verifier followed in the program for sockets, if it took that.
    pub lanes: Option<u32>,
}

/// A program that the kernel's verifier went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The object it is from.
    pub object: &'static str,
    /// Its name.
    pub program: &'static str,
    /// What it came to.
    pub size: Size,
}

/// How large a program is to the kernel; 0 where that does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// How many instructions the verifier followed.
    pub followed: u32,
    /// Octets of BPF code.
    pub bpf: u32,
    /// Octets of machine code.
    pub machine: u32,
}

/// The objects, and what the kernel made of their programs.
pub(super) struct Objects {
    direct: Option<Ebpf>,
    portable: Option<Ebpf>,
    /// `None` once it is clear that there will be no lanes; the error has been told then.
    lanes: Result<LaneMaps, Option<GateError>>,
    loaded: Loaded,
}

impl Objects {
    /// Loads what the kernel takes of what the mode has use for; it has to take one object.
    pub(super) fn load(object_dir: &Path, folder: &Path, mode: Mode) -> Result<Self, GateError> {
        let mut verified = Vec::new();
        let mut load = |file, programs: &[&'static str]| {
            load_object(&object_dir.join(file), folder, programs).map(|(object, sizes)| {
                verified.extend(programs.iter().zip(sizes).map(|(program, size)| Verified {
                    object: file,
                    program,
                    size,
                }));
                object
            })
        };
        let (direct, portable) = if mode == Mode::Off {
            (None, load(PORTABLE_OBJECT, &[]))
        } else {
            let direct = load(DIRECT_OBJECT, &[PROGRAM]);
            (
                Some(direct),
                load(PORTABLE_OBJECT, &[PROGRAM, PROGRAM_FRAGS, PROGRAM_L3]),
            )
        };
        let reason = match &direct {
            Some(Err(error)) => first_line(error),
            Some(Ok(_)) | None => String::new(),
        };
        let direct = direct.and_then(Result::ok);
        let (mut portable, refused) = match portable {
            Err(error) if direct.is_none() => return Err(error),
            Err(error) => (None, Some(error)),
            Ok(object) => (Some(object), None),
        };
        let lanes = portable
            .as_mut()
            .map_or(Err(refused), |object| lanes::load(object).map_err(Some));
        let instructions = lanes.as_ref().ok().map(|(instructions, _)| *instructions);
        Ok(Self {
            direct,
            portable,
            lanes: lanes.map(|(_, maps)| maps),
            loaded: Loaded {
                verified,
                reason,
                lanes: instructions,
            },
        })
    }

    /// For sockets in lanes.
    pub(super) fn lanes(&mut self) -> Result<Lanes<'_>, GateError> {
        match (&mut self.lanes, &self.portable) {
            (Ok(maps), Some(object)) => Lanes::new(object, maps),
            (Err(error), _) => Err(error.take().unwrap_or(GateError::NoProgram(PROGRAM_LANES))),
            (Ok(_), None) => Err(GateError::NoProgram(PROGRAM_LANES)),
        }
    }

    /// Datagrams that came to each lane and to the sink; `None` if there are no lanes.
    pub(super) fn lane_counts(&self) -> Option<Result<LaneCounts, MapError>> {
        self.lanes.as_ref().ok().map(LaneMaps::counts)
    }

    /// Has IKE from these interfaces worked on by these CPUs.
    pub(super) fn name_cpus(&mut self, interfaces: &[u32], cpus: &[u32]) -> Result<(), GateError> {
        let objects = [&mut self.direct, &mut self.portable].into_iter().flatten();
        objects
            .into_iter()
            .try_for_each(|object| cpus::name(object, interfaces, cpus))
    }

    /// A program, from the faster object that has it.
    pub(super) fn program(&mut self, name: &str) -> Option<&mut Xdp> {
        let of = |object: &Option<Ebpf>| object.as_ref().is_some_and(|o| o.program(name).is_some());
        let object = if of(&self.direct) {
            &mut self.direct
        } else {
            &mut self.portable
        };
        object.as_mut()?.program_mut(name)?.try_into().ok()
    }

    pub(super) fn take_maps(&mut self) -> Result<Maps, GateError> {
        let object = self.direct.as_mut().or(self.portable.as_mut());
        Maps::take(object.ok_or(GateError::NoProgram(PROGRAM))?)
    }

    pub(super) fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}

fn load_object(
    path: &Path,
    folder: &Path,
    programs: &[&'static str],
) -> Result<(Ebpf, Vec<Size>), GateError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(ABI_SYMBOL, &ABI_VERSION, true);
    for map in [CPUS, CPUS_FRAGS] {
        loader.map_max_entries(map, cpus::places());
    }
    for name in maps::names() {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut object = loader.load_file(path).map_err(|source| match source {
        // Its own words are the path alone.
        EbpfError::FileError { error, .. } => GateError::Unread {
            path: path.to_owned(),
            source: error,
        },
        source @ EbpfError::ParseError(_) => GateError::Abi {
            path: path.to_owned(),
            source: Box::new(source),
        },
        source => GateError::Object {
            path: path.to_owned(),
            source: Box::new(source),
        },
    })?;
    let mut sizes = Vec::new();
    for name in programs {
        let program = object.program_mut(name).ok_or(GateError::NoProgram(name))?;
        let size = load_program(program).map_err(|source| GateError::Program {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        sizes.push(size);
    }
    Ok((object, sizes))
}

fn load_program(program: &mut aya::programs::Program) -> Result<Size, ProgramError> {
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    let info = program.info()?;
    Ok(Size {
        followed: info.verified_instruction_count().unwrap_or(0),
        bpf: info.size_translated().unwrap_or(0),
        machine: info.size_jitted(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_object_is_said_to_be_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(PORTABLE_OBJECT);
        let refused = load_object(&path, folder.path(), &[]).err();
        let text = refused.expect("there is none").to_string();
        assert!(text.contains("No such file"), "{text}");
    }
}
