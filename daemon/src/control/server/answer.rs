//! What a request asks of the engine, and what of its answer goes back.

use std::{sync::Arc, time::Duration};

use gate_abi::networks::Rule;
use ike::wire::redirect::GatewayId;
use ikectl_api::{
    DEADLINE_SECONDS, DOWN_SECONDS, Done, ErrorCode, Failure, MAX_UP_SECONDS, Outcome, Request,
    UP_SECONDS,
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::timeout,
};

use super::{bad_request, busy, gate, log, unix_now};
use crate::{
    control::{
        convert,
        request::{ChildCommand, CommandError, ControlRequest, LogCommand},
    },
    engine::ReloadDone,
    keeper::GateCommand,
};

pub(super) async fn answer(request: Request, engine: &mpsc::Sender<ControlRequest>) -> Outcome {
    let deadline = match &request {
        Request::Up {
            timeout_seconds, ..
        } => timeout_seconds.unwrap_or(UP_SECONDS).min(MAX_UP_SECONDS),
        Request::Down { .. } => DOWN_SECONDS,
        _ => DEADLINE_SECONDS,
    };
    let asked = async {
        match request {
            Request::Status => {
                let report = ask(engine, |reply| ControlRequest::Status { reply }).await?;
                Ok(Outcome::Status(convert::status(report)))
            }
            Request::SaList => sas(engine, None).await,
            Request::SaShow { id } => sas(engine, Some(id)).await,
            Request::SaOrigin { id } => {
                let origin = ask(engine, |reply| ControlRequest::Origin { id, reply }).await?;
                let origin = origin.ok_or_else(|| no_sa("established IKE SA", id))?;
                Ok(Outcome::SaOrigin(convert::sa_origin(origin)))
            }
            Request::TicketList => {
                let report = ask(engine, |reply| ControlRequest::Tickets { reply }).await?;
                Ok(Outcome::Tickets(convert::tickets(report)))
            }
            Request::Reload => reload(engine).await,
            Request::TicketRotate => new_epoch(engine, false).await,
            Request::TicketRevoke { peer, all } => match (peer, all) {
                (None, true) => new_epoch(engine, true).await,
                (Some(peer), false) => revoke(engine, peer).await,
                _ => Err(bad_request("either peer or all is to be given".to_owned())),
            },
            Request::PoolList => {
                let pools = ask(engine, |reply| ControlRequest::Pools { reply }).await?;
                Ok(Outcome::Pools(pools.iter().map(convert::pool).collect()))
            }
            Request::PoolLeases => {
                let leases = ask(engine, |reply| ControlRequest::Leases { reply }).await?;
                let now = unix_now();
                let leases = leases.iter().map(|lease| convert::lease(lease, now));
                Ok(Outcome::Leases(leases.collect()))
            }
            Request::Why { peer } => {
                let peer: Option<Arc<str>> = peer.map(Into::into);
                let failures = ask(engine, |reply| ControlRequest::Why { peer, reply }).await?;
                let failures = failures.iter().map(convert::failure_of_peer);
                Ok(Outcome::PeerFailures(failures.collect()))
            }
            Request::ConnectionList => {
                let all = ask(engine, |reply| ControlRequest::Connections { reply }).await?;
                let all = all.into_iter().map(convert::connection);
                Ok(Outcome::Connections(all.collect()))
            }
            Request::Flood => {
                let report = ask(engine, |reply| ControlRequest::Flood { reply }).await?;
                Ok(Outcome::Flood(convert::flood(report)))
            }
            Request::Traffic => {
                let all = ask(engine, |reply| ControlRequest::Traffic { reply }).await?;
                let all = all.into_iter().map(convert::traffic);
                Ok(Outcome::Traffic(all.collect()))
            }
            Request::Log => log::tell(engine, LogCommand::Show).await,
            Request::LogLevel { level, for_seconds } => {
                log::level(engine, &level, for_seconds).await
            }
            Request::LogWatch { peer, for_seconds } => log::watch(engine, peer, for_seconds).await,
            Request::LogUnwatch { peer } => log::tell(engine, LogCommand::Unwatch { peer }).await,
            Request::Gate => {
                let report = ask(engine, |reply| ControlRequest::Gate { reply }).await?;
                Ok(Outcome::Gate(convert::gate(report)))
            }
            Request::GateDeny {
                network,
                for_seconds,
            } => gate::list(engine, Rule::Deny, &network, for_seconds).await,
            Request::GateUndeny { network } => gate::unlist(engine, Rule::Deny, &network).await,
            Request::FloodAllow {
                network,
                for_seconds,
            } => gate::list(engine, Rule::Allow, &network, for_seconds).await,
            Request::FloodUnallow { network } => gate::unlist(engine, Rule::Allow, &network).await,
            Request::FloodLevel { level, for_seconds } => {
                gate::level(engine, &level, for_seconds).await
            }
            Request::GateAttach => gate::stand(engine, GateCommand::Attach).await,
            Request::GateDetach => gate::stand(engine, GateCommand::Detach).await,
            Request::Up {
                connection,
                child: Some(child),
                ..
            } => about_child(engine, &connection, Some(child), ChildCommand::Up).await,
            Request::Up { connection, .. } => up(engine, &connection).await,
            Request::Down {
                connection,
                child: Some(child),
            } => about_child(engine, &connection, Some(child), ChildCommand::Down).await,
            Request::Down { connection, .. } => {
                let name = Arc::from(connection.as_str());
                let done = ask(engine, |reply| ControlRequest::Down {
                    connection: name,
                    reply,
                });
                finished(&connection, done.await?)
            }
            Request::Rekey {
                connection,
                child: false,
                ..
            } => rekey(engine, &connection).await,
            Request::Rekey {
                connection,
                child: true,
                name,
            } => about_child(engine, &connection, name, ChildCommand::Rekey).await,
            Request::Redirect {
                connection,
                all,
                gateway,
            } => redirect(engine, connection, all, &gateway).await,
            Request::Suspend { connection } => {
                let name = Arc::from(connection.as_str());
                let done = ask(engine, |reply| ControlRequest::Suspend {
                    connection: name,
                    reply,
                });
                finished(&connection, done.await?)
            }
            Request::Shutdown { delete } => {
                let done = ask(engine, |reply| ControlRequest::Shutdown { delete, reply }).await?;
                match done {
                    Ok(()) => Ok(Outcome::Done(Done::default())),
                    Err(error) => Err(convert::failure("-", &error)),
                }
            }
        }
    };
    match timeout(Duration::from_secs(deadline), asked).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(failure)) => Outcome::Error(failure),
        Err(_) => Outcome::Error(Failure {
            code: ErrorCode::Timeout,
            message: format!("engine has not answered within {deadline} s"),
            cure: Some("the command may still succeed; ikectl sa shows".to_owned()),
        }),
    }
}

async fn sas(engine: &mpsc::Sender<ControlRequest>, id: Option<u64>) -> Result<Outcome, Failure> {
    let reports = ask(engine, |reply| ControlRequest::Sas { id, reply }).await?;
    if let (Some(id), true) = (id, reports.is_empty()) {
        return Err(no_sa("IKE SA", id));
    }
    let now = unix_now();
    Ok(Outcome::IkeSas(
        reports
            .iter()
            .map(|report| convert::ike_sa(report, now))
            .collect(),
    ))
}

fn no_sa(what: &str, id: u64) -> Failure {
    Failure {
        code: ErrorCode::NotFound,
        message: format!("no {what} has the number {id}"),
        cure: Some("ikectl sa lists them".to_owned()),
    }
}

async fn rekey(
    engine: &mpsc::Sender<ControlRequest>,
    connection: &str,
) -> Result<Outcome, Failure> {
    let name = Arc::from(connection);
    let asked = ask(engine, |reply| ControlRequest::Rekey {
        connection: name,
        reply,
    });
    match asked.await? {
        Ok(done) => Ok(Outcome::Done(Done {
            connection: Some(connection.to_owned()),
            id: Some(done.sa),
            old_id: Some(done.old),
            ..Done::default()
        })),
        Err(error) => Err(convert::failure(connection, &error)),
    }
}

async fn redirect(
    engine: &mpsc::Sender<ControlRequest>,
    connection: Option<String>,
    all: bool,
    gateway: &str,
) -> Result<Outcome, Failure> {
    if connection.is_some() == all {
        return Err(bad_request(
            "either connection or all is to be given".to_owned(),
        ));
    }
    let Some(gateway) = GatewayId::from_text(gateway) else {
        let gateway = gateway.escape_debug();
        return Err(bad_request(format!(
            "{gateway} is no gateway's address or name"
        )));
    };
    let name = connection.as_deref().map(Arc::from);
    let asked = ask(engine, |reply| ControlRequest::Redirect {
        connection: name,
        gateway,
        reply,
    });
    let connection = connection.as_deref().unwrap_or("-");
    let told = asked
        .await?
        .map_err(|error| convert::failure(connection, &error))?;
    Ok(Outcome::Done(Done {
        told: Some(told.told as u64),
        unable: Some(told.unable as u64),
        ..Done::default()
    }))
}

async fn new_epoch(engine: &mpsc::Sender<ControlRequest>, alone: bool) -> Result<Outcome, Failure> {
    let asked = ask(engine, |reply| ControlRequest::NewEpoch { alone, reply });
    match asked.await? {
        Ok(key_id) => Ok(Outcome::Done(Done {
            key_id: Some(key_id),
            ..Done::default()
        })),
        Err(why) => Err(Failure {
            code: ErrorCode::Failed,
            message: format!("ticket keys: {}", why.escape_debug()),
            cure: None,
        }),
    }
}

async fn reload(engine: &mpsc::Sender<ControlRequest>) -> Result<Outcome, Failure> {
    match ask(engine, |reply| ControlRequest::Reload { reply }).await? {
        Ok(ReloadDone { connections, lists }) => {
            let names = |names: Vec<Arc<str>>| -> Vec<String> {
                names
                    .iter()
                    .map(|name| name.escape_debug().to_string())
                    .collect()
            };
            Ok(Outcome::Done(Done {
                lists: Some(lists.lists as u64),
                certificates_revoked: Some(lists.revoked as u64),
                added: names(connections.added),
                changed: names(connections.changed),
                removed: names(connections.removed),
                ..Done::default()
            }))
        }
        Err(what) => Err(Failure {
            code: ErrorCode::Failed,
            message: what
                .lines()
                .map(|line| line.replace(char::is_control, " "))
                .collect::<Vec<_>>()
                .join("; "),
            cure: Some("nothing has changed; put that right, or restart the daemon".to_owned()),
        }),
    }
}

async fn revoke(engine: &mpsc::Sender<ControlRequest>, peer: String) -> Result<Outcome, Failure> {
    let name = peer.clone();
    match ask(engine, |reply| ControlRequest::Revoke { peer: name, reply }).await? {
        Ok(done) => Ok(Outcome::Done(Done {
            revoked: Some(done.tickets),
            refused_for_seconds: Some(done.refused_for.as_secs()),
            ..Done::default()
        })),
        Err(why) => Err(Failure {
            code: ErrorCode::Failed,
            message: format!("tickets of {}: {}", peer.escape_debug(), why.escape_debug()),
            cure: Some("revoke --all retires all keys".to_owned()),
        }),
    }
}

async fn up(engine: &mpsc::Sender<ControlRequest>, connection: &str) -> Result<Outcome, Failure> {
    let name = Arc::from(connection);
    match ask(engine, |reply| ControlRequest::Up {
        connection: name,
        reply,
    })
    .await?
    {
        Ok(done) => Ok(Outcome::Done(Done {
            connection: Some(connection.to_owned()),
            id: Some(done.sa),
            resumed: Some(done.resumed),
            setup_seconds: done.took.map(|took| took.as_secs_f64()),
            ..Done::default()
        })),
        Err(error) => Err(convert::failure(connection, &error)),
    }
}

/// A command about one Child SA, or about each.
async fn about_child(
    engine: &mpsc::Sender<ControlRequest>,
    connection: &str,
    child: Option<String>,
    what: ChildCommand,
) -> Result<Outcome, Failure> {
    let shown = match &child {
        Some(child) => format!("{connection}/{child}"),
        None => connection.to_owned(),
    };
    let done = ask(engine, |reply| ControlRequest::Child {
        connection: connection.into(),
        child: child.as_deref().map(Arc::from),
        what,
        reply,
    });
    finished(&shown, done.await?)
}

fn finished(connection: &str, result: Result<(), CommandError>) -> Result<Outcome, Failure> {
    match result {
        Ok(()) => Ok(Outcome::Done(Done {
            connection: Some(connection.to_owned()),
            ..Done::default()
        })),
        Err(error) => Err(convert::failure(connection, &error)),
    }
}

/// Puts a request on the engine's queue, or fails at once if it is full, and waits for the answer.
pub(super) async fn ask<T>(
    engine: &mpsc::Sender<ControlRequest>,
    request: impl FnOnce(oneshot::Sender<T>) -> ControlRequest,
) -> Result<T, Failure> {
    let (reply, answer) = oneshot::channel();
    engine
        .try_send(request(reply))
        .map_err(|error| match error {
            TrySendError::Full(_) => busy("engine has too many requests under way"),
            TrySendError::Closed(_) => ended(),
        })?;
    answer.await.map_err(|_| ended())
}

fn ended() -> Failure {
    Failure {
        code: ErrorCode::Failed,
        message: "engine ended before it answered".to_owned(),
        cure: Some("it is started again at once; try again".to_owned()),
    }
}
