//! strongSwan's charon under systemd's name, driven over its VICI socket by swanctl.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Namespace;
use crate::process::Daemon;
use crate::suite::{Lab, Skip};

/// strongSwan's charon, with files and control socket of its own.
pub struct Strongswan<'a> {
    namespace: &'a Namespace,
    folder: PathBuf,
    /// The daemon itself, for its log and its signals.
    pub daemon: Daemon,
}

impl<'a> Strongswan<'a> {
    /// Starts charon with `options` added to the `charon-systemd` section of its configuration.
    ///
    /// Its credentials go into [`Strongswan::folder`] (`x509`, `x509ca`, `private`, ...) before
    /// [`Strongswan::load`].
    pub fn start(lab: &Lab, namespace: &'a Namespace, options: &str) -> Result<Self> {
        if !Path::new(CHARON).is_file() {
            return Err(Skip("strongSwan is not in the cache: `cargo xtask setup`".into()).into());
        }
        let folder = lab.work().join(format!("strongswan-{}", namespace.name()));
        for name in ["x509", "x509ca", "private", "pubkey", "ecdsa"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let text = format!(
            "charon-systemd {{\n\
             load = {PLUGINS}\n\
             plugins {{ vici {{ socket = unix://{socket} }} }}\n\
             journal {{ default = -1 }}\n\
             filelog {{ stderr {{ default = 1\n ike = 2\n cfg = 2\n flush_line = yes }} }}\n\
             {options}\n}}\n",
            socket = folder.join(SOCKET).display()
        );
        fs::write(folder.join("strongswan.conf"), text)?;
        let mut command = namespace.command(CHARON);
        command.env("STRONGSWAN_CONF", folder.join("strongswan.conf"));
        command.env("SWANCTL_DIR", &folder);
        let mut daemon = Daemon::start(lab, &format!("charon-{}", namespace.name()), &mut command)?;
        let socket = folder.join(SOCKET);
        daemon.wait_for_path(&socket, START)?;
        // It is there from bind on, and refuses everybody until listen.
        let deadline = Instant::now() + START;
        while let Err(error) = UnixStream::connect(&socket) {
            ensure!(Instant::now() < deadline, "{}: {error}", socket.display());
            thread::sleep(POLL);
        }
        Ok(Self {
            namespace,
            folder,
            daemon,
        })
    }

    /// The folder that takes the place of `/etc/swanctl`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Loads credentials, connections and pools from the text of a `swanctl.conf`.
    pub fn load(&self, text: &str) -> Result<()> {
        let file = self.folder.join("swanctl.conf");
        fs::write(&file, text)?;
        self.swanctl(&format!("--load-all --noprompt --file {}", file.display()))
            .map(drop)
    }

    /// Runs swanctl, with arguments split at blanks, and returns what it printed.
    pub fn swanctl(&self, arguments: &str) -> Result<String> {
        let mut words = arguments.split_whitespace();
        let verb = words.next().context("swanctl needs a verb")?;
        let socket = format!("unix://{}", self.folder.join(SOCKET).display());
        let output = self
            .namespace
            .command("swanctl")
            .args([verb, "--uri", &socket])
            .args(words)
            .env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"))
            .env("SWANCTL_DIR", &self.folder)
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("swanctl {arguments}: {} {}", said.trim(), why.trim());
        }
        Ok(said)
    }
}

/// Named one by one: left to itself charon also loads the plugin that does ESP in user space.
const PLUGINS: &str = "random nonce openssl kdf drbg pem pkcs1 pkcs8 pubkey x509 constraints \
                       curve25519 kernel-netlink socket-default vici updown";
const CHARON: &str = "/usr/sbin/charon-systemd";
const SOCKET: &str = "vici";
/// Reading all its plugins through the lab's file system takes a while.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
