//! `[connections.NAME.children.NAME]` to [`ike::peer::Child`].

use std::{sync::Arc, time::Duration};

use ike::{peer::Child, wire::ts::TrafficSelector};

use super::{
    connection::{LIFETIME_BOUNDS, bad_name, is_name, rekey_time, time},
    document::quoted,
    proposal,
    section::{Entry, Section},
};

/// `life_time` when it is not given.
pub const DEFAULT_CHILD_LIFETIME: Duration = Duration::from_hours(24);
/// `rekey_time` when it is not given, as swanctl has it; sooner if the lifetime is short.
const DEFAULT_CHILD_REKEY: Duration = Duration::from_hours(1);
/// In the place of a network: whatever address is leased.
const DYNAMIC: &str = "dynamic";
pub(super) const CHILD_KEYS: &[&str] = &[
    "esp_proposals",
    "life_time",
    "local_ts",
    "rekey_time",
    "remote_ts",
];

/// The only one of `children`; `asks` for addresses and `leases` say what `dynamic` may stand for.
pub(super) fn child(section: &Section<'_>, asks: bool, leases: bool) -> Option<Child> {
    let Some(children) = section.entry("children") else {
        section.fail(
            "children",
            "is missing; add a table children.NAME with local_ts and remote_ts",
        );
        return None;
    };
    let children = children.table()?;
    let mut entries = children.entries().into_iter();
    let (first, second) = (entries.next(), entries.next());
    let Some((name, entry)) = first else {
        children.fail("", "is empty; add a table NAME with local_ts and remote_ts");
        return None;
    };
    if let Some((_, second)) = second {
        second.fail("a connection has exactly one child in this release; make another connection");
        return None;
    }
    let name_is_good = is_name(name);
    if !name_is_good {
        entry.fail(bad_name());
    }
    let section = entry.table()?.only(CHILD_KEYS);
    let local_ts = selectors(&section, "local_ts", asks.then_some("vips"));
    let remote_ts = selectors(&section, "remote_ts", leases.then_some("pools"));
    let ciphers = match section.entry("esp_proposals") {
        Some(entry) => proposal::ciphers(&entry),
        None => Some(proposal::default_ciphers()),
    };
    let lifetime = time(
        &section,
        "life_time",
        DEFAULT_CHILD_LIFETIME,
        LIFETIME_BOUNDS,
    );
    let rekey = rekey_time(&section, ("life_time", lifetime), DEFAULT_CHILD_REKEY);
    let ((local_ts, local_dynamic), (remote_ts, remote_dynamic)) = (local_ts?, remote_ts?);
    name_is_good.then_some(Child {
        name: Arc::from(name),
        local_ts,
        local_dynamic,
        remote_ts,
        remote_dynamic,
        ciphers: ciphers?,
        lifetime: lifetime?,
        rekey: rekey?,
    })
}

/// Networks, and whether `dynamic` is among them: what is leased, which `because` of this key there is.
fn selectors(
    section: &Section<'_>,
    key: &str,
    because: Option<&str>,
) -> Option<(Vec<TrafficSelector>, bool)> {
    let Some(entry) = section.entry(key) else {
        if because.is_some() {
            return Some((Vec::new(), true));
        }
        section.fail(key, "is missing; write networks, [\"10.1.0.0/24\"]");
        return None;
    };
    let texts = entry.strings()?;
    if !(1..=TrafficSelector::MAX).contains(&texts.len()) {
        entry.fail(format!("takes 1 to {} networks", TrafficSelector::MAX));
        return None;
    }
    let (dynamic, networks): (Vec<_>, Vec<_>) =
        texts.iter().partition(|(text, _)| *text == DYNAMIC);
    match (dynamic.first(), because) {
        (Some((_, element)), None) => {
            element.fail(
                "\"dynamic\" is what vips asks for or pools leases, and there is neither; \
                 write networks",
            );
            return None;
        }
        (None, Some(because)) => {
            entry.fail(format!(
                "leaves out the addresses that {because} is about; add \"dynamic\" or drop {key}"
            ));
            return None;
        }
        _ => {}
    }
    let read = |(text, element): &&(&str, Entry<'_>)| {
        let selector = TrafficSelector::from_text(text);
        if selector.is_none() {
            element.fail(format!(
                "{} is not a network; write 10.1.0.0/24",
                quoted(text)
            ));
        }
        selector
    };
    let networks: Vec<_> = networks.iter().map(read).collect();
    let networks: Option<Vec<_>> = networks.into_iter().collect();
    networks.map(|networks| (networks, because.is_some()))
}
