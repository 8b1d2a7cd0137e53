//! What was found on a machine, and what of it speaks against a deployment.

use std::fmt;

use anyhow::{Context, Result, ensure};

/// Prints what it finds, a `KEY=VALUE` for each.
pub(super) const SCRIPT: &str = include_str!("preflight.sh");

/// What the script printed.
pub(super) struct Preflight {
    found: Vec<(String, String)>,
}

/// One line of the verdict.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Finding {
    weight: Weight,
    what: String,
    found: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weight {
    Good,
    /// It works, but not as well as it could.
    Warning,
    /// It cannot work.
    Against,
}

impl Finding {
    pub(super) fn stops(&self) -> bool {
        self.weight == Weight::Against
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weight = match self.weight {
            Weight::Good => "good",
            Weight::Warning => "warning",
            Weight::Against => "AGAINST",
        };
        write!(f, "{weight:<8} {:<12} {}", self.what, self.found)
    }
}

impl Preflight {
    pub(super) fn read(said: &str) -> Result<Self> {
        let pair = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.trim().to_owned()))
        };
        let found: Vec<_> = said.lines().filter_map(pair).collect();
        let whole = found.last().is_some_and(|(key, _)| key == "end");
        ensure!(whole, "the look at the machine broke off: {}", said.trim());
        Ok(Self { found })
    }

    pub(super) fn is_installed(&self) -> bool {
        self.one("installed").is_ok_and(|found| found == "yes")
    }

    /// Weighs it against what we built for and what our clock says (Unix seconds); `needed` is in
    /// kilobytes.
    pub(super) fn judge(&self, arch: &str, now: u64, needed: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut note = |what: &str, judged: Result<(Weight, String)>| {
            let (weight, found) =
                judged.unwrap_or_else(|error| (Weight::Against, format!("{error:#}")));
            findings.push(Finding {
                weight,
                what: what.to_owned(),
                found,
            });
        };
        note("user", self.user());
        note("machine", self.machine(arch));
        note("kernel", self.kernel());
        note("esp", self.esp());
        note("bpf", self.bpf());
        for interface in self.all("interface") {
            note("interface", Ok(judge_interface(interface)));
        }
        for port in self.all("port") {
            note("port", Ok(judge_port(port)));
        }
        note("clock", self.clock(now));
        note("space", self.space(needed));
        note("config", self.config());
        note("service", self.service());
        findings
    }

    fn user(&self) -> Result<(Weight, String)> {
        Ok(match self.one("user")? {
            "0" => (Weight::Good, "root".to_owned()),
            other => (
                Weight::Against,
                format!("uid {other}; connect as root@HOST"),
            ),
        })
    }

    fn machine(&self, arch: &str) -> Result<(Weight, String)> {
        let machine = self.one("machine")?;
        Ok(if machine == arch {
            (Weight::Good, machine.to_owned())
        } else {
            (
                Weight::Against,
                format!("{machine}, but the binaries are for {arch}; build there and use --from"),
            )
        })
    }

    fn kernel(&self) -> Result<(Weight, String)> {
        let release = self.one("kernel")?;
        let mut parts = release.split(|c: char| !c.is_ascii_digit());
        let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok());
        let version = part().zip(part()).context(release.to_owned())?;
        Ok(match version {
            _ if version < OLDEST => (
                Weight::Against,
                format!(
                    "{release}; {}.{} is the oldest that serves",
                    OLDEST.0, OLDEST.1
                ),
            ),
            _ if version < TESTED => (
                Weight::Warning,
                format!("{release}; tested from {}.{} on", TESTED.0, TESTED.1),
            ),
            _ => (Weight::Good, release.to_owned()),
        })
    }

    fn esp(&self) -> Result<(Weight, String)> {
        let esp = self.one("esp")?;
        Ok(match esp.split_once(':') {
            None => (Weight::Good, "an SA can be added".to_owned()),
            Some(("unknown", why)) => (Weight::Warning, format!("not tried:{why}")),
            Some((_, why)) => (Weight::Against, format!("no SA can be added:{why}")),
        })
    }

    fn bpf(&self) -> Result<(Weight, String)> {
        Ok(match self.one("bpf")? {
            "yes" => (Weight::Good, "the kernel has it".to_owned()),
            _ => (
                Weight::Warning,
                "the kernel has none: no gate, no lanes".to_owned(),
            ),
        })
    }

    fn clock(&self, now: u64) -> Result<(Weight, String)> {
        let theirs: u64 = self.one("clock")?.parse().context("clock")?;
        let apart = theirs.abs_diff(now);
        Ok(if apart <= CLOCK_GOOD {
            (Weight::Good, format!("{apart} s from ours"))
        } else if apart <= CLOCK_BEARABLE {
            (Weight::Warning, format!("{apart} s from ours"))
        } else {
            let text = format!("{apart} s from ours; tickets and certificates have dates");
            (Weight::Against, text)
        })
    }

    fn space(&self, needed: u64) -> Result<(Weight, String)> {
        let free: u64 = self.one("free")?.parse().context("free")?;
        let text = format!("{} MB free, {} needed", free / 1024, needed.div_ceil(1024));
        let weight = if free > needed {
            Weight::Good
        } else {
            Weight::Against
        };
        Ok((weight, text))
    }

    fn config(&self) -> Result<(Weight, String)> {
        Ok(match self.one("config")? {
            "yes" => (Weight::Good, "is there".to_owned()),
            _ => (
                Weight::Against,
                "is not there; write it first (docs/operations.md)".to_owned(),
            ),
        })
    }

    fn service(&self) -> Result<(Weight, String)> {
        let now = if self.is_installed() {
            "replaces what is there"
        } else {
            "the first time"
        };
        let tar = self.one("tar")?;
        if tar != "yes" {
            return Ok((Weight::Against, "there is no tar".to_owned()));
        }
        Ok(match self.one("service")? {
            "systemd" => (Weight::Good, format!("systemd; {now}")),
            _ => (
                Weight::Warning,
                format!("no systemd, so nothing starts it after a reboot; {now}"),
            ),
        })
    }

    fn one(&self, key: &'static str) -> Result<&str> {
        self.all(key)
            .next()
            .with_context(|| format!("{key}: not found out"))
    }

    fn all(&self, key: &'static str) -> impl Iterator<Item = &str> {
        let found = self.found.iter().filter(move |(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// `NAME DRIVER PROGRAM`, with a dash for what is not there.
fn judge_interface(found: &str) -> (Weight, String) {
    let mut words = found.split(' ');
    let mut word = || words.next().unwrap_or("-");
    let (name, driver, program) = (word(), word(), word());
    if program != "-" {
        // Ours is replaced at once; of another's the daemon says whose it is.
        let text = format!("{name}: has XDP program {program}; unless it is ours, no gate there");
        return (Weight::Warning, text);
    }
    if NATIVE.contains(&driver) {
        (Weight::Good, format!("{name}: native XDP ({driver})"))
    } else {
        let text = format!("{name}: generic XDP, slower ({driver})");
        (Weight::Warning, text)
    }
}

/// `PORT OWNER`.
fn judge_port(found: &str) -> (Weight, String) {
    let (port, owner) = found.split_once(' ').unwrap_or((found, "-"));
    match owner {
        "rekindled" => (Weight::Good, format!("UDP {port}: our own")),
        // ESP in UDP needs a socket that only its owner has.
        "-" => (
            Weight::Against,
            format!("UDP {port}: taken by the kernel or another namespace"),
        ),
        _ => (
            Weight::Against,
            format!("UDP {port}: taken by {owner}; stop it first"),
        ),
    }
}

/// sk_reuseport programs with a sockarray as Rekindle uses them.
const OLDEST: (u32, u32) = (5, 14);
const TESTED: (u32, u32) = (6, 1);
/// Seconds between two clocks.
const CLOCK_GOOD: u64 = 5;
const CLOCK_BEARABLE: u64 = 60;
/// Drivers that run XDP programs themselves, as the kernel of today has them.
const NATIVE: &[&str] = &[
    "bnxt_en",
    "ena",
    "gve",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "tun",
    "veth",
    "virtio_net",
];

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "kernel=6.1.0-18-amd64\nmachine=x86_64\nuser=0\nclock=1000\n\
        service=systemd\ntar=yes\nconfig=yes\ninstalled=no\nfree=900000\nbpf=yes\nesp=yes\n\
        interface=eth0 virtio_net -\nend=ok\n";

    fn against(said: &str) -> Vec<String> {
        let found = Preflight::read(said).expect("whole");
        let findings = found.judge("x86_64", 1003, 200_000);
        let stops = findings.into_iter().filter(Finding::stops);
        stops.map(|finding| finding.what).collect()
    }

    #[test]
    fn nothing_speaks_against_a_good_machine() {
        assert_eq!(against(GOOD), [""; 0]);
        let found = Preflight::read(GOOD).expect("whole");
        let findings = found.judge("x86_64", 1003, 200_000);
        assert!(findings.iter().all(|one| one.weight == Weight::Good));
    }

    #[test]
    fn each_fault_is_named() {
        for (good, bad, what) in [
            ("kernel=6.1.0-18-amd64", "kernel=5.10.0", "kernel"),
            ("machine=x86_64", "machine=aarch64", "machine"),
            ("user=0", "user=1000", "user"),
            ("clock=1000", "clock=9000", "clock"),
            ("tar=yes", "tar=no", "service"),
            ("config=yes", "config=no", "config"),
            ("free=900000", "free=100", "space"),
            ("esp=yes", "esp=no: Protocol not supported", "esp"),
            ("end=ok", "port=500 charon\nend=ok", "port"),
            ("user=0\n", "", "user"),
        ] {
            assert_eq!(against(&GOOD.replace(good, bad)), [what], "{bad}");
        }
    }

    #[test]
    fn what_only_slows_it_down_is_a_warning() {
        for (good, bad) in [
            ("eth0 virtio_net -", "eth0 e1000e -"),
            ("eth0 virtio_net -", "eth0 veth 17"),
            ("bpf=yes", "bpf=no"),
            ("esp=yes", "esp=unknown: no unshare or no ip"),
            ("service=systemd", "service=none"),
            ("clock=1000", "clock=960"),
            ("kernel=6.1.0", "kernel=5.15.3"),
        ] {
            let said = GOOD.replace(good, bad);
            let found = Preflight::read(&said).expect("whole");
            let findings = found.judge("x86_64", 1003, 200_000);
            let warned = findings.iter().filter(|one| one.weight != Weight::Good);
            let warned: Vec<_> = warned.collect();
            assert_eq!(warned.len(), 1, "{bad}: {warned:?}");
            assert!(!warned[0].stops(), "{bad}");
        }
    }

    #[test]
    fn a_daemon_of_ours_may_hold_the_ports() {
        let said = GOOD.replace("end=ok", "port=500 rekindled\nport=4500 rekindled\nend=ok");
        assert_eq!(against(&said), [""; 0]);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(Preflight::read("kernel=6.1.0\nmachine=x86_64\n").is_err());
        assert!(Preflight::read("").is_err());
    }
}
