//! What operators are told of the configured connections, up or not: where each stands, when it is tried
//! next, and why it waits.

use std::time::Duration;

use ike::{
    io::Stamp,
    view::connection::{Attempt, ConnectionView},
};

use super::worker::Worker;
use crate::control::{ConnectionReport, ConnectionStart, ConnectionState};

impl Worker {
    /// All of them; of those that another worker is to call, what is here.
    pub(super) fn connections(&self, now: Stamp) -> Vec<ConnectionReport> {
        let views = self.endpoint.connection_views(now).into_iter();
        views.map(|view| self.report_of(view, now.boot)).collect()
    }

    fn report_of(&self, view: ConnectionView, now: Duration) -> ConnectionReport {
        let start = if self.start_trap.contains(&view.name) {
            ConnectionStart::Trap
        } else if self.starts.wants(&view.name) {
            ConnectionStart::Up
        } else {
            ConnectionStart::None
        };
        let due = self.starts.due(&view.name);
        let next = match view.attempt {
            Attempt::In(left) => Some(left),
            Attempt::UnderWay | Attempt::None => due.map(|at| at.saturating_sub(now)),
        };
        let state = if view.established > 0 {
            ConnectionState::Up
        } else if view.attempt == Attempt::UnderWay {
            ConnectionState::Connecting
        } else if next.is_some() {
            ConnectionState::Waiting
        } else if view.suspended {
            ConnectionState::Suspended
        } else if start == ConnectionStart::Trap {
            ConnectionState::Trap
        } else if view.may_dial {
            ConnectionState::Down
        } else {
            ConnectionState::Listening
        };
        let failures = self.failures.of(Some(&view.name)).into_iter();
        let of_it =
            failures.filter(|report| report.failure.connection.as_ref() == Some(&view.name));
        ConnectionReport {
            peer: view.peer,
            established: view.established,
            state,
            start,
            next_in: next.filter(|_| state == ConnectionState::Waiting),
            last_failure: of_it.max_by_key(|report| report.last),
            name: view.name,
        }
    }
}

/// The same connection as two workers see it: the one that is further along says how it stands.
pub(super) fn merged(
    mut all: Vec<ConnectionReport>,
    part: Vec<ConnectionReport>,
) -> Vec<ConnectionReport> {
    for other in part {
        let Some(one) = all.iter_mut().find(|one| one.name == other.name) else {
            all.push(other);
            continue;
        };
        one.established += other.established;
        one.start = one.start.max(other.start);
        if other.state > one.state {
            (one.state, one.next_in) = (other.state, other.next_in);
        }
        let last = |report: &ConnectionReport| report.last_failure.as_ref().map(|one| one.last);
        if last(&other) > last(one) {
            one.last_failure = other.last_failure;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, state: ConnectionState, established: u64) -> ConnectionReport {
        ConnectionReport {
            name: name.into(),
            peer: None,
            established,
            state,
            start: ConnectionStart::None,
            next_in: (state == ConnectionState::Waiting).then_some(Duration::from_secs(7)),
            last_failure: None,
        }
    }

    #[test]
    fn whoever_is_further_along_says_how_a_connection_stands() {
        use ConnectionState::{Down, Listening, Up, Waiting};
        let one = vec![report("home", Waiting, 0), report("rw", Listening, 0)];
        let other = vec![report("home", Down, 0), report("rw", Up, 2)];
        for (first, second) in [(&one, &other), (&other, &one)] {
            let all = merged(first.clone(), second.clone());
            let told: Vec<_> = all
                .iter()
                .map(|one| (one.state, one.established, one.next_in))
                .collect();
            let left = Some(Duration::from_secs(7));
            assert_eq!(told, [(Waiting, 0, left), (Up, 2, None)]);
        }
    }
}
