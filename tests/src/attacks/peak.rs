//! What devices that come back get while the machine makes as many forged resumptions as it can, with
//! the gate and without; and under logins that nobody meant.
//!
//! One processor sends. The gateway has the other and shares it with the clients; they come by an
//! interface of their own, so what overflows the attacker's is not theirs.
//!
//! Two questions are asked. Of clients that come by the clock, what share is served in time? And when all
//! of them come back at once and as soon as they are gone, as after a restart, how many does the gateway
//! serve in a second? The first hardly notices lost datagrams: they are sent again half a second later,
//! and that is in time.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use gate_abi::{frames::Address, ticket::TAG_OFFSET};
use serde::Serialize;

use super::{
    CLIENTS,
    client::{Attempts, Cycle, Legitimate, PERIOD},
    joined,
    scene::{CABLE, GATEWAY, Ground, Scene},
    taken,
    verdict::{Mode, real, to_thousandths},
};
use crate::{
    barrage::{Fired, Generator, Load, OTHERS, stay_on},
    process::run_time,
    suite::Lab,
};

/// One run.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: &'static str,
    #[serde(skip)]
    demand: Demand,
    /// Packets that were made against the gateway in a second, and those of them that came to it.
    sent_per_second: f64,
    arrived_per_second: f64,
    /// Datagrams that the daemon read in a second, those of the clients among them.
    read_per_second: f64,
    /// Resumptions that were begun, and the share of them that were served in time.
    resumptions: u32,
    served: f64,
    served_per_second: f64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    /// Of keeper and engine, in processors.
    daemon_cpu: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<f64>,
    /// How often the served are those of the run without the gate: the share of those that come by the
    /// clock, the number in a second of those that come as fast as they can.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_without_gate: Option<f64>,
    /// And those of the run with none of the kernel's programs: no lanes either.
    #[serde(skip_serializing_if = "Option::is_none")]
    times_without_programs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least_times: Option<f64>,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<f64>| time.map_or_else(|| "-".into(), |time| format!("{time:.1}"));
        write!(
            f,
            "{:<22} {:>9.0} sent/s {:>9.0} arrived/s {:>7.0} read/s  {:>5.1} % of {:>5} served, \
             {:>6.1}/s  p50 {} ms  p99 {} ms  \
             daemon {:.2} CPU",
            self.name,
            self.sent_per_second,
            self.arrived_per_second,
            self.read_per_second,
            self.served * 100.0,
            self.resumptions,
            self.served_per_second,
            time(self.p50_ms),
            time(self.p99_ms),
            self.daemon_cpu,
        )?;
        if let Some(times) = self.times_without_gate {
            write!(f, "  {times:.1} times without gate")?;
        }
        if let Some(times) = self.times_without_programs {
            write!(f, ", {times:.1} times without lanes either")?;
        }
        match (self.at_least, self.at_least_times) {
            (Some(share), Some(times)) => write!(f, "  (at least {share}, and {times} times)"),
            (Some(share), None) => write!(f, "  (at least {share})"),
            (None, _) => Ok(()),
        }
    }
}

/// Runs them all.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    use Front::{Gate, Lanes, Nothing};
    let paced = |name, front, flood| run(lab, name, front, flood, Demand::Paced);
    let quiet = paced("quiet", Gate, None)?;
    let mut forged = paced("forged_gate", Gate, Some(Kind::Forged))?;
    let forged_user = paced("forged_user", Lanes, Some(Kind::Forged))?;
    let forged_bare = paced("forged_bare", Nothing, Some(Kind::Forged))?;
    forged.at_least = Some(SERVED_UNDER_FORGED);
    forged.compare(&forged_user, &forged_bare);

    let crowd = |name, front, flood| run(lab, name, front, flood, Demand::Crowd);
    let crowd_quiet = crowd("crowd_quiet", Gate, None)?;
    let mut crowd_forged = crowd("crowd_forged_gate", Gate, Some(Kind::Forged))?;
    let crowd_user = crowd("crowd_forged_user", Lanes, Some(Kind::Forged))?;
    let crowd_bare = crowd("crowd_forged_bare", Nothing, Some(Kind::Forged))?;
    crowd_forged.compare(&crowd_user, &crowd_bare);
    crowd_forged.at_least = Some(SERVED_UNDER_FORGED);
    crowd_forged.at_least_times = Some(TIMES_WITHOUT_GATE);

    let mut logins = paced("sa_init_gate", Gate, Some(Kind::Logins))?;
    logins.at_least = Some(SERVED_UNDER_LOGINS);
    let logins_user = paced("sa_init_user", Lanes, Some(Kind::Logins))?;
    Ok(vec![
        quiet,
        forged,
        forged_user,
        forged_bare,
        crowd_quiet,
        crowd_forged,
        crowd_user,
        crowd_bare,
        logins,
        logins_user,
    ])
}

impl Figure {
    /// Sets what is served here beside what is served with lanes alone, and with nothing.
    fn compare(&mut self, lanes: &Self, nothing: &Self) {
        let times = |other: &Self| Some(to_thousandths(self.answer() / other.answer()));
        (self.times_without_gate, self.times_without_programs) = (times(lanes), times(nothing));
    }

    /// The answer to the question that this run asks; where nobody was served, the least that it can tell
    /// from nobody.
    fn answer(&self) -> f64 {
        match self.demand {
            Demand::Paced => self.served.max(1.0 / f64::from(self.resumptions.max(1))),
            Demand::Crowd => self.served_per_second.max(1.0 / LASTS.as_secs_f64()),
        }
    }
}

/// How the clients come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Demand {
    /// Each of them in every [`PERIOD`]: what share is served?
    Paced,
    /// Each as soon as it sleeps again: how many are served in a second?
    Crowd,
}

/// What stands before the daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Front {
    /// All of the gate.
    Gate,
    /// Its lanes, which sort what has come to the sockets.
    Lanes,
    /// Nothing, as on a kernel that takes no programs: one socket for each port.
    Nothing,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Forged resumptions from anywhere, as many as can be made.
    Forged,
    /// IKE_SA_INIT from anywhere, at [`LOGINS_PER_SECOND`].
    Logins,
}

fn run(
    lab: &Lab,
    name: &'static str,
    front: Front,
    flood: Option<Kind>,
    demand: Demand,
) -> Result<Figure> {
    let ground = Ground::lay(lab)?;
    let mode = if front == Front::Gate {
        Mode::Gate
    } else {
        Mode::User
    };
    let mut gateway = ground.prepared(lab, mode, "auto", "none")?;
    if front == Front::Nothing {
        gateway.without_objects()?;
    }
    gateway.start(lab)?;
    receive_in_a_thread(&ground)?;
    for process in gateway.processes()? {
        let all_threads = format!("--all-tasks --cpu-list --pid {OTHERS} {process}");
        ground.gateway.run("taskset", &all_threads)?;
    }
    let client = |number| Legitimate::new(&ground.client, number, GATEWAY);
    let mut clients = (1..=CLIENTS).map(client).collect::<Result<Vec<_>>>()?;
    let first = clients.first_mut().context("a client")?;
    let scene = Scene::set(&ground, &gateway, first, None)?;
    for client in &mut clients {
        ensure!(client.fall_asleep()?, "no login without any attack");
    }
    taken(&mut clients);
    let mut generator = Generator::load(&lab.object(GENERATOR)?)?;
    let (arrived, read) = (arrived(&ground)?, ground.gateway.udp_count("InDatagrams")?);
    let before = run_time(&gateway.processes()?)?;

    let stop = AtomicBool::new(false);
    let fired = thread::scope(|scope| {
        let (stop, mut running) = (&stop, Vec::new());
        for (number, client) in clients.iter_mut().enumerate() {
            let offset = PERIOD * number as u32 / u32::from(CLIENTS);
            running.push(scope.spawn(move || {
                stay_on(OTHERS)?;
                match demand {
                    Demand::Paced => client.run(stop, Cycle::Resume, offset),
                    Demand::Crowd => client.keep_coming_back(stop),
                }
            }));
        }
        let fired = match flood {
            None => {
                thread::sleep(LASTS);
                Ok(Fired {
                    frames: 0,
                    took: LASTS,
                    cpu: Duration::ZERO,
                })
            }
            Some(kind) => fire(&mut generator, &scene, kind),
        };
        stop.store(true, Ordering::Relaxed);
        running.into_iter().try_for_each(joined)?;
        fired
    })?;
    let seconds = fired.took.as_secs_f64();
    let spent = run_time(&gateway.processes()?)?.saturating_sub(before);
    let arrived = self::arrived(&ground)? - arrived;
    let read = ground.gateway.udp_count("InDatagrams")? - read;
    let attempts = taken(&mut clients);
    gateway.stop()?;
    let resumed = resumed(&attempts);
    Ok(Figure {
        name,
        demand,
        sent_per_second: (real(fired.frames) / seconds).round(),
        arrived_per_second: (real(arrived) / seconds).round(),
        read_per_second: (real(read) / seconds).round(),
        resumptions: attempts.made,
        served: to_thousandths(resumed / f64::from(attempts.made.max(1))),
        served_per_second: to_thousandths(resumed / seconds),
        p50_ms: attempts.percentile(50).map(to_thousandths),
        p99_ms: attempts.percentile(99).map(to_thousandths),
        daemon_cpu: to_thousandths(spent.as_secs_f64() / seconds),
        at_least: None,
        times_without_gate: None,
        times_without_programs: None,
        at_least_times: None,
    })
}

/// Who had to log in anew was served, but not with what he asked for.
fn resumed(attempts: &Attempts) -> f64 {
    f64::from(attempts.up.len() as u32 - attempts.anew)
}

fn fire(generator: &mut Generator, scene: &Scene<'_>, kind: Kind) -> Result<Fired> {
    let recorded = match kind {
        Kind::Forged => &scene.resume,
        Kind::Logins => &scene.login,
    };
    let mut wrapping = scene.wrapping.clone();
    wrapping.around.source = Address::V4(STRANGERS.octets());
    let frame = wrapping.ike(recorded.message());
    let message = frame.len() - recorded.message().len();
    let [ticket_nonce, tag] = match kind {
        Kind::Forged => {
            [ENVELOPE_NONCE, TAG_OFFSET].map(|at| Some(recorded.ticket().ok()?.start + at))
        }
        Kind::Logins => [None; 2],
    };
    let places = [Some(0), Some(recorded.nonce().start), ticket_nonce, tag];
    let load = Load {
        frame: &frame,
        fresh: places.map(|place| place.map_or(0, |place| message + place)),
        source_mask: ANY_STRANGER,
        per_second: (kind == Kind::Logins).then_some(LOGINS_PER_SECOND),
        kept: false,
    };
    generator.fire(&scene.ground.attacker, CABLE, &load, LASTS)
}

/// Has the kernel receive from the attacker in a thread, which takes its time from the gateway's as a
/// network card's interrupts do. Else the sender would pay for it, and a gateway without a gate would
/// look better than it is.
fn receive_in_a_thread(ground: &Ground) -> Result<()> {
    // What a veth passes on without a socket buffer arrives only where somebody polls for it.
    ground.gateway.run("ethtool", "-K eth1 gro on")?;
    // The mounted one shows the interfaces of another namespace.
    let script = "mount -t sysfs none /sys && echo 1 >/sys/class/net/eth1/threaded";
    let mut command = ground.gateway.command("unshare");
    let status = command.args(["--mount", "sh", "-c", script]).status()?;
    ensure!(status.success(), "no thread for what eth1 receives");
    Ok(())
}

/// Packets that the gateway's interface towards the attacker has received.
fn arrived(ground: &Ground) -> Result<u64> {
    let told = ground.gateway.ip("-s -o link show dev eth1")?;
    let mut words = told.split_whitespace().skip_while(|word| *word != "RX:");
    // RX: bytes packets errors dropped missed mcast \\ BYTES PACKETS
    let packets = words.find(|word| *word == "\\").and(words.nth(1));
    Ok(packets.context("RX packets")?.parse()?)
}

const LASTS: Duration = Duration::from_secs(6);
const LOGINS_PER_SECOND: u32 = 40_000;
/// 10.128.0.0/9, which nobody here has.
const STRANGERS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const ANY_STRANGER: u32 = 0x007f_ffff;
/// In a ticket.
const ENVELOPE_NONCE: usize = 4;
/// The object with the program that sends.
const GENERATOR: &str = "gate-portable-bench.o";
/// The shares and the ratio that the design asks for.
const SERVED_UNDER_FORGED: f64 = 0.85;
const TIMES_WITHOUT_GATE: f64 = 4.0;
const SERVED_UNDER_LOGINS: f64 = 0.95;
