//! How much is logged, as people read it.

use ikectl_api::Log;

use super::ago;
use crate::{ask::printable, table::Table};

pub(super) fn screen(log: &Log) -> String {
    let configured = printable(&log.configured);
    let why = match log.left_seconds {
        Some(left) => format!(" for {} more, then {configured}", ago(left)),
        None if log.level == log.configured => String::new(),
        None => format!(" until the daemon ends; configured is {configured}"),
    };
    let mut text = format!("Level     {}{why}\n", printable(&log.level));
    if !log.watched.is_empty() {
        let mut table = Table::new(&["WATCHED", "FOR"]);
        for one in &log.watched {
            table.row(vec![printable(&one.peer), ago(one.left_seconds)]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}
