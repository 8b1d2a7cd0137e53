//! What operators ask a worker through the control socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use gate_abi::classify::{Reason, Verdict};
use ike::{
    CommandRefused, Context, Reloaded, Told, Whose,
    counters::Counter,
    io::Command,
    view::{Closed, SaState, connection::Attempt},
    watch::Watched,
    wire::redirect::GatewayId,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::getppid,
};
use tokio::sync::oneshot;
use tracing::{error, info};

use super::{
    reload,
    worker::{Worker, now},
};
use crate::{
    control::{
        ChildCommand, CommandError, ControlRequest, EpochReport, FloodReport, GateReport,
        GateVerdict, RevocationReport, RevokeDone, SaReport, StatusReport, TicketReport, Traffic,
        UpDone,
    },
    gate::network_of,
    keeper::{ClientError, GateRefused, GateStatus},
    kernel::Usage,
    tickets::{EpochTimes, Revocation, Revocations},
};

/// What a worker is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// By an operator. What it knows of itself, or what only one is to do.
    Operator(ControlRequest),
    /// Whether a connection that can be brought up is up here.
    IsUp {
        connection: Arc<str>,
        reply: oneshot::Sender<Option<UpDone>>,
    },
    /// To go by other settings.
    Reload {
        settings: Arc<reload::Settings>,
        done: oneshot::Sender<Reloaded>,
    },
    /// To tell of the messages of these.
    Watch { whose: Vec<Watched> },
    /// To honour no ticket until the keeper has said what is new.
    Forget { done: oneshot::Sender<()> },
}

impl Worker {
    pub(super) fn asked(&mut self, question: Question) {
        match question {
            Question::Operator(request) => self.operator_says(request),
            Question::IsUp { connection, reply } => {
                let done = self.up_already(&connection);
                let done = done.filter(|_| self.endpoint.may_dial(&connection));
                let _gone = reply.send(done);
            }
            Question::Reload { settings, done } => {
                let _gone = done.send(self.reload(&settings));
            }
            Question::Watch { whose } => self.endpoint.watch(whose),
            Question::Forget { done } => {
                self.forget_epochs();
                let _gone = done.send(());
            }
        }
    }

    fn operator_says(&mut self, request: ControlRequest) {
        match request {
            ControlRequest::Status { reply } => self.status(reply),
            ControlRequest::Sas { id, reply } => self.sas(id, reply),
            ControlRequest::Up { connection, reply } => {
                match self.command(Command::Up(Arc::clone(&connection))) {
                    // Up, and what its IKE SA lacks is on its way; or on its way itself.
                    Ok(()) | Err(CommandRefused::UpAlready) => match self.up_already(&connection) {
                        Some(done) => drop(reply.send(Ok(done))),
                        None => self.waiting.up.push((connection, reply)),
                    },
                    Err(refused) => drop(reply.send(Err(error_of(refused)))),
                }
            }
            ControlRequest::Down { connection, reply } => {
                self.waiting.given_up(&connection);
                match self.command(Command::Down(Arc::clone(&connection))) {
                    Ok(()) if self.has_sa(&connection) => {
                        self.waiting.down.push((connection, reply));
                    }
                    outcome => drop(reply.send(outcome.map_err(error_of))),
                }
            }
            ControlRequest::Suspend { connection, reply } => {
                let outcome = self.command(Command::Suspend(connection));
                let _gone = reply.send(outcome.map_err(error_of));
            }
            ControlRequest::Rekey { connection, reply } => {
                match self.command(Command::Rekey(Arc::clone(&connection))) {
                    Ok(()) => self.waiting.rekey.push((connection, reply)),
                    Err(refused) => drop(reply.send(Err(error_of(refused)))),
                }
            }
            ControlRequest::Child {
                connection,
                child,
                what,
                reply,
            } => self.about_child(connection, child, what, reply),
            ControlRequest::Redirect {
                connection,
                gateway,
                reply,
            } => drop(reply.send(self.redirect(connection.as_deref(), &gateway))),
            ControlRequest::Origin { id, reply } => {
                let _gone = reply.send(self.endpoint.sa_origin(id, now()));
            }
            ControlRequest::Tickets { reply } => {
                let _gone = reply.send(self.tickets());
            }
            // Answered in front of the workers.
            ControlRequest::Reload { .. } | ControlRequest::Log { .. } => {}
            ControlRequest::NewEpoch { alone, reply } => self.new_epoch(alone, reply),
            ControlRequest::Revoke { peer, reply } => {
                let _gone = reply.send(self.revoke(&peer));
            }
            ControlRequest::Gate { reply } => {
                let client = self.client.clone();
                tokio::spawn(async move {
                    let status = client.gate_status().await.unwrap_or_default();
                    let _gone = reply.send(gate_report(&status));
                });
            }
            ControlRequest::GateCommand { command, reply } => {
                let client = self.client.clone();
                tokio::spawn(async move {
                    let done = client.gate(command).await;
                    let failed = |error: ClientError| GateRefused::Failed(error.to_string());
                    let _gone = reply.send(done.unwrap_or_else(|error| Err(failed(error))));
                });
            }
            // Whoever asked may be gone.
            ControlRequest::Traffic { reply } => {
                let client = self.client.clone();
                tokio::spawn(async move {
                    let traffic = client.traffic().await.unwrap_or_default().into_iter();
                    let shown = |(name, usage)| (name, traffic_of(usage));
                    let _gone = reply.send(traffic.map(shown).collect());
                });
            }
            ControlRequest::Pools { reply } => drop(reply.send(self.leases.pools())),
            ControlRequest::Leases { reply } => drop(reply.send(self.leases.leases())),
            ControlRequest::Why { peer, reply } => {
                drop(reply.send(self.failures.of(peer.as_deref())));
            }
            ControlRequest::Connections { reply } => {
                drop(reply.send(self.connections(now())));
            }
            ControlRequest::Flood { reply } => {
                let views = self.endpoint.sas(now());
                let half_open = views.iter().filter(|view| view.state == SaState::HalfOpen);
                let mut networks = BTreeMap::new();
                for path in half_open.clone().filter_map(|view| view.path) {
                    *networks.entry(network_of(path.remote.ip())).or_default() += 1;
                }
                let half_open = half_open.count() as u64;
                let count = |counter| self.endpoint.counters().count(counter);
                let mut report = FloodReport {
                    half_open,
                    networks,
                    cookies_sent: count(Counter::CookieSent),
                    cookies_wrong: count(Counter::CookieWrong),
                    flood: None,
                    allowed: Vec::new(),
                };
                let client = self.client.clone();
                tokio::spawn(async move {
                    let status = client.gate_status().await.unwrap_or_default();
                    report.flood = status.flood;
                    report.allowed = status.networks.allowed;
                    let _gone = reply.send(report);
                });
            }
            ControlRequest::Shutdown { delete, reply } => {
                // The keeper ends first and takes us along; it is our parent and has our user.
                let signal = if delete {
                    Signal::SIGTERM
                } else {
                    Signal::SIGQUIT
                };
                info!(delete, "shutdown on the operator's word");
                let sent = kill(getppid(), signal);
                let failed = |errno: nix::Error| CommandError::Kernel(errno.to_string());
                let _gone = reply.send(sent.map_err(failed));
            }
        }
    }

    /// A command about one Child SA, or about each.
    fn about_child(
        &mut self,
        connection: Arc<str>,
        child: Option<Arc<str>>,
        what: ChildCommand,
        reply: oneshot::Sender<Result<(), CommandError>>,
    ) {
        let present = self.children_of(&connection);
        let name = Arc::clone(&connection);
        let result = match (what, child.clone()) {
            (ChildCommand::Up, Some(child)) => self.command(Command::UpChild(name, child)),
            (ChildCommand::Down, Some(child)) => self.command(Command::DownChild(name, child)),
            (_, child) => self.command(Command::RekeyChild(name, child)),
        };
        match result {
            Ok(()) => {
                let children = child.map_or(present, |child| BTreeSet::from([child]));
                self.waiting.for_children(connection, children, what, reply);
            }
            // What is there already was asked for.
            Err(CommandRefused::UpAlready) => drop(reply.send(Ok(()))),
            Err(refused) => drop(reply.send(Err(error_of(refused)))),
        }
    }

    fn children_of(&self, connection: &Arc<str>) -> BTreeSet<Arc<str>> {
        let views = self.endpoint.sas(now());
        let of_it = views
            .into_iter()
            .filter(|view| view.connection.as_ref() == Some(connection));
        let children = of_it.flat_map(|view| view.children);
        children.map(|child| child.name).collect()
    }

    fn redirect(
        &mut self,
        connection: Option<&str>,
        gateway: &GatewayId,
    ) -> Result<Told, CommandError> {
        let cx = &mut Context {
            now: now(),
            env: &mut self.environment,
            ledger: &mut self.ledger,
            leases: &mut self.leases,
        };
        let told = self
            .endpoint
            .redirect(connection, gateway, self.patience, cx)
            .map_err(error_of)?;
        info!("clients are told to go to {gateway} on the operator's word");
        Ok(told)
    }

    fn status(&self, reply: oneshot::Sender<StatusReport>) {
        let now = now();
        let views = self.endpoint.sas(now);
        let count = |state| views.iter().filter(|view| view.state == state).count() as u64;
        let mut report = StatusReport {
            uptime: now.boot.saturating_sub(self.started),
            connections: self.logins.connections,
            established: count(SaState::Established),
            half_open: count(SaState::HalfOpen),
            suspended: count(SaState::Suspended),
            child_sas: views.iter().map(|view| view.children.len() as u64).sum(),
            full_logins: self.logins.full,
            resumed_logins: self.logins.resumed,
            failed_logins: self.logins.failed,
            tickets_issued: self.logins.tickets_issued,
            tickets_refused: self.logins.tickets_refused,
            ticket_key_id: self.endpoint.newest_ticket_root(),
            counters: self.counters(),
            ..StatusReport::default()
        };
        let trouble = self.ledger.revocations().and_then(Revocations::trouble);
        let attention = trouble.map(|trouble| trouble.to_string());
        report.attention.extend(attention);
        let outdated = self.endpoint.outdated_lists(now).into_iter();
        let outdated =
            outdated.map(|issuer| format!("the revocation list of '{issuer}' is outdated"));
        report.attention.extend(outdated);
        let due: BTreeSet<&Arc<str>> = self.starts.waiting().collect();
        for view in self.endpoint.connection_views(now) {
            let waits = match view.attempt {
                Attempt::In(_) => true,
                Attempt::None => due.contains(&view.name),
                Attempt::UnderWay => false,
            };
            if view.established > 0 {
                report.up.push(view.name);
            } else if waits {
                report.waiting.push(view.name);
            }
        }
        let client = self.client.clone();
        tokio::spawn(async move {
            let status = client.gate_status().await.unwrap_or_default();
            let gate = gate_report(&status);
            report.gate_mode = gate.mode;
            let gate = gate.reason.map(|reason| format!("gate: {reason}"));
            let lanes = status.no_lanes;
            let lanes = lanes.map(|why| format!("no lanes, a flood delays everybody: {why}"));
            report.attention.extend(gate.into_iter().chain(lanes));
            let _gone = reply.send(report);
        });
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let (handed_on, lost) = self.hands_on.counts();
        let of_core = |counter: &Counter| {
            let count = self.endpoint.counters().count(*counter);
            (counter.word(), count)
        };
        let between = [("handed_on", handed_on), ("handed_on_lost", lost)];
        Counter::ALL.iter().map(of_core).chain(between).collect()
    }

    fn sas(&self, id: Option<u64>, reply: oneshot::Sender<Vec<SaReport>>) {
        let mut views = self.endpoint.sas(now());
        views.retain(|view| id.is_none_or(|id| view.id == id));
        let client = self.client.clone();
        tokio::spawn(async move {
            let mut reports = Vec::with_capacity(views.len());
            for view in views {
                let mut traffic = Vec::with_capacity(view.children.len());
                for child in &view.children {
                    let usage = client.usage(&child.owner).await.ok().flatten();
                    traffic.push(usage.map(traffic_of));
                }
                reports.push(SaReport { view, traffic });
            }
            let _gone = reply.send(reports);
        });
    }

    fn tickets(&self) -> TicketReport {
        let now = now();
        let issued = |view: &&ike::view::SaView| view.ticket_name.is_some();
        TicketReport {
            epochs: epoch_reports(&self.epochs, now.wall),
            issued: self.logins.tickets_issued,
            honoured: self.logins.tickets_honoured,
            refused: self
                .logins
                .refused
                .iter()
                .map(|(why, tickets)| (*why, *tickets))
                .collect(),
            outstanding: self.endpoint.sas(now).iter().filter(issued).count() as u64,
            held: self.endpoint.held_tickets(now),
            revocations: revocation_reports(self.ledger.revocations(), now.wall),
        }
    }

    fn new_epoch(&mut self, alone: bool, reply: oneshot::Sender<Result<u8, String>>) {
        info!(alone, "new ticket epoch on the operator's word");
        if alone {
            // At once, and not when the keeper has answered: what is revoked opens nothing any more.
            self.forget_epochs();
        }
        let client = self.client.clone();
        tokio::spawn(async move {
            let made = client.new_epoch(alone).await;
            let made = made.unwrap_or_else(|error| Err(error.to_string()));
            let _gone = reply.send(made);
        });
    }

    fn forget_epochs(&mut self) {
        self.endpoint.retain_ticket_roots(&[]);
        self.epochs.clear();
    }

    /// What the peer got on SAs that are here, by their used bits; whatever else it may hold, by an
    /// entry in the list. That comes first: no ticket issued between the two is good.
    fn revoke(&mut self, peer: &str) -> Result<RevokeDone, String> {
        let wall = now().wall;
        let last_expiry = self
            .epochs
            .iter()
            .map(|(_, times)| times.accept_until)
            .max();
        let forget_at = last_expiry.unwrap_or(wall);
        let listed = match self.ledger.revocations_mut() {
            Some(list) => list.revoke(peer, wall, forget_at),
            None => Ok(()),
        };
        let meant = Whose::from_text(peer);
        let cx = &mut Context {
            now: now(),
            env: &mut self.environment,
            ledger: &mut self.ledger,
            leases: &mut self.leases,
        };
        let revoked = self.endpoint.revoke(|id| meant.is_peer(id), cx);
        info!(
            revoked,
            "tickets of {peer:?} revoked on the operator's word"
        );
        listed.map_err(|error| {
            error!("{error}");
            error.to_string()
        })?;
        Ok(RevokeDone {
            tickets: revoked as u64,
            refused_for: Duration::from_secs(forget_at.saturating_sub(wall)),
        })
    }

    fn up_already(&self, connection: &Arc<str>) -> Option<UpDone> {
        let up = |view: &&ike::view::SaView| {
            view.connection.as_ref() == Some(connection) && view.state == SaState::Established
        };
        let views = self.endpoint.sas(now());
        let view = views.iter().find(up)?;
        Some(UpDone {
            sa: view.id,
            resumed: view.resumed,
            took: None,
        })
    }

    fn has_sa(&self, connection: &Arc<str>) -> bool {
        let of_it = |view: &ike::view::SaView| view.connection.as_ref() == Some(connection);
        self.endpoint.sas(now()).iter().any(of_it)
    }
}

fn revocation_reports(list: Option<&Revocations>, wall: u64) -> Vec<RevocationReport> {
    let report = |one: &Revocation| RevocationReport {
        peer: one.peer.clone(),
        age: Duration::from_secs(wall.saturating_sub(one.until)),
        refused_for: Duration::from_secs(one.forget_at.saturating_sub(wall)),
    };
    let entries = list.map_or(&[][..], Revocations::entries);
    entries.iter().map(report).collect()
}

fn epoch_reports(epochs: &[(u8, EpochTimes)], wall: u64) -> Vec<EpochReport> {
    let newest = epochs.last().map(|(key_id, _)| *key_id);
    let left = |until: u64| Duration::from_secs(until.saturating_sub(wall));
    let report = |(key_id, times): &(u8, EpochTimes)| EpochReport {
        key_id: *key_id,
        age: Duration::from_secs(wall.saturating_sub(times.began)),
        issues_for: (newest == Some(*key_id) && wall < times.issue_until)
            .then(|| left(times.issue_until)),
        accepted_for: left(times.accept_until),
    };
    epochs.iter().map(report).collect()
}

const fn error_of(refused: CommandRefused) -> CommandError {
    match refused {
        CommandRefused::NoConnection | CommandRefused::NoChild => CommandError::UnknownConnection,
        CommandRefused::CannotInitiate => CommandError::NoPeerAddress,
        CommandRefused::NoRoute => CommandError::NoRoute,
        CommandRefused::NotUp | CommandRefused::UpAlready => CommandError::NotUp,
        CommandRefused::NoTicket => CommandError::NoTicket,
        CommandRefused::Full => CommandError::Ended(Closed::Limit),
    }
}

/// The best mode on any interface speaks for the gate; what keeps it from better is said beside it.
fn gate_report(status: &GateStatus) -> GateReport {
    let modes = ["native", "generic"];
    let has = |mode: &&str| status.attachments.iter().any(|on| on.mode == **mode);
    let mode = modes.into_iter().find(has).unwrap_or("none");
    let reasons = status.attachments.iter().filter(|on| !on.reason.is_empty());
    let reasons: Vec<_> = reasons
        .map(|on| format!("{}: {}", on.interface, on.reason))
        .chain(status.trouble.clone())
        .collect();
    let verdicts = Reason::ALL.iter().filter_map(|reason| {
        let name = reason.name();
        let counted = status.counters.iter().find(|one| one.reason == name)?;
        let verdict = match reason.verdict() {
            Verdict::Pass(_) => "pass",
            Verdict::Reply(_) => "tx",
            Verdict::Drop(_) => "drop",
        };
        Some(GateVerdict {
            verdict,
            reason: name,
            packets: counted.packets,
            per_second: counted.per_second,
        })
    });
    GateReport {
        mode,
        reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        attachments: status.attachments.clone(),
        verdicts: verdicts.collect(),
        dropped: status.dropped.clone(),
        lanes: status.lanes.clone(),
        no_lanes: status.no_lanes.clone(),
        denied: status.networks.denied.clone(),
        fill: status.fill.clone(),
    }
}

const fn traffic_of(usage: Usage) -> Traffic {
    Traffic {
        in_bytes: usage.in_bytes,
        in_packets: usage.in_packets,
        out_bytes: usage.out_bytes,
        out_packets: usage.out_packets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_epoch_issues_and_not_for_ever() {
        let times = |began| EpochTimes {
            began,
            issue_until: began + 100,
            accept_until: began + 150,
        };
        let epochs = [(7, times(0)), (8, times(40))];
        let seconds = Duration::from_secs;
        let report = |wall| epoch_reports(&epochs, wall);
        assert_eq!(report(60)[0].issues_for, None);
        assert_eq!(report(60)[0].accepted_for, seconds(90));
        assert_eq!(report(60)[1].issues_for, Some(seconds(80)));
        assert_eq!(report(60)[1].age, seconds(20));
        assert_eq!(
            report(140)[1].issues_for,
            None,
            "it waits for its successor"
        );
    }
}
