//! The engine as a child process: started with one end of the pair as its standard input, started
//! again when it dies, and never faster than it makes sense.

use std::{
    ffi::OsString,
    io,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::channel::{Channel, ChannelError};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An engine that lived for so long was not killed by what it found at its start.
const SETTLED: Duration = Duration::from_mins(1);

/// A running engine. It inherits the keeper's blocked signals, so that a terminal's interrupt reaches
/// the keeper alone, which then asks the engine to end.
#[derive(Debug)]
pub(super) struct Engine {
    child: Child,
    pub(super) channel: Channel,
    started: Duration,
}

impl Engine {
    pub(super) fn start(argv: &[OsString], now: Duration) -> Result<Self, ChannelError> {
        let (program, arguments) = argv
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let (channel, theirs) = Channel::pair()?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(theirs))
            .spawn()?;
        Ok(Self {
            child,
            channel,
            started: now,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its end, if it has come.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it if it is not dead yet, and says how long it lived.
    pub(super) fn finish(mut self, now: Duration) -> (Duration, Option<ExitStatus>) {
        // Fails only if it is dead already.
        let _ = self.child.kill();
        (now.saturating_sub(self.started), self.child.wait().ok())
    }
}

/// Pauses between two starts.
#[derive(Debug)]
pub(super) struct BackOff {
    pause: Duration,
}

impl BackOff {
    pub(super) const fn new() -> Self {
        Self { pause: FIRST_PAUSE }
    }

    /// How long to wait after an engine that lived this long.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= SETTLED {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_shrink_after_a_long_life() {
        let mut back_off = BackOff::new();
        let pauses: Vec<_> = (0..10).map(|_| back_off.after(Duration::ZERO)).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[1], 2 * FIRST_PAUSE);
        assert_eq!(pauses[9], LONGEST_PAUSE);
        assert_eq!(back_off.after(SETTLED), FIRST_PAUSE);
    }
}
