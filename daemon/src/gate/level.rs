//! Chooses the level of defence from what the gate has counted. Up at once, down after a while of
//! quiet, and not at the rate it went up at: a level that flaps costs honest clients more than one
//! that stays.

use std::time::Duration;

use gate_abi::defence::Level;

/// Between two looks at the counters.
pub const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// First messages without proof in a second from which on networks that send many need a cookie.
pub(super) const GUARDED_FROM: u64 = 200;
/// From which on everybody does. A core makes about so many full logins in a second.
pub(super) const ATTACK_FROM: u64 = 1000;
/// Half-open IKE SAs from which on the same holds, whatever comes in a second: a quarter of what a
/// gateway keeps, and half of it.
const HALF_OPEN_GUARDED: u64 = 2048;
const HALF_OPEN_ATTACK: u64 = 4096;
/// How long what has proved nothing waits to be read, from which on the same holds. A client repeats its
/// message after half a second or more, and each repetition makes the queue longer.
const DELAY_GUARDED: Duration = Duration::from_millis(100);
const DELAY_ATTACK: Duration = Duration::from_millis(400);
/// Samples in a row above a limit, so that one burst of clients is no attack.
const SAMPLES_UP: u32 = 2;
/// A level is left below this share of what it is entered at.
const LEAVE_DIVISOR: u64 = 2;
/// How long it has to be that quiet.
const GUARDED_QUIET: Duration = Duration::from_secs(10);
const ATTACK_QUIET: Duration = Duration::from_secs(30);

/// `[flood] mode`, or what an operator has set for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloodMode {
    /// The level follows what comes in.
    #[default]
    Auto,
    /// Always this one.
    Fixed(Level),
    /// Nobody is ever asked for a cookie. For measuring.
    Off,
}

impl FloodMode {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Fixed(Level::Calm),
        Self::Fixed(Level::Guarded),
        Self::Fixed(Level::Attack),
        Self::Off,
    ];

    /// Reads what [`Self::word`] writes.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }

    /// As the configuration writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fixed(level) => level.name(),
            Self::Off => "off",
        }
    }
}

/// The level, and how it came about.
#[derive(Clone, Debug)]
pub struct LevelChoice {
    mode: FloodMode,
    configured: FloodMode,
    /// When the configured mode counts again, if an operator has set another.
    set_until: Option<Duration>,
    level: Level,
    since: Duration,
    why: String,
    /// When the counters were last looked at, and what they said.
    last: Option<(Duration, u64)>,
    per_second: u64,
    half_open: u64,
    delay: Duration,
    /// Samples in a row that ask for each level above the lowest.
    above: [u32; 2],
    quiet_since: Option<Duration>,
}

impl LevelChoice {
    /// The lowest level, or the one that is configured.
    #[must_use]
    pub fn new(mode: FloodMode, now: Duration) -> Self {
        let level = match mode {
            FloodMode::Fixed(level) => level,
            FloodMode::Auto | FloodMode::Off => Level::Calm,
        };
        Self {
            mode,
            configured: mode,
            set_until: None,
            level,
            since: now,
            why: match mode {
                FloodMode::Auto => "few first messages without proof".into(),
                FloodMode::Fixed(_) | FloodMode::Off => "set in the configuration".into(),
            },
            last: None,
            per_second: 0,
            half_open: 0,
            delay: Duration::ZERO,
            above: [0; 2],
            quiet_since: None,
        }
    }

    /// Takes a sample: how many first messages without proof there have been in all, how many IKE SAs
    /// are half-open, and how long what has proved nothing waits to be read. `true` if the level is
    /// another one now.
    pub fn observe(
        &mut self,
        now: Duration,
        unproven: u64,
        half_open: u64,
        delay: Duration,
    ) -> bool {
        self.half_open = half_open;
        self.delay = delay;
        let is_back = self.set_until.is_some_and(|until| now >= until);
        if is_back {
            self.unset(now);
        }
        let Some((before, counted)) = self.last.replace((now, unproven)) else {
            return is_back;
        };
        let milliseconds = now.saturating_sub(before).as_millis().max(1) as u64;
        // Counters that were made anew begin at zero.
        let more = unproven.checked_sub(counted).unwrap_or(unproven);
        self.per_second = more.saturating_mul(1000) / milliseconds;
        if is_back || self.mode != FloodMode::Auto {
            return is_back;
        }
        let rate = self.per_second;
        for (samples, level) in self.above.iter_mut().zip([Level::Guarded, Level::Attack]) {
            let above =
                rate >= entered_at(level) || half_open >= full_at(level) || delay >= slow_at(level);
            *samples = if above { *samples + 1 } else { 0 };
        }
        let [guarded, attack] = self.above.map(|samples| samples >= SAMPLES_UP);
        let wanted = match (guarded, attack) {
            (_, true) => Level::Attack,
            (true, false) => Level::Guarded,
            (false, false) => Level::Calm,
        };
        if wanted > self.level {
            let (what, from) = if rate >= entered_at(wanted) {
                let what = format!("{rate} first messages a second without proof");
                (what, entered_at(wanted))
            } else if half_open >= full_at(wanted) {
                (format!("{half_open} half-open IKE SAs"), full_at(wanted))
            } else {
                let what = format!("{} ms in the queue", delay.as_millis());
                (what, slow_at(wanted).as_millis() as u64)
            };
            let why = format!("{what}; {} from {from}", wanted.name());
            return self.enter(wanted, now, why);
        }
        self.calm_down(now)
    }

    /// Has another mode count until then. Under `auto` the level is left as it is, to follow what comes in.
    pub fn set(&mut self, mode: FloodMode, until: Duration, now: Duration) {
        self.set_until = Some(until);
        self.count_by(mode, now, "set by the operator");
    }

    /// Has the configured mode count again.
    pub fn unset(&mut self, now: Duration) {
        if self.set_until.take().is_some() {
            self.count_by(self.configured, now, "no longer set by the operator");
        }
    }

    fn count_by(&mut self, mode: FloodMode, now: Duration, why: &str) {
        self.mode = mode;
        self.above = [0; 2];
        let level = match mode {
            FloodMode::Fixed(level) => level,
            FloodMode::Auto => self.level,
            FloodMode::Off => Level::Calm,
        };
        self.enter(level, now, why.into());
    }

    fn calm_down(&mut self, now: Duration) -> bool {
        let (below, quiet) = match self.level {
            Level::Calm => return false,
            Level::Guarded => (Level::Calm, GUARDED_QUIET),
            Level::Attack => (Level::Guarded, ATTACK_QUIET),
        };
        let limit = entered_at(self.level) / LEAVE_DIVISOR;
        if self.per_second >= limit
            || self.half_open >= full_at(self.level) / LEAVE_DIVISOR
            || self.delay >= slow_at(self.level) / LEAVE_DIVISOR as u32
        {
            self.quiet_since = None;
            return false;
        }
        let since = *self.quiet_since.get_or_insert(now);
        if now.saturating_sub(since) < quiet {
            return false;
        }
        let seconds = quiet.as_secs();
        let why =
            format!("fewer than {limit} first messages a second without proof for {seconds} s");
        self.enter(below, now, why)
    }

    fn enter(&mut self, level: Level, now: Duration, why: String) -> bool {
        self.level = level;
        self.since = now;
        self.why = why;
        self.quiet_since = None;
        true
    }

    /// What the gate is to be told; `None` asks nobody for a cookie.
    #[must_use]
    pub fn told(&self) -> Option<Level> {
        (self.mode != FloodMode::Off).then_some(self.level)
    }

    /// How long what an operator has set counts; `None` if that is nothing.
    #[must_use]
    pub fn set_for(&self, now: Duration) -> Option<Duration> {
        Some(self.set_until?.saturating_sub(now))
    }

    /// As configured, or as set.
    #[must_use]
    pub const fn mode(&self) -> FloodMode {
        self.mode
    }

    /// The level.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// Since when, on the boot clock.
    #[must_use]
    pub const fn since(&self) -> Duration {
        self.since
    }

    /// Why, for people.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// How long what has proved nothing waited to be read at the last sample.
    #[must_use]
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// First messages without proof in the second of the last sample.
    #[must_use]
    pub const fn per_second(&self) -> u64 {
        self.per_second
    }
}

const fn entered_at(level: Level) -> u64 {
    match level {
        Level::Calm => 0,
        Level::Guarded => GUARDED_FROM,
        Level::Attack => ATTACK_FROM,
    }
}

const fn full_at(level: Level) -> u64 {
    match level {
        Level::Calm => 0,
        Level::Guarded => HALF_OPEN_GUARDED,
        Level::Attack => HALF_OPEN_ATTACK,
    }
}

const fn slow_at(level: Level) -> Duration {
    match level {
        Level::Calm => Duration::ZERO,
        Level::Guarded => DELAY_GUARDED,
        Level::Attack => DELAY_ATTACK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run {
        choice: LevelChoice,
        now: Duration,
        total: u64,
        half_open: u64,
        delay: Duration,
    }

    impl Run {
        fn new(mode: FloodMode) -> Self {
            let mut choice = LevelChoice::new(mode, Duration::ZERO);
            choice.observe(Duration::ZERO, 0, 0, Duration::ZERO);
            Self {
                choice,
                now: Duration::ZERO,
                total: 0,
                half_open: 0,
                delay: Duration::ZERO,
            }
        }

        /// Level after so many samples at a rate.
        fn at(&mut self, per_second: u64, samples: u32) -> Level {
            for _ in 0..samples {
                self.now += SAMPLE_EVERY;
                self.total += per_second / 2;
                self.choice
                    .observe(self.now, self.total, self.half_open, self.delay);
            }
            self.choice.level()
        }
    }

    #[test]
    fn it_goes_up_with_the_second_sample_and_down_step_by_step() {
        let mut run = Run::new(FloodMode::Auto);
        assert_eq!(run.at(5000, 1), Level::Calm);
        assert_eq!(run.at(5000, 1), Level::Attack);
        assert!(run.choice.why().contains("5000"), "{}", run.choice.why());
        // 30 s of quiet, then 10.
        assert_eq!(run.at(10, 60), Level::Attack);
        assert_eq!(run.at(10, 1), Level::Guarded);
        assert_eq!(run.at(10, 20), Level::Guarded);
        assert_eq!(run.at(10, 1), Level::Calm);
    }

    #[test]
    fn between_the_two_limits_of_a_level_nothing_changes() {
        let mut run = Run::new(FloodMode::Auto);
        assert_eq!(run.at(150, 200), Level::Calm);
        assert_eq!(run.at(250, 2), Level::Guarded);
        assert_eq!(run.at(150, 200), Level::Guarded);
        assert_eq!(run.at(1000, 2), Level::Attack);
        assert_eq!(run.at(600, 200), Level::Attack);
        // Almost quiet for long enough, and again from the start.
        assert_eq!(run.at(10, 59), Level::Attack);
        assert_eq!(run.at(600, 1), Level::Attack);
        assert_eq!(run.at(10, 60), Level::Attack);
        assert_eq!(run.at(10, 1), Level::Guarded);
    }

    #[test]
    fn half_open_sas_count_too_until_they_are_gone() {
        let mut run = Run::new(FloodMode::Auto);
        run.half_open = HALF_OPEN_GUARDED;
        assert_eq!(run.at(10, 2), Level::Guarded);
        assert!(
            run.choice.why().starts_with("2048 half-open"),
            "{}",
            run.choice.why()
        );
        run.half_open = HALF_OPEN_ATTACK;
        assert_eq!(run.at(10, 2), Level::Attack);
        run.half_open = HALF_OPEN_ATTACK / 2;
        assert_eq!(run.at(10, 200), Level::Attack);
        run.half_open = 0;
        assert_eq!(run.at(10, 61), Level::Guarded);
        assert_eq!(run.at(10, 21), Level::Calm);
    }

    #[test]
    fn a_long_queue_counts_too_until_it_is_short() {
        let mut run = Run::new(FloodMode::Auto);
        run.delay = DELAY_GUARDED / 2;
        assert_eq!(run.at(10, 100), Level::Calm);
        run.delay = DELAY_GUARDED;
        assert_eq!(run.at(10, 1), Level::Calm);
        assert_eq!(run.at(10, 1), Level::Guarded);
        assert_eq!(run.choice.why(), "100 ms in the queue; guarded from 100",);
        run.delay = DELAY_ATTACK;
        assert_eq!(run.at(10, 2), Level::Attack);
        run.delay = DELAY_ATTACK / 2;
        assert_eq!(run.at(10, 200), Level::Attack);
        run.delay = DELAY_GUARDED / 4;
        assert_eq!(run.at(10, 61), Level::Guarded);
        assert_eq!(run.at(10, 21), Level::Calm);
    }

    #[test]
    fn single_bursts_do_not_add_up() {
        let mut run = Run::new(FloodMode::Auto);
        for _ in 0..100 {
            assert_eq!(run.at(5000, 1), Level::Calm);
            assert_eq!(run.at(0, 1), Level::Calm);
        }
    }

    #[test]
    fn a_configured_level_stays() {
        for level in Level::ALL {
            let mut run = Run::new(FloodMode::Fixed(level));
            assert_eq!(run.at(100_000, 10), level);
            assert_eq!((run.at(0, 1000), run.choice.told()), (level, Some(level)));
        }
        let mut off = Run::new(FloodMode::Off);
        off.at(100_000, 10);
        assert_eq!(off.choice.told(), None);
        assert_eq!(off.choice.per_second(), 100_000);
    }

    #[test]
    fn what_is_set_counts_for_its_time_and_then_what_is_configured() {
        let mut run = Run::new(FloodMode::Auto);
        let attack = FloodMode::Fixed(Level::Attack);
        run.choice.set(attack, Duration::from_secs(5), run.now);
        assert_eq!(run.choice.told(), Some(Level::Attack));
        assert_eq!(run.at(0, 9), Level::Attack);
        assert_eq!(run.choice.set_for(run.now), Some(SAMPLE_EVERY));
        // From there it calms down as it would after a flood.
        assert_eq!(run.at(0, 1), Level::Attack);
        assert_eq!(
            (run.choice.mode(), run.choice.set_for(run.now)),
            (FloodMode::Auto, None)
        );
        assert_eq!(run.at(0, 61), Level::Guarded);
        // A configured level is there at once.
        let mut fixed = Run::new(FloodMode::Fixed(Level::Guarded));
        fixed
            .choice
            .set(FloodMode::Off, Duration::from_hours(1), fixed.now);
        assert_eq!(fixed.choice.told(), None);
        fixed.choice.unset(fixed.now);
        assert_eq!(fixed.choice.told(), Some(Level::Guarded));
        for mode in FloodMode::ALL {
            assert_eq!(FloodMode::from_word(mode.word()), Some(mode));
        }
    }

    #[test]
    fn counters_that_begin_anew_are_no_flood() {
        let mut choice = LevelChoice::new(FloodMode::Auto, Duration::ZERO);
        choice.observe(Duration::ZERO, 1_000_000, 0, Duration::ZERO);
        choice.observe(SAMPLE_EVERY, 3, 0, Duration::ZERO);
        assert_eq!(choice.per_second(), 6);
    }
}
