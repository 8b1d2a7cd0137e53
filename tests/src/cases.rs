//! The cases of each suite. A case's name is a sentence that is true when it passes.

pub mod asleep;
pub mod carriage;
pub mod challenge;
pub mod dataplane;
pub mod demand;
pub mod denied;
pub mod deploy;
pub mod esp;
pub mod flood;
pub mod gate;
pub mod interop;
pub mod lanes;
pub mod leases;
pub mod machine;
pub mod mangled;
pub mod names;
pub mod namespaces;
pub mod roaming;
pub mod sniffed;
pub mod storm;
pub mod suspend;
pub mod tunnel;
pub mod underway;
pub mod volume;
pub mod why;
pub mod workers;
