//! Connections that come up by themselves and have not yet, because of `start = "up"` or because a packet
//! wants them: each is tried again, after pauses that grow and are never quite the same, so that the clients of
//! a gateway that was away do not return in step.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ike::io::Env;

/// Before the second attempt; doubled each time, up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What one worker is to bring up.
#[derive(Debug, Default)]
pub(super) struct Starts {
    wanted: BTreeMap<Arc<str>, Wanted>,
    due: Vec<(Duration, Arc<str>)>,
}

/// A connection that is to come up.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    /// Attempts that have come to nothing since it last was up.
    failures: u32,
    /// When a packet last wanted it. It is given up when none has for [`LONGEST_PAUSE`]; `None` for never.
    packet: Option<Duration>,
}

impl Starts {
    /// All of them at once.
    pub(super) fn new(wanted: impl Iterator<Item = Arc<str>>, now: Duration) -> Self {
        let wanted: BTreeMap<_, _> = wanted
            .map(|connection| (connection, Wanted::default()))
            .collect();
        let due = wanted.keys().map(|one| (now, Arc::clone(one))).collect();
        Self { wanted, due }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.iter().map(|(at, _)| *at).min()
    }

    /// Whether it is to come up by itself.
    pub(super) fn wants(&self, connection: &str) -> bool {
        self.wanted.contains_key(connection)
    }

    /// Those that are to be tried.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arc<str>> {
        self.due.iter().map(|(_, connection)| connection)
    }

    /// When it is tried next.
    pub(super) fn due(&self, connection: &str) -> Option<Duration> {
        let mut due = self.due.iter();
        due.find(|(_, due)| **due == *connection).map(|(at, _)| *at)
    }

    /// Those whose time has come.
    pub(super) fn take(&mut self, now: Duration) -> Vec<Arc<str>> {
        let due = self.due.extract_if(.., |(at, _)| *at <= now);
        due.map(|(_, connection)| connection).collect()
    }

    /// A packet wants it: now, unless it has to pause after an attempt.
    pub(super) fn want(&mut self, connection: &Arc<str>, now: Duration) {
        let wanted = self.wanted.entry(Arc::clone(connection)).or_default();
        wanted.packet = Some(now);
        if !self.due.iter().any(|(_, due)| due == connection) {
            self.due.push((now, Arc::clone(connection)));
        }
    }

    /// An attempt has come to nothing.
    pub(super) fn failed(&mut self, connection: &Arc<str>, now: Duration, env: &mut dyn Env) {
        let Some(Wanted { failures, packet }) = self.wanted.get_mut(connection) else {
            return;
        };
        if packet.is_some_and(|at| at + LONGEST_PAUSE <= now) {
            return self.forget(connection);
        }
        self.due.retain(|(_, due)| due != connection);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << (*failures).min(16))
            .min(LONGEST_PAUSE);
        *failures = failures.saturating_add(1);
        let mut chance = [0];
        env.random(&mut chance);
        // A quarter more at most.
        let more = pause.mul_f64(f64::from(chance[0]) / 1024.0);
        self.due.push((now + pause + more, Arc::clone(connection)));
    }

    /// The way to its peer has changed: there is nothing to wait for.
    pub(super) fn hurry(&mut self, connection: &str, now: Duration) {
        for (at, due) in &mut self.due {
            if **due == *connection {
                *at = now;
            }
        }
    }

    /// It has come up; the core brings it back when it is lost.
    pub(super) fn succeeded(&mut self, connection: &Arc<str>) {
        self.due.retain(|(_, due)| due != connection);
        if let Some(wanted) = self.wanted.get_mut(connection) {
            wanted.failures = 0;
        }
    }

    /// It is to stay down, until the operator or a packet says otherwise.
    pub(super) fn forget(&mut self, connection: &Arc<str>) {
        self.wanted
            .retain(|name, wanted| name != connection || wanted.packet.is_none());
        self.due.retain(|(_, due)| due != connection);
    }

    /// Exactly these are to come up by themselves from now on, beside what packets want of them.
    pub(super) fn retain(&mut self, wanted: &[Arc<str>], now: Duration) {
        let gone = |name: &Arc<str>, one: &Wanted| one.packet.is_none() && !wanted.contains(name);
        let gone = self.wanted.extract_if(.., |name, one| gone(name, one));
        let gone: Vec<_> = gone.map(|(name, _)| name).collect();
        self.due.retain(|(_, due)| !gone.contains(due));
        for name in wanted {
            if !self.wanted.contains_key(name) {
                self.wanted.insert(Arc::clone(name), Wanted::default());
                self.due.push((now, Arc::clone(name)));
            }
        }
    }

    /// Nothing more is to come up.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::environment::Environment;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_success() {
        let home: Arc<str> = "home".into();
        let mut env = Environment::new(Arc::default());
        let mut starts = Starts::new(std::iter::once(Arc::clone(&home)), Duration::ZERO);
        let mut now = Duration::ZERO;
        assert_eq!(starts.take(now), [Arc::clone(&home)]);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            starts.failed(&home, now, &mut env);
            let next = starts.next().expect("another attempt");
            pauses.push(next.saturating_sub(now));
            now = next;
            assert_eq!(starts.take(now).len(), 1);
        }
        let most = |pause: Duration| pause.mul_f64(1.25);
        assert!((FIRST_PAUSE..=most(FIRST_PAUSE)).contains(&pauses[0]));
        assert!((LONGEST_PAUSE..=most(LONGEST_PAUSE)).contains(&pauses[8]));
        assert!(
            pauses
                .windows(2)
                .all(|two| two[1] >= two[0].min(LONGEST_PAUSE))
        );
        assert!(pauses.iter().any(|pause| pause.subsec_nanos() != 0));
        starts.succeeded(&home);
        starts.failed(&home, now, &mut env);
        assert!(starts.next().expect("due") <= now + most(FIRST_PAUSE));
        starts.hurry("other", now);
        assert!(starts.next().expect("due") > now);
        starts.hurry("home", now);
        assert_eq!(starts.next(), Some(now));
        starts.failed(&"other".into(), now, &mut env);
        assert_eq!(starts.take(Duration::MAX).len(), 1);
    }

    #[test]
    fn other_connections_may_be_wanted_from_now_on() {
        let [home, lab, cafe] = ["home", "lab", "cafe"].map(Arc::<str>::from);
        let mut env = Environment::new(Arc::default());
        let now = Duration::from_secs(100);
        let both = [Arc::clone(&home), Arc::clone(&lab)];
        let mut starts = Starts::new(both.into_iter(), now);
        assert_eq!(starts.take(now).len(), 2);
        for one in [&home, &lab] {
            starts.failed(one, now, &mut env);
        }
        starts.want(&cafe, now);
        let due = starts.due("home");
        starts.retain(&[Arc::clone(&home), "new".into()], now);
        assert_eq!(starts.due("home"), due, "it waits as before");
        assert!(!starts.wants("lab") && starts.due("lab").is_none());
        assert_eq!(starts.take(now), [cafe, "new".into()]);
    }

    #[test]
    fn a_packet_is_served_at_once_and_then_as_the_pauses_allow() {
        let home: Arc<str> = "home".into();
        let mut env = Environment::new(Arc::default());
        let mut starts = Starts::default();
        let mut now = Duration::from_secs(100);
        starts.want(&home, now);
        assert_eq!(starts.take(now), [Arc::clone(&home)]);
        starts.failed(&home, now, &mut env);
        let next = starts.next().expect("another attempt");
        assert!(next >= now + FIRST_PAUSE);
        starts.want(&home, now);
        assert_eq!(starts.next(), Some(next), "a packet does not shorten it");
        // It goes on by itself until packets have ceased for long enough.
        let begun = now;
        while let Some(at) = starts.next() {
            now = at;
            assert_eq!(starts.take(now), [Arc::clone(&home)]);
            starts.failed(&home, now, &mut env);
        }
        assert!((LONGEST_PAUSE..3 * LONGEST_PAUSE).contains(&now.saturating_sub(begun)));
        // The next one begins anew, until the operator says otherwise.
        starts.want(&home, now);
        assert_eq!(starts.take(now), [Arc::clone(&home)]);
        starts.failed(&home, now, &mut env);
        starts.forget(&home);
        assert_eq!(starts.next(), None);
        starts.failed(&home, now, &mut env);
        assert_eq!(starts.next(), None);
    }
}
