//! Pools of inner addresses and their leases.

use serde::{Deserialize, Serialize};

/// One pool.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its ranges, first and last address: `10.3.0.1-10.3.0.254`.
    pub addrs: Vec<String>,
    /// Addresses in it; a pool with more than this can say says the most it can.
    pub size: u64,
    /// Addresses that are somebody's, in use or not.
    pub leases: u64,
    /// Of these, in use by an IKE SA.
    pub online: u64,
}

/// One lease. The peer gets this address again, unless all others are in use meanwhile.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lease {
    /// The address.
    pub addr: String,
    /// Its pool.
    pub pool: String,
    /// The connection it was leased in.
    pub connection: String,
    /// The identity it belongs to.
    pub peer: String,
    /// Whether an IKE SA has it now.
    pub online: bool,
    /// Since it was last taken or given back.
    pub age_seconds: u64,
}
