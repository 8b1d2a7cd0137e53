//! Waiting for what another process will do, with an end to patience.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

/// Asks again until it is so.
pub fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(Instant::now() < deadline, "not so after {limit:?}: {what}");
        thread::sleep(POLL);
    }
    Ok(())
}

const POLL: Duration = Duration::from_millis(50);
