//! Between operators and workers: a question goes to the worker that can answer it, or to all of them, and
//! what they say becomes one answer.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use ike::{Reloaded, Settings, Told};
use tokio::sync::{mpsc, oneshot};

use super::{
    connections,
    dispatch::home_of,
    operator::Question,
    reload::{self, Desk},
    watching::{self, Watching},
    worker::now,
};
use crate::control::{
    ChildCommand, CommandError, ControlRequest, FailureReport, FloodReport, LogCommand, LogReport,
    RevokeDone, SaReport, StatusReport, TicketReport, UpDone,
};

/// Failures in one answer.
const FAILURES_TOLD: usize = 64;

/// The way to all workers.
#[derive(Clone, Debug)]
pub(super) struct Front {
    workers: Arc<[mpsc::Sender<Question>]>,
    desk: Arc<Desk>,
    watching: Watching,
}

impl Front {
    pub(super) fn new(
        workers: Vec<mpsc::Sender<Question>>,
        desk: Desk,
        watching: Watching,
    ) -> Self {
        Self {
            workers: workers.into(),
            desk: Arc::new(desk),
            watching,
        }
    }

    /// Answers as many at a time as the control socket has clients.
    pub(super) async fn serve(self, mut requests: mpsc::Receiver<ControlRequest>) {
        self.look_on().await;
        while let Some(request) = requests.recv().await {
            let front = self.clone();
            tokio::spawn(async move { front.answer(request).await });
        }
    }

    /// An answer that nobody can give any more is not given: the engine is ending.
    async fn answer(&self, request: ControlRequest) {
        match request {
            ControlRequest::Status { reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Status { reply });
                deliver(reply, async {
                    parts.await.into_iter().reduce(both_statuses)
                })
                .await;
            }
            ControlRequest::Sas { id, reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Sas { id, reply });
                deliver(reply, async { Some(in_order(parts.await.concat())) }).await;
            }
            ControlRequest::Tickets { reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Tickets { reply });
                deliver(reply, async {
                    parts.await.into_iter().reduce(both_tickets)
                })
                .await;
            }
            ControlRequest::Why { peer, reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Why {
                    peer: peer.clone(),
                    reply,
                });
                deliver(reply, async { Some(latest(parts.await.concat())) }).await;
            }
            ControlRequest::Connections { reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Connections { reply });
                deliver(reply, async {
                    parts.await.into_iter().reduce(connections::merged)
                })
                .await;
            }
            ControlRequest::Flood { reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Flood { reply });
                deliver(reply, async { parts.await.into_iter().reduce(both_floods) }).await;
            }
            ControlRequest::Up { connection, reply } => self.up(connection, reply).await,
            ControlRequest::Down { connection, reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Down {
                    connection: Arc::clone(&connection),
                    reply,
                });
                deliver(reply, async { parts.await.into_iter().reduce(both_downs) }).await;
            }
            ControlRequest::Rekey { connection, reply } => {
                let request = |reply| ControlRequest::Rekey {
                    connection: Arc::clone(&connection),
                    reply,
                };
                deliver(reply, self.ask_owner(&connection, request)).await;
            }
            ControlRequest::Child {
                connection,
                child,
                what,
                reply,
            } => {
                let request = |reply| ControlRequest::Child {
                    connection: Arc::clone(&connection),
                    child: child.clone(),
                    what,
                    reply,
                };
                let owner = match what {
                    // Else whoever is asked first would call the peer that has called another.
                    ChildCommand::Up => self.who_is_up(&connection).await.map(|(at, _)| at),
                    ChildCommand::Down | ChildCommand::Rekey => None,
                };
                match owner {
                    Some(owner) => self.tell(owner, request(reply)).await,
                    None => deliver(reply, self.ask_owner(&connection, request)).await,
                }
            }
            ControlRequest::Redirect {
                connection,
                gateway,
                reply,
            } => {
                let parts = self.ask_all(|reply| ControlRequest::Redirect {
                    connection: connection.clone(),
                    gateway: gateway.clone(),
                    reply,
                });
                deliver(reply, async { parts.await.into_iter().reduce(both_told) }).await;
            }
            ControlRequest::Revoke { peer, reply } => {
                let parts = self.ask_all(|reply| ControlRequest::Revoke {
                    peer: peer.clone(),
                    reply,
                });
                deliver(reply, async {
                    parts.await.into_iter().reduce(both_revoked)
                })
                .await;
            }
            ControlRequest::Reload { reply } => {
                // Whoever asks may leave; what is begun is brought to its end.
                let front = self.clone();
                let done = tokio::spawn(async move {
                    let front = &front;
                    let is_elsewhere =
                        |name: Arc<str>| async move { front.who_is_up(&name).await.is_some() };
                    let tell = |settings: Arc<reload::Settings>| {
                        front.watching.configure(settings.log_level);
                        front.have_reloaded(settings)
                    };
                    let done = front.desk.reload(is_elsewhere, tell).await;
                    front.look_on().await;
                    done
                });
                deliver(reply, async { done.await.ok() }).await;
            }
            ControlRequest::Log { command, reply } => {
                let changes = command != LogCommand::Show;
                let done = match self.watching.command(command, now().boot) {
                    Ok(()) if changes => Ok(self.look_on().await),
                    Ok(()) => Ok(self.watching.report(now().boot)),
                    Err(why) => Err(why),
                };
                let _gone = reply.send(done);
            }
            ControlRequest::NewEpoch { alone, reply } => {
                if alone {
                    self.forget().await;
                }
                self.tell(0, ControlRequest::NewEpoch { alone, reply })
                    .await;
            }
            // Only where it was brought up is there a session to be kept.
            ControlRequest::Suspend { connection, reply } => {
                let home = self.home_of(&connection);
                self.tell(home, ControlRequest::Suspend { connection, reply })
                    .await;
            }
            ControlRequest::Origin { id, reply } => {
                let worker = Settings::worker_of(id, self.workers.len() as u8);
                self.tell(worker, ControlRequest::Origin { id, reply })
                    .await;
            }
            // Leases are everybody's.
            request @ (ControlRequest::Gate { .. }
            | ControlRequest::GateCommand { .. }
            | ControlRequest::Pools { .. }
            | ControlRequest::Leases { .. }
            | ControlRequest::Shutdown { .. }) => {
                self.tell(0, request).await;
            }
        }
    }

    fn home_of(&self, connection: &str) -> u8 {
        home_of(connection, self.workers.len() as u8)
    }

    async fn tell(&self, worker: u8, request: ControlRequest) {
        if let Some(worker) = self.workers.get(usize::from(worker)) {
            // One that is gone has dropped the reply with it.
            let _gone = worker.send(Question::Operator(request)).await;
        }
    }

    /// What the workers say that are there, the first one's words first.
    async fn ask_all<T>(&self, request: impl Fn(oneshot::Sender<T>) -> ControlRequest) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in 0..self.workers.len() as u8 {
            let (reply, answer) = oneshot::channel();
            self.tell(worker, request(reply)).await;
            answers.push(answer);
        }
        let mut parts = Vec::with_capacity(answers.len());
        for answer in answers {
            parts.extend(answer.await.ok());
        }
        parts
    }

    /// The peer may have called, and that came to another worker than the one that would call the peer.
    async fn up(&self, connection: Arc<str>, reply: oneshot::Sender<Result<UpDone, CommandError>>) {
        if let Some((_, done)) = self.who_is_up(&connection).await {
            let _gone = reply.send(Ok(done));
            return;
        }
        let home = self.home_of(&connection);
        self.tell(home, ControlRequest::Up { connection, reply })
            .await;
    }

    /// The worker with the connection's SA, if it is another than the one that would call the peer.
    async fn who_is_up(&self, connection: &Arc<str>) -> Option<(u8, UpDone)> {
        let home = self.home_of(connection);
        for (at, worker) in (0..).zip(&*self.workers).filter(|(at, _)| *at != home) {
            let (ask, is_up) = oneshot::channel();
            let question = Question::IsUp {
                connection: Arc::clone(connection),
                reply: ask,
            };
            let _gone = worker.send(question).await;
            if let Ok(Some(done)) = is_up.await {
                return Some((at, done));
            }
        }
        None
    }

    /// What whoever has the connection's SA says.
    async fn ask_owner<T>(
        &self,
        connection: &str,
        request: impl Fn(oneshot::Sender<Result<T, CommandError>>) -> ControlRequest,
    ) -> Option<Result<T, CommandError>> {
        let home = self.home_of(connection);
        let others = (0..self.workers.len() as u8).filter(|worker| *worker != home);
        let mut last = None;
        for worker in std::iter::once(home).chain(others) {
            let (reply, answer) = oneshot::channel();
            self.tell(worker, request(reply)).await;
            last = answer.await.ok();
            if !matches!(last, Some(Err(CommandError::NotUp))) {
                break;
            }
        }
        last
    }

    /// Every worker goes by these settings when this returns; what changed, as each of them has found.
    async fn have_reloaded(&self, settings: Arc<reload::Settings>) -> Option<Reloaded> {
        let mut answers = Vec::with_capacity(self.workers.len());
        for worker in &*self.workers {
            let (done, answer) = oneshot::channel();
            let settings = Arc::clone(&settings);
            let _gone = worker.send(Question::Reload { settings, done }).await;
            answers.push(answer);
        }
        let mut first = None;
        for answer in answers {
            let done = answer.await.ok()?;
            first.get_or_insert(done);
        }
        first
    }

    /// Has the workers tell of whoever is watched now, and looks again when that changes by itself.
    async fn look_on(&self) -> LogReport {
        let report = self.watching.report(now().boot);
        for worker in &*self.workers {
            let whose = watching::whose(&report);
            let _gone = worker.send(Question::Watch { whose }).await;
        }
        if let Some(left) = watching::next_end(&report) {
            let (front, turn) = (self.clone(), self.watching.turn());
            tokio::spawn(async move {
                tokio::time::sleep(left).await;
                // Of those that sleep only the last one is needed.
                if front.watching.is_latest(turn) {
                    front.look_on_again().await;
                }
            });
        }
        report
    }

    /// A future of its own kind, for one cannot hold itself.
    fn look_on_again(&self) -> Pin<Box<dyn Future<Output = LogReport> + Send + '_>> {
        Box::pin(self.look_on())
    }

    /// No worker honours a ticket when this returns.
    async fn forget(&self) {
        for worker in &*self.workers {
            let (done, forgotten) = oneshot::channel();
            let _gone = worker.send(Question::Forget { done }).await;
            let _gone = forgotten.await;
        }
    }
}

/// Waits for an answer for as long as somebody wants it.
async fn deliver<T>(mut reply: oneshot::Sender<T>, answer: impl Future<Output = Option<T>>) {
    tokio::select! {
        answer = answer => {
            let _gone = answer.map(|answer| reply.send(answer));
        }
        () = reply.closed() => {}
    }
}

/// By number, as one worker would have them; sleepers have none and come last.
fn in_order(mut all: Vec<SaReport>) -> Vec<SaReport> {
    all.sort_by_key(|report| (report.view.id == 0, report.view.id));
    all
}

fn both_statuses(mut all: StatusReport, part: StatusReport) -> StatusReport {
    all.established += part.established;
    all.half_open += part.half_open;
    all.suspended += part.suspended;
    all.child_sas += part.child_sas;
    all.full_logins += part.full_logins;
    all.resumed_logins += part.resumed_logins;
    all.failed_logins += part.failed_logins;
    all.tickets_issued += part.tickets_issued;
    all.tickets_refused += part.tickets_refused;
    add(&mut all.counters, part.counters);
    for line in part.attention {
        if !all.attention.contains(&line) {
            all.attention.push(line);
        }
    }
    all
}

fn both_tickets(mut all: TicketReport, part: TicketReport) -> TicketReport {
    all.issued += part.issued;
    all.honoured += part.honoured;
    all.outstanding += part.outstanding;
    all.held.extend(part.held);
    add(&mut all.refused, part.refused);
    all
}

fn both_floods(mut all: FloodReport, part: FloodReport) -> FloodReport {
    for (network, count) in part.networks {
        *all.networks.entry(network).or_default() += count;
    }
    FloodReport {
        networks: all.networks,
        half_open: all.half_open + part.half_open,
        cookies_sent: all.cookies_sent + part.cookies_sent,
        cookies_wrong: all.cookies_wrong + part.cookies_wrong,
        flood: all.flood.or(part.flood),
        allowed: all.allowed,
    }
}

/// A failure counts more than a success, and that more than having had nothing to do.
fn both_downs(
    one: Result<(), CommandError>,
    other: Result<(), CommandError>,
) -> Result<(), CommandError> {
    match (one, other) {
        (Err(CommandError::NotUp), other) => other,
        (one, Err(CommandError::NotUp)) | (one @ Err(_), _) => one,
        (Ok(()), other) => other,
    }
}

fn both_told(
    one: Result<Told, CommandError>,
    other: Result<Told, CommandError>,
) -> Result<Told, CommandError> {
    let (one, other) = (one?, other?);
    Ok(Told {
        told: one.told + other.told,
        unable: one.unable + other.unable,
    })
}

fn both_revoked(
    one: Result<RevokeDone, String>,
    other: Result<RevokeDone, String>,
) -> Result<RevokeDone, String> {
    let (one, other) = (one?, other?);
    Ok(RevokeDone {
        tickets: one.tickets + other.tickets,
        refused_for: one.refused_for.max(other.refused_for),
    })
}

/// The latest first, and no more than people read.
fn latest(mut all: Vec<FailureReport>) -> Vec<FailureReport> {
    all.sort_by_key(|report| std::cmp::Reverse(report.last));
    all.truncate(FAILURES_TOLD);
    all
}

/// Adds counts under the same words.
fn add(all: &mut Vec<(&'static str, u64)>, part: Vec<(&'static str, u64)>) {
    let mut more: BTreeMap<_, _> = part.into_iter().collect();
    for (word, count) in all.iter_mut() {
        *count += more.remove(word).unwrap_or(0);
    }
    all.extend(more);
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use ike::{view::Closed, watch::Watched};

    use super::*;
    use crate::{
        config::{Config, Fixed, LogConfig},
        control::RekeyDone,
    };

    /// A front, and what each of its workers is asked.
    fn front(workers: usize) -> (Front, Vec<mpsc::Receiver<Question>>) {
        let (ask, questions) = (0..workers).map(|_| mpsc::channel(8)).unzip();
        let fixed = Fixed::of(&Config::default());
        let desk = Desk::new(Path::new(""), fixed, Vec::new(), Arc::default());
        let watching = Watching::new(crate::log::of_nobody(LogConfig::default()));
        (Front::new(ask, desk, watching), questions)
    }

    fn asked(questions: &mut mpsc::Receiver<Question>) -> ControlRequest {
        match questions.try_recv() {
            Ok(Question::Operator(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    /// Runs until everybody waits.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_down_reaches_every_worker_and_has_one_answer() {
        let (front, mut workers) = front(3);
        let (reply, mut done) = oneshot::channel();
        let connection: Arc<str> = "rw".into();
        let request = ControlRequest::Down { connection, reply };
        tokio::spawn(async move { front.answer(request).await });
        settle().await;
        for (worker, questions) in workers.iter_mut().enumerate() {
            let ControlRequest::Down { reply, .. } = asked(questions) else {
                panic!("another request");
            };
            assert!(done.try_recv().is_err(), "before all have answered");
            let outcome = match worker {
                1 => Ok(()),
                _ => Err(CommandError::NotUp),
            };
            reply.send(outcome).expect("waited for");
            settle().await;
        }
        assert_eq!(done.try_recv(), Ok(Ok(())));
    }

    #[tokio::test]
    async fn every_worker_is_told_whom_to_watch_and_when_that_is_over() {
        let (front, mut workers) = front(2);
        let mut told = || -> Vec<_> {
            let told = workers.iter_mut().map(|worker| worker.try_recv().ok());
            told.collect()
        };
        let (reply, done) = oneshot::channel();
        let command = LogCommand::Watch {
            peer: "192.0.2.1".to_owned(),
            lasting: Duration::from_millis(300),
        };
        front.answer(ControlRequest::Log { command, reply }).await;
        let report = done.await.expect("an answer").expect("room");
        assert_eq!(report.watched[0].0, "192.0.2.1");
        let at = Watched::from_text("192.0.2.1");
        for told in told() {
            let Some(Question::Watch { whose }) = told else {
                panic!("{told:?}");
            };
            assert_eq!(whose, std::slice::from_ref(&at));
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        for told in told() {
            let Some(Question::Watch { whose }) = told else {
                panic!("{told:?}");
            };
            assert_eq!(whose, []);
        }
    }

    #[tokio::test]
    async fn a_rekey_is_done_by_whoever_has_the_sa() {
        let (front, mut workers) = front(2);
        let connection: Arc<str> = "rw".into();
        let home = usize::from(front.home_of(&connection));
        let (reply, mut done) = oneshot::channel();
        let request = ControlRequest::Rekey { connection, reply };
        tokio::spawn(async move { front.answer(request).await });
        settle().await;
        let ControlRequest::Rekey { reply, .. } = asked(&mut workers[home]) else {
            panic!("another request");
        };
        reply.send(Err(CommandError::NotUp)).expect("waited for");
        settle().await;
        let ControlRequest::Rekey { reply, .. } = asked(&mut workers[1 - home]) else {
            panic!("another request");
        };
        let rekeyed = RekeyDone { old: 1, sa: 3 };
        reply.send(Ok(rekeyed)).expect("waited for");
        settle().await;
        assert_eq!(done.try_recv(), Ok(Ok(rekeyed)));
    }

    #[tokio::test]
    async fn an_sa_is_asked_of_the_worker_that_numbered_it() {
        let (front, mut workers) = front(2);
        for (id, worker) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
            let (reply, _answer) = oneshot::channel();
            front.answer(ControlRequest::Origin { id, reply }).await;
            let request = asked(&mut workers[worker]);
            assert!(matches!(request, ControlRequest::Origin { id: asked, .. } if asked == id));
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_what_nobody_wants_to_know() {
        let (front, mut workers) = front(1);
        let (reply, done) = oneshot::channel();
        let connection: Arc<str> = "rw".into();
        let request = ControlRequest::Down { connection, reply };
        let waits = tokio::spawn(async move { front.answer(request).await });
        settle().await;
        let ControlRequest::Down { reply, .. } = asked(&mut workers[0]) else {
            panic!("another request");
        };
        drop(done);
        settle().await;
        assert!(waits.is_finished() && reply.is_closed());
    }

    #[test]
    fn counts_of_all_workers_are_added_under_their_words() {
        let part = |established, word, trouble: &str| StatusReport {
            uptime: Duration::from_secs(9),
            connections: 2,
            established,
            counters: vec![("stray", 1), (word, 5)],
            attention: vec!["the same".to_owned(), trouble.to_owned()],
            gate_mode: "none",
            ..StatusReport::default()
        };
        let all = both_statuses(part(3, "a", "x"), part(4, "b", "y"));
        assert_eq!((all.connections, all.established), (2, 7));
        assert_eq!(all.counters, [("stray", 2), ("a", 5), ("b", 5)]);
        assert_eq!(all.attention, ["the same", "x", "y"]);
    }

    #[test]
    fn half_open_sas_of_all_workers_are_added_up_by_network() {
        let part = |networks: &[(&str, u64)]| FloodReport {
            half_open: networks.iter().map(|(_, count)| count).sum(),
            networks: networks
                .iter()
                .map(|(network, count)| (network.parse().expect("address"), *count))
                .collect(),
            cookies_sent: 1,
            cookies_wrong: 0,
            flood: None,
            allowed: Vec::new(),
        };
        let one = part(&[("192.0.2.7", 2), ("2001:db8::", 1)]);
        let all = both_floods(one, part(&[("192.0.2.7", 3), ("192.0.2.8", 1)]));
        let expected = part(&[("192.0.2.7", 5), ("2001:db8::", 1), ("192.0.2.8", 1)]);
        assert_eq!((all.half_open, &all.networks), (7, &expected.networks));
    }

    #[test]
    fn a_down_that_failed_somewhere_has_failed() {
        let failed = || Err(CommandError::Ended(Closed::Crashed));
        let idle = || Err(CommandError::NotUp);
        assert_eq!(both_downs(Ok(()), idle()), Ok(()));
        assert_eq!(both_downs(idle(), Ok(())), Ok(()));
        assert_eq!(both_downs(idle(), idle()), idle());
        assert_eq!(both_downs(Ok(()), failed()), failed());
        assert_eq!(both_downs(failed(), Ok(())), failed());
        assert_eq!(both_downs(failed(), idle()), failed());
    }
}
