//! `local_addrs` and `remote_addrs`: between which addresses a connection's packets go.

use std::net::IpAddr;

use super::{document::quoted, section::Entry, section::Section};

/// Addresses of ours, besides the first.
const MAX_MORE: usize = 8;
const ANY: &str = "%any";

/// Our address, if there is one, and others that a peer which knows MOBIKE is told of.
pub(super) fn ours(section: &Section<'_>) -> Option<(Option<IpAddr>, Vec<IpAddr>)> {
    let Some(entry) = section.entry("local_addrs") else {
        return Some((None, Vec::new()));
    };
    let texts = entry.strings()?;
    if !(1..=MAX_MORE + 1).contains(&texts.len()) {
        entry.fail(format!("takes 1 to {} addresses", MAX_MORE + 1));
        return None;
    }
    if let [(ANY, _)] = texts.as_slice() {
        return Some((None, Vec::new()));
    }
    let addresses = texts.iter().map(|(text, element)| address(text, element));
    let addresses: Vec<_> = addresses.collect();
    let mut addresses = addresses.into_iter().collect::<Option<Vec<_>>>()?;
    let first = addresses.remove(0);
    Some((Some(first), addresses))
}

/// The outer option is whether the text was right, the inner one whether there is an address.
#[expect(
    clippy::option_option,
    reason = "absent and wrong are different answers here"
)]
pub(super) fn of_peer(section: &Section<'_>) -> Option<Option<IpAddr>> {
    let Some(entry) = section.entry("remote_addrs") else {
        return Some(None);
    };
    let texts = entry.strings()?;
    let [(text, element)] = texts.as_slice() else {
        entry.fail("takes exactly one address in this release");
        return None;
    };
    if *text == ANY {
        return Some(None);
    }
    address(text, element).map(Some)
}

fn address(text: &str, element: &Entry<'_>) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        element.fail(format!(
            "{} is not an IP address; host names are not looked up, write 192.0.2.1 or %any",
            quoted(text)
        ));
    }
    address
}
