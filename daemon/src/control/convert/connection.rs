//! Connections, as they are told on the socket.

use std::time::Duration;

use ikectl_api as api;

use crate::control::request::{ConnectionReport, ConnectionStart, ConnectionState, Traffic};

pub(in crate::control) fn connection(report: ConnectionReport) -> api::Connection {
    let why = report.last_failure.map(|last| api::ConnectionFailure {
        time: super::rfc3339(last.last),
        exchange: last.failure.exchange_name().to_owned(),
        verdict: last.failure.verdict(),
        cure: last.failure.cure(),
    });
    let state = match report.state {
        ConnectionState::Listening => api::ConnectionState::Listening,
        ConnectionState::Down => api::ConnectionState::Down,
        ConnectionState::Trap => api::ConnectionState::Trap,
        ConnectionState::Suspended => api::ConnectionState::Suspended,
        ConnectionState::Waiting => api::ConnectionState::Waiting,
        ConnectionState::Connecting => api::ConnectionState::Connecting,
        ConnectionState::Up => api::ConnectionState::Up,
    };
    let start = match report.start {
        ConnectionStart::None => "none",
        ConnectionStart::Up => "up",
        ConnectionStart::Trap => "trap",
    };
    api::Connection {
        name: report.name.to_string(),
        state,
        remote: report.peer,
        start: start.to_owned(),
        ike_sas: report.established,
        next_attempt_seconds: report.next_in.as_ref().map(Duration::as_secs),
        // Of one that is up it says nothing any more.
        last_failure: why.filter(|_| state != api::ConnectionState::Up),
    }
}

/// What Child SAs of a connection have carried.
pub(in crate::control) fn traffic(
    (connection, traffic): (String, Traffic),
) -> api::ConnectionTraffic {
    let Traffic {
        in_bytes,
        in_packets,
        out_bytes,
        out_packets,
    } = traffic;
    api::ConnectionTraffic {
        connection,
        in_bytes,
        in_packets,
        out_bytes,
        out_packets,
    }
}
