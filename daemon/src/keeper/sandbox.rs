//! What an engine gives up before it reads its first packet: every capability, and the way to any
//! new one.

use caps::CapSet;
use nix::{
    sys::{prctl, signal::Signal},
    unistd::geteuid,
};

/// Why the engine could not give up its privileges.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A capability set would not be emptied.
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The kernel refused a process attribute.
    #[error("process attributes: {0}")]
    Process(#[from] nix::errno::Errno),
}

/// Ties the process to its parent's life and drops all capabilities of a root process. The files of
/// root stay within reach (configuration, control socket): that is ownership, not a capability.
pub(super) fn enter() -> Result<(), SandboxError> {
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
    Ok(())
}
