//! `local_addrs` and `remote_addrs`: between which addresses a connection's packets go.

use std::net::IpAddr;

use ike::peer::{Connection, Host};

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

/// The peer's address if that is fixed, or else the names and addresses that it is looked up by.
pub(super) fn of_peer(section: &Section<'_>) -> Option<(Option<IpAddr>, Vec<Host>)> {
    let Some(entry) = section.entry("remote_addrs") else {
        return Some((None, Vec::new()));
    };
    let texts = entry.strings()?;
    let most = Connection::MAX_HOSTS;
    if !(1..=most).contains(&texts.len()) {
        entry.fail(format!("takes 1 to {most} addresses or host names"));
        return None;
    }
    if let [(ANY, _)] = texts.as_slice() {
        return Some((None, Vec::new()));
    }
    let hosts: Vec<_> = texts
        .iter()
        .map(|(text, element)| host(text, element))
        .collect();
    let hosts = hosts.into_iter().collect::<Option<Vec<_>>>()?;
    Some(match hosts.as_slice() {
        [Host::Address(address)] => (Some(*address), Vec::new()),
        _ => (None, hosts),
    })
}

fn host(text: &str, element: &Entry<'_>) -> Option<Host> {
    if let Ok(address) = text.parse() {
        return Some(Host::Address(address));
    }
    if is_host_name(text) {
        return Some(Host::Name(text.into()));
    }
    element.fail(format!(
        "{} is neither an IP address nor a host name; write 192.0.2.1, gw.example.net, or %any alone",
        quoted(text)
    ));
    None
}

/// As RFC 1123, 2.1 has it, with the underscore that many use. What ends in a number is a mistyped
/// address.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let fits = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last.bytes().all(|octet| octet.is_ascii_digit())
}

fn address(text: &str, element: &Entry<'_>) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        element.fail(format!(
            "{} is not an IP address; addresses of ours are not looked up, write 192.0.2.1 or %any",
            quoted(text)
        ));
    }
    address
}
