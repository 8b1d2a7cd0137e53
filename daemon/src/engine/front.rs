//! Between operators and workers: a question goes to the worker that can answer it, or to all of them, and
//! what they say becomes one answer.

use std::{pin::Pin, sync::Arc};

use ike::{Reloaded, Settings};
use tokio::sync::{mpsc, oneshot};

use super::{
    connections,
    dispatch::home_of,
    merged::{
        both_downs, both_floods, both_revoked, both_statuses, both_tickets, both_told, in_order,
        latest, with_the_waiting,
    },
    operator::Question,
    reload::{self, Desk},
    watching::{self, Watching},
    worker::now,
};
use crate::control::{
    ChildCommand, CommandError, ControlRequest, LogCommand, LogReport, StatusReport, UpDone,
};

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
                    parts
                        .await
                        .into_iter()
                        .reduce(both_statuses)
                        .map(with_the_waiting)
                        .map(|all| self.with_the_credentials(all))
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
            | ControlRequest::Traffic { .. }
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

    /// Says also what no worker knows.
    fn with_the_credentials(&self, mut all: StatusReport) -> StatusReport {
        all.attention.extend(self.desk.attention());
        all
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

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use ike::{Whose, watch::Watched};

    use super::*;
    use crate::{
        config::{Config, Fixed, ListFiles, LogConfig},
        control::RekeyDone,
    };

    /// A front, and what each of its workers is asked.
    fn front(workers: usize) -> (Front, Vec<mpsc::Receiver<Question>>) {
        front_with(workers, ListFiles::default())
    }

    fn front_with(workers: usize, lists: ListFiles) -> (Front, Vec<mpsc::Receiver<Question>>) {
        let (ask, questions) = (0..workers).map(|_| mpsc::channel(8)).unzip();
        let fixed = Fixed::of(&Config::default());
        let desk = Desk::new(Path::new(""), fixed, Vec::new(), Arc::new(lists));
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
    async fn a_list_that_cannot_be_used_needs_attention() {
        let damaged = ListFiles::in_trouble("x509crl/one.pem: is damaged PEM");
        for (lists, lines) in [(damaged, 1), (ListFiles::default(), 0)] {
            let (front, mut workers) = front_with(2, lists);
            let (reply, mut done) = oneshot::channel();
            let request = ControlRequest::Status { reply };
            tokio::spawn(async move { front.answer(request).await });
            settle().await;
            for questions in &mut workers {
                let ControlRequest::Status { reply } = asked(questions) else {
                    panic!("another request");
                };
                reply.send(StatusReport::default()).expect("waited for");
                settle().await;
            }
            let attention = done.try_recv().expect("an answer").attention;
            assert_eq!(attention.len(), lines, "{attention:?}");
            assert!(attention.iter().all(|line| line.contains("one.pem")));
        }
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
        let at = Watched::Somebody(Whose::from_text("192.0.2.1"));
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
}
