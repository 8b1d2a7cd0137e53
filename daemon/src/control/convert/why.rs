//! Failures of peers to those on the socket.

use ike::wire::header::Exchange;
use ikectl_api as api;

use super::rfc3339;
use crate::control::FailureReport;

pub(in crate::control) fn failure_of_peer(report: &FailureReport) -> api::PeerFailure {
    let failure = &report.failure;
    let exchange: Exchange = failure.exchange;
    api::PeerFailure {
        time: rfc3339(report.last),
        first_time: rfc3339(report.first),
        times: report.times,
        addr: failure.from.ip().to_string(),
        port: failure.from.port(),
        standing: failure.standing.word().to_owned(),
        identity: failure.peer_shown(),
        connection: failure.connection.as_deref().map(str::to_owned),
        role: if failure.ours {
            "initiator"
        } else {
            "responder"
        }
        .to_owned(),
        exchange: failure.exchange_name().to_owned(),
        step: failure.cause.step(exchange).to_owned(),
        reason: failure.cause.word().to_owned(),
        verdict: failure.verdict(),
        notify: failure.notify(),
        cure: failure.cure(),
    }
}
