//! Where peers are that are configured by name. The system's resolver is asked on threads of its own, for it
//! may be slow; the routing table says which of the addresses there is a way to.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ike::{
    Way,
    peer::{Connection, Host},
};
use tokio::{
    net::lookup_host,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tracing::{debug, info};

use super::ways::source_address;

/// Names of one worker's peers that the resolver is asked for at a time.
const AT_ONCE: usize = 8;
/// How long it may take for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, and the ways to its peer or why there is none.
pub(super) type Found = (Arc<str>, Result<Vec<Way>, String>);

/// Look-ups on their way. A connection has one at a time, unless its operator takes it down and up again.
#[derive(Debug)]
pub(super) struct LookUps {
    asking: Arc<Semaphore>,
    tell: mpsc::UnboundedSender<Found>,
    told: mpsc::UnboundedReceiver<Found>,
}

impl LookUps {
    pub(super) fn new() -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            asking: Arc::new(Semaphore::new(AT_ONCE)),
            tell,
            told,
        }
    }

    /// Must be called within the runtime.
    pub(super) fn begin(&self, connection: Arc<Connection>) {
        let (asking, tell) = (Arc::clone(&self.asking), self.tell.clone());
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for host in &connection.remote_hosts {
                let answer = match host {
                    Host::Address(address) => Ok(vec![*address]),
                    Host::Name(name) => resolve(&asking, name, connection.remote_port).await,
                };
                answers.push((host.clone(), answer));
            }
            let source = |peer| source_address(SocketAddr::new(peer, connection.remote_port));
            let found = ways(answers, connection.local_addr, source);
            match &found {
                Ok(ways) => info!("{}: its peer is at {}", connection.name, shown(ways)),
                Err(why) => debug!("{}: {why}", connection.name),
            }
            // Fails if the worker is ending.
            let _ended = tell.send((Arc::clone(&connection.name), found));
        });
    }

    /// The next that is done.
    pub(super) async fn done(&mut self) -> Option<Found> {
        self.told.recv().await
    }
}

async fn resolve(asking: &Arc<Semaphore>, name: &Arc<str>, port: u16) -> io::Result<Vec<IpAddr>> {
    let turn = Arc::clone(asking).acquire_owned().await;
    let turn = turn.map_err(io::Error::other)?;
    let asked = Arc::clone(name);
    // Whoever loses patience leaves the thread behind, which keeps its place until it is done.
    let answer = tokio::spawn(async move {
        let answer = lookup_host((&*asked, port)).await;
        let answer = answer.map(|all| all.map(|one| one.ip()).collect());
        drop(turn);
        answer
    });
    match timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(panicked)) => Err(io::Error::other(panicked)),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", PATIENCE.as_secs()),
        )),
    }
}

/// The ways to what was found, in the order of the configuration and then of the resolver, which knows
/// which family is the better one. One name that leads nowhere does not stand in the way of the others.
fn ways(
    answers: Vec<(Host, io::Result<Vec<IpAddr>>)>,
    local: Option<IpAddr>,
    source: impl Fn(IpAddr) -> io::Result<IpAddr>,
) -> Result<Vec<Way>, String> {
    let mut ways: Vec<Way> = Vec::new();
    let mut why = Vec::new();
    for (host, answer) in answers {
        let addresses = match answer {
            Ok(addresses) => addresses,
            Err(error) => {
                why.push(format!("{host}: {error}"));
                continue;
            }
        };
        for peer in addresses {
            if ways.iter().any(|(_, known)| *known == peer) || ways.len() == Connection::MAX_WAYS {
                continue;
            }
            let ours = match local {
                Some(local) if local.is_ipv4() == peer.is_ipv4() => Ok(local),
                Some(local) => Err(io::Error::other(format!("not reached from {local}"))),
                None => source(peer),
            };
            match ours {
                Ok(ours) => ways.push((ours, peer)),
                Err(error) => why.push(format!("{peer}: {error}")),
            }
        }
    }
    match (ways.is_empty(), why.is_empty()) {
        (false, _) => Ok(ways),
        (true, false) => Err(why.join("; ")),
        (true, true) => Err("the name has no address".to_owned()),
    }
}

fn shown(ways: &[Way]) -> String {
    let all: Vec<_> = ways.iter().map(|(_, peer)| peer.to_string()).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn found(name: &str, addresses: &[&str]) -> (Host, io::Result<Vec<IpAddr>>) {
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        (Host::Name(name.into()), Ok(addresses))
    }

    fn lost(name: &str) -> (Host, io::Result<Vec<IpAddr>>) {
        let error = io::Error::other("Name or service not known");
        (Host::Name(name.into()), Err(error))
    }

    /// A machine with both families, but no way to 2001:db8:dead::/48.
    fn table(peer: IpAddr) -> io::Result<IpAddr> {
        match peer {
            IpAddr::V4(_) => Ok(ip("192.0.2.10")),
            IpAddr::V6(v6) if v6.segments()[2] == 0xdead => {
                Err(io::Error::from_raw_os_error(libc_enetunreach()))
            }
            IpAddr::V6(_) => Ok(ip("2001:db8::10")),
        }
    }

    fn libc_enetunreach() -> i32 {
        nix::errno::Errno::ENETUNREACH as i32
    }

    #[test]
    fn both_families_are_tried_in_order_each_from_an_address_of_its_own() {
        let answers = vec![
            found("gw.example", &["2001:db8::1", "198.51.100.1"]),
            lost("old.example"),
            found("other.example", &["198.51.100.1", "198.51.100.2"]),
        ];
        let expected = [
            ("2001:db8::10", "2001:db8::1"),
            ("192.0.2.10", "198.51.100.1"),
            ("192.0.2.10", "198.51.100.2"),
        ];
        let expected: Vec<Way> = expected.map(|(a, b)| (ip(a), ip(b))).to_vec();
        assert_eq!(ways(answers, None, table), Ok(expected));
    }

    #[test]
    fn an_address_without_a_way_is_left_out_and_with_none_left_it_says_why() {
        let both = || found("gw.example", &["2001:db8:dead::1", "198.51.100.1"]);
        assert_eq!(
            ways(vec![both()], None, table),
            Ok(vec![(ip("192.0.2.10"), ip("198.51.100.1"))])
        );
        let only = ways(vec![both()], Some(ip("2001:db8::7")), table);
        assert_eq!(only, Ok(vec![(ip("2001:db8::7"), ip("2001:db8:dead::1"))]));
        let answers = vec![
            found("gw.example", &["2001:db8:dead::1"]),
            lost("b.example"),
        ];
        let why = ways(answers, None, table).expect_err("no way");
        assert!(
            why.contains("2001:db8:dead::1: Network is unreachable"),
            "{why}"
        );
        assert!(
            why.ends_with("; b.example: Name or service not known"),
            "{why}"
        );
    }

    #[test]
    fn a_name_with_very_many_addresses_is_cut() {
        let many: Vec<_> = (0..200).map(|n| format!("198.51.100.{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let ways = ways(vec![found("gw.example", &many)], None, table).expect("ways");
        assert_eq!(ways.len(), Connection::MAX_WAYS);
        assert_eq!(ways[7].1, ip("198.51.100.7"));
    }
}
