//! Two cores in one thread under a virtual clock, with a network between them that may lose, repeat
//! and reorder. A seed replays bit for bit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gate_abi::sip::SipKey;
use ike::{
    CommandRefused, Context, Endpoint, NodeKeys, Reloaded, Settings,
    crypto::Secret,
    defence::cookie::CookieSecrets,
    io::{Command, Event, Input, Output, Path, Stamp, TicketRoot},
    kernel::ChildInstall,
    lease::Book,
    peer::Connection,
};

use crate::sides::{client_side, find, gateway_side};
pub(crate) use crate::{
    env::{MemoryLedger, Rng, SeedEnv},
    model::Kernel,
};

pub(crate) const WALL: u64 = 1_800_000_000;
pub(crate) const CLIENT: &str = "192.0.2.10";
pub(crate) const GATEWAY: &str = "198.51.100.1";
/// Where the gateway can be reached too.
pub(crate) const OTHER_GATEWAY: &str = "198.51.100.2";
/// Another gateway, where a test has one.
pub(crate) const SECOND: &str = "198.51.100.3";

/// One core with its surroundings.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) endpoint: Endpoint,
    pub(crate) env: SeedEnv,
    pub(crate) ledger: MemoryLedger,
    pub(crate) leases: Book,
    pub(crate) kernel: Kernel,
    pub(crate) events: Vec<Event>,
    pub(crate) roots: Vec<(u8, Vec<u8>)>,
    pub(crate) connections: fn() -> Vec<Connection>,
    pub(crate) settings: Settings,
    /// Sessions as a disk would have them, and every change of them in order.
    pub(crate) disk: BTreeMap<Arc<str>, Vec<u8>>,
    pub(crate) sessions: Vec<Option<Vec<u8>>>,
    /// SPIs of ours in use, as a gate would know them, and the first message it was last told of.
    pub(crate) own_spis: BTreeSet<[u8; 8]>,
    pub(crate) admitted: Option<([u8; 8], IpAddr, [u8; 16])>,
    /// Connections whose peers are to be looked up.
    pub(crate) asked_for: Vec<Arc<str>>,
    /// When it has kept which way through a NAT open.
    pub(crate) keepalives: Vec<(Duration, Path)>,
}

impl Node {
    pub(crate) fn new(seed: u64, connections: fn() -> Vec<Connection>, settings: Settings) -> Self {
        let mut env = SeedEnv {
            rng: Rng(seed),
            keys: BTreeMap::new(),
            agreed: Arc::default(),
        };
        let roots = vec![(7, vec![seed as u8; 32])];
        let ledger = MemoryLedger {
            key_id: 7,
            ..MemoryLedger::default()
        };
        let now = Stamp {
            boot: Duration::ZERO,
            wall: WALL,
        };
        let endpoint = start(&mut env, connections, settings, &roots, now);
        let leases = Book::new(connections().into_iter().flat_map(|one| one.pools));
        let (kernel, events) = (Kernel::default(), Vec::new());
        Self {
            endpoint,
            env,
            ledger,
            leases,
            kernel,
            events,
            roots,
            connections,
            settings,
            disk: BTreeMap::new(),
            sessions: Vec::new(),
            own_spis: BTreeSet::new(),
            admitted: None,
            asked_for: Vec::new(),
            keepalives: Vec::new(),
        }
    }

    /// The process is killed and started again: only ticket keys, indexes, used bits and the
    /// kernel's state outlive it.
    pub(crate) fn restart(&mut self, now: Stamp) {
        self.endpoint = start(
            &mut self.env,
            self.connections,
            self.settings,
            &self.roots,
            now,
        );
        self.events.clear();
        self.own_spis.clear();
        let records = self.leases.leases().into_iter().map(|view| view.record);
        let mut leases = Book::new((self.connections)().into_iter().flat_map(|one| one.pools));
        for record in records {
            leases.restore(record);
        }
        self.leases = leases;
        for (connection, octets) in std::mem::take(&mut self.disk) {
            if self.endpoint.restore(&connection, &octets, now).is_ok() {
                self.disk.insert(connection, octets);
            }
        }
    }

    pub(crate) fn handle(&mut self, input: Input<'_>, now: Stamp) {
        let (env, ledger, leases) = (&mut self.env, &mut self.ledger, &mut self.leases);
        let cx = &mut Context {
            now,
            env,
            ledger,
            leases,
        };
        self.endpoint.handle(input, cx);
    }

    fn command(&mut self, command: &Command, now: Stamp) -> Result<(), CommandRefused> {
        let (env, ledger, leases) = (&mut self.env, &mut self.ledger, &mut self.leases);
        let cx = &mut Context {
            now,
            env,
            ledger,
            leases,
        };
        self.endpoint.command(command, cx)
    }

    /// It has these connections from now on.
    fn reload(&mut self, connections: Vec<Connection>, now: Stamp) -> Reloaded {
        let connections: Vec<_> = connections.into_iter().map(Arc::new).collect();
        let (env, ledger, leases) = (&mut self.env, &mut self.ledger, &mut self.leases);
        let cx = &mut Context {
            now,
            env,
            ledger,
            leases,
        };
        self.endpoint.reload(&connections, |_| true, cx)
    }

    /// Its one IKE SA carries what the kernel has, and nothing is being replaced.
    pub(crate) fn is_up(&self) -> bool {
        let [sa] = &*self.established() else {
            return false;
        };
        let has = self.kernel.installed.len();
        has > 0 && has == sa.children.len() && self.kernel.beside.is_empty()
    }

    pub(crate) fn established(&self) -> Vec<ike::view::SaView> {
        let now = Stamp {
            boot: Duration::from_secs(1 << 30),
            wall: WALL,
        };
        let up = |sa: &ike::view::SaView| sa.state == ike::view::SaState::Established;
        self.endpoint.sas(now).into_iter().filter(up).collect()
    }

    pub(crate) fn child(&self) -> &ChildInstall {
        self.kernel
            .installed
            .values()
            .next()
            .expect("a Child SA is installed")
    }
}

fn node_keys() -> NodeKeys {
    let key = |k0| SipKey { k0, k1: 2 };
    NodeKeys {
        spi: [key(1), key(3)],
        cookies: CookieSecrets::new(&Secret::new(vec![4; 32]), [5; 16]),
        qcd: Secret::new(vec![4; 32]),
    }
}

fn start(
    env: &mut SeedEnv,
    connections: fn() -> Vec<Connection>,
    settings: Settings,
    roots: &[(u8, Vec<u8>)],
    now: Stamp,
) -> Endpoint {
    let root = |(key_id, root): &(u8, Vec<u8>)| TicketRoot {
        key_id: *key_id,
        root: Secret::from(root.as_slice()),
    };
    let roots: Vec<_> = roots.iter().map(root).collect();
    Endpoint::new(settings, connections(), node_keys(), &roots, now, env)
}

/// A datagram in flight.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) at: Duration,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) message: Vec<u8>,
}

/// Percentages of ill luck.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) loss: u64,
    pub(crate) duplicate: u64,
    pub(crate) reorder: u64,
}

/// Two nodes, or three, and the network between them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) client: Node,
    pub(crate) gateway: Node,
    pub(crate) second: Option<Node>,
    pub(crate) now: Stamp,
    pub(crate) weather: Weather,
    pub(crate) rng: Rng,
    pub(crate) flying: Vec<InFlight>,
    /// Every datagram either side has sent, in order.
    pub(crate) sent: Vec<InFlight>,
    /// Rewrites source addresses, as a NAT in front of the client would.
    pub(crate) nat: Option<SocketAddr>,
    /// Where the client is, and where nobody is any more.
    pub(crate) client_at: IpAddr,
    pub(crate) gone: BTreeSet<IpAddr>,
}

const LATENCY: Duration = Duration::from_millis(10);

impl Pair {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, client_side, gateway_side, Settings::default())
    }

    pub(crate) fn with(
        seed: u64,
        client: fn() -> Vec<Connection>,
        gateway: fn() -> Vec<Connection>,
        settings: Settings,
    ) -> Self {
        Self {
            client: Node::new(
                seed.wrapping_mul(2),
                client,
                Settings {
                    node: 2,
                    ..settings
                },
            ),
            gateway: Node::new(seed.wrapping_mul(2) + 1, gateway, settings),
            second: None,
            now: Stamp {
                boot: Duration::from_secs(1000),
                wall: WALL,
            },
            weather: Weather::default(),
            rng: Rng(seed ^ 0xabcd),
            flying: Vec::new(),
            sent: Vec::new(),
            nat: None,
            client_at: CLIENT.parse().expect("address"),
            gone: BTreeSet::new(),
        }
    }

    pub(crate) fn command(&mut self, command: &Command) -> Result<(), CommandRefused> {
        let result = self.client.command(command, self.now);
        self.drain();
        result
    }

    /// What the gateway's operator says, which can be done.
    pub(crate) fn gateway_does(&mut self, command: &Command) {
        self.gateway_tries(command).expect("can be done");
    }

    /// The same, if it can be done.
    pub(crate) fn gateway_tries(&mut self, command: &Command) -> Result<(), CommandRefused> {
        let result = self.gateway.command(command, self.now);
        self.drain();
        result
    }

    /// The client's configuration is another one from now on.
    pub(crate) fn client_reloads(&mut self, connections: Vec<Connection>) -> Reloaded {
        let done = self.client.reload(connections, self.now);
        self.drain();
        done
    }

    /// The gateway's is.
    pub(crate) fn gateway_reloads(&mut self, connections: Vec<Connection>) -> Reloaded {
        let done = self.gateway.reload(connections, self.now);
        self.drain();
        done
    }

    /// A pair whose client is logged in, and of which nothing has been noted yet.
    pub(crate) fn established(seed: u64) -> Self {
        let mut pair = Self::new(seed);
        pair.up();
        pair.run(Duration::from_secs(1));
        assert!(pair.keys_agree());
        pair.client.events.clear();
        pair.gateway.events.clear();
        pair.sent.clear();
        pair
    }

    pub(crate) fn up(&mut self) {
        self.command(&Command::Up("home".into()))
            .expect("can be started");
    }

    pub(crate) fn suspend(&mut self) {
        self.command(&Command::Suspend("home".into()))
            .expect("can be suspended");
    }

    /// Delivers one message to whichever node owns the destination address.
    pub(crate) fn deliver(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let path = Path {
            local: to,
            remote: from,
        };
        let node = match (&*to.ip().to_string(), &mut self.second) {
            (GATEWAY | OTHER_GATEWAY, _) => &mut self.gateway,
            (SECOND, Some(second)) => second,
            (SECOND, None) => return,
            _ => &mut self.client,
        };
        node.handle(Input::Datagram { path, message }, self.now);
        self.drain();
    }

    fn node(&mut self, at: usize) -> Option<&mut Node> {
        match at {
            0 => Some(&mut self.client),
            1 => Some(&mut self.gateway),
            _ => self.second.as_mut(),
        }
    }

    /// Carries out what all nodes want, until they want nothing.
    pub(crate) fn drain(&mut self) {
        for at in 0..3 {
            loop {
                let (now, client_at) = (self.now, self.client_at);
                let Some(node) = self.node(at) else { break };
                let Some(output) = node.endpoint.poll_output() else {
                    let Some((id, done)) = node.ledger.commit() else {
                        break;
                    };
                    node.handle(Input::Stored { id, done }, now);
                    continue;
                };
                match output {
                    Output::Datagram { path, message } => {
                        self.launch(path.local, path.remote, message);
                    }
                    Output::Keepalive { path } => node.keepalives.push((now.boot, path)),
                    Output::LookUp {
                        connection,
                        elsewhere: Some(gateway),
                    } => {
                        let looked_up = Input::LookedUp {
                            connection,
                            found: find(&gateway, client_at),
                            elsewhere: Some(gateway),
                        };
                        node.handle(looked_up, now);
                    }
                    Output::LookUp { connection, .. } => node.asked_for.push(connection),
                    Output::OwnSpi { spi, live: true } => {
                        assert!(node.own_spis.insert(spi), "known to be live");
                    }
                    Output::OwnSpi { spi, live: false } => {
                        assert!(node.own_spis.remove(&spi), "not known to be live");
                    }
                    Output::Admitted {
                        spi_i,
                        source,
                        nonce_head,
                    } => node.admitted = Some((spi_i, source, nonce_head)),
                    Output::Session { connection, record } => {
                        node.sessions
                            .push(record.as_ref().map(|r| r.expose().to_vec()));
                        match record {
                            Some(record) => {
                                let record = record.expose().to_vec();
                                node.disk.insert(connection, record);
                            }
                            None => drop(node.disk.remove(&connection)),
                        }
                    }
                    Output::LeaseEnded(lease) => drop(node.leases.end(lease, now)),
                    Output::Event(event) => node.events.push(event),
                    Output::Kernel { op, what } => {
                        let result = node.kernel.apply(what);
                        node.handle(Input::Kernel { op, result }, now);
                    }
                }
            }
        }
    }

    fn launch(&mut self, mut from: SocketAddr, to: SocketAddr, message: Vec<u8>) {
        let mut to = to;
        if let Some(outside) = self.nat {
            // The NAT translates the client's address on the way out, and back on the way in.
            if from.ip() == self.client_at {
                from = SocketAddr::new(outside.ip(), outside.port() + from.port() / 4500);
            }
            if to.ip() == outside.ip() {
                let port = match to.port().checked_sub(outside.port()) {
                    Some(0) => 500,
                    Some(1) => 4500,
                    // Of a mapping that is no more.
                    _ => return,
                };
                to = SocketAddr::new(self.client_at, port);
            }
        }
        let in_flight = InFlight {
            at: self.now.boot + LATENCY,
            from,
            to,
            message,
        };
        self.sent.push(in_flight.clone());
        if self.gone.contains(&from.ip()) {
            return;
        }
        if self.rng.percent(self.weather.loss) {
            return;
        }
        if self.rng.percent(self.weather.duplicate) {
            let late = Duration::from_millis(self.rng.below(2000));
            self.flying.push(InFlight {
                at: in_flight.at + late,
                ..in_flight.clone()
            });
        }
        let late = if self.rng.percent(self.weather.reorder) {
            self.rng.below(1500)
        } else {
            0
        };
        let at = in_flight.at + Duration::from_millis(late);
        self.flying.push(InFlight { at, ..in_flight });
    }

    /// Runs until nothing flies and no deadline falls before `span` is over.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.boot + span;
        loop {
            let flight = self.flying.iter().map(|f| f.at).min();
            let nodes = [&self.client, &self.gateway]
                .into_iter()
                .chain(&self.second);
            let deadlines = nodes.filter_map(|node| node.endpoint.next_deadline());
            let Some(at) = deadlines.chain(flight).min() else {
                break;
            };
            if at > end {
                break;
            }
            self.advance_to(at.max(self.now.boot));
            if let Some(i) = self.flying.iter().position(|f| f.at <= self.now.boot) {
                let InFlight {
                    from, to, message, ..
                } = self.flying.swap_remove(i);
                if !self.gone.contains(&to.ip()) {
                    self.deliver(from, to, &message);
                }
            } else {
                self.tick();
            }
        }
        self.advance_to(end);
    }

    /// Wakes all nodes.
    pub(crate) fn tick(&mut self) {
        let pair = [&mut self.client, &mut self.gateway];
        for node in pair.into_iter().chain(&mut self.second) {
            node.handle(Input::Deadline, self.now);
        }
        self.drain();
    }

    pub(crate) fn advance_to(&mut self, boot: Duration) {
        let whole = |d: Duration| d.as_secs();
        self.now.wall += whole(boot) - whole(self.now.boot);
        self.now.boot = boot;
    }

    /// Both ends have the same Child SAs, whose ESP keys fit each other.
    pub(crate) fn keys_agree(&self) -> bool {
        let (ours, theirs) = (
            &self.client.kernel.installed,
            &self.gateway.kernel.installed,
        );
        if !(self.client.is_up() && self.gateway.is_up() && ours.len() == theirs.len()) {
            return false;
        }
        let fit = |c: &ChildInstall, g: &ChildInstall| {
            c.inbound.spi == g.outbound.spi
                && c.outbound.spi == g.inbound.spi
                && c.inbound.key == g.outbound.key
                && c.outbound.key == g.inbound.key
                && c.inbound.key != c.outbound.key
                && c.inbound.key.len() == c.cipher.key_octets()
                && (&c.local_ts, &c.remote_ts) == (&g.remote_ts, &g.local_ts)
        };
        let mut ours = ours.values();
        ours.all(|c| theirs.values().any(|g| fit(c, g)))
    }

    pub(crate) fn octets_sent(&self) -> usize {
        self.sent
            .iter()
            .map(|datagram| datagram.message.len())
            .sum()
    }
}
