//! Connections as people read them.

use std::fmt::Write as _;

use ikectl_api::{Connection, ConnectionState, ConnectionTraffic};

use super::{UNKNOWN, ago, known};
use crate::{ask::printable, table::Table};

pub(super) fn screen(connections: &[Connection]) -> String {
    if connections.is_empty() {
        return "no connection is configured\n".to_owned();
    }
    let mut table = Table::new(&["CONN", "REMOTE", "START", "STATE", "IKE SAS", "NEXT TRY"]);
    for one in connections {
        let next = one.next_attempt_seconds;
        table.row(vec![
            printable(&one.name),
            one.remote
                .as_ref()
                .map_or("any".to_owned(), |_| known(one.remote.as_deref())),
            printable(&one.start),
            one.state.word().to_owned(),
            one.ike_sas.to_string(),
            next.map_or(UNKNOWN.to_owned(), |left| format!("in {}", ago(left))),
        ]);
    }
    let mut text = table.text();
    let failed = |one: &&Connection| one.state != ConnectionState::Up;
    for one in connections.iter().filter(failed) {
        if let Some(why) = &one.last_failure {
            let _infallible = writeln!(
                text,
                "{}: {} {}: {}\n  -> {}",
                printable(&one.name),
                printable(&why.time),
                printable(&why.exchange),
                printable(&why.verdict),
                printable(&why.cure)
            );
        }
    }
    text
}

pub(super) fn traffic(all: &[ConnectionTraffic]) -> String {
    if all.is_empty() {
        return "nothing has been carried\n".to_owned();
    }
    let mut table = Table::new(&["CONN", "IN", "PACKETS", "OUT", "PACKETS"]);
    for one in all {
        table.row(vec![
            printable(&one.connection),
            one.in_bytes.to_string(),
            one.in_packets.to_string(),
            one.out_bytes.to_string(),
            one.out_packets.to_string(),
        ]);
    }
    table.text()
}
