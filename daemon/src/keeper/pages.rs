//! Answers that one message may not hold: they go a page at a time, as often as the engine asks.

use std::{collections::BTreeMap, sync::Arc};

use super::protocol::{Answer, OrphanShape, USAGE_OCTETS};
use crate::kernel::{Orphan, Usage};

/// Octets of orphans in one message, well within what a message holds.
const ORPHAN_PAGE: usize = 32 << 10;
/// The same of totals by connection.
const TRAFFIC_PAGE: usize = 32 << 10;

pub(super) fn orphan_page(orphans: &[Orphan], skip: usize) -> Answer {
    let mut room = ORPHAN_PAGE;
    let page: Vec<OrphanShape> = orphans
        .iter()
        .skip(skip)
        .map_while(|orphan| {
            let size = 72 + orphan.owner.0.len() + 5 * orphan.spis.len();
            room = room.checked_sub(size + 48 * orphan.remote_ts.len())?;
            Some(OrphanShape {
                owner: orphan.owner.0.to_string(),
                spis: orphan.spis.clone(),
                remote_ts: orphan.remote_ts.clone(),
                leased: orphan.leased.clone(),
            })
        })
        .collect();
    let more = skip + page.len() < orphans.len();
    Answer::Orphans { page, more }
}

pub(super) fn traffic_page(traffic: Option<BTreeMap<Arc<str>, Usage>>, after: &str) -> Answer {
    let traffic = traffic.unwrap_or_default();
    let mut room = TRAFFIC_PAGE;
    let rest = traffic.iter().filter(|(name, _)| ***name > *after);
    let page: Vec<_> = rest
        .map_while(|(name, usage)| {
            room = room.checked_sub(USAGE_OCTETS + name.len())?;
            Some((name.to_string(), *usage))
        })
        .collect();
    let last = page.last().map_or(after, |(name, _)| name.as_str());
    let more = traffic
        .keys()
        .next_back()
        .is_some_and(|name| **name > *last);
    Answer::Traffic { page, more }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_on_one_page_and_each_page_fits() {
        let names = (0..2000).map(|number| format!("connection-{number:04}"));
        let all: BTreeMap<Arc<str>, _> = names
            .map(|name| (Arc::from(name), Usage::default()))
            .collect();
        let (mut told, mut pages, mut after) = (Vec::new(), 0, String::new());
        loop {
            let Answer::Traffic { page, more } = traffic_page(Some(all.clone()), &after) else {
                panic!("another answer");
            };
            let octets: usize = page.iter().map(|(name, _)| name.len() + USAGE_OCTETS).sum();
            assert!(octets <= TRAFFIC_PAGE && !page.is_empty());
            told.extend(page.into_iter().map(|(name, _)| name));
            pages += 1;
            if !more {
                break;
            }
            after.clone_from(told.last().expect("some"));
        }
        assert!(pages > 1);
        assert!(
            told.iter()
                .map(String::as_str)
                .eq(all.keys().map(|name| &**name))
        );
        let nothing = traffic_page(None, "");
        assert!(matches!(nothing, Answer::Traffic { page, more: false } if page.is_empty()));
    }
}
