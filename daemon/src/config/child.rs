//! `[connections.NAME.children.NAME]` to [`ike::peer::Child`].

use std::{sync::Arc, time::Duration};

use ike::{
    kernel::{Carriage, Mark, Mode},
    peer::{Child, Connection, Start},
    wire::ts::TrafficSelector,
};

use super::{
    carriage,
    connection::{LIFETIME_BOUNDS, bad_name, is_name, optional, rekey_time, time},
    document::quoted,
    interface::{self, Claim},
    proposal,
    section::{Entry, Section},
};
use crate::kernel;

/// `life_time` when it is not given.
pub const DEFAULT_CHILD_LIFETIME: Duration = Duration::from_hours(24);
/// `rekey_time` when it is not given, as swanctl has it; sooner if the lifetime is short.
const DEFAULT_CHILD_REKEY: Duration = Duration::from_hours(1);
/// In the place of a network: whatever address is leased.
const DYNAMIC: &str = "dynamic";
pub(super) const KEYS: [&str; 7] = [
    "esp_proposals",
    "interface",
    "life_time",
    "local_ts",
    "rekey_time",
    "remote_ts",
    "start",
];

/// All of `children`, in the order of the file; `asks` for addresses and `leases` say what `dynamic` may
/// stand for. Interfaces that are to be made go to `claims`.
pub(super) fn children<'a>(
    section: &Section<'a>,
    asks: bool,
    leases: bool,
    claims: &mut Vec<Claim<'a>>,
) -> Option<Vec<Child>> {
    let Some(children) = section.entry("children") else {
        section.fail(
            "children",
            "is missing; add a table children.NAME with local_ts and remote_ts",
        );
        return None;
    };
    let children = children.table()?;
    let entries = children.entries();
    if !(1..=Connection::MAX_CHILDREN).contains(&entries.len()) {
        let most = Connection::MAX_CHILDREN;
        children.fail(
            "",
            format!("needs 1 to {most} tables NAME with local_ts and remote_ts"),
        );
        return None;
    }
    let read = |(name, entry)| child(name, entry, asks, leases, claims);
    // Every one is looked at, so that each problem is noted.
    let read: Vec<_> = entries.into_iter().map(read).collect();
    let read: Vec<_> = read.into_iter().collect::<Option<_>>()?;
    apart(&children, &read).then_some(read)
}

/// Whether no two children are for the same traffic: of each selector on one side with each on the other
/// there is one policy in the kernel for each mark and interface, and the Child SA that comes last would
/// have it.
fn apart(section: &Section<'_>, children: &[Child]) -> bool {
    let mut sound = true;
    for (at, child) in children.iter().enumerate() {
        let others = children.iter().take(at);
        for other in others.filter(|other| !told_apart(&child.carriage, &other.carriage)) {
            let local = shared(
                (&child.local_ts, child.local_dynamic),
                (&other.local_ts, other.local_dynamic),
            );
            let remote = shared(
                (&child.remote_ts, child.remote_dynamic),
                (&other.remote_ts, other.remote_dynamic),
            );
            let (Some(local), Some(remote)) = (local, remote) else {
                continue;
            };
            let what = format!(
                "has {local} to {remote} as child {} has; take it out of one of them, or tell them apart by \
                 protocol, port, mark or interface",
                other.name
            );
            sound = false;
            let table = section.entry(&child.name).and_then(Entry::table);
            let place = table.as_ref().and_then(|table| table.entry("local_ts"));
            match (place, table) {
                (Some(entry), _) => entry.fail(what),
                (None, Some(table)) => table.fail("", what),
                (None, None) => section.fail(&child.name, what),
            }
        }
    }
    sound
}

/// Whether a packet's mark or interface says which of two children it is for, both ways.
fn told_apart(one: &Carriage, other: &Carriage) -> bool {
    let differ = |one: Mark, other: Mark| (one.value ^ other.value) & one.mask & other.mask != 0;
    let by_mark = differ(one.mark.inbound, other.mark.inbound)
        && differ(one.mark.outbound, other.mark.outbound);
    let (ours, theirs) = (one.if_id, other.if_id);
    let by_interface = ours.inbound != theirs.inbound && ours.outbound != theirs.outbound;
    by_mark || by_interface
}

/// A selector of one side that two children have in common.
fn shared(
    (own, own_dynamic): (&[TrafficSelector], bool),
    (other, other_dynamic): (&[TrafficSelector], bool),
) -> Option<String> {
    let both = own.iter().find(|selector| other.contains(selector));
    let dynamic = (own_dynamic && other_dynamic).then(|| DYNAMIC.to_owned());
    both.map(ToString::to_string).or(dynamic)
}

fn child<'a>(
    name: &str,
    entry: Entry<'a>,
    asks: bool,
    leases: bool,
    claims: &mut Vec<Claim<'a>>,
) -> Option<Child> {
    let name_is_good = is_name(name);
    if !name_is_good {
        entry.fail(bad_name());
    }
    let section = entry.table()?.only(&[&KEYS[..], &carriage::KEYS].concat());
    let local_ts = selectors(&section, "local_ts", asks.then_some("vips"));
    let remote_ts = selectors(&section, "remote_ts", leases.then_some("pools"));
    let carriage = carriage::carriage(&section).and_then(|carriage| {
        Some(Carriage {
            source_route: carriage::source_route(&section, &carriage, asks, leases)?,
            ..carriage
        })
    });
    claims.extend(interface::claim(&section, carriage.as_ref()));
    if let Some(entry) = section.entry("mode").filter(|_| asks || leases)
        && carriage.is_some_and(|carriage| carriage.mode == Mode::Transport)
    {
        entry.fail("\"transport\" is between the two hosts themselves; drop it, or pools or vips");
    }
    let proposals = match section.entry("esp_proposals") {
        Some(entry) => proposal::esp_proposals(&entry),
        None => Some(proposal::default_esp()),
    };
    let lifetime = time(
        &section,
        "life_time",
        DEFAULT_CHILD_LIFETIME,
        LIFETIME_BOUNDS,
    );
    let rekey = rekey_time(&section, ("life_time", lifetime), DEFAULT_CHILD_REKEY);
    let start = optional(&section, "start", Start::Up, |entry| {
        entry.choice(&[("up", Start::Up), ("none", Start::None)])
    });
    let ((local_ts, local_dynamic), (remote_ts, remote_dynamic)) = (local_ts?, remote_ts?);
    if !(local_dynamic || remote_dynamic)
        && let Err(what) = kernel::may_select(&local_ts, &remote_ts)
    {
        section.fail("local_ts", format!("with remote_ts: {what}"));
        return None;
    }
    name_is_good.then_some(Child {
        name: Arc::from(name),
        start: start?,
        local_ts,
        local_dynamic,
        remote_ts,
        remote_dynamic,
        carriage: carriage?,
        proposals: proposals?,
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
    if let Some((text, element)) = networks
        .iter()
        .find(|(text, _)| text.starts_with("dynamic["))
    {
        element.fail(format!(
            "{}: dynamic takes no protocol; name it on the other side, where it is meant too",
            quoted(text)
        ));
        return None;
    }
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
        let selector = selector.map_err(|why| element.fail(format!("{} {why}", quoted(text))));
        selector.ok()
    };
    let networks: Vec<_> = networks.iter().map(read).collect();
    let networks: Option<Vec<_>> = networks.into_iter().collect();
    networks.map(|networks| (networks, because.is_some()))
}
