//! Which Child SA of its configuration a responder gives to a peer that asks for one: the peer says what
//! traffic it wants, and never a name (RFC 7296, 2.9).

use std::{net::IpAddr, sync::Arc};

use super::child::{ChildError, Exchanging, Terms, negotiate, owner};
use crate::{
    kernel::Owner,
    peer::{Child, Connection},
    sa::ike_sa::{ChildSa, Live},
    wire::{
        id::Identity,
        notify::NotifyKind,
        payload::{Chain, PayloadKind},
        ts::TrafficSelector,
    },
};

/// What a new Child SA is to be.
#[derive(Debug)]
pub(super) struct Choice {
    pub terms: Terms,
    pub owner: Owner,
}

/// Why there is no Child SA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misfit {
    /// What the peer is told.
    pub notify: NotifyKind,
    /// In which no child fits, if it is that.
    pub error: Option<ChildError>,
}

impl Misfit {
    /// For another reason than what is asked for.
    pub(super) const fn of(notify: NotifyKind) -> Self {
        Self {
            notify,
            error: None,
        }
    }
}

impl From<ChildError> for Misfit {
    fn from(error: ChildError) -> Self {
        Self {
            notify: error.notify(),
            error: Some(error),
        }
    }
}

/// Who asks, and what it has already.
pub(super) struct Asking<'a> {
    pub connection: &'a Connection,
    pub peer: &'a Identity,
    /// Inner addresses of the client.
    pub leased: &'a [IpAddr],
    /// The IKE SA, once there is one.
    pub live: Option<&'a Live>,
}

/// How well a child fits, the better the greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Fit {
    /// It takes the packet that made the peer ask: the first selector of each side (RFC 7296, 2.9).
    packet: bool,
    /// Of its selectors and of the peer's, those sets that need no narrowing.
    whole: u8,
    /// There is none of it yet.
    fresh: bool,
}

/// The child that fits best, the first of the configuration among equals.
pub(super) fn choose(
    asking: &Asking<'_>,
    chain: &Chain<'_>,
    exchanging: Exchanging<'_>,
) -> Result<Choice, Misfit> {
    let live = asking.live;
    if live.is_some_and(|live| !live.has_room()) {
        return Err(Misfit::of(NotifyKind::NO_ADDITIONAL_SAS));
    }
    let mut best: Option<(Fit, Terms)> = None;
    let mut refusal = Misfit::from(ChildError::NoSelectors);
    for child in &asking.connection.children {
        let terms = match negotiate(&child.with(asking.leased), chain, exchanging) {
            Ok(terms) => terms,
            Err(ChildError::NoSelectors) => continue,
            Err(error) => {
                refusal = error.into();
                continue;
            }
        };
        let mut present = live.into_iter().flat_map(|live| live.called(&child.name));
        if present.any(|present| terms.repeats(present)) {
            // Two Child SAs for the same traffic: the kernel's policies would lead to one of them.
            refusal = Misfit::of(NotifyKind::NO_ADDITIONAL_SAS);
            continue;
        }
        let fit = fit(child, &terms, chain, asking);
        if best.as_ref().is_none_or(|(other, _)| fit > *other) {
            best = Some((fit, terms));
        }
    }
    let (_, terms) = best.ok_or(refusal)?;
    let owner = free_owner(asking, &terms.name);
    Ok(Choice { terms, owner })
}

fn fit(child: &Child, terms: &Terms, chain: &Chain<'_>, asking: &Asking<'_>) -> Fit {
    let asked = |kind| {
        let parsed = chain.one(kind).map(TrafficSelector::parse_all);
        parsed.and_then(Result::ok).unwrap_or_default()
    };
    let (theirs, ours) = (asked(PayloadKind::TS_I), asked(PayloadKind::TS_R));
    let takes = |agreed: &[TrafficSelector], asked: &[TrafficSelector]| {
        let first = asked.first();
        first.is_some_and(|first| agreed.iter().any(|ts| ts.narrow(first) == Some(*first)))
    };
    let config = child.with(asking.leased);
    let same = |agreed: &[TrafficSelector], other: &[TrafficSelector]| {
        agreed.len() == other.len() && other.iter().all(|ts| agreed.contains(ts))
    };
    let whole = same(&terms.local_ts, &ours) && same(&terms.remote_ts, &theirs);
    let all = same(&terms.local_ts, &config.local_ts) && same(&terms.remote_ts, &config.remote_ts);
    let mut called = asking
        .live
        .into_iter()
        .flat_map(|live| live.called(&child.name));
    Fit {
        packet: takes(&terms.local_ts, &ours) && takes(&terms.remote_ts, &theirs),
        whole: u8::from(whole) + u8::from(all),
        fresh: called.next().is_none(),
    }
}

/// A child that the peer asks for in parts has an owner for each: the kernel's state is replaced by owner.
fn free_owner(asking: &Asking<'_>, name: &Arc<str>) -> Owner {
    let taken: Vec<&ChildSa> = asking
        .live
        .into_iter()
        .flat_map(|live| live.called(name))
        .collect();
    let of_child = |name: &str| owner(asking.connection, name, asking.peer, asking.leased);
    let numbered = |number: usize| match number {
        1 => of_child(name),
        _ => of_child(&format!("{name}#{number}")),
    };
    let free = |owner: &Owner| !taken.iter().any(|child| child.owner == *owner);
    // Of one more number than there are Child SAs one is free.
    let mut owners = (1..=taken.len()).map(numbered);
    owners
        .find(free)
        .unwrap_or_else(|| numbered(taken.len() + 1))
}
