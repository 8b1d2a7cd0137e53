//! What an operator wants of the log.

use ikectl_api::{Failure, Log, MAX_WATCH_SECONDS, Outcome, WATCH_SECONDS, WatchedPeer};
use tokio::sync::mpsc;

use super::{answer::ask, bad_request, span};
use crate::{
    config::LogLevel,
    control::request::{ControlRequest, LogCommand, LogReport},
};

type Engine = mpsc::Sender<ControlRequest>;

/// Octets of a peer's name, which is more than an identity may have.
const MAX_PEER: usize = 1024;

/// Has another level count.
pub(super) async fn level(
    engine: &Engine,
    level: &str,
    seconds: Option<u64>,
) -> Result<Outcome, Failure> {
    let span = |seconds| span(seconds, MAX_WATCH_SECONDS);
    let lasting = seconds.map(span).transpose()?;
    let known = LogLevel::ALL
        .into_iter()
        .find(|known| known.word() == level);
    let command = match (known, level) {
        (Some(level), _) => LogCommand::Level { level, lasting },
        (None, "configured") => LogCommand::Configured,
        (None, other) => {
            let words = LogLevel::ALL.map(LogLevel::word).join(", ");
            return Err(bad_request(format!(
                "{} is no level: {words} or configured",
                other.escape_debug()
            )));
        }
    };
    tell(engine, command).await
}

/// Has the messages of a peer logged.
pub(super) async fn watch(
    engine: &Engine,
    peer: String,
    seconds: Option<u64>,
) -> Result<Outcome, Failure> {
    if peer.is_empty() || peer.len() > MAX_PEER {
        return Err(bad_request(format!(
            "peer is an address, an identity or a connection, of 1 to {MAX_PEER} octets"
        )));
    }
    let lasting = span(seconds.unwrap_or(WATCH_SECONDS), MAX_WATCH_SECONDS)?;
    tell(engine, LogCommand::Watch { peer, lasting }).await
}

/// Whatever else is asked of the log.
pub(super) async fn tell(engine: &Engine, command: LogCommand) -> Result<Outcome, Failure> {
    let done = ask(engine, |reply| ControlRequest::Log { command, reply }).await?;
    done.map(|report| Outcome::Log(shown(report)))
        .map_err(bad_request)
}

fn shown(report: LogReport) -> Log {
    let LogReport { state, watched } = report;
    let watched = watched.into_iter().map(|(peer, left)| WatchedPeer {
        peer,
        left_seconds: left.as_secs(),
    });
    Log {
        level: state.level.word().to_owned(),
        configured: state.configured.word().to_owned(),
        left_seconds: state.left.map(|left| left.as_secs()),
        watched: watched.collect(),
    }
}
