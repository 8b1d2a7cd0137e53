//! Network namespaces that end with the test, however it ends.
//!
//! Each is held by a sleeping process that the kernel kills when we die, so there is nothing to
//! unmount and no name to collide. Commands enter by `nsenter --net`, which leaves the mounts alone:
//! `ip netns exec` would hide the BPF file system.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::suite::Skip;

/// A network namespace.
pub struct Namespace {
    name: String,
    holder: Child,
}

/// One end of a cable: where, which interface, which addresses with prefix length.
pub type End<'a> = (&'a Namespace, &'a str, &'a [&'a str]);

impl Namespace {
    /// Makes a namespace with its loopback up. The name is for messages only.
    pub fn new(name: &str) -> Result<Self> {
        let holder = killed_with_us("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .context("unshare")?;
        let namespace = Self {
            name: name.to_owned(),
            holder,
        };
        let own = fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + START;
        while fs::read_link(namespace.path()).map_or(true, |held| held == own) {
            ensure!(
                Instant::now() < deadline,
                "namespace {name} was not made: are we root?"
            );
            thread::sleep(Duration::from_millis(2));
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// What the namespace is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    /// A command that will run inside and die with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = killed_with_us("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `program` with arguments split at blanks and returns what it printed.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        let arguments = arguments.split_whitespace();
        let output = self
            .command(program)
            .args(arguments.clone())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line: Vec<_> = arguments.collect();
            bail!(
                "{}: {program} {}: {}",
                self.name,
                line.join(" "),
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs iproute2's `ip`.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run("ip", arguments)
    }

    /// Writes a setting below `/proc/sys/net`, such as `ipv4/ip_forward`.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/net/{setting}");
        self.within(move || fs::write(&file, value).with_context(|| file.clone()))?
    }

    /// One of the kernel's counts of UDP over IPv4 here, by its name in `/proc/net/snmp`.
    pub fn udp_count(&self, name: &str) -> Result<u64> {
        self.count("Udp", name)
    }

    /// One of the kernel's counts here, by group and name in `/proc/net/snmp`.
    pub fn count(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.run("cat", "/proc/net/snmp")?;
        let of_group = |line: &&str| {
            line.strip_prefix(group)
                .is_some_and(|rest| rest.starts_with(':'))
        };
        let mut rows = text.lines().filter(of_group);
        let (names, values) = (rows.next(), rows.next());
        let (names, values) = names
            .zip(values)
            .with_context(|| format!("two rows about {group}"))?;
        let mut row = names.split(' ').zip(values.split(' '));
        let value = row.find(|(known, _)| *known == name);
        Ok(value.with_context(|| name.to_owned())?.1.parse()?)
    }

    /// A count of an interface, such as `dropped` of `TX`.
    pub fn link_count(&self, interface: &str, way: &str, name: &str) -> Result<u64> {
        let told = self.ip(&format!("-s -o link show dev {interface}"))?;
        // A head and its row stand in sections of their own.
        let mut sections = told.split('\\');
        let head = sections.find_map(|section| section.trim().strip_prefix(way)?.strip_prefix(':'));
        let (head, row) = head
            .zip(sections.next())
            .with_context(|| format!("two rows about {way}"))?;
        let mut columns = head.split_whitespace().zip(row.split_whitespace());
        let value = columns.find(|(known, _)| *known == name);
        Ok(value.with_context(|| name.to_owned())?.1.parse()?)
    }

    /// Runs `work` on a thread of its own inside the namespace, for sockets that outlive it there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| self.name.clone())?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || -> Result<T> {
                setns(file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            inside
                .join()
                .map_err(|_| anyhow!("panic inside the namespace"))?
        })
    }

    /// Makes this namespace forward IPv4 and hide what leaves by `interface` behind its address.
    pub fn masquerade(&self, interface: &str) -> Result<()> {
        self.set("ipv4/ip_forward", "1")?;
        let rule = format!("-t nat -A POSTROUTING -o {interface} -j MASQUERADE");
        self.run("iptables-legacy", &rule)
            .map(drop)
            .map_err(|error| Skip(format!("no NAT on this kernel: {error:#}")).into())
    }

    /// Forgets all that [`Self::masquerade`] has mapped, as a router does that is started anew. What comes up
    /// from now on has a port of this range, `20000-20999`.
    pub fn remasquerade(&self, interface: &str, ports: &str) -> Result<()> {
        let (table, out) = ("-t nat", format!("POSTROUTING -o {interface}"));
        self.run("iptables-legacy", &format!("{table} -F POSTROUTING"))?;
        let rule = format!("{table} -A {out} -p udp -j MASQUERADE --to-ports {ports}");
        self.run("iptables-legacy", &rule)?;
        // The mappings of an interface that goes down are forgotten.
        self.ip(&format!("link set {interface} down"))?;
        self.ip(&format!("link set {interface} up"))?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Lays a cable between two namespaces and brings both ends up.
pub fn connect(left: End, right: End) -> Result<()> {
    left.0.ip(&format!(
        "link add {} type veth peer name {} netns {}",
        left.1,
        right.1,
        right.0.holder.id()
    ))?;
    for (namespace, interface, addresses) in [left, right] {
        // A redirected or rewritten frame loses the note that its checksum is still to be filled in.
        namespace.run("ethtool", &format!("-K {interface} tx off"))?;
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            namespace.ip(&format!("address add {address} dev {interface}{nodad}"))?;
        }
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// A command that the kernel kills when the starting thread ends.
pub(crate) fn killed_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

const START: Duration = Duration::from_secs(5);
