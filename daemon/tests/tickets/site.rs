//! A gateway as keeper and engine make it, over the real ring, its files and the ledger, and its
//! clients: the core at both ends, a network that loses nothing, and a clock of its own.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path as FilePath,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gate_abi::sip::SipKey;
use ike::{
    Context, Endpoint, NodeKeys, Settings,
    crypto::{Encryption, Group, KeyShare, KeyShareError, Prf, Secret, SignError, SignatureScheme},
    defence::cookie::CookieSecrets,
    io::{Command, Env, Event, Input, Output, Path, Stamp, StoreId, TicketLedger, TicketRoot},
    kernel::{Carriage, EspCipher},
    lease::NoLeases,
    peer::{
        Child, Compat, Connection, Credential, LocalAuth, Proof, Redirection, RemoteAuth, Resume,
        Start, Suspend, Unique,
    },
    sa::proposal::{EspProposal, IkeSuite},
    ticket::{Kept, Reference},
    wire::{id::Identity, ts::TrafficSelector},
};
use rekindled::tickets::{Epochs, IndexSource, Ledger, Notice, Revocations, Ring, RingOptions};
use ring::digest::{SHA256, digest};

const TICKET: Duration = Duration::from_hours(12);
const BETWEEN: Duration = Duration::from_hours(5);
const BOOT: [u8; 16] = [1; 16];
const START: u64 = 1_800_000_000;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// What the keeper grants at a time.
const GRANT: u32 = 4096;

/// The gateway as keeper and engine make it: the ring with its files, ledger, core.
pub(crate) struct Gateway {
    core: Core,
    pub(crate) ring: Ring,
    ledger: Recorder,
    source: Arc<IndexSource>,
    asked: Arc<AtomicBool>,
    /// Epochs that began and ended so far.
    pub(crate) made: usize,
    pub(crate) retired: usize,
}

struct Core {
    endpoint: Endpoint,
    env: Seeded,
}

pub(crate) struct Site {
    folder: std::path::PathBuf,
    pub(crate) now: Stamp,
    pub(crate) gateway: Gateway,
    clients: Vec<Core>,
    flying: VecDeque<(Path, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
}

impl Site {
    pub(crate) fn open(folder: &FilePath, clients: u16) -> Self {
        let now = Stamp {
            boot: Duration::from_secs(1000),
            wall: START,
        };
        let clients = (0..clients).map(|i| core(u64::from(i) + 2, vec![client_side(i)], &[], now));
        Self {
            folder: folder.into(),
            now,
            gateway: Gateway::open(folder, now, HashSet::new(), &[Notice::Fresh]),
            clients: clients.collect(),
            flying: VecDeque::new(),
            events: Vec::new(),
        }
    }

    pub(crate) fn log_in(&mut self, clients: &[u16]) {
        self.present(clients);
        self.settle();
    }

    /// Takes clients up, and carries only their first messages and the answers to these.
    pub(crate) fn present(&mut self, clients: &[u16]) {
        for i in clients {
            let mut nothing = NoLedger;
            let Core { endpoint, env } = &mut self.clients[usize::from(*i)];
            let mut cx = Context {
                now: self.now,
                env,
                ledger: &mut nothing,
                leases: &mut NoLeases,
            };
            let home = "home".into();
            endpoint.command(&Command::Up(home), &mut cx).expect("up");
            self.collect(Some(*i));
        }
        for _ in clients {
            self.step();
        }
    }

    pub(crate) fn settle(&mut self) {
        while self.step() {}
    }

    fn step(&mut self) -> bool {
        let Some((path, message)) = self.flying.pop_front() else {
            return false;
        };
        let arrived = Path {
            local: path.remote,
            remote: path.local,
        };
        let message = &message;
        let input = Input::Datagram {
            path: arrived,
            message,
        };
        let to = client_at(arrived.local);
        self.handle(to, input);
        if to.is_none() {
            self.gateway.serve(self.now.wall);
        }
        true
    }

    fn handle(&mut self, to: Option<u16>, input: Input<'_>) {
        let now = self.now;
        let mut nothing = NoLedger;
        let (Core { endpoint, env }, ledger): (_, &mut dyn TicketLedger) = match to {
            Some(i) => (&mut self.clients[usize::from(i)], &mut nothing),
            None => (&mut self.gateway.core, &mut self.gateway.ledger),
        };
        let leases = &mut NoLeases;
        let cx = &mut Context {
            now,
            env,
            ledger,
            leases,
        };
        endpoint.handle(input, cx);
        self.collect(to);
    }

    fn collect(&mut self, from: Option<u16>) {
        loop {
            let core = match from {
                Some(i) => &mut self.clients[usize::from(i)],
                None => &mut self.gateway.core,
            };
            match core.endpoint.poll_output() {
                None => return,
                Some(Output::Datagram { path, message }) => self.flying.push_back((path, message)),
                Some(Output::Kernel { op, .. }) => {
                    self.handle(from, Input::Kernel { op, result: Ok(()) });
                }
                Some(Output::Event(event)) if from.is_none() => self.events.push(event),
                Some(_) => {}
            }
        }
    }

    /// Logins that the gateway has seen since it was last asked to forget.
    pub(crate) fn logins(&self, by_ticket: bool) -> usize {
        let is_one = |event: &&Event| matches!(event, Event::Established { resumed, .. } if *resumed == by_ticket);
        self.events.iter().filter(is_one).count()
    }

    pub(crate) fn forget(&mut self) {
        self.events.clear();
    }

    /// All that are awake suspend, each with a ticket in hand; hours pass.
    pub(crate) fn sleep(&mut self) {
        self.forget();
        for i in 0..self.clients.len() {
            let mut nothing = NoLedger;
            let Core { endpoint, env } = &mut self.clients[i];
            let held = endpoint.held_tickets(self.now);
            assert!(
                held.len() == 1 && held[0].left.is_some(),
                "{i} has a ticket"
            );
            if held[0].suspended {
                continue;
            }
            let mut cx = Context {
                now: self.now,
                env,
                ledger: &mut nothing,
                leases: &mut NoLeases,
            };
            let suspend = Command::Suspend("home".into());
            endpoint.command(&suspend, &mut cx).expect("suspended");
            while endpoint.poll_output().is_some() {}
        }
        self.now.boot += BETWEEN;
        self.now.wall += BETWEEN.as_secs();
        self.rotate();
    }

    pub(crate) fn rotate(&mut self) {
        let before = self.gateway.ids();
        if self.gateway.ring.rotate(self.now.wall).expect("rotate") {
            self.gateway.publish(&before, self.now.wall);
        }
    }

    pub(crate) fn force_epoch(&mut self) {
        let before = self.gateway.ids();
        let forced = self.gateway.ring.force_epoch(self.now.wall);
        forced.expect("few are alive");
        self.gateway.publish(&before, self.now.wall);
    }

    /// What the operator's command leaves on disk.
    pub(crate) fn revoke(&mut self, peer: &str) {
        let forget_at = self.gateway.ring.times().map(|times| times.accept_until);
        let forget_at = forget_at.max().expect("an epoch");
        let list = self.gateway.ledger.ledger.revocations_mut();
        let revoked = list.expect("a list").revoke(peer, self.now.wall, forget_at);
        revoked.expect("on disk");
    }

    /// The daemon dies and comes back; what it had promised is lost, what it had issued is not.
    pub(crate) fn kill(&mut self) {
        let given = std::mem::take(&mut self.gateway.ledger.given);
        let (expiries, made, retired) = (
            std::mem::take(&mut self.gateway.ledger.expiries),
            self.gateway.made,
            self.gateway.retired,
        );
        let mut gateway = Gateway::open(&self.folder, self.now, given, &[]);
        gateway.ledger.expiries = expiries;
        (gateway.made, gateway.retired) = (made, retired);
        self.gateway = gateway;
    }
}

impl Gateway {
    fn open(folder: &FilePath, now: Stamp, given: HashSet<(u8, u32)>, said: &[Notice]) -> Self {
        let options = RingOptions {
            ticket_seconds: TICKET.as_secs(),
            strict_after_power_loss: false,
        };
        let (ring, notices) = Ring::open(folder, options, BOOT, now.wall).expect("open");
        assert_eq!(notices, said);
        let source = Arc::new(IndexSource::default());
        let asked = Arc::new(AtomicBool::new(false));
        let ask = {
            let asked = Arc::clone(&asked);
            move || {
                asked.store(true, Ordering::Relaxed);
                true
            }
        };
        let epochs = epochs_of(&ring);
        let mut ledger = Ledger::new(Arc::clone(&source), ask);
        ledger.set_epochs(&epochs);
        ledger.set_revocations(Revocations::open(folder, now.wall));
        let mut gateway = Self {
            core: core(1, vec![gateway_side()], &epochs.roots, now),
            ring,
            ledger: Recorder {
                ledger,
                given,
                expiries: BTreeMap::new(),
                now: now.wall,
            },
            source,
            asked,
            made: 1,
            retired: 0,
        };
        gateway.serve(now.wall);
        gateway
    }

    fn ids(&self) -> Vec<u8> {
        self.ring.epochs().map(|(key_id, ..)| key_id).collect()
    }

    /// Answers the ledger's question for indexes, as the keeper does a moment later.
    fn serve(&mut self, wall: u64) {
        self.ledger.now = wall;
        if self.asked.swap(false, Ordering::Relaxed) {
            let range = self.ring.grant(GRANT, wall).expect("grant");
            self.source.deliver(Some(range));
        }
    }

    /// Says what changed as the keeper does: indexes of the new epoch first, then the epochs.
    fn publish(&mut self, before: &[u8], wall: u64) {
        let range = self.ring.grant(GRANT, wall).expect("grant");
        self.source.deliver(Some(range));
        let after = self.ids();
        for gone in before.iter().filter(|id| !after.contains(id)) {
            let expiry = self.ledger.expiries.remove(gone).unwrap_or_default();
            assert!(expiry <= wall, "{gone} had a ticket until {expiry}");
            self.ledger.given.retain(|(key_id, _)| key_id != gone);
            self.retired += 1;
        }
        for new in after.iter().filter(|id| !before.contains(id)) {
            assert!(!self.ledger.expiries.contains_key(new), "{new} is alive");
            self.made += 1;
        }
        let distinct: HashSet<_> = after.iter().collect();
        assert_eq!(distinct.len(), after.len(), "{after:?}");
        let epochs = epochs_of(&self.ring);
        for root in &epochs.roots {
            self.core.endpoint.add_ticket_root(root);
        }
        self.core.endpoint.retain_ticket_roots(&after);
        self.ledger.ledger.set_epochs(&epochs);
    }
}

fn epochs_of(ring: &Ring) -> Epochs {
    let epochs = ring.epochs().map(|(key_id, root, file)| {
        let file = file.try_clone().expect("clone").into();
        (TicketRoot { key_id, root }, file, None)
    });
    Epochs::map(epochs.collect(), None).expect("map")
}

/// The daemon's ledger; keeps book of what it issues.
struct Recorder {
    ledger: Ledger,
    /// Every index of a live epoch that was given out, over all starts.
    given: HashSet<(u8, u32)>,
    /// By epoch, when its last ticket ends at the latest.
    expiries: BTreeMap<u8, u64>,
    now: u64,
}

impl TicketLedger for Recorder {
    fn next_index(&mut self) -> Option<(u8, u32)> {
        let (key_id, index) = self.ledger.next_index()?;
        assert!(self.given.insert((key_id, index)), "{key_id} {index} twice");
        let expiry = (self.now + TICKET.as_secs()).next_multiple_of(60);
        let last = self.expiries.entry(key_id).or_default();
        *last = expiry.max(*last);
        Some((key_id, index))
    }

    fn is_used(&self, key_id: u8, index: u32) -> bool {
        self.ledger.is_used(key_id, index)
    }

    fn mark_used(&mut self, key_id: u8, index: u32) -> bool {
        self.ledger.mark_used(key_id, index)
    }

    fn revoked_until(&self, peer: &Identity) -> Option<u64> {
        self.ledger.revoked_until(peer)
    }

    fn keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> bool {
        self.ledger.keep(reference, expiry, kept)
    }

    fn begin_keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> Option<StoreId> {
        self.ledger.begin_keep(reference, expiry, kept)
    }

    fn begin_consume(&mut self, reference: &Reference) -> Option<StoreId> {
        self.ledger.begin_consume(reference)
    }

    fn kept(&self, reference: &Reference) -> Option<Kept> {
        self.ledger.kept(reference)
    }

    fn release(&mut self, reference: &Reference) {
        self.ledger.release(reference);
    }
}

/// A client issues nothing.
struct NoLedger;

impl TicketLedger for NoLedger {
    fn next_index(&mut self) -> Option<(u8, u32)> {
        None
    }

    fn is_used(&self, _: u8, _: u32) -> bool {
        true
    }

    fn mark_used(&mut self, _: u8, _: u32) -> bool {
        false
    }

    fn revoked_until(&self, _: &Identity) -> Option<u64> {
        None
    }

    fn keep(&mut self, _: Reference, _: u64, _: Kept) -> bool {
        false
    }

    fn begin_keep(&mut self, _: Reference, _: u64, _: Kept) -> Option<StoreId> {
        None
    }

    fn begin_consume(&mut self, _: &Reference) -> Option<StoreId> {
        None
    }

    fn kept(&self, _: &Reference) -> Option<Kept> {
        None
    }

    fn release(&mut self, _: &Reference) {}
}

/// Chance from a seed, and a key exchange that hashes both public values.
struct Seeded(u64);

struct Double(Group, Vec<u8>);

impl Env for Seeded {
    fn random(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(32) {
            self.0 += 1 << 20;
            let octets = digest(&SHA256, &self.0.to_be_bytes());
            chunk.copy_from_slice(&octets.as_ref()[..chunk.len()]);
        }
    }

    fn new_key_share(&mut self, group: Group) -> Option<Box<dyn KeyShare>> {
        let mut public = vec![0; group.public_len()];
        self.random(&mut public);
        Some(Box::new(Double(group, public)))
    }

    fn sign(&mut self, _: &str, _: SignatureScheme, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError)
    }
}

impl KeyShare for Double {
    fn group(&self) -> Group {
        self.0
    }

    fn public(&self) -> &[u8] {
        &self.1
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyShareError> {
        let ours = self.1.as_slice();
        let both = [ours.min(peer), ours.max(peer)].concat();
        Ok(Secret::from(digest(&SHA256, &both).as_ref()))
    }
}

fn core(seed: u64, connections: Vec<Connection>, roots: &[TicketRoot], now: Stamp) -> Core {
    let mut env = Seeded(seed);
    let key = |k0| SipKey { k0, k1: 2 };
    let keys = NodeKeys {
        spi: [key(1), key(3)],
        cookies: CookieSecrets::new(&Secret::new(vec![4; 32]), BOOT),
        qcd: Secret::new(vec![4; 32]),
    };
    let settings = Settings::default();
    let endpoint = Endpoint::new(settings, connections, keys, roots, now, &mut env);
    Core { endpoint, env }
}

fn address_of(client: u16) -> Ipv4Addr {
    let [high, low] = client.to_be_bytes();
    Ipv4Addr::new(10, high, low, 2)
}

fn client_at(address: SocketAddr) -> Option<u16> {
    match address.ip() {
        IpAddr::V4(v4) if v4 != GATEWAY => {
            let [_, high, low, _] = v4.octets();
            Some(u16::from_be_bytes([high, low]))
        }
        _ => None,
    }
}

fn client_side(client: u16) -> Connection {
    let id = Identity::from_text(&format!("client-{client}.example"));
    let mut side = side(
        "home",
        id.expect("a name"),
        Identity::from_text("gw.example"),
    );
    side.local_addr = Some(address_of(client).into());
    side.remote_addr = Some(GATEWAY.into());
    side
}

fn gateway_side() -> Connection {
    let id = Identity::from_text("gw.example").expect("a name");
    let mut side = side("rw", id, None);
    side.local_addr = Some(GATEWAY.into());
    side
}

fn side(name: &str, id: Identity, remote: Option<Identity>) -> Connection {
    let key = || Secret::from(&b"correct horse battery"[..]);
    let all = || vec![TrafficSelector::from_text("10.0.0.0/8").expect("a network")];
    Connection {
        name: name.into(),
        local_addr: None,
        more_addrs: Vec::new(),
        remote_addr: None,
        remote_hosts: Vec::new(),
        remote_port: 500,
        local: LocalAuth {
            id,
            credential: Credential::PreShared(key()),
            rsa_padding: ike::crypto::RsaPadding::default(),
        },
        remote: RemoteAuth {
            id: remote,
            pattern: None,
            proof: Proof::PreShared(key()),
        },
        ike_suites: vec![IkeSuite {
            encryption: Encryption::AesGcm256,
            prf: Prf::HmacSha256,
            group: Group::X25519,
        }],
        children: vec![Child {
            name: "net".into(),
            start: Start::Up,
            local_ts: all(),
            local_dynamic: false,
            remote_ts: all(),
            remote_dynamic: false,
            carriage: Carriage::default(),
            proposals: vec![EspProposal::of(&[EspCipher::AesGcm256])],
            lifetime: Duration::from_hours(24),
            rekey: Duration::ZERO,
        }],
        rekey: Duration::ZERO,
        fragment_size: Some(1280),
        ike_lifetime: Duration::from_hours(24),
        reauth: None,
        // Nobody waits for signs of life between two waves.
        liveness: Duration::ZERO,
        pools: Vec::new(),
        vips: Vec::new(),
        unique: Unique::Replace,
        leases_per_identity: Connection::LEASES_PER_IDENTITY,
        childless: false,
        encap: false,
        redirect: Redirection::Follow,
        redirect_to: None,
        compat: Compat::Rfc,
        mobike: true,
        resume: Resume {
            enabled: true,
            suspend: Suspend::Memory,
            by_reference: false,
            ticket_lifetime: TICKET,
        },
        digest: [name.len() as u8; 32],
    }
}
