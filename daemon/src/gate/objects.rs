//! The two objects of the gate: the direct one, which some kernels refuse, and the portable one,
//! which also has the program for frames in several buffers. They share their maps by the pins.

use std::path::Path;

use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use gate_abi::maps::{ABI_SYMBOL, ABI_VERSION, PROGRAM, PROGRAM_FRAGS};

use super::maps::{self, Maps};
use super::{GateError, first_line};

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
}

/// A program that the kernel's verifier went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The object it is from.
    pub object: &'static str,
    /// Its name.
    pub program: &'static str,
    /// How many instructions the verifier followed; 0 if the kernel does not say.
    pub instructions: u32,
}

/// The objects while their programs are being attached.
pub(super) struct Objects {
    direct: Option<Ebpf>,
    portable: Option<Ebpf>,
    loaded: Loaded,
}

impl Objects {
    /// Loads what the kernel takes; it has to take one.
    pub(super) fn load(object_dir: &Path, folder: &Path) -> Result<Self, GateError> {
        let mut verified = Vec::new();
        let mut load = |file, programs: &[&'static str]| {
            load_object(&object_dir.join(file), folder, programs).map(|(object, counts)| {
                verified.extend(programs.iter().zip(counts).map(|(program, instructions)| {
                    Verified {
                        object: file,
                        program,
                        instructions,
                    }
                }));
                object
            })
        };
        let direct = load(DIRECT_OBJECT, &[PROGRAM]);
        let portable = load(PORTABLE_OBJECT, &[PROGRAM, PROGRAM_FRAGS]);
        let reason = direct
            .as_ref()
            .err()
            .map(|error| first_line(error))
            .unwrap_or_default();
        let loaded = Loaded { verified, reason };
        match (direct, portable) {
            (Err(_), Err(error)) => Err(error),
            (direct, portable) => Ok(Self {
                direct: direct.ok(),
                portable: portable.ok(),
                loaded,
            }),
        }
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

    pub(super) fn into_loaded(self) -> Loaded {
        self.loaded
    }
}

fn load_object(
    path: &Path,
    folder: &Path,
    programs: &[&'static str],
) -> Result<(Ebpf, Vec<u32>), GateError> {
    let mut loader = EbpfLoader::new();
    loader.override_global(ABI_SYMBOL, &ABI_VERSION, true);
    for name in maps::names() {
        loader.map_pin_path(name, folder.join(name));
    }
    let mut object = loader.load_file(path).map_err(|source| match source {
        source @ EbpfError::ParseError(_) => GateError::Abi {
            path: path.to_owned(),
            source: Box::new(source),
        },
        source => GateError::Object {
            path: path.to_owned(),
            source: Box::new(source),
        },
    })?;
    let mut counts = Vec::new();
    for name in programs {
        let program = object.program_mut(name).ok_or(GateError::NoProgram(name))?;
        let count = load_program(program).map_err(|source| GateError::Program {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        counts.push(count);
    }
    Ok((object, counts))
}

fn load_program(program: &mut aya::programs::Program) -> Result<u32, ProgramError> {
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    Ok(program.info()?.verified_instruction_count().unwrap_or(0))
}
