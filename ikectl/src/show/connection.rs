//! Connections as people read them.

use std::fmt::Write as _;

use ikectl_api::{Connection, ConnectionState};

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
