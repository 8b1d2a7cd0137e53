//! What an engine gives up before it reads its first packet: every capability, the way to any new one,
//! files other than its own to write, programs to start, and the system calls it has no use for.

mod calls;

use std::{fmt, path::Path};

use caps::CapSet;
use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules,
};
use nix::{
    errno::Errno,
    sys::{prctl, signal::Signal},
    unistd::geteuid,
};

/// Of Landlock's rights, those that kernels know up to this version of it are asked for; older kernels
/// enforce what they have.
const RIGHTS: ABI = ABI::V5;

/// Why the engine could not give up its privileges.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A capability set would not be emptied.
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel refused a process attribute.
    #[error("process attributes: {0}")]
    Process(#[from] Errno),
    /// The kernel has Landlock, but refused the rules.
    #[error("Landlock: {0}")]
    Files(#[from] landlock::RulesetError),
    /// The filter of system calls could not be made, or the kernel refused it.
    #[error("filter of system calls: {0}")]
    Calls(String),
}

/// What holds from now on, besides the capabilities, which are gone on every kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sandbox {
    /// Which of the bounds on files, if the kernel has any (Landlock).
    pub files: Files,
    /// Whether the kernel filters system calls (seccomp).
    pub calls: bool,
}

/// How far files are bounded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Files {
    /// Every right that we know of.
    All,
    /// Those that this kernel knows.
    Some,
    /// The kernel does not bound them.
    None,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Some => "some",
            Self::None => "none",
        })
    }
}

/// Ties the process to its parent's life, drops all capabilities of a root process, and bounds what is left
/// to it: it writes beneath `folders` alone. Must come before the first thread.
///
/// The files of root stay readable (configuration and secrets are read again at a reload): that is
/// ownership, not a capability.
pub(super) fn enter(folders: &[&Path]) -> Result<Sandbox, SandboxError> {
    if geteuid().is_root() {
        // The bounding set first: emptying it takes a capability.
        for set in [CapSet::Bounding, CapSet::Ambient, CapSet::Inheritable] {
            caps::clear(None, set)?;
        }
        caps::clear(None, CapSet::Effective)?;
        caps::clear(None, CapSet::Permitted)?;
    }
    prctl::set_no_new_privs()?;
    // No core file and no ptrace: keys live here.
    prctl::set_dumpable(false)?;
    // After the capabilities: a change of credentials can reset it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(Sandbox {
        files: bound_files(folders)?,
        // Last: it leaves no call for any of the above.
        calls: bound_calls()?,
    })
}

/// Files that can be opened for writing, made or removed, and programs that can be started. A file that is
/// open already, such as the log, stays as it is.
fn bound_files(folders: &[&Path]) -> Result<Files, SandboxError> {
    let writes = AccessFs::from_write(RIGHTS);
    let restricted = Ruleset::default()
        .handle_access(writes | AccessFs::Execute)?
        .create()?
        .add_rules(path_beneath_rules(folders, writes))?
        .restrict_self()?;
    Ok(match restricted.ruleset {
        RulesetStatus::FullyEnforced => Files::All,
        RulesetStatus::PartiallyEnforced => Files::Some,
        RulesetStatus::NotEnforced => Files::None,
    })
}

/// Whether the kernel filters from now on.
fn bound_calls() -> Result<bool, SandboxError> {
    let filter = calls::filter().map_err(|error| SandboxError::Calls(error.to_string()))?;
    match seccompiler::apply_filter(&filter) {
        Ok(()) => Ok(true),
        // A kernel that was built without.
        Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error))
            if matches!(error.raw_os_error(), Some(NO_SUCH_OPTION | NO_SUCH_CALL)) =>
        {
            Ok(false)
        }
        Err(error) => Err(SandboxError::Calls(error.to_string())),
    }
}

const NO_SUCH_OPTION: i32 = Errno::EINVAL as i32;
const NO_SUCH_CALL: i32 = Errno::ENOSYS as i32;
