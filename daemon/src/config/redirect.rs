//! Who goes to another gateway (RFC 5685): `[redirect]` for a gateway as a whole, and what a connection
//! says of it.

use std::time::Duration;

use ike::{peer::Redirection, wire::redirect::GatewayId};

use super::{
    document::quoted,
    section::{Entry, Section},
    settings::set,
};

/// `patience` when it is not given.
const DEFAULT_PATIENCE: Duration = Duration::from_mins(1);
/// Bounds of `patience`.
const PATIENCE_BOUNDS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(24));

/// `[redirect]`: the way out of this gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RedirectConfig {
    /// Where every client is sent that calls; `None` for nowhere.
    pub to: Option<GatewayId>,
    /// How long a client keeps its SA that has been told to go.
    pub patience: Duration,
}

impl Default for RedirectConfig {
    fn default() -> Self {
        Self {
            to: None,
            patience: DEFAULT_PATIENCE,
        }
    }
}

impl RedirectConfig {
    pub(super) const KEYS: &[&str] = &["patience", "to"];

    pub(super) fn take(&mut self, section: &Section<'_>) {
        set(&mut self.to, section, "to", |entry| {
            gateway(entry).map(Some)
        });
        let (least, most) = PATIENCE_BOUNDS;
        set(&mut self.patience, section, "patience", |entry| {
            entry.duration(least, most)
        });
    }
}

/// Whether a client follows.
pub(super) fn conduct(entry: &Entry<'_>) -> Option<Redirection> {
    entry.choice(&[
        ("follow", Redirection::Follow),
        ("ignore", Redirection::Ignore),
    ])
}

/// The address or name of a gateway.
pub(super) fn gateway(entry: &Entry<'_>) -> Option<GatewayId> {
    let text = entry.string()?;
    let gateway = GatewayId::from_text(text);
    if gateway.is_none() {
        entry.fail(format!(
            "{} is no gateway's address or name; write 198.51.100.2 or gw2.example",
            quoted(text)
        ));
    }
    gateway
}
