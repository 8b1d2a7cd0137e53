//! One client of the swarm: the daemon's own core in the role of a client, around it a socket, a clock
//! and nothing else. One thread that sleeps in `recv`, so that a thousand of them fit one machine.

use std::{
    env,
    io::{self, ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use gate_abi::sip::SipKey;
use ike::{
    Context, Endpoint, NodeKeys, Settings,
    crypto::{Encryption, Group, KeyShare, KeyShareError, Prf, Secret, SignError, SignatureScheme},
    defence::cookie::CookieSecrets,
    io::{Command, Env, Event, Input, Output, Path, Stamp, StoreId, TicketLedger},
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
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rekindled::gate::boot_clock;
use ring::{
    agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    rand::{SecureRandom as _, SystemRandom},
};

use super::{GATEWAY_ID, Happened, KEY, LIVENESS, OFFICE_NET, Report, address_of, identity_of};

/// Runs `swarm-client NUMBER GATEWAY` until it is killed. Reports go to stdout, one a line.
#[must_use]
pub fn main() -> ExitCode {
    match arguments().and_then(|(number, gateway)| Client::new(number, gateway)?.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swarm-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<(u16, Ipv4Addr)> {
    let mut words = env::args().skip(1);
    let number = words.next().context("usage: swarm-client NUMBER GATEWAY")?;
    let gateway = words.next().context("usage: swarm-client NUMBER GATEWAY")?;
    Ok((number.parse()?, gateway.parse()?))
}

/// A client, its socket and its clock.
pub struct Client {
    number: u16,
    endpoint: Endpoint,
    chance: Chance,
    socket: UdpSocket,
    local: SocketAddr,
    /// What has happened and has not been taken.
    events: Vec<Event>,
    /// The datagram sent last.
    last: Vec<u8>,
    /// Datagrams since the last report that were sent before.
    repeated: u32,
}

impl Client {
    /// The client with this number; nothing is sent yet. To be called where its address is.
    pub fn new(number: u16, gateway: Ipv4Addr) -> Result<Self> {
        let local = SocketAddr::from((address_of(number), IKE_PORT));
        let socket = UdpSocket::bind(local).with_context(|| local.to_string())?;
        let mut chance = Chance(SystemRandom::new());
        let settings = Settings {
            max_sas: FEW,
            max_half_open: FEW,
            ..Settings::default()
        };
        let mut key = || {
            let mut octets = [0; 16];
            chance.random(&mut octets);
            SipKey::from_octets(octets)
        };
        let keys = NodeKeys {
            spi: [key(), key()],
            cookies: CookieSecrets::new(&Secret::new(vec![0; 32]), [0; 16]),
            qcd: Secret::new(vec![0; 32]),
        };
        let connections = vec![connection(number, gateway)?];
        let endpoint = Endpoint::new(settings, connections, keys, &[], now(), &mut chance);
        Ok(Self {
            number,
            endpoint,
            chance,
            socket,
            local,
            events: Vec::new(),
            last: Vec::new(),
            repeated: 0,
        })
    }

    fn run(mut self) -> Result<()> {
        self.command(&up())?;
        loop {
            for event in self.take_events() {
                self.report(&event)?;
            }
            let wait = self.endpoint.next_deadline().map_or(LONGEST_SLEEP, |at| {
                at.saturating_sub(boot_clock())
                    .clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
            });
            self.socket.set_read_timeout(Some(wait))?;
            self.turn()?;
        }
    }

    /// The socket, for whoever waits for many clients at once.
    #[must_use]
    pub const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends octets of somebody's making to where a message would go.
    pub fn throw(&self, octets: &[u8], gateway: Ipv4Addr) {
        // What cannot leave now is lost.
        let _lost = self.socket.send_to(octets, (gateway, IKE_PORT));
    }

    /// The datagram sent last; empty if there was none.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// Begins what the command says.
    pub fn command(&mut self, command: &Command) -> Result<()> {
        let mut cx = Context {
            now: now(),
            env: &mut self.chance,
            ledger: &mut NoTickets,
            leases: &mut NoLeases,
        };
        self.endpoint.command(command, &mut cx)?;
        self.carry_out();
        Ok(())
    }

    /// Takes one datagram in, if there is one or one comes within the socket's time, and does what is
    /// due. `false` if none was there.
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut buffer = [0; LONGEST_MESSAGE];
        let received = match self.socket.recv_from(&mut buffer) {
            Ok((length, remote)) => {
                let path = Path {
                    local: self.local,
                    remote,
                };
                let message = buffer.get(..length).unwrap_or_default();
                self.feed(Input::Datagram { path, message });
                true
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => false,
                _ => return Err(error),
            },
        };
        let now = boot_clock();
        if self.endpoint.next_deadline().is_some_and(|at| at <= now) {
            self.feed(Input::Deadline);
        }
        self.carry_out();
        Ok(received)
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn feed(&mut self, input: Input<'_>) {
        let mut cx = Context {
            now: now(),
            env: &mut self.chance,
            ledger: &mut NoTickets,
            leases: &mut NoLeases,
        };
        self.endpoint.handle(input, &mut cx);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Datagram { path, message } => {
                    self.repeated += u32::from(message == self.last);
                    // What cannot leave now is lost: IKE repeats itself.
                    let _lost = self.socket.send_to(&message, path.remote);
                    self.last = message;
                }
                // There is no NAT on the way and no gate, and sessions are kept in memory. Nobody is
                // sent elsewhere.
                Output::Keepalive { .. }
                | Output::LookUp { .. }
                | Output::LeaseEnded(_)
                | Output::Session { .. }
                | Output::OwnSpi { .. }
                | Output::Admitted { .. } => {}
                // There is no data plane, so nothing in it can fail.
                Output::Kernel { op, .. } => self.feed(Input::Kernel { op, result: Ok(()) }),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    fn report(&mut self, event: &Event) -> io::Result<()> {
        let happened = match event {
            Event::Established { resumed, took, .. } => Happened::Up {
                resumed: *resumed,
                took_us: took.as_micros() as u64,
            },
            Event::Closed { reason, .. } => Happened::Closed(reason.word().to_owned()),
            Event::UpFailed { reason, .. } => Happened::Failed(reason.word().to_owned()),
            _ => return Ok(()),
        };
        let report = Report {
            client: self.number,
            at_us: boot_clock().as_micros() as u64,
            repeated: std::mem::take(&mut self.repeated),
            happened,
        };
        let mut line = serde_json::to_vec(&report)?;
        line.push(b'\n');
        // One write, so that the lines of many clients in one file stay whole.
        io::stdout().lock().write_all(&line)
    }
}

/// Takes in what has come for any of these, waiting so long for the first; their sockets do not block.
pub fn serve(clients: &mut [Client], longest: Duration) -> Result<()> {
    let mut sockets: Vec<_> = clients
        .iter()
        .map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN))
        .collect();
    let any = poll(&mut sockets, PollTimeout::try_from(longest)?)? > 0;
    let ready: Vec<bool> = sockets.iter().map(|fd| fd.any() == Some(true)).collect();
    for (client, ready) in clients.iter_mut().zip(ready) {
        // Without any datagram it is time to look at the clocks.
        while (ready || !any) && client.turn()? {}
    }
    Ok(())
}

fn connection(number: u16, gateway: Ipv4Addr) -> Result<Connection> {
    let identity = |text: &str| Identity::from_text(text).context("an identity");
    let key = || Secret::from(KEY.as_bytes());
    let address = IpAddr::from(address_of(number));
    let office = TrafficSelector::from_text(OFFICE_NET).context("a network")?;
    Ok(Connection {
        name: NAME.into(),
        local_addr: Some(address),
        more_addrs: Vec::new(),
        remote_addr: Some(gateway.into()),
        remote_hosts: Vec::new(),
        remote_port: IKE_PORT,
        local: LocalAuth {
            id: identity(&identity_of(number))?,
            credential: Credential::PreShared(key()),
            rsa_padding: ike::crypto::RsaPadding::default(),
        },
        remote: RemoteAuth {
            id: Some(identity(GATEWAY_ID)?),
            pattern: None,
            proof: Proof::PreShared(key()),
        },
        ike_suites: vec![IkeSuite {
            encryption: Encryption::AesGcm256,
            prf: Prf::HmacSha256,
            group: Group::X25519,
        }],
        children: vec![Child {
            start: Start::Up,
            name: Arc::from("net"),
            local_ts: vec![TrafficSelector::network(address, 32)],
            local_dynamic: false,
            remote_ts: vec![office],
            remote_dynamic: false,
            carriage: Carriage::default(),
            proposals: vec![EspProposal::of(&[EspCipher::AesGcm256])],
            lifetime: LIFETIME,
            rekey: Duration::ZERO,
        }],
        rekey: Duration::ZERO,
        fragment_size: Some(1280),
        ike_lifetime: LIFETIME,
        reauth: None,
        liveness: LIVENESS,
        resume: Resume {
            enabled: true,
            suspend: Suspend::Memory,
            by_reference: false,
            ticket_lifetime: LIFETIME,
        },
        pools: Vec::new(),
        vips: Vec::new(),
        unique: Unique::Replace,
        leases_per_identity: Connection::LEASES_PER_IDENTITY,
        childless: false,
        encap: false,
        redirect: Redirection::Ignore,
        redirect_to: None,
        compat: Compat::Rfc,
        // It has one socket, and with MOBIKE it would go on from port 4500 (RFC 4555, 3.3).
        mobike: false,
        digest: [1; 32],
    })
}

fn now() -> Stamp {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    Stamp {
        boot: boot_clock(),
        wall: wall.map_or(0, |wall| wall.as_secs()),
    }
}

/// A client seals no tickets.
struct NoTickets;

impl TicketLedger for NoTickets {
    fn next_index(&mut self) -> Option<(u8, u32)> {
        None
    }

    fn is_used(&self, _key_id: u8, _index: u32) -> bool {
        true
    }

    fn mark_used(&mut self, _key_id: u8, _index: u32) -> bool {
        false
    }

    fn revoked_until(&self, _peer: &Identity) -> Option<u64> {
        None
    }

    fn keep(&mut self, _reference: Reference, _expiry: u64, _kept: Kept) -> bool {
        false
    }

    fn begin_keep(&mut self, _reference: Reference, _expiry: u64, _kept: Kept) -> Option<StoreId> {
        None
    }

    fn begin_consume(&mut self, _reference: &Reference) -> Option<StoreId> {
        None
    }

    fn kept(&self, _reference: &Reference) -> Option<Kept> {
        None
    }

    fn release(&mut self, _reference: &Reference) {}
}

struct Chance(SystemRandom);

impl Env for Chance {
    fn random(&mut self, out: &mut [u8]) {
        self.0.fill(out).expect("the system has randomness");
    }

    fn new_key_share(&mut self, group: Group) -> Option<Box<dyn KeyShare>> {
        if group != Group::X25519 {
            return None;
        }
        let private = EphemeralPrivateKey::generate(&agreement::X25519, &self.0).ok()?;
        let public = private.compute_public_key().ok()?.as_ref().to_vec();
        Some(Box::new(Share { public, private }))
    }

    fn sign(
        &mut self,
        _connection: &str,
        _scheme: SignatureScheme,
        _octets: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        Err(SignError)
    }
}

struct Share {
    public: Vec<u8>,
    private: EphemeralPrivateKey,
}

impl KeyShare for Share {
    fn group(&self) -> Group {
        Group::X25519
    }

    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, KeyShareError> {
        let peer = UnparsedPublicKey::new(&agreement::X25519, peer);
        agree_ephemeral(self.private, &peer, |shared| Secret::from(shared))
            .map_err(|_| KeyShareError)
    }
}

/// To log in, by a ticket if there is one.
#[must_use]
pub fn up() -> Command {
    Command::Up(NAME.into())
}

/// To give its IKE SA new keys.
#[must_use]
pub fn rekey() -> Command {
    Command::Rekey(NAME.into())
}

/// To give its Child SA new keys.
#[must_use]
pub fn rekey_child() -> Command {
    Command::RekeyChild(NAME.into(), None)
}

/// To sleep, with a ticket.
#[must_use]
pub fn suspend() -> Command {
    Command::Suspend(NAME.into())
}

/// To log out.
#[must_use]
pub fn down() -> Command {
    Command::Down(NAME.into())
}

const NAME: &str = "home";
const IKE_PORT: u16 = 500;
/// SAs of one client: the old, the resumed, an attempt beside it, and room.
const FEW: usize = 8;
const LIFETIME: Duration = Duration::from_hours(4);
/// More than any message of a gateway that uses no certificate.
const LONGEST_MESSAGE: usize = 4096;
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// A socket knows no shorter time-out but none.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
