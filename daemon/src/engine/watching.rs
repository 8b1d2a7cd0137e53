//! Peers that an operator looks on at: who they are and for how long, and the lines that come of it. There
//! is a bound on lines, for anybody can send in the name of an address that is watched.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ike::{
    Whose,
    defence::allowance::Allowance,
    watch::{MAX_WATCHED, Overheard, Watched},
};
use tracing::info;

use crate::{
    config::LogLevel,
    control::{LogCommand, LogReport},
    log::{Log, OVERHEARD},
};

/// Lines in a second of one worker.
const LINES: u32 = 200;
/// Of those that are watched one place is for everybody.
const MOST: usize = MAX_WATCHED - 1;

/// The log, and whose messages are in it.
#[derive(Clone, Debug)]
pub(super) struct Watching {
    log: Log,
    watched: Arc<Mutex<Vec<(String, Duration)>>>,
    turns: Arc<AtomicU64>,
}

impl Watching {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            watched: Arc::default(),
            turns: Arc::default(),
        }
    }

    /// A number for whoever is going to look again.
    pub(super) fn turn(&self) -> u64 {
        self.turns.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether nobody has got one since.
    pub(super) fn is_latest(&self, turn: u64) -> bool {
        self.turns.load(Ordering::Relaxed) == turn
    }

    /// The configuration says this from now on.
    pub(super) fn configure(&self, level: LogLevel) {
        self.log.configure(level);
    }

    /// Does what an operator says, at a time since boot; the error is for people.
    pub(super) fn command(&self, command: LogCommand, now: Duration) -> Result<(), String> {
        match command {
            LogCommand::Show => {}
            LogCommand::Level { level, lasting } => {
                let until = lasting.map(|lasting| now + lasting);
                self.log.choose(Some((level, until)));
            }
            LogCommand::Configured => self.log.choose(None),
            LogCommand::Watch { peer, lasting } => {
                let mut watched = self.watched();
                watched.retain(|(other, _)| *other != peer);
                if watched.len() >= MOST {
                    return Err(format!("{MOST} peers are watched already"));
                }
                watched.push((peer, now + lasting));
            }
            LogCommand::Unwatch { peer } => {
                let mut watched = self.watched();
                let before = watched.len();
                watched.retain(|(other, _)| *other != peer);
                if watched.len() == before {
                    return Err(format!("{} is not watched", peer.escape_debug()));
                }
            }
        }
        Ok(())
    }

    /// What counts, after what has expired has gone.
    pub(super) fn report(&self, now: Duration) -> LogReport {
        self.log.expire(now);
        let mut watched = self.watched();
        watched.retain(|(_, until)| *until > now);
        let left = |(peer, until): &(String, Duration)| (peer.clone(), until.saturating_sub(now));
        LogReport {
            state: self.log.state(now),
            watched: watched.iter().map(left).collect(),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Vec<(String, Duration)>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose messages the core is to tell of.
pub(super) fn whose(report: &LogReport) -> Vec<Watched> {
    let everybody = (report.state.level == LogLevel::Trace).then_some(Watched::Everybody);
    let peers = report.watched.iter();
    let peers = peers.map(|(peer, _)| Watched::Somebody(Whose::from_text(peer)));
    everybody.into_iter().chain(peers).collect()
}

/// When something of this is over.
pub(super) fn next_end(report: &LogReport) -> Option<Duration> {
    let ends = report.watched.iter().map(|(_, left)| *left);
    ends.chain(report.state.left).min()
}

/// The lines of one worker.
#[derive(Debug)]
pub(super) struct Lines {
    allowance: Allowance,
    unsaid: u64,
}

impl Lines {
    pub(super) const fn new() -> Self {
        Self {
            allowance: Allowance::new(LINES),
            unsaid: 0,
        }
    }

    pub(super) fn say(&mut self, overheard: &Overheard, now: Duration) {
        if !self.allowance.take(now) {
            self.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid > 0 {
            info!(target: OVERHEARD, unsaid, "messages of watched peers came too fast for the log");
        }
        let connection = overheard.connection.as_deref();
        let sa = overheard.sa;
        let who = match (connection, sa) {
            (Some(connection), Some(sa)) => format!("{connection}[{sa}] "),
            (None, Some(sa)) => format!("[{sa}] "),
            (_, None) => String::new(),
        };
        let event = if overheard.inbound {
            "received"
        } else {
            "sent"
        };
        let from = overheard.path.remote;
        info!(target: OVERHEARD, event, connection, sa, %from, "{who}{overheard}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::LogConfig, log};

    const MINUTE: Duration = Duration::from_mins(1);

    fn peers(watching: &Watching, now: Duration) -> Vec<String> {
        let report = watching.report(now);
        report.watched.into_iter().map(|(peer, _)| peer).collect()
    }

    fn watch(watching: &Watching, peer: &str, now: Duration) -> Result<(), String> {
        let command = LogCommand::Watch {
            peer: peer.to_owned(),
            lasting: MINUTE,
        };
        watching.command(command, now)
    }

    #[test]
    fn a_watch_ends_by_itself_and_there_are_so_many() {
        let watching = Watching::new(log::of_nobody(LogConfig::default()));
        for number in 0..MOST {
            watch(&watching, &number.to_string(), Duration::ZERO).expect("room");
        }
        let full = watch(&watching, "one more", Duration::ZERO);
        assert_eq!(full, Err("15 peers are watched already".to_owned()));
        let again = watch(&watching, "3", Duration::from_secs(30));
        assert_eq!(again, Ok(()), "for longer");
        assert_eq!(peers(&watching, MINUTE), ["3"]);
        let end = next_end(&watching.report(MINUTE));
        assert_eq!(end, Some(Duration::from_secs(30)));
        let unwatch = |peer: &str| LogCommand::Unwatch {
            peer: peer.to_owned(),
        };
        assert_eq!(
            watching.command(unwatch("4"), MINUTE),
            Err("4 is not watched".to_owned())
        );
        watching.command(unwatch("3"), MINUTE).expect("is watched");
        assert_eq!(next_end(&watching.report(MINUTE)), None);
    }

    #[test]
    fn a_level_returns_by_itself_and_trace_is_everybody() {
        let watching = Watching::new(log::of_nobody(LogConfig::default()));
        let command = LogCommand::Level {
            level: LogLevel::Trace,
            lasting: Some(MINUTE),
        };
        watching.command(command, Duration::ZERO).expect("a level");
        let report = watching.report(Duration::ZERO);
        assert_eq!(whose(&report), [Watched::Everybody]);
        assert_eq!(next_end(&report), Some(MINUTE));
        let report = watching.report(MINUTE);
        assert_eq!(report.state.level, LogLevel::Info);
        assert_eq!((whose(&report), next_end(&report)), (vec![], None));
        watching.configure(LogLevel::Warn);
        assert_eq!(watching.report(MINUTE).state.level, LogLevel::Warn);
    }
}
