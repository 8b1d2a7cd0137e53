//! Accounts of sessions that are over: who it was, how long, and what the kernel has counted for it. The
//! keeper is asked for the counts of many sessions at once, a moment after they have ended.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ike::{io::Session, view::Closed};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    keeper::{ACCOUNT_OCTETS, Client, USAGE_OCTETS},
    kernel::Usage,
};

/// How long a session waits for others to be asked for together with it.
const GATHER: Duration = Duration::from_millis(100);
/// Sessions that wait at most; of one beyond that nothing but its end is in the log.
const MAX_WAITING: usize = 16_384;

/// A session that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) sa: u64,
    pub(super) connection: Arc<str>,
    pub(super) reason: Closed,
    pub(super) session: Box<Session>,
}

/// What the keeper has said of some sessions; `None` if it has not.
type Counted = (Vec<Ended>, Option<Vec<Usage>>);

/// Those of one worker.
#[derive(Debug)]
pub(super) struct Accounts {
    waiting: VecDeque<Ended>,
    due: Option<Duration>,
    /// Sessions that the keeper is being asked for.
    asked: usize,
    beyond: u64,
    tell: mpsc::UnboundedSender<Counted>,
    counted: mpsc::UnboundedReceiver<Counted>,
}

impl Accounts {
    pub(super) fn new() -> Self {
        // Holds no more than has been asked for.
        let (tell, counted) = mpsc::unbounded_channel();
        Self {
            waiting: VecDeque::new(),
            due: None,
            asked: 0,
            beyond: 0,
            tell,
            counted,
        }
    }

    pub(super) fn add(&mut self, ended: Ended, now: Duration) {
        if self.waiting.len() + self.asked >= MAX_WAITING {
            self.beyond += 1;
            return;
        }
        self.waiting.push_back(ended);
        self.due.get_or_insert(now + GATHER);
    }

    /// When to call [`Self::ask`].
    pub(super) const fn next(&self) -> Option<Duration> {
        self.due
    }

    /// Whether every account is given.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked == 0
    }

    /// Asks the keeper, if it is time to.
    pub(super) fn ask(&mut self, client: &Client, now: Duration) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        let beyond = std::mem::take(&mut self.beyond);
        if beyond > 0 {
            warn!(
                beyond,
                "more sessions have ended at once than are accounted for"
            );
        }
        while let Some(some) = self.some() {
            self.asked += some.len();
            let owners = owners(&some).map(str::to_owned).collect();
            let (client, tell) = (client.clone(), self.tell.clone());
            tokio::spawn(async move {
                let used = client.account(owners).await.ok();
                // Fails if the worker has ended.
                let _ended = tell.send((some, used));
            });
        }
    }

    /// The next sessions whose owners' names fit into one message.
    fn some(&mut self) -> Option<Vec<Ended>> {
        let mut octets = 0;
        let mut count = 0;
        for ended in &self.waiting {
            let names = owners(std::slice::from_ref(ended));
            octets += names.map(|name| name.len() + USAGE_OCTETS).sum::<usize>();
            if octets > ACCOUNT_OCTETS && count > 0 {
                break;
            }
            count += 1;
        }
        let some: Vec<_> = self.waiting.drain(..count).collect();
        (!some.is_empty()).then_some(some)
    }

    /// What the keeper has said; never, if nothing was asked.
    pub(super) async fn counted(&mut self) -> Option<Counted> {
        self.counted.recv().await
    }

    /// Writes what has been counted into the log.
    pub(super) fn write(&mut self, (some, used): Counted) {
        self.asked = self.asked.saturating_sub(some.len());
        let mut used = used.map(Vec::into_iter);
        for ended in &some {
            let own = ended.session.owners.len();
            let usage = used.as_mut().map(|used| {
                let own = used.by_ref().take(own);
                own.fold(Usage::default(), Usage::plus)
            });
            line(ended, usage);
        }
    }
}

fn owners(some: &[Ended]) -> impl Iterator<Item = &str> {
    let all = some.iter().flat_map(|ended| &ended.session.owners);
    all.map(|owner| &*owner.0)
}

fn line(ended: &Ended, usage: Option<Usage>) {
    let Ended {
        sa,
        connection,
        reason,
        session,
    } = ended;
    let Session {
        peer,
        lasted,
        resumptions,
        since_login,
        ..
    } = &**session;
    let (seconds, login_seconds) = (lasted.as_secs(), since_login.as_secs());
    let carried = match usage {
        Some(usage) => format!(
            "{} octets in {} packets received, {} in {} sent",
            usage.in_bytes, usage.in_packets, usage.out_bytes, usage.out_packets
        ),
        None => "its traffic is not known".to_owned(),
    };
    info!(
        event = "account",
        connection = &**connection,
        sa,
        %peer,
        %reason,
        seconds,
        resumptions,
        login_seconds,
        octets_in = usage.map(|usage| usage.in_bytes),
        packets_in = usage.map(|usage| usage.in_packets),
        octets_out = usage.map(|usage| usage.out_bytes),
        packets_out = usage.map(|usage| usage.out_packets),
        "{connection}[{sa}] {peer}: {seconds} s, {carried}, {resumptions} resumptions since the login \
         {login_seconds} s ago"
    );
}

#[cfg(test)]
mod tests {
    use ike::{kernel::Owner, wire::id::Identity};

    use super::*;

    fn ended(sa: u64, owners: &[&str]) -> Ended {
        let session = Session {
            peer: Identity::from_text("alice@example.net").expect("an identity"),
            lasted: Duration::from_secs(90),
            resumptions: 2,
            since_login: Duration::from_hours(1),
            owners: owners.iter().map(|one| Owner((*one).into())).collect(),
        };
        Ended {
            sa,
            connection: "rw".into(),
            reason: Closed::Down,
            session: Box::new(session),
        }
    }

    #[test]
    fn sessions_wait_for_each_other_and_go_in_messages_that_hold_them() {
        let mut accounts = Accounts::new();
        assert!(accounts.is_empty() && accounts.some().is_none());
        let long = "x".repeat(ACCOUNT_OCTETS / 2 - USAGE_OCTETS);
        for sa in 1..=5 {
            accounts.add(ended(sa, &[&long]), Duration::from_secs(sa));
        }
        assert_eq!(accounts.next(), Some(Duration::from_secs(1) + GATHER));
        let sizes: Vec<_> = std::iter::from_fn(|| accounts.some())
            .map(|some| some.len())
            .collect();
        assert_eq!(sizes, [2, 2, 1]);
        accounts.add(ended(6, &[&long, &long, &long]), Duration::ZERO);
        assert_eq!(
            accounts.some().map(|some| some.len()),
            Some(1),
            "more than holds"
        );
    }

    #[test]
    fn there_is_a_bound_on_what_waits() {
        let mut accounts = Accounts::new();
        for sa in 0..MAX_WAITING as u64 + 3 {
            accounts.add(ended(sa, &[]), Duration::ZERO);
        }
        assert_eq!((accounts.waiting.len(), accounts.beyond), (MAX_WAITING, 3));
    }
}
