//! The story: a tunnel comes up, sleeps, loses its gateway, and comes back by its ticket while
//! somebody floods the gateway with forgeries of that very request.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use super::{
    findings::{Flood, Login, Story},
    flood::Counts,
    teller::{Teller, grouped},
};
use crate::{
    capture::{Capture, Frame, Tally},
    cases::tunnel::{OFFICE, REAL, client_connection, gateway_connection, two_sites},
    flood::{Forger, Pace, Sent},
    netns::{Namespace, connect},
    ping::ping,
    site::{Setting, Site},
    suite::Lab,
};

/// Tells it to the end, or to the first step that is not as it has to be.
pub(super) fn tell(lab: &Lab, found: &mut Story) -> Result<()> {
    let stage = Stage::build()?;
    // The kernel loads its ciphers at the first SA. That is not the login's doing.
    stage.warm_up()?;
    println!(
        "\n  kernel: {}; client and gateway on one cable, an attacker on another\n",
        found.kernel
    );
    let teller = Teller::begin();
    let mut gateway = Site::prepare(lab, &stage.gateway, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &stage.client, own, &client_connection())?;
    let began = Instant::now();
    gateway.start(lab)?;
    client.start(lab)?;
    let gate = Gate::of(&gateway)?;
    teller.took("gateway and client come up", began.elapsed(), &gate.words);
    found.gate = Some(gate.mode);
    let wire = Wire::tap(&stage)?;

    let full = log_in(&stage, &client, false)?;
    teller.took("full login", full.duration(), &full.words());
    found.full = Some(full.login);
    teller.say("ping through ESP", &ping_through(&stage, &gateway)?);
    found.ping_before = true;
    let asleep = suspend(&stage, &client)?;
    teller.say("client suspends", &asleep);
    let quiet = log_in(&stage, &client, true)?;
    teller.took("client resumes", quiet.duration(), &quiet.words());
    found.quiet = Some(quiet.login);
    let mut forger = stage.forger(&quiet.frames)?;
    let asleep = suspend(&stage, &client)?;
    teller.say("client suspends again", &asleep);

    let before = Counts::take(&gateway, &stage.gateway)?;
    let [keeper, engine] = gateway.processes()?;
    let (sent, resumed) = stage.flooded(&mut forger, || {
        teller.say("attacker floods", &flood_words());
        gateway.kill()?;
        teller.say(
            "SIGKILL",
            &format!("keeper {keeper} and engine {engine} are dead"),
        );
        thread::sleep(DEAD);
        let began = Instant::now();
        gateway.start(lab)?;
        let took = began.elapsed();
        let dropped = Counts::take(&gateway, &stage.gateway)?.dropped_since(&before);
        let dropped = format!("until now the gate dropped {}", grouped(dropped));
        teller.took("keeper and engine start again", took, &dropped);
        let resumed = log_in(&stage, &client, true)?;
        teller.took(
            "client resumes in the flood",
            resumed.duration(),
            &resumed.words(),
        );
        teller.say("ping through ESP", &ping_through(&stage, &gateway)?);
        Ok(resumed)
    })?;
    found.resume = Some(resumed.login);
    found.ping_after = true;
    let flood = Counts::settled(&gateway, &stage.gateway)?.since(&before, sent.frames.into());
    found.flood = Some(flood);
    teller.took("the flood is over", sent.took, &with_gate(&flood));
    let clear = wire.clear_text()?;
    found.clear_text_packets = Some(clear);
    let words = format!("{} packets in clear", grouped(clear));
    teller.say("captures of both ends", &words);
    ensure!(clear == 0, "{clear} packets went out in clear");
    client.stop()?;
    gateway.stop()?;

    let off = Setting {
        gate: "off",
        ..REAL
    };
    let mut bare = Site::prepare(lab, &stage.gateway, off, &gateway_connection())?;
    bare.start(lab)?;
    let before = Counts::take(&bare, &stage.gateway)?;
    let sent = forger.send(&stage.attacker, ATTACKER_LINK, FORGED, PACE)?;
    let flood = Counts::settled(&bare, &stage.gateway)?.since(&before, sent.frames.into());
    found.without_gate = Some(flood);
    teller.took(
        "the same flood without gate",
        sent.took,
        &without_gate(&flood),
    );
    bare.stop()
}

fn flood_words() -> String {
    let (count, rate) = (grouped(FORGED.into()), grouped(PACE.per_second.into()));
    format!("{count} forgeries of that resumption, {rate} a second")
}

fn with_gate(flood: &Flood) -> String {
    format!(
        "{} sent, {} dropped by the gate, {} reached the daemon",
        grouped(flood.sent),
        grouped(flood.dropped_by_gate),
        grouped(flood.reached_daemon())
    )
}

fn without_gate(flood: &Flood) -> String {
    let lost = match flood.overflowed {
        0 => String::new(),
        lost => format!(", whose socket was full for {}", grouped(lost)),
    };
    format!(
        "{} sent, {} reached the daemon{lost}",
        grouped(flood.sent),
        grouped(flood.reached_daemon()),
    )
}

/// Where the gateway's gate stands.
struct Gate {
    mode: String,
    words: String,
}

impl Gate {
    fn of(gateway: &Site<'_>) -> Result<Self> {
        let answer = gateway.ikectl("gate")?;
        let mode = answer["mode"].as_str().context("a mode")?.to_owned();
        let interfaces = answer["interfaces"].as_array().into_iter().flatten();
        let interfaces: Vec<_> = interfaces.filter_map(Value::as_str).collect();
        let mut words = format!("gate {mode}");
        if !interfaces.is_empty() {
            let _infallible = write!(words, " on {}", interfaces.join(", "));
        }
        if let Some(reason) = answer["reason"].as_str() {
            let _infallible = write!(words, " ({reason})");
        }
        Ok(Self { mode, words })
    }
}

/// Client and gateway on one cable, attacker and gateway on another.
struct Stage {
    client: Namespace,
    gateway: Namespace,
    attacker: Namespace,
}

impl Stage {
    fn build() -> Result<Self> {
        let (client, gateway) = two_sites()?;
        let attacker = Namespace::new("attacker")?;
        connect(
            (&attacker, ATTACKER_LINK, &["198.51.100.66/24"]),
            (&gateway, GATEWAY_LINK, &["198.51.100.1/24"]),
        )?;
        // The forgeries bear the client's address, and come from where he is not.
        for interface in ["all", GATEWAY_LINK] {
            gateway.set(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        Ok(Self {
            client,
            gateway,
            attacker,
        })
    }

    fn warm_up(&self) -> Result<()> {
        let scratch = Namespace::new("scratch")?;
        scratch.ip(SOME_SA).map(drop)?;
        // The attacker's cable knows no neighbours yet either.
        self.attacker
            .run("ping", "-c 1 -W 2 198.51.100.1")
            .map(drop)
    }

    /// Makes forgeries of a recorded request that fit the attacker's cable.
    fn forger(&self, recorded: &[Frame]) -> Result<Forger> {
        let mut recorded = recorded.to_vec();
        let to = hardware_address(&self.gateway, GATEWAY_LINK)?;
        let from = hardware_address(&self.attacker, ATTACKER_LINK)?;
        for frame in &mut recorded {
            let head = frame
                .octets
                .first_chunk_mut::<12>()
                .context("a short frame")?;
            head[..6].copy_from_slice(&to);
            head[6..].copy_from_slice(&from);
        }
        Forger::from_capture(&recorded)
    }

    /// Does `meanwhile` while the flood is under way. It has to be done before the flood is over.
    fn flooded<T>(
        &self,
        forger: &mut Forger,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(Sent, T)> {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| {
                let sent = forger.send(&self.attacker, ATTACKER_LINK, FORGED, PACE);
                over.store(true, Ordering::Release);
                sent
            });
            let done = meanwhile();
            let in_time = !over.load(Ordering::Acquire);
            let sent = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
            let done = done?;
            ensure!(in_time, "the flood was over before the client was back");
            Ok((sent, done))
        })
    }
}

fn hardware_address(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let answer: Value = serde_json::from_str(&namespace.ip(&format!("-j link show {interface}"))?)?;
    let text = answer[0]["address"].as_str().context("a link address")?;
    let octets: Vec<u8> = text
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16))
        .collect::<Result<_, _>>()?;
    octets
        .try_into()
        .map_err(|_| anyhow!("{text} is no Ethernet address"))
}

/// Taps at both ends of the client's cable, for the whole story.
struct Wire([Capture; 2]);

impl Wire {
    fn tap(stage: &Stage) -> Result<Self> {
        Ok(Self([
            Capture::start(&stage.client)?,
            Capture::start(&stage.gateway)?,
        ]))
    }

    fn clear_text(self) -> Result<u64> {
        let mut tally = Tally::default();
        for capture in self.0 {
            tally.add_sent(&capture.stop()?);
        }
        ensure!(tally.esp > 0, "no ESP was captured: {tally:?}");
        Ok(tally.clear)
    }
}

/// A login and what was seen of it at the client's end.
struct Seen {
    login: Login,
    frames: Vec<Frame>,
}

impl Seen {
    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.login.milliseconds / 1000.0)
    }

    fn words(&self) -> String {
        let Login {
            messages, octets, ..
        } = self.login;
        format!("{messages} messages, {} octets", grouped(octets))
    }
}

/// Brings the tunnel up, with its ticket or without as `resumed` says.
fn log_in(stage: &Stage, client: &Site<'_>, resumed: bool) -> Result<Seen> {
    let taps = Wire::tap(stage)?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == resumed, "{up}");
    let seconds = up["setup_seconds"].as_f64().context("a duration")?;
    let [client_tap, gateway_tap] = taps.0;
    let frames = client_tap.stop()?;
    let mut tally = Tally::default();
    tally.add_sent(&frames);
    tally.add_sent(&gateway_tap.stop()?);
    let login = Login {
        milliseconds: seconds * 1000.0,
        messages: tally.ike,
        octets: tally.ike_octets,
    };
    Ok(Seen { login, frames })
}

/// Puts the tunnel to sleep; nothing may be said about it on the wire.
fn suspend(stage: &Stage, client: &Site<'_>) -> Result<String> {
    let taps = Wire::tap(stage)?;
    client.ikectl("suspend home")?;
    let all = client.ikectl("sa")?;
    ensure!(all[0]["state"] == "suspended", "{all}");
    let mut tally = Tally::default();
    for tap in taps.0 {
        tally.add_sent(&tap.stop()?);
    }
    ensure!(tally.ike == 0, "a suspension sends nothing: {tally:?}");
    Ok("no message sent, ticket kept".to_owned())
}

/// Pings, and reads off the kernel's counters of the gateway's SAs that it went through them.
fn ping_through(stage: &Stage, gateway: &Site<'_>) -> Result<String> {
    let before = Traffic::of(gateway)?;
    let reply = ping(&stage.client, OFFICE, PINGS, PATIENCE)?;
    ensure!(reply.all(), "{reply:?}");
    let after = Traffic::of(gateway)?;
    let (received, sent) = (after.received - before.received, after.sent - before.sent);
    let least = u64::from(PINGS) * LEAST_PING;
    ensure!(
        received >= least && sent >= least,
        "{received} octets in, {sent} octets out"
    );
    Ok(format!(
        "{} of {} answered, {received} octets in and {sent} out by the kernel's count",
        reply.received, reply.sent
    ))
}

struct Traffic {
    received: u64,
    sent: u64,
}

impl Traffic {
    fn of(site: &Site<'_>) -> Result<Self> {
        let sa = site.established()?;
        let child = &sa["children"][0];
        let count = |key| {
            child[key]
                .as_u64()
                .with_context(|| format!("no {key}: {sa}"))
        };
        Ok(Self {
            received: count("in_bytes")?,
            sent: count("out_bytes")?,
        })
    }
}

/// Forged requests in each flood.
const FORGED: u32 = 100_000;
/// Slow enough for a kernel that interprets its BPF, and for the restart to fit in.
const PACE: Pace = Pace { per_second: 10_000 };
/// How long the gateway is dead, so that a good part of the flood finds nobody at home.
const DEAD: Duration = Duration::from_secs(2);
const PINGS: u32 = 3;
/// Octets of an IP packet with ping's usual 64 octets of ICMP.
const LEAST_PING: u64 = 84;
const PATIENCE: Duration = Duration::from_secs(5);
const ATTACKER_LINK: &str = "eth0";
const GATEWAY_LINK: &str = "eth1";
const SOME_SA: &str = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 \
                       mode tunnel aead rfc4106(gcm(aes)) \
                       0x0102030405060708090a0b0c0d0e0f1011121314 128";
