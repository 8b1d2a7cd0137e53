//! Many clients of one gateway, each a process of its own with its own address, identity and socket:
//! what starts them, what they report, and what became of each.

pub mod client;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    netns::{Namespace, connect},
    suite::Lab,
};

/// Where the clients are. No neighbour table has room for them all, so they are routed to.
pub const CLIENT_NET: &str = "10.64.0.0/16";
/// What the tunnels are for.
pub const OFFICE_NET: &str = "10.1.0.0/24";
/// Whom the clients call.
pub const GATEWAY_ID: &str = "gw.example";
/// The key all of them share with the gateway.
pub const KEY: &str = "a thousand people know this one";
/// The silence after which a client asks for a sign of life.
pub const LIVENESS: Duration = Duration::from_secs(5);

/// What a client has to say.
#[derive(Debug, Deserialize, Serialize)]
pub struct Report {
    /// Its number.
    pub client: u16,
    /// When, in microseconds of the boot clock.
    pub at_us: u64,
    /// Datagrams that it has sent again since its last report.
    pub repeated: u32,
    /// What.
    pub happened: Happened,
}

/// What happened to a client.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// An IKE SA is established.
    Up {
        /// By a ticket.
        resumed: bool,
        /// Since the first message.
        took_us: u64,
    },
    /// An IKE SA is gone, for this reason.
    Closed(String),
    /// An attempt came to nothing, for this reason.
    Failed(String),
}

/// The gateway of all of them.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENTS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// Namespaces of clients and gateway, with a cable between them and routes both ways.
pub fn two_namespaces() -> Result<(Namespace, Namespace)> {
    let (clients, gateway) = (Namespace::new("clients")?, Namespace::new("gateway")?);
    connect(
        (&clients, "eth0", &[&format!("{CLIENTS}/24")]),
        (&gateway, "eth0", &[&format!("{GATEWAY}/24")]),
    )?;
    clients.ip(&format!("route add local {CLIENT_NET} dev lo"))?;
    gateway.ip(&format!("route add {CLIENT_NET} via {CLIENTS}"))?;
    Ok((clients, gateway))
}

/// The gateway's connection for all of them: whoever knows the key may come, whatever his name.
#[must_use]
pub fn gateway_connection(liveness: Duration) -> String {
    format!(
        "[connections.swarm]\ndpd_delay = \"{}s\"\npsk = \"{KEY}\"\n\
         local = {{ auth = \"psk\", id = \"{GATEWAY_ID}\" }}\n\
         remote = {{ auth = \"psk\" }}\n\
         [connections.swarm.children.net]\n\
         local_ts = [\"{OFFICE_NET}\"]\nremote_ts = [\"{CLIENT_NET}\"]\n",
        liveness.as_secs()
    )
}

/// The address of a client.
#[must_use]
pub fn address_of(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 64, high, low)
}

/// The identity of a client.
#[must_use]
pub fn identity_of(number: u16) -> String {
    format!("client-{number:04}.example")
}

/// Clients that run, and their reports.
pub struct Swarm<'a> {
    namespace: &'a Namespace,
    program: PathBuf,
    output: File,
    reports: BufReader<File>,
    line: String,
    clients: Vec<Child>,
}

impl<'a> Swarm<'a> {
    /// No clients yet. The namespace must have [`CLIENT_NET`] for its own.
    pub fn new(lab: &Lab, namespace: &'a Namespace) -> Result<Self> {
        let file = lab.work().join("swarm.log");
        let output = File::options().create(true).append(true).open(&file)?;
        Ok(Self {
            namespace,
            program: lab.binary("swarm-client")?,
            output,
            reports: BufReader::new(File::open(&file)?),
            line: String::new(),
            clients: Vec::new(),
        })
    }

    /// Starts one more client, which logs in.
    pub fn add(&mut self) -> Result<()> {
        let number = self.clients.len() + 1;
        let client = self
            .namespace
            .command(&self.program)
            .arg(number.to_string())
            .arg(GATEWAY.to_string())
            .stdin(Stdio::null())
            .stdout(self.output.try_clone()?)
            .stderr(self.output.try_clone()?)
            .spawn()
            .with_context(|| format!("client {number}"))?;
        self.clients.push(client);
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The next report, if there is one.
    pub fn report(&mut self) -> Result<Option<Report>> {
        self.reports.read_line(&mut self.line)?;
        if !self.line.ends_with('\n') {
            // The rest has not been written yet.
            return Ok(None);
        }
        let report = serde_json::from_str(&self.line).with_context(|| self.line.clone());
        self.line.clear();
        report.map(Some)
    }

    /// The next report, which is a failure if it does not come until then.
    pub fn report_until(&mut self, deadline: Instant) -> Result<Report> {
        loop {
            if let Some(report) = self.report()? {
                return Ok(report);
            }
            ensure!(Instant::now() < deadline, "the clients say no more");
            thread::sleep(POLL);
        }
    }

    /// Resident memory that no other process shares, summed over the clients.
    pub fn memory(&self) -> Result<u64> {
        let mut total = 0;
        for client in &self.clients {
            let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", client.id()))?;
            let private = text.lines().filter(|line| line.starts_with("Private_"));
            let sizes =
                private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            total += 1024 * sizes.sum::<u64>();
        }
        Ok(total)
    }
}

impl Drop for Swarm<'_> {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
        }
        for client in &mut self.clients {
            let _ = client.wait();
        }
    }
}

const POLL: Duration = Duration::from_millis(2);
