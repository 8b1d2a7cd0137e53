//! A machine at the other end of ssh: scripts go in by standard input, files as one tar stream.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Where to deploy.
pub(super) struct Host {
    ssh: Vec<String>,
    name: String,
}

impl Host {
    /// `ssh` is split at blanks.
    pub(super) fn new(ssh: &str, name: &str) -> Result<Self> {
        let ssh: Vec<_> = ssh.split_whitespace().map(ToOwned::to_owned).collect();
        ensure!(!ssh.is_empty(), "--ssh: no command");
        // ssh would take it for an option, and options can run commands here.
        ensure!(!name.starts_with('-'), "{name}: no name of a machine");
        Ok(Self {
            ssh,
            name: name.to_owned(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a script there and returns what it printed; what it said on stderr becomes the error, and so
    /// does silence for too long: ssh itself would wait for a quarter of an hour.
    pub(super) fn sh(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let words: Vec<_> = arguments.iter().map(|word| quote(word)).collect();
        let mut child = Command::new("timeout")
            .args(["--foreground", SCRIPT_SECONDS])
            .args(&self.ssh)
            .arg(&self.name)
            .arg(format!("sh -s -- {}", words.join(" ")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| self.ssh[0].clone())?;
        let mut input = child.stdin.take().context("a pipe")?;
        // If ssh gives up before it has read, its own words are the better error.
        let _unread = input.write_all(script.as_bytes());
        drop(input);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            if output.status.code() == Some(TIMED_OUT) {
                bail!("{}: no answer within {SCRIPT_SECONDS} s", self.name);
            }
            bail!("{}: {} {}", self.name, said.trim(), why.trim());
        }
        Ok(said)
    }

    /// Copies the files of a folder into one there, which is emptied first.
    pub(super) fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "-c", "-C"])
            .arg(from)
            .arg(".")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut tar = tar.spawn().context("tar")?;
        let stream = tar.stdout.take().context("a pipe")?;
        let to = quote(to);
        let status = self
            .command(&format!("rm -rf {to} && mkdir -p {to} && tar -x -C {to}"))
            .stdin(stream)
            .status()
            .with_context(|| self.ssh[0].clone())?;
        let packed = tar.wait()?;
        ensure!(packed.success(), "tar ended with {packed}");
        ensure!(status.success(), "{}: not copied", self.name);
        Ok(())
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.ssh[0]);
        command.args(&self.ssh[1..]).arg(&self.name).arg(line);
        command
    }
}

const SCRIPT_SECONDS: &str = "45";
/// What `timeout` ends with then.
const TIMED_OUT: i32 = 124;

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
