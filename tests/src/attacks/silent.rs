//! A source on the gateway's own link that never says where it is: each answer to it waits for an
//! address that does not come. Whatever that costs, it must not be the other clients' messages.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::frames::Address;

use super::{
    CLIENTS,
    client::{Attempts, Cycle, Legitimate, PERIOD},
    joined,
    scene::{CABLE, GATEWAY, Ground, Scene},
    taken,
    verdict::Mode,
};
use crate::{
    chance::Chance,
    flood::{self, Pace, Sent},
    suite::Lab,
};

/// What clients and queues had, without the source and with it.
#[derive(Debug)]
pub struct Silence {
    mode: Mode,
    sent: u32,
    quiet: Attempts,
    loud: Attempts,
    /// The longest that were seen of the daemon's send queues, in octets as the kernel counts them.
    queues: [u64; 2],
    /// The least room that any of them has.
    room: u64,
    /// Messages of the daemon that found a queue full.
    refused: u64,
}

impl Silence {
    /// Lets the source call for so long.
    pub fn measure(lab: &Lab, mode: Mode, lasts: Duration) -> Result<Self> {
        let ground = Ground::lay(lab)?;
        let mut gateway = ground.gateway(lab, mode, "auto", "none")?;
        let client = |number| Legitimate::new(&ground.client, number, GATEWAY);
        let mut clients = (1..=CLIENTS).map(client).collect::<Result<Vec<_>>>()?;
        let first = clients.first_mut().context("a client")?;
        let scene = Scene::set(&ground, &gateway, first, None)?;
        for client in &mut clients {
            client.cycle()?;
        }
        taken(&mut clients);
        let refused = ground.gateway.udp_count("SndbufErrors")?;
        let (quiet, calm, _) = beside(&ground, &mut clients, || {
            thread::sleep(lasts);
            Ok(None)
        })?;
        let (loud, queued, sent) = beside(&ground, &mut clients, || call(&scene, lasts).map(Some))?;
        let known = ground.gateway.ip(&format!("neigh show {SILENT}"))?;
        ensure!(
            !known.contains("lladdr"),
            "the source has said where it is: {known}"
        );
        let refused = ground.gateway.udp_count("SndbufErrors")? - refused;
        gateway.stop()?;
        Ok(Self {
            mode,
            sent: sent.map_or(0, |sent| sent.frames),
            quiet,
            loud,
            queues: [calm.longest, queued.longest],
            room: queued.room,
            refused,
        })
    }

    /// Whether all clients were served, and no queue was on its way to be full.
    pub fn check(&self) -> Result<()> {
        for attempts in [&self.quiet, &self.loud] {
            ensure!(attempts.made > 0 && attempts.success() >= 1.0, "{self}");
        }
        ensure!(self.refused == 0, "a message found its queue full: {self}");
        ensure!(
            self.queues[1] * PARTS <= self.room,
            "a queue has grown: {self}"
        );
        Ok(())
    }

    /// The same, and whether next to none had to repeat itself; for a daemon with optimisation.
    pub(super) fn check_times(&self) -> Result<()> {
        self.check()?;
        let slow = self.loud.percentile(99).unwrap_or(f64::INFINITY);
        ensure!(
            slow < REPEATED_AFTER_MS,
            "clients had to repeat themselves: {self}"
        );
        Ok(())
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |of: &Attempts, percent| of.percentile(percent).unwrap_or(f64::INFINITY);
        write!(
            f,
            "silent neighbour, {}: {} sent; {:.1} % of {} served, {:.1} % of {} without it; p99 {:.1} ms, \
             {:.1} ms without; longest send queue {} octets of {}, {} without; {} messages refused",
            self.mode.word(),
            self.sent,
            self.loud.success() * 100.0,
            self.loud.made,
            self.quiet.success() * 100.0,
            self.quiet.made,
            time(&self.loud, 99),
            time(&self.quiet, 99),
            self.queues[1],
            self.room,
            self.queues[0],
            self.refused,
        )
    }
}

/// Serves the clients while something else goes on, and looks at the send queues.
fn beside(
    ground: &Ground,
    clients: &mut [Legitimate<'_>],
    work: impl FnOnce() -> Result<Option<Sent>> + Send,
) -> Result<(Attempts, Queues, Option<Sent>)> {
    let (stop, mut queues) = (AtomicBool::new(false), Queues::default());
    let sent = thread::scope(|scope| {
        let (stop, mut running) = (&stop, Vec::new());
        for (number, client) in clients.iter_mut().enumerate() {
            let offset = PERIOD * number as u32 / u32::from(CLIENTS);
            running.push(scope.spawn(move || client.run(stop, Cycle::Whole, offset)));
        }
        let work = scope.spawn(work);
        let mut looked = Ok(());
        while !work.is_finished() && looked.is_ok() {
            looked = queues.look(ground);
            thread::sleep(GLANCE);
        }
        stop.store(true, Ordering::Relaxed);
        let sent = joined(work);
        running.into_iter().try_for_each(joined)?;
        looked.and(sent)
    })?;
    Ok((taken(clients), queues, sent))
}

fn call(scene: &Scene<'_>, lasts: Duration) -> Result<Sent> {
    let (mut wrapping, mut chance) = (scene.wrapping.clone(), Chance::fresh());
    wrapping.around.source = Address::V4(SILENT.octets());
    let count = PER_SECOND * lasts.as_secs() as u32;
    let pace = Pace {
        per_second: PER_SECOND,
    };
    flood::send(&scene.ground.attacker, CABLE, count, pace, |frame| {
        *frame = wrapping.ike(&scene.login.another(&mut chance));
    })
}

/// The longest send queue that was seen, and the least room that one has.
#[derive(Clone, Copy, Debug, Default)]
struct Queues {
    longest: u64,
    room: u64,
}

impl Queues {
    /// Looks at all UDP sockets of the gateway's namespace, which are the daemon's.
    fn look(&mut self, ground: &Ground) -> Result<()> {
        let told = ground.gateway.run("ss", "-H -u -a -n -m")?;
        let memory = told.split("skmem:(").skip(1);
        let mut rooms = Vec::new();
        for socket in memory {
            let field = |name: &str| {
                let mut fields = socket.split([',', ')']);
                let value = fields.find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
                value.with_context(|| format!("{name} in {socket}"))
            };
            self.longest = self.longest.max(field("t")?);
            rooms.push(field("tb")?);
        }
        self.room = rooms.into_iter().min().context("a socket")?;
        Ok(())
    }
}

/// Attempts of one source in a second.
const PER_SECOND: u32 = 1000;
/// On the link between attacker and gateway, where nobody has it.
const SILENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
/// A client that has had no answer sends its first message again.
const REPEATED_AFTER_MS: f64 = 500.0;
/// One part in so many is the most of a queue that may ever be taken.
const PARTS: u64 = 16;
/// Between two looks at the queues.
const GLANCE: Duration = Duration::from_millis(50);
