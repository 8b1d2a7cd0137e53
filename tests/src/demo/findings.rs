//! What the parts of the demo find, and the files in which they leave it for the verdict.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What the story has shown so far. What it did not reach is absent or false.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Story {
    /// `host`, `uml` or `qemu`.
    pub(super) kernel: String,
    /// `native`, `generic` or `none`.
    pub(super) gate: Option<String>,
    /// The full login; nobody disturbed it.
    pub(super) full: Option<Login>,
    /// A resumed login that nobody disturbed. Its request is what the attacker forges from.
    pub(super) quiet: Option<Login>,
    /// The resumed login after the restart, in the middle of the flood.
    pub(super) resume: Option<Login>,
    pub(super) ping_before: bool,
    pub(super) ping_after: bool,
    pub(super) clear_text_packets: Option<u64>,
    pub(super) flood: Option<Flood>,
    pub(super) without_gate: Option<Flood>,
    /// Whether every step was as it had to be.
    pub(super) held: bool,
}

/// One login as the client and the wire saw it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Login {
    /// From the first message to the installed Child SA.
    pub(super) milliseconds: f64,
    /// IKE messages, both ways.
    pub(super) messages: u64,
    /// Octets of UDP payload, both ways.
    pub(super) octets: u64,
}

/// Where the packets of a flood ended.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Flood {
    pub(super) sent: u64,
    /// By the gate's counters.
    pub(super) dropped_by_gate: u64,
    /// Given to the daemon's socket by the kernel, whether there was room in it or not.
    pub(super) delivered: u64,
    /// Judged by the daemon, by its own count of refused tickets.
    pub(super) refused: u64,
    /// Lost because the daemon's socket was full.
    pub(super) overflowed: u64,
}

impl Flood {
    /// What the daemon had to deal with, or would have if it had been faster.
    pub(super) const fn reached_daemon(&self) -> u64 {
        self.refused + self.overflowed
    }
}

/// What one login costs the gateway's processes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Cost {
    /// The kernel it was measured on.
    pub(super) kernel: String,
    /// Of each kind.
    pub(super) logins: usize,
    /// `median`, or `mean` where the kernel's clock is too coarse for one.
    pub(super) average: String,
    /// Microseconds of a full login.
    pub(super) full: f64,
    /// Microseconds of a resumed login.
    pub(super) resume: f64,
    /// The same, each one of so many at the same time: what wakes the daemon, wakes it for many.
    pub(super) at_once: u16,
    pub(super) full_at_once: f64,
    pub(super) resume_at_once: f64,
}

pub(super) fn write<T: Serialize>(file: &Path, found: &T) -> Result<()> {
    let text = serde_json::to_string(found)?;
    fs::write(file, text).with_context(|| file.display().to_string())
}

pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}
