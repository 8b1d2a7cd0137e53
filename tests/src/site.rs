//! One machine with Rekindle on it: a namespace, a folder with configuration and state, the daemon
//! and its tool.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{netns::Namespace, process::Daemon, suite::Lab};

/// A daemon to come, or one that runs.
pub struct Site<'a> {
    namespace: &'a Namespace,
    folder: PathBuf,
    program: PathBuf,
    tool: PathBuf,
    log_level: Option<&'static str>,
    /// Files that stand in for others, by these.
    stand_ins: BTreeMap<&'static str, PathBuf>,
    daemon: Option<Daemon>,
    log: PathBuf,
}

/// What the configuration of a site says besides its connections.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// `auto`, `native`, `generic` or `off`.
    pub gate: &'a str,
    /// `xfrm` or `none`.
    pub dataplane: &'a str,
    /// This gateway's number.
    pub node: u8,
}

impl<'a> Site<'a> {
    /// Writes the configuration; nothing runs yet.
    pub fn prepare(
        lab: &Lab,
        namespace: &'a Namespace,
        setting: Setting<'_>,
        connections: &str,
    ) -> Result<Self> {
        let folder = lab.work().join(format!("rekindle-{}", namespace.name()));
        fs::create_dir_all(&folder)?;
        let objects = lab.object("gate-portable.o")?;
        let objects = objects.parent().context("an object lies in a folder")?;
        let workers = env::var(WORKERS).map_or_else(
            |_| String::new(),
            |workers| format!("workers = {workers}\n"),
        );
        let text = format!(
            "[daemon]\n{workers}state_dir = \"{state}\"\nrun_dir = \"{run}\"\nnode = {node}\n\
             dataplane = \"{dataplane}\"\n\
             [gate]\nmode = \"{gate}\"\nobjects_dir = \"{objects}\"\n\
             [log]\nlevel = \"debug\"\n{connections}",
            state = folder.join("state").display(),
            run = folder.join("run").display(),
            node = setting.node,
            dataplane = setting.dataplane,
            gate = setting.gate,
            objects = objects.display(),
        );
        let file = folder.join("rekindle.toml");
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let (program, tool) = (lab.binary("rekindled")?, lab.binary("ikectl")?);
        Ok(Self {
            namespace,
            folder,
            program,
            tool,
            log_level: None,
            stand_ins: BTreeMap::new(),
            daemon: None,
            log: lab.work().join(format!("{}.log", process_name(namespace))),
        })
    }

    /// Where certificates and keys go: `x509`, `x509ca`, `private`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Logs less than the configuration says, from the next start on.
    pub fn log_at(&mut self, level: &'static str) {
        self.log_level = Some(level);
    }

    /// Logs objects, from the next start on.
    pub fn log_as_json(&self) -> Result<()> {
        let file = self.folder.join("rekindle.toml");
        let text = fs::read_to_string(&file)?;
        let text = text.replacen("[log]\n", "[log]\nformat = \"json\"\n", 1);
        Ok(fs::write(&file, text)?)
    }

    /// All that it has logged since it was first started.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// Gives it a file of hosts of its own, from the next start on; what is written later it sees at once.
    pub fn write_hosts(&mut self, text: &str) -> Result<()> {
        self.stand_in("hosts", "/etc/hosts", text)
    }

    /// Has the kernel's name of the boot be another one, from the next start on: to it, the machine was
    /// started anew in between.
    pub fn reboot(&mut self) -> Result<()> {
        let name = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        self.stand_in("boot-id", "/proc/sys/kernel/random/boot_id", &name)
    }

    fn stand_in(&mut self, name: &str, place: &'static str, text: &str) -> Result<()> {
        let file = self.folder.join(name);
        fs::write(&file, text)?;
        self.stand_ins.insert(place, file);
        Ok(())
    }

    /// Gives a number of `[daemon]` another value, from the next start on.
    pub fn set(&self, key: &str, value: u16) -> Result<()> {
        let file = self.folder.join("rekindle.toml");
        let text = fs::read_to_string(&file)?;
        let other = |line: &&str| !line.starts_with(&format!("{key} = "));
        let lines: Vec<_> = text.lines().filter(other).collect();
        let text =
            lines
                .join("\n")
                .replacen("[daemon]\n", &format!("[daemon]\n{key} = {value}\n"), 1);
        Ok(fs::write(&file, text)?)
    }

    /// Leaves it without the kernel's programs, as on a kernel that takes none: one socket for each port.
    pub fn without_objects(&self) -> Result<()> {
        let file = self.folder.join("rekindle.toml");
        let text = fs::read_to_string(&file)?;
        let nowhere = self.folder.join("no-objects");
        let objects_dir = |line: &str| {
            if line.starts_with("objects_dir") {
                format!("objects_dir = \"{}\"\n", nowhere.display())
            } else {
                format!("{line}\n")
            }
        };
        let text: String = text.lines().map(objects_dir).collect();
        Ok(fs::write(&file, text)?)
    }

    /// Starts keeper and engine, and waits until they answer.
    pub fn start(&mut self, lab: &Lab) -> Result<()> {
        let name = process_name(self.namespace);
        let mut command = if self.stand_ins.is_empty() {
            self.namespace.command(&self.program)
        } else {
            // Each of these replaces itself by the next.
            let mut command = self.namespace.command("unshare");
            command.args(["--mount", "sh", "-c", MOUNT, "sh"]);
            for (place, file) in &self.stand_ins {
                command.arg(file).arg(place);
            }
            command.arg("--").arg(&self.program);
            command
        };
        command
            .arg("--config")
            .arg(self.folder.join("rekindle.toml"));
        if let Some(level) = self.log_level {
            command.env("REKINDLE_LOG", level);
        }
        let mut daemon = Daemon::start(lab, &name, &mut command)?;
        daemon.wait_for_path(&self.socket(), START)?;
        self.daemon = Some(daemon);
        let deadline = Instant::now() + START;
        while self.ikectl("status").is_err() {
            ensure!(Instant::now() < deadline, "{name} does not answer");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// SIGKILL to keeper and engine; returns once both are gone.
    pub fn kill(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("it runs")?;
        let engine = engine_of(daemon.pid())?;
        kill(engine, Signal::SIGKILL)?;
        daemon.signal(Signal::SIGKILL)?;
        drop(daemon);
        wait_gone(engine)
    }

    /// SIGKILL to the engine alone.
    pub fn kill_engine(&self) -> Result<Pid> {
        let engine = self.engine()?;
        kill(engine, Signal::SIGKILL)?;
        Ok(engine)
    }

    /// SIGSTOP or SIGCONT to the keeper, so that no engine is started meanwhile.
    pub fn signal_keeper(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("it runs")?.signal(signal)
    }

    /// The engine's process.
    pub fn engine(&self) -> Result<Pid> {
        engine_of(self.daemon.as_ref().context("it runs")?.pid())
    }

    /// The keeper's process and the engine's.
    pub fn processes(&self) -> Result<[Pid; 2]> {
        let keeper = self.daemon.as_ref().context("it runs")?.pid();
        Ok([keeper, engine_of(keeper)?])
    }

    /// SIGTERM: says goodbye to all peers.
    pub fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("it runs")?;
        daemon.signal(Signal::SIGTERM)?;
        let status = daemon.wait_for_end(STOP)?;
        ensure!(status.success(), "rekindled ended with {status}");
        Ok(())
    }

    /// Runs `ikectl -j` with arguments split at blanks, and returns the answer without its envelope.
    pub fn ikectl(&self, arguments: &str) -> Result<Value> {
        let output = self
            .namespace
            .command(&self.tool)
            .arg("--json")
            .arg("--socket")
            .arg(self.socket())
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let told = String::from_utf8_lossy(&output.stdout);
            bail!("ikectl {arguments}: {} {}", said.trim(), told.trim());
        }
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let Value::Object(fields) = answer else {
            bail!("ikectl {arguments}: no object")
        };
        let answer = fields.into_iter().find(|(key, _)| key != "rekindle");
        Ok(answer.context("an answer beside the envelope")?.1)
    }

    /// The one established IKE SA.
    pub fn established(&self) -> Result<Value> {
        let all = self.ikectl("sa")?;
        let up = |sa: &&Value| sa["state"] == "established";
        let up: Vec<_> = all
            .as_array()
            .context("a list")?
            .iter()
            .filter(up)
            .cloned()
            .collect();
        let [one] = up.as_slice() else {
            bail!("{} established SAs: {all}", up.len())
        };
        Ok(one.clone())
    }

    /// Waits until its log has a line with this.
    pub fn log_has(&mut self, text: &str, limit: Duration) -> Result<()> {
        let daemon = self.daemon.as_mut().context("it runs")?;
        daemon.wait_for_line(text, limit).map(drop)
    }

    /// Packets the gate has counted under a reason.
    pub fn gate_count(&self, reason: &str) -> Result<u64> {
        let gate = self.ikectl("gate")?;
        let counters = gate["counters"].as_array().context("counters")?;
        let counter = counters.iter().find(|counter| counter["reason"] == reason);
        Ok(counter
            .and_then(|counter| counter["packets"].as_u64())
            .unwrap_or(0))
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("run/control.sock")
    }
}

fn process_name(namespace: &Namespace) -> String {
    format!("rekindled-{}", namespace.name())
}

/// The keeper's engine, once it has one.
fn engine_of(keeper: Pid) -> Result<Pid> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(engine) = child_of(keeper) {
            return Ok(engine);
        }
        ensure!(Instant::now() < deadline, "the keeper has no engine");
        thread::sleep(POLL);
    }
}

/// The first living child of a process.
fn child_of(parent: Pid) -> Option<Pid> {
    fs::read_dir("/proc")
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let child = Pid::from_raw(pid);
            (parent_of(child)? == parent).then_some(child)
        })
}

/// The parent of a process, as long as that lives.
fn parent_of(process: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it is state and parent.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    // A dead one stays until somebody asks for its status, which the lab's first process may not do.
    (state != "Z").then_some(Pid::from_raw(parent.parse().ok()?))
}

fn wait_gone(process: Pid) -> Result<()> {
    let deadline = Instant::now() + START;
    while parent_of(process).is_some() {
        ensure!(Instant::now() < deadline, "process {process} does not go");
        thread::sleep(POLL);
    }
    Ok(())
}

/// For running any suite with so many workers in every daemon whose case does not say itself.
/// Mounts files over others, each before its place, and replaces itself by what follows.
const MOUNT: &str = "while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\" || exit; shift 2; done; shift; exec \"$@\"";
const WORKERS: &str = "REKINDLE_WORKERS";
/// An emulated machine takes its time, and a daemon that ends is noticed at once.
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
