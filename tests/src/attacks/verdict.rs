//! What an attack must not achieve: a metric, its limit in each mode, and the row that says whether it
//! was kept.

use std::{fmt, thread};

use gate_abi::defence::{Budget, Level};
use serde::Serialize;

use super::{Attack, client::Attempts, measure::Facts};

/// What stands between the attack and the core.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The gate, and the daemon's own defences behind it.
    Gate,
    /// The daemon's own defences.
    User,
    /// Nobody is asked for a cookie. For contrast.
    Off,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::Gate, Self::User, Self::Off];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::User => "user",
            Self::Off => "off",
        }
    }
}

/// What shows whether an attack was warded off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Metric {
    /// The share of the client's attempts that came to an IKE SA in time; at least.
    LegitSuccess,
    /// Half-open SAs at once.
    HalfOpen(u64),
    /// Answers to tickets that are no good, each of which has a budget.
    Nacks(Budget),
    /// Tickets whose sealed body was opened in vain.
    BodiesOpened(u64),
    /// Half-open SAs that the attacker was given in all.
    Opened(u64),
    /// Datagrams that woke the daemon.
    ReachedDaemon,
    /// Octets that came back for each one sent.
    OctetsBack,
    /// Octets in the kernel's reassembly of IP fragments.
    Reassembly(u64),
    /// Answers to messages for SAs that are not there.
    UnknownSpiAnswers,
    /// Octets of log in a second.
    Log(u32),
    /// By how much the gate's maps have grown.
    MapGrowth,
    /// Processes that ended.
    Restarts,
    /// Logins of the client that failed, or that had a good ticket and could not use it.
    Rejects,
}

impl Metric {
    /// As in JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::LegitSuccess => "legit_success",
            Self::HalfOpen(_) => "half_open_most",
            Self::Nacks(_) => "answers",
            Self::BodiesOpened(_) => "bodies_opened_in_vain",
            Self::Opened(_) => "half_open_by_laundered_cookie",
            Self::ReachedDaemon => "reached_daemon",
            Self::OctetsBack => "octets_back_per_octet",
            Self::Reassembly(_) => "reassembly_octets",
            Self::UnknownSpiAnswers => "unknown_spi_answers",
            Self::Log(_) => "log_octets_per_second",
            Self::MapGrowth => "map_growth_octets",
            Self::Restarts => "restarts",
            Self::Rejects => "legit_rejects",
        }
    }

    fn limit(self, success: f64, mode: Mode, facts: &Facts) -> f64 {
        // Seconds begin when the counting CPU, or the daemon, likes.
        let seconds = facts.took.as_secs() + 2;
        match self {
            Self::LegitSuccess => success,
            Self::HalfOpen(most)
            | Self::BodiesOpened(most)
            | Self::Opened(most)
            | Self::Reassembly(most) => real(most),
            Self::Nacks(budget) if mode == Mode::Gate => {
                let cpus = thread::available_parallelism().map_or(1, usize::from) as u64;
                real(seconds * cpus * budget.per_second(Level::Calm))
            }
            Self::Nacks(_) | Self::UnknownSpiAnswers => real(seconds * DAEMON_ANSWERS_PER_SECOND),
            Self::OctetsBack => 1.0,
            Self::Log(most) => f64::from(most),
            Self::ReachedDaemon | Self::MapGrowth | Self::Restarts | Self::Rejects => 0.0,
        }
    }

    fn measured(self, facts: &Facts) -> f64 {
        let Attempts { made, up, anew, .. } = &facts.client;
        match self {
            Self::LegitSuccess => facts.client.success(),
            Self::HalfOpen(_) => real(facts.peaks.half_open),
            Self::Nacks(_) | Self::UnknownSpiAnswers => real(facts.answers),
            Self::BodiesOpened(_) => real(facts.bodies_opened()),
            Self::Opened(_) => real(facts.opened),
            Self::ReachedDaemon => real(facts.reached_daemon),
            Self::OctetsBack => real(facts.octets[0]) / real(facts.octets[1].max(1)),
            Self::Reassembly(_) => real(facts.peaks.reassembly),
            Self::Log(_) => facts.log / facts.took.as_secs_f64(),
            Self::MapGrowth => real(facts.map_growth),
            Self::Restarts => real(facts.restarts),
            Self::Rejects => f64::from(made - up.len() as u32 + anew),
        }
    }
}

/// One line of the matrix.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    attack: u8,
    mode: Mode,
    sent: u64,
    reached_daemon: u64,
    /// 0 to 1.
    legit_success: f64,
    /// Of the attempts that worked; nothing if none did.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    memory_growth_bytes: u64,
    metric: &'static str,
    limit: f64,
    measured: f64,
    pass: bool,
    #[serde(skip)]
    attempts: u32,
    #[serde(skip)]
    verdicts: String,
}

impl Row {
    /// Judges. Besides its metric every row has to show that the client was served.
    pub(super) fn judge(attack: &Attack, mode: Mode, facts: &Facts) -> Self {
        let metric = attack.metric;
        let limit = metric.limit(attack.success, mode, facts);
        let measured = metric.measured(facts);
        let kept = match metric {
            Metric::LegitSuccess => measured >= limit,
            _ => measured <= limit,
        };
        let success = facts.client.success();
        let verdicts = facts.verdicts.iter();
        let verdicts: Vec<String> = verdicts
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        Self {
            attack: attack.number,
            mode,
            sent: facts.sent,
            reached_daemon: facts.reached_daemon,
            legit_success: to_thousandths(success),
            p50_ms: facts.client.percentile(50).map(to_thousandths),
            p99_ms: facts.client.percentile(99).map(to_thousandths),
            memory_growth_bytes: facts.memory_growth,
            metric: metric.name(),
            limit,
            measured: to_thousandths(measured),
            pass: kept && success >= attack.success,
            attempts: facts.client.made,
            verdicts: verdicts.join(", "),
        }
    }

    /// Whether it is as it should be, or only there for contrast.
    pub(super) fn good(&self) -> bool {
        self.pass || self.mode == Mode::Off
    }
}

/// What the columns of a row mean.
pub(super) const HEADER: &str = "attack mode       sent    reached  memory KB  client (of)     \
     p50 ms    p99 ms  metric, measured, limit, pass";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<f64>| time.map_or_else(|| "-".into(), |time| format!("{time:.1}"));
        writeln!(
            f,
            "{:>6} {:<5} {:>9} {:>10} {:>10}  {:>5.1} % ({:>3}) {:>9} {:>9}  {} {} (limit {}): {}",
            self.attack,
            self.mode.word(),
            self.sent,
            self.reached_daemon,
            self.memory_growth_bytes >> 10,
            self.legit_success * 100.0,
            self.attempts,
            time(self.p50_ms),
            time(self.p99_ms),
            self.metric,
            self.measured,
            self.limit,
            if self.pass { "pass" } else { "FAIL" },
        )?;
        write!(f, "             {}", self.verdicts)
    }
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
pub(super) const fn real(count: u64) -> f64 {
    count as f64
}

pub(super) fn to_thousandths(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// Of the daemon without a gate: to refused tickets, and to unknown SPIs (RFC 6290).
const DAEMON_ANSWERS_PER_SECOND: u64 = 4000;
