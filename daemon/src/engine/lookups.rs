//! Where peers are that are configured by name, and gateways that a client has been sent to (RFC 5685). The
//! system's resolver is asked on threads of its own, for it may be slow; the routing table says which of the
//! addresses there is a way to.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    thread,
    time::Duration,
};

use ike::{
    Way,
    peer::{Connection, Host},
    wire::redirect::GatewayId,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::{debug, info, warn};

use super::ways::source_address;

/// Names of one worker's peers that the resolver is asked for at a time.
const AT_ONCE: usize = 8;
/// How long it may take for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a look-up.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) connection: Arc<str>,
    pub(super) elsewhere: Option<GatewayId>,
    /// The ways to the peer, or why there is none.
    pub(super) ways: Result<Vec<Way>, String>,
}

/// Look-ups on their way. A connection has one of its own and one elsewhere at a time, unless its operator
/// takes it down and up again.
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

    /// Where is the connection's peer, or the gateway elsewhere? Must be called within the runtime.
    pub(super) fn begin(&self, connection: Arc<Connection>, elsewhere: Option<GatewayId>) {
        let (asking, tell) = (Arc::clone(&self.asking), self.tell.clone());
        tokio::spawn(async move {
            let hosts = match &elsewhere {
                None => connection.remote_hosts.clone(),
                Some(GatewayId::Address(address)) => vec![Host::Address(*address)],
                Some(GatewayId::Name(name)) => vec![Host::Name(Arc::clone(name))],
            };
            let (local, port) = (connection.local_addr, connection.remote_port);
            let found = search(&asking, hosts, local, port).await;
            match &found {
                Ok(ways) => info!("{}: its peer is at {}", connection.name, shown(ways)),
                Err(why) if elsewhere.is_some() => warn!("{}: {why}", connection.name),
                // The core has a failure made of it.
                Err(why) => debug!("{}: {why}", connection.name),
            }
            // Fails if the worker is ending.
            let _ended = tell.send(Found {
                connection: Arc::clone(&connection.name),
                elsewhere,
                ways: found,
            });
        });
    }

    /// The next that is done.
    pub(super) async fn done(&mut self) -> Option<Found> {
        self.told.recv().await
    }
}

async fn search(
    asking: &Arc<Semaphore>,
    hosts: Vec<Host>,
    local: Option<IpAddr>,
    port: u16,
) -> Result<Vec<Way>, String> {
    let mut answers = Vec::new();
    for host in hosts {
        let answer = match &host {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => resolve(asking, name, port).await,
        };
        answers.push((host, answer));
    }
    let source = |peer| source_address(SocketAddr::new(peer, port));
    ways(answers, local, source)
}

async fn resolve(asking: &Arc<Semaphore>, name: &Arc<str>, port: u16) -> io::Result<Vec<IpAddr>> {
    let turn = Arc::clone(asking).acquire_owned().await;
    let turn = turn.map_err(io::Error::other)?;
    let asked = Arc::clone(name);
    let (tell, answer) = oneshot::channel();
    // Not one of the runtime's threads: those would keep the engine from ending. Whoever loses patience
    // leaves it behind, and it keeps its place until it is done.
    thread::Builder::new()
        .name("resolver".into())
        .spawn(move || {
            let answer = (&*asked, port).to_socket_addrs();
            let _impatient = tell.send(answer.map(|all| all.map(|one| one.ip()).collect()));
            drop(turn);
        })?;
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

    #[tokio::test]
    async fn an_address_needs_no_resolver_and_a_name_does() {
        let asking = Arc::new(Semaphore::new(1));
        let find = async |host, local: Option<&str>| {
            let found = search(&asking, vec![host], local.map(ip), 500).await;
            found.map(|ways| ways.iter().map(|(ours, _)| *ours).collect::<Vec<_>>())
        };
        let address = || Host::Address(ip("127.0.0.1"));
        assert_eq!(find(address(), None).await, Ok(vec![ip("127.0.0.1")]));
        let named = find(Host::Name("localhost".into()), Some("192.0.2.1"));
        assert_eq!(named.await, Ok(vec![ip("192.0.2.1")]));
        // No way leads from one family to the other.
        let why = find(address(), Some("2001:db8::1")).await;
        assert_eq!(
            why,
            Err("127.0.0.1: not reached from 2001:db8::1".to_owned())
        );
    }

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
