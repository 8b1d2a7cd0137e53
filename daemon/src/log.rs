//! The log: a line for each outcome, as text for people or as JSON for programs, and how much of it there
//! is, which an operator changes while the daemon runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::{
    Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::RecordFields,
    fmt::{FormatFields, MakeWriter, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// What a filter of `tracing`'s own that is set here says, it says instead of the configuration.
const FILTER: &str = "REKINDLE_LOG";

/// Target of the messages of watched peers: somebody has asked for them, whatever the level.
pub const OVERHEARD: &str = "overheard";

/// Field of a line that tells of an outcome, with its name for programs. Whatever other fields such a line has,
/// its text says in words.
const OUTCOME: &str = "event";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("log: {0}")]
pub struct LogError(String);

/// The log of this process.
#[derive(Clone, Debug)]
pub struct Log(Arc<Mutex<Turned>>);

#[derive(Debug)]
struct Turned {
    filter: reload::Handle<EnvFilter, Registry>,
    configured: LogLevel,
    /// Until when, on whichever clock the caller has.
    chosen: Option<(LogLevel, Option<Duration>)>,
}

/// How much is logged now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogState {
    /// What counts.
    pub level: LogLevel,
    /// What the configuration says.
    pub configured: LogLevel,
    /// How long until that counts again; `None` if it does, or not before somebody says so.
    pub left: Option<Duration>,
}

impl Log {
    /// Logs to standard error from now on.
    pub fn start(config: LogConfig) -> Result<Self, LogError> {
        let filter = match std::env::var(FILTER) {
            Ok(fixed) => {
                EnvFilter::try_new(fixed).map_err(|error| LogError(format!("{FILTER}: {error}")))?
            }
            Err(_) => filter_of(config.level),
        };
        let (filter, handle) = reload::Layer::new(filter);
        let lines = lines(config.format, std::io::stderr);
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .map_err(|error| LogError(error.to_string()))?;
        Ok(Self::turned_by(handle, config))
    }

    fn turned_by(filter: reload::Handle<EnvFilter, Registry>, config: LogConfig) -> Self {
        Self(Arc::new(Mutex::new(Turned {
            filter,
            configured: config.level,
            chosen: None,
        })))
    }

    /// The level of the configuration has changed. It counts unless another one was chosen.
    pub fn configure(&self, level: LogLevel) {
        let mut turned = self.turned();
        if turned.configured != level {
            turned.configured = level;
            turned.apply();
        }
    }

    /// This level counts from now on, until then if that is given; without one, the configuration's.
    pub fn choose(&self, chosen: Option<(LogLevel, Option<Duration>)>) {
        let mut turned = self.turned();
        turned.chosen = chosen;
        turned.apply();
    }

    /// Lets a choice go whose time is over.
    pub fn expire(&self, now: Duration) {
        let mut turned = self.turned();
        if matches!(turned.chosen, Some((_, Some(until))) if until <= now) {
            turned.chosen = None;
            turned.apply();
        }
    }

    /// What counts.
    #[must_use]
    pub fn state(&self, now: Duration) -> LogState {
        let turned = self.turned();
        let until = turned.chosen.and_then(|(_, until)| until);
        LogState {
            level: turned.level(),
            configured: turned.configured,
            left: until.map(|until| until.saturating_sub(now)),
        }
    }

    fn turned(&self) -> std::sync::MutexGuard<'_, Turned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turned {
    fn level(&self) -> LogLevel {
        self.chosen.map_or(self.configured, |(level, _)| level)
    }

    fn apply(&self) {
        // Fails only if there is no subscriber any more.
        let _gone = self.filter.reload(filter_of(self.level()));
    }
}

fn filter_of(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("{},{OVERHEARD}=info", level.word()))
}

/// One that nobody reads.
#[cfg(test)]
pub(crate) fn of_nobody(config: LogConfig) -> Log {
    let (_unread, handle) = reload::Layer::new(filter_of(config.level));
    Log::turned_by(handle, config)
}

/// What makes lines of events, in the form that is asked for.
fn lines<S, W>(format: LogFormat, to: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(to);
    match format {
        LogFormat::Text => layer.fmt_fields(Words).boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    }
}

/// A line as people read it: nobody wants to read the same thing twice.
struct Words;

impl<'writer> FormatFields<'writer> for Words {
    fn format_fields<R: RecordFields>(&self, to: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = Line {
            to,
            is_outcome: false,
            written: Ok(()),
        };
        fields.record(&mut line);
        line.written
    }
}

struct Line<'writer> {
    to: Writer<'writer>,
    is_outcome: bool,
    written: fmt::Result,
}

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let to = &mut self.to;
        let written = match field.name() {
            "message" => write!(to, "{value:?}"),
            OUTCOME => {
                self.is_outcome = true;
                return;
            }
            _ if self.is_outcome => return,
            name => write!(to, " {name}={value:?}"),
        };
        self.written = self.written.and(written);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use serde_json::Value;
    use tracing::{info, subscriber::with_default, warn};

    use super::*;

    /// Lines as they come.
    #[derive(Clone, Default)]
    struct Sheet(Arc<Mutex<Vec<u8>>>);

    impl Write for Sheet {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("sheet").extend(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: LogFormat, say: impl FnOnce()) -> String {
        let sheet = Sheet::default();
        let to = sheet.clone();
        let layer = lines(format, move || to.clone());
        with_default(tracing_subscriber::registry().with(layer), say);
        let octets = sheet.0.lock().expect("sheet").clone();
        String::from_utf8(octets).expect("text")
    }

    fn say() {
        info!(
            event = "established",
            connection = "rw",
            sa = 17,
            resumed = true,
            "rw[17] alice: established (resumed, 4 ms)"
        );
        warn!(orphans = 2, sa = 3, "said \"so\"\nand so");
    }

    #[test]
    fn text_says_nothing_twice_and_leaves_nothing_out() {
        let text = written(LogFormat::Text, say);
        let (first, second) = text.split_once('\n').expect("lines");
        assert!(
            first.ends_with("rw[17] alice: established (resumed, 4 ms)"),
            "{first}"
        );
        assert!(second.ends_with(" orphans=2 sa=3\n"), "{second}");
    }

    #[test]
    fn json_is_an_object_a_line_with_every_field_by_itself() {
        let text = written(LogFormat::Json, say);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let [first, second] = &lines[..] else {
            panic!("two lines: {text}");
        };
        assert_eq!(first["level"], "INFO");
        assert_eq!(first["event"], "established");
        assert_eq!(first["connection"], "rw");
        assert_eq!(first["sa"], 17);
        assert_eq!(first["resumed"], true);
        assert_eq!(
            first["message"],
            "rw[17] alice: established (resumed, 4 ms)"
        );
        assert_eq!(second["orphans"], 2);
        assert_eq!(second["message"], "said \"so\"\nand so");
    }
}
