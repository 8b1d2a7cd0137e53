//! What an operator wants of the gate.

use std::time::Duration;

use gate_abi::networks::{Prefix, Rule};
use ikectl_api::{DENY_SECONDS, Done, Failure, MAX_DENY_SECONDS, Outcome};
use tokio::sync::mpsc;

use super::{answer::ask, bad_request, span};
use crate::{
    control::{convert, request::ControlRequest},
    gate::{FloodMode, network_from_text, network_to_text},
    keeper::GateCommand,
};

type Engine = mpsc::Sender<ControlRequest>;

/// Denies or allows a network.
pub(super) async fn list(
    engine: &Engine,
    rule: Rule,
    network: &str,
    seconds: Option<u64>,
) -> Result<Outcome, Failure> {
    let network = read(network)?;
    let lasting = span(seconds.unwrap_or(DENY_SECONDS), MAX_DENY_SECONDS)?;
    let command = GateCommand::List {
        rule,
        network,
        lasting,
    };
    about(engine, network, command, done(rule, lasting)).await
}

/// Ends that.
pub(super) async fn unlist(engine: &Engine, rule: Rule, network: &str) -> Result<Outcome, Failure> {
    let network = read(network)?;
    let command = GateCommand::Unlist { rule, network };
    about(engine, network, command, done(rule, Duration::ZERO)).await
}

fn done(rule: Rule, lasting: Duration) -> Done {
    let seconds = Some(lasting.as_secs());
    match rule {
        Rule::Deny => Done {
            denied_for_seconds: seconds,
            ..Done::default()
        },
        Rule::Allow => Done {
            allowed_for_seconds: seconds,
            ..Done::default()
        },
    }
}

/// Has the level of defence chosen in another way than configured.
pub(super) async fn level(
    engine: &Engine,
    level: &str,
    seconds: Option<u64>,
) -> Result<Outcome, Failure> {
    let lasting = span(seconds.unwrap_or(DENY_SECONDS), MAX_DENY_SECONDS)?;
    let command = match (FloodMode::from_word(level), level) {
        (Some(mode), _) => GateCommand::Level { mode, lasting },
        (None, "configured") => GateCommand::ConfiguredLevel,
        (None, other) => {
            let other = other.escape_debug();
            let words = FloodMode::ALL.map(FloodMode::word).join(", ");
            return Err(bad_request(format!(
                "{other} is no level: {words} or configured"
            )));
        }
    };
    stand(engine, command).await
}

/// What is about the gate as a whole.
pub(super) async fn stand(engine: &Engine, command: GateCommand) -> Result<Outcome, Failure> {
    match ask(engine, |reply| ControlRequest::GateCommand {
        command,
        reply,
    })
    .await?
    {
        Ok(()) => Ok(Outcome::Done(Done::default())),
        Err(why) => Err(convert::refused("the gate", &why)),
    }
}

async fn about(
    engine: &Engine,
    network: Prefix,
    command: GateCommand,
    done: Done,
) -> Result<Outcome, Failure> {
    let network = network_to_text(network);
    match ask(engine, |reply| ControlRequest::GateCommand {
        command,
        reply,
    })
    .await?
    {
        Ok(()) => Ok(Outcome::Done(Done {
            network: Some(network),
            ..done
        })),
        Err(why) => Err(convert::refused(&network, &why)),
    }
}

fn read(text: &str) -> Result<Prefix, Failure> {
    network_from_text(text).ok_or_else(|| {
        let text = text.escape_debug();
        bad_request(format!("{text} is not a network, such as 203.0.113.0/24"))
    })
}
