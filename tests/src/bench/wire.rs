//! What the sockets alone cost in a resumption: two datagrams in and two out, of the same lengths,
//! by a program that does nothing else with them.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use crate::{
    netns::Namespace,
    process::{Daemon, settled},
    storm::address_of,
    suite::Lab,
};

/// Answers requests until it is killed: the `bench wire` of a measurement.
pub(super) fn serve(address: &str) -> Result<()> {
    let socket = UdpSocket::bind(address).context("an address")?;
    println!("{READY}");
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let answer = REQUESTS.iter().zip(ANSWERS).find(|(of, _)| **of == length);
        if let Some((_, answer)) = answer {
            socket.send_to(&buffer[..answer], from)?;
        }
    }
}

/// A running server, and clients of it.
pub(super) struct Wire {
    server: Daemon,
    clients: Vec<UdpSocket>,
}

impl Wire {
    pub(super) fn start(
        lab: &Lab,
        (clients, gateway): (&Namespace, &Namespace),
        address: Ipv4Addr,
        size: u16,
    ) -> Result<Self> {
        let address = SocketAddr::from((address, PORT));
        let mut command: Command = gateway.command(lab.binary("bench")?);
        command
            .args(["wire", &address.to_string()])
            .stdin(Stdio::null());
        let mut server = Daemon::start(lab, "wire", &mut command)?;
        server.wait_for_line(READY, PATIENCE)?;
        let clients = clients.within(|| {
            let client = |number| -> Result<UdpSocket> {
                let socket = UdpSocket::bind((address_of(number), PORT))?;
                socket.connect(address)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            };
            (1..=size).map(client).collect::<Result<_>>()
        })??;
        Ok(Self { server, clients })
    }

    /// The server's time for one client's two exchanges.
    pub(super) fn measure(&self) -> Result<Duration> {
        let server: [Pid; 1] = [self.server.pid()];
        let before = settled(&server)?;
        let mut buffer = [0; 2048];
        for (request, _) in REQUESTS.iter().zip(ANSWERS) {
            for client in &self.clients {
                client.send(&buffer[..*request])?;
            }
            for client in &self.clients {
                client.recv(&mut buffer).context("an answer")?;
            }
        }
        let spent = settled(&server)?.saturating_sub(before);
        Ok(spent / u32::try_from(self.clients.len())?)
    }
}

const PORT: u16 = 5500;
const READY: &str = "ready";
/// Octets of IKE_SESSION_RESUME and IKE_AUTH.
const REQUESTS: [usize; 2] = [320, 340];
const ANSWERS: [usize; 2] = [120, 520];
const PATIENCE: Duration = Duration::from_secs(5);
