//! libreswan's pluto, driven by whack; its keys lie in an NSS database of its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::{
    netns::Namespace,
    process::Daemon,
    suite::{Lab, Skip},
};

/// libreswan's pluto, with files, keys and control socket of its own.
pub struct Libreswan<'a> {
    namespace: &'a Namespace,
    folder: PathBuf,
    /// The daemon itself, for its log and its signals.
    pub daemon: Daemon,
}

/// pluto's keys and certificates before it runs: it has its database to itself afterwards.
pub struct Nss {
    folder: PathBuf,
}

impl Nss {
    /// A new database in the folder that pluto will have in this namespace.
    pub fn create(lab: &Lab, namespace: &Namespace) -> Result<Self> {
        if !Path::new(PLUTO).is_file() {
            return Err(Skip("libreswan is not in the cache: `cargo xtask setup`".into()).into());
        }
        let folder = lab.work().join(format!("libreswan-{}", namespace.name()));
        fs::create_dir_all(folder.join("nss"))?;
        // Its one line is the empty password. Without it the tools ask again and again.
        fs::write(folder.join(PASSWORD), "\n")?;
        let nss = Self { folder };
        tool(nss.certutil().arg("-N"))?;
        Ok(nss)
    }

    /// The folder, for certificates and keys to be taken from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes a certificate and its private key, both in DER, under a name.
    pub fn own(&self, name: &str, certificate: &Path, key: &Path) -> Result<()> {
        let pem = self.folder.join(format!("{name}.pem"));
        let key_pem = self.folder.join(format!("{name}.key.pem"));
        let bundle = self.folder.join(format!("{name}.p12"));
        for (kind, from, to) in [("x509", certificate, &pem), ("pkey", key, &key_pem)] {
            let mut openssl = Command::new("openssl");
            openssl.args([kind, "-inform", "DER", "-in"]).arg(from);
            tool(openssl.arg("-out").arg(to))?;
        }
        tool(
            Command::new("openssl")
                .args(["pkcs12", "-export", "-passout", "pass:", "-name", name])
                .arg("-in")
                .arg(&pem)
                .arg("-inkey")
                .arg(&key_pem)
                .arg("-out")
                .arg(&bundle),
        )?;
        tool(
            Command::new("pk12util")
                .args(["-W", "", "-d", &self.database(), "-k"])
                .arg(self.folder.join(PASSWORD))
                .arg("-i")
                .arg(&bundle),
        )
    }

    /// Forgets the certificate of a name, and keeps its private key.
    pub fn keep_bare(&self, name: &str) -> Result<()> {
        tool(self.certutil().args(["-D", "-n", name]))
    }

    /// Trusts an authority, by its certificate in DER.
    pub fn trust(&self, name: &str, certificate: &Path) -> Result<()> {
        self.add(name, certificate, "CT,,")
    }

    /// Takes a certificate that stands between its own and an authority's.
    pub fn intermediate(&self, name: &str, certificate: &Path) -> Result<()> {
        self.add(name, certificate, ",,")
    }

    fn add(&self, name: &str, certificate: &Path, trusted: &str) -> Result<()> {
        let mut certutil = self.certutil();
        certutil.args(["-A", "-n", name, "-t", trusted, "-i"]);
        tool(certutil.arg(certificate))
    }

    fn certutil(&self) -> Command {
        let mut certutil = Command::new("certutil");
        certutil.args(["-d", &self.database(), "-f"]);
        certutil.arg(self.folder.join(PASSWORD));
        certutil
    }

    fn database(&self) -> String {
        format!("sql:{}", self.folder.join("nss").display())
    }
}

impl<'a> Libreswan<'a> {
    /// Starts pluto on its keys with further `options` of its command line, split at blanks.
    pub fn start(lab: &Lab, namespace: &'a Namespace, nss: Nss, options: &str) -> Result<Self> {
        let Nss { folder } = nss;
        for name in ["run", "ipsec.d"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::write(folder.join(CONFIGURATION), "config setup\n")?;
        fs::write(folder.join(SECRETS), "")?;
        let mut command = namespace.command(PLUTO);
        command.args(["--nofork", "--stderrlog", "--log-no-time", "--log-no-audit"]);
        // No DNS here, and one thread for everything: the lab has one processor.
        command.args(["--no-dnssec", "--nhelpers", "0", "--use-xfrm"]);
        for (option, name) in [
            ("--config", CONFIGURATION),
            ("--secretsfile", SECRETS),
            ("--rundir", "run"),
            ("--nssdir", "nss"),
            ("--ipsecdir", "ipsec.d"),
        ] {
            command.arg(option).arg(folder.join(name));
        }
        command.args(options.split_whitespace());
        let mut daemon = Daemon::start(lab, &format!("pluto-{}", namespace.name()), &mut command)?;
        let socket = folder.join(SOCKET);
        daemon.wait_for_path(&socket, START)?;
        // It is there from bind on, and refuses everybody until listen.
        let deadline = Instant::now() + START;
        while let Err(error) = UnixStream::connect(&socket) {
            ensure!(Instant::now() < deadline, "{}: {error}", socket.display());
            thread::sleep(POLL);
        }
        let peer = Self {
            namespace,
            folder,
            daemon,
        };
        peer.whack("--listen")?;
        Ok(peer)
    }

    /// Its folder, which is nobody else's.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Loads secrets and the connection `name` from the texts of an `ipsec.secrets` and an
    /// `ipsec.conf`.
    pub fn load(&self, name: &str, secrets: &str, configuration: &str) -> Result<()> {
        fs::write(self.folder.join(SECRETS), secrets)?;
        fs::write(self.folder.join(CONFIGURATION), configuration)?;
        self.whack("--rereadsecrets")?;
        let mut command = self.namespace.command(format!("{PROGRAMS}/addconn"));
        command.arg("--config").arg(self.folder.join(CONFIGURATION));
        command.arg("--ctlsocket").arg(self.folder.join(SOCKET));
        tool(command.arg(name))
    }

    /// Runs whack, with arguments split at blanks, and returns what it printed. It ends when the daemon
    /// has no more to say about what was asked, or after [`PATIENCE`].
    pub fn whack(&self, arguments: &str) -> Result<String> {
        let output = self
            .namespace
            .command("timeout")
            .arg(PATIENCE)
            .arg(format!("{PROGRAMS}/whack"))
            .arg("--ctlsocket")
            .arg(self.folder.join(SOCKET))
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("whack {arguments}: {} {}", said.trim(), why.trim());
        }
        Ok(said)
    }
}

/// Runs a tool to its end, which it has to reach by itself within [`PATIENCE`].
fn tool(command: &Command) -> Result<()> {
    let mut bounded = Command::new("timeout");
    bounded
        .arg(PATIENCE)
        .arg(command.get_program())
        .args(command.get_args());
    let output = bounded.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        let why = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {} {}",
            command.get_program().display(),
            output.status,
            said.trim(),
            why.trim()
        );
    }
    Ok(())
}

const PROGRAMS: &str = "/usr/libexec/ipsec";
const PLUTO: &str = "/usr/libexec/ipsec/pluto";
const CONFIGURATION: &str = "ipsec.conf";
const SECRETS: &str = "ipsec.secrets";
const PASSWORD: &str = "password";
const SOCKET: &str = "run/pluto.ctl";
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);
/// In seconds.
const PATIENCE: &str = "30";
