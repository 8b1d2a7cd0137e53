//! Pools and leases, as people read them.

use ikectl_api::{Lease, Pool};

use super::ago;
use crate::{ask::printable, table::Table};

pub(super) fn table(pools: &[Pool]) -> String {
    if pools.is_empty() {
        return "no pools; add [pools.NAME] with addrs\n".to_owned();
    }
    let mut table = Table::new(&["POOL", "ADDRESSES", "SIZE", "LEASED", "ONLINE"]);
    for pool in pools {
        table.row(vec![
            printable(&pool.name),
            printable(&pool.addrs.join(" ")),
            pool.size.to_string(),
            pool.leases.to_string(),
            pool.online.to_string(),
        ]);
    }
    table.text()
}

pub(super) fn leases(leases: &[Lease]) -> String {
    if leases.is_empty() {
        return "no leases\n".to_owned();
    }
    let mut table = Table::new(&["ADDRESS", "POOL", "CONNECTION", "PEER", "STATE", "FOR"]);
    for lease in leases {
        table.row(vec![
            printable(&lease.addr),
            printable(&lease.pool),
            printable(&lease.connection),
            printable(&lease.peer),
            if lease.online { "online" } else { "offline" }.to_owned(),
            ago(lease.age_seconds),
        ]);
    }
    table.text()
}
