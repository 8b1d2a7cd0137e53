//! Daemons under test: started in a namespace, logged to a file, killed on drop.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::suite::Lab;

/// A running program whose output goes to `NAME.log` in the case's folder.
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `command`, which [`Namespace::command`] makes.
    ///
    /// A second start under one name continues its log.
    ///
    /// [`Namespace::command`]: crate::netns::Namespace::command
    pub fn start(lab: &Lab, name: &str, command: &mut Command) -> Result<Self> {
        let log = lab.work().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| name.to_owned())?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// The process id; `nsenter` and `setpriv` replace themselves, so it is the program's own.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Everything printed so far.
    pub fn output(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Waits until a line contains `text`, and returns that line.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let log = self.log.clone();
        self.wait(limit, text, || {
            let octets = fs::read(&log).ok()?;
            let said = String::from_utf8_lossy(&octets);
            said.lines()
                .find(|line| line.contains(text))
                .map(ToOwned::to_owned)
        })
    }

    /// Waits until `path`, a socket for example, exists.
    pub fn wait_for_path(&mut self, path: &Path, limit: Duration) -> Result<()> {
        self.wait(limit, &path.display().to_string(), || {
            path.exists().then_some(())
        })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Waits for the program to end by itself.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {} s", self.name, limit.as_secs_f32());
            }
            thread::sleep(POLL);
        }
    }

    fn wait<T>(
        &mut self,
        limit: Duration,
        what: &str,
        mut seen: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = seen() {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status} before there was {what:?}",
                    self.name
                );
            }
            if Instant::now() >= deadline {
                return Err(anyhow!(
                    "{}: no {what:?} in {} s",
                    self.name,
                    limit.as_secs_f32()
                ));
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long all threads of these processes have run in all, by the scheduler's own accounting.
pub fn run_time(processes: &[Pid]) -> Result<Duration> {
    let mut nanoseconds = 0;
    for process in processes {
        let folder = format!("/proc/{process}/task");
        for thread in fs::read_dir(&folder).context(folder.clone())? {
            let file = thread?.path().join("schedstat");
            let text = fs::read_to_string(&file)
                .with_context(|| format!("{}: no scheduler accounting", file.display()))?;
            let field: Option<u64> = text.split(' ').next().and_then(|field| field.parse().ok());
            nanoseconds += field.with_context(|| text.clone())?;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// As [`run_time`], once the processes have nothing more to do.
pub fn settled(processes: &[Pid]) -> Result<Duration> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = run_time(processes)?;
    loop {
        thread::sleep(QUIET);
        let next = run_time(processes)?;
        if next == last || Instant::now() >= deadline {
            return Ok(next);
        }
        last = next;
    }
}

const POLL: Duration = Duration::from_millis(10);
/// Without a change for so long, what was going on is done.
const QUIET: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_millis(200);
